"""From a plan, footage and voices to the clip's frames, window by window. No files, no network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infinitetalk.generation.color import match_color
from infinitetalk.generation.conditioning import (
    Prompts,
    condition_latents,
    encode_reference,
    window_contexts,
)
from infinitetalk.generation.denoise import denoise
from infinitetalk.generation.guidance import Guide, drops
from infinitetalk.generation.joins import Handover, fade_in
from infinitetalk.generation.pixels import to_picture
from infinitetalk.generation.schedule import Scheduler, make_scheduler
from infinitetalk.models.loading import Models
from infinitetalk.models.vae import decode_video, encode_video
from infinitetalk.planning.plan import Plan
from infinitetalk.planning.windows import Window, audio_frames_read
from infinitetalk.progress import Stopwatch
from infinitetalk.shapes import TEMPORAL_STRIDE, latent_frames


class Footage(Protocol):
    """The picture or video that is animated, cropped and resized to the video's size.

    still: the reference frame is the same in every window.
    """

    still: bool

    def frame(self, index: int) -> NDArray[np.uint8]:
        """RGB bytes (height, width, 3) of the source at the clip's frame `index`."""
        ...

    def clip(self, start: int, n_frames: int) -> NDArray[np.uint8]:
        """RGB bytes (n_frames, height, width, 3) of the source from the clip's frame `start` on."""
        ...


class Noise:
    """Random numbers of a job: each window has a generator of its own, so that a window can be made again alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, window: Window) -> torch.Generator:
        """The window's generator, on the CPU so that every device gets the same numbers."""
        (state,) = np.random.SeedSequence([self.seed, window.index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state) >> 1)

    def initial(self, _window: Window, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The window's first latents, standard normal."""
        return torch.randn(shape, generator=generator)


class Voices:
    """Audio features of the speakers, (speakers, clip frames, layers, channels)."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def window(self, window: Window) -> Tensor:
        """Features (speakers, length + 4, layers, channels) of a window."""
        frames = audio_frames_read(window, self.features.shape[1])
        return self.features[:, torch.tensor(frames, device=self.features.device)]


@dataclass(frozen=True)
class Rendered:
    """What a window contributes to the clip, and all that the next window needs to know of it.

    frames: (3, kept frames, height, width) float32 in [-1, 1].
    handover: None after the last window.
    """

    window: Window
    frames: Tensor
    handover: Handover | None


@torch.inference_mode()
def generate(
    plan: Plan,
    models: Models,
    footage: Footage,
    voices: Voices,
    person_masks: Tensor | None,
    noise: Noise,
    on_step: Callable[[Window, int, Tensor], None],
    watch: Stopwatch,
    windows_done: int = 0,
    handover: Handover | None = None,
) -> Iterator[Rendered]:
    """Make the clip, or what is left of it.

    Args:
        plan: windows, steps, guidance, sizes.
        footage: the reference frames.
        voices: one speaker or two, as in the plan.
        person_masks: (1, 3, S) with two speakers, from `masks.person_masks`.
        noise: the job's random numbers.
        on_step: called before each denoising step with the window, the step's number and the latents; an
            exception it raises ends the job.
        watch: gets the seconds of the stages text, image (reference frames), condition (what a window's steps are
            told), denoise, decode, color (and the fade at joins) and overlap (what the next window holds).
        windows_done: how many windows are there already; the first one made is the next.
        handover: with `windows_done`, what the last of them handed over.
    """
    windows = plan.windows[windows_done:]
    if not windows:
        return
    with watch.stage("text"):
        prompts = Prompts(models, plan.prompt, plan.negative_prompt)
    with watch.stage("image"):
        first = reference = encode_reference(models, footage.frame(0))
        # No later window is longer than the first, and the encoder looks back only: a prefix serves them all.
        condition = condition_latents(models, reference, plan.windows[0].length)
    with watch.stage("condition"):
        masks = None if person_masks is None else person_masks.to(models.device)
        times = models.transformer.embed_timesteps(_scheduler(plan).timesteps.to(models.device))
    passes = drops(plan.text_guidance, plan.audio_guidance)
    assert (handover is not None) == (windows_done > 0), "windows done, and what the last handed over, go together"

    for window in windows:
        if window.index and not footage.still:
            with watch.stage("image"):
                reference = encode_reference(models, footage.frame(window.start))
                condition = condition_latents(models, reference, window.length)
        with watch.stage("condition"):
            condition = condition[:, :, : latent_frames(window.length)]
            generator = noise.generator(window)
            latents = noise.initial(window, (1, *condition[0, TEMPORAL_STRIDE:].shape), generator).to(models.device)
            if plan.video_strength < 1:
                source = torch.stack([to_picture(f, models.device) for f in footage.clip(window.start, window.length)])
                clean = encode_video(models.vae, source.transpose(0, 1).unsqueeze(0))
                latents = plan.video_strength * latents + (1 - plan.video_strength) * clean
            contexts = window_contexts(models, passes, prompts, reference, voices.window(window), masks, latents)
        with watch.stage("denoise"):
            latents = denoise(
                models.transformer,
                _scheduler(plan),
                times,
                latents,
                condition,
                reference.motion if handover is None else handover.motion,
                contexts,
                Guide(plan.text_guidance, plan.audio_guidance, plan.apg),
                generator,
                partial(on_step, window),
            )
        with watch.stage("decode"):
            video = decode_video(models.vae, latents)[0]
        with watch.stage("color"):
            video = match_color(video, first.picture, plan.color_correction)
            if handover is not None:
                fade_in(video, window.overlap, handover.last_frame, plan.join_fade_frames)
        handover = None
        if window is not plan.windows[-1]:
            with watch.stage("overlap"):
                motion = encode_video(models.vae, video[None, :, -plan.overlap_frames :].clone())
                handover = Handover(motion, video[:, -1].clone())
        part = Rendered(window, video[:, window.kept], handover)
        del video
        yield part
        del part  # the next window needs the memory


def _scheduler(plan: Plan) -> Scheduler:
    """A scheduler for one window; each window needs a fresh one, since some remember the steps before."""
    return make_scheduler(plan.scheduler, plan.steps, plan.shift, plan.video_strength)
