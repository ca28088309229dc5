"""What a job will do, decided before anything is computed."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import Profile, Size, SpeedMode
from infinitetalk.contract.request import Extend, InputType, Keep, Request
from infinitetalk.contract.result import ResolvedSettings, Turn
from infinitetalk.planning.turns import Turns, plan_turns
from infinitetalk.planning.windows import Window
from infinitetalk.shapes import FPS, token_count, within_border


@dataclass(frozen=True)
class VideoShape:
    """What a video file holds.

    Args:
        size: (width, height) in pixels.
        rate: frames a second.
    """

    size: Size
    rate: Fraction
    n_frames: int

    @property
    def fps(self) -> int | float:
        """The rate as a number."""
        return self.rate.numerator if self.rate.denominator == 1 else round(float(self.rate), 3)


@dataclass(frozen=True)
class Plan:
    """Everything that generation needs to know of a job, except its media. No addresses, no places.

    Args:
        mode: how the clip is made: steps, scheduler, overlap, fade.
        shift: the shift of the noise schedule, from the mode.
        size: (width, height) of the video in pixels.
        windows: they cover the clip, at 25 frames a second.
        seed: the seed of the noise.
        speakers: how many voices there are; `Window.heard` says which of them a window hears.
        input_type: whether a picture or a video is animated.
        negative_prompt: None if text guidance is 1, when nothing reads it.
        text_guidance, audio_guidance, color_correction, video_strength: as in the job.
        separated_chunks: chunks of sound that vocals are taken out of; 0 where the job leaves the sound as it is.
        conversation: who of two speaks when in one recording; empty where each voice has a file of its own.
        cuts: the clip's frames with which further scenes of the source video begin.
        extend, keep: as in the job.
        kept: the result where it has the source's shape, and not that of the windows.
        inner: x0, y0, x1, y1 in pixels of a frame: the part that the result shows; None: all of it.
    """

    mode: SpeedMode
    shift: float
    size: Size
    windows: tuple[Window, ...]
    seed: int
    speakers: int
    input_type: InputType
    prompt: str
    negative_prompt: str | None
    text_guidance: float
    audio_guidance: float
    color_correction: float
    video_strength: float
    separated_chunks: int = 0
    conversation: tuple[Turn, ...] = ()
    cuts: tuple[int, ...] = ()
    extend: Extend = "hold"
    keep: Keep = "all"
    kept: VideoShape | None = None
    inner: tuple[int, int, int, int] | None = None

    @property
    def n_frames(self) -> int:
        """Frames of the finished clip."""
        return self.windows[-1].keep_stop

    @property
    def shape(self) -> VideoShape:
        """What the finished file holds."""
        x0, y0, x1, y1 = self.inner or (0, 0, *self.size)
        return self.kept or VideoShape((x1 - x0, y1 - y0), Fraction(FPS), self.n_frames)

    def shown(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part (..., height, width, 3) of frames of the windows' size that the result shows."""
        x0, y0, x1, y1 = self.inner or (0, 0, *self.size)
        return frames[..., y0:y1, x0:x1, :]

    @property
    def duration_s(self) -> float:
        """Seconds of the finished clip."""
        return self.n_frames / FPS

    @property
    def forwards_per_step(self) -> int:
        """Passes of the transformer per step. Guidance needs further, less conditioned ones to compare with."""
        return 1 + (self.text_guidance != 1) + (self.audio_guidance != 1)

    @property
    def total_forwards(self) -> int:
        """Passes of the transformer over the whole clip."""
        return len(self.windows) * self.mode.steps * self.forwards_per_step

    @property
    def is_shared(self) -> bool:
        """Whether voices are bound to people, each token to one of them."""
        return self.speakers > 1 or any(window.heard is not None for window in self.windows)

    @property
    def scene_starts(self) -> tuple[int, ...]:
        """The clip's frames with which its scenes begin."""
        return (0, *self.cuts)

    def scene(self, window: Window) -> int:
        """The number of the scene that a window belongs to."""
        return sum(cut <= window.start for cut in self.cuts)

    def tokens(self, window: Window) -> int:
        """Transformer tokens of one pass over `window`."""
        return token_count(window.length, *self.size)

    def resolved(self, profile: Profile, arithmetic: Arithmetic, n_gpus: int = 1) -> ResolvedSettings:
        """The numbers to report to the caller, if so many GPUs make the video."""
        width, height = self.shape.size
        return ResolvedSettings(
            profile=profile.name,
            loras=[f"{lora.file}:{lora.scale:g}" for lora in profile.loras] or None,
            window=self.mode.window_frames,
            overlap=self.mode.overlap_frames,
            windows=len(self.windows),
            steps=self.mode.steps,
            forwards=self.total_forwards,
            scheduler=self.mode.scheduler,
            shift=self.shift,
            width=width,
            height=height,
            fps=self.shape.fps,
            frames=self.shape.n_frames,
            duration_s=self.duration_s,
            isolate_vocals=self.separated_chunks > 0,
            lane=arithmetic.lane,
            precision=arithmetic.precision_text(profile.dtype),
            attention=arithmetic.attention_text,
            gpus=n_gpus,
            cuts_s=[cut / FPS for cut in self.cuts] or None,
            extend=self.extend if self.input_type == "video" else None,
            keep=self.keep if self.kept is not None else None,
            generated="{}x{}".format(*self.size) if self.shape.size != self.size or self.kept is not None else None,
        )


def draw_seed() -> int:
    """A fresh seed for a job that names none: 32 bits, which every JSON reader keeps exactly."""
    return secrets.randbits(32)


def make_plan(
    request: Request,
    profile: Profile,
    mode: SpeedMode,
    n_frames: int,
    seed: int,
    separated_chunks: int = 0,
    turns: Turns | None = None,
    conversation: tuple[Turn, ...] = (),
    cuts: Sequence[int] = (),
    source: Size | None = None,
) -> Plan:
    """Resolve a request.

    Args:
        mode: the preset of request.speed_mode, or one in its place.
        n_frames: frames of the finished clip.
        seed: the request's, or a drawn one.
        separated_chunks: of sound, that vocals are taken out of.
        turns: who is heard when; needed for more than two voices, and where people without one are to keep still.
        conversation: who of two speaks when, in a recording that is taken apart.
        cuts: the clip's frames with which further scenes begin.
        source: (width, height) of the input; needed where aspect_ratio or fit follow its shape.
    """
    size = profile.size(request.resolution, request.aspect_ratio, source)
    inner = None
    if request.fit == "whole":
        assert source is not None
        inner = within_border(source, size)
    negative_prompt = None
    if request.text_guidance != 1:
        negative_prompt = profile.negative_prompt if request.negative_prompt is None else request.negative_prompt
    return Plan(
        mode=mode,
        shift=mode.shift[request.resolution],
        size=size,
        windows=plan_turns(turns, n_frames, mode.window_frames, mode.overlap_frames, cuts),
        seed=seed,
        speakers=len(request.all_speakers),
        input_type=request.input_type,
        prompt=request.prompt,
        negative_prompt=negative_prompt,
        text_guidance=request.text_guidance,
        audio_guidance=request.audio_guidance,
        color_correction=request.color_correction,
        video_strength=request.video_strength,
        separated_chunks=separated_chunks,
        conversation=conversation,
        cuts=tuple(cuts),
        extend=request.extend,
        keep=request.keep,
        inner=inner,
    )
