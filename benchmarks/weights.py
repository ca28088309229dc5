"""What the formats that people have weights in cost: the trained miniature in each of them, on the CPU.

    python -m benchmarks.weights [--out OUT [--jobs 4] [--seconds 2]]

Writes its base and adapters in every format by the formats' own writers, loads them as a worker does, and holds them
against the same weights in bfloat16: the matrices, one pass of the transformer (float32, random inputs, one and two
people, three noise levels), and with --out finished videos of held-out jobs (the transformer in bfloat16, the
autoencoder in float32; compression included). Prints Markdown tables.

The miniature's rows are no multiple of 256 numbers, so that its blocks of the K kinds lie across rows.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.lanes import compare
from benchmarks.quality import make, read, tasks
from benchmarks.transformer import LANES_MINIATURE, enter, inputs
from benchmarks.weight_files import Kind, adapter_kind, wan_kind, write_fp8, write_gguf
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.models import original, transformer_loading
from infinitetalk.models.opening import WeightFiles, load_models
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.quality.report import Measured
from infinitetalk.startup.weights import find_weights
from training.speech import load_corpus

CPU = torch.device("cpu")
AUDIO_LAYERS, IMAGE_TOKENS = 2, 17
SIZE, PEOPLE, TIMES = (160, 96, 17), (1, 2), (900.0, 500.0, 100.0)

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """How a base and an adapter are written."""

    base: Callable[[Path, State], object]
    adapter: Callable[[Path, State], object]


def in_gguf(kind: Kind, finer: Kind | None = None) -> Format:
    return Format(
        lambda path, state: write_gguf(path, state, wan_kind(kind, finer)),
        lambda path, state: write_gguf(path, state, adapter_kind(kind)),
    )


def in_fp8(dtype: torch.dtype, scale: str | None) -> Format:
    def write(path: Path, state: State) -> None:
        write_fp8(path, state, dtype, scale)

    return Format(write, write)


def in_bfloat16(path: Path, state: State) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in state.items()}, path)


FORMATS = {
    "bfloat16": Format(in_bfloat16, in_bfloat16),
    "GGUF Q8_0": in_gguf(Kind.Q8_0),
    "GGUF Q6_K": in_gguf(Kind.Q6_K),
    "GGUF Q5_K_M": in_gguf(Kind.Q5_K, Kind.Q6_K),
    "GGUF Q4_K_M": in_gguf(Kind.Q4_K, Kind.Q6_K),
    "fp8 e4m3, scaled": in_fp8(torch.float8_e4m3fn, "tensor"),
    "fp8 e4m3": in_fp8(torch.float8_e4m3fn, None),
    "fp8 e5m2, scaled": in_fp8(torch.float8_e5m2, "tensor"),
}


def original_names(state: State) -> dict[str, Tensor]:
    """A transformer's weights by their original names, in bfloat16 already: what all formats are made from."""
    blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    names = [f"{module}.{kind}" for module in original.transformer_modules(blocks) for kind in ("weight", "bias")]
    names += ["head.modulation", *(f"blocks.{block}.modulation" for block in range(blocks))]
    renamed = original.transformer_names(names)
    return {old: state[new].bfloat16() for old, new in renamed.items() if new in state}


def load(files: WeightFiles, form: Format, folder: Path, dtype: torch.dtype) -> InfiniteTalkTransformer:
    """The miniature's transformer out of files in a format, written to a folder."""
    base = original_names(load_file(files.transformer / "transformer" / "diffusion_pytorch_model.safetensors"))
    form.base(folder / "base", base)
    adapters = {}
    for name, path in files.adapters.items():
        adapters[name] = folder / name
        form.adapter(adapters[name], {key: tensor.bfloat16() for key, tensor in load_file(path).items()})
    loaded = transformer_loading.load_transformer(folder / "base", adapters, (), AUDIO_LAYERS, CPU, dtype)
    enter(loaded, LANES_MINIATURE["eager"])
    return loaded


@torch.inference_mode()
def passes(transformer: InfiniteTalkTransformer) -> Iterator[Tensor]:
    """What one pass gives, for one and two people at three noise levels."""
    for people in PEOPLE:
        latents, context = inputs(transformer, *SIZE, people, IMAGE_TOKENS)
        for time in TIMES:
            yield transformer(latents, transformer.embed_timesteps(torch.tensor([time])).step(0), context)


def relative(found: Iterator[Tensor], expected: Iterator[Tensor]) -> float:
    """The norm of all differences over the norm of all that is expected."""
    pairs = list(zip(found, expected, strict=True))
    difference = sum(float((one - other).square().sum()) for one, other in pairs)
    return (difference / sum(float(other.square().sum()) for _, other in pairs)) ** 0.5


def matrices(transformer: InfiniteTalkTransformer) -> Iterator[Tensor]:
    """The weights of the blocks' and adapters' linear layers."""
    state = transformer.state_dict()
    return (state[name] for name in sorted(state) if "blocks." in name and state[name].ndim == 2)


def print_errors(files: WeightFiles) -> None:
    """A line for each format: bits a weight, and how far matrices and passes are from bfloat16's."""
    print("| format | bytes of the base | error of the matrices | error of a pass |")
    print("| --- | --- | --- | --- |")
    exact: InfiniteTalkTransformer | None = None
    for name, form in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            loaded = load(files, form, Path(folder), torch.float32)
            size = Path(folder, "base").stat().st_size
        exact = exact or loaded
        errors = relative(matrices(loaded), matrices(exact)), relative(passes(loaded), passes(exact))
        print(f"| {name} | {size:,} | {errors[0]:.4f} | {errors[1]:.4f} |", flush=True)


def print_videos(files: WeightFiles, out: Path, jobs: int, seconds: float) -> None:
    """A line for each format: how far finished videos are from bfloat16's, and whether lips follow."""
    settings, corpus = Settings.from_env({}), load_corpus("held_out")
    models = load_models(files, CPU, torch.bfloat16)
    models.vae.float()
    todo = [task for task in tasks(jobs, seconds, 0) if task.mode == "balanced" and not task.silent]
    print("\n| format | PSNR of frames against bfloat16, dB | similarity, % | lip sync |")
    print("| --- | --- | --- | --- |")
    exact: list[Measured] = []
    for name, form in FORMATS.items():
        folder = out / name.replace(", ", " ").replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        models = replace(models, transformer=load(files, form, folder, torch.bfloat16))
        drawn = [(task, task.job(corpus)) for task in todo]
        made = [read(make(task, job, models, settings, folder / task.name), job) for task, job in drawn]
        print(compare(name, made, exact), flush=True)
        exact = exact or made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the videos; none are made without it")
    parser.add_argument("--jobs", type=int, default=4, help="held-out jobs, half of them of two people")
    parser.add_argument("--seconds", type=float, default=2, help="of each")
    options = parser.parse_args(arguments)
    files = find_weights(load_profile("miniature"), Settings.from_env({})).files
    transformer_loading.HEAD_DIM //= 4  # the miniature's heads have 32 channels, which a file alone does not say
    try:
        print_errors(files)
        if options.out is not None:
            print_videos(files, options.out, options.jobs, options.seconds)
    finally:
        transformer_loading.HEAD_DIM *= 4


if __name__ == "__main__":
    main()
