"""The model authors' own schedule of windows, for comparing with their results. Integers only.

Windows all have the full length, so the last one runs beyond the audio, whose end is then continued
backwards in time. Videos for callers are made with `infinitetalk.planning.windows` instead.
"""

from collections.abc import Sequence

from infinitetalk.planning.windows import Window, audio_frames_read
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ

# How much further than the last window's end an audio is continued: its last frame looks ahead.
_EXTENSION_MARGIN_FRAMES = 3


def reference_audio_frames(samples: int) -> int:
    """Frames of an audio of so many samples at 16 kHz: what is over a whole frame is cut.

    Ours are rounded half up (`infinitetalk.shapes.frames_of_samples`), so that a video is never half a frame short.
    """
    return int(samples / SAMPLE_RATE_HZ * FPS)


def reference_windows(
    audio_frames: Sequence[int], window_frames: int, overlap_frames: int, max_frames: int
) -> tuple[Window, ...]:
    """The windows for speakers whose audio lasts `audio_frames` frames each, cut to `max_frames`.

    The first speaker decides how many windows run, the last one where the video is cut; windows beyond that
    keep no frame. Raises ValueError unless every audio is longer than a window: so does the original.
    """
    if min(audio_frames) <= window_frames:
        raise ValueError(f"every audio must be longer than {window_frames} frames, not {min(audio_frames)}")
    starts = [0]
    n_frames = max_frames
    if max_frames > window_frames:
        end = min(max_frames, audio_frames[0])
        while len(starts) == 1 or starts[-1] + window_frames < end:
            starts.append(starts[-1] + window_frames - overlap_frames)
        stop = starts[-1] + window_frames
        n_frames = min(stop, max_frames)
        if min(audio_frames) <= stop:
            n_frames = min(n_frames, audio_frames[-1])
    return tuple(
        Window(
            index=index,
            start=start,
            length=window_frames,
            overlap=overlap_frames if index else 0,
            keep_start=min(start + overlap_frames, n_frames) if index else 0,
            keep_stop=min(start + window_frames, n_frames),
        )
        for index, start in enumerate(starts)
    )


def reference_audio_frames_read(windows: Sequence[Window], n_audio_frames: int) -> list[tuple[int, ...]]:
    """Per window, the audio frames one speaker's part reads: see `audio_frames_read`.

    For the last of several windows an audio that does not reach beyond it is continued by its own last
    frames in reverse; otherwise its end frame repeats.
    """
    frames = [audio_frames_read(window, n_audio_frames) for window in windows]
    last = windows[-1]
    if len(windows) > 1 and n_audio_frames <= last.stop:
        missing = last.stop - n_audio_frames + _EXTENSION_MARGIN_FRAMES
        source = [*range(n_audio_frames), *reversed(range(max(0, n_audio_frames - missing), n_audio_frames))]
        frames[-1] = tuple(source[slot] for slot in audio_frames_read(last, len(source)))
    return frames
