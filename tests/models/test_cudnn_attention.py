"""cuDNN's attention in 8 bits: what the package is asked for. A fake of it computes on the CPU."""

import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infinitetalk.models import cudnn_attention as module
from infinitetalk.models.attention import FP8_KERNELS
from infinitetalk.models.cudnn_attention import WEIGHTS_SCALE, cudnn_fp8_attention
from infinitetalk.models.e4m3 import FP8
from infinitetalk.models.trials import exact_attention, relative_error


class Described:
    """A tensor of a graph: what has been set of it, by the setters' names."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    def __getattr__(self, name: str) -> Any:
        def keep(value: object) -> "Described":
            self.given[name.removeprefix("set_")] = value
            return self

        return keep


class Graph:
    """cuDNN's graph of one attention."""

    def __init__(self, **kinds: Any) -> None:
        self.kinds = kinds
        self.steps: list[str] = []

    def tensor(self, **given: Any) -> Described:
        return Described(**given)

    def sdpa_fp8(self, **given: Any) -> tuple[Described, ...]:
        self.given = given
        self.output = Described()
        return self.output, None, Described(), Described()

    def get_workspace_size(self) -> int:
        return 7

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.steps.append(name)

    def execute(self, bound: dict[Described, Tensor], workspace: Tensor, handle: object) -> None:
        assert workspace.numel() == 7
        for described, tensor in bound.items():
            assert tuple(described.given["dim"]) == tuple(tensor.shape)
            assert tuple(described.given["stride"]) == tuple(tensor.stride())
        numbers = {
            name: float(bound[self.given[name]]) for name in self.given if "scale_" in name and "attn" not in name
        }
        assert numbers.pop("scale_s") == 1 / numbers.pop("descale_s") == WEIGHTS_SCALE
        assert set(numbers.values()) == {1.0}
        query, key, value = (bound[self.given[name]] for name in "qkv")
        assert {query.dtype, key.dtype, value.dtype} == {FP8}
        found = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), scale=self.given["attn_scale"]
        )
        bound[self.output].copy_(found.to(bound[self.output].dtype))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    made: list[Graph] = []

    def pygraph(**kinds: Any) -> Graph:
        made.append(Graph(**kinds))
        return made[-1]

    kinds = types.SimpleNamespace(FP8_E4M3="e4m3", BFLOAT16="bfloat16", FLOAT="float")
    fake = types.SimpleNamespace(
        pygraph=pygraph, data_type=kinds, heur_mode=types.SimpleNamespace(A=0, FALLBACK=1), set_stream=lambda **_: None
    )
    monkeypatch.setattr(module, "load_frontend", lambda: fake)
    monkeypatch.setattr(module, "_handle", lambda _: "handle")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    module._build.cache_clear()
    yield made
    module._build.cache_clear()


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """Heads whose values differ in size; key and value are views of one tensor."""
    generator = torch.Generator().manual_seed(0)
    query, both = torch.randn(2, 50, 3, 16, generator=generator), torch.randn(2, 40, 2, 3, 16, generator=generator)
    key, value = both.bfloat16().unbind(2)
    return query.bfloat16(), key, value * torch.tensor([1e-3, 1.0, 1e3]).view(1, 1, 3, 1).bfloat16()


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), "e4m3"), ((10, 0), "bfloat16"), ((12, 0), "bfloat16")])
def test_every_head_has_the_precision_of_8_bits(
    capability: tuple[int, int], dtype: str, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    query, key, value = qkv()
    output, expected = cudnn_fp8_attention(query, key, value), exact_attention(query, key, value)
    assert output.dtype == torch.bfloat16
    assert graphs[0].output.given["data_type"] == dtype
    assert graphs[0].steps[-2:] == ["check_support", "build_plans"]
    for head in range(3):
        assert 0.01 < relative_error(output[:, :, head], expected[:, :, head]) < 0.1


def test_a_graph_is_built_once_for_tensors_of_one_layout(graphs: list[Graph]) -> None:
    query, key, value = qkv()
    for _ in range(2):
        cudnn_fp8_attention(query, key, value)
    assert len(graphs) == 1
    cudnn_fp8_attention(query[:, :30], key, value)
    assert len(graphs) == 2


def test_it_is_one_operator_in_a_compiled_block(graphs: list[Graph]) -> None:
    parts = qkv()
    compiled = torch.compile(cudnn_fp8_attention, dynamic=True, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(*parts), cudnn_fp8_attention(*parts))
    torch.compiler.reset()


def test_it_is_no_candidate_where_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module.load_frontend.cache_clear()
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="nvidia-cudnn-frontend is not installed"):
        FP8_KERNELS["_native_cudnn"]()
