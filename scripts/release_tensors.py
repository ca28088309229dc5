"""Writes infinitetalk/presets/weights/infinitetalk-14b.toml: names, shapes and types of every tensor of the release.

    python -m scripts.release_tensors

No weight is read: the architectures are made at their real sizes on the meta device by the classes that the release was
made with, and the names of the original layout are those from which diffusers' own converter (or, for the encoders,
infinitetalk/models/original.py) makes exactly these. The types are those of the release's files, whose sizes are
public; what the tensors take has to be just below them.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
)

from benchmarks.random_models import CLIP_VIT_H, MEL_BAND_ROFORMER, UMT5_XXL
from infinitetalk.models import original
from infinitetalk.models.separator import new_separator, released_name
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.weight_file import META, TYPES

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "infinitetalk" / "presets" / "weights" / "infinitetalk-14b.toml"
CLIP_TEXT_DIM, CLIP_TEXT_LAYERS, CLIP_TEXT_TOKENS, CLIP_TEXT_VOCABULARY = 1024, 24, 514, 250002  # XLM-RoBERTa large
PROJECTION_DIM = 1024
ITEM_BYTES = {name: dtype.itemsize for name, dtype in TYPES.items()}
# Sizes in bytes of files on the hub, as public manifests give them. A container's own share is at most this part.
PUBLISHED_BYTES = {
    ("text_encoder", "original"): 11_361_920_418,
    ("image_encoder", "original"): 4_772_359_047,
    ("vae", "original"): 507_609_880,
}
CONTAINER_SHARE = 3e-4

Shapes = dict[str, tuple[int, ...]]

_TRANSFORMER = (  # diffusers' names to the original ones, each applied once and in this order
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
    (r"^condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
    (r"\.scale_shift_table", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.add_([kv])_proj\.", r".\1_img."),
    (r"\.norm_added_k\.", ".norm_k_img."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def original_transformer(shapes: Shapes) -> Shapes:
    renamed = {}
    for name, shape in shapes.items():
        for pattern, new in _TRANSFORMER:
            name = re.sub(pattern, new, name)
        renamed[name] = shape
    return matched(renamed, original.transformer_names(renamed), shapes)


def original_vae(shapes: Shapes) -> Shapes:
    """Every name that the original modules could have, kept if the converter makes one of the model's of it."""
    parts = [f"residual.{i}.{kind}" for i in (0, 2, 3, 6) for kind in ("gamma", "weight", "bias")]
    parts += [f"{module}.{kind}" for module in ("shortcut", "resample.1", "time_conv") for kind in ("weight", "bias")]
    parts += ["norm.gamma", *(f"{module}.{kind}" for module in ("to_qkv", "proj") for kind in ("weight", "bias"))]
    blocks = [f"encoder.downsamples.{i}" for i in range(20)] + [f"decoder.upsamples.{i}" for i in range(20)]
    blocks += [f"{half}.middle.{i}" for half in ("encoder", "decoder") for i in range(3)]
    candidates = [f"{block}.{part}" for block in blocks for part in parts]
    ends = ("encoder.conv1", "decoder.conv1", "encoder.head.2", "decoder.head.2", "conv1", "conv2")
    candidates += [f"{end}.{kind}" for end in ends for kind in ("weight", "bias")]
    candidates += ["encoder.head.0.gamma", "decoder.head.0.gamma"]
    names = {name: original.vae_names([name])[name] for name in candidates}
    known = {name: new for name, new in names.items() if new in shapes and name != new}
    return matched({name: shapes[new] for name, new in known.items()}, known, shapes)


def original_t5(shapes: Shapes) -> Shapes:
    parts = ("norm1", "norm2", *(f"attn.{part}" for part in "qkvo"), "pos_embedding.embedding")
    parts += ("ffn.gate.0", "ffn.fc1", "ffn.fc2")
    candidates = ["token_embedding.weight", "norm.weight"]
    candidates += [f"blocks.{block}.{part}.weight" for block in range(UMT5_XXL["num_layers"]) for part in parts]
    names = {name: original.t5_name(name) for name in candidates}
    expected = {name: shape for name, shape in shapes.items() if name != "encoder.embed_tokens.weight"}
    return matched({name: shapes[new] for name, new in names.items()}, names, expected)


