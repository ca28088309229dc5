"""The transformer against the authors' numbers, and the properties that the loop relies on."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from infinitetalk.models import transformer as module
from infinitetalk.models.audio_adapter import AudioProjection
from infinitetalk.models.people import person_attention, person_positions
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context
from tests.support.golden import (
    audio_of,
    clip_features,
    info,
    load_golden_transformer,
    pad_text,
    tensors,
    wan_folder,
)
from tests.support.reference_masks import token_masks

ATOL, MAP_ATOL = 1e-4, 2e-6
CLIP_FEATURES = {"dit_single": 0, "dit_multi": 1}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfiniteTalkTransformer]:
    with torch.inference_mode():
        yield load_golden_transformer(wan_folder(tmp_path_factory.mktemp("wan")))


class Case:
    """The inputs of one folder of forward passes."""

    def __init__(self, name: str, transformer: InfiniteTalkTransformer) -> None:
        self.transformer = transformer
        self.inputs = tensors(f"{name}/inputs")
        people, frames = info(name)["num_humans"], info(name)["audio_frames"]
        self.audio = audio_of(name, 0, people, frames, lambda: self.inputs["audio_padded"])
        self.outputs = tensors(f"{name}/outputs")
        self.trace = tensors(f"{name}/trace")
        self.latents = torch.cat((self.inputs["x"].unsqueeze(0), self.inputs["y"]), dim=1)
        self.times = transformer.embed_timesteps(torch.tensor(info(name)["timesteps"]))
        self.image = transformer.embed_image(clip_features(CLIP_FEATURES[name]))

    def context(self, case: str, masks: int) -> Context:
        prompt = "context_null" if case in ("drop_text", "drop_both") else "context"
        audio = self.audio.unsqueeze(0)
        if case in ("drop_audio", "drop_both"):
            audio = torch.zeros_like(audio[:, :1])
        people = token_masks(self.inputs[f"ref_target_masks_{masks}"]) if audio.shape[1] == 2 else None
        return Context(
            self.transformer.embed_text(pad_text(self.inputs[prompt])),
            self.image,
            self.transformer.embed_audio(audio, "single", people),
            self.transformer.rotary_embedding(self.latents),
        )

    def predict(self, case: str, masks: int, time: int) -> Tensor:
        return self.transformer(self.latents, self.times.step(time), self.context(case, masks))[0]


@pytest.mark.parametrize("name", ["dit_single", "dit_multi"])
@torch.inference_mode()
def test_every_stored_prediction_is_met(name: str, transformer: InfiniteTalkTransformer) -> None:
    case = Case(name, transformer)
    for key, stored in case.outputs.items():
        _, kind, masks, time = key.split(".")
        prediction = case.predict(kind, int(masks.removeprefix("mask")), int(time.removeprefix("t")))
        torch.testing.assert_close(prediction, stored, rtol=0, atol=ATOL, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", ["dit_single", "dit_multi"])
@torch.inference_mode()
def test_every_traced_value_is_met(
    name: str, transformer: InfiniteTalkTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Localises a miss: each block's four parts, the map of the people, the embeddings, the head."""
    case = Case(name, transformer)
    seen: dict[str, Tensor] = {}
    modules = {
        "patch_embedding": transformer.patch_embedding,
        "head": transformer.proj_out,
        "text_embedding": transformer.condition_embedder.text_embedder,
        "img_emb": transformer.condition_embedder.image_embedder,
        "audio_proj": transformer.adapters["single"].audio_proj,
    }
    for index, block in enumerate(transformer.blocks):
        modules |= {
            f"block{index}.self_attn": block.attn1.to_out[0],
            f"block{index}.cross_attn": block.attn2.to_out[0],
            f"block{index}.audio_cross_attn": transformer.adapters["single"].blocks[index].audio_cross_attn.proj,
            f"block{index}.ffn": block.ffn,
            f"block{index}.out": block,
        }
    hooks = [
        part.register_forward_hook(lambda _m, _a, output, key=key: seen.__setitem__(key, output))
        for key, part in modules.items()
    ]
    blocks = itertools.count()

    def keep_map(attention: Tensor) -> Tensor:
        seen[f"block{next(blocks)}.x_ref_attn_map"] = attention
        return person_positions(attention)

    monkeypatch.setattr(module, "person_positions", keep_map)
    times = info(name)["timesteps"]
    try:
        for masks in sorted({key.split(".")[0] for key in case.trace}):
            blocks = itertools.count()
            case.image = transformer.embed_image(clip_features(CLIP_FEATURES[name]))
            case.predict("cond", int(masks.removeprefix("mask")), len(times) - 1)
            seen["time_e"] = case.times.head[-1:]
            seen["time_e0"] = case.times.blocks[-1:]
            for key in (key for key in case.trace if key.startswith(masks)):
                stored, part = case.trace[key], key.removeprefix(f"{masks}.")
                if part.endswith("x_ref_attn_map") and name == "dit_single":
                    continue  # computed and never used by the authors' code; not computed here
                atol = MAP_ATOL if part.endswith("x_ref_attn_map") else ATOL
                value = seen[part].reshape(stored.shape)
                torch.testing.assert_close(value, stored, rtol=0, atol=atol, msg=lambda m, key=key: f"{key}: {m}")
    finally:
        for hook in hooks:
            hook.remove()


