"""Draws what benchmarks/job.py measured: the time of each mode, and its parts outside the transformer.

    python -m benchmarks.plot out/job.json docs/job.svg

Each bar is the extrapolated job of one mode and size. Its length is the seconds that a second of video takes, and its
parts are the stages. The bars below show the same jobs without the transformer's steps, in per cent of the whole job.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Json = dict[str, Any]

# The stages with a colour of their own; all others are "other".
COLORS = {
    "denoise": "#4c72b0",
    "decode": "#dd8452",
    "image": "#55a868",
    "condition": "#8172b3",
    "overlap": "#da8bc3",
    "bytes": "#937860",
    "encode": "#c44e52",
    "other": "#8c8c8c",
}
NAMES = {
    "denoise": "transformer",
    "decode": "VAE decoding",
    "image": "reference",
    "condition": "conditioning",
    "overlap": "overlap's encoding",
    "bytes": "frames to bytes",
    "encode": "waiting for H.264",
    "other": "other",
}
WIDTH, MARGIN, LABEL, BAR, GAP, HEAD = 900, 16, 210, 18, 8, 44
PLOT = WIDTH - LABEL - 2 * MARGIN - 90  # the longest bar leaves room for its number


def parts_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds per drawn part."""
    parts = dict.fromkeys(COLORS, 0.0)
    for stage, spent in seconds.items():
        parts[stage if stage in COLORS else "other"] += spent
    return {part: spent for part, spent in parts.items() if spent > 0}


def draw(report: Json) -> str:
    """The picture as SVG."""
    jobs = [(f"{row['speed_mode']}, {row['size']}", row["extrapolated"]) for row in report["jobs"]]
    y, body = (
        MARGIN,
        [text(MARGIN, MARGIN + 14, f"{report['device'] or 'CPU'}, torch {report['torch']}, {report['date']}", 14)],
    )
    y += 22
    for number, (part, color) in enumerate(COLORS.items()):
        x = MARGIN + (number % 4) * (WIDTH - 2 * MARGIN) / 4
        body += [rect(x, y + number // 4 * 18, 12, 12, color), text(x + 18, y + 11 + number // 4 * 18, NAMES[part])]
    y += 36
    times = [{part: s / job["video_s"] for part, s in parts_of(job["seconds"]).items()} for _, job in jobs]
    shares = [
        {part: 100 * s / sum(job["seconds"].values()) for part, s in parts_of(job["seconds"]).items()}
        for _, job in jobs
    ]
    for share in shares:
        share.pop("denoise", None)
    for title, bars, unit in (
        ("Seconds per second of video", times, " s"),
        ("Outside the transformer, share of the job", shares, " %"),
    ):
        body.append(text(MARGIN, y + 28, title, 14))
        y += HEAD
        longest = max(sum(bar.values()) for bar in bars)
        for (name, _), bar in zip(jobs, bars, strict=True):
            x = float(MARGIN + LABEL)
            body.append(text(MARGIN, y + 13, name))
            for part, amount in bar.items():
                width = amount / longest * PLOT
                body.append(rect(x, y, width, BAR, COLORS[part]))
                x += width
            body.append(text(x + 6, y + 13, f"{sum(bar.values()):.1f}{unit}"))
            y += BAR + GAP
    height = y + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, rect(0, 0, WIDTH, height, "#ffffff"), *body, "</svg>", ""])


def rect(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" fill="{color}"/>'


def text(x: float, y: float, words: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="#222222">{escape(words)}</text>'


def main(arguments: list[str] | None = None) -> None:
    """Read the JSON and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, metavar="FILE.json")
    parser.add_argument("picture", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    options.picture.write_text(draw(json.loads(options.report.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
