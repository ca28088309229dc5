"""Training steps replayed as CUDA graphs.

A step of the small transformer is some 3,000 kernels, which take longer to launch than to run.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Recorded:
    """One graph, the tensors that it reads and writes, and the parameters that get gradients from it."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: Outputs
    parameters: list[nn.Parameter]


class Graphs:
    """Calls `step(*choices, inputs)`, which gives gradients to `parameters`, by a graph for each choice and shape.

    Parameters have no gradients when it is called. The first call of a kind runs without a graph, the second is
    recorded. On a CPU all calls run without graphs. Graphs share their memory, so outputs are copied before another
    graph runs, and gradients lie in tensors of their own.
    """

    def __init__(self, step: Callable[..., Outputs], parameters: Sequence[nn.Parameter]) -> None:
        self.step, self.parameters = step, parameters
        self.seen: dict[Hashable, Recorded | None] = {}
        self.gradients = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        self.pool = torch.cuda.graph_pool_handle() if parameters[0].is_cuda else None

    def __call__(self, inputs: dict[str, Tensor], *choices: Hashable) -> Outputs:
        key = (*choices, *((name, tensor.shape) for name, tensor in inputs.items()))
        if self.pool is None or key not in self.seen:
            self.seen[key] = None
            return self.step(*choices, inputs)
        recorded = self.seen[key]
        if recorded is None:
            recorded = self.seen[key] = self._record(inputs, choices)
        for name, tensor in inputs.items():
            recorded.inputs[name].copy_(tensor)
        recorded.graph.replay()
        for parameter in recorded.parameters:
            parameter.grad = self.gradients[parameter]
        return tuple(output.clone() for output in recorded.outputs)

    def _record(self, inputs: dict[str, Tensor], choices: Sequence[Hashable]) -> Recorded:
        fixed = {name: tensor.clone() for name, tensor in inputs.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(*choices, fixed)  # libraries set themselves up
        torch.cuda.current_stream().wait_stream(stream)
        taught = [parameter for parameter in self.parameters if parameter.grad is not None]
        for parameter in taught:
            parameter.grad = self.gradients[parameter]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            torch._foreach_zero_([self.gradients[parameter] for parameter in taught])
            outputs = self.step(*choices, fixed)
        return Recorded(graph, fixed, outputs, taught)
