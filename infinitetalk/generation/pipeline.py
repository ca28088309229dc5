"""From a plan, footage and voices to the clip's frames, window by window. No files, no network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infinitetalk.contract.presets import Size
from infinitetalk.generation.color import match_color
from infinitetalk.generation.conditioning import (
    Conditions,
    Prompts,
    condition_latents,
    embed_reference,
    window_contexts,
)
from infinitetalk.generation.denoise import Steps, denoise
from infinitetalk.generation.guidance import Guide
from infinitetalk.generation.joins import Handover, Start, fade_in
from infinitetalk.generation.masks import masks_of_window
from infinitetalk.generation.pixels import to_picture
from infinitetalk.generation.schedule import Scheduler, make_scheduler
from infinitetalk.models.opening import Models
from infinitetalk.models.vae import to_latents
from infinitetalk.planning.plan import Plan
from infinitetalk.planning.windows import Window, audio_frames_read
from infinitetalk.progress import Stopwatch
from infinitetalk.shapes import TEMPORAL_STRIDE, latent_frames


class Footage(Protocol):
    """The picture or video that is animated, cropped and resized to the video's size.

    Args:
        is_still: whether the reference frame is the same in every window.
        source_size: (width, height) of the source, upright and with square pixels, before it was cropped.
    """

    @property
    def is_still(self) -> bool: ...

    @property
    def source_size(self) -> Size: ...

    def frame(self, index: int) -> NDArray[np.uint8]:
        """RGB bytes (height, width, 3) of the source at the clip's frame `index`."""
        ...

    def clip(self, start: int, n_frames: int) -> NDArray[np.uint8]:
        """RGB bytes (n_frames, height, width, 3) of the source from the clip's frame `start` on."""
        ...


