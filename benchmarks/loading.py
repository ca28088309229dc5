"""Reading weights: bytes per second of the loader, beside a plain read of the same files.

The files have just been written, so they are still in the system's cache if it has room.

    python -m benchmarks.loading --blocks 8 --folder /tmp/weights

Writes a transformer of the 14B sizes with that many blocks and random weights (0.8 GB a block) to the folder, loads it
onto the GPU (or the CPU), checks that every weight arrived, and removes it again.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.random_models import random_transformer
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.transformer_loading import load_transformer

CONFIG = {"_class_name": "WanTransformer3DModel", "num_attention_heads": 40, "out_channels": 16, "eps": 1e-6}


def write(transformer: InfiniteTalkTransformer, folder: Path) -> list[Path]:
    """A diffusers folder and two adapter files, all bfloat16."""
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    base, parts = folder / "transformer" / "diffusion_pytorch_model.safetensors", {}
    for name, tensor in transformer.state_dict().items():
        file, key = base, name
        if name.startswith("adapters."):
            _, adapter, key = name.split(".", 2)
            file = folder / f"{adapter}.safetensors"
        parts.setdefault(file, {})[key] = tensor.to("cpu", torch.bfloat16)
    for file, tensors in parts.items():
        save_file(tensors, file)
    return list(parts)


def plain_read_s(files: list[Path]) -> float:
    """Seconds to read the files from their first byte to their last."""
    started = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    written = random_transformer(device, torch.bfloat16, num_layers=options.blocks)
    try:
        files = write(written, options.folder)
        size = sum(path.stat().st_size for path in files)
        plain_s = plain_read_s(files)
        started = time.perf_counter()
        adapters = {path.stem: path for path in files if path.parent == options.folder}
        loaded = load_transformer(options.folder, adapters, (), 12, device, torch.bfloat16)
        if device.type == "cuda":
            torch.cuda.synchronize()
        loaded_s = time.perf_counter() - started
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    for name, tensor in loaded.state_dict().items():
        if not torch.equal(tensor, written.state_dict()[name].to(torch.bfloat16).to(tensor.dtype)):
            raise RuntimeError(f"{name} did not arrive")
    figures = {
        "gb": round(size / 1e9, 2),
        "plain_read_gb_per_s": round(size / plain_s / 1e9, 2),
        "load_gb_per_s": round(size / loaded_s / 1e9, 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
