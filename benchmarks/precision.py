"""What the number formats of the parts around the transformer cost, each against float32.

    python -m benchmarks.precision [--parts picture voice autoencoder] [--threads 2]

picture: features of CLIP ViT-H at its real size with random weights, in float16 (what runs) and bfloat16, on the GPU or
the CPU. voice: features of wav2vec2-base at its real size with random weights on the GPU, with and without TF32 in its
convolutions, against a CPU's; needs a GPU. autoencoder: the miniature's, which is trained, in bfloat16: frames decoded
from the sample portrait's latents, in levels of 255. Prints JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from benchmarks.random_models import MINIATURE, random_image_encoder, random_module
from infinitetalk.generation.pixels import to_picture
from infinitetalk.models import audio_encoder
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.encoder_loading import load_vae
from infinitetalk.models.image_encoder import embed_picture
from infinitetalk.models.vae import to_latents, to_video
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
VOICE_S = 10
PICTURE_SIZE = (848, 480)
FRAMES = 17


def relative_error(made: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    made, expected = made.double().cpu(), expected.double().cpu()
    return float((made - expected).norm() / expected.norm())


def picture(device: torch.device) -> dict[str, Any]:
    """The picture encoder's features by their number format."""
    torch.manual_seed(0)
    encoder = random_image_encoder(device, torch.float32)
    image = portrait(*PICTURE_SIZE).to(device)
    expected = embed_picture(encoder, image)
    errors = {}
    for dtype in (torch.float16, torch.bfloat16):
        lower = random_image_encoder(torch.device("meta"), torch.float32).to_empty(device=device).to(dtype)
        lower.load_state_dict(encoder.state_dict())
        for module in lower.modules():
            if hasattr(module, "position_ids"):
                module.position_ids = torch.arange(module.num_positions, device=device).unsqueeze(0)
        errors[str(dtype).removeprefix("torch.")] = relative_error(embed_picture(lower, image), expected)
        del lower
    return errors


def voice(device: torch.device) -> dict[str, Any]:
    """The audio encoder's features on a GPU, against a CPU's."""
    if device.type != "cuda":
        return {"skipped": "no GPU"}
    torch.manual_seed(0)
    encoder = random_module(lambda: Wav2Vec2Model(Wav2Vec2Config()), CPU, torch.float32)
    wave = np.random.default_rng(0).standard_normal(VOICE_S * SAMPLE_RATE_HZ).astype(np.float32)
    extractor, n_frames = Wav2Vec2FeatureExtractor(), VOICE_S * FPS
    expected = embed_voice(encoder, extractor, wave, n_frames)
    on_gpu = encoder.to(device)
    errors = {"exact": relative_error(embed_voice(on_gpu, extractor, wave, n_frames), expected)}
    exact = audio_encoder.exact_convolutions
    audio_encoder.exact_convolutions = lambda: torch.backends.cudnn.flags(enabled=True, allow_tf32=True)  # type: ignore[assignment]
    try:
        errors["tf32"] = relative_error(embed_voice(on_gpu, extractor, wave, n_frames), expected)
    finally:
        audio_encoder.exact_convolutions = exact
    return errors


def autoencoder(device: torch.device) -> dict[str, Any]:
    """Frames that the miniature's autoencoder decodes in bfloat16, in levels of 255."""
    video = portrait(160, 96).to(device).unsqueeze(1).expand(-1, FRAMES, -1, -1).unsqueeze(0)
    exact, lower = (load_vae(MINIATURE, device, dtype) for dtype in (torch.float32, torch.bfloat16))
    latents = to_latents(exact, video)
    expected = to_video(exact, latents)
    levels = {
        "decoded in bfloat16": (to_video(lower, latents) - expected).abs(),
        "encoded and decoded in bfloat16": (to_video(lower, to_latents(lower, video)) - expected).abs(),
    }
    return {what: float(error.mean()) * 127.5 for what, error in levels.items()}


def portrait(width: int, height: int) -> Tensor:
    """(3, height, width) in [-1, 1]: the middle of the sample portrait."""
    image = Image.open(ROOT / "samples" / "portrait.png").convert("RGB").resize((width, height))
    return to_picture(np.asarray(image), CPU)


PARTS = {"picture": picture, "voice": voice, "autoencoder": autoencoder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, help="of a CPU")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {part: PARTS[part](device) for part in options.parts}
    figures["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
