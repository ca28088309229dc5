"""Vocals out of songs: the network against the released model's class, its files, and songs in chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitetalk.errors import ModelMissing, TimedOut
from infinitetalk.models.separator import chunk_weights, isolate_vocals, load_separator
from infinitetalk.shapes import SEPARATOR_CHUNK_SAMPLES, SEPARATOR_STEP_SAMPLES, separator_chunk_starts
from tests.support.full_size import write_hollow_safetensors
from tests.support.separator import RELEASED, LowPass, released_shapes, song, write_separator

CPU = torch.device("cpu")
REFERENCE = Path(__file__).parents[1] / "golden" / "separator" / "reference.safetensors"


def isolate(separator, sound: np.ndarray) -> np.ndarray:
    return isolate_vocals(separator, sound, CPU, lambda: None)


# --- the network and its files


def test_the_network_computes_what_the_released_models_class_does(tmp_path: Path) -> None:
    separator = load_separator(write_separator(tmp_path / "tiny.safetensors"), CPU)
    sound = torch.from_numpy(song(8820).T.copy())[None]
    with torch.inference_mode():
        vocals = separator(sound)
    torch.testing.assert_close(vocals[0], load_file(REFERENCE)["vocals"], rtol=0, atol=1e-6)


def test_the_released_files_names_and_shapes_are_the_networks(tmp_path: Path) -> None:
    shapes = released_shapes(**RELEASED)
    assert len(shapes) == 684
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 228_203_172
    file = tmp_path / "MelBandRoformer_fp16.safetensors"
    write_hollow_safetensors(file, shapes)
    separator = load_separator(file, torch.device("meta"))
    assert sum(parameter.numel() for parameter in separator.parameters()) == 228_203_172 - 10 * 32  # shared rotations


def test_weights_are_computed_with_in_float32(tmp_path: Path) -> None:
    separator = load_separator(write_separator(tmp_path / "tiny.safetensors"), CPU)
    assert {parameter.dtype for parameter in separator.parameters()} == {torch.float32}
    assert not separator.training
    assert not any(parameter.requires_grad for parameter in separator.parameters())


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_the_original_checkpoint_is_read_too(suffix: str, tmp_path: Path) -> None:
    state = load_file(write_separator(tmp_path / "tiny.safetensors"))
    state = {name: tensor.float() for name, tensor in state.items()}
    file = tmp_path / f"MelBandRoformer.{suffix}"
    torch.save(state, file) if suffix == "ckpt" else save_file(state, file)
    loaded = load_separator(file, CPU).state_dict()
    torch.testing.assert_close(loaded["band_split.to_features.3.1.weight"], state["band_split.to_features.3.1.weight"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("layers.0.1.norm.gamma"), "missing: layers.0.1.norm.gamma"),
        (lambda state: state.update({"final_norm.gamma": torch.ones(4)}), "unexpected: final_norm.gamma"),
        (
            lambda state: state.update({"layers.0.0.layers.0.1.net.1.bias": torch.ones(5)}),
            r"of another shape: layers.0.0.layers.0.1.net.1.bias \[5\] for \[16\]",
        ),
        (lambda state: state.pop("layers.0.0.layers.0.0.to_gates.weight"), "has no tensor layers.0.0.*to_gates"),
    ],
    ids=["missing", "unexpected", "misshaped", "another network"],
)
def test_a_file_of_another_network_is_named_with_what_is_wrong(change, problem: str, tmp_path: Path) -> None:
    file = write_separator(tmp_path / "tiny.safetensors")
    state = load_file(file)
    change(state)
    save_file(state, file)
    with pytest.raises(ModelMissing, match=problem) as raised:
        load_separator(file, CPU)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layers.0.0.layers.0.0.to_gates.weight", ()),
        ("layers.0.0.layers.0.0.to_gates.weight", (0, 4)),
        ("layers.0.0.layers.0.0.to_out.0.weight", (4,)),
        ("band_split.to_features.0.1.weight", ()),
        ("band_split.to_features.0.1.weight", (0, 4)),
        ("band_split.to_features.9999.1.weight", (4, 4)),
    ],
)
def test_a_file_of_other_shapes_is_no_separator(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    file = write_separator(tmp_path / "tiny.safetensors")
    save_file(load_file(file) | {name: torch.ones(shape)}, file)
    with pytest.raises(ModelMissing, match=r"tiny\.safetensors"):
        load_separator(file, CPU)


# --- songs in chunks


def test_every_moment_is_heard_twice_with_weights_that_make_one() -> None:
    weights = chunk_weights()
    torch.testing.assert_close(
        weights[:SEPARATOR_STEP_SAMPLES] + weights[SEPARATOR_STEP_SAMPLES:], torch.ones(SEPARATOR_STEP_SAMPLES)
    )
    assert weights[0] == weights[-1] == 0
    for samples in (1, SEPARATOR_STEP_SAMPLES, SEPARATOR_STEP_SAMPLES + 1, 1_000_000):
        heard = np.zeros(samples, int)
        for start in separator_chunk_starts(samples):
            heard[max(start, 0) : start + SEPARATOR_CHUNK_SAMPLES] += 1
        assert set(heard) == {2}


@pytest.mark.parametrize("samples", [1, 2, 44_100, SEPARATOR_STEP_SAMPLES, SEPARATOR_CHUNK_SAMPLES + 1, 1_000_000])
def test_what_a_separator_lets_through_comes_out_as_it_was(samples: int) -> None:
    sound = song(samples)
    np.testing.assert_allclose(isolate(lambda chunk: chunk, sound), sound.mean(1), atol=1e-6)


def test_chunks_leave_no_seam() -> None:
    """A filter over the whole song at once, and chunk by chunk, where its taps are cut off at each border."""
    sound, separator = song(1_300_000), LowPass()
    with torch.inference_mode():
        whole = separator(torch.from_numpy(sound.T.copy())[None])[0].mean(0).numpy()
    inside = slice(600, -600)  # before its beginning a song goes on in chunks, and is silent at once
    error = (isolate(separator, sound) - whole)[inside]
    assert np.abs(error).max() < 2e-5
    assert np.abs(whole).max() > 0.02


def test_vocals_are_in_time_to_the_sample() -> None:
    sound = song(500_000)
    vocals, mix = isolate(LowPass(), sound), sound.mean(1)
    lags = np.fft.irfft(np.fft.rfft(vocals, 1 << 20) * np.fft.rfft(mix, 1 << 20).conj())
    assert lags.argmax() == 0
    assert len(vocals) == len(sound)


def test_both_channels_count_the_same() -> None:
    sound = np.zeros((44_100, 2), np.float32)
    sound[:, 1] = 0.5
    np.testing.assert_allclose(isolate(lambda chunk: chunk, sound), 0.25, atol=1e-6)


def test_the_separator_gets_one_chunk_at_a_time_however_long_the_song() -> None:
    """Ten minutes, 151 chunks; what is held on the device is a chunk."""
    shapes: list[torch.Size] = []

    def separator(chunk: Tensor) -> Tensor:
        shapes.append(chunk.shape)
        return torch.zeros_like(chunk)

    samples = 600 * 44_100
    isolate(separator, np.broadcast_to(np.float32(0), (samples, 2)))
    assert set(shapes) == {(1, 2, SEPARATOR_CHUNK_SAMPLES)}
    assert len(shapes) == len(separator_chunk_starts(samples)) == 151


def test_it_can_be_ended_between_two_chunks() -> None:
    chunks: list[int] = []

    def check() -> None:
        if len(chunks) == 2:
            raise TimedOut("the time is over.")

    def separator(chunk: Tensor) -> Tensor:
        chunks.append(1)
        return chunk

    with pytest.raises(TimedOut):
        isolate_vocals(separator, song(2_000_000), CPU, check)
    assert len(chunks) == 2
