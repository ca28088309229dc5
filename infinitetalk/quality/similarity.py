"""How alike two renderings of one job are, frame by frame. scikit-image does the arithmetic."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from infinitetalk.quality import scikit_image

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

_COMPARED_FRAMES = 40
_GRADIENT_CONSTANT = 0.0026  # of GMSD's authors (170 / 255**2), for gradients of a picture in [0, 1]
_RESIDUAL_CONSTANT = (4 / 255) ** 2  # what rounding and compression leave
_RESIDUAL_SIGMA = 1.5  # pixels


@dataclass(frozen=True)
class Similarity:
    """How alike two renderings are. Each number is 1 if they are equal.

    Args:
        structure: mean SSIM of the luminance (Wang et al. 2004; window of 7 pixels).
        detail: mean gradient magnitude similarity of the luminance (Xue et al. 2013, mean instead of deviation).
        temporal_consistency: similarity of what motion does not explain. Optical flow (iterative Lucas-Kanade) of one
            rendering warps the next frame of each back onto the frame before. The smoothed absolute remainders e, f of
            the two are compared as (2ef + c) / (e^2 + f^2 + c), averaged over pixels and over the flows of both.
            Flicker or jumps that only one has, or a motion that only one makes, lower it.
        overall: mean of structure, detail and temporal_consistency.
    """

    structure: float
    detail: float
    temporal_consistency: float
    overall: float


def similarity(a: Frames, b: Frames) -> Similarity:
    """Compare two renderings (T, height, width, 3) uint8 RGB, long ones at 40 places spread over the clip.

    Raises ValueError unless both have the same shape and at least two frames.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"the two videos must have the same frames and size, not {_shape(a)} and {_shape(b)}; "
            "compare two renderings of one job"
        )
    if len(a) < 2 or min(a.shape[1:3]) < 16:
        raise ValueError(f"the videos must have at least 2 frames and 16 pixels on each side, not {_shape(a)}")
    metrics = scikit_image("metrics")
    places = np.unique(np.linspace(0, len(a) - 2, min(len(a) - 1, _COMPARED_FRAMES)).round().astype(int))
    structure, detail, temporal = [], [], []
    for t in places:
        first, second = ((_gray(v[t]), _gray(v[t + 1])) for v in (a, b))
        structure.append(metrics.structural_similarity(first[0], second[0], data_range=1.0))
        detail.append(_alike(_gradient(first[0]), _gradient(second[0]), _GRADIENT_CONSTANT))
        temporal.append(_temporal(first, second))
    means = [float(np.mean(values)) for values in (structure, detail, temporal)]
    return Similarity(means[0], means[1], means[2], overall=float(np.mean(means)))


def _temporal(a: tuple[Floats, Floats], b: tuple[Floats, Floats]) -> float:
    registration, transform = scikit_image("registration"), scikit_image("transform")
    rows, columns = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in a[0].shape), indexing="ij")
    values = []
    for source in (a, b):
        v, u = registration.optical_flow_ilk(source[0], source[1], radius=5, num_warp=4)
        remainders = [
            gaussian_filter(
                np.abs(transform.warp(after, np.stack((rows + v, columns + u)), mode="edge") - before), _RESIDUAL_SIGMA
            )
            for before, after in (a, b)
        ]
        values.append(_alike(remainders[0], remainders[1], _RESIDUAL_CONSTANT))
    return float(np.mean(values))


def _alike(a: Floats, b: Floats, constant: float) -> float:
    return float(((2 * a * b + constant) / (a * a + b * b + constant)).mean())


def _gradient(gray: Floats) -> Floats:
    return np.asarray(scikit_image("filters").prewitt(gray), np.float32)


def _gray(frame: Frames) -> Floats:
    return np.asarray(frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255, np.float32)


def _shape(frames: Frames) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"
