"""GGUF and fp8 files, written by the formats' own writers, give the numbers that these writers' own readers give."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.weight_files import Kind, adapter_kind, ggml_quantise, scaled, wan_kind, write_fp8, write_gguf
from infinitetalk.errors import ModelMissing
from infinitetalk.models import gguf_files, original
from infinitetalk.models import transformer_loading as loading
from infinitetalk.models.checkpoint import Checkpoint
from infinitetalk.models.transformer import InfiniteTalkTransformer
from tests.support.full_size import shapes_of
from tests.support.full_size_comfyui import write_hollow_gguf
from tests.support.golden import ADAPTER, CPU, load_golden_transformer, wan_folder
from tests.support.loading import same_weights, watch_anonymous_memory

BASE = "diffusion_pytorch_model.safetensors"
K_KINDS = (Kind.Q6_K, Kind.Q5_K, Kind.Q4_K, Kind.Q3_K, Kind.Q2_K, Kind.IQ4_XS)
KINDS = (Kind.Q8_0, *K_KINDS, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0, Kind.IQ4_NL)
# Relative error of one matrix of normal numbers that each kind may make; half of it would be too little for any.
LARGEST_ERROR = {Kind.Q8_0: 0.006, Kind.Q6_K: 0.02, Kind.Q5_K: 0.04, Kind.Q4_K: 0.08}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02


def numbers_of(file: Checkpoint, name: str) -> Tensor:
    return file.decode(name, file.read(name))


def relative_error(tensor: Tensor, other: Tensor) -> float:
    return ((tensor - other).square().mean() / other.square().mean()).sqrt().item()


# --- GGUF ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_dequantised_to_the_bits_of_the_reference(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files, "CHUNK", 1024)  # the last part is shorter
    numbers = normal(7, 512)
    write_gguf(tmp_path / "a.gguf", {"a.weight": numbers}, lambda *_: kind)
    file = Checkpoint([tmp_path / "a.gguf"])
    assert file.shapes == {"a.weight": (7, 512)}
    expected = dequantize(ggml_quantise(numbers.numpy(), kind), kind)
    assert np.array_equal(numbers_of(file, "a.weight").numpy(), expected)
    if kind in LARGEST_ERROR:
        assert LARGEST_ERROR[kind] / 2 < relative_error(numbers_of(file, "a.weight"), numbers) < LARGEST_ERROR[kind]


@pytest.mark.parametrize(("kind", "dtype"), gguf_files.PLAIN.items(), ids=lambda value: str(value))
def test_numbers_that_are_not_quantised_come_as_they_are(kind: Kind, dtype: torch.dtype, tmp_path: Path) -> None:
    numbers = normal(3, 5, 2).to(dtype)
    write_gguf(tmp_path / "a.gguf", {"a": numbers, "b": numbers[0, 0]}, lambda *_: kind)
    file = Checkpoint([tmp_path / "a.gguf"])
    assert torch.equal(numbers_of(file, "a"), numbers)
    assert torch.equal(numbers_of(file, "b"), numbers[0, 0])


def fold(state: dict[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What a format of at most four dimensions without leading ones makes of the golden base."""
    folded = {name: tensor.squeeze(0) if "modulation" in name else tensor for name, tensor in state.items()}
    return folded | {"patch_embedding.weight": state["patch_embedding.weight"].reshape(shape)}


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q6_K, Kind.Q5_K, Kind.Q4_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("prefix", "patch"),
    [("", (96, 36, 1, 2, 2)), ("model.diffusion_model.", (96, 144)), ("diffusion_model.", (96 * 36, 1, 2, 2))],
    ids=["five dimensions", "flattened", "folded"],
)
def test_a_base_and_adapters_in_gguf(
    kind: Kind, prefix: str, patch: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole transformer, in city96's and Kijai's layouts, is the one whose weights the reference dequantises."""
    folder = wan_folder(tmp_path)
    base, adapter = load_file(folder / BASE), load_file(folder / ADAPTER)
    state = base if len(patch) == 5 else fold(base, patch)
    kinds = write_gguf(
        tmp_path / "base.gguf", {prefix + name: tensor for name, tensor in state.items()}, wan_kind(kind)
    )
    adapter_kinds = write_gguf(tmp_path / "adapter.gguf", adapter, adapter_kind(Kind.Q8_0))
    assert kinds[f"{prefix}blocks.0.self_attn.q.weight"] == kind
    assert adapter_kinds["audio_proj.proj1.weight"] == Kind.Q8_0
    monkeypatch.setattr(loading, "HEAD_DIM", 16)
    adapters = dict.fromkeys(("single", "multi"), tmp_path / "adapter.gguf")
    loaded = loading.load_transformer(tmp_path / "base.gguf", adapters, (), 12, CPU, torch.float32)

    for name, tensor in base.items():
        base[name] = as_dequantised(tensor, kinds[prefix + name])
    for name, tensor in adapter.items():
        adapter[name] = as_dequantised(tensor, adapter_kinds[name])
    save_file(base, folder / BASE)
    save_file(adapter, folder / ADAPTER)
    assert same_weights(loaded, load_golden_transformer(folder))


def as_dequantised(tensor: Tensor, kind: Kind) -> Tensor:
    """What the gguf package's own functions make of a tensor."""
    if kind == Kind.F16:
        return tensor.half().float()
    if kind == Kind.F32:
        return tensor
    width = tensor.shape[-1] if tensor.shape[-1] % (32 if kind == Kind.Q8_0 else 256) == 0 else 256
    blocks = ggml_quantise(tensor.float().numpy().reshape(-1, width), kind)
    return torch.from_numpy(dequantize(blocks, kind)).view(tensor.shape)


def test_a_kind_that_is_not_read_is_named_with_those_that_are(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "wan")
    writer.add_tensor("a.weight", np.zeros((2, 66), np.uint8), raw_dtype=Kind.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelMissing, match=r"a\.weight is quantised as IQ2_XXS, .* put a file in one of F32, .*Q8_0"):
        Checkpoint([tmp_path / "a.gguf"])


def test_a_gguf_that_is_cut_off_or_garbled_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, {"a.weight": normal(64, 512)}, lambda *_: Kind.Q8_0)
    whole = path.read_bytes()
    for content in (whole[:-600], whole[:100], whole[:40], whole[:4] + b"\xff" * 60):
        path.write_bytes(content)
        with pytest.raises(ModelMissing, match=r"a\.gguf cannot be read \(a GGUF file, incomplete or damaged"):
            Checkpoint([path])
    path.write_bytes(whole)
    file = Checkpoint([path])
    path.write_bytes(whole[:-600])
    with pytest.raises(ModelMissing, match=r"a\.gguf cannot be read \(it has become shorter"):
        file.read("a.weight")


