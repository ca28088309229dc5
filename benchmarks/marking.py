"""What marking a video costs: seconds to sign and to read again, bytes, and whether the streams are the same.

    python -m benchmarks.marking [--videos 480p:10 720p:60]

The videos are ffmpeg's moving test picture with a tone. Each is signed by a chain that is made here, as a worker
without SIGN_CERT does, and read again. Exits 1 if a stream has changed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from infinitetalk.contract.settings import Settings
from infinitetalk.marking.credentials import read
from infinitetalk.marking.marker import Marker
from infinitetalk.media.encode import hash_streams
from infinitetalk.media.ffmpeg import run

SIZES = {"480p": "848x480", "720p": "1280x720"}


def make_video(path: Path, size: str, seconds: float) -> None:
    """An mp4 with its index at the front, as a job's encoder leaves it."""
    picture = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={seconds:g}"]
    sound = ["-f", "lavfi", "-i", f"sine=duration={seconds:g}"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "18", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    run(*picture, *sound, *codecs, "-movflags", "+faststart", f"file:{path}", time_limit_s=600)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", nargs="+", default=["480p:10", "720p:60"], metavar="SIZE:SECONDS")
    options = parser.parse_args(arguments)
    started_s = time.perf_counter()
    marker = Marker.open(Settings())
    print(f"own chain: made in {time.perf_counter() - started_s:.3f} s")
    for video in options.videos:
        size, _, seconds = video.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "video.mp4")
            make_video(path, SIZES[size], float(seconds))
            n_bytes, streams = path.stat().st_size, hash_streams(path)
            started_s = time.perf_counter()
            marked = marker.mark(path, False, "miniature").path
            signed_s = time.perf_counter()
            verdict = read(marked).verdict
            read_s = time.perf_counter()
            added = marked.stat().st_size - n_bytes
            if hash_streams(marked) != streams:
                sys.exit(f"{video}: a stream has changed")
        print(
            f"{video} s: {n_bytes} bytes, {added} more when marked; signed in {signed_s - started_s:.3f} s, "
            f"read in {read_s - signed_s:.3f} s: {verdict}"
        )


if __name__ == "__main__":
    main()
