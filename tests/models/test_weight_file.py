"""What a file is said to be, whatever it is called; tensors are read as the formats' own writers wrote them."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infinitetalk.errors import ModelMissing
from infinitetalk.models.weight_file import META, TYPES, WeightFile
from tests.support.full_size import write_hollow_pickle, write_hollow_safetensors

ROOT = Path(__file__).parents[2]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 9950000000\n"
NOT_WEIGHTS = {
    "empty": (b"", "it is an empty file", "fetch it again"),
    "gguf": (
        b"GGUF\x03\x00\x00\x00" + b"\x10\x00\x00\x00\x00\x00\x00\x00" * 8,
        "a GGUF file, incomplete or damaged",
        "fetch it again",
    ),
    "login": (b"\n<!DOCTYPE html><html><title>Log in</title>", "a web page, such as a login", "HF_TOKEN"),
    "error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page", "HF_TOKEN"),
    "lfs": (LFS, "a Git LFS pointer", "git lfs pull"),
    "json": (b'{"error": "Repository not found"}', "it is a text file", "fetch it again"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(range(100)), "a compressed archive", "unpack"),
    "zeros": (bytes(4096), "blank at its beginning", "fetch it again"),
    "noise": (bytes(range(200, 256)) + bytes(range(56)), "neither safetensors nor GGUF nor a PyTorch file", "own file"),
    "python": (b"\x80\x02U\x05hello.", "a pickle that PyTorch did not write", "weights alone"),
}
STATE = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.tensor(2.5), "c": torch.zeros(0, 3), "d": torch.ones(5)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_what_is_no_weight_file_is_named_with_the_remedy(what: str, suffix: str, tmp_path: Path) -> None:
    content, found, remedy = NOT_WEIGHTS[what]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelMissing) as caught:
        WeightFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read (")
    assert found in message
    assert remedy in message.split(");")[1]
    assert "cut off" not in message


def write_torch(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)


def write_old_torch(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


WRITERS = [save_file, write_torch, write_old_torch]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["m.safetensors", "m.pth", "m"])
def test_a_file_is_read_by_its_content_and_not_by_its_name(write, name: str, tmp_path: Path) -> None:
    write(STATE, tmp_path / name)
    file = WeightFile(tmp_path / name)
    assert file.stored.keys() == STATE.keys()
    for key, tensor in STATE.items():
        assert file.stored[key].shape == tuple(tensor.shape)
        assert file.stored[key].dtype == tensor.dtype
        assert torch.equal(file.read(key), tensor)


@pytest.mark.parametrize("write", WRITERS)
def test_every_type_is_read_bit_for_bit(write, tmp_path: Path) -> None:
    numbers = torch.arange(-8, 8).view(4, 4)
    types = {name: dtype for name, dtype in TYPES.items() if write is not write_old_torch or "F8" not in name}
    state = {name: (numbers > 0 if name == "BOOL" else numbers.abs()).to(dtype) for name, dtype in types.items()}
    write(state, tmp_path / "m")
    file = WeightFile(tmp_path / "m")
    for name, dtype in types.items():
        read = file.read(name)
        assert read.dtype == dtype
        assert torch.equal(read.view(torch.uint8), state[name].view(torch.uint8))


@pytest.mark.parametrize("write", [write_torch, write_old_torch])
def test_views_of_a_shared_or_turned_storage_are_read(write, tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    state = {"whole": whole, "row": whole[2], "turned": whole.t(), "part": whole[1:3, ::2]}
    state["parameter"] = torch.nn.Parameter(whole)
    write(state, tmp_path / "m.pth")
    file = WeightFile(tmp_path / "m.pth")
    assert all(torch.equal(file.read(name), tensor) for name, tensor in state.items())


@pytest.mark.parametrize("write", WRITERS)
def test_on_the_meta_device_nothing_is_read(write, tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(STATE, path)
    file = WeightFile(path)
    path.unlink()
    for name, tensor in STATE.items():
        read = file.read(name, META)
        assert read.is_meta
        assert (read.shape, read.dtype) == (tensor.shape, tensor.dtype)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_said_to_be(write, part: float, tmp_path: Path) -> None:
    path = tmp_path / "m"
    write({"a": torch.arange(5000.0), "b": torch.zeros(10)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelMissing, match=r"cannot be read \(.*\); fetch it again\.$") as caught:
        WeightFile(path)
    if write is not write_old_torch:
        assert "it is cut off" in str(caught.value)


def test_bytes_after_the_end_and_a_damaged_header_are_told_from_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content + b"1234")
    with pytest.raises(ModelMissing, match="4 bytes follow its end"):
        WeightFile(path)
    path.write_bytes(content.replace(b'"shape"', b'"shap"', 1).replace(b'"dtype"', b"'dtype\"", 1))
    with pytest.raises(ModelMissing, match="its header is damaged"):
        WeightFile(path)
    for change, problem in (({"dtype": "F4"}, "of the type F4"), ({"data_offsets": [4, 24]}, "d a wrong place")):
        header = {"d": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20], **change}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
        with pytest.raises(ModelMissing, match=problem):
            WeightFile(path)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype": "F32", "shape": [5.0], "data_offsets": [0, 20]}',
        '{"dtype": "F32", "shape": [true, 5], "data_offsets": [0, 20]}',
        '{"dtype": "F32", "shape": [-1, -5], "data_offsets": [0, 20]}',
        '{"dtype": "F32", "shape": "5", "data_offsets": [0, 20]}',
        '{"dtype": "F32", "shape": [5], "data_offsets": ["0", "20"]}',
        '{"dtype": "F32", "shape": [5], "data_offsets": [0, 20, 20]}',
        '{"dtype": "F32", "shape": [5], "data_offsets": {"0": 0, "20": 20}}',
        '{"dtype": ["F32"], "shape": [5], "data_offsets": [0, 20]}',
        '{"dtype": null, "shape": [5], "data_offsets": [0, 20]}',
        DEEP,
        DEEP + "]" * 100_000,
    ],
    ids=lambda entry: entry[:60],
)
def test_a_header_of_other_kinds_is_damaged(entry: str, tmp_path: Path) -> None:
    text = f'{{"d": {entry}}}'.encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(20))
    with pytest.raises(ModelMissing, match=r"m\.safetensors cannot be read \(its header is damaged\)"):
        WeightFile(path)


def test_zip_archives_that_are_not_torchs_are_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "m.pth")
    stored = zipfile.ZipFile(tmp_path / "m.pth")
    packed = zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED)
    with stored, packed:
        for record in stored.infolist():
            packed.writestr(record.filename, stored.read(record))
    with pytest.raises(ModelMissing, match="its records are compressed"):
        WeightFile(tmp_path / "packed.pth")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(tmp_path / "m.pth", "m.pth")
    with pytest.raises(ModelMissing, match=r"a zip archive without a PyTorch model\); unpack it"):
        WeightFile(tmp_path / "model.zip")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "run": shutil.rmtree}, tmp_path / "m.pth")
    with pytest.raises(ModelMissing, match=r"other things than tensors by name; as a pickle these could be code"):
        WeightFile(tmp_path / "m.pth")


def test_a_file_that_changes_or_goes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(STATE, path)
    file = WeightFile(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ModelMissing, match="it has become shorter"):
        file.read("d")
    path.unlink()
    with pytest.raises(ModelMissing, match=r"m\.safetensors cannot be read \(d: No such file"):
        file.read("d")
    with pytest.raises(ModelMissing, match=r"m\.safetensors is missing"):
        WeightFile(path)


LIMITED = """
import resource, sys
from pathlib import Path
from safetensors import safe_open
import torch
from infinitetalk.errors import ModelMissing
from infinitetalk.models.weight_file import WeightFile

size = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
limit = int(size.split()[1]) * 1024 + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in map(Path, sys.argv[1:]):
    try:
        safe_open(path, framework="pt") if path.suffix == ".safetensors" else torch.load(path, mmap=True)
    except (MemoryError, RuntimeError, OSError) as error:
        print("not mapped", path.suffix)
    file = WeightFile(path)
    print(sum(float(file.read(name).sum()) for name in file.stored if name != "large"), len(file.stored))
    try:
        file.read("large")
    except ModelMissing as error:
        print(error)
"""


@pytest.mark.long  # in a process of its own
def test_a_file_larger_than_the_memory_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    """6 GB in a process that may take 1 GiB more than it has: neither library maps them, one tensor does not fit."""
    shapes = {"large": (2**30, 2), **{f"w{index}": (2**25,) for index in range(30)}}
    paths = [tmp_path / "m.safetensors", tmp_path / "m.pth"]
    assert write_hollow_safetensors(paths[0], shapes) > 6e9
    assert write_hollow_pickle(paths[1], shapes, torch.bfloat16) > 6e9
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for path, (mapped, read, refused) in zip(paths, (lines[:3], lines[3:]), strict=True):
        assert mapped == f"not mapped {path.suffix}"
        assert read == "0.0 31"
        assert refused.startswith(f"{path}: there is no memory for large, 4.3 GB, while it is loaded")
        assert refused.endswith("give the worker more memory.")