def test_a_quantised_model_is_never_in_memory_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and dequantised tensor by tensor: what is in memory besides the model is a few tensors."""
    sizes = {"num_attention_heads": 8, "attention_head_dim": 128, "ffn_dim": 2048, "num_layers": 8}
    sizes |= {"text_dim": 64, "image_dim": 64, "freq_dim": 64}
    sizes |= {"audio_dim": 64, "audio_hidden": 64, "audio_tokens": 2, "audio_channels": 64}
    with torch.device("meta"):
        shapes = shapes_of(InfiniteTalkTransformer(**sizes))
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        _, adapter, key = name.split(".", 2) if name.startswith("adapters.") else ("", "base", name)
        parts.setdefault(adapter, {})[key] = shape
    for adapter, part in parts.items():
        kind_of = lambda _, shape: Kind.Q4_K if len(shape) == 2 and shape[1] % 256 == 0 else Kind.F32  # noqa: E731
        write_hollow_gguf(tmp_path / f"{adapter}.gguf", part, kind_of)
    monkeypatch.setattr(loading, "READERS", 1)  # how many tensors several have at once is chance
    adapters = {name: tmp_path / f"{name}.gguf" for name in ("single", "multi")}
    with watch_anonymous_memory() as growth_bytes:
        transformer = loading.load_transformer(tmp_path / "base.gguf", adapters, (), 12, CPU, torch.float32)
    model_bytes = sum(parameter.nbytes for parameter in transformer.parameters())
    assert model_bytes > 6e8
    assert max(growth_bytes) < 1.3 * model_bytes  # a seventh is the file itself; the rest is what one tensor needs


# --- fp8 -----------------------------------------------------------------------------------------------------------


def fp8_of(state: dict[str, Tensor], dtype: torch.dtype, scale: str | None) -> dict[str, Tensor]:
    """What matrices become in 8 bits, computed by themselves."""

    def become(tensor: Tensor) -> Tensor:
        if tensor.ndim != 2:
            return tensor.float() if tensor.ndim < 2 else tensor.half().float()
        if scale is None:
            return tensor.to(dtype).float()
        numbers, scales = scaled(tensor, dtype, scale)
        if scales.ndim == 3:
            return (numbers.float().view(len(tensor), -1, 32) * scales).view(tensor.shape)
        return numbers.float() * scales

    return {name: become(tensor) if name.endswith(".weight") else tensor for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(
    ("scale", "names"),
    [
        (None, ""),
        ("tensor", "scale_weight"),
        ("row", "scale_weight"),
        ("block", "scale_weight"),
        ("tensor", "weight_scale"),
    ],
)
def test_a_base_and_adapters_in_fp8(
    dtype: torch.dtype, scale: str | None, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wan_folder(tmp_path)
    base, adapter = load_file(folder / BASE), load_file(folder / ADAPTER)
    base = {name: tensor.half().float() for name, tensor in base.items()}  # modulation is kept in float16
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in base.items()}
    write_fp8(tmp_path / "base_fp8.safetensors", prefixed, dtype, scale, names)
    write_fp8(tmp_path / "adapter_fp8.safetensors", adapter, dtype, scale, names)
    monkeypatch.setattr(loading, "HEAD_DIM", 16)
    adapters = dict.fromkeys(("single", "multi"), tmp_path / "adapter_fp8.safetensors")
    loaded = loading.load_transformer(tmp_path / "base_fp8.safetensors", adapters, (), 12, CPU, torch.float32)
    save_file(fp8_of(base, dtype, scale), folder / BASE)
    save_file(fp8_of(adapter, dtype, scale), folder / ADAPTER)
    expected = load_golden_transformer(folder)
    assert same_weights(loaded, expected)
    assert not same_weights(loaded, load_golden_transformer(wan_folder(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"a.scale_weight": torch.ones(3)}, r"the scale of a\.weight \[4, 8\] has the shape \[3\]; it should be one"),
        ({"a.scale_weight": torch.ones(4, 3, 1)}, r"\[4, 3, 1\]"),
        ({"a.comfy_quant": b'{"format": "nvfp4"}'}, "a is quantised as nvfp4, .* put a file there in float8_e4m3fn or"),
        ({"a.comfy_quant": b"[]"}, "does not say how"),
    ],
)
def test_scales_and_formats_that_do_not_fit_are_named(
    changes: dict[str, Tensor | bytes], problem: str, tmp_path: Path
) -> None:
    tensors = {"a.weight": normal(4, 8).to(torch.float8_e4m3fn)}
    for name, value in changes.items():
        tensors[name] = torch.tensor(list(value), dtype=torch.uint8) if isinstance(value, bytes) else value
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelMissing, match=problem):
        Checkpoint([tmp_path / "a.safetensors"])


def test_a_scale_without_its_weight_is_not_taken_for_nothing(tmp_path: Path) -> None:
    save_file({"b.weight": normal(4, 8), "a.scale_weight": torch.ones(())}, tmp_path / "a.safetensors")
    assert set(Checkpoint([tmp_path / "a.safetensors"]).shapes) == {"b.weight", "a.scale_weight"}


# --- whichever name a file has ---------------------------------------------------------------------------------------


def as_gguf(path: Path, tensors: dict[str, Tensor]) -> None:
    write_gguf(path, tensors, lambda *_: Kind.F32)


@pytest.mark.parametrize(
    "write", [as_gguf, lambda path, tensors: save_file(tensors, path), lambda path, t: torch.save(t, path)]
)
@pytest.mark.parametrize("suffix", ["gguf", "safetensors", "pth", "bin"])
def test_a_format_is_seen_from_the_content(
    write: Callable[[Path, dict[str, Tensor]], None], suffix: str, tmp_path: Path
) -> None:
    tensors = {"a.weight": normal(4, 8)}
    write(tmp_path / f"a.{suffix}", tensors)
    assert torch.equal(Checkpoint([tmp_path / f"a.{suffix}"]).read("a.weight").view(4, 8), tensors["a.weight"])


def test_the_list_of_the_original_modules_is_whole(tmp_path: Path) -> None:
    modules = {name.rpartition(".")[0] for name in load_file(wan_folder(tmp_path) / BASE) if "modulation" not in name}
    assert set(original.transformer_modules(2)) == modules
