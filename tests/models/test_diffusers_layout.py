"""The release in diffusers' layout, as its own classes write it, and what may lie beside the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from infinitetalk.errors import ModelMissing
from infinitetalk.models.encoder_loading import load_image_encoder, load_text_encoder, load_vae
from infinitetalk.models.image_encoder import embed_picture
from infinitetalk.models.text_encoder import embed_prompt
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.transformer_loading import load_transformer
from infinitetalk.models.vae import to_latents
from tests.support.golden import CPU
from tests.support.layouts import MODEL_INDEX, write_diffusers_layout

ADAPTER_SIZES = {"audio_layers": 3, "audio_channels": 4, "audio_hidden": 8, "audio_tokens": 2, "audio_dim": 6}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("release")
    return folder, write_diffusers_layout(folder)


def tensor_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    return names


def test_the_layout_is_the_releases(release: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = release
    assert {path.name for path in folder.iterdir()} == {"model_index.json", *MODEL_INDEX}
    assert "visual_projection.weight" in tensor_names(folder / "image_encoder")
    assert "vision_model.embeddings.class_embedding" in tensor_names(folder / "image_encoder")
    text = tensor_names(folder / "text_encoder")
    assert "shared.weight" in text
    assert "encoder.embed_tokens.weight" not in text
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        assert (folder / part / f"{stem}.safetensors.index.json").is_file()


def test_prompts_are_embedded_as_by_the_releases_own_parts(release: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = release
    encoder, tokenizer = load_text_encoder(folder, CPU, torch.float32)
    prompt = "A person talking to a 話 🦊."
    expected = embed_prompt(parts["text_encoder"], tokenizer, prompt)
    assert torch.equal(embed_prompt(encoder, tokenizer, prompt), expected)


@pytest.mark.parametrize(
    "kept", [("shared.weight",), ("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")]
)
def test_either_name_of_the_embedding_table_will_do(kept: tuple[str, ...], release: Any, tmp_path: Path) -> None:
    """Versions of transformers differ in the names that they save a shared table under."""
    folder, parts = release
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_bytes((folder / "text_encoder" / "config.json").read_bytes())
    state = {k: t for file in (folder / "text_encoder").glob("*.safetensors") for k, t in load_file(file).items()}
    table = state.pop("shared.weight")
    state |= {name: table.clone() for name in kept}
    save_file(state, tmp_path / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    encoder, tokenizer = load_text_encoder(tmp_path, CPU, torch.float32)
    expected = embed_prompt(parts["text_encoder"], tokenizer, "Two people.")
    assert torch.equal(embed_prompt(encoder, tokenizer, "Two people."), expected)


def test_pictures_are_embedded_as_by_the_releases_own_parts(release: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = release
    loaded = load_image_encoder(folder, CPU, torch.float32)
    picture = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = embed_picture(parts["image_encoder"], picture)
    assert expected.shape == (1, 5, 40)
    assert torch.equal(embed_picture(loaded, picture), expected)


def test_what_the_release_is_not_known_to_hold_is_still_named(
    release: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    parts = release[1]
    encoder = parts["image_encoder"]
    encoder.save_pretrained(tmp_path / "image_encoder")
    file = tmp_path / "image_encoder" / "model.safetensors"
    save_file(load_file(file) | {"text_projection.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelMissing, match=r"do not fit this model; unexpected: text_projection\.weight\."):
        load_image_encoder(tmp_path, CPU, torch.float32)


def test_pixels_and_latents_are_the_releases(release: tuple[Path, dict[str, Any]]) -> None:
    folder, parts = release
    video = torch.rand(1, 3, 5, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(to_latents(load_vae(folder, CPU, torch.float32), video), to_latents(parts["vae"], video))


def test_the_transformer_takes_every_weight_of_its_shards(release: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, parts = release
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2
    donor = InfiniteTalkTransformer(
        num_attention_heads=2, attention_head_dim=12, text_dim=32, freq_dim=16, ffn_dim=48, num_layers=2, image_dim=40,
        **ADAPTER_SIZES, adapter_names=["single"],
    )  # fmt: skip
    prefix = "adapters.single."
    adapter = {k.removeprefix(prefix): t for k, t in donor.state_dict().items() if k.startswith(prefix)}
    save_file(adapter, tmp_path / "adapter.safetensors")
    adapters = {"single": tmp_path / "adapter.safetensors"}
    loaded = load_transformer(folder, adapters, (), ADAPTER_SIZES["audio_layers"], CPU, torch.float32).state_dict()
    base = {name: tensor for name, tensor in loaded.items() if not name.startswith("adapters.")}
    expected = parts["transformer"].state_dict()
    assert base.keys() == expected.keys()
    assert all(torch.equal(base[name], expected[name]) for name in expected)
