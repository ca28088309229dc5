"""The formats that users have, in their own key names, and what is wrong with broken ones."""

import gc
import json
import shutil
import time
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitetalk.contract.presets import load_profile
from infinitetalk.errors import ModelMissing
from infinitetalk.models import transformer_loading as loading
from infinitetalk.models.checkpoint import Checkpoint, weight_files
from infinitetalk.models.opening import Models, load_models
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.startup.weights import Weights
from tests.support.full_size import shapes_of, write_hollow_safetensors
from tests.support.golden import (
    ADAPTER,
    CPU,
    audio_shape,
    dit_config,
    load_golden_transformer,
    wan_folder,
)
from tests.support.loading import same_weights, watch_anonymous_memory

BASE = "diffusion_pytorch_model.safetensors"
PACKAGE = Path(loading.__file__).parents[1]
DIM, HEADS, LAYERS = dit_config()["dim"], dit_config()["num_heads"], audio_shape()[0]


def load_miniature(device: torch.device) -> Models:
    return load_models(Weights.below(PACKAGE, load_profile("miniature")).files, device, torch.float32)


@pytest.fixture(scope="module")
def miniature() -> Models:
    return load_miniature(CPU)


def test_nothing_is_tiled_swapped_or_offloaded(miniature: Models) -> None:
    assert not miniature.vae.use_tiling
    parts = (miniature.transformer, miniature.vae, miniature.text_encoder, miniature.image_encoder)
    for part in (*parts, miniature.audio_encoder):
        assert {tensor.device for tensor in part.state_dict().values()} == {miniature.device}
        assert not hasattr(part, "_hf_hook"), "accelerate would move it"
    assert loading.PREFETCH_BLOCKS == 10


# --- the transformer -------------------------------------------------------------------------------------------


def split_into_shards(file: Path, folder: Path, count: int) -> None:
    """The release's layout: diffusion_pytorch_model-0000i-of-0000n.safetensors."""
    state = load_file(file)
    names = sorted(state)
    for shard in range(count):
        part = {name: state[name] for name in names[shard::count]}
        save_file(part, folder / f"diffusion_pytorch_model-{shard + 1:05d}-of-{count:05d}.safetensors")


