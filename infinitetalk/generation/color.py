"""Matching of colours: each frame gets the reference frame's mean and spread of lightness and colour (CIE Lab)."""

import torch
from torch import Tensor

# sRGB primaries to XYZ, and D65 white for the 2 degree observer, rounded as in scikit-image.
_XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
# A channel that varies less than this, in Lab units, is flat: what varies there is rounding. The a and b of a grey
# picture vary by about 0.001, since white and the matrix are rounded differently. A visible step is about 1.
_FLAT_DEVIATION = 1e-2


def match_color(frames: Tensor, reference: Tensor, strength: float) -> Tensor:
    """Move each frame's Lab mean and standard deviation, channel by channel, to the reference's.

    Args:
        frames: (3, T, H, W) RGB; clipped to [-1, 1] first.
        reference: (3, H, W) RGB in [-1, 1].
        strength: 0 returns `frames` untouched, 1 the matched frames; between them is a blend in RGB.

    If a channel is flat in a frame, only its mean is moved. (The authors' code scales the rounding noise of such
    channels up to the reference's deviation.)

    Raises:
        ValueError: the strength is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be within 0 and 1, not {strength}")
    if strength == 0:
        return frames
    target_mean, target_deviation = _mean_and_deviation(_to_lab(reference.clamp(-1, 1)))
    matched = torch.empty_like(frames)
    for t in range(frames.shape[1]):  # one by one: a window of 720p has gigabytes of intermediate values
        frame = frames[:, t].clamp(-1, 1)
        lab = _to_lab(frame)
        mean, deviation = _mean_and_deviation(lab)
        gain = torch.where(deviation < _FLAT_DEVIATION, 1.0, target_deviation / deviation)
        matched[:, t] = frame.lerp(_from_lab((lab - mean) * gain + target_mean), strength)
    return matched


def _mean_and_deviation(lab: Tensor) -> tuple[Tensor, Tensor]:
    deviation, mean = torch.std_mean(lab, dim=(-2, -1), correction=0, keepdim=True)
    return mean, deviation


def _to_lab(rgb: Tensor) -> Tensor:
    """CIE Lab (3, H, W) of sRGB (3, H, W) in [-1, 1]."""
    rgb = (rgb + 1) / 2
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mix(_matrix(linear), linear)
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def _from_lab(lab: Tensor) -> Tensor:
    """sRGB (3, H, W), clipped to [-1, 1], of CIE Lab (3, H, W)."""
    lightness, a, b = lab
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, (y - b / 200).clamp(min=0)))
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    linear = _mix(torch.linalg.inv(_matrix(lab)), xyz)
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb.clamp(0, 1) * 2 - 1


def _matrix(like: Tensor) -> Tensor:
    """The matrix from linear RGB to XYZ, as shares of white."""
    return like.new_tensor(_XYZ_OF_RGB) / like.new_tensor(_WHITE)[:, None]


def _mix(matrix: Tensor, channels: Tensor) -> Tensor:
    """matrix times the channels of each pixel. It is a plain sum, since matrix products may round to TF32."""
    return (matrix[:, :, None, None] * channels).sum(dim=1)
