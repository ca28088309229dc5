"""The encoders' formats that users have, in their own key names, and what is wrong with broken ones."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from infinitetalk.errors import ModelMissing
from infinitetalk.models import transformer_loading as loading
from infinitetalk.models.encoder_loading import (
    CLIP_FILE,
    T5_FILE,
    VAE_FILE,
    load_audio_encoder,
    load_image_encoder,
    load_text_encoder,
    load_vae,
)
from infinitetalk.models.image_encoder import embed_picture
from infinitetalk.models.opening import Models
from infinitetalk.models.text_encoder import embed_prompt
from tests.support.golden import (
    CPU,
    GOLDEN,
    tensors,
    wan_folder,
)
from tests.support.loading import same_weights
from tests.support.original_encoders import to_original_clip, to_original_t5

PACKAGE = Path(loading.__file__).parents[1]


def test_original_t5_file_gives_the_same_embeddings(tmp_path: Path, models: Models) -> None:
    config = UMT5Config(
        vocab_size=512, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    encoder = UMT5EncoderModel(config).eval()
    torch.save(to_original_t5(encoder), tmp_path / T5_FILE)
    models.tokenizer.save_pretrained(tmp_path / "google" / "umt5-xxl")
    loaded, tokenizer = load_text_encoder(tmp_path, CPU, torch.float32)
    expected = embed_prompt(encoder, models.tokenizer, "A person talking.")
    assert torch.equal(embed_prompt(loaded, tokenizer, "A person talking."), expected)


def test_original_clip_file_gives_the_same_features(tmp_path: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    encoder = CLIPVisionModel(config).eval()
    torch.save(to_original_clip(encoder), tmp_path / CLIP_FILE)
    loaded = load_image_encoder(tmp_path, CPU, torch.float32)
    picture = torch.rand(3, 40, 60) * 2 - 1
    assert torch.equal(embed_picture(loaded, picture), embed_picture(encoder, picture))
    assert embed_picture(loaded, picture).shape == (1, 5, 160)


def test_original_and_diffusers_autoencoder_are_the_same(tmp_path: Path) -> None:
    vae = load_vae(wan_folder(tmp_path), CPU, torch.float32)
    vae.save_pretrained(tmp_path / "diffusers" / "vae")
    assert same_weights(load_vae(tmp_path / "diffusers", CPU, torch.float32), vae)
    assert not vae.use_tiling


@pytest.mark.parametrize("spelling", ["parametrizations.weight.original", "weight_"])
def test_audio_encoder_takes_both_spellings_of_the_weight_norm(spelling: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "audio_encoder", tmp_path / "audio", copy_function=shutil.copyfile)
    state = tensors("audio_encoder/model")
    parts = ("g", "v") if spelling == "weight_" else ("0", "1")
    old = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    for index, part in enumerate(parts):
        state[f"encoder.pos_conv_embed.conv.{spelling}{part}"] = state.pop(f"{old}{index}")
    save_file(state, tmp_path / "audio" / "model.safetensors", metadata={"format": "pt"})
    loaded, _ = load_audio_encoder(tmp_path / "audio", CPU)
    expected, _ = load_audio_encoder(GOLDEN / "audio_encoder", CPU)
    assert same_weights(loaded, expected)


def test_audio_encoder_from_a_pickle_with_pretraining_heads(tmp_path: Path) -> None:
    """chinese-wav2vec2-base comes as pytorch_model.bin of the pretraining class."""
    folder = tmp_path / "audio"
    shutil.copytree(GOLDEN / "audio_encoder", folder, copy_function=shutil.copyfile)
    (folder / "model.safetensors").unlink()
    state = {f"wav2vec2.{name}": tensor for name, tensor in tensors("audio_encoder/model").items()}
    state["project_q.weight"] = torch.zeros(2, 2)
    torch.save(state, folder / "pytorch_model.bin")
    loaded, _ = load_audio_encoder(folder, CPU)
    expected, _ = load_audio_encoder(GOLDEN / "audio_encoder", CPU)
    assert same_weights(loaded, expected)


@pytest.mark.parametrize("load", [load_vae, load_text_encoder, load_image_encoder])
def test_absent_models_are_named(load: object, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="is missing"):
        load(tmp_path, CPU, torch.float32)  # type: ignore[operator]


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="is missing"):
        load_audio_encoder(tmp_path / "nowhere", CPU)
    shutil.copytree(GOLDEN / "audio_encoder", tmp_path / "audio", copy_function=shutil.copyfile)
    state = tensors("audio_encoder/model")
    del state["encoder.layers.2.attention.k_proj.weight"]
    save_file(state, tmp_path / "audio" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelMissing, match=r"layers\.2\.attention\.k_proj\.weight"):
        load_audio_encoder(tmp_path / "audio", CPU)
    (tmp_path / "audio" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelMissing, match=r"model\.safetensors cannot be read \(it is a text file\)"):
        load_audio_encoder(tmp_path / "audio", CPU)


@pytest.mark.parametrize(
    ("part", "name", "load"),
    [
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.k.weight", load_text_encoder),
        ("image_encoder", "embeddings.patch_embedding.weight", load_image_encoder),
        ("audio_encoder", "encoder.layers.0.attention.k_proj.weight", None),
    ],
)
def test_misshaped_weights_of_encoders_are_named(part: str, name: str, load: object, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "miniature" / part, tmp_path / part, copy_function=shutil.copyfile)
    file = tmp_path / part / "model.safetensors"
    state = load_file(file)
    full = list(state[name].shape)
    state[name] = state[name][:1].contiguous()
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ModelMissing) as caught:
        load(tmp_path, CPU, torch.float32) if load else load_audio_encoder(tmp_path / part, CPU)  # type: ignore[operator]
    assert f"{name} {[1, *full[1:]]} for {full}" in str(caught.value)


@pytest.mark.parametrize("load", [load_vae, load_text_encoder, load_image_encoder])
def test_a_file_that_is_another_models_is_named(load: object, tmp_path: Path) -> None:
    for file in (VAE_FILE, T5_FILE, CLIP_FILE):
        torch.save({"other.weight": torch.zeros(2)}, tmp_path / file)
    with pytest.raises(ModelMissing, match="not the file that belongs there"):
        load(tmp_path, CPU, torch.float32)  # type: ignore[operator]


def test_extra_weights_in_a_folder_are_named(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "audio_encoder", tmp_path / "audio", copy_function=shutil.copyfile)
    state = tensors("audio_encoder/model") | {"encoder.layers.9.extra.weight": torch.zeros(2)}
    save_file(state, tmp_path / "audio" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelMissing, match=r"encoder\.layers\.9\.extra\.weight"):
        load_audio_encoder(tmp_path / "audio", CPU)


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"a": ' * 100_000], ids=["list", "cut off", "deep"])
@pytest.mark.parametrize(
    ("file", "load"),
    [
        ("audio_encoder/config.json", lambda folder: load_audio_encoder(folder / "audio_encoder", CPU)),
        ("audio_encoder/preprocessor_config.json", lambda folder: load_audio_encoder(folder / "audio_encoder", CPU)),
        ("text_encoder/config.json", lambda folder: load_text_encoder(folder, CPU, torch.float32)),
        ("image_encoder/config.json", lambda folder: load_image_encoder(folder, CPU, torch.float32)),
        ("vae/config.json", lambda folder: load_vae(folder, CPU, torch.float32)),
        ("transformer/config.json", lambda folder: loading.load_transformer(folder, {}, (), 2, CPU, torch.float32)),
    ],
)
def test_settings_that_are_none_are_named(file: str, load, content: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "miniature", tmp_path, copy_function=shutil.copyfile, dirs_exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelMissing, match=rf"{file} (holds no settings|is not valid JSON); fetch"):
        load(tmp_path)
