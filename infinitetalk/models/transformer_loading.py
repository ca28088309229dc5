"""The transformer from its files: the Wan base in any layout, the adapters, LoRAs merged while it is read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor

from infinitetalk.errors import ModelMissing
from infinitetalk.models import layouts, original
from infinitetalk.models.checkpoint import Checkpoint, check_shapes, read_config, weight_files
from infinitetalk.models.fp8 import quantise_block
from infinitetalk.models.lora import LoraSet
from infinitetalk.models.stored import Shape
from infinitetalk.models.transformer import InfiniteTalkTransformer

PREFETCH_BLOCKS = 10  # transformer blocks that are read ahead while the weights are loaded
# Several, because a single thread reads and copies at a fraction of what the disk and the memory can do.
READERS = 4

OUTSIDE = -1  # the number of the block for what belongs to none
HEAD_DIM = 128  # of every Wan2.1 model; a file alone does not say it

Source = tuple[Checkpoint, str]
"""Where a weight is, and its name there."""


def load_transformer(
    base: Path,
    adapters: Mapping[str, Path],
    loras: Iterable[tuple[Path, float]],
    audio_layers: int,
    device: torch.device,
    dtype: torch.dtype,
    fp8_scales: str | None = None,
) -> InfiniteTalkTransformer:
    """The transformer with its adapters, LoRAs merged.

    Args:
        base: folder of the Wan model in either layout, or one file with its transformer.
        adapters: adapter files by name.
        loras: files and their scales.
        audio_layers: layers that the audio encoder hands over.
        fp8_scales: if given, large linear layers are quantised to 8 bits, block by block as they come; see
            `Arithmetic.fp8_scales`.

    Raises:
        ModelMissing: a file is missing or cut off, or its tensors are not this model's.
    """
    transformer, sources = _without_weights(base, adapters, audio_layers)
    expected = {name: tuple(parameter.shape) for name, parameter in transformer.state_dict().items()}
    found = {new: layouts.unfolded(new, source.shapes[name], expected) for new, (source, name) in sources.items()}
    check_shapes(f"{base.name} with {' and '.join(path.name for path in adapters.values())}", expected, found)

    changes, modules = LoraSet(), _lora_modules(expected, adapters)
    for path, scale in loras:
        changes.add(path, scale, lambda name: _lora_targets(name, tuple(adapters)), expected.keys(), modules)
    keep_float32 = set(transformer._keep_in_fp32_modules)

    def read(group: list[str]) -> dict[str, Tensor]:
        return {name: sources[name][0].read(sources[name][1], device) for name in group}

    groups = _by_block(sources)
    for index, tensors in zip(groups, read_ahead(groups.values(), read, PREFETCH_BLOCKS), strict=True):
        for name, raw in tensors.items():
            target = torch.float32 if keep_float32 & set(name.split(".")) else dtype
            # What is quantised crosses to the device as it is, and becomes numbers there.
            source, stored_name = sources[name]
            tensor = source.decode(stored_name, raw.to(device, non_blocking=True)).view(expected[name])
            merged = changes.merge(name, tensor)
            set_module_tensor_to_device(transformer, name, device, value=merged, dtype=target)
        if fp8_scales is not None and index != OUTSIDE:
            quantise_block(transformer, index, fp8_scales)
    transformer.to(device).eval().requires_grad_(False)
    return transformer


def _without_weights(
    base: Path, adapters: Mapping[str, Path], audio_layers: int
) -> tuple[InfiniteTalkTransformer, dict[str, Source]]:
    """The transformer on the meta device, and where each of its weights is. Arguments as in `load_transformer`."""
    config, checkpoint = _open_base(base)
    names = layouts.transformer_names(checkpoint.shapes)
    sources = {new: (checkpoint, name) for new, name in names.items()}
    base_shapes = {new: checkpoint.shapes[name] for new, name in names.items()}
    sizes = {}
    for adapter, path in adapters.items():
        file = Checkpoint([path])
        sizes[adapter] = _adapter_sizes(path, file, audio_layers)
        sources |= {
            f"adapters.{adapter}.{new}": (file, name) for new, name in layouts.without_prefix(file.shapes).items()
        }
    with init_empty_weights():
        transformer = InfiniteTalkTransformer(
            **_transformer_config(config, base, base_shapes),
            **next(iter(sizes.values())),
            adapter_names=list(adapters),
        )
    return transformer, sources


def _lora_targets(name: str, adapters: tuple[str, ...]) -> list[str]:
    """The transformer's names of a weight that a LoRA calls `name`: its own, or the original one."""
    if ".audio_cross_attn." in name or ".norm_x." in name or name.startswith("audio_proj."):
        return [f"adapters.{adapter}.{name}" for adapter in adapters]
    return [name, original.transformer_names([name])[name]]


