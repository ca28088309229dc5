"""Large linear layers of the transformer: milliseconds and error in bfloat16 and in 8 bits, with either kind of scales.

    python -m benchmarks.products                the layers of the 14B transformer (needs a GPU)
    python -m benchmarks.products --miniature    small, on any machine

A layer is compiled, and its time includes the quantisation of its input. Prints a table; --json FILE also writes JSON.
The error is relative to float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import reporting
from benchmarks.attention import milliseconds
from infinitetalk.models.fp8 import LAYERS, TRIED_LAYERS
from infinitetalk.models.trials import relative_error

TOKENS = 75_600  # 81 frames of 720p
TOKENS_MINIATURE, LAYERS_MINIATURE = 300, ((64, 192), (192, 64))
CHECKED_TOKENS = 2_048


def measure(
    inputs: int, outputs: int, tokens: int, device: torch.device, repeats: int, compiled: bool
) -> list[dict[str, Any]]:
    """Rows for one layer."""
    linear = nn.Linear(inputs, outputs, device=device, dtype=torch.bfloat16).requires_grad_(False)
    states = torch.randn(tokens, inputs, device=device, dtype=torch.bfloat16)
    some = states[:CHECKED_TOKENS].float()
    expected = some @ linear.weight.float().t() + linear.bias.float()
    makers: dict[str, Callable[[], nn.Module]] = {"bfloat16": lambda: linear}
    makers |= {f"8 bits, scales by {name}": partial(make, linear) for name, make in LAYERS.items()}
    rows = []
    for name, make in makers.items():
        row: dict[str, Any] = {"layer": f"{inputs} to {outputs}", "tokens": tokens, "numbers": name}
        try:
            layer: Callable[[Tensor], Tensor] = torch.compile(make(), dynamic=True) if compiled else make()
            spent_ms = milliseconds(partial(layer, states), device, repeats)
            error = relative_error(layer(states)[:CHECKED_TOKENS], expected)
        except RuntimeError as error_:  # not for this device
            rows.append(row | {"unavailable": str(error_).split("\n")[0][:120]})
            continue
        flop = 2 * tokens * inputs * outputs
        rows.append(row | {"milliseconds": spent_ms, "tflop_per_s": flop / spent_ms / 1e9, "error": error})
    return rows


@torch.inference_mode()
def main() -> None:
    options = reporting.options(__doc__).parse_args()
    device = torch.device("cpu" if options.miniature else "cuda")
    layers, tokens = (LAYERS_MINIATURE, TOKENS_MINIATURE) if options.miniature else (TRIED_LAYERS, TOKENS)
    report = {**reporting.head(device), "products": []}
    for inputs, outputs in layers:
        report["products"] += measure(inputs, outputs, tokens, device, options.repeats, not options.miniature)
        reporting.save(report, options.json)
    print(f"{report['device']}, torch {report['torch']}, {report['date']}")
    print(reporting.kernel_table(report["products"], ("layer", "tokens", "numbers")))


if __name__ == "__main__":
    main()
