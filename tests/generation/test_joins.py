"""The fade where windows join."""

import torch

from infinitetalk.generation.joins import STILL, fade_in

FRAME = torch.zeros(3, 2, 2)


def window(*levels: float) -> torch.Tensor:
    return torch.stack([FRAME + level for level in levels], dim=1)


def levels(frames: torch.Tensor) -> list[float]:
    return [round(level, 6) for level in frames[0, :, 0, 0].tolist()]


def test_the_difference_in_the_last_overlapping_frame_fades() -> None:
    frames = window(0.9, 0.1, 0.1, 0.2, 0.2, 0.2)
    fade_in(frames, overlap=2, last_frame=FRAME + 0.5, fade_frames=3)
    assert levels(frames) == [0.9, 0.1, 0.4, 0.4, 0.3, 0.2]


def test_motion_is_kept_and_what_is_too_small_for_it_fades() -> None:
    frames = window(0.0, 0.0, 0.0)
    frames[:, 1:, 0, 0] = STILL / 2
    frames[:, 1:, 1, 1] = 0.5
    fade_in(frames, overlap=1, last_frame=FRAME.clone(), fade_frames=1)
    torch.testing.assert_close(frames[0, 1], torch.tensor([[STILL / 4, 0.0], [0.0, 0.5 - STILL / 2]]))
    torch.testing.assert_close(frames[0, 2], torch.tensor([[STILL / 2, 0.0], [0.0, 0.5]]))


def test_each_pixel_takes_its_own_difference() -> None:
    frames = window(0.0, 0.0)
    last_frame = torch.linspace(-0.4, 0.4, 12).view(3, 2, 2)
    fade_in(frames, overlap=1, last_frame=last_frame, fade_frames=1)
    torch.testing.assert_close(frames[:, 1], last_frame / 2)


def test_a_window_shorter_than_the_fade_is_faded_as_far_as_it_goes() -> None:
    frames = window(0.0, 0.0)
    fade_in(frames, overlap=1, last_frame=FRAME + 0.9, fade_frames=8)
    assert levels(frames) == [0.0, 0.8]


def test_colours_stay_in_range() -> None:
    frames = window(0.9, 0.9, 0.9)
    fade_in(frames, overlap=1, last_frame=FRAME + 1.2, fade_frames=1)
    assert levels(frames) == [0.9, 1.0, 0.9]


def test_no_fade_is_a_hard_cut() -> None:
    frames = window(0.0, 0.1, 0.2)
    fade_in(frames, overlap=1, last_frame=FRAME + 0.8, fade_frames=0)
    assert levels(frames) == [0.0, 0.1, 0.2]
