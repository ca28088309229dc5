"""Media files that strangers send, by field: name, content or what writes it, and what reading it gives.

That is an error's code, or what test_hostile_media.py compares the wave, the pixels or the frames with.
"""

import io
import struct
import zlib

import numpy as np
import soundfile
from PIL import Image

from tests.support.media_samples import X264, write_numbered_video, write_picture, write_tone
from tests.support.media_samples import ffmpeg as make
from tests.support.packed_zeros import zlib_zeros

FRAMES = 30
SECRET = "/etc/passwd"


# ---- sounds ----


def wav(rate_hz=16_000, channels=1, declared_bytes=None, seconds=1.0, chunks=b""):
    """A wav file of 16-bit samples with anything in its header; its data are as long as 16 kHz mono would be."""
    data = (3000 * np.sin(np.arange(int(seconds * 16_000)) * 0.17)).astype("<i2").tobytes()
    frame = 2 * channels & 0xFFFF
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * frame & 0xFFFFFFFF, frame, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + chunks
    body += b"data" + struct.pack("<I", len(data) if declared_bytes is None else declared_bytes) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def float_wav(value):
    file = io.BytesIO()
    soundfile.write(file, np.full(16_000, value, np.float64), 16_000, format="WAV", subtype="DOUBLE")
    return file.getvalue()


def playlist(text):
    """A list of other files, one of which can be read here."""

    def write(path):
        target = write_tone(path.with_name("other.wav"), 1.0)
        path.write_text(text.format(file=target, name=target.name))

    return write


def tone(*options, suffix="wav", seconds=2.0, **how):
    """A tone in another container, which is not told from the name."""

    def write(path):
        source = write_tone(path.with_name("tone.wav"), seconds, **how)
        made = path.with_name(f"made.{suffix}")
        make("-i", source, *options, made)
        made.replace(path)
        source.unlink()

    return write


def patched(write, change):
    """What `write` makes, its bytes changed."""

    def write_patched(path):
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return write_patched


def many_tracks(path):
    source = write_tone(path.with_name("tone.wav"), 0.1)
    maps = [argument for _ in range(100) for argument in ("-map", "0")]
    make("-i", source, *maps, "-c:a", "pcm_s16le", "-f", "matroska", path)


def three_hours(path):
    silence = ["-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono:n=16384", "-t", "10800"]
    make(*silence, "-frame_size", "65535", "-f", "flac", path)


def nested_boxes(path):
    inner = b""
    for _ in range(20_000):
        inner = struct.pack(">I", len(inner) + 8) + b"moov" + inner
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + inner)


def absurd_count(data):
    """An mp4 whose table says that four billion samples follow."""
    at = data.index(b"stsz") + 12
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def long_tag(data, lines=3_500_000):
    """An mp3 whose title is a song, or the words of a library: ffmpeg would print it line by line."""
    text = b"\x03" + b"la la\n" * lines
    frame = b"TIT2" + syncsafe(len(text)) + b"\0\0" + text
    return b"ID3\x04\0\0" + syncsafe(len(frame)) + frame + data


def syncsafe(number):
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


