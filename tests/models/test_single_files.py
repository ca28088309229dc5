"""Encoders and the autoencoder in one file each, with the names that ComfyUI's files, Kijai's and llama.cpp's have."""

import re
from pathlib import Path

import pytest
import sentencepiece
import torch
from gguf.constants import MODEL_ARCH, MODEL_TENSOR, MODEL_TENSORS, TENSOR_NAMES
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
)

import infinitetalk
from benchmarks.weight_files import Kind, adapter_kind, write_fp8, write_gguf
from infinitetalk.errors import ModelMissing
from infinitetalk.models.encoder_loading import (
    load_audio_encoder,
    load_image_encoder,
    load_text_encoder,
    load_vae,
)
from infinitetalk.models.image_encoder import embed_picture
from infinitetalk.models.text_encoder import embed_prompt
from infinitetalk.models.tokenizer import tokenizer_from_spiece
from tests.models.test_formats import relative_error
from tests.support.golden import CPU, tensors, wan_folder
from tests.support.loading import same_weights
from tests.support.original_encoders import to_original_clip, to_original_t5
from tests.support.umt5_tokenizer import train_sentencepiece

MINIATURE = Path(infinitetalk.__file__).parent / "miniature"
TEXTS = ("A person talking naturally.", "ﬁne naïve café ½", "日本語 😀 text", "two  spaces", "", "x")


@pytest.fixture(scope="module")
def spiece() -> bytes:
    """A sentencepiece model with umT5's special pieces: <pad> 0, </s> 1, <s> 2, <unk> 3."""
    return train_sentencepiece()


def text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=512, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return UMT5EncoderModel(config).eval()


def llama_cpp_name(name: str) -> str:
    """llama.cpp's name of an original T5 weight, by the gguf package's own table."""
    parts = {
        "token_embedding": MODEL_TENSOR.TOKEN_EMBD,
        "norm": MODEL_TENSOR.ENC_OUTPUT_NORM,
        "norm1": MODEL_TENSOR.ENC_ATTN_NORM,
        "attn.q": MODEL_TENSOR.ENC_ATTN_Q,
        "attn.k": MODEL_TENSOR.ENC_ATTN_K,
        "attn.v": MODEL_TENSOR.ENC_ATTN_V,
        "attn.o": MODEL_TENSOR.ENC_ATTN_OUT,
        "pos_embedding.embedding": MODEL_TENSOR.ENC_ATTN_REL_B,
        "norm2": MODEL_TENSOR.ENC_FFN_NORM,
        "ffn.gate.0": MODEL_TENSOR.ENC_FFN_GATE,
        "ffn.fc1": MODEL_TENSOR.ENC_FFN_UP,
        "ffn.fc2": MODEL_TENSOR.ENC_FFN_DOWN,
    }
    block, module = re.match(r"(?:blocks\.(\d+)\.)?(.+)\.weight$", name).groups()  # type: ignore[union-attr]
    assert parts[module] in MODEL_TENSORS[MODEL_ARCH.T5ENCODER]
    return f"{TENSOR_NAMES[parts[module]].format(bid=block)}.weight"


def with_tokenizer(state: dict[str, Tensor], spiece: bytes) -> dict[str, Tensor]:
    return state | {"spiece_model": torch.tensor(list(spiece), dtype=torch.uint8)}


def comfy_names(encoder: UMT5EncoderModel) -> dict[str, Tensor]:
    """As Comfy-Org's files have it: transformers' names, the shared table once."""
    state = encoder.state_dict()
    return {name: tensor for name, tensor in state.items() if name != "encoder.embed_tokens.weight"}


@pytest.mark.parametrize("layout", ["original", "comfy", "llama.cpp"])
def test_a_text_encoder_in_one_file(layout: str, spiece: bytes, tmp_path: Path) -> None:
    encoder, file = text_encoder(), tmp_path / "umt5.safetensors"
    folder = None
    if layout == "comfy":
        save_file(with_tokenizer(comfy_names(encoder), spiece), file)
    else:
        folder = MINIATURE / "tokenizer"
        if layout == "original":
            save_file(to_original_t5(encoder), file)
        else:
            state = {llama_cpp_name(name): tensor for name, tensor in to_original_t5(encoder).items()}
            write_gguf(file, state, lambda *_: Kind.F32, "t5encoder")
    loaded, tokenizer = load_text_encoder(file, CPU, torch.float32, folder)
    assert same_weights(loaded, encoder)
    assert embed_prompt(loaded, tokenizer, "A person talking.").shape == (1, 512, 64)


def test_a_text_encoder_in_fp8_with_scales(spiece: bytes, tmp_path: Path) -> None:
    encoder, file = text_encoder(), tmp_path / "umt5_fp8_scaled.safetensors"
    write_fp8(file, comfy_names(encoder), keep=("shared.weight",))
    save_file(with_tokenizer(load_file(file), spiece), file)
    loaded, tokenizer = load_text_encoder(file, CPU, torch.float32)
    for name, tensor in loaded.state_dict().items():
        is_exact = "SelfAttention" not in name and "DenseReluDense" not in name
        assert relative_error(tensor, encoder.state_dict()[name]) < (0.001 if is_exact else 0.03), name
    assert embed_prompt(loaded, tokenizer, TEXTS[0]).shape == (1, 512, 64)


def test_the_tokenizer_in_a_file_splits_as_sentencepiece_does(spiece: bytes) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    tokenizer = tokenizer_from_spiece(Path("umt5.safetensors"), spiece)
    unknown = 0
    for text in TEXTS:
        expected = [*reference.encode(text), 1]
        assert tokenizer(text).input_ids == expected
        unknown += expected.count(3)
    assert unknown > 0, "nothing unknown was tried"
    padded = tokenizer(["x"], padding="max_length", max_length=6, truncation=True, return_tensors="pt")
    assert padded.input_ids.shape == (1, 6)
    assert padded.input_ids[0, -1] == 0
    assert not padded.attention_mask[0, -1]


