"""Weight files: which belong together, and whether what is in them fits a model."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infinitetalk.errors import ModelMissing
from infinitetalk.models.gguf_files import dequantise
from infinitetalk.models.scaled_fp8 import find_scales, rescaled
from infinitetalk.models.stored import Shape
from infinitetalk.models.weight_file import WeightFile

MAX_LISTED = 8  # names that an error shows

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})$")


class Shapes(dict[str, Shape]):
    """Shapes by tensor name. Asking for a tensor that is not there raises ModelMissing."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __missing__(self, name: str) -> Shape:
        raise ModelMissing(f"{self.file} has no tensor {name}; it is not the file that belongs there.")


class Checkpoint:
    """The tensors of one or several weight files by name. They are read when they are asked for.

    Scales beside weights in 8 bits are not tensors of their own. They are applied when the weights are read.

    Raises ModelMissing if a file is missing, cut off or not a weight file.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        self.shapes = Shapes(self.files[0])
        self._sources: dict[str, WeightFile] = {}
        for file in map(WeightFile, self.files):
            for name, stored in file.stored.items():
                self.shapes[name] = stored.shape
                self._sources[name] = file
        self._scales, besides = find_scales(self.files[0], self.shapes, self.read)
        for name in besides:
            del self.shapes[name]

    def read(self, name: str, device: torch.device | None = None) -> Tensor:
        """The tensor of that name as it is stored; see `WeightFile.read`."""
        return self._sources[name].read(name, device)

    def decode(self, name: str, raw: Tensor) -> Tensor:
        """The numbers of what `read` gave, on the device that it is on now: dequantised, times its scale."""
        stored = self._sources[name].stored[name]
        numbers = raw if stored.blocks is None else dequantise(raw, stored.blocks, stored.shape)
        return rescaled(numbers, self.read(self._scales[name])) if name in self._scales else numbers


def listed(names: Sequence[str]) -> str:
    """Names for an error: the first of them, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"{', '.join(names[:MAX_LISTED])}{more}"


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a model: one file, or all shards.

    Shards are found by their index file or, without one, by the count in their names. Raises ModelMissing, which names
    every shard that is not there.
    """
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return [single]
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted({folder / name for name in read_config(index)["weight_map"].values()})
        except (KeyError, AttributeError, TypeError) as error:
            raise ModelMissing(f"{index} is not an index of weight files; fetch it again.") from error
    else:
        shards = [found for path in sorted(folder.glob(f"{stem}-*.safetensors")) if (found := _SHARD.match(path.stem))]
        if not shards:
            raise ModelMissing(f"{folder} has no {stem}.safetensors and no shards of it; fetch the model again.")
        count = int(shards[0]["count"])
        files = [folder / f"{stem}-{shard:05d}-of-{count:05d}.safetensors" for shard in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelMissing(f"{folder} lacks {', '.join(missing)}; fetch the model again.")
    return files


def check_shapes(what: str, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raise ModelMissing, with a list, if `found` lacks a tensor, has one too many, or has one of another shape."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    misshaped = [
        f"{name} {list(found[name])} for {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{kind}: {listed(names)}"
        for kind, names in (("missing", missing), ("unexpected", extra), ("of another shape", misshaped))
        if names
    ]
    if problems:
        raise ModelMissing(f"{what}: the tensors do not fit this model; {'; '.join(problems)}.")


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a JSON file beside weights. Raises ModelMissing."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelMissing(f"{path} is missing; fetch the model again.") from error
    except OSError as error:
        raise ModelMissing(f"{path} cannot be read ({error.strerror or error}); see to the disk or volume.") from error
    except (ValueError, RecursionError) as error:
        raise ModelMissing(f"{path} is not valid JSON; fetch the model again.") from error
    if not isinstance(config, dict):
        raise ModelMissing(f"{path} holds no settings; fetch the model again.")
    return config