def _lora_modules(names: Iterable[str], adapters: Iterable[str]) -> set[str]:
    """All names that a LoRA may give the transformer's modules: their own and the original ones."""
    own = {name.rpartition(".")[0] for name in names}
    for adapter in adapters:
        own = {name.removeprefix(f"adapters.{adapter}.") for name in own}
    blocks = {name.split(".")[1] for name in own if name.startswith("blocks.")}
    return own | set(original.transformer_modules(len(blocks)))


def _open_base(base: Path) -> tuple[dict[str, Any], Checkpoint]:
    """The settings beside a Wan transformer, where it is a folder, and its weights."""
    if base.is_file():
        return {}, Checkpoint([base])
    folder = base / "transformer" if (base / "transformer" / "config.json").is_file() else base
    return read_config(folder / "config.json"), Checkpoint(weight_files(folder, "diffusion_pytorch_model"))


def _transformer_config(config: Mapping[str, Any], base: Path, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Constructor arguments, from the config file of either layout and, where it is silent, the tensors' shapes."""
    try:
        dim, in_channels, *patch = layouts.patch_embedding_shape(shapes)
        heads = config.get("num_attention_heads") or config.get("num_heads") or dim // HEAD_DIM
        if not heads or dim % heads:
            raise ModelMissing(f"{base}: {dim} channels are no heads of {HEAD_DIM}; this is not a Wan2.1 transformer.")
        return {
            "patch_size": tuple(patch),
            "num_attention_heads": heads,
            "attention_head_dim": dim // heads,
            "in_channels": in_channels,
            "out_channels": config.get("out_channels", config.get("out_dim", 16)),
            "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
            "num_layers": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            "eps": config.get("eps", 1e-6),
            "image_dim": shapes["condition_embedder.image_embedder.norm1.weight"][0],
        }
    except (TypeError, ValueError, IndexError) as error:
        raise ModelMissing(
            f"{base}: its settings or shapes ({error}) are not those of a Wan2.1 image-to-video transformer."
        ) from error
    except KeyError as error:
        raise ModelMissing(f"{base}: no {error.args[0]}; this is not a Wan2.1 image-to-video transformer.") from error


def _adapter_sizes(path: Path, file: Checkpoint, audio_layers: int) -> dict[str, int]:
    try:
        hidden, first_slots = file.shapes["audio_proj.proj1.weight"]
        (audio_dim,) = file.shapes["audio_proj.norm.weight"]
        tokens = file.shapes["audio_proj.proj3.weight"][0] // audio_dim
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelMissing(f"{path.name}: the shapes of its audio_proj are no InfiniteTalk adapter's.") from error
    channels, rest = divmod(first_slots, 5 * audio_layers)
    if rest:
        raise ModelMissing(f"{path.name}: made for another audio encoder; this one has {audio_layers} layers.")
    return {
        "audio_layers": audio_layers,
        "audio_channels": channels,
        "audio_hidden": hidden,
        "audio_tokens": tokens,
        "audio_dim": audio_dim,
    }


def _by_block(names: Iterable[str]) -> dict[int, list[str]]:
    """Names by transformer block, in order, a block's adapters with it. What is `OUTSIDE` all blocks comes first."""
    groups: dict[int, list[str]] = {}
    for name in names:
        parts = name.split(".")
        block = int(parts[parts.index("blocks") + 1]) if "blocks" in parts else OUTSIDE
        groups.setdefault(block, []).append(name)
    return dict(sorted(groups.items()))


def read_ahead(
    groups: Iterable[list[str]], read: Callable[[list[str]], dict[str, Tensor]], ahead: int
) -> Iterator[dict[str, Tensor]]:
    """Read groups in threads and yield them in order. At most `ahead` groups are read before they are taken."""
    with ThreadPoolExecutor(READERS, "weights") as executor:
        pending: deque[Future[dict[str, Tensor]]] = deque()
        for group in groups:
            pending.append(executor.submit(read, group))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
