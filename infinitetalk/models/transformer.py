"""The InfiniteTalk video diffusion transformer: Wan2.1 image-to-video with audio cross-attention.

Base: diffusers' Wan modules under diffusers' parameter names. Added in each block: `norm_x` and
`audio_cross_attn`; added once: `audio_proj`. The added weights form an `AudioAdapter`, whose parameters carry
the names of the released adapter files. Several adapters ("single", "multi") can be resident at once.

What does not change over denoising steps is computed outside `forward` and handed in: `embed_timesteps`,
`embed_text`, `embed_image`, `embed_audio`, `rotary_embedding`.

Axes in shapes: B batch, P people, T latent frames, S tokens of a latent frame, N = T*S tokens, H heads,
D channels of a head, C = H*D.

Sources: Wan (arXiv 2503.20314), MultiTalk (arXiv 2505.22647, the map that tells people apart),
InfiniteTalk (arXiv 2508.14033).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanRotaryPosEmbed,
    WanTimeTextImageEmbedding,
    WanTransformerBlock,
)
from torch import Tensor, nn

from infinitetalk.models.attention import NATIVE, Attention, diffusers_attention
from infinitetalk.models.sparse_attention import sparse_attention
from infinitetalk.shapes import AUDIO_REACH_FRAMES, TEMPORAL_STRIDE

TEXT_TOKENS = 512

# 1-D rotary positions that bind a voice to its person: each person's tokens lie in a range of their own, the
# voice's keys in the middle of it, the background between the two (MultiTalk, section 3.3).
PERSON_POSITIONS = ((0.0, 4.0), (20.0, 24.0))
VOICE_POSITIONS = (2.0, 22.0)
BACKGROUND_POSITION = 12.0
PERSON_ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention, each (batch, tokens, H, D)."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class TimeEmbedding:
    """What the timesteps contribute: `head` (steps, C) and `blocks` (steps, 6, C), both float32."""

    head: Tensor
    blocks: Tensor

    def step(self, index: int) -> "TimeEmbedding":
        """The embedding of one step, as a batch of one."""
        return TimeEmbedding(self.head[index : index + 1], self.blocks[index : index + 1])


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of the 3-D rotary embedding, each (1, N, 1, D) float32, as `rotate_pairs` takes them."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class AudioContext:
    """The voices of one window, as every block attends to them.

    layers: per block, keys and values of (B*T, P*audio_tokens, H, D).
    person_masks: (B, 3, S) ones where the first person, the second person and the background are in the first
        latent frame; None for one person.
    """

    adapter: str
    layers: tuple[KeyValue, ...]
    person_masks: Tensor | None


@dataclass(frozen=True)
class Context:
    """Everything but the noisy latents and the time that one forward pass depends on."""

    text: tuple[KeyValue, ...]
    image: tuple[KeyValue, ...]
    audio: AudioContext
    rotary: Rotary


def rotate_pairs(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channels (2i, 2i+1) of `states` (..., D).

    cos, sin: (..., D), see `per_channel`.
    """
    # Every channel is written by one formula, which compiles to one kernel together with what comes before.
    swapped = states.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return cast(Tensor, (states.float() * cos + swapped.float() * sin).type_as(states))


