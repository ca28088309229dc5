"""Runs the ffmpeg binary of imageio-ffmpeg on files of our own, bounded in time and memory."""

import imageio_ffmpeg

from infinitetalk.media.child import TooSlow, run_child

TIME_LIMIT_S = 120.0


class FfmpegError(Exception):
    """ffmpeg failed. Its message is the end of the log, which names local paths, so it is only ever a cause."""


def command(*args: str) -> list[str]:
    """An ffmpeg command line that leaves the terminal alone."""
    quiet = ["-nostdin", "-hide_banner", "-nostats", "-loglevel", "warning"]
    threads = ["-filter_threads", "1", "-filter_complex_threads", "1"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *threads, "-y", *args]


def run(*args: str, time_limit_s: float | None = None, gently: bool = False) -> bytes:
    """Run ffmpeg to its end; gives its standard output.

    Args:
        gently: let everything else on the machine go first.

    Raises FfmpegError where it fails or takes longer than the limit (TIME_LIMIT_S).
    """
    time_limit_s = time_limit_s or TIME_LIMIT_S
    try:
        done = run_child([*["nice", "-n", "19"] * gently, *command(*args)], time_limit_s)
    except TooSlow as error:
        raise FfmpegError(f"not done within {time_limit_s:g} s: {error}") from error
    if done.status != 0:
        raise FfmpegError(f"exit status {done.status}: {done.log}")
    return done.data
