"""From a job that has been read to its finished video file."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infinitetalk.blending.keeper import Keeper
from infinitetalk.generation.joins import Start
from infinitetalk.generation.pipeline import Material, SeededNoise, VoiceFeatures, generate
from infinitetalk.generation.pixels import to_bytes
from infinitetalk.job.control import Monitor
from infinitetalk.job.isolate import isolated_waves
from infinitetalk.job.keep import told_whole
from infinitetalk.job.preview import WindowPreview
from infinitetalk.job.read import Job
from infinitetalk.job.resume import KeptWindows
from infinitetalk.job.sinks import VideoFile, WindowQueue
from infinitetalk.media.audio import Wave, write_soundtrack
from infinitetalk.media.encode import BT709, VideoWriter
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.opening import Models
from infinitetalk.planning.plan import Plan
from infinitetalk.planning.windows import SILENCE, Window

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """A finished video file.

    Args:
        resumed: how many of its windows an earlier run of the job had made.
        voices: what the model heard of each speaker: mono, 16 kHz.
        warnings: what the caller should know about it.
    """

    path: Path
    resumed: int
    voices: tuple[Wave, ...]
    warnings: tuple[str, ...] = ()


def render(
    job: Job, models: Models, folder: Path, kept: KeptWindows, monitor: Monitor, preview: WindowPreview
) -> Video:
    """Make a job's video in `folder`: take what an earlier run has finished, and make the rest window by window."""
    plan, watch = job.plan, monitor.watch
    path, soundtrack = folder / "result.mp4", folder / "soundtrack.m4a"
    with watch.stage("encode"):
        write_soundtrack(job.tracks, plan.duration_s, soundtrack)
    waves = job.waves
    if plan.separated_chunks:
        assert models.separator is not None  # run_job refuses the job otherwise
        with watch.stage("separate"):
            waves = isolated_waves(job, models.separator, models.device, monitor.check)
    voices = waves
    with watch.stage("audio"):
        encoder, extractor = models.audio_encoder, models.audio_extractor
        if any(window.heard and SILENCE in window.heard for window in plan.windows):
            waves = (*waves, np.zeros_like(waves[0]))
        features = [embed_voice(encoder, extractor, wave, plan.n_frames) for wave in waves]
    material = Material(job.footage, VoiceFeatures(torch.stack(features)), job.person_masks)

    def on_step(window: Window, step: int, _latents: Tensor) -> None:
        monitor.check()
        monitor.counter.before_step(window.index, step)

    keeping, shape = job.keeping, plan.shape
    keeper = None if keeping is None else keeping.keeper(plan.windows, models.device)
    colors = BT709 if keeping is None or keeping.original is None else keeping.original.colors
    with VideoWriter(path, *shape.size, shape.rate, soundtrack, colors) as writer:
        file = VideoFile(writer)
        with watch.stage("encode"):
            start = _take_finished(kept, file, keeper, models.device, monitor.check)
        preview.begin(soundtrack, islice(kept.finished(), start.windows))
        noise = SeededNoise(plan.seed)
        pack, state = _packing(writer, keeper, plan)
        with (
            _interruptible(models, monitor.check),
            WindowQueue(pack, (preview, file, kept), writer.give_up, state) as queue,
        ):
            for part in generate(plan, models, material, noise, on_step, watch, start):
                with watch.stage("bytes"):
                    handover = None if part.handover is None else part.handover.to("cpu")
                    frames = to_bytes(part.frames)
                with watch.stage("encode"):  # waits for the window before, and goes on beside the next one
                    queue.put(part.window.index, frames, handover)
                del part  # the next window needs the memory
            with watch.stage("encode"):
                queue.wait()
                writer.finish(shape.n_frames)
    warnings = [] if keeper is None or keeping is None else told_whole(keeper, keeping)
    return Video(path, start.windows, voices, tuple(warnings))


def _packing(
    writer: VideoWriter, keeper: Keeper | None, plan: Plan
) -> tuple[Callable[[NDArray[np.uint8]], bytes], Callable[[], bytes]]:
    """What makes a piece of a window's frames, and what tells what it left for the next window."""

    def pack(frames: NDArray[np.uint8]) -> bytes:
        if keeper is not None and keeper.is_planar:
            return writer.pack_planes(keeper.frames(frames))
        if keeper is not None:
            frames = np.stack(list(keeper.frames(frames)))
        return writer.pack(plan.shown(frames))

    return pack, bytes if keeper is None else lambda: keeper.state


def _take_finished(
    kept: KeptWindows, file: VideoFile, keeper: Keeper | None, device: torch.device, check: Callable[[], None]
) -> Start:
    """Put the windows of an earlier run into the video. Returns where the loop over the windows begins."""
    start = Start()
    for window in kept.finished():
        check()
        try:
            file.take(window)
        except OSError as error:  # the work disk has no room at the moment; nothing has reached the encoder
            logger.warning("Window %d of an earlier run is made anew: %s", window.index, error.strerror)
            break
        if keeper is not None:
            keeper.passed(window.state)
        handover = None if window.handover is None else window.handover.to(device)
        start = Start(window.index + 1, handover)
    return start


@contextmanager
def _interruptible(models: Models, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every latent frame that the autoencoder encodes or decodes.

    Several GPUs decode without a break, since each would wait for the others; it takes them less than a step. An
    autoencoder that is broken off remembers earlier frames until its next video, and these are gigabytes. So they
    are cleared at the end.
    """
    vae = models.vae
    parts = (vae.encoder, vae.decoder) if models.n_gpus == 1 else (vae.encoder,)
    hooks = [part.register_forward_pre_hook(lambda *_: check()) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        vae.clear_cache()
