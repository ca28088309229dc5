"""The InfiniteTalk video diffusion transformer: Wan2.1 image-to-video with audio cross-attention.

Base: diffusers' Wan modules under diffusers' parameter names. The weights that the adapter adds form an
`AudioAdapter`. Several adapters can be resident at once: "single" hears one voice, "multi" several.

It is a `VideoTransformer`; axes and arguments are named there.

Sources: Wan (arXiv 2503.20314), MultiTalk (arXiv 2505.22647), InfiniteTalk (arXiv 2508.14033).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import cast

import torch
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

from infinitetalk.arithmetic import NATIVE
from infinitetalk.models.attention import find_kernel
from infinitetalk.models.audio_adapter import AudioAdapter, AudioAdapterBlock, AudioProjection
from infinitetalk.models.context_parallel import ALONE, Frames, Shards
from infinitetalk.models.kernels import Kernels
from infinitetalk.models.people import PERSON_POSITIONS, person_attention, person_positions
from infinitetalk.models.rotary import per_channel, rotate_pairs
from infinitetalk.models.video_transformer import (
    TEXT_TOKENS,
    AudioContext,
    Context,
    KeyValue,
    Rotary,
    TimeEmbedding,
)

ADAPTERS = SINGLE, MULTI = "single", "multi"


@dataclass(frozen=True)
class BlockContext:
    """What the tokens of one block read besides themselves."""

    text: KeyValue
    image: KeyValue
    voices: KeyValue


class InfiniteTalkBlock(WanTransformerBlock):  # type: ignore[misc]
    """A Wan block with audio cross-attention between the text attention and the feed-forward."""

    kernels: Kernels  # of its attentions
    shards: Shards  # which tokens it gets

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.kernels = Kernels.exact(find_kernel(NATIVE))
        self.shards = ALONE

    def forward(
        self,
        states: Tensor,
        time: Tensor,
        rotary: Rotary,
        query_rotary: Rotary,
        context: BlockContext,
        adapter: AudioAdapterBlock,
        person_masks: Tensor | None,
        n_latent_frames: int,
        frame_tokens: int,
    ) -> Tensor:
        """One block over this rank's tokens `states` (B, n, C) of latent frames of `frame_tokens` tokens.

        Args:
            time: (B, 6, C) float32.
            rotary, query_rotary: of this rank's tokens, for keys and for queries; both have the same values.
            person_masks: as in `AudioContext`.
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.scale_shift_table + time).chunk(6, dim=1)

        normed = (self.norm1(states.float()) * (1 + scale_1) + shift_1).type_as(states)
        frames = Frames(n_latent_frames, frame_tokens)
        attended, positions = self._self_attention(normed, rotary, query_rotary, person_masks, frames)
        attended = self.attn1.to_out[0](attended.flatten(2))
        states = (states.float() + attended * gate_1).type_as(states)

        normed = self.norm2(states.float()).type_as(states)
        query = self.attn2.norm_q(self.attn2.to_q(normed)).unflatten(-1, (self.attn2.heads, -1))
        attention, text, image = self.kernels.attention, context.text, context.image
        attended = attention(query, text.key, text.value) + attention(query, image.key, image.value)
        states = states + self.attn2.to_out[0](attended.flatten(2))

        normed = adapter.norm_x(states.float()).type_as(states)
        states = states + adapter.audio_cross_attn(normed, context.voices, positions, n_latent_frames, attention)

        normed = (self.norm3(states.float()) * (1 + scale_2) + shift_2).type_as(states)
        return cast(Tensor, (states.float() + self.ffn(normed).float() * gate_2).type_as(states))

    def _self_attention(
        self, states: Tensor, rotary: Rotary, query_rotary: Rotary, person_masks: Tensor | None, frames: Frames
    ) -> tuple[Tensor, Tensor | None]:
        """What this rank's tokens read of all tokens (B, n, H, D), and with several people their positions (B, n)."""
        shards, heads = self.shards, self.attn1.heads
        turns = shards.turns(heads)
        waits: list[list[Callable[[], Tensor]]] = [[] for _ in turns]

        def send(tokens: Tensor) -> Tensor:
            waits[0].append(shards.to_heads(tokens, frames, 0))
            return tokens

        inputs = self_attention_inputs(self.attn1, states, rotary, query_rotary, send)
        for turn in turns[1:]:
            waits[turn] = [shards.to_heads(tokens, frames, turn) for tokens in inputs]
        people: list[Tensor] = []
        sent = []
        for turn in turns:
            value, key, query = (wait() for wait in waits[turn])
            if person_masks is not None:
                seen = person_attention(query, shards.first_frame(key, frames), person_masks)
                people.append(seen * (query.shape[2] / heads))
            if self.kernels.in_order:
                query, key, value = (shards.by_frame(tokens, frames) for tokens in (query, key, value))
            attended = self.kernels.self_attention(query, key, value, frames.count)
            if self.kernels.in_order:
                attended = shards.by_rank(attended, frames)
            sent.append(shards.to_tokens(attended, heads, frames, turn))
        positions = None
        if people:
            positions = shards.mine_of_exchanged(
                person_positions(shards.sum_of_ranks(reduce(torch.add, people))), frames
            )
        return shards.join_heads([parts() for parts in sent]), positions


