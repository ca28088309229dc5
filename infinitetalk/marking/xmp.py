"""Plain metadata in an mp4 that tools read without C2PA: the IPTC digital source type, in XMP.

The packet goes into a box of its own behind all others (XMP specification, part 3, on MPEG-4), so that no position
in the file changes.
"""

import re
from pathlib import Path

from infinitetalk.media.ffmpeg import run

# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_BOX_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" \
xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<xmp:CreatorTool>{tool}</xmp:CreatorTool>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def append_xmp(video: Path, source_type: str, tool: str) -> None:
    """Write an XMP packet behind an mp4's other boxes.

    Args:
        source_type: the IPTC digital source type, by its last part, such as trainedAlgorithmicMedia.
        tool: what made the video; text without <, > and &.

    Raises OSError; the file is then as it was.
    """
    packet = _PACKET.format(source_type=SOURCE_TYPES + source_type, tool=tool).encode()
    box = (24 + len(packet)).to_bytes(4, "big") + b"uuid" + _BOX_UUID + packet
    with video.open("r+b") as file:
        end = file.seek(0, 2)
        try:
            file.write(box)
            file.flush()
        except OSError:
            file.truncate(end)
            raise


def read_source_type(video: Path) -> str | None:
    """The digital source type in a video's XMP, by its last part, as ffmpeg finds it. Raises FfmpegError."""
    listing = run("-export_xmp", "1", "-i", f"file:{video}", "-f", "ffmetadata", "-").decode(errors="replace")
    text = re.sub(r"\\(.)", r"\1", listing, flags=re.DOTALL)  # ffmetadata puts a backslash before its own signs
    found = re.search(r"DigitalSourceType\W+" + re.escape(SOURCE_TYPES) + r"(\w+)", text)
    return found and found[1]