def test_original_shards_and_diffusers_folder_give_the_same_transformer(tmp_path: Path) -> None:
    single = load_golden_transformer(wan_folder(tmp_path))
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shutil.copy(tmp_path / "config.json", sharded)
    split_into_shards(tmp_path / BASE, sharded, 7)
    shutil.copy(tmp_path / ADAPTER, sharded)
    assert same_weights(load_golden_transformer(sharded), single)

    folder = tmp_path / "diffusers" / "transformer"
    folder.mkdir(parents=True)
    state = {name: tensor for name, tensor in single.state_dict().items() if not name.startswith("adapters.")}
    halves = [dict(list(state.items())[part::2]) for part in range(2)]
    index = {}
    for part, tensors_ in enumerate(halves):
        file = f"diffusion_pytorch_model-{part + 1:05d}-of-00002.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors_.items()}, folder / file)
        index |= dict.fromkeys(tensors_, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")
    config = {"_class_name": "WanTransformer3DModel", "num_attention_heads": HEADS, "out_channels": 16, "eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copy(tmp_path / ADAPTER, folder.parent)
    assert same_weights(load_golden_transformer(folder.parent), single)


def test_half_precision_keeps_norms_and_modulation_in_float32(tmp_path: Path) -> None:
    base = wan_folder(tmp_path)
    transformer = loading.load_transformer(base, {"single": base / ADAPTER}, (), LAYERS, CPU, torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in transformer.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert dtypes["adapters.single.blocks.0.audio_cross_attn.q_linear.weight"] == torch.bfloat16
    for name in (
        "blocks.0.scale_shift_table",
        "blocks.0.norm2.weight",
        "adapters.single.blocks.0.norm_x.weight",
        "condition_embedder.time_proj.weight",
    ):
        assert dtypes[name] == torch.float32
    assert transformer.dtype == torch.bfloat16
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in transformer.parameters())


def test_reading_is_ahead_by_the_promised_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[str(index)] for index in range(25)]
    read: list[str] = []

    def keep(group: list[str]) -> dict[str, Tensor]:
        read.extend(group)
        return {group[0]: torch.zeros(1)}

    taken = loading.read_ahead(groups, keep, loading.PREFETCH_BLOCKS)
    assert list(next(taken)) == ["0"]
    deadline_s = time.monotonic() + 10
    while len(read) < loading.PREFETCH_BLOCKS + 1 and time.monotonic() < deadline_s:
        time.sleep(0.01)  # the reading thread catches up
    assert len(read) == loading.PREFETCH_BLOCKS + 1 == 11
    assert [next(iter(tensors_)) for tensors_ in taken] == [str(index) for index in range(1, 25)]


def test_blocks_come_in_order_whichever_is_read_first() -> None:
    def read(group: list[str]) -> dict[str, Tensor]:
        time.sleep(0.05 if group == ["0"] else 0)
        return {group[0]: torch.zeros(1)}

    groups = [[str(index)] for index in range(8)]
    assert [list(tensors_) for tensors_ in loading.read_ahead(groups, read, 3)] == groups


def test_no_second_copy_of_the_model_is_in_host_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is played by a float32 model beside bfloat16 files: what is read is copied and let go."""
    sizes = {"num_attention_heads": 4, "attention_head_dim": 128, "ffn_dim": 1024, "num_layers": 40}
    sizes |= {"text_dim": 64, "image_dim": 64, "freq_dim": 64}
    sizes |= {"audio_dim": 64, "audio_hidden": 64, "audio_tokens": 2, "audio_channels": 64}
    with torch.device("meta"):
        shapes = shapes_of(InfiniteTalkTransformer(**sizes))
    adapters = {}
    for name in ("single", "multi"):
        prefix = f"adapters.{name}."
        adapters[name] = tmp_path / f"{name}.safetensors"
        part = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        write_hollow_safetensors(adapters[name], part)
    wan = {name: shape for name, shape in shapes.items() if not name.startswith("adapters.")}
    write_hollow_safetensors(tmp_path / "transformer" / BASE, wan)
    config = {"num_attention_heads": 4, "out_channels": 16}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config), "utf-8")
    place, ahead_bytes = loading.set_module_tensor_to_device, []

    def place_slowly(*args: object, **kwargs: object) -> None:
        if not ahead_bytes:
            time.sleep(1)  # the reading thread runs ahead as far as it may
            ahead_bytes.append(growth_bytes[-1])
        place(*args, **kwargs)

    monkeypatch.setattr(loading, "set_module_tensor_to_device", place_slowly)
    gc.collect()
    with watch_anonymous_memory() as growth_bytes:
        transformer = loading.load_transformer(tmp_path, adapters, (), 12, CPU, torch.float32)
    model_bytes = sum(parameter.nbytes for parameter in transformer.parameters())
    # In half the precision the whole model is a half, and 11 of its 40 blocks an eighth.
    assert ahead_bytes[0] < 0.25 * model_bytes
    assert 0.5 * model_bytes < max(growth_bytes) < 1.25 * model_bytes  # memory of earlier tests may be used again


def test_weights_on_the_meta_device_are_checked_and_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = load_miniature(torch.device("meta"))
    for model in (models.transformer, models.vae, models.text_encoder, models.image_encoder, models.audio_encoder):
        assert all(parameter.is_meta for parameter in model.parameters())
    base = write_base(tmp_path, {"blocks.1.ffn.2.bias": torch.zeros(DIM - 1)})
    with pytest.raises(ModelMissing, match=r"of another shape: blocks.1.ffn.net.2.bias"):
        loading.load_transformer(base, {"single": base / ADAPTER}, (), LAYERS, torch.device("meta"), torch.float32)
    pair = {"diffusion_model.blocks.0.ffn.0.lora_down.weight": torch.zeros(4, 7)}
    pair["diffusion_model.blocks.0.ffn.0.lora_up.weight"] = torch.zeros(8, 4)
    save_file(pair, tmp_path / "lora.safetensors")
    base = wan_folder(tmp_path)
    with pytest.raises(ModelMissing, match=r"lora\.safetensors: the change of blocks\.0\.ffn.* does not fit"):
        loading.load_transformer(
            base, {"single": base / ADAPTER}, [(tmp_path / "lora.safetensors", 1.0)], LAYERS, torch.device("meta"),
            torch.float32,
        )  # fmt: skip


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    wan_folder(tmp_path)
    split_into_shards(tmp_path / BASE, tmp_path, 7)
    (tmp_path / BASE).unlink()
    (tmp_path / "diffusion_pytorch_model-00003-of-00007.safetensors").unlink()
    with pytest.raises(ModelMissing, match="00003-of-00007"):
        load_golden_transformer(tmp_path)


def test_an_empty_folder_and_a_missing_config_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"config\.json is missing"):
        load_golden_transformer(tmp_path)
    with pytest.raises(ModelMissing, match="no diffusion_pytorch_model"):
        weight_files(tmp_path, "diffusion_pytorch_model")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    wan_folder(tmp_path)
    file = tmp_path / BASE
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelMissing, match=r"diffusion_pytorch_model\.safetensors cannot be read"):
        load_golden_transformer(tmp_path)


def write_base(folder: Path, changes: dict[str, Tensor | None]) -> Path:
    """The golden base with tensors replaced, added or (None) removed."""
    wan_folder(folder)
    file = folder / BASE
    state = load_file(file) | changes
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, file)
    return folder


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("blocks.1.ffn.2.bias", None, "missing: blocks.1.ffn.net.2.bias"),
        (
            "blocks.1.ffn.2.bias",
            torch.zeros(DIM - 1),
            rf"of another shape: blocks.1.ffn.net.2.bias \[{DIM - 1}\] for \[{DIM}\]",
        ),
        ("blocks.1.ffn.3.bias", torch.zeros(DIM), "unexpected: blocks.1.ffn.3.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(name: str, tensor: Tensor | None, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=problem):
        load_golden_transformer(write_base(tmp_path, {name: tensor}))


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    base = wan_folder(tmp_path)
    other = {name: tensor for name, tensor in load_file(base / ADAPTER).items() if ".1." not in name}
    save_file(other, tmp_path / "fewer_blocks.safetensors")
    wider = load_file(base / ADAPTER)
    wider["blocks.0.audio_cross_attn.q_linear.weight"] = torch.zeros(2 * DIM, 2 * DIM)
    save_file(wider, tmp_path / "wider.safetensors")
    for file, problem in (("fewer_blocks", "missing: adapters.single.blocks.1"), ("wider", "of another shape")):
        with pytest.raises(ModelMissing, match=problem):
            loading.load_transformer(base, {"single": tmp_path / f"{file}.safetensors"}, (), LAYERS, CPU, torch.float32)
    with pytest.raises(ModelMissing, match=r"has no tensor audio_proj\.proj1\.weight"):
        loading.load_transformer(base, {"single": base / BASE}, (), LAYERS, CPU, torch.float32)
    with pytest.raises(ModelMissing, match="another audio encoder"):
        loading.load_transformer(base, {"single": base / ADAPTER}, (), prod(audio_shape()) + 1, CPU, torch.float32)


def test_checkpoints_refuse_what_is_no_weight_file(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>", "utf-8")
    with pytest.raises(ModelMissing, match=r"page\.pth cannot be read"):
        Checkpoint([tmp_path / "page.pth"])
    for content in ([torch.zeros(2)], {"state_dict": {"weight": torch.zeros(2)}}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ModelMissing, match="other things than tensors"):
            Checkpoint([tmp_path / "other.pth"])


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelMissing, match=r"model\.safetensors\.index\.json"):
        weight_files(tmp_path, "model")


# --- a whole profile --------------------------------------------------------------------------------------------


def test_miniature_is_made_of_the_14b_profiles_classes(miniature: Models) -> None:
    assert type(miniature.transformer).__name__ == "InfiniteTalkTransformer"
    assert set(miniature.transformer.adapters) == {"single", "multi"}
    assert miniature.dtype == torch.float32
    total = sum(path.stat().st_size for path in (PACKAGE / "miniature").rglob("*") if path.is_file())
    assert total <= 16_000_000
