"""Compiled blocks on several ranks: one graph, in which transfers run beside what does not need them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from infinitetalk.models import compiling
from infinitetalk.models.context_parallel import Shards
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models
from tests.models.test_compiling import EXACT, small_model
from tests.models.test_transformer import ATOL, Case
from tests.support.golden import load_golden_models, wan_folder

NAMES = {
    torch.ops._c10d_functional.all_to_all_single: "send",
    torch.ops._c10d_functional.all_reduce: "sum",
    torch.ops._c10d_functional.wait_tensor: "wait",
    F.scaled_dot_product_attention: "attend",
}
TURN = ["wait"] * 3 + ["attend", "send"]


def test_one_graph_sends_early_and_waits_late(start_ranks: Callable[[int], Ranks], tmp_path: Path) -> None:
    """Only rank 0 is compiled here: each rank has a graph of its own, and they meet in the exchanges alone."""
    models = share_models(load_golden_models(wan_folder(tmp_path)), start_ranks(2))
    graphs: list[list[str]] = []

    def record(graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        graphs.append([NAMES[node.target] for node in graph.graph.nodes if node.target in NAMES])
        return graph.forward

    transformer = models.transformer.transformer
    torch.compiler.reset()
    transformer.compile_repeated_blocks(backend=record, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for name in ("dit_single", "dit_multi"):
            case = Case(name, models.transformer)
            (key, stored), *_ = case.outputs.items()
            _, kind, masks, time = key.split(".")
            prediction = case.predict(kind, int(masks.removeprefix("mask")), int(time.removeprefix("t")))
            torch.testing.assert_close(prediction, stored, rtol=0, atol=ATOL)
    torch.compiler.reset()
    one, two = graphs  # people; their blocks share a graph
    assert one[:16] == ["send"] * 6 + TURN + TURN
    assert [name for name in two if name != "attend"][:14] == [name for name in one[:16] if name != "attend"]
    assert two.index("sum") > max(index for index, name in enumerate(two) if name == "send")


def test_what_was_compiled_for_other_ranks_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    names = set()
    for shards in (Shards(), Shards(0, 2, "0"), Shards(1, 2, "0"), Shards(0, 4, "0")):
        model.use_shards(shards)
        names.add(compiling._fingerprint(model, EXACT))
    assert len(names) == 4
