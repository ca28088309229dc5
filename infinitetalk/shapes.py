"""Frame rates, strides and the arithmetic between pixels, latents, tokens and samples. Integers only."""

from math import ceil

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS

# The Wan VAE keeps the first frame alone and folds every four later ones into one latent frame.
TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8
# The transformer joins 2x2 latents into one token, so a side must be a multiple of 16 pixels.
PATCH = 2
SIDE_MULTIPLE = SPATIAL_STRIDE * PATCH

# The model hears a video frame together with the audio of this many frames before it and as many after it.
AUDIO_REACH_FRAMES = 2

# The separator of vocals hears stereo in chunks of 8 s, the length that it was trained on. One begins every 4 s, so
# that every sample is heard in two of them.
SEPARATOR_RATE_HZ = 44_100
SEPARATOR_CHUNK_SAMPLES = 8 * SEPARATOR_RATE_HZ
SEPARATOR_STEP_SAMPLES = SEPARATOR_CHUNK_SAMPLES // 2


def is_window_length(frames: int) -> bool:
    """True for 1, 5, 9, ...: the lengths (4n+1) that the VAE maps to whole latent frames."""
    return frames >= 1 and frames % TEMPORAL_STRIDE == 1


def latent_frames(frames: int) -> int:
    """Latent frames of `frames` video frames: 81 gives 21. Raises ValueError unless frames is 4n+1."""
    if not is_window_length(frames):
        raise ValueError(f"a window has 4n+1 frames, not {frames}")
    return (frames - 1) // TEMPORAL_STRIDE + 1


def next_window_length(frames: int) -> int:
    """The smallest 4n+1 that is at least `frames`: 10 gives 13."""
    return ceil((frames - 1) / TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


def frames_of_samples(samples: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Video frames of a sound: duration times 25, rounded half up, at least 1."""
    return max(1, (2 * samples * FPS + sample_rate_hz) // (2 * sample_rate_hz))


def whole_frames_of_samples(samples: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Video frames that a sound fills, at least 1: the authors' code cuts what is over a whole frame."""
    return max(1, samples * FPS // sample_rate_hz)


def separator_chunk_starts(samples: int) -> range:
    """Where the separator's chunks begin in a sound of `samples` samples at 44.1 kHz: the first half before it."""
    return range(-SEPARATOR_STEP_SAMPLES, samples, SEPARATOR_STEP_SAMPLES)


def token_count(frames: int, width: int, height: int) -> int:
    """Transformer tokens of a window of `frames` video frames of width x height pixels."""
    return latent_frames(frames) * (height // SIDE_MULTIPLE) * (width // SIDE_MULTIPLE)


# Where the part of a source that is shown lies in the room that the source leaves it: 0 at the left or top, 1 at the
# other end. None: the whole source is shown, with a border.
Crop = float | None
CENTRE = 0.5
PADDED: Crop = None


def whole_size(source: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) of a whole picture, made smaller where its longer side has more than `longest` pixels."""
    scale = min(1.0, longest / max(source))
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def crop_of(text: str) -> Crop:
    """A crop that was written by `str`."""
    return None if text == str(None) else float(text)


def cover_crop(
    source: tuple[int, int], target: tuple[int, int], crop: Crop = CENTRE
) -> tuple[float, float, float, float]:
    """The part of a source picture that has the target's aspect ratio.

    Args:
        source, target: (width, height) in pixels.
        crop: where the part lies. With a border it goes beyond the source on both sides.

    Returns:
        (x0, y0, x1, y1) in source pixels, not rounded.
    """
    (source_width, source_height), (target_width, target_height) = source, target
    scales = source_width / target_width, source_height / target_height
    scale = max(scales) if crop is None else min(scales)
    width, height = target_width * scale, target_height * scale
    place = CENTRE if crop is None else crop
    x0, y0 = (source_width - width) * place, (source_height - height) * place
    return x0, y0, x0 + width, y0 + height


def within_border(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a whole source lies in a padded frame.

    Args:
        source, target: (width, height) in pixels.

    Returns:
        (x0, y0, x1, y1) in the target's pixels. Width and height are even, as H.264 needs them of a video.
    """
    scale = min(side / own for side, own in zip(target, source, strict=True))
    width, height = (min(side, max(2, 2 * round(own * scale / 2))) for side, own in zip(target, source, strict=True))
    x0, y0 = (target[0] - width) // 2, (target[1] - height) // 2
    return x0, y0, x0 + width, y0 + height
