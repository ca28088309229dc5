"""Prints how many bytes of shared memory the sparse attention takes, compiled for GPUs that need not be here."""

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from infinitetalk.models import sparse_kernels

CONSTANTS = {"channels": 128, "block_tokens": 128, "has_short_block": True, "read_logit": -1.0e6}
INTEGERS = ("n_tokens", "frames", "heads", "chosen", "n_means", "batch_stride", "token_stride", "head_stride")
ALIGNED = ("n_means", "batch_stride", "token_stride", "head_stride")


def shared_bytes(capability: int, narrow: bool, stages: int) -> int:
    """The shared memory of one program of the attention."""
    constants = CONSTANTS | {"weights_log2": 8.0 if narrow else 0.0}
    states = "*fp8e4nv" if narrow else "*bf16"
    types = {"counts_log2": "*fp32", "table": "*i32", "is_read": "*u8", "scales": "*fp32", "logits_scale": "fp32"}
    types |= dict.fromkeys(("query", "key", "value"), states) | dict.fromkeys(
        ("mean_key", "mean_value", "output"), "*bf16"
    )
    types |= dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(constants, "constexpr")
    names = sparse_kernels._attend_kernel.arg_names
    pointers = [name for name in names if types[name].startswith("*")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *ALIGNED)}
    source = ASTSource(sparse_kernels._attend_kernel, {name: types[name] for name in names}, constants, attributes)
    options: dict[str, Any] = {"num_warps": sparse_kernels._WARPS, "num_stages": stages}
    return int(triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared)


def main() -> None:
    # RTX PRO 6000 and H200, each with the number of stages that it has room for.
    kinds = {
        "12.0 wide": (120, False, 2),
        "12.0 narrow": (120, True, 3),
        "9.0 wide": (90, False, 3),
        "9.0 narrow": (90, True, 4),
    }
    print(json.dumps({kind: shared_bytes(*of_kind) for kind, of_kind in kinds.items()}))


if __name__ == "__main__":
    main()