SOUNDS = {
    "empty": (b"", "media_unreadable"),
    "one byte": (b"R", "media_unreadable"),
    "hls to a file": (
        playlist("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{file}\n#EXT-X-ENDLIST\n"),
        "media_unreadable",
    ),
    "hls to a file beside": (playlist("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{name}\n"), "media_unreadable"),
    "hls to metadata": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://169.254.169.254/latest\n#EXT-X-ENDLIST\n",
        "media_unreadable",
    ),
    "hls with a key in a file": (
        b'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"\n#EXTINF:9,\na.ts\n',
        "media_unreadable",
    ),
    "hls inside avi subtitles": (
        b"RIFF\x60\0\0\0AVI LIST\x40\0\0\0hdrlGAB2#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n",
        "media_unreadable",
    ),
    "concat script": (playlist("ffconcat version 1.0\nfile '{name}'\n"), "media_unreadable"),
    "dash manifest": (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/</BaseURL></MPD>',
        "media_unreadable",
    ),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n", "media_unreadable"),
    "smooth streaming": (
        b'<SmoothStreamingMedia><StreamIndex Url="file:///etc/passwd"/></SmoothStreamingMedia>',
        "media_unreadable",
    ),
    "pls": (b"[playlist]\nFile1=file:///etc/passwd\n", "media_unreadable"),
    "asx": (b'<asx><entry><ref href="file:///etc/passwd"/></entry></asx>', "media_unreadable"),
    "a program": (b"\x7fELF\x02\x01\x01" + bytes(500), "media_unreadable"),
    "a zip archive": (b"PK\x03\x04" + bytes(500), "media_unreadable"),
    "a compressed wav": (zlib.compress(wav()), "media_unreadable"),
    "a picture": (lambda path: write_picture(path, format="PNG"), "media_unreadable"),
    "a text": (b"one two three " * 99, "media_unreadable"),
    "4 GHz": (wav(rate_hz=0xFFFFFFF0), "media_unreadable"),
    "1 Hz": (wav(rate_hz=1), "media_unreadable"),
    "0 Hz": (wav(rate_hz=0), "media_unreadable"),
    "1 MHz": (wav(rate_hz=1_000_000), "media_unreadable"),
    "65535 channels": (wav(channels=65_535), "media_unreadable"),
    "200 channels": (wav(channels=200), "media_unreadable"),
    "0 channels": (wav(channels=0), "media_unreadable"),
    "two gigabytes declared": (wav(declared_bytes=0x7FFE0000), "media_unreadable"),
    "no samples": (wav(seconds=0), "media_unreadable"),
    "nan": (float_wav(np.nan), "media_unreadable"),
    "infinite": (float_wav(np.inf), "media_unreadable"),
    "as loud as numbers go": (float_wav(1e300), "media_unreadable"),
    "half a million empty chunks": (b"RIFF\xff\xff\xff\0WAVE" + (b"junk" + bytes(4)) * 500_000, "media_unreadable"),
    "twenty thousand nested boxes": (nested_boxes, "media_unreadable"),
    "a million empty boxes": (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08free" * 1_000_000, "media_unreadable"),
    "truncated m4a": (patched(tone(suffix="m4a"), lambda data: data[: len(data) // 2]), "media_unreadable"),
    "truncated flac": (patched(tone(suffix="flac"), lambda data: data[: len(data) // 2]), "media_unreadable"),
    "four billion samples": (patched(tone(suffix="m4a"), absurd_count), "media_unreadable"),
    "a hundred tracks": (many_tracks, "too_large"),
    "three hours": (three_hours, "too_large"),
    # What is odd and right: two seconds of the tone.
    "an mp3 called wav": (tone(suffix="mp3"), None),
    "a title of 20 MB": (patched(tone("-id3v2_version", "0", suffix="mp3"), long_tag), None),
    "a title of 100 kB": (
        patched(tone("-id3v2_version", "0", suffix="mp3"), lambda data: long_tag(data, 16_000)),
        None,
    ),
    "mono 8 kHz": (tone(rate_hz=8_000), None),
    "telephone": (tone("-c:a", "pcm_alaw", rate_hz=8_000), None),
    "192 kHz, 8 channels": (tone(suffix="flac", rate_hz=192_000, channels=8), None),
    "8 bits": (tone("-c:a", "pcm_u8"), None),
    "64-bit floats": (tone("-c:a", "pcm_f64le"), None),
    "negative timestamps": (tone("-output_ts_offset", "-5", "-avoid_negative_ts", "disabled", suffix="mkv"), None),
    "late timestamps": (tone("-output_ts_offset", "90000", suffix="mkv"), None),
    "a stream without length": (tone("-live", "1", suffix="mka"), None),
}


# ---- pictures ----


def png(width, height, *chunks, data=None):
    """A black-and-white picture that is black, of any size, with other chunks before its data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    if data is None:
        packer, row = zlib.compressobj(1), bytes(1 + (width + 7) // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    extra = b"".join(chunk(*one) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def later(make):
    """Content that is large or slow to make, when it is written."""
    return lambda path: path.write_bytes(make())


def picture(kind, width=96, height=64, color=(200, 60, 30), mode="RGB", **options):
    def write(path):
        Image.new(mode, (width, height), color).save(path, kind, **options)

    return write


def animation(kind, frames):
    def write(path):
        first, *others = (Image.new("RGB", (96, 64), (200, 60, i % 256)) for i in range(30, 30 + frames))
        first.save(path, kind, save_all=True, append_images=others)

    return write


def scans(path):
    """A JPEG of a million scans: each of its 31 bytes costs a pass over all pixels."""
    file = io.BytesIO()
    Image.new("L", (8000, 8000), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + last * 1_000_000 + b"\xff\xd9")


def tiff(width, height, next_folder=0):
    """A TIFF's header that promises pixels that are not there."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, 0x7FFFFFFF)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_folder)


def larger_jpeg(data):
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def larger_avif(data):
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", 60_000, 60_000) + data[at + 8 :]


RED = (200, 60, 30)
PICTURES = {
    "empty": (b"", "media_unreadable"),
    "900 million pixels": (later(lambda: png(30_000, 30_000)), "too_large"),
    "four thousand million pixels": (patched(picture("JPEG"), larger_jpeg), "too_large"),
    "a gif's canvas": (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;", "too_large"),
    "268 million pixels of webp": (
        b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0/\xfe\xbf\xff\x0f" + bytes(12),
        "too_large",
    ),
    "an avif's frame": (patched(picture("AVIF"), larger_avif), "media_unreadable"),
    "a tiff's promise": (tiff(100_000, 100_000), "too_large"),
    "a tiff without pixels": (tiff(2_000, 2_000), "media_unreadable"),
    "a tiff in circles": (tiff(200, 200, next_folder=8), "media_unreadable"),
    "a jpeg 2000 header": (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 ", "media_unreadable"),
    "a million scans": (scans, "media_unreadable"),
    "data that unpack to a gigabyte": (later(lambda: png(64, 64, data=zlib_zeros(1024))), None),
    "a profile that unpacks to a gigabyte": (
        later(lambda: png(64, 64, (b"iCCP", b"icc\0\0" + zlib_zeros(1024)))),
        "media_unreadable",
    ),
    "a text that unpacks to a gigabyte": (
        later(lambda: png(64, 64, (b"zTXt", b"words\0\0" + zlib_zeros(1024)))),
        "media_unreadable",
    ),
    "one pixel": (png(1, 1), "media_unreadable"),
    "a line": (png(20_000, 1), "media_unreadable"),
    "no pixels": (png(0, 0), "media_unreadable"),
    "no data": (png(64, 64, data=b""), "media_unreadable"),
    "half a jpeg": (patched(picture("JPEG", 400, 300), lambda data: data[: len(data) // 2]), "media_unreadable"),
    "an html page": (b"<html><img src=a.png></html>", "media_unreadable"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "media_unreadable"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n(/etc/passwd) run\n", "media_unreadable"),
    "pdf": (b"%PDF-1.7\n", "media_unreadable"),
    "photoshop": (b"8BPS\0\1" + bytes(99), "media_unreadable"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "media_unreadable"),
    "jpeg xl": (b"\xff\x0a" + bytes(99), "media_unreadable"),
    "radiance": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "media_unreadable"),
    "openexr": (b"v/1\x01" + bytes(99), "media_unreadable"),
    "a sound": (wav(), "media_unreadable"),
    "pq": (png(64, 64, (b"cICP", b"\x09\x10\0\1")), "media_unreadable"),
    "hlg": (png(64, 64, (b"cICP", b"\x09\x12\0\1")), "media_unreadable"),
    # What is odd and right.
    "a jpeg called png": (picture("JPEG", quality=95), RED),
    "two thousand frames": (animation("GIF", 2_000), RED),
    "three hundred frames of webp": (animation("WEBP", 300), RED),
    "three hundred frames of apng": (animation("PNG", 300), RED),
    "a panorama": (picture("JPEG", 30_000, 100, quality=95), RED),
    "cmyk": (picture("JPEG", color=(0, 255, 255, 0), mode="CMYK", quality=95), (255, 0, 0)),
}


# ---- videos ----


def numbered(*options, suffix="mp4", fps=25, n_frames=50):
    """Frames whose brightness tells their number, put into another container."""

    def write(path):
        source = write_numbered_video(path.with_name("source.mkv"), n_frames, fps)
        made = path.with_name(f"made.{suffix}")
        make("-i", source, *options, made)
        made.replace(path)
        source.unlink()

    return write


def drawn(size, *options, suffix="mov", fps=25, seconds=0.2):
    def write(path):
        made = path.with_name(f"made.{suffix}")
        make("-f", "lavfi", "-i", f"color=gray:s={size}:r={fps}:d={seconds}", *options, made)
        made.replace(path)

    return write


def changing_size(path):
    """A stream that begins small and goes on with frames too large to decode."""
    parts = []
    for i, size in enumerate(("64x64", "12000x4000")):
        part = path.with_name(f"{i}.ts")
        make("-f", "lavfi", "-i", f"color=gray:s={size}:r=25:d=0.2", "-c:v", "libx264", "-preset", "ultrafast", part)
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))


def large_gap(path):
    """Fifty frames, the last of which is shown eleven days later."""
    source = write_numbered_video(path.with_name("source.mkv"), 50, 25)
    late = ["-bsf:v", "setts=ts='if(gte(N,49),PTS+1000000/TB,PTS)'"]
    make("-i", source, "-c", "copy", *late, "-f", "matroska", path)
    source.unlink()


def tracks_of_video(path):
    source = write_numbered_video(path.with_name("source.mkv"), 2, 25)
    make("-i", source, *(["-map", "0"] * 100), "-c", "copy", "-f", "matroska", path)
    source.unlink()


GREYS = range(FRAMES)
HDR = "setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc="
VIDEOS = {
    "empty": (b"", "media_unreadable"),
    "48 million pixels": (drawn("12000x4000", "-frames:v", "1", "-pix_fmt", "gray", "-c:v", "png"), "too_large"),
    "a gif's canvas": (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;", "media_unreadable"),
    "a size that grows": (changing_size, "too_large"),
    "pixels a thousand times as wide as high": (
        drawn("64x64", "-vf", "setsar=1000/1:max=1000", "-c:v", "mjpeg"),
        "media_unreadable",
    ),
    "pixels a thousand times as high as wide": (
        drawn("64x64", "-vf", "setsar=1/1000:max=1000", "-c:v", "mjpeg"),
        "media_unreadable",
    ),
    "two lines": (drawn("512x2", suffix="mkv"), "media_unreadable"),
    "five thousand frames a second": (drawn("16x16", "-c:v", "libx264", fps=5000, seconds=0.5), "too_large"),
    "a hundred tracks": (tracks_of_video, "too_large"),
    "pq": (numbered("-vf", f"{HDR}smpte2084"), "media_unreadable"),
    "hlg": (numbered("-vf", f"{HDR}arib-std-b67"), "media_unreadable"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "media_unreadable"),
    "avif": (picture("AVIF"), "media_unreadable"),
    "png": (picture("PNG"), "media_unreadable"),
    "a sound": (wav(), "media_unreadable"),
    "half an mp4": (patched(numbered(), lambda data: data[: len(data) // 2]), "media_unreadable"),
    "no index": (patched(numbered(), lambda data: data[: data.rindex(b"moov") - 4]), "media_unreadable"),
    "four billion frames": (patched(numbered("-c", "copy"), absurd_count), "media_unreadable"),
    "timestamps far below zero": (
        numbered("-c", "copy", "-output_ts_offset", "-5", "-avoid_negative_ts", "disabled", suffix="mkv"),
        "media_unreadable",
    ),
    "no frames": (numbered("-c", "copy", "-bsf:v", "noise=drop=1", suffix="mkv"), "media_unreadable"),
    "hls": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n", "media_unreadable"),
    "twenty thousand nested boxes": (nested_boxes, "media_unreadable"),
    # What is odd and right.
    "negative composition times": (numbered("-c", "copy", "-movflags", "+negative_cts_offsets"), GREYS),
    "a clock that wraps around": (numbered("-c", "copy", "-output_ts_offset", "95442.9", suffix="ts"), GREYS),
    "a beginning that an edit list hides": (
        numbered("-c", "copy", "-output_ts_offset", "-0.4", "-avoid_negative_ts", "disabled", suffix="mov"),
        [10 + i for i in GREYS],
    ),
    "late timestamps": (numbered("-c", "copy", "-output_ts_offset", "80000", suffix="ts"), GREYS),
    "a gap of eleven days": (large_gap, GREYS),
    "a variable frame rate": (
        numbered("-vf", "select='not(mod(n,2))'", "-fps_mode", "vfr", *X264),
        [i // 2 * 2 for i in GREYS],
    ),
    "240 frames a second": (numbered("-c", "copy", fps=240, n_frames=200), [min(i * 240 // 25, 199) for i in GREYS]),
    "one frame": (numbered("-c", "copy", n_frames=1), [0] * FRAMES),
    "one frame a second": (numbered("-c", "copy", fps=1, n_frames=3), [i // 25 for i in GREYS]),
}
