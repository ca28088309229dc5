"""One weight file: what it is by its bytes, what its header says, and its tensors one by one.

Tensors are read by their places in the file, with plain reads. The libraries' own readers map the whole file into
memory (safetensors in all its modes, torch where it is asked to), which a system refuses for a file that is larger than
the memory it may promise.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from infinitetalk.errors import ModelMissing
from infinitetalk.models import gguf_files
from infinitetalk.models.stored import Shape, Stored

META = torch.device("meta")

# The types of tensors by their names in safetensors' headers.
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FETCH_AGAIN = "fetch it again"
OTHER_THINGS, WEIGHTS_ALONE = "it holds other things than tensors by name", "put a file with the weights alone there"
_TORCH_PICKLE = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # torch.serialization.MAGIC_NUMBER
_FIRST_BYTES = 512
_LONGEST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_READ_BYTES = 1 << 30  # Linux gives at most 2 GiB at once


class WeightFile:
    """The tensors of one file by name.

    Raises ModelMissing, which says what the file is, where it holds no tensors that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored: dict[str, Stored] = {}
        self._loaded: dict[str, Tensor] = {}  # of torch's older format, which has no places to read from
        try:
            with path.open("rb") as file:
                first = file.read(_FIRST_BYTES)
        except FileNotFoundError as error:
            raise ModelMissing(f"{path} is missing; fetch the model again.") from error
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error), "see to the disk or volume") from error
        found = what_it_is(path, first)
        if found.open is None:
            raise _unreadable(path, f"it is {found.what}", found.remedy)
        found.open(self)

    def read(self, name: str, device: torch.device | None = None) -> Tensor:
        """A tensor in host memory, ready to go to `device`: page-locked for a GPU. For "meta" nothing is read.

        Of a quantised one these are its bytes, of which `gguf_files.dequantise` makes numbers.
        """
        kind = "cpu" if device is None else device.type
        if name in self._loaded:
            return self._loaded[name].to(META) if kind == "meta" else self._loaded[name]
        stored = self.stored[name]
        if kind == "meta":
            return torch.empty(stored.shape, dtype=stored.dtype, device=META)
        try:
            buffer = torch.empty(stored.n_bytes, dtype=torch.uint8, pin_memory=kind == "cuda")
            self._read_into(buffer, stored.offset)
        except (MemoryError, RuntimeError) as error:  # torch's allocator raises RuntimeError
            size_gb = stored.n_bytes / 1e9
            raise ModelMissing(
                f"{self.path}: there is no memory for {name}, {size_gb:.2g} GB, while it is loaded ({error}); give the "
                "worker more memory."
            ) from error
        except OSError as error:
            raise _unreadable(self.path, f"{name}: {error.strerror or error}", "see to the disk or volume") from error
        if stored.blocks is not None:
            return buffer
        tensor = buffer.view(stored.dtype)
        return tensor.view(stored.shape) if stored.stride is None else tensor.as_strided(stored.shape, stored.stride)

    def _read_into(self, buffer: Tensor, offset: int) -> None:
        view = buffer.numpy().data
        with self.path.open("rb", buffering=0) as file:
            while view:
                count = os.preadv(file.fileno(), [view[:_READ_BYTES]], offset)
                if not count:
                    raise _unreadable(self.path, "it has become shorter", FETCH_AGAIN)
                view, offset = view[count:], offset + count


@dataclass(frozen=True)
class Kind:
    """What a file turned out to be, what to do about it where it cannot be used, and how it is opened where it can."""

    what: str
    remedy: str = FETCH_AGAIN
    open: Callable[[WeightFile], None] | None = None


def what_it_is(path: Path, first: bytes) -> Kind:
    """The kind of a file by its first bytes; its name does not count."""
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not first:
        return Kind("an empty file")
    if first[8:9] == b"{" and int.from_bytes(first[:8], "little") <= _LONGEST_HEADER_BYTES:
        return Kind("a safetensors file", open=_open_safetensors)
    if first.startswith(b"PK\x03\x04"):
        return Kind("a zip archive", open=_open_zip)
    if first.startswith(b"\x80") and _TORCH_PICKLE in first[:20]:
        return Kind("a file of PyTorch's older format", open=_open_legacy_pickle)
    if first[:1] == b"\x80" and b"\x02" <= first[1:2] <= b"\x05":
        return Kind("a pickle that PyTorch did not write", WEIGHTS_ALONE)
    if first.startswith(gguf_files.MAGIC):
        return Kind("a GGUF file", open=_open_gguf)
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return Kind("a web page, such as a login or an error", "fetch it again, with HF_TOKEN if it is not public")
    if first.startswith(b"version https://git-lfs"):
        return Kind("a Git LFS pointer to the file", "run `git lfs pull` where it was cloned, or fetch it again")
    if first.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        return Kind("a compressed archive", "unpack it")
    if not any(first):
        return Kind("blank at its beginning, so that its download did not end")
    if all(byte >= 32 or byte in b"\t\r\n" for byte in first):
        return Kind("a text file")
    return Kind("neither safetensors nor GGUF nor a PyTorch file", "put the model's own file there")


