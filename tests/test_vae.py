"""The autoencoder, loaded from a file in the original format, against the authors' numbers."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from infinitetalk.models.loading import load_vae
from infinitetalk.models.vae import decode_video, encode_video
from tests.golden import CPU, tensors, wan_folder

ATOL = 5e-5


def output(name: str) -> torch.Tensor:
    outputs = tensors("vae/outputs")
    if name not in outputs:
        pytest.skip(f"{name} is not bundled; set GOLDEN_DIR to the full set")
    return outputs[name]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> AutoencoderKLWan:
    return load_vae(wan_folder(tmp_path_factory.mktemp("wan")), CPU, torch.float32)


@pytest.mark.parametrize(("name", "frames"), [("clip", 17), ("image", 1), ("first5", 5), ("first8", 8), ("first9", 9)])
def test_encoding_is_met(name: str, frames: int, vae: AutoencoderKLWan) -> None:
    clip = tensors("vae/inputs")["clip"].unsqueeze(0)
    stored = output(f"encode.{name}")
    torch.testing.assert_close(encode_video(vae, clip[:, :, :frames])[0], stored, rtol=0, atol=ATOL)


def test_condition_clip_is_met_and_its_prefix_is_exact(vae: AutoencoderKLWan) -> None:
    picture = tensors("vae/inputs")["clip"][None, :, :1]
    video = torch.cat((picture, picture.new_zeros(1, 3, 32, *picture.shape[3:])), dim=2)
    latents = encode_video(vae, video)
    stored = tensors("vae/outputs")["encode.image_then_zeros"]
    torch.testing.assert_close(latents[0], stored, rtol=0, atol=ATOL)
    assert torch.equal(encode_video(vae, video[:, :, :17]), latents[:, :, :5])


@pytest.mark.parametrize("name", ["latent", "one_latent_frame", "encoded_clip"])
def test_decoding_is_met(name: str, vae: AutoencoderKLWan) -> None:
    stored = output(f"decode.{name}")
    latents = tensors("vae/inputs")["latent"]
    if name == "one_latent_frame":
        latents = latents[:, :1]
    elif name == "encoded_clip":
        latents = output("encode.clip")
    video = decode_video(vae, latents.unsqueeze(0))
    torch.testing.assert_close(video[0], stored, rtol=0, atol=ATOL)
    assert video.abs().max() <= 1
