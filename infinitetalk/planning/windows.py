"""Which frames each pass of the model covers, and which of them are kept. Integers only.

The clip is made in windows. Each window after a scene's first starts `overlap` frames before the end of the one
before it, holds those frames as they are, and adds new ones. A scene ends where the source video is cut. All frame
numbers count from the clip's start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from infinitetalk.shapes import AUDIO_REACH_FRAMES, is_window_length, next_window_length

SILENCE = -1  # among the voices of a window: nobody's


@dataclass(frozen=True)
class Window:
    """One pass of the model over `length` (4n+1) frames from frame `start` of the clip.

    Args:
        overlap: how many leading frames repeat the end of the window before; 0 in the first window of a scene.
        keep_start, keep_stop: the clip's frames that this window contributes. The window's last frames may lie
            beyond the end of its scene or of the clip; they are not kept.
        heard: the voices that it hears, by their numbers; None: all of the job's. SILENCE after one voice is what
            everybody else in the picture is heard to say, after two what the background is.
    """

    index: int
    start: int
    length: int
    overlap: int
    keep_start: int
    keep_stop: int
    heard: tuple[int, ...] | None = None

    @property
    def stop(self) -> int:
        """One past the window's last frame; may lie beyond the end of its scene or of the clip."""
        return self.start + self.length

    @property
    def kept(self) -> slice:
        """The kept frames among the window's own decoded frames."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def plan_windows(
    n_frames: int, window_frames: int, overlap_frames: int, cuts: Sequence[int] = ()
) -> tuple[Window, ...]:
    """Cover a clip of `n_frames` so that the kept frames tile it exactly.

    Windows advance by `window_frames - overlap_frames`. A scene's last one is the shortest 4n+1 that reaches its end.

    Args:
        cuts: the frames with which further scenes begin. A window begins at each, and keeps no frame beyond the next.

    Raises:
        ValueError: n_frames is below 1, a length is not 4n+1, the overlap is not the smaller one, or the cuts do not
            ascend within the clip.
    """
    if n_frames < 1:
        raise ValueError(f"a clip has at least 1 frame, not {n_frames}")
    if not is_window_length(window_frames) or not is_window_length(overlap_frames):
        raise ValueError(f"window and overlap have 4n+1 frames, not {window_frames} and {overlap_frames}")
    if overlap_frames >= window_frames:
        raise ValueError(f"an overlap of {overlap_frames} frames leaves a window of {window_frames} nothing new")
    bounds = (0, *cuts, n_frames)
    if any(start >= stop for start, stop in pairwise(bounds)):
        raise ValueError(f"cuts must ascend between 0 and {n_frames}, not {tuple(cuts)}")

    windows: list[Window] = []
    for scene_start, scene_stop in pairwise(bounds):
        done = scene_start
        while done < scene_stop:
            overlap = overlap_frames if done > scene_start else 0
            start = done - overlap
            length = min(window_frames, next_window_length(scene_stop - start))
            stop = min(start + length, scene_stop)
            windows.append(Window(len(windows), start, length, overlap, done, stop))
            done = stop
    return tuple(windows)


def audio_frames_read(window: Window, n_audio_frames: int) -> tuple[int, ...]:
    """The audio frames that a window reads: from two before its first frame to two after its last, length + 4 in all.

    Entries f .. f+4 belong to the window's frame f. Beyond either end of the audio, the frame at that end repeats.
    """
    reach = range(window.start - AUDIO_REACH_FRAMES, window.stop + AUDIO_REACH_FRAMES)
    return tuple(min(max(frame, 0), n_audio_frames - 1) for frame in reach)
