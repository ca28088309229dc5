"""Encoders under the names of the original release, written out by hand: the renaming is checked from that side."""

import torch
from torch import Tensor
from transformers import CLIPVisionModel, UMT5EncoderModel


def to_original_t5(encoder: UMT5EncoderModel) -> dict[str, Tensor]:
    """The release's names, written out by hand so that the renaming is checked from the other side."""
    state, result = encoder.state_dict(), {}
    result["token_embedding.weight"] = state["shared.weight"]
    result["norm.weight"] = state["encoder.final_layer_norm.weight"]
    for block in range(encoder.config.num_layers):
        old, new = f"encoder.block.{block}.layer", f"blocks.{block}"
        attention, feed_forward = f"{old}.0.SelfAttention", f"{old}.1.DenseReluDense"
        result |= {
            f"{new}.norm1.weight": state[f"{old}.0.layer_norm.weight"],
            f"{new}.attn.q.weight": state[f"{attention}.q.weight"],
            f"{new}.attn.k.weight": state[f"{attention}.k.weight"],
            f"{new}.attn.v.weight": state[f"{attention}.v.weight"],
            f"{new}.attn.o.weight": state[f"{attention}.o.weight"],
            f"{new}.pos_embedding.embedding.weight": state[f"{attention}.relative_attention_bias.weight"],
            f"{new}.norm2.weight": state[f"{old}.1.layer_norm.weight"],
            f"{new}.ffn.gate.0.weight": state[f"{feed_forward}.wi_0.weight"],
            f"{new}.ffn.fc1.weight": state[f"{feed_forward}.wi_1.weight"],
            f"{new}.ffn.fc2.weight": state[f"{feed_forward}.wo.weight"],
        }
    return result


def to_original_clip(encoder: CLIPVisionModel) -> dict[str, Tensor]:
    state = {name.removeprefix("vision_model."): tensor for name, tensor in encoder.state_dict().items()}
    result = {
        "visual.patch_embedding.weight": state["embeddings.patch_embedding.weight"],
        "visual.cls_embedding": state["embeddings.class_embedding"].view(1, 1, -1),
        "visual.pos_embedding": state["embeddings.position_embedding.weight"].unsqueeze(0),
        "visual.head": torch.zeros(160, 32),
        "textual.token_embedding.weight": torch.zeros(3, 3),
        "log_scale": torch.zeros(()),
    }
    for kind in ("weight", "bias"):
        result[f"visual.pre_norm.{kind}"] = state[f"pre_layrnorm.{kind}"]
        result[f"visual.post_norm.{kind}"] = state[f"post_layernorm.{kind}"]
        for layer in range(encoder.config.num_hidden_layers):
            old, new = f"encoder.layers.{layer}", f"visual.transformer.{layer}"
            parts = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            result |= {
                f"{new}.norm1.{kind}": state[f"{old}.layer_norm1.{kind}"],
                f"{new}.attn.to_qkv.{kind}": torch.cat(parts),
                f"{new}.attn.proj.{kind}": state[f"{old}.self_attn.out_proj.{kind}"],
                f"{new}.norm2.{kind}": state[f"{old}.layer_norm2.{kind}"],
                f"{new}.mlp.0.{kind}": state[f"{old}.mlp.fc1.{kind}"],
                f"{new}.mlp.2.{kind}": state[f"{old}.mlp.fc2.{kind}"],
            }
    return result
