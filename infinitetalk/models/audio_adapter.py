"""What InfiniteTalk adds to Wan: the audio projection, and in each block a norm and the audio cross-attention.

Parameters carry the names of the released adapter files.

Axes in shapes: B batch, P people, T latent frames, S tokens of a latent frame, N = T*S tokens, H heads,
D channels of a head, C = H*D.

Sources: MultiTalk (arXiv 2505.22647), InfiniteTalk (arXiv 2508.14033).
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from infinitetalk.models.attention import Attention
from infinitetalk.models.people import VOICE_POSITIONS, person_rotation, person_rotation_tables
from infinitetalk.models.rotary import rotate_pairs
from infinitetalk.models.video_transformer import KeyValue
from infinitetalk.shapes import AUDIO_REACH_FRAMES, TEMPORAL_STRIDE


class AudioProjection(nn.Module):
    """Turns each latent frame's slice of the voice into audio tokens.

    The first latent frame hears the five audio frames around the first video frame. Every other one hears the eight
    around the four video frames that it stands for.
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
        hidden = F.relu(self.proj1(first))
        if audio.shape[-3] > self.first_slots:
            # Latent frame i > 0 stands for video frames 4i-3 .. 4i, which are entries 4i-1 .. 4i+2 here.
            later = per_frame[..., 1:, :].unfold(-2, self.later_slots, TEMPORAL_STRIDE).transpose(-1, -2).flatten(-2)
            hidden = torch.cat((hidden, F.relu(self.proj1_vf(later))), dim=-2)
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

        With several people each voice's keys are rotated to its person's position.
        """
        people = tokens.shape[1]
        merged = tokens.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        key, value = self.kv_linear(merged).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        if people > 1:
            places = VOICE_POSITIONS[:people]
            positions = torch.cat([key.new_full(tokens.shape[3:4], place, dtype=torch.float32) for place in places])
            cos, sin = person_rotation(positions, key.shape[-1])
            key = rotate_pairs(key, cos.unsqueeze(1), sin.unsqueeze(1))
        return KeyValue(key, value)

    def forward(
        self, states: Tensor, voices: KeyValue, positions: Tensor | None, n_latent_frames: int, attention: Attention
    ) -> Tensor:
        """Audio's contribution (B, N, C) to the tokens `states` (B, N, C) of `n_latent_frames` latent frames.

        Args:
            voices: keys and values from `keys_values`.
            positions: (B, N) rotary positions of the tokens, from `person_positions`; None for one person.
        """
        query = self.q_linear(states).unflatten(-1, (self.heads, -1))
        if positions is not None:
            rotation = person_rotation if torch.is_grad_enabled() else person_rotation_tables
            cos, sin = rotation(positions, query.shape[-1])
            query = rotate_pairs(query, cos.unsqueeze(2), sin.unsqueeze(2))
        query = query.unflatten(1, (n_latent_frames, -1)).flatten(0, 1)
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