class Noise(Protocol):
    """The random numbers of a job."""

    def generator(self, window: Window) -> torch.Generator:
        """The window's generator, on the CPU so that every device gets the same numbers."""
        ...

    def initial(self, window: Window, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The window's first latents, standard normal."""
        ...


class SeededNoise:
    """Noise from a seed. Each window has a generator of its own, so that a window can be made again by itself."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, window: Window) -> torch.Generator:
        """See `Noise.generator`."""
        (state,) = np.random.SeedSequence([self.seed, window.index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state) >> 1)

    def initial(self, window: Window, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Noise.initial`."""
        return torch.randn(shape, generator=generator)


class Voices(Protocol):
    """What the speakers are heard to say."""

    def window(self, window: Window) -> Tensor:
        """Audio features (voices, length + 4, layers, channels) of a window; the last voice is silence where it is
        among the voices of a window.
        """
        ...


class VoiceFeatures:
    """Voices from audio features (voices, clip frames, layers, channels)."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def window(self, window: Window) -> Tensor:
        """See `Voices.window`."""
        frames = audio_frames_read(window, self.features.shape[1])
        return self.features[:, torch.tensor(frames, device=self.features.device)]


@dataclass(frozen=True)
class Material:
    """What a clip is made of.

    Args:
        person_masks: where voices are bound to people (scenes, P + 1, S), from `masks.person_masks`, or (1, P + 1, S)
            if they have the same places in all scenes; else None.
    """

    footage: Footage
    voices: Voices
    person_masks: Tensor | None


@dataclass(frozen=True)
class Rendered:
    """What a window contributes to the clip, and what the next window needs of it.

    Args:
        frames: (3, kept frames, height, width) float32 in [-1, 1].
        handover: None after the last window of a scene.
    """

    window: Window
    frames: Tensor
    handover: Handover | None


FROM_THE_START = Start()


@torch.inference_mode()
def generate(
    plan: Plan,
    models: Models,
    material: Material,
    noise: Noise,
    on_step: Callable[[Window, int, Tensor], None],
    watch: Stopwatch,
    start: Start = FROM_THE_START,
) -> Iterator[Rendered]:
    """Make the clip, or what is left of it, window by window.

    Args:
        plan: windows, steps, guidance, sizes.
        material: the footage, and the voices and places of as many speakers as the plan has.
        on_step: called before each denoising step with the window, the step's number and the latents. An exception that
            it raises ends the job.
        watch: gets the seconds of the stages from text to overlap, see `progress.Stage`.
        start: the windows that are there already.
    """
    windows, handover = plan.windows[start.windows :], start.handover
    if not windows:
        return
    with watch.stage("text"):
        prompts = Prompts(models, plan.prompt, plan.negative_prompt)
    footage, scene = material.footage, plan.scene(windows[0])
    with watch.stage("image"):
        opening = plan.scene_starts[scene]
        first = reference = embed_reference(models, footage.frame(opening))
        # The autoencoder only looks back, so that a prefix of the longest window's serves the others.
        longest = max(window.length for window in plan.windows) if footage.is_still else windows[0].length
        reference_clip = condition_latents(models, reference, longest)
    with watch.stage("condition"):
        masks = None if material.person_masks is None else material.person_masks.to(models.device)
        times = models.transformer.embed_timesteps(_scheduler(plan).timesteps.to(models.device))

    for window in windows:
        if window.start != opening and not footage.is_still:
            with watch.stage("image"):
                opening = window.start
                reference = embed_reference(models, footage.frame(opening))
                reference_clip = condition_latents(models, reference, window.length)
        if plan.scene(window) != scene:
            scene, first = plan.scene(window), reference
        with watch.stage("condition"):
            guide = Guide(plan.text_guidance, plan.audio_guidance, plan.mode.apg)
            condition = reference_clip[:, :, : latent_frames(window.length)]
            generator = noise.generator(window)
            shape = (1, *condition[0, TEMPORAL_STRIDE:].shape)
            latents = noise.initial(window, shape, generator).to(models.device)
            if plan.video_strength < 1:
                latents = _noised(latents, plan.video_strength, models, _source_of(footage, plan, window))
            voices, people = material.voices.window(window), _in_scene(masks, scene)
            if window.heard is not None and people is not None:
                voices, people = voices[list(window.heard)], masks_of_window(people, window.heard)
            conditions = Conditions(
                latents=condition,
                motion=reference.motion if handover is None else handover.motion,
                contexts=window_contexts(models, guide.drops, prompts, reference, voices, people, latents),
            )
        with watch.stage("denoise"):
            latents = denoise(
                models.transformer,
                Steps(_scheduler(plan), times),
                latents,
                conditions,
                guide,
                generator,
                partial(on_step, window),
            )
        with watch.stage("decode"):
            video = models.to_video(latents)[0]
        with watch.stage("color"):
            video = match_color(video, first.picture, plan.color_correction)
            if handover is not None:
                fade_in(video, window.overlap, handover.last_frame, plan.mode.join_fade_frames)
        handover = None
        if _is_continued(plan, window):
            with watch.stage("overlap"):
                handover = _hand_over(models, video, plan.mode.overlap_frames)
        part = Rendered(window, video[:, window.kept], handover)
        del video
        yield part
        del part  # the next window needs the memory


def _in_scene(masks: Tensor | None, scene: int) -> Tensor | None:
    """(1, P + 1, S): where the speakers are in one scene."""
    return masks if masks is None or len(masks) == 1 else masks[scene : scene + 1]


def _is_continued(plan: Plan, window: Window) -> bool:
    """Whether the next window holds frames of this one."""
    return any(following.overlap for following in plan.windows[window.index + 1 : window.index + 2])


def _source_of(footage: Footage, plan: Plan, window: Window) -> NDArray[np.uint8]:
    """The source's frames (length, height, width, 3) of a window. None of them belongs to another scene."""
    if window.keep_stop not in plan.cuts:
        return footage.clip(window.start, window.length)
    frames = footage.clip(window.start, window.keep_stop - window.start)
    return np.concatenate((frames, frames[-1:].repeat(window.length - len(frames), axis=0)))


def _noised(noise: Tensor, strength: float, models: Models, source: NDArray[np.uint8]) -> Tensor:
    """First latents that start from the source, noised to the sigma `strength` (SDEdit, arXiv 2108.01073)."""
    pictures = torch.stack([to_picture(frame, models.device) for frame in source])
    clean = to_latents(models.vae, pictures.transpose(0, 1).unsqueeze(0))
    return strength * noise + (1 - strength) * clean


def _hand_over(models: Models, video: Tensor, overlap_frames: int) -> Handover:
    """What the next window holds of a window's frames (3, T, height, width)."""
    motion = to_latents(models.vae, video[None, :, -overlap_frames:].clone())
    return Handover(motion, video[:, -1].clone())


def _scheduler(plan: Plan) -> Scheduler:
    """A scheduler for one window. Each window needs a fresh one, since some schedulers remember the steps before."""
    return make_scheduler(plan.mode.scheduler, plan.mode.steps, plan.shift, plan.video_strength)
