"""LoRA merging against the authors' numbers, and what they leave out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infinitetalk.errors import ModelMissing
from infinitetalk.models import original
from infinitetalk.models.transformer import InfiniteTalkTransformer
from tests.models.test_transformer import ATOL, Case
from tests.support.golden import GOLDEN, clip_features, dit_config, load_golden_transformer, tensors, wan_folder

LORA = GOLDEN / "lora" / "lora.safetensors"
WITH_ALPHA = GOLDEN / "lora" / "lora_with_alpha.safetensors"
SCALE = 0.8
DIM, LAYERS = dit_config()["dim"], dit_config()["num_layers"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "wan"
    folder.mkdir()
    return wan_folder(folder)


def without_alpha(folder: Path) -> Path:
    """The LoRA whose alphas the authors' code ignores, without them."""
    pairs = {name: tensor for name, tensor in tensors("lora/lora_with_alpha").items() if not name.endswith(".alpha")}
    save_file(pairs, folder / "no_alpha.safetensors")
    return folder / "no_alpha.safetensors"


def predict(transformer: InfiniteTalkTransformer, features: int = 0) -> torch.Tensor:
    """features: see golden.CLIP_FEATURES; 2 for a LoRA that also changes the image embedding."""
    with torch.inference_mode():
        case = Case("dit_single", transformer)
        case.image = transformer.embed_image(clip_features(features))
        return case.predict("cond", 0, 0)


def test_merged_weights_and_output_are_met(base: Path) -> None:
    transformer = load_golden_transformer(base, ((LORA, SCALE),))
    weights, plain = transformer.state_dict(), load_golden_transformer(base).state_dict()
    stored = tensors("lora/outputs")["noise_pred.scale0.8"]
    torch.testing.assert_close(predict(transformer, 2), stored, rtol=0, atol=ATOL)
    merged = tensors("lora/merged_scale0.8")
    names = original.transformer_names(merged)
    for name, tensor in merged.items():
        torch.testing.assert_close(weights[names[name]], tensor, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    changed = {name for name in weights if not torch.equal(weights[name], plain[name])}
    assert changed == set(names.values())


def test_several_loras_add_up(base: Path, tmp_path: Path) -> None:
    transformer = load_golden_transformer(base, ((LORA, SCALE), (without_alpha(tmp_path), 1.2)))
    stored = tensors("lora/outputs")["noise_pred.lora_0.8_then_with_alpha_1.2"]
    torch.testing.assert_close(predict(transformer, 2), stored, rtol=0, atol=ATOL)


def test_alpha_scales_by_alpha_over_rank_where_the_authors_ignore_it(base: Path, tmp_path: Path) -> None:
    stored = tensors("lora/outputs")["noise_pred.with_alpha_scale0.8"]
    ignored = load_golden_transformer(base, ((without_alpha(tmp_path), SCALE),))
    torch.testing.assert_close(predict(ignored), stored, rtol=0, atol=ATOL)
    honoured = load_golden_transformer(base, ((WITH_ALPHA, SCALE),)).state_dict()
    plain, pairs = load_golden_transformer(base).state_dict(), tensors("lora/lora_with_alpha")
    checked = 0
    for entry, alpha in pairs.items():
        if not entry.endswith(".alpha"):
            continue
        module = entry.removesuffix(".alpha")
        down, up = pairs[f"{module}.lora_down.weight"], pairs[f"{module}.lora_up.weight"]
        name = f"{module.removeprefix('diffusion_model.')}.weight"
        name = original.transformer_names([name])[name]
        expected = plain[name] + SCALE * alpha / down.shape[0] * (up @ down)
        torch.testing.assert_close(honoured[name], expected, rtol=0, atol=1e-6)
        checked += alpha.item() != down.shape[0]
    assert checked


def test_other_spellings_change_the_same_weights(base: Path, tmp_path: Path) -> None:
    """lora_A/lora_B, keys without prefix and diffusers' module names: all ignored by the authors' code."""
    down, up = torch.randn(2, DIM), torch.randn(DIM, 2)
    spellings = [
        ("diffusion_model.blocks.0.self_attn.q", "lora_down", "lora_up"),
        ("blocks.0.self_attn.q", "lora_A", "lora_B"),
        ("transformer.blocks.0.attn1.to_q", "lora_A", "lora_B"),
    ]
    merged = []
    for module, down_name, up_name in spellings:
        save_file({f"{module}.{down_name}.weight": down, f"{module}.{up_name}.weight": up}, tmp_path / "l.safetensors")
        state = load_golden_transformer(base, ((tmp_path / "l.safetensors", 1.0),)).state_dict()
        merged.append(state["blocks.0.attn1.to_q.weight"])
    assert torch.equal(merged[0], merged[1])
    assert torch.equal(merged[0], merged[2])
    assert not torch.equal(merged[0], load_golden_transformer(base).state_dict()["blocks.0.attn1.to_q.weight"])


def test_diff_and_pair_on_one_weight_both_count(base: Path, tmp_path: Path) -> None:
    down, up, diff = torch.randn(2, DIM), torch.randn(DIM, 2), torch.randn(DIM, DIM)
    entries = {"lora_down.weight": down, "lora_up.weight": up, "diff": diff}
    save_file({f"blocks.1.self_attn.v.{kind}": tensor for kind, tensor in entries.items()}, tmp_path / "l.safetensors")
    name = "blocks.1.attn1.to_v.weight"
    plain = load_golden_transformer(base).state_dict()[name]
    merged = load_golden_transformer(base, ((tmp_path / "l.safetensors", 0.5),)).state_dict()[name]
    torch.testing.assert_close(merged, plain + 0.5 * (up @ down + diff))


def test_modulation_tables_and_adapter_weights_can_be_changed(base: Path, tmp_path: Path) -> None:
    table, head, norm = torch.randn(1, 6, DIM), torch.randn(1, 2, DIM), torch.randn(DIM)
    entries = {
        "blocks.0.modulation.diff": table,
        "diffusion_model.blocks.1.diff_m": table.clone(),  # lightx2v's spelling
        "diffusion_model.head.diff_m": head,
        "blocks.0.norm_x.diff": norm,
    }
    save_file(entries, tmp_path / "l.safetensors")
    plain = load_golden_transformer(base).state_dict()
    merged = load_golden_transformer(base, ((tmp_path / "l.safetensors", 1.0),)).state_dict()
    for block in range(2):
        name = f"blocks.{block}.scale_shift_table"
        torch.testing.assert_close(merged[name], plain[name] + table)
    torch.testing.assert_close(merged["scale_shift_table"], plain["scale_shift_table"] + head)
    for adapter in ("single", "multi"):
        name = f"adapters.{adapter}.blocks.0.norm_x.weight"
        torch.testing.assert_close(merged[name], plain[name] + norm)


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({f"diffusion_model.blocks.{LAYERS}.self_attn.q.diff": (DIM, DIM)}, f"blocks.{LAYERS}.self_attn.q.diff"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_down.weight": (2, DIM)}, "lora_down"),
        ({"diffusion_model.blocks.0.self_attn.q.lokr_w1": (2, 2)}, "lokr_w1"),
        ({"diffusion_model.blocks.0.self_attn.q.diff": (DIM, DIM - 1)}, "does not fit"),
        ({"diffusion_model.blocks.0.self_attn.q.alpha": ()}, "alpha"),
    ],
)
def test_entries_that_cannot_be_used_are_named(
    entries: dict[str, tuple[int, ...]], named: str, base: Path, tmp_path: Path
) -> None:
    save_file({name: torch.ones(shape) for name, shape in entries.items()}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelMissing, match=named):
        load_golden_transformer(base, ((tmp_path / "bad.safetensors", 1.0),))


