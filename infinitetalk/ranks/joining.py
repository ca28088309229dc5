"""How the ranks become one group of torch.distributed: by NCCL on GPUs, by gloo on CPUs."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is exported only where torch has it

START_S = 900.0  # for imports, weights, compiling
LOOPBACK = "127.0.0.1"

# What NCCL's watchdog would do by itself if a rank is lost: end rank 0's process, which has a job to answer.
NCCL = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}


@dataclass(frozen=True)
class Joining:
    """The first thing that a rank is told: how it joins the group."""

    rank: int
    world: int
    port: int
    backend: str
    device: torch.device
    threads: int


def join_group(joining: Joining, store: TCPStore | None = None) -> None:
    """Join the group of all ranks.

    Args:
        store: rank 0's, which the others find at the port.
    """
    is_gpu = joining.device.type == "cuda"
    if store is None:
        store = TCPStore(LOOPBACK, joining.port, joining.world, is_master=False)
    distributed.init_process_group(
        joining.backend,
        store=store,
        rank=joining.rank,
        world_size=joining.world,
        timeout=timedelta(seconds=START_S),
        device_id=torch.device("cuda", joining.rank) if is_gpu else None,
        pg_options=_nccl_options() if is_gpu else None,
    )


def _nccl_options() -> Any:  # noqa: ANN401
    """Transfers go first on the GPU: they must not wait until the attention that runs beside them is done."""
    options = distributed.ProcessGroupNCCL.Options()
    options.is_high_priority_stream = True
    return options
