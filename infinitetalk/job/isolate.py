"""Vocals out of a job's songs: what the model hears in their place. The video's sound is not touched."""

from collections.abc import Callable

import numpy as np
import soxr
import torch

from infinitetalk.job.conversation import split_wave
from infinitetalk.job.read import Job
from infinitetalk.media.audio import Wave, load_song, normalise_loudness, place_voices
from infinitetalk.models.separator import Separator, isolate_vocals
from infinitetalk.shapes import SAMPLE_RATE_HZ, SEPARATOR_RATE_HZ


def isolated_waves(job: Job, separator: Separator, device: torch.device, check: Callable[[], None]) -> tuple[Wave, ...]:
    """The vocals in each of a job's voices, as `Job.waves`: as long, in the same places, loudness normalised.

    Args:
        separator, device, check: as in `separator.isolate_vocals`.
    """
    voices = []
    for track in job.tracks:
        samples = round(track.length_s * SAMPLE_RATE_HZ)
        song = load_song(track.sound, track.length_s, SEPARATOR_RATE_HZ)
        vocals = soxr.resample(isolate_vocals(separator, song, device, check), SEPARATOR_RATE_HZ, SAMPLE_RATE_HZ)
        missing = max(0, samples - len(vocals))  # a sample or two, by rounding
        voices.append(normalise_loudness(np.pad(vocals, (0, missing))[:samples]))
    starts = [round(track.start_s * SAMPLE_RATE_HZ) for track in job.tracks]
    if job.plan.conversation:
        voices, starts = [normalise_loudness(wave) for wave in split_wave(voices[0], job.plan.conversation)], [0, 0]
    placed = place_voices(voices, starts)
    return tuple(wave[: len(job.waves[0])] for wave in placed)