def test_a_text_encoder_without_any_tokenizer_says_where_to_name_one(tmp_path: Path) -> None:
    save_file(to_original_t5(text_encoder()), tmp_path / "umt5.safetensors")
    with pytest.raises(ModelMissing, match=r"no tokenizer in it \(spiece_model\).*set files\.tokenizer in the profile"):
        load_text_encoder(tmp_path / "umt5.safetensors", CPU, torch.float32)


@pytest.mark.parametrize("content", [b"no model", b""])
def test_a_tokenizer_that_is_no_sentencepiece_model_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"umt5: the tokenizer in it is"):
        tokenizer_from_spiece(tmp_path / "umt5", content)


def picture_encoder() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=160, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=28,
        patch_size=14, hidden_act="gelu", projection_dim=32,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


@pytest.mark.parametrize("layout", ["comfy", "older comfy", "original"])
def test_a_picture_encoder_in_one_file(layout: str, tmp_path: Path) -> None:
    encoder, file = picture_encoder(), tmp_path / "clip_vision_h.safetensors"
    state = encoder.state_dict()
    assert "visual_projection.weight" in state
    if layout == "original":
        state = to_original_clip(encoder.vision_model)
    if layout == "older comfy":
        state["vision_model.embeddings.position_ids"] = torch.arange(5).unsqueeze(0)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    loaded = load_image_encoder(file, CPU, torch.float32)
    picture = torch.rand(3, 40, 60) * 2 - 1
    outputs = embed_picture(loaded, picture)
    assert torch.equal(outputs, embed_picture(encoder.vision_model, picture))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_an_autoencoder_in_one_file(prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor.contiguous() for name, tensor in tensors("vae_weights/vae").items()}
    save_file(state, tmp_path / "Wan2_1_VAE_bf16.safetensors")
    expected = load_vae(wan_folder(tmp_path), CPU, torch.float32)
    assert same_weights(load_vae(tmp_path / "Wan2_1_VAE_bf16.safetensors", CPU, torch.float32), expected)


def voice_encoder() -> Wav2Vec2ForPreTraining:
    config = Wav2Vec2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    return Wav2Vec2ForPreTraining(config).eval()


@pytest.mark.parametrize("spelling", ["parametrizations.weight.original0", "weight_g"])
def test_a_voice_encoder_in_one_file(spelling: str, tmp_path: Path) -> None:
    """With the heads of pretraining, as wav2vec2-chinese-base_fp16 has them by its size."""
    encoder, conv = voice_encoder(), "pos_conv_embed.conv."
    state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    if spelling == "weight_g":
        old = f"{conv}parametrizations.weight.original"
        state = {
            n.replace(f"{old}0", f"{conv}weight_g").replace(f"{old}1", f"{conv}weight_v"): t for n, t in state.items()
        }
        assert any(name.endswith("weight_v") for name in state)
    save_file(state, tmp_path / "voice.safetensors")
    loaded, extractor = load_audio_encoder(tmp_path / "voice.safetensors", CPU)
    assert same_weights(loaded, encoder.wav2vec2)
    assert not extractor.do_normalize
    waves = torch.randn(1, 4000)
    assert torch.equal(loaded(waves).last_hidden_state, encoder.wav2vec2(waves).last_hidden_state)
    del state["wav2vec2.masked_spec_embed"]
    save_file(state, tmp_path / "voice.safetensors")
    loaded, _ = load_audio_encoder(tmp_path / "voice.safetensors", CPU)
    assert torch.equal(loaded(waves).last_hidden_state, encoder.wav2vec2(waves).last_hidden_state)


def test_a_voice_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = Wav2Vec2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, feat_extract_norm="layer"
    )
    state = Wav2Vec2ForPreTraining(config).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "voice.safetensors")
    with pytest.raises(ModelMissing, match="is a wav2vec2 of the large kind"):
        load_audio_encoder(tmp_path / "voice.safetensors", CPU)


@pytest.mark.parametrize(
    "load", [load_vae, load_image_encoder, load_text_encoder, lambda f, d, _: load_audio_encoder(f, d)]
)
def test_a_file_of_another_model_is_named(load: object, tmp_path: Path) -> None:
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelMissing, match=r"other\.safetensors has no tensor .* not the file that belongs there"):
        load(tmp_path / "other.safetensors", CPU, torch.float32)  # type: ignore[operator]


def test_what_is_missing_or_besides_is_listed(tmp_path: Path) -> None:
    state = {name: t.contiguous() for name, t in picture_encoder().state_dict().items()}
    del state["vision_model.encoder.layers.1.mlp.fc1.bias"]
    state["vision_model.more.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "clip.safetensors")
    with pytest.raises(
        ModelMissing, match=r"clip\.safetensors: .*layers\.1\.mlp\.fc1\.bias.*unexpected: .*more\.weight"
    ):
        load_image_encoder(tmp_path / "clip.safetensors", CPU, torch.float32)


def test_weights_of_single_files_are_not_read_on_the_meta_device(tmp_path: Path) -> None:
    encoder = text_encoder()
    kinds = write_gguf(tmp_path / "t5.gguf", to_original_t5(encoder), adapter_kind(Kind.Q8_0))
    assert Kind.Q8_0 in kinds.values()
    loaded, _ = load_text_encoder(tmp_path / "t5.gguf", torch.device("meta"), torch.float32, MINIATURE / "tokenizer")
    assert all(parameter.is_meta for parameter in loaded.parameters())
