import pytest
import torch

from infinitetalk.generation.color import match_color
from tests.support.golden import tensors

STORED = tensors("color/reference")
FRAMES, REFERENCE = STORED["source"][0], STORED["reference"][0, :, 0]


@pytest.mark.parametrize("strength", [float(key.removeprefix("out.strength")) for key in STORED if "strength" in key])
def test_matches_the_authors_values(strength):
    expected = STORED[f"out.strength{strength}"][0]
    torch.testing.assert_close(match_color(FRAMES, REFERENCE, strength), expected, atol=5e-5, rtol=0)


def test_matches_scikit_image():
    color = pytest.importorskip("skimage.color")
    rng = torch.Generator().manual_seed(0)
    frame, reference = torch.rand(2, 3, 40, 50, generator=rng).unbind()
    lab, target = (color.rgb2lab(picture.permute(1, 2, 0).double().numpy()) for picture in (frame, reference))
    moved = (lab - lab.mean((0, 1))) / lab.std((0, 1)) * target.std((0, 1)) + target.mean((0, 1))
    expected = torch.from_numpy(color.lab2rgb(moved)).permute(2, 0, 1).clamp(0, 1) * 2 - 1
    matched = match_color(frame[:, None] * 2 - 1, reference * 2 - 1, 1.0)[:, 0]
    torch.testing.assert_close(matched.double(), expected, atol=5e-5, rtol=0)


def test_strength_zero_returns_the_very_input():
    assert match_color(FRAMES, REFERENCE, 0.0) is FRAMES


def test_a_frame_matched_to_itself_stays():
    frame = FRAMES[:, :1].clamp(-1, 1)
    torch.testing.assert_close(match_color(frame, frame[:, 0], 1.0), frame, atol=1e-4, rtol=0)


def test_each_frame_is_matched_by_its_own_statistics():
    alone = torch.cat([match_color(FRAMES[:, t : t + 1], REFERENCE, 0.7) for t in range(FRAMES.shape[1])], dim=1)
    torch.testing.assert_close(match_color(FRAMES, REFERENCE, 0.7), alone)


def test_flat_and_grey_frames_get_the_mean_but_no_blown_up_noise():
    flat = torch.tensor([0.3, -0.2, 0.1]).view(3, 1, 1, 1).expand(3, 1, 24, 32)
    matched = match_color(flat, REFERENCE, 1.0)
    assert matched.flatten(1).std(dim=1).max() < 1e-4
    grey = torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1) * 0.2
    matched = match_color(grey, REFERENCE, 1.0)
    # One hue throughout: red and blue rise and fall with green.
    assert torch.corrcoef(matched.flatten(1)).min() > 0.99


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        match_color(FRAMES, REFERENCE, strength)