def _unreadable(path: Path, why: str, remedy: str) -> ModelMissing:
    return ModelMissing(f"{path} cannot be read ({why}); {remedy}.")


def _cut_off(path: Path, has: int, needs: int) -> ModelMissing:
    return _unreadable(path, f"it is cut off: {has:,} bytes of {needs:,}", FETCH_AGAIN)


def _open_safetensors(file: WeightFile) -> None:
    """The format: 8 bytes with the header's length, a JSON header, the tensors' bytes without gaps."""
    path, size = file.path, file.path.stat().st_size
    with path.open("rb") as opened:
        start = 8 + int.from_bytes(opened.read(8), "little")
        text = opened.read(start - 8)
    if size < start:
        raise _cut_off(path, size, start)
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        entries = {name: _header_entry(entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, "its header is damaged", FETCH_AGAIN) from error
    unknown = sorted({kind for kind, *_ in entries.values()} - TYPES.keys())
    if unknown:
        raise _unreadable(path, f"it holds tensors of the type {', '.join(unknown)}", "put another file there")
    end = start
    for name, (kind, shape, first, last) in sorted(entries.items(), key=lambda entry: entry[1][2:]):
        stored = Stored(TYPES[kind], shape, start + first)
        if stored.offset != end or last - first != stored.n_bytes:
            raise _unreadable(path, f"its header gives {name} a wrong place", FETCH_AGAIN)
        end += stored.n_bytes
        file.stored[name] = stored
    if size < end:
        raise _cut_off(path, size, end)
    if size > end:
        raise _unreadable(path, f"{size - end:,} bytes follow its end", FETCH_AGAIN)


def _header_entry(entry: dict[str, Any]) -> tuple[str, Shape, int, int]:
    """Type, shape, and first and last offset. Raises KeyError, TypeError or ValueError where one is no such thing."""
    kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or not isinstance(shape, list):
        raise TypeError("a name and a list are due")
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError("whole numbers are due")
    return kind, tuple(shape), first, last


def _open_gguf(file: WeightFile) -> None:
    file.stored = gguf_files.read_header(file.path)


def _open_zip(file: WeightFile) -> None:
    """torch.save's format. torch itself says where each tensor lies, if it loads without data, as fake tensors."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            records = archive.infolist()
    except zipfile.BadZipFile as error:
        raise _unreadable(file.path, "it is cut off: a PyTorch file without its end", FETCH_AGAIN) from error
    if not any(record.filename.endswith("/data.pkl") for record in records):
        raise _unreadable(file.path, "it is a zip archive without a PyTorch model", "unpack it")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise _unreadable(file.path, "its records are compressed", FETCH_AGAIN)
    with FakeTensorMode():
        state = _load_pickle(file.path)
        for name, tensor in state.items():
            storage: Any = tensor.untyped_storage()
            offset = storage._checkpoint_offset + int(tensor.storage_offset()) * tensor.element_size()
            stride = None if tensor.is_contiguous() else tensor.stride()
            file.stored[name] = Stored(tensor.dtype, tuple(tensor.shape), offset, stride)


def _open_legacy_pickle(file: WeightFile) -> None:
    """What torch.save wrote before 2020: read whole."""
    file._loaded = _load_pickle(file.path)
    file.stored = {name: Stored(tensor.dtype, tuple(tensor.shape), 0) for name, tensor in file._loaded.items()}


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as opened:  # torch would go by the name's ending if it were given the path
            state = torch.load(opened, map_location="cpu", weights_only=True)
    except EOFError as error:
        raise _unreadable(path, "it is cut off", FETCH_AGAIN) from error
    except (pickle.UnpicklingError, AttributeError, KeyError, TypeError) as error:
        raise _unreadable(path, f"{OTHER_THINGS}; as a pickle these could be code", WEIGHTS_ALONE) from error
    except (RuntimeError, ValueError, OSError) as error:
        cause = str(error).splitlines()[0]
        raise _unreadable(path, f"torch does not load it: {cause}", FETCH_AGAIN) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise _unreadable(path, OTHER_THINGS, WEIGHTS_ALONE)
    return state
