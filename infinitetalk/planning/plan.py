"""What a job will do, decided before anything is computed."""

import secrets
from dataclasses import dataclass
from typing import Literal

from infinitetalk.contract.presets import Apg, Profile, SchedulerName, SpeedMode
from infinitetalk.contract.request import Box, InputType, Request, SpeedModeName
from infinitetalk.contract.result import ResolvedSettings
from infinitetalk.contract.settings import EXACT
from infinitetalk.planning.windows import Window, plan_windows
from infinitetalk.shapes import FPS, token_count


@dataclass(frozen=True)
class Plan:
    """Everything the pipeline needs to know of a job, except its media.

    width, height: pixels. n_frames: frames of the finished clip, at 25 per second.
    negative_prompt: None where text guidance is 1 and nothing reads it.
    speaker_boxes: the two people as fractions (x0, y0, x1, y1) of the input picture; None: not given.
    """

    speed_mode: SpeedModeName
    window_frames: int
    overlap_frames: int
    join_fade_frames: int
    steps: int
    scheduler: SchedulerName
    shift: float
    apg: Apg | None
    width: int
    height: int
    n_frames: int
    windows: tuple[Window, ...]
    seed: int
    input_type: InputType
    speakers: Literal[1, 2]
    prompt: str
    negative_prompt: str | None
    text_guidance: float
    audio_guidance: float
    color_correction: float
    video_strength: float
    speaker_boxes: tuple[Box, Box] | None

    @property
    def forwards_per_step(self) -> int:
        """Passes of the transformer per step: more where guidance compares with less conditioned ones."""
        return 1 + (self.text_guidance != 1) + (self.audio_guidance != 1)

    @property
    def total_forwards(self) -> int:
        return len(self.windows) * self.steps * self.forwards_per_step

    @property
    def duration_s(self) -> float:
        return self.n_frames / FPS

    def resolved(self, profile: Profile, attention: str, lane: str = EXACT) -> ResolvedSettings:
        """The numbers to report to the caller. attention: the kernels in use. lane: see `Settings.lane`."""
        return ResolvedSettings(
            profile=profile.name,
            window=self.window_frames,
            overlap=self.overlap_frames,
            windows=len(self.windows),
            steps=self.steps,
            forwards=self.total_forwards,
            scheduler=self.scheduler,
            shift=self.shift,
            width=self.width,
            height=self.height,
            fps=FPS,
            frames=self.n_frames,
            duration_s=self.duration_s,
            precision=profile.dtype if lane == EXACT else f"{profile.dtype}, {lane}",
            attention=attention,
        )

    def tokens(self, window: Window) -> int:
        """Transformer tokens of one pass over `window`."""
        return token_count(window.length, self.width, self.height)


def draw_seed() -> int:
    """A fresh seed for a job that names none: 32 bits, which every JSON reader keeps exactly."""
    return secrets.randbits(32)


def make_plan(request: Request, profile: Profile, mode: SpeedMode, n_frames: int, seed: int) -> Plan:
    """Resolve a request. mode: the preset of request.speed_mode; seed: the request's, or a drawn one."""
    width, height = profile.size(request.resolution, request.aspect_ratio)
    negative_prompt = None
    if request.text_guidance != 1:
        negative_prompt = profile.negative_prompt if request.negative_prompt is None else request.negative_prompt
    return Plan(
        speed_mode=request.speed_mode,
        window_frames=mode.window_frames,
        overlap_frames=mode.overlap_frames,
        join_fade_frames=mode.join_fade_frames,
        steps=mode.steps,
        scheduler=mode.scheduler,
        shift=mode.shift[request.resolution],
        apg=mode.apg,
        width=width,
        height=height,
        n_frames=n_frames,
        windows=plan_windows(n_frames, mode.window_frames, mode.overlap_frames),
        seed=seed,
        input_type=request.input_type,
        speakers=2 if request.person_count == "multi" else 1,
        prompt=request.prompt,
        negative_prompt=negative_prompt,
        text_guidance=request.text_guidance,
        audio_guidance=request.audio_guidance,
        color_correction=request.color_correction,
        video_strength=request.video_strength,
        speaker_boxes=request.speaker_boxes,
    )
