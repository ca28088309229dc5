"""The Wan video autoencoder's own layers, rearranged for speed."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    WanUpsample,
)
from torch import Tensor, nn

from infinitetalk.models.vae import to_video

ReturnT = TypeVar("ReturnT")

_WARM_UP_LATENTS = (7, 11)  # height and width of the first latents that are decoded, which compiles


def optimise_vae(vae: AutoencoderKLWan, compiled: bool) -> None:
    """Rearrange the autoencoder for speed, in place. Results stay the same up to rounding.

    From then on it takes one video at a time. cuDNN's autotuning is left off: its choice changes the last bits, and
    could differ between a worker and the one that goes on with its job.

    Args:
        compiled: element-wise operations between the convolutions run in two fused kernels, compiled here, once for
            each number of channels.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in vae.parameters():
        parameter.data = parameter.data.contiguous(memory_format=formats.get(parameter.dim(), torch.contiguous_format))
    activate: Callable[..., None] = _activate
    add: Callable[..., Tensor] = _add
    if compiled:
        activate = _fixed_channels(torch.compile(_activate, dynamic=True))
        add = _fixed_channels(torch.compile(_add, dynamic=True))
    for module in reversed(list(vae.modules())):  # convolutions first, since a block takes over those it has
        for name, child in module.named_children():
            if isinstance(child, WanResidualBlock):
                setattr(module, name, _ResidualBlock(child, activate, add))
            elif isinstance(child, WanCausalConv3d):
                setattr(module, name, _CausalConv(child))
            elif isinstance(child, WanUpsample):  # diffusers' goes through float32
                setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, mode=child.mode))
            elif isinstance(child, WanResample) and child.mode == "upsample3d":
                setattr(module, name, _Upsample(child))
    if compiled:
        to_video(vae, torch.zeros(1, vae.config.z_dim, 2, *_WARM_UP_LATENTS, device=vae.device))


class _CausalConv(nn.Module):
    """A causal convolution that does not copy its input to pad height and width, since cuDNN pads by itself."""

    def __init__(self, conv: WanCausalConv3d) -> None:
        super().__init__()
        width, _, height, _, self.before, _ = conv._padding
        self.padding = (0, height, width)
        self.stride = conv.stride
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        missing = self.before
        if cache_x is not None and missing:
            x = torch.cat((cache_x, x), dim=2)
            missing -= cache_x.shape[2]
        if missing:
            x = F.pad(x, (0, 0, 0, 0, missing, 0))
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding)


class _ResidualBlock(nn.Module):
    """A residual block for (1, C, T, height, width), channels last.

    Normalised frames are written right behind the ones that the block remembers, where the convolution reads both. The
    operation that follows a convolution adds its bias.
    """

    def __init__(self, block: WanResidualBlock, activate: Callable[..., None], add: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv_shortcut = block.conv_shortcut
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.activate, self.add = activate, add
        # Buffers, since torch.compile treats parameters differently from other tensors.
        self.gamma1, self.gamma2 = (nn.Buffer(norm.gamma.detach().flatten()) for norm in (block.norm1, block.norm2))
        self.bias1, self.bias2 = (nn.Buffer(conv.bias.detach()) for conv in (block.conv1, block.conv2))
        self.no_bias = nn.Buffer(torch.zeros_like(self.gamma1))

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        shortcut = self.conv_shortcut(x)
        x = self._convolve(x, self.no_bias, self.gamma1, self.conv1, feat_cache, feat_idx)
        x = self._convolve(x, self.bias1, self.gamma2, self.conv2, feat_cache, feat_idx)
        return _from_rows(self.add(_rows(x), self.bias2, _rows(shortcut)), x.shape)

    def _convolve(
        self, x: Tensor, bias: Tensor, gamma: Tensor, conv: _CausalConv, feat_cache: list[Any], feat_idx: list[int]
    ) -> Tensor:
        """The convolution, without its own bias, of the normalised and activated x + bias."""
        _, channels, frames, height, width = x.shape
        padded = x.new_empty(CACHE_T + frames, height, width, channels)
        memory = feat_cache[feat_idx[0]]
        padded[:CACHE_T] = 0 if memory is None else memory
        self.activate(padded[CACHE_T:].view(-1, channels), _rows(x), bias, gamma)
        feat_cache[feat_idx[0]] = padded[-CACHE_T:].clone()
        feat_idx[0] += 1
        return F.conv3d(padded.permute(3, 0, 1, 2).unsqueeze(0), conv.weight, None, padding=(0, 1, 1))


class _Upsample(nn.Module):
    """Twice the height and width, and twice the frames after a video's first. Channels stay last throughout."""

    def __init__(self, module: WanResample) -> None:
        super().__init__()
        self.time_conv, self.resample = module.time_conv, module.resample

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        index = feat_idx[0]
        feat_idx[0] += 1
        memory = feat_cache[index]
        if memory is None:
            feat_cache[index] = x[:, :, :0].clone()
        else:
            missing = CACHE_T - memory.shape[2]
            known = torch.cat((F.pad(memory, (0, 0, 0, 0, missing, 0)), x), dim=2)
            feat_cache[index] = known[:, :, -CACHE_T:].clone()
            frames = _rows(F.conv3d(known, self.time_conv.weight, self.time_conv.bias))
            # Each frame becomes two: the halves of its channels.
            _, channels, count, height, width = x.shape
            frames = frames.view(count, height, width, 2, channels).permute(0, 3, 1, 2, 4)
            x = _from_rows(frames, (1, channels, 2 * count, height, width))
        frames = self.resample(x[0].transpose(0, 1))
        return cast(Tensor, frames.transpose(0, 1).unsqueeze(0))


def _rows(x: Tensor) -> Tensor:
    """(T * height * width, C) of (1, C, T, height, width); a view if channels are last."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1]).contiguous()


def _from_rows(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `_rows`, for a tensor of that `shape`."""
    batch, channels, *sides = shape
    return rows.reshape(batch, *sides, channels).permute(0, 4, 1, 2, 3)


def _fixed_channels(function: Callable[..., ReturnT]) -> Callable[..., ReturnT]:
    """Compile anew for each number of channels (the last axis), so that a sum over them knows how many there are."""

    def call(*tensors: Tensor) -> ReturnT:
        for tensor in tensors:
            torch._dynamo.mark_static(tensor, tensor.dim() - 1)
        return function(*tensors)

    return call


def _activate(out: Tensor, rows: Tensor, bias: Tensor, gamma: Tensor) -> None:
    """Fill `out` with the SiLU of rows (n, C) + bias (C) scaled to a root mean square of gamma (C)."""
    normalised = F.normalize(rows.float() + bias.float(), dim=1) * (rows.shape[1] ** 0.5)
    out.copy_(F.silu(normalised * gamma.float()))


def _add(rows: Tensor, bias: Tensor, shortcut: Tensor) -> Tensor:
    """rows (n, C) + bias (C) + shortcut (n, C)."""
    return (rows.float() + bias.float() + shortcut.float()).to(rows.dtype)
