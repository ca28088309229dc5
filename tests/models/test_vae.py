"""The autoencoder, loaded from a file in the original format, against the authors' numbers."""

import copy
import functools

import pytest
import torch
from diffusers import AutoencoderKLWan

from infinitetalk.models.encoder_loading import load_vae
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.vae import picture_then_grey_to_latents, to_latents, to_video
from tests.support.golden import CPU, tensors, wan_folder

ATOL = 5e-5


def output(name: str) -> torch.Tensor:
    outputs = tensors("vae/outputs")
    if name not in outputs:
        pytest.skip(f"{name} is not bundled; set GOLDEN_DIR to the full set")
    return outputs[name]


@pytest.fixture(scope="module", params=["as loaded", "optimised"])
def vae(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AutoencoderKLWan:
    vae = load_vae(wan_folder(tmp_path_factory.mktemp("wan")), CPU, torch.float32)
    if request.param == "optimised":
        optimise_vae(vae, compiled=False)
    return vae


def leading_frames() -> list[str]:
    """The encodings of the whole clip or of its first frames: clip, image, first5, ..."""
    names = [name.removeprefix("encode.") for name in tensors("vae/outputs") if name.startswith("encode.")]
    return [name for name in names if name != "image_then_zeros"]


@pytest.mark.parametrize("name", leading_frames())
def test_encoding_is_met(name: str, vae: AutoencoderKLWan) -> None:
    clip = tensors("vae/inputs")["clip"].unsqueeze(0)
    stored = output(f"encode.{name}")
    frames = {"clip": clip.shape[2], "image": 1}.get(name) or int(name.removeprefix("first"))
    torch.testing.assert_close(to_latents(vae, clip[:, :, :frames])[0], stored, rtol=0, atol=ATOL)


def test_condition_clip_is_met_and_its_prefix_is_exact(vae: AutoencoderKLWan) -> None:
    picture = tensors("vae/inputs")["clip"][None, :, :1]
    stored = tensors("vae/outputs")["encode.image_then_zeros"]
    frames = 4 * stored.shape[1] - 3
    video = torch.cat((picture, picture.new_zeros(1, 3, frames - 1, *picture.shape[3:])), dim=2)
    latents = to_latents(vae, video)
    torch.testing.assert_close(latents[0], stored, rtol=0, atol=ATOL)
    assert torch.equal(to_latents(vae, video[:, :, :17]), latents[:, :, :5])
    assert torch.equal(picture_then_grey_to_latents(vae, picture[0, :, 0], frames), latents)


def test_layers_rest_once_grey_frames_have_settled(vae: AutoencoderKLWan) -> None:
    picture = tensors("vae/inputs")["clip"][:, 0]
    first, last = vae.encoder.down_blocks[0], vae.encoder.down_blocks[-1]
    calls = {first: 0, last: 0}

    def count(layer: torch.nn.Module, *_: object) -> None:
        calls[layer] += 1

    hooks = [layer.register_forward_hook(count) for layer in calls]
    picture_then_grey_to_latents(vae, picture, 81)
    for hook in hooks:
        hook.remove()
    assert calls[first] < 6
    assert calls[last] < 21
    assert isinstance(vae.encoder.down_blocks[0], type(first)), "the encoder is not as it was"


@pytest.mark.parametrize("name", ["latent", "one_latent_frame", "encoded_clip", "latent_unclamped"])
def test_decoding_is_met(name: str, vae: AutoencoderKLWan) -> None:
    stored = output(f"decode.{name}")
    latents = tensors("vae/inputs")["latent"]
    if name == "latent_unclamped":
        assert stored.abs().max() > 1
        stored = stored.clamp(-1, 1)
    elif name == "one_latent_frame":
        latents = latents[:, :1]
    elif name == "encoded_clip":
        latents = output("encode.clip")
    video = to_video(vae, latents.unsqueeze(0))
    torch.testing.assert_close(video[0], stored, rtol=0, atol=ATOL)
    assert video.abs().max() <= 1


def test_one_compiled_activation_serves_all_widths_and_sizes(
    vae: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the captured graph, but not the kernel that is generated from it: that needs a C++ compiler here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    latents = tensors("vae/inputs")["latent"].unsqueeze(0)
    expected = to_video(vae, latents)
    compiled = copy.deepcopy(vae)
    optimise_vae(compiled, compiled=True)
    to_video(compiled, latents[:, :, :1])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(to_video(compiled, latents), expected, rtol=0, atol=ATOL)
    to_video(compiled, latents[..., :3])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "a new size was compiled again"
