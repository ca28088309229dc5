"""Make the miniature: the model's own classes, small, with random weights, in the release's file formats.

    python scripts/make_miniature.py

writes infinitetalk/miniature/, which the profile `miniature` loads. The same seed gives the same files.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from infinitetalk.models.transformer import InfiniteTalkTransformer

FOLDER = Path(__file__).parents[1] / "infinitetalk" / "miniature"
SEED = 20_25
AUDIO_LAYERS, AUDIO_CHANNELS = 4, 64
VOCABULARY = 512
CORPUS = (
    "A person talking naturally.",
    "A woman sings on a stage while the camera slowly moves closer.",
    "Two people talk to each other at a table, one after the other.",
    "A man with a beard explains something, moving his head and hands.",
    "blurred, still picture, low quality, deformed, bad hands, watermark",
)


def save(module: nn.Module, path: Path, prefix: str = "", drop: str = " ") -> None:
    """Write a module's weights as float16, those under `prefix` only, without it."""
    tensors: dict[str, Tensor] = {
        name.removeprefix(prefix): tensor.half().contiguous()
        for name, tensor in module.state_dict().items()
        if name.startswith(prefix) and not name.startswith(drop)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def make_transformer() -> None:
    transformer = InfiniteTalkTransformer(
        num_attention_heads=4,
        attention_head_dim=32,
        text_dim=64,
        freq_dim=64,
        ffn_dim=384,
        num_layers=3,
        image_dim=64,
        audio_layers=AUDIO_LAYERS,
        audio_channels=AUDIO_CHANNELS,
        audio_hidden=64,
        audio_tokens=8,
        audio_dim=64,
    )
    save(transformer, FOLDER / "transformer" / "diffusion_pytorch_model.safetensors", drop="adapters.")
    (FOLDER / "transformer" / "config.json").write_text(
        '{\n  "_class_name": "WanTransformer3DModel",\n  "num_attention_heads": 4,\n  "out_channels": 16,\n'
        '  "eps": 1e-06\n}\n',
        "utf-8",
    )
    for name in ("single", "multi"):
        save(transformer, FOLDER / f"adapter_{name}.safetensors", prefix=f"adapters.{name}.")


def make_tokenizer() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    fast.save_pretrained(FOLDER / "tokenizer")


def make_encoders() -> None:
    text = UMT5EncoderModel(
        UMT5Config(
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )
    image = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            hidden_act="gelu",
        )
    )
    audio = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=AUDIO_CHANNELS,
            intermediate_size=128,
            num_hidden_layers=AUDIO_LAYERS,
            num_attention_heads=4,
            conv_dim=(32,) * 7,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=4,
        )
    )
    vae = AutoencoderKLWan(base_dim=8)
    for module, folder in ((text, "text_encoder"), (image, "image_encoder"), (audio, "audio_encoder"), (vae, "vae")):
        module.half().save_pretrained(FOLDER / folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(FOLDER / "audio_encoder")


def main() -> None:
    torch.manual_seed(SEED)
    make_transformer()
    make_encoders()
    make_tokenizer()
    total = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{FOLDER}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