def test_person_attention_is_the_softmax_averaged_over_heads_and_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 10, 3, 8, generator=generator), torch.randn(2, 6, 3, 8, generator=generator)
    masks = torch.zeros(2, 3, 6)
    masks[:, 0, :2], masks[:, 1, 2:3], masks[:, 2, 3:] = 1, 1, 1
    weights = torch.einsum("bnhd,bshd->bhns", query, key).div(8**0.5).softmax(dim=-1).mean(dim=1)
    expected = torch.einsum("bns,bps->bpn", weights, masks) / masks.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(person_attention(query, key, masks), expected)


def test_person_positions_follow_the_largest_row() -> None:
    attention = torch.tensor([[[0.9, 0.5, 0.1, 0.0], [0.1, 0.2, 0.8, 0.0], [0.0, 0.0, 0.0, 0.5]]])
    positions = person_positions(attention)[0]
    assert positions[0].item() == pytest.approx(4.0, abs=1e-4)
    assert 0 < positions[1].item() < 4
    assert positions[2].item() == pytest.approx(24.0, abs=1e-4)
    assert positions[3].item() == 12.0


@pytest.fixture(scope="module")
def small() -> InfiniteTalkTransformer:
    """Two heads, two blocks, three audio layers of four channels."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32}
    audio = {"audio_layers": 3, "audio_channels": 4, "audio_hidden": 8, "audio_tokens": 2, "audio_dim": 6}
    return InfiniteTalkTransformer(**sizes, **audio, num_layers=2, image_dim=8).eval().requires_grad_(False)


def predict(
    model: InfiniteTalkTransformer, latents: Tensor, audio: Tensor, adapter: str, masks: Tensor | None
) -> Tensor:
    size = latents.shape[0]
    generator = torch.Generator().manual_seed(3)
    text = model.embed_text(torch.randn(1, 512, 8, generator=generator).expand(size, -1, -1))
    image = model.embed_image(torch.randn(1, 5, 8, generator=generator).expand(size, -1, -1))
    voices = model.embed_audio(audio, adapter, masks)
    time = model.embed_timesteps(torch.tensor([700.0])).step(0)
    return model(latents, time, Context(text, image, voices, model.rotary_embedding(latents)))


def test_audio_projection_hears_the_frames_around_each_latent_frame() -> None:
    """First latent frame: video frames -2..2; a later one: -2, -1, 0 of its first of four, the middle two, 0, 1, 2
    of its last."""
    torch.manual_seed(0)
    project = AudioProjection(layers=3, channels=4, hidden=8, tokens=2, token_dim=6)
    audio = torch.randn(1, 1, 13 + 4, 3, 4)
    tokens = project(audio)
    frames = [audio[0, 0, frame + 2].flatten() for frame in range(-2, 15)]  # from video frame -2 on
    for latent in range(4):
        if latent == 0:
            heard, first = [frames[2 + offset] for offset in (-2, -1, 0, 1, 2)], project.proj1
        else:
            a, b, c, d = (2 + 4 * latent - 3 + step for step in range(4))
            heard, first = [frames[i] for i in (a - 2, a - 1, a, b, c, d, d + 1, d + 2)], project.proj1_vf
        hidden = torch.relu(project.proj2(torch.relu(first(torch.cat(heard)))))
        expected = project.norm(project.proj3(hidden).view(2, 6))
        torch.testing.assert_close(tokens[0, 0, latent], expected)
    alone = project(audio[:, :, :5])  # a window of one frame
    torch.testing.assert_close(alone, tokens[:, :, :1])


def test_masks_go_with_two_people_and_only_then(small: InfiniteTalkTransformer) -> None:
    audio = torch.zeros(1, 2, 9, 3, 4)
    with pytest.raises(ValueError, match="several people"):
        small.embed_audio(audio, "multi", None)
    with pytest.raises(ValueError, match="several people"):
        small.embed_audio(audio[:, :1], "single", torch.ones(1, 3, 4))


def test_text_must_be_padded(small: InfiniteTalkTransformer) -> None:
    with pytest.raises(ValueError, match="512"):
        small.embed_text(torch.zeros(1, 77, 8))


def test_adapters_are_chosen_per_call(small: InfiniteTalkTransformer) -> None:
    latents, audio = torch.randn(1, 36, 2, 4, 4), torch.randn(1, 1, 9, 3, 4)
    single, multi = (predict(small, latents, audio, name, None) for name in ("single", "multi"))
    assert not torch.allclose(single, multi)
    assert torch.equal(predict(small, latents, audio, "single", None), single)


def test_a_batch_gives_what_its_members_give(small: InfiniteTalkTransformer) -> None:
    latents, audio = torch.randn(2, 36, 2, 4, 4), torch.randn(2, 2, 9, 3, 4)
    masks = torch.stack((torch.eye(4)[[0, 1, 2]], torch.eye(4)[[2, 0, 3]]))
    both = predict(small, latents, audio, "multi", masks)
    for member in range(2):
        part = slice(member, member + 1)
        alone = predict(small, latents[part], audio[part], "multi", masks[part])
        torch.testing.assert_close(both[part], alone, rtol=0, atol=1e-5)


def test_voices_and_masks_of_the_two_people_matter(small: InfiniteTalkTransformer) -> None:
    latents, audio = torch.randn(1, 36, 2, 4, 4), torch.randn(1, 2, 9, 3, 4)
    masks = torch.tensor([[[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]).float()
    base = predict(small, latents, audio, "multi", masks)
    assert not torch.allclose(base, predict(small, latents, audio.flip(1), "multi", masks))
    assert not torch.allclose(base, predict(small, latents, audio, "multi", masks[:, [1, 0, 2]]))
