"""What several benchmarks have in common: sizes, options, and the head of a report."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

# (width, height, frames) of windows that jobs run.
SIZES = {"480p": (848, 480, 81), "720p": (1280, 720, 81), "720p long": (1280, 720, 121)}


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all of these benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--miniature", action="store_true", help="small, on the CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write what was measured")
    return parser


def head(device: torch.device) -> dict[str, Any]:
    """When a report was measured, on which device and with which torch."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
    }


def kernel_table(rows: list[Any], columns: Sequence[str]) -> str:
    """Markdown: what was measured, by `columns`, then time, rate and error, or why there are none."""
    heads = [*columns, "ms", "TFLOP/s", "relative error"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        place = [row[column] for column in columns]
        if "unavailable" in row:
            figures = [row["unavailable"], "", ""]
        else:
            figures = [f"{row['milliseconds']:.2f}", f"{row['tflop_per_s']:.0f}", f"{row['error']:.2g}"]
        lines.append(f"| {' | '.join(map(str, [*place, *figures]))} |")
    return "\n".join(lines)


def save(report: dict[str, Any], path: Path | None) -> None:
    """Write the report as far as it is known; nothing happens without a path."""
    if path:
        path.write_text(json.dumps(report, indent=1), "utf-8")
