"""Reference numbers from the model authors' code on a tiny model with random weights (tests/golden/README.md).

A part of them is bundled; GOLDEN_DIR names a folder with all of them.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitetalk.arithmetic import NATIVE, Arithmetic
from infinitetalk.contract.presets import Apg, SpeedMode
from infinitetalk.generation.pipeline import Material
from infinitetalk.models.encoder_loading import load_vae
from infinitetalk.models.opening import Models
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.transformer_loading import load_transformer
from infinitetalk.models.video_transformer import TEXT_TOKENS
from infinitetalk.planning.plan import Plan
from infinitetalk.planning.windows import Window
from tests.support.reference_masks import token_masks
from tests.support.reference_schedule import reference_audio_frames_read, reference_windows

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
CPU = torch.device("cpu")
ADAPTER = "infinitetalk.safetensors"
BUNDLED_AUDIO = (12, 768)
CLIP_FEATURES = ("clip_fea_0", "clip_fea_1", "clip_fea_0 with lora")


def tensors(name: str) -> dict[str, Tensor]:
    """The tensors of `<name>.safetensors`; the test is skipped where the file is not bundled."""
    path = GOLDEN / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{name} is not bundled; set GOLDEN_DIR to the full set")
    return load_file(path)


def info(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "info.json").read_text("utf-8"))


def dit_config() -> dict[str, Any]:
    """The tiny transformer's sizes, by their names in the authors' code."""
    return json.loads((GOLDEN / "dit_weights" / "config.json").read_text("utf-8"))


def audio_shape() -> tuple[int, int]:
    """Layers and channels of the audio that the tiny transformer hears."""
    path = GOLDEN / "common" / "audio_embeddings.safetensors"
    if not path.is_file():
        return BUNDLED_AUDIO
    with safe_open(path, framework="pt") as stored:
        return tuple(stored.get_slice(next(iter(stored.keys()))).get_shape()[1:])


def loop_variants() -> list[tuple[str, str]]:
    """Folder and name of every loop in the set."""
    folders = sorted(path.name for path in GOLDEN.glob("loop_*"))
    return [(folder, variant) for folder in folders for variant in info(folder)]


def wan_folder(folder: Path) -> Path:
    """A Wan base in the original layout, transformer and autoencoder, with the adapter beside it."""
    shutil.copy(GOLDEN / "dit_weights" / "config.json", folder)
    base, adapter = tensors("dit_weights/base"), tensors("dit_weights/adapter")
    # The bundled part lacks these three; stored tokens stand in for what they give.
    image_dim, hidden, slot = len(base["img_emb.proj.1.bias"]), dit_config()["intermediate_dim"], prod(audio_shape())
    base.setdefault("img_emb.proj.1.weight", torch.zeros(image_dim, image_dim))
    adapter.setdefault("audio_proj.proj1.weight", torch.zeros(hidden, 5 * slot))
    adapter.setdefault("audio_proj.proj1_vf.weight", torch.zeros(hidden, 8 * slot))
    save_file(base, folder / "diffusion_pytorch_model.safetensors")
    save_file(adapter, folder / ADAPTER)
    torch.save(tensors("vae_weights/vae"), folder / "Wan2.1_VAE.pth")
    return folder


def load_golden_transformer(folder: Path, loras: tuple[tuple[Path, float], ...] = ()) -> InfiniteTalkTransformer:
    adapters = dict.fromkeys(("single", "multi"), folder / ADAPTER)
    transformer = load_transformer(folder, adapters, loras, audio_shape()[0], CPU, torch.float32)
    if (GOLDEN / "tokens.safetensors").is_file():
        stored = tensors("tokens")
        embedder = transformer.condition_embedder.image_embedder
        embedder.forward = functools.partial(stored_image_tokens, stored)
        for adapter in transformer.adapters.values():
            adapter.audio_proj.forward = functools.partial(stored_audio_tokens, stored)
    return transformer


# With the bundled part, features and audio are constants that say which stored tokens stand for what they give.


def stored_image_tokens(stored: dict[str, Tensor], features: Tensor) -> Tensor:
    return stored[f"image.{CLIP_FEATURES[int(features.flatten()[0])]}"]


def stored_audio_tokens(stored: dict[str, Tensor], audio: Tensor) -> Tensor:
    index = int(audio.flatten()[0])
    if index == 0:
        return stored[f"silence.{audio.shape[2] - 4}"]
    return stored[sorted(name for name in stored if name.startswith("audio."))[index - 1]]


def clip_features(index: int) -> Tensor:
    """Picture features by their place in CLIP_FEATURES."""
    if (GOLDEN / "tokens.safetensors").is_file():
        return torch.full((1, 257, 1280), float(index))
    return tensors("common/clip_features")[CLIP_FEATURES[index].split()[0]]


def audio_of(case: str, window: int, people: int, frames: int, full: Callable[[], Tensor]) -> Tensor:
    """Audio (people, frames + 4, layers, channels) of a window of a case; `full` gives it from the full set."""
    if not (GOLDEN / "tokens.safetensors").is_file():
        return full()
    names = sorted(name for name in tensors("tokens") if name.startswith("audio."))
    return torch.full((people, frames + 4, *audio_shape()), float(1 + names.index(f"audio.{case}.{window}")))


def load_golden_models(folder: Path) -> Models:
    """The tiny models with which the loops were computed; prompts and picture features come from files."""
    unused: Any = None
    return Models(
        device=CPU,
        dtype=torch.float32,
        arithmetic=Arithmetic(NATIVE),
        transformer=load_golden_transformer(folder),
        vae=load_vae(folder, CPU, torch.float32),
        text_encoder=unused,
        tokenizer=unused,
        image_encoder=unused,
        audio_encoder=unused,
        audio_extractor=unused,
    )


def pad_text(context: Tensor) -> Tensor:
    return torch.nn.functional.pad(context, (0, 0, 0, TEXT_TOKENS - context.shape[0])).unsqueeze(0)


class Loop:
    """One stored run of the authors' loop: it plays footage, voices and noise of `generate`."""

    def __init__(self, folder: str, variant: str) -> None:
        self.name = f"{folder}/{variant}"
        self.stored = tensors(self.name)
        self.inputs = tensors(f"{folder}/inputs")
        self.info = info(folder)[variant]
        self.settings = self.info["settings"]
        self.speakers = len(self.info["audio_frames"])
        self.is_still = "video" not in folder
        height, width = self.info["settings"]["size"]
        self.source_size = (width, height)
        self.frames = self.inputs["resized_frames"].permute(0, 2, 3, 1).numpy()

    @property
    def plan(self) -> Plan:
        settings = self.settings
        given = {name: float(settings[f"apg_{name}"]) for name in Apg.model_fields if f"apg_{name}" in settings}
        apg = Apg(**given) if settings.get("apg") else None
        height, width = settings["size"]
        windows = reference_windows(
            self.info["audio_frames"], settings["frame_num"], settings["motion_frame"], settings["max_frames_num"]
        )
        shift = float(settings["shift"])
        mode = SpeedMode.model_construct(  # unchecked: the authors also ran overlaps that no preset may have
            name="authors",
            description="As the authors' code ran.",
            window_frames=settings["frame_num"],
            overlap_frames=settings["motion_frame"],
            join_fade_frames=0,
            steps=settings["sampling_steps"],
            scheduler="infinitetalk",
            shift={"480p": shift, "720p": shift},
            apg=apg,
        )
        return Plan(
            mode=mode,
            shift=shift,
            size=(width, height),
            windows=windows,
            seed=0,
            input_type="image" if self.is_still else "video",
            speakers=self.speakers,
            prompt="prompt",
            negative_prompt="negative" if settings["text_guide_scale"] != 1 else None,
            text_guidance=float(settings["text_guide_scale"]),
            audio_guidance=float(settings["audio_guide_scale"]),
            color_correction=float(settings["color_correction_strength"]),
            video_strength=1.0,
        )

    def frame(self, index: int) -> np.ndarray:
        return self.frames[min(index, len(self.frames) - 1)]

    def clip(self, start: int, n_frames: int) -> np.ndarray:
        return np.stack([self.frame(start + index) for index in range(n_frames)])

    def window(self, window: Window) -> Tensor:
        return audio_of(self.name, window.index, self.speakers, window.length, lambda: self._audio(window))

    def _audio(self, window: Window) -> Tensor:
        voices, parts = tensors("common/audio_embeddings"), []
        for person, n_frames in enumerate(self.info["audio_frames"], start=1):
            read = reference_audio_frames_read(self.plan.windows, n_frames)[window.index]
            parts.append(voices[f"person{person}"][list(read)])
        return torch.stack(parts)

    @property
    def material(self) -> Material:
        return Material(self, self, self.person_masks)

    @property
    def person_masks(self) -> Tensor | None:
        return token_masks(self.stored["ref_target_masks"]) if self.speakers == 2 else None

    def generator(self, window: Window) -> torch.Generator:
        return torch.Generator().manual_seed(window.index)

    def initial(self, window: Window, shape: tuple[int, ...], _generator: torch.Generator) -> Tensor:
        return self.stored[f"w{window.index}.noise"].reshape(shape).clone()

    def replace_encoders(self, monkeypatch: pytest.MonkeyPatch, models: Models) -> None:
        """Hand out stored prompts and picture features in place of the text and image encoders' results."""
        calls = iter(range(1000))

        def embed_prompt(_encoder: Any, _tokenizer: Any, prompt: str) -> Tensor:
            return pad_text(self.inputs["context" if prompt == "prompt" else "context_null"])

        def embed_picture(_encoder: Any, _picture: Tensor) -> Tensor:
            return clip_features(0 if next(calls) == 0 or self.is_still else 1)

        monkeypatch.setattr("infinitetalk.generation.conditioning.embed_prompt", embed_prompt)
        monkeypatch.setattr("infinitetalk.generation.conditioning.embed_picture", embed_picture)
