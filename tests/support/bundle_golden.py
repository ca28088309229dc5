"""Makes tests/golden, the part of the reference numbers that is small enough to come with the code.

    python -m tests.support.bundle_golden FULL_SET

Two linear layers of the tiny model are as large as the real one's and hold three quarters of all bytes: the first
of the image embedding and the first of the audio projection. Their inputs and weights are left out; what the whole
embedding and projection give, computed by this package's classes from the full set, stands in for them in
`tokens.safetensors`. Everything after them is compared with the authors' numbers, and with GOLDEN_DIR everything is.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support import golden

BUNDLE = Path(__file__).parents[1] / "golden"
LOOPS = {
    "loop_single_image": ["e_text1_audio2_apg_cc05", "g_clip_mode"],
    "loop_multi_image": ["b_bbox_text5_audio4_cc1", "c_second_audio_shorter"],
    "loop_single_video": ["b_text5_audio4_motion5_cc0"],
}
COPIED = [
    "dit_weights/config.json",
    "color/info.json",
    "color/reference.safetensors",
    *(f"loudness/{file}" for file in ("info.json", "clip_a.wav", "clip_b.wav", "clip_c.wav")),
    "dit_single/info.json",
    "dit_multi/info.json",
    "vae_weights/vae.safetensors",
    "audio_encoder/config.json",
    "audio_encoder/model.safetensors",
    "audio_encoder/preprocessor_config.json",
    "lora/lora.safetensors",
    "lora/lora_with_alpha.safetensors",
    "lora/outputs.safetensors",
]


def keep(name: str, *dropped: str) -> None:
    """Copy a file without the tensors whose names contain one of `dropped`."""
    state = load_file(golden.GOLDEN / f"{name}.safetensors")
    kept = {key: tensor for key, tensor in state.items() if not any(part in key for part in dropped)}
    (BUNDLE / name).parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, BUNDLE / f"{name}.safetensors")


@torch.inference_mode()
def make_tokens() -> dict[str, Tensor]:
    """What the left-out layers' embeddings give for every bundled case."""
    with tempfile.TemporaryDirectory() as folder:
        transformer = golden.load_golden_transformer(golden.wan_folder(Path(folder)))
    embedder = transformer.condition_embedder.image_embedder
    project = transformer.adapters["single"].audio_proj
    tokens = {f"image.{name}": embedder(clip) for name, clip in golden.tensors("common/clip_features").items()}
    with tempfile.TemporaryDirectory() as folder:
        loras = ((golden.GOLDEN / "lora" / "lora.safetensors", 0.8),)
        merged = golden.load_golden_transformer(golden.wan_folder(Path(folder)), loras)
    clip = golden.tensors("common/clip_features")["clip_fea_0"]
    tokens["image.clip_fea_0 with lora"] = merged.condition_embedder.image_embedder(clip)
    for frames in (13, 17):
        tokens[f"silence.{frames}"] = project(torch.zeros(1, 1, frames + 4, 12, 768))
    for case in ("dit_single", "dit_multi"):
        tokens[f"audio.{case}.0"] = project(golden.tensors(f"{case}/inputs")["audio_padded"].unsqueeze(0))
    for folder, variants in LOOPS.items():
        for variant in variants:
            loop = golden.Loop(folder, variant)
            for window in loop.plan.windows:
                tokens[f"audio.{folder}/{variant}.{window.index}"] = project(loop.window(window).unsqueeze(0))
    return tokens


def main() -> None:
    golden.GOLDEN = Path(sys.argv[1])
    for name in COPIED:
        (BUNDLE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(golden.GOLDEN / name, BUNDLE / name)
    keep("dit_weights/base", "img_emb.proj.1.weight")
    keep("dit_weights/adapter", "proj1.weight", "proj1_vf.weight")
    for case in ("dit_single", "dit_multi"):
        keep(f"{case}/inputs", "audio_padded")
        keep(f"{case}/outputs", "drop_audio.mask0.t1", "drop_text.mask0.t1", "drop_both.mask0.t1")
        keep(
            f"{case}/trace", "img_emb", "time_e0", "text_emb", *(f"mask0.block1.{x}" for x in ("ffn", "cross", "self"))
        )
    keep("loudness/reference", "noise_burst", "long_silence_then_speech", "speech_loud")
    keep("vae/inputs")
    keep("vae/outputs", "latent_unclamped", "encoded_clip", "first8")
    keep("audio_encoder/reference", "0", "conv_features", "hidden_state", "normalized")
    for folder, variants in LOOPS.items():
        stored = json.loads((golden.GOLDEN / folder / "info.json").read_text("utf-8"))
        keep(f"{folder}/inputs", "source_frames")
        chosen = {variant: stored[variant] for variant in variants}
        (BUNDLE / folder / "info.json").write_text(json.dumps(chosen, indent=1), "utf-8")
        for variant in variants:
            keep(f"{folder}/{variant}", "noise_pred", "decoded", ".y", "motion_latent")
    save_file({name: tensor.contiguous() for name, tensor in make_tokens().items()}, BUNDLE / "tokens.safetensors")


if __name__ == "__main__":
    main()