def self_attention_inputs(
    attn: WanAttention,
    states: Tensor,
    rotary: Rotary,
    query_rotary: Rotary,
    send: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, key and query (B, n, H, D), each after `send`; query and key normalised over all channels and rotated."""
    fused = attn.to_qkv(states).chunk(3, dim=-1) if getattr(attn, "fused_projections", False) else ()
    done = dict(zip("qkv", fused, strict=False))

    def product(name: str) -> Tensor:
        return done[name] if done else cast(Tensor, getattr(attn, f"to_{name}")(states))

    def heads(part: Tensor) -> Tensor:
        return cast(Tensor, part.unflatten(-1, (attn.heads, -1)))

    value = send(heads(product("v")))
    key = send(rotate_pairs(heads(attn.norm_k(product("k"))), rotary.cos, rotary.sin))
    return value, key, send(rotate_pairs(heads(attn.norm_q(product("q"))), query_rotary.cos, query_rotary.sin))


class InfiniteTalkTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predicts the flow velocity of a window of video latents from text, a reference picture and voices.

    The first arguments mean what they mean in diffusers' `WanTransformer3DModel`.

    Args:
        audio_layers, audio_channels: wav2vec2 layers kept and their width.
        audio_hidden, audio_tokens, audio_dim: hidden width, tokens per latent frame and person, token width of
            the audio projection.
        adapter_names: the adapters to hold.
    """

    max_speakers = len(PERSON_POSITIONS)

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
        adapter_names: Sequence[str] = ADAPTERS,
    ) -> None:
        super().__init__()
        self.shards = ALONE
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

    def use_kernels(self, kernels: Kernels) -> None:
        """Let all blocks attend with these kernels."""
        for block in self.blocks:
            block.kernels = kernels  # type: ignore[assignment]

    def use_shards(self, shards: Shards) -> None:
        """Compute this rank's part of every pass. From then on all ranks make each pass together."""
        self.shards = shards
        for block in self.blocks:
            block.shards = shards  # type: ignore[assignment]

    def embed_timesteps(self, timesteps: Tensor) -> TimeEmbedding:
        """See `VideoTransformer.embed_timesteps`."""
        embedder = self.condition_embedder
        with torch.autocast(timesteps.device.type, enabled=False):
            frequencies = embedder.timesteps_proj(timesteps.float())
            head = embedder.time_embedder(frequencies)
            blocks = embedder.time_proj(embedder.act_fn(head)).unflatten(-1, (6, -1))
        return TimeEmbedding(head, blocks)

    def embed_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        """See `VideoTransformer.embed_text`."""
        if text.shape[1] != TEXT_TOKENS:
            raise ValueError(f"text embeddings have {TEXT_TOKENS} rows, padded with zeros; got {text.shape[1]}")
        tokens = self.condition_embedder.text_embedder(text)
        return tuple(self._keys_values(block.attn2, tokens, added=False) for block in self.blocks)

    def embed_image(self, image: Tensor) -> tuple[KeyValue, ...]:
        """See `VideoTransformer.embed_image`."""
        tokens = self.condition_embedder.image_embedder(image)
        return tuple(self._keys_values(block.attn2, tokens, added=True) for block in self.blocks)

    @staticmethod
    def _keys_values(attn: WanAttention, tokens: Tensor, added: bool) -> KeyValue:
        if added:
            key, value = attn.norm_added_k(attn.add_k_proj(tokens)), attn.add_v_proj(tokens)
        else:
            key, value = attn.norm_k(attn.to_k(tokens)), attn.to_v(tokens)
        return KeyValue(key.unflatten(-1, (attn.heads, -1)), value.unflatten(-1, (attn.heads, -1)))

    def adapter_for(self, speakers: int) -> str:
        """See `VideoTransformer.adapter_for`."""
        if speakers > self.max_speakers:
            raise ValueError(f"at most {self.max_speakers} voices can be bound to people, not {speakers}")
        return SINGLE if speakers == 1 else MULTI

    def embed_audio(self, audio: Tensor, adapter: str, person_masks: Tensor | None = None) -> AudioContext:
        """See `VideoTransformer.embed_audio`."""
        people = audio.shape[1]
        if (people > 1) != (person_masks is not None):
            raise ValueError(f"person_masks are needed with several people and only then, not with {people}")
        weights = cast(AudioAdapter, self.adapters[adapter])
        tokens = weights.audio_proj(audio)
        layers = tuple(block.audio_cross_attn.keys_values(tokens) for block in weights.blocks)  # type: ignore[union-attr,operator]
        return AudioContext(adapter, layers, person_masks)

    def rotary_embedding(self, latents: Tensor) -> Rotary:
        """See `VideoTransformer.rotary_embedding`."""
        cos, sin = self.rope(latents)
        # diffusers stores each angle twice, side by side.
        return Rotary(*per_channel(cos[..., ::2].float(), sin[..., ::2].float()))

    def forward(self, latents: Tensor, time: TimeEmbedding, context: Context) -> Tensor:
        """See `VideoTransformer.__call__`."""
        n_latent_frames, height, width = latents.shape[2:]
        states = self.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        frames = Frames(n_latent_frames, states.shape[1] // n_latent_frames)
        states = self.shards.mine(states, frames)
        rotary = Rotary(*(self.shards.mine(table, frames) for table in (context.rotary.cos, context.rotary.sin)))
        # One kernel would rotate both if they shared a table, and the key would wait for the query to be sent.
        query_rotary = rotary if self.shards.world == 1 else Rotary(rotary.cos.clone(), rotary.sin.clone())
        audio = context.audio
        adapter = cast(AudioAdapter, self.adapters[audio.adapter])
        read = map(BlockContext, context.text, context.image, audio.layers)
        for block, extra, block_context in zip(self.blocks, adapter.blocks, read, strict=True):
            states = block(
                states,
                time.blocks,
                rotary,
                query_rotary,
                block_context,
                extra,
                audio.person_masks,
                frames.count,
                frames.tokens,
            )
        shift, scale = (self.scale_shift_table + time.head.unsqueeze(1)).chunk(2, dim=1)
        states = (self.norm_out(states.float()) * (1 + scale) + shift).type_as(states)
        patches = self.shards.whole(self.proj_out(states), frames)
        _, patch_height, patch_width = self.config.patch_size
        grid = (n_latent_frames, height // patch_height, width // patch_width)
        patches = patches.unflatten(1, grid).unflatten(-1, (patch_height, patch_width, -1))
        return cast(Tensor, patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4))