def per_channel(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of pairs (..., D/2) as factors of channels (..., D): (c, c) and (-s, s) for each pair."""
    return torch.stack((cos, cos), dim=-1).flatten(-2), torch.stack((-sin, sin), dim=-1).flatten(-2)


def person_rotation(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., head_dim), for `rotate_pairs`, of the 1-D rotary embedding at real-valued positions."""
    channels = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(-1) * PERSON_ROTARY_BASE ** (-channels / head_dim)
    return per_channel(angles.cos(), angles.sin())


# The same as an operator of its own, which computes its tables once: compiled into what rotates, it would compute them
# for every head. It has no gradient.
person_rotation_tables = torch.library.custom_op("infinitetalk::person_rotation", person_rotation, mutates_args=())


@person_rotation_tables.register_fake
def _(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    table = positions.new_empty((*positions.shape, head_dim), dtype=torch.float32)
    return table, torch.empty_like(table)


def person_attention(query: Tensor, key: Tensor, masks: Tensor) -> Tensor:
    """How much each token looks at each person of the first latent frame.

    One attention call whose values are the masks, so the (H, N, S) weights are never stored.

    Args:
        query: (B, N, H, D), normalised and rotated, of a block's self-attention.
        key: (B, S, H, D), likewise, of the first latent frame's tokens.
        masks: (B, 3, S) of zeros and ones.

    Returns:
        (B, 3, N) float32: the softmax over the first frame's tokens, averaged over the heads and over each mask.
    """
    heads, channels = query.shape[2:]
    # Fused kernels need rows of 16 bytes at least, and cuDNN's is fastest with values half as wide as the keys.
    columns = F.pad(masks.transpose(1, 2), (0, max(8, channels // 2) - 3)).type_as(query)
    value = columns.unsqueeze(1).expand(-1, heads, -1, -1)
    seen = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value)
    total = seen[..., :3].float().mean(dim=1).transpose(1, 2)
    return total / masks.float().sum(dim=-1, keepdim=True).clamp(min=1)


def person_positions(attention: Tensor) -> Tensor:
    """The rotary position (B, N) of each token, from `person_attention`'s (B, 3, N).

    The largest row says whose token it is; its value, min-max scaled over all tokens, where in the range.
    """
    people = attention[:, :2]
    low, high = people.amin(-1, keepdim=True), people.amax(-1, keepdim=True)
    shares = ((people - low) / (high - low + 1e-8)).unbind(1)
    # Numbers, not a tensor of them: that would wait for the GPU, and what is compiled with it cannot be kept.
    ranges = [share * (stop - start) + start for share, (start, stop) in zip(shares, PERSON_POSITIONS, strict=True)]
    positions = torch.stack((*ranges, torch.full_like(shares[0], BACKGROUND_POSITION)), dim=1)
    return positions.gather(1, attention.argmax(dim=1, keepdim=True)).squeeze(1)


class AudioProjection(nn.Module):
    """Turns each latent frame's slice of the voice into audio tokens.

    A latent frame hears the five audio frames around the first video frame, or the eight around the four video
    frames that it stands for.
    """

    def __init__(self, layers: int, channels: int, hidden: int, tokens: int, token_dim: int) -> None:
        super().__init__()
        slot = layers * channels
        self.tokens = tokens
        self.first_slots = 2 * AUDIO_REACH_FRAMES + 1
        self.later_slots = 2 * AUDIO_REACH_FRAMES + TEMPORAL_STRIDE
        self.proj1 = nn.Linear(self.first_slots * slot, hidden)
        self.proj1_vf = nn.Linear(self.later_slots * slot, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio tokens (..., T, tokens, token_dim) of `audio` (..., 4T-3+4, layers, channels).

        The audio holds one entry per video frame, and two more before the first and after the last.
        """
        per_frame = audio.flatten(-2)
        first = per_frame[..., : self.first_slots, :].flatten(-2).unsqueeze(-2)
        # Latent frame i > 0 stands for video frames 4i-3 .. 4i, which are entries 4i-1 .. 4i+2 here.
        later = per_frame[..., 1:, :].unfold(-2, self.later_slots, TEMPORAL_STRIDE).transpose(-1, -2).flatten(-2)
        hidden = torch.cat((F.relu(self.proj1(first)), F.relu(self.proj1_vf(later))), dim=-2)
        hidden = F.relu(self.proj2(hidden))
        return cast(Tensor, self.norm(self.proj3(hidden).unflatten(-1, (self.tokens, -1))))


class AudioCrossAttention(nn.Module):
    """Attention of a latent frame's tokens to that frame's audio tokens only."""

    def __init__(self, dim: int, heads: int, audio_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(audio_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def keys_values(self, tokens: Tensor) -> KeyValue:
        """Keys and values of the audio tokens (B, P, T, tokens, audio_dim), people side by side.

        With two people each voice's keys are rotated to its person's position.
        """
        people = tokens.shape[1]
        merged = tokens.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        key, value = self.kv_linear(merged).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        if people == 2:
            positions = torch.cat(
                [key.new_full(tokens.shape[3:4], place, dtype=torch.float32) for place in VOICE_POSITIONS]
            )
            cos, sin = person_rotation(positions, key.shape[-1])
            key = rotate_pairs(key, cos.unsqueeze(1), sin.unsqueeze(1))
        return KeyValue(key, value)

    def forward(
        self, states: Tensor, voices: KeyValue, positions: Tensor | None, frames: int, attention: Attention
    ) -> Tensor:
        """Audio's contribution (B, N, C) to the tokens `states` (B, N, C) of `frames` latent frames.

        positions: (B, N) rotary positions of the tokens, from `person_positions`; None for one person.
        """
        query = self.q_linear(states).unflatten(-1, (self.heads, -1))
        if positions is not None:
            rotation = person_rotation if torch.is_grad_enabled() else person_rotation_tables
            cos, sin = rotation(positions, query.shape[-1])
            query = rotate_pairs(query, cos.unsqueeze(2), sin.unsqueeze(2))
        query = query.unflatten(1, (frames, -1)).flatten(0, 1)
        heard = attention(query, voices.key, voices.value)
        return cast(Tensor, self.proj(heard.reshape(states.shape)))


class AudioAdapterBlock(nn.Module):
    """What the adapter adds to one transformer block."""

    def __init__(self, dim: int, heads: int, audio_dim: int, eps: float) -> None:
        super().__init__()
        self.norm_x = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.audio_cross_attn = AudioCrossAttention(dim, heads, audio_dim)


class AudioAdapter(nn.Module):
    """All weights of one adapter file, under that file's names."""

    def __init__(self, projection: AudioProjection, blocks: Sequence[AudioAdapterBlock]) -> None:
        super().__init__()
        self.audio_proj = projection
        self.blocks = nn.ModuleList(blocks)


class InfiniteTalkBlock(WanTransformerBlock):  # type: ignore[misc]
    """A Wan block with audio cross-attention between the text attention and the feed-forward.

    attention: the kernel of all its attentions but those that the next two replace.
    self_attention: another kernel for the self-attention.
    self_attention_density: experimental; the part of the self-attention that is computed, by `sparse_attention`.
    """

    attention: Attention
    self_attention: Attention | None = None
    self_attention_density: float | None = None

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.attention = diffusers_attention(NATIVE)

    def forward(
        self,
        states: Tensor,
        time: Tensor,
        rotary: Rotary,
        text: KeyValue,
        image: KeyValue,
        adapter: AudioAdapterBlock,
        voices: KeyValue,
        person_masks: Tensor | None,
        frames: int,
    ) -> Tensor:
        """One block over the tokens `states` (B, N, C); time (B, 6, C) float32; the rest as in `Context`."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.scale_shift_table + time).chunk(6, dim=1)

        normed = (self.norm1(states.float()) * (1 + scale_1) + shift_1).type_as(states)
        query, key, value = self_attention_inputs(self.attn1, normed, rotary)
        if self.self_attention_density is None:
            attended = (self.self_attention or self.attention)(query, key, value)
        else:
            attended = sparse_attention(query, key, value, frames, self.self_attention_density)
        attended = self.attn1.to_out[0](attended.flatten(2))
        states = (states.float() + attended * gate_1).type_as(states)

        positions = None
        if person_masks is not None:
            first_frame = key[:, : person_masks.shape[-1]]
            positions = person_positions(person_attention(query, first_frame, person_masks))

        normed = self.norm2(states.float()).type_as(states)
        query = self.attn2.norm_q(self.attn2.to_q(normed)).unflatten(-1, (self.attn2.heads, -1))
        attended = self.attention(query, text.key, text.value) + self.attention(query, image.key, image.value)
        states = states + self.attn2.to_out[0](attended.flatten(2))

        normed = adapter.norm_x(states.float()).type_as(states)
        states = states + adapter.audio_cross_attn(normed, voices, positions, frames, self.attention)

        normed = (self.norm3(states.float()) * (1 + scale_2) + shift_2).type_as(states)
        return cast(Tensor, (states.float() + self.ffn(normed).float() * gate_2).type_as(states))


def self_attention_inputs(attn: WanAttention, states: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (B, N, H, D); query and key normalised over all channels and rotated."""
    if getattr(attn, "fused_projections", False):
        query, key, value = attn.to_qkv(states).chunk(3, dim=-1)
    else:
        query, key, value = attn.to_q(states), attn.to_k(states), attn.to_v(states)
    query, key = attn.norm_q(query), attn.norm_k(key)
    query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in (query, key, value))
    return rotate_pairs(query, rotary.cos, rotary.sin), rotate_pairs(key, rotary.cos, rotary.sin), value


class InfiniteTalkTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predicts the flow velocity of a window of video latents from text, a reference picture and voices.

    The first arguments mean what they mean in diffusers' `WanTransformer3DModel`.

    Args:
        audio_layers, audio_channels: wav2vec2 layers kept and their width.
        audio_hidden, audio_tokens, audio_dim: hidden width, tokens per latent frame and person, token width of
            the audio projection.
        adapter_names: the adapters to hold.

    Attributes:
        attention_names: the attention kernels that its blocks use, for reports.
    """

    attention_names = NATIVE

    _supports_gradient_checkpointing = False
    _no_split_modules = ("InfiniteTalkBlock",)
    _repeated_blocks = ("InfiniteTalkBlock",)
    _keep_in_fp32_modules = (
        "time_embedder",
        "time_proj",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
        "norm_x",
    )

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        eps: float = 1e-6,
        image_dim: int = 1280,
        rope_max_seq_len: int = 1024,
        audio_layers: int = 12,
        audio_channels: int = 768,
        audio_hidden: int = 512,
        audio_tokens: int = 32,
        audio_dim: int = 768,
        adapter_names: Sequence[str] = ("single", "multi"),
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.rope = WanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.condition_embedder = WanTimeTextImageEmbedding(dim, freq_dim, 6 * dim, text_dim, image_dim)
        self.blocks = nn.ModuleList(
            InfiniteTalkBlock(dim, ffn_dim, num_attention_heads, "rms_norm_across_heads", True, eps, dim)
            for _ in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.adapters = nn.ModuleDict(
            {
                name: AudioAdapter(
                    AudioProjection(audio_layers, audio_channels, audio_hidden, audio_tokens, audio_dim),
                    [AudioAdapterBlock(dim, num_attention_heads, audio_dim, eps) for _ in range(num_layers)],
                )
                for name in adapter_names
            }
        )

    def embed_timesteps(self, timesteps: Tensor) -> TimeEmbedding:
        """Embeddings of the timesteps (steps,), each in 0..1000."""
        embedder = self.condition_embedder
        with torch.autocast(timesteps.device.type, enabled=False):
            frequencies = embedder.timesteps_proj(timesteps.float())
            head = embedder.time_embedder(frequencies)
            blocks = embedder.time_proj(embedder.act_fn(head)).unflatten(-1, (6, -1))
        return TimeEmbedding(head, blocks)

    def embed_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        """Per block, keys and values of the text embeddings (B, 512, text_dim), zero beyond the prompt's end."""
        if text.shape[1] != TEXT_TOKENS:
            raise ValueError(f"text embeddings have {TEXT_TOKENS} rows, padded with zeros; got {text.shape[1]}")
        tokens = self.condition_embedder.text_embedder(text)
        return tuple(self._keys_values(block.attn2, tokens, added=False) for block in self.blocks)

    def embed_image(self, image: Tensor) -> tuple[KeyValue, ...]:
        """Per block, keys and values of the image features (B, image tokens, image_dim)."""
        tokens = self.condition_embedder.image_embedder(image)
        return tuple(self._keys_values(block.attn2, tokens, added=True) for block in self.blocks)

    @staticmethod
    def _keys_values(attn: WanAttention, tokens: Tensor, added: bool) -> KeyValue:
        if added:
            key, value = attn.norm_added_k(attn.add_k_proj(tokens)), attn.add_v_proj(tokens)
        else:
            key, value = attn.norm_k(attn.to_k(tokens)), attn.to_v(tokens)
        return KeyValue(key.unflatten(-1, (attn.heads, -1)), value.unflatten(-1, (attn.heads, -1)))

    def embed_audio(self, audio: Tensor, adapter: str, person_masks: Tensor | None = None) -> AudioContext:
        """The voices of a window of 4T-3 video frames.

        Args:
            audio: (B, P, 4T-3+4, layers, channels), two frames more before the first and after the last.
            adapter: "single" or "multi".
            person_masks: (B, 3, S), needed with two people and only then; see `AudioContext`.

        Raises:
            ValueError: masks missing or superfluous.
        """
        people = audio.shape[1]
        if (people == 2) != (person_masks is not None):
            raise ValueError(f"person_masks go with two people and only then, not with {people}")
        weights = cast(AudioAdapter, self.adapters[adapter])
        tokens = weights.audio_proj(audio)
        layers = tuple(block.audio_cross_attn.keys_values(tokens) for block in weights.blocks)  # type: ignore[union-attr,operator]
        return AudioContext(adapter, layers, person_masks)

    def rotary_embedding(self, latents: Tensor) -> Rotary:
        """The rotary table for latents of (B, channels, T, height, width)."""
        cos, sin = self.rope(latents)
        # diffusers stores each angle twice, side by side.
        return Rotary(*per_channel(cos[..., ::2].float(), sin[..., ::2].float()))

    def forward(self, latents: Tensor, time: TimeEmbedding, context: Context) -> Tensor:
        """The velocity (B, out_channels, T, height, width).

        Args:
            latents: (B, in_channels, T, height, width): noisy latents, mask and condition latents, in this order.
            time: embedding of one timestep, (1 or B, ...).
            context: text, image, voices and rotary table.
        """
        frames, height, width = latents.shape[2:]
        states = self.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        adapter = cast(AudioAdapter, self.adapters[context.audio.adapter])
        for block, extra, text, image, voices in zip(
            self.blocks, adapter.blocks, context.text, context.image, context.audio.layers, strict=True
        ):
            states = block(
                states,
                time.blocks,
                context.rotary,
                text,
                image,
                extra,
                voices,
                context.audio.person_masks,
                frames,
            )
        shift, scale = (self.scale_shift_table + time.head.unsqueeze(1)).chunk(2, dim=1)
        states = (self.norm_out(states.float()) * (1 + scale) + shift).type_as(states)
        patches = self.proj_out(states)
        _, patch_height, patch_width = self.config.patch_size
        grid = (frames, height // patch_height, width // patch_width)
        patches = patches.unflatten(1, grid).unflatten(-1, (patch_height, patch_width, -1))
        return cast(Tensor, patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4))
