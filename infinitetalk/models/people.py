"""How voices are bound to people: who each token belongs to, as a rotary position (MultiTalk, arXiv 2505.22647, 3.3).

Axes in shapes: B batch, P people, T latent frames, S tokens of a latent frame, N = T*S tokens, H heads,
D channels of a head, C = H*D.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from infinitetalk.models.rotary import per_channel

# 1-D rotary positions that bind a voice to its person: each person's tokens lie in a range of their own, the
# voice's keys in the middle of it, the background between the two (MultiTalk, section 3.3). Nothing lies at the
# background's own position there, so that it hears both voices a little. With silence there, people who count as
# background keep still on the miniature (docs/quality.md, "Several people"); the released weights have not been tried.
PERSON_POSITIONS = ((0.0, 4.0), (20.0, 24.0))
BACKGROUND_POSITION = 12.0
VOICE_POSITIONS = (2.0, 22.0, BACKGROUND_POSITION)  # of the two people's voices, and of what the background hears
PERSON_ROTARY_BASE = 10_000.0


def person_rotation(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., head_dim), for `rotate_pairs`, of the 1-D rotary embedding at real-valued positions."""
    channels = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float().unsqueeze(-1) * PERSON_ROTARY_BASE ** (-channels / head_dim)
    return per_channel(angles.cos(), angles.sin())


# The same as an operator of its own, which has no gradient. If torch.compile could fuse it with the rotation, the
# tables would be computed anew for every head; as an operator they are computed once.
person_rotation_tables = torch.library.custom_op("infinitetalk::person_rotation", person_rotation, mutates_args=())


@person_rotation_tables.register_fake
def _(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    table = positions.new_empty((*positions.shape, head_dim), dtype=torch.float32)
    return table, torch.empty_like(table)


def person_attention(query: Tensor, key: Tensor, masks: Tensor) -> Tensor:
    """How much each token looks at each person of the first latent frame.

    It is one attention call whose values are the masks, so that the (H, N, S) weights are never stored.

    Args:
        query: (B, N, H, D), of a block's self-attention, normalised and rotated.
        key: (B, S, H, D), of the first latent frame's tokens, normalised and rotated.
        masks: (B, P + 1, S) of zeros and ones: the people and the background.

    Returns:
        (B, P + 1, N) float32: the softmax over the first frame's tokens, averaged over the heads and over each mask.
    """
    heads, channels = query.shape[2:]
    rows = masks.shape[1]
    # Fused kernels need rows of at least 16 bytes, and cuDNN's is fastest with values half as wide as the keys.
    columns = F.pad(masks.transpose(1, 2), (0, max(8, channels // 2) - rows)).type_as(query)
    value = columns.unsqueeze(1).expand(-1, heads, -1, -1)
    seen = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value)
    total = seen[..., :rows].float().mean(dim=1).transpose(1, 2)
    return total / masks.float().sum(dim=-1, keepdim=True).clamp(min=1)


def person_positions(attention: Tensor) -> Tensor:
    """The rotary position (B, N) of each token, from `person_attention`'s (B, P + 1, N).

    The largest row says whose token it is. That row's value, min-max scaled over all tokens, says where in the person's
    range of positions the token lies.
    """
    people = attention[:, :-1]
    low, high = people.amin(-1, keepdim=True), people.amax(-1, keepdim=True)
    shares = ((people - low) / (high - low + 1e-8)).unbind(1)
    # Plain numbers. A tensor of them would wait for the GPU, and a compiled graph with such a tensor cannot be kept.
    ranges = [share * (stop - start) + start for share, (start, stop) in zip(shares, PERSON_POSITIONS, strict=True)]
    positions = torch.stack((*ranges, torch.full_like(shares[0], BACKGROUND_POSITION)), dim=1)
    return positions.gather(1, attention.argmax(dim=1, keepdim=True)).squeeze(1)
