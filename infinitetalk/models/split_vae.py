"""The autoencoder's decoder on several ranks: each has a part of the rows of every frame.

Before each layer the ranks hand the rows at their borders to their neighbours, so that every row is computed from the
same numbers as on a single rank. The layers themselves stay as they are: a layer gets its rows with the neighbours'
around them, and what it makes of these is dropped. The attention in the middle of the decoder reads all rows.

Only decoding is worth it: a window is decoded as a whole and encoded in a few frames.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock
from torch import Tensor, nn

from infinitetalk.models.context_parallel import Shards
from infinitetalk.models.vae import to_video

# Rows that a layer's result depends on beyond each of its own: one for each 3x3 convolution in it.
_CONVOLUTION, _RESIDUAL_BLOCK = 1, 2


class SplitDecoder:
    """Decodes with all ranks together: each makes the same call.

    Args:
        vae: its decoder's layers are wrapped, in place.
    """

    def __init__(self, vae: AutoencoderKLWan, shards: Shards) -> None:
        self.vae, self.split = vae, _Split(shards)
        decoder, split = vae.decoder, self.split
        decoder.conv_in, decoder.conv_out = (_Convolution(part, split) for part in (decoder.conv_in, decoder.conv_out))
        for block in (decoder.mid_block, *decoder.up_blocks):
            block.resnets = nn.ModuleList(_Layer(layer, split, _RESIDUAL_BLOCK) for layer in block.resnets)
        middle = decoder.mid_block
        middle.attentions = nn.ModuleList(_Attention(attention, split) for attention in middle.attentions)
        for block in decoder.up_blocks:
            if block.upsamplers is not None:
                block.upsamplers = nn.ModuleList(_Layer(layer, split, _CONVOLUTION, 2) for layer in block.upsamplers)

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """Video (B, 3, 4T-3, height, width), as `vae.to_video`, of latents (B, 16, T, height/8, width/8)."""
        shards, count = self.split.shards, latents.shape[-2]
        if count < _RESIDUAL_BLOCK * shards.world:  # fewer rows than a neighbour needs: each rank decodes all of them
            self.split.rows = 0
            return to_video(self.vae, latents)
        self.split.rows = count
        video = to_video(self.vae, latents.tensor_split(shards.world, dim=-2)[shards.rank]).to(self.vae.dtype)
        by_latent_row = video.unflatten(-2, (-1, video.shape[-1] // latents.shape[-1])).movedim(-3, 0)
        return shards.gather(by_latent_row, count).movedim(0, -3).flatten(-3, -2).float()


@dataclass
class _Split:
    """How a frame is split.

    Args:
        rows: of the whole frame, in latents; 0: it is not split.
    """

    shards: Shards
    rows: int = 0

    def with_neighbours(self, x: Tensor, reach: int) -> Tensor:
        """Rows (B, C, T, rows, width) with `reach` of each neighbour around them. A frame's own edges have none."""
        if not self.rows:
            return x
        rank, world = self.shards.rank, self.shards.world
        x = x.permute(0, 2, 3, 4, 1)  # channels are last in memory, and stay so
        borders = torch.cat((x[:, :, :reach], x[:, :, -reach:]), dim=2).contiguous()
        gathered = [torch.empty_like(borders) for _ in range(world)]
        distributed.all_gather(gathered, borders)
        above = [gathered[rank - 1][:, :, reach:]] if rank > 0 else []
        below = [gathered[rank + 1][:, :, :reach]] if rank < world - 1 else []
        return torch.cat((*above, x, *below), dim=2).permute(0, 4, 1, 2, 3)

    def without_neighbours(self, x: Tensor, rows: int) -> Tensor:
        """Rows without what a layer has made of each neighbour's: `rows`."""
        if not self.rows:
            return x
        first = rows if self.shards.rank > 0 else 0
        last = rows if self.shards.rank < self.shards.world - 1 else 0
        return x[..., first : x.shape[-2] - last, :]


class _Layer(nn.Module):
    """A layer for a rank's rows (B, C, T, rows, width).

    Args:
        reach: rows that the result depends on beyond each of its own.
        scale: how many rows the layer makes of one.
    """

    def __init__(self, layer: nn.Module, split: _Split, reach: int, scale: int = 1) -> None:
        super().__init__()
        self.layer, self.split, self.reach, self.scale = layer, split, reach, scale

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        # What the layer remembers of earlier frames has the neighbours' rows, too.
        output: Tensor = self.layer(self.split.with_neighbours(x, self.reach), feat_cache, feat_idx)
        return self.split.without_neighbours(output, self.reach * self.scale)


class _Convolution(nn.Module):
    """A causal convolution at either end of the decoder, which hands it the frames before."""

    def __init__(self, convolution: nn.Module, split: _Split) -> None:
        super().__init__()
        self.convolution, self.split = convolution, split

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        parts = [None if part is None else self.split.with_neighbours(part, _CONVOLUTION) for part in (x, cache_x)]
        return self.split.without_neighbours(self.convolution(*parts), _CONVOLUTION)


class _Attention(nn.Module):
    """Attention of a rank's rows to all rows of their frame."""

    def __init__(self, attention: WanAttentionBlock, split: _Split) -> None:
        super().__init__()
        self.attention: Any = attention
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        if not self.split.rows:
            whole: Tensor = self.attention(x)
            return whole
        batch, channels, frames, height, width = x.shape
        pictures = x.transpose(1, 2).flatten(0, 1)
        rows: Tensor = self.attention.to_qkv(self.attention.norm(pictures)).permute(2, 0, 3, 1)
        query, key_value = rows.split((channels, 2 * channels), dim=-1)
        key, value = self.split.shards.gather(key_value, self.split.rows).chunk(2, dim=-1)
        query, key, value = (part.transpose(0, 1).flatten(1, 2).unsqueeze(1) for part in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value)
        seen = seen.squeeze(1).transpose(1, 2).reshape(batch * frames, channels, height, width)
        output: Tensor = self.attention.proj(seen).unflatten(0, (batch, frames)).transpose(1, 2)
        return x + output
