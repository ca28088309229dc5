"""The names that trainers give LoRAs' entries, and the methods that are no LoRA."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.weight_files import Kind, wan_kind, write_gguf
from infinitetalk.errors import ModelMissing
from infinitetalk.models import lora
from infinitetalk.models import transformer_loading as loading
from infinitetalk.models.lora import LoraSet
from infinitetalk.models.transformer import InfiniteTalkTransformer
from tests.support.golden import CPU, load_golden_transformer, wan_folder

# The original name of each kind of module, and its weight's name in the model.
MODULES = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q.weight",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0.weight",
    "blocks.0.cross_attn.k_img": "blocks.0.attn2.add_k_proj.weight",
    "blocks.0.cross_attn.v": "blocks.0.attn2.to_v.weight",
    "blocks.1.ffn.0": "blocks.1.ffn.net.0.proj.weight",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2.weight",
    "head.head": "proj_out.weight",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2.weight",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2.weight",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1.weight",
    "time_projection.1": "condition_embedder.time_proj.weight",
    "patch_embedding": "patch_embedding.weight",
    "blocks.0.audio_cross_attn.q_linear": "adapters.single.blocks.0.audio_cross_attn.q_linear.weight",
}
SPELLINGS = {
    "musubi-tuner": lambda module, part: f"lora_unet_{module.replace('.', '_')}.{part}.weight",
    "VideoX-Fun": lambda module, part: f"lora_unet__{module.replace('.', '_')}.{part}.weight",
    "LyCORIS": lambda module, part: f"lycoris_{module.replace('.', '_')}.{part}.weight",
    "DiffSynth-Studio": lambda module, part: (
        f"pipe.dit.{module}.{part.replace('down', 'A').replace('up', 'B')}.default.weight"
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def plain(base: Path) -> dict[str, Tensor]:
    return load_golden_transformer(base).state_dict()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_changes_the_weights_that_are_meant(
    spelling: str, base: Path, plain: dict[str, Tensor], tmp_path: Path
) -> None:
    entries, expected = {}, dict(plain)
    for module, name in MODULES.items():
        rows, columns = plain[name].shape[0], plain[name][0].numel()
        down, up = torch.randn(2, columns), torch.randn(rows, 2)
        shape = (2, *plain[name].shape[1:])
        entries[SPELLINGS[spelling](module, "lora_down")] = down.view(shape)
        entries[SPELLINGS[spelling](module, "lora_up")] = up.view(rows, 2, *[1] * (plain[name].ndim - 2))
        strength = 0.5
        if spelling != "DiffSynth-Studio":
            entries[SPELLINGS[spelling](module, "alpha").removesuffix(".weight")] = torch.tensor(1.0)
            strength *= 1.0 / 2
        for target in (name, name.replace("adapters.single", "adapters.multi")):
            expected[target] = plain[target] + strength * (up @ down).view(plain[name].shape)
    save_file(entries, tmp_path / "l.safetensors")
    merged = load_golden_transformer(base, ((tmp_path / "l.safetensors", 0.5),)).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_models_own_names_may_be_written_with_underscores(
    base: Path, plain: dict[str, Tensor], tmp_path: Path
) -> None:
    diff = torch.randn(96, 96)
    save_file({"lora_unet_blocks_0_attn1_to_out_0.diff": diff}, tmp_path / "l.safetensors")
    merged = load_golden_transformer(base, ((tmp_path / "l.safetensors", 1.0),)).state_dict()
    name = "blocks.0.attn1.to_out.0.weight"
    torch.testing.assert_close(merged[name], plain[name] + diff)


def test_underscores_that_could_mean_two_modules_are_refused(tmp_path: Path) -> None:
    save_file({"lora_unet_a_b_c.diff": torch.zeros(2, 2)}, tmp_path / "l.safetensors")
    for modules in (["a.b_c", "a_b.c"], ["a.b"], []):
        with pytest.raises(ModelMissing, match="lora_unet_a_b_c"):
            LoraSet().add(
                tmp_path / "l.safetensors", 1.0, lambda name: [name], {"a.b_c.weight", "a_b.c.weight"}, modules
            )
    changes = LoraSet()
    changes.add(tmp_path / "l.safetensors", 1.0, lambda name: [name], {"a.b_c.weight"}, ["a.b_c", "a.b.d"])
    assert list(changes.changes) == ["a.b_c.weight"]


@pytest.mark.parametrize(
    ("entries", "method"),
    [
        ({"lora_down.weight": (2, 96), "lora_up.weight": (96, 2), "dora_scale": (96, 1)}, "DoRA"),
        ({"lora_A.weight": (2, 96), "lora_B.weight": (96, 2), "lora_magnitude_vector": (96,)}, "DoRA"),
        ({"lokr_w1": (2, 2), "lokr_w2": (48, 48), "alpha": ()}, "LoKr"),
        ({"hada_w1_a": (96, 2), "hada_w1_b": (2, 96), "hada_w2_a": (96, 2), "hada_w2_b": (2, 96)}, "LoHa"),
        ({"oft_blocks": (4, 24, 24)}, "OFT"),
    ],
)
@pytest.mark.parametrize("module", ["diffusion_model.blocks.0.self_attn.q", "lora_unet_blocks_0_self_attn_q"])
def test_other_methods_are_refused_by_name(
    entries: dict[str, tuple[int, ...]], method: str, module: str, base: Path, tmp_path: Path
) -> None:
    tensors = {f"{module}.{name}": torch.ones(shape) for name, shape in entries.items()}
    save_file(tensors, tmp_path / "l.safetensors")
    with pytest.raises(ModelMissing, match=rf"l\.safetensors is a {method} .*; take a plain LoRA"):
        load_golden_transformer(base, ((tmp_path / "l.safetensors", 1.0),))


def test_the_log_says_which_loras_are_merged(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, lora.__name__)
    for name in ("one", "two"):
        save_file({"lora_unet_blocks_0_ffn_0.diff": torch.zeros(192, 96)}, tmp_path / f"{name}.safetensors")
    load_golden_transformer(base, ((tmp_path / "one.safetensors", 0.8), (tmp_path / "two.safetensors", 1.0)))
    assert "LoRA one.safetensors, scale 0.8: changes 1 weights" in caplog.text
    assert "LoRA two.safetensors, scale 1: changes 1 weights" in caplog.text


def test_a_lora_changes_what_a_quantised_base_stands_for(base: Path, tmp_path: Path) -> None:
    """Merged in float32 after the base's 8 bits, not lost in them."""
    state = load_file(base / "diffusion_pytorch_model.safetensors")
    write_gguf(tmp_path / "base.gguf", state, wan_kind(Kind.Q8_0))
    diff = torch.full((192, 96), 1e-4)
    save_file({"lora_unet_blocks_0_ffn_0.diff": diff}, tmp_path / "l.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "HEAD_DIM", 16)

        def load(*loras: tuple[Path, float]) -> InfiniteTalkTransformer:
            adapters = {"single": base / "infinitetalk.safetensors"}
            return loading.load_transformer(tmp_path / "base.gguf", adapters, loras, 12, CPU, torch.float32)

        name = "blocks.0.ffn.net.0.proj.weight"
        changed = load((tmp_path / "l.safetensors", 1.0)).state_dict()[name] - load().state_dict()[name]
    torch.testing.assert_close(changed, diff, rtol=1e-3, atol=1e-8)
