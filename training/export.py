"""The miniature's files, in the layout of infinitetalk/miniature/."""

import copy
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from infinitetalk.models.transformer import InfiniteTalkTransformer
from training.train_talker import IMAGE_DIM, TEXT_DIM, make_transformer
from training.train_vae import make_vae, start_simply
from training.train_voice import make_voice_encoder

VOCABULARY = 512
PROMPTS = (
    "A person talking naturally.",
    "A woman sings on a stage while the camera slowly moves closer.",
    "Two people talk to each other at a table, one after the other.",
    "A man with a beard explains something, moving his head and hands.",
    "blurred, still picture, low quality, deformed, bad hands, watermark",
    "blurred, still picture",
    "",
    "A young girl reads a story aloud and smiles.",
    "Close-up of a news presenter in a studio.",
    "A drawn face speaks in front of a bookshelf.",
    "talking",
    "An old man tells a joke; the light is warm, the picture is sharp.",
)


@dataclass(frozen=True)
class Parts:
    """The miniature's models. Text and image encoder stay random, since the reference frame's latents say more."""

    transformer: InfiniteTalkTransformer
    vae: AutoencoderKLWan
    voice_encoder: Wav2Vec2Model
    text_encoder: UMT5EncoderModel
    image_encoder: CLIPVisionModel

    def modules(self) -> dict[str, nn.Module]:
        return {
            "transformer": self.transformer,
            "vae": self.vae,
            "audio_encoder": self.voice_encoder,
            "text_encoder": self.text_encoder,
            "image_encoder": self.image_encoder,
        }


def make_parts(seed: int) -> Parts:
    """Untrained models."""
    torch.manual_seed(seed)
    text = UMT5Config(
        vocab_size=VOCABULARY,
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    image = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        hidden_act="gelu",
    )
    vae = make_vae()
    start_simply(vae)
    parts = Parts(make_transformer(), vae, make_voice_encoder(), UMT5EncoderModel(text), CLIPVisionModel(image))
    parts.text_encoder.eval().requires_grad_(False)
    parts.image_encoder.eval().requires_grad_(False)
    return parts


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few words of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROMPTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def export(parts: Parts, folder: Path) -> int:
    """Write all files as float16 and return their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: t.detach().half().cpu().contiguous() for name, t in parts.transformer.state_dict().items()}
    base = folder / "transformer"
    base.mkdir(exist_ok=True)
    save_file(
        {n: t for n, t in weights.items() if not n.startswith("adapters.")},
        base / "diffusion_pytorch_model.safetensors",
    )
    settings = {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": parts.transformer.config.num_attention_heads,
        "out_channels": 16,
        "eps": 1e-6,
    }
    (base / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for adapter in ("single", "multi"):
        prefix = f"adapters.{adapter}."
        save_file(
            {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)},
            folder / f"adapter_{adapter}.safetensors",
        )
    for name, module in parts.modules().items():
        if name != "transformer":
            halved = copy.deepcopy(module).cpu().half()
            for parameter in halved.parameters():  # trained in channels-last order; the files are in the usual order
                parameter.data = parameter.data.contiguous()
            halved.save_pretrained(folder / name)
    # Loudness moves lips: the extractor must not take it away.
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder / "audio_encoder")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(folder: Path, archive: Path) -> None:
    """One uncompressed archive of the folder."""
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, folder.name)


@torch.no_grad()
def load_parts(parts: Parts, folder: Path) -> None:
    """Read weights and the latents' statistics that `export` wrote, to go on from there.

    Raises an error if a weight has another shape by now, because the architecture was changed.
    """
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    for adapter in ("single", "multi"):
        file = load_file(folder / f"adapter_{adapter}.safetensors")
        weights |= {f"adapters.{adapter}.{name}": tensor for name, tensor in file.items()}
    parts.transformer.load_state_dict(weights)
    for name, module in parts.modules().items():
        if name == "transformer":
            continue
        (path,) = (folder / name).glob("*.safetensors")
        missing, unknown = module.load_state_dict(load_file(path), strict=False)
        # Tied weights are stored once.
        if unknown or any("embed_tokens" not in key for key in missing):
            raise ValueError(f"{path}: missing {missing}, unknown {unknown}")
    config = json.loads((folder / "vae" / "config.json").read_text("utf-8"))
    parts.vae.register_to_config(latents_mean=config["latents_mean"], latents_std=config["latents_std"])
