"""The finished part of a video whose job still runs, as one file that any browser plays.

A worker shows it as a playlist (HLS) with a header and parts of fragmented mp4. Written one after the other, these are
a file that plays. Gradio's own stream of a video (`Video(streaming=True)`, hls.js) asks for an installed ffmpeg.
"""

import re
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import urljoin

from infinitetalk.client.following import JobView
from infinitetalk.errors import JobError
from infinitetalk.transfer.downloads import fetch

_MAX_BYTES = 200_000_000  # of a playlist, or of a part of 480 pixels
_LIMIT_S = 20.0
_KEPT = 3  # of the files so far: a browser may still read the one before
_MAP = re.compile(r'#EXT-X-MAP:URI="([^"]+)"')


class GrowingPreview:
    """One job's preview.

    Args:
        folder: where its files go; it is there.
        is_here: whether the job runs on this machine, so that a path that it names is one of this machine.
    """

    def __init__(self, folder: Path, *, is_here: bool) -> None:
        self._folder = folder
        self._is_here = is_here
        self._names: list[str] = []

    def update(self, view: JobView) -> Path | None:
        """A file with all that is finished, if more is than last time. What cannot be had now may come next time."""
        try:
            return self._update(view)
        except (OSError, JobError, UnicodeDecodeError):
            return None  # the job has just ended, or the network stumbles: a preview is nothing to stop for

    def _update(self, view: JobView) -> Path | None:
        place = view.preview
        if place is None or view.is_final or (not self._is_here and not place.startswith(("http://", "https://"))):
            return None
        lines = self._read(place).read_text("utf-8").splitlines()
        header = next((found[1] for line in lines if (found := _MAP.match(line))), None)
        parts = [line for line in lines if line and not line.startswith("#")]
        if header is None or len(parts) <= max(0, len(self._names) - 1):
            return None
        names = [header, *parts]
        grown = self._folder / f"preview-{len(parts)}.mp4"
        new = [self._read(self._join(place, name)).read_bytes() for name in names[len(self._names) :]]
        growing = self._folder / "growing"
        with growing.open("ab") as file:
            file.writelines(new)
        self._names = names
        shutil.copyfile(growing, grown)
        for earlier in sorted(self._folder.glob("preview-*.mp4"), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            earlier.unlink()
        return grown

    def _join(self, place: str, name: str) -> str:
        if not self._is_here:
            return urljoin(place, name)
        return str(Path(place).parent / Path(name).name)

    def _read(self, place: str) -> Path:
        if self._is_here:
            return Path(place)
        with suppress(FileNotFoundError):
            (self._folder / "preview").unlink()
        # The endpoint is the caller's own, and so is its bucket, in whichever network.
        return fetch(place, "preview", self._folder, _MAX_BYTES, _LIMIT_S, public_only=False)