PAIR = {"lora_down.weight": (2, DIM), "lora_up.weight": (DIM, 2)}
QUERY = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            {f"{QUERY}.{kind}": shape for kind, shape in PAIR.items()}
            | {"blocks.0.self_attn.q.lora_A.weight": (2, DIM), "blocks.0.self_attn.q.lora_B.weight": (DIM, 2)},
            r"self_attn\.q\.lora_(A|down).* and .*self_attn\.q\.lora_(A|down).* two entries for one change",
        ),
        (
            {"blocks.0.modulation.diff": (1, 6, DIM), "blocks.0.diff_m": (1, 6, DIM)},
            r"blocks\.0\.(modulation\.diff|diff_m) and blocks\.0\.(modulation\.diff|diff_m) are two entries",
        ),
        ({}, "bad.safetensors has no entries, so that it changes nothing"),
        (
            {f"{QUERY}.lora_down.weight": (2,), f"{QUERY}.lora_up.weight": (DIM, 2)},
            r"should be matrices .*q\.lora_down\.weight \[2\]\.$",
        ),
        ({f"{QUERY}.lora_down.weight": (), f"{QUERY}.lora_up.weight": ()}, r"q\.lora_down\.weight \[\]"),
        (
            {f"{QUERY}.lora_down.weight": (0, DIM), f"{QUERY}.lora_up.weight": (DIM, 0), f"{QUERY}.alpha": ()},
            rf"q\.lora_down\.weight \[0, {DIM}\], .*q\.lora_up\.weight \[{DIM}, 0\]",
        ),
    ],
    ids=["both spellings", "both tables", "none", "vector", "number", "rank 0"],
)
def test_a_file_that_is_no_lora_or_two_in_one_is_refused(
    entries: dict[str, tuple[int, ...]], problem: str, base: Path, tmp_path: Path
) -> None:
    save_file({name: torch.ones(shape) for name, shape in entries.items()}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelMissing, match=problem):
        load_golden_transformer(base, ((tmp_path / "bad.safetensors", 1.0),))