def original_clip(tower: Shapes) -> Shapes:
    """The picture half, which the tower is made from, and the text half, which is not used."""
    dim, layers = CLIP_VIT_H["hidden_size"], CLIP_VIT_H["num_hidden_layers"]
    ffn, patch = CLIP_VIT_H["intermediate_size"], CLIP_VIT_H["patch_size"]
    tokens = (CLIP_VIT_H["image_size"] // patch) ** 2 + 1
    shapes: Shapes = {
        "visual.patch_embedding.weight": (dim, 3, patch, patch),
        "visual.cls_embedding": (1, 1, dim),
        "visual.pos_embedding": (1, tokens, dim),
        "visual.head": (dim, PROJECTION_DIM),
        **linear("visual.pre_norm", dim),
        **linear("visual.post_norm", dim),
    }
    for block in (f"visual.transformer.{i}" for i in range(layers)):
        shapes |= linear(f"{block}.norm1", dim) | linear(f"{block}.attn.to_qkv", 3 * dim, dim)
        shapes |= linear(f"{block}.attn.proj", dim, dim) | linear(f"{block}.norm2", dim)
        shapes |= linear(f"{block}.mlp.0", ffn, dim) | linear(f"{block}.mlp.2", dim, ffn)
    made = {
        f"vision_model.{new}": tuple(part.shape)
        for name, shape in shapes.items()
        for new, part in original.clip_tensors(name, torch.empty(shape, device=META))
    }
    expected = {name: shape for name, shape in tower.items() if name != "visual_projection.weight"}
    if made != expected:
        raise RuntimeError("the original CLIP tower is not the same as transformers'")
    text = CLIP_TEXT_DIM
    shapes |= {
        "log_scale": (),
        "textual.token_embedding.weight": (CLIP_TEXT_VOCABULARY, text),
        "textual.type_embedding.weight": (1, text),
        "textual.pos_embedding.weight": (CLIP_TEXT_TOKENS, text),
        "textual.head.0.weight": ((text + PROJECTION_DIM) // 2, text),
        "textual.head.2.weight": (PROJECTION_DIM, (text + PROJECTION_DIM) // 2),
        **linear("textual.norm", text),
    }
    for block in (f"textual.blocks.{i}" for i in range(CLIP_TEXT_LAYERS)):
        for part in "qkvo":
            shapes |= linear(f"{block}.attn.{part}", text, text)
        shapes |= linear(f"{block}.norm1", text) | linear(f"{block}.norm2", text)
        shapes |= linear(f"{block}.ffn.0", 4 * text, text) | linear(f"{block}.ffn.2", text, 4 * text)
    return shapes


def linear(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def matched(found: Shapes, names: Mapping[str, str], expected: Shapes) -> Shapes:
    """`found`, if `names` makes exactly `expected` of it."""
    if {names[name]: shape for name, shape in found.items()} != expected:
        raise RuntimeError("the names do not lead back to the model's")
    return found


def audio_encoder() -> Shapes:
    """chinese-wav2vec2-base is of the pretraining class, and older than the present names of its weight norm."""
    norm = "conv.parametrizations.weight.original"
    shapes = shapes_of(Wav2Vec2ForPreTraining(Wav2Vec2Config()))
    return {
        name.replace(f"{norm}0", "conv.weight_g").replace(f"{norm}1", "conv.weight_v"): shape
        for name, shape in shapes.items()
    }


def adapter() -> Shapes:
    prefix = "adapters.single."
    shapes = shapes_of(InfiniteTalkTransformer(adapter_names=["single"]))
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def separator() -> Shapes:
    """The separator of vocals, whose class is newer than the names in the released file."""
    with torch.device("cpu"), init_empty_weights():  # its bands are computed when it is made
        return {released_name(name): shape for name, shape in shapes_of(new_separator(**MEL_BAND_ROFORMER)).items()}


def release() -> dict[tuple[str, str], tuple[str, str, Shapes]]:
    """By part and layout: a description, the type, the shapes."""
    transformer = shapes_of(WanTransformer3DModel(in_channels=36, image_dim=1280, added_kv_proj_dim=5120))
    vae = shapes_of(AutoencoderKLWan())
    t5 = shapes_of(UMT5EncoderModel(UMT5Config(**UMT5_XXL, feed_forward_proj="gated-gelu")))
    clip = shapes_of(CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_VIT_H, projection_dim=PROJECTION_DIM)))
    saved_t5 = {name: shape for name, shape in t5.items() if name != "encoder.embed_tokens.weight"}
    i2v = "Wan2.1's image-to-video transformer of 14B, 480P or 720P"
    return {
        ("transformer", "original"): (i2v, "F32", original_transformer(transformer)),
        ("transformer", "diffusers"): (i2v, "F32", transformer),
        ("text_encoder", "original"): ("umT5-XXL's encoder", "BF16", original_t5(t5)),
        ("text_encoder", "diffusers"): ("umT5-XXL's encoder", "F32", saved_t5),
        ("image_encoder", "original"): ("CLIP XLM-RoBERTa ViT-H", "F32", original_clip(clip)),
        ("image_encoder", "diffusers"): ("CLIP ViT-H's vision tower", "F32", clip),
        ("vae", "original"): ("Wan2.1's autoencoder", "F32", original_vae(vae)),
        ("vae", "diffusers"): ("Wan2.1's autoencoder", "F32", vae),
        ("audio_encoder", "transformers"): ("wav2vec2-base with its pretraining heads", "F32", audio_encoder()),
        ("adapter", "original"): ("InfiniteTalk's adapter, for one person or for several", "F32", adapter()),
        ("separator", "original"): ("the Mel-Band RoFormer of vocals", "F16", separator()),
    }


def rows(shapes: Shapes) -> list[tuple[str, tuple[int, ...], int]]:
    """Name pattern, shape and count: {0-39} stands for these numbers in the name."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
    for name, shape in shapes.items():
        head, number, tail = re.match(r"(.*?\.)(\d+)(\..*)|.*", name).groups()  # type: ignore[union-attr]
        key = (name, "", shape) if number is None else (head, tail, shape)
        groups.setdefault(key, []).append(-1 if number is None else int(number))
    result = []
    for (head, tail, shape), numbers in groups.items():
        pattern = head if numbers == [-1] else f"{head}{{{spans(numbers)}}}{tail}"
        result.append((pattern, shape, len(numbers)))
    return result


def spans(numbers: Iterable[int]) -> str:
    """0,1,2,5 as 0-2,5."""
    parts = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)


def table() -> str:
    lines = [
        "# Names, shapes and types of every tensor of the release. Made by scripts/release_tensors.py, which says how.",
        "# {0-39} stands for these numbers; the last column counts the tensors that a line stands for.",
    ]
    with torch.device("meta"):
        parts = release()
    for (part, layout), (what, kind, shapes) in parts.items():
        size = sum(ITEM_BYTES[kind] * torch.Size(shape).numel() for shape in shapes.values())
        published = PUBLISHED_BYTES.get((part, layout))
        if published and not 0 < published - size < CONTAINER_SHARE * published:
            raise RuntimeError(f"{part}: {size} bytes of tensors are not those of a file of {published}")
        lines += ["", "[[files]]", f'part = "{part}"', f'layout = "{layout}"', f'what = "{what}"']
        lines += [f"n_tensors = {len(shapes)}", f"n_bytes = {size}", f'dtype = "{kind}"', "tensors = ["]
        lines += [f'    ["{pattern}", {list(shape)}, {count}],' for pattern, shape, count in rows(shapes)]
        lines.append("]")
    return "\n".join(lines) + "\n"


def main() -> None:
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(), "utf-8")
    print(f"written to {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
