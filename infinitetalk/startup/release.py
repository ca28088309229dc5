"""The release's weight files by their headers: whether each is the one that belongs there, and if not, which it is.

The tables are data: presets/weights/<profile>.toml has every tensor of the release, made by scripts/release_tensors.py;
presets/weights/others.toml tells files apart that are taken for these.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from infinitetalk.contract.presets import presets_dir
from infinitetalk.errors import ModelMissing
from infinitetalk.models.checkpoint import Checkpoint, listed, weight_files
from infinitetalk.models.encoder_loading import CLIP_FILE, T5_FILE, VAE_FILE
from infinitetalk.models.opening import WeightFiles
from infinitetalk.models.stored import Shape

COMPARED_BYTES = 1_000_000  # tensors up to this size tell whether two files have the same weights
PREFIX = "model.diffusion_model."  # of whole models in one file
_LORA = re.compile(r"\.lora_(down|up|A|B)\.")


@dataclass(frozen=True)
class KnownFile:
    """The tensors of one part of the release, in one layout; `part` as in `release_parts`."""

    part: str
    layout: str
    what: str
    dtype: str
    shapes: Mapping[str, Shape]


class Identity(NamedTuple):
    """What a file turned out to be: a part of the release, or None and something else."""

    part: str | None
    what: str


@cache
def known_files(profile: str) -> tuple[KnownFile, ...]:
    """The release's parts in every layout; none if there is no table for the profile of that name."""
    path = presets_dir() / "weights" / f"{profile}.toml"
    if not path.is_file():
        return ()
    return tuple(
        KnownFile(entry["part"], entry["layout"], entry["what"], entry["dtype"], _spelled_out(entry["tensors"]))
        for entry in tomllib.loads(path.read_text("utf-8"))["files"]
    )


def release_parts(files: WeightFiles) -> Iterator[tuple[str, list[Path]]]:
    """Every part with its weight files, in any layout; "adapter" comes for each. Raises ModelMissing."""
    base = files.transformer
    folder = base / "transformer" if (base / "transformer" / "config.json").is_file() else base
    yield "transformer", [base] if base.is_file() else weight_files(folder, "diffusion_pytorch_model")
    is_diffusers = (files.vae / "vae" / "config.json").is_file()
    yield (
        "vae",
        weight_files(files.vae / "vae", "diffusion_pytorch_model") if is_diffusers else _one(files.vae, VAE_FILE),
    )
    for part, base, name in (
        ("text_encoder", files.text_encoder, T5_FILE),
        ("image_encoder", files.image_encoder, CLIP_FILE),
    ):
        yield part, weight_files(base / part, "model") if (base / part).is_dir() else _one(base, name)
    pickled = files.audio_encoder / "pytorch_model.bin"
    is_pickled = pickled.is_file() and not any(files.audio_encoder.glob("model*.safetensors"))
    if is_pickled or files.audio_encoder.is_file():
        yield "audio_encoder", _one(files.audio_encoder, pickled.name)
    else:
        yield "audio_encoder", weight_files(files.audio_encoder, "model")
    for path in files.adapters.values():
        yield "adapter", [path]
    if files.separator is not None:
        yield "separator", [files.separator]


def _one(base: Path, name: str) -> list[Path]:
    """A part's own file, or the one of that name in a folder."""
    return [base if base.is_file() else base / name]


def compare_with_release(profile: str, files: WeightFiles) -> list[str]:
    """What differs from the release without being another known file, one sentence each.

    Headers alone are read, and of the adapters a few small tensors. What headers cannot tell: 480P from 720P, whose
    transformers have the same tensors, and a single adapter from a multi one. LoRAs are not compared: any will do that
    fits. A profile without a table differs in nothing.

    Raises:
        ModelMissing: a file is known to be another one, both adapters are one and the same, or a file cannot be read.
    """
    known = known_files(profile)
    if not known:
        return []
    differences = []
    for part, paths in release_parts(files):
        shapes = Checkpoint(paths).shapes
        wanted = [file for file in known if file.part == part]
        if not any(shapes == file.shapes for file in wanted):
            other = identify(shapes, known)
            if other is not None and other.part != part:
                raise ModelMissing(
                    f"{_name(paths)} is {other.what}; {wanted[0].what} belongs there. Put it there, or delete this one "
                    "and run `infinitetalk fetch` again."
                )
            differences.append(f"{_name(paths)} is not the release's file: {_difference(shapes, wanted)}")
    _check_adapters(files.adapters)
    return differences


def identify(shapes: Mapping[str, Shape], known: Sequence[KnownFile]) -> Identity | None:
    """Which part of the release, or which other file, has tensors of these shapes."""
    shapes = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    for file in known:
        if shapes == file.shapes:
            return Identity(file.part, file.what)
    for other in _others():
        has = all(name in shapes and shape in ([], list(shapes[name])) for name, shape in other["has"].items())
        if has and not any(name in shapes for name in other.get("lacks", ())):
            return Identity(None, other["what"])
    if any(_LORA.search(name) for name in shapes):
        return Identity(None, "a LoRA")
    for file in known:  # most of a part of the release, with something added or left out
        if len(shapes.keys() & file.shapes.keys()) > 0.5 * len(file.shapes):
            return Identity(file.part, file.what)
    return None


def _spelled_out(rows: Sequence[tuple[str, list[int], int]]) -> dict[str, Shape]:
    """All names of a table's lines, whose {0-39} stands for these numbers."""
    shapes: dict[str, Shape] = {}
    for pattern, shape, count in rows:
        head, numbers, tail = re.match(r"([^{]*)(?:\{(.*)\}(.*))?$", pattern).groups()  # type: ignore[union-attr]
        spans = [span.split("-") for span in (numbers or "").split(",") if span]
        names = [f"{head}{number}{tail}" for span in spans for number in range(int(span[0]), int(span[-1]) + 1)]
        names = names or [head]
        if len(names) != count:
            raise ValueError(f"{pattern} stands for {len(names)} names and not {count}")
        shapes |= dict.fromkeys(names, tuple(shape))
    return shapes


@cache
def _others() -> list[dict[str, Any]]:
    path = presets_dir() / "weights" / "others.toml"
    others: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))["others"]
    return others


def _name(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} with {len(paths) - 1} more"


def _difference(shapes: Mapping[str, Shape], wanted: Sequence[KnownFile]) -> str:
    """How tensors differ from those of the layout that they are most like."""
    nearest = max(wanted, key=lambda file: len(shapes.items() & file.shapes.items()))
    missing = [name for name in nearest.shapes if name not in shapes]
    extra = [name for name in shapes if name not in nearest.shapes]
    other = [name for name in shapes if shapes[name] != nearest.shapes.get(name, shapes[name])]
    kinds = (("it lacks", missing), ("it has besides", extra), ("of another shape are", other))
    return "; ".join(f"{kind} {listed(names)}" for kind, names in kinds if names)


def _check_adapters(adapters: Mapping[str, Path]) -> None:
    """Two adapters are trained weights of their own. Raises ModelMissing if their small tensors are all equal."""
    (first, one), (second, other) = [(path, Checkpoint([path])) for path in adapters.values()]
    small = [name for name, shape in one.shapes.items() if torch.Size(shape).numel() * 4 <= COMPARED_BYTES]
    if one.shapes == other.shapes and all(torch.equal(one.read(name), other.read(name)) for name in small):
        raise ModelMissing(
            f"{first} and {second} hold the same weights, but one is for one person and the other for several; fetch "
            "both again."
        )
