"""What the page shows, as HTML: progress, plans, results, problems. Whatever comes from elsewhere is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from infinitetalk.cli_display import view_fields
from infinitetalk.client.following import JobView
from infinitetalk.contract.result import DryRun


def mode_name(mode: str) -> str:
    """A speed mode, in words."""
    return mode.replace("_", " ").capitalize()


def problem(sentence: str) -> str:
    """What keeps a job from being made."""
    return f'<div class="it-problem" role="alert">{escape(" ".join(sentence.split()))}</div>'


def note(sentence: str) -> str:
    """Something to know."""
    return f'<div class="it-note">{escape(sentence)}</div>'


def progress(view: JobView) -> str:
    """Where a job is, as a bar with words."""
    shown = view_fields(view)
    percent = min(max(float(shown.get("completed", 0.0)), 0.0), 100.0)
    words = [str(shown["description"]), str(shown.get("left", "")), str(shown.get("cost", ""))]
    told = " · ".join(escape(word) for word in words if word)
    known = view.progress
    warnings = [note(warning) for warning in (known.warnings if known is not None else ())]
    return (
        f'<div class="it-progress"><div class="it-bar"><div style="width:{percent:.1f}%"></div></div>'
        f"<div>{told}</div></div>{''.join(warnings)}"
    )


def sheet(view: JobView) -> str:
    """The contact sheet of the newest window, where the worker sends one."""
    picture = view.report.get("preview_jpeg")
    if not isinstance(picture, str) or not picture.startswith("data:image/jpeg;base64,"):
        return ""
    return f'<img class="it-sheet" alt="The newest finished part" src="{escape(picture, quote=True)}">'


def plans(runs: Mapping[str, DryRun], chosen: str) -> str:
    """What a job would do in each mode, side by side."""
    first = next(iter(runs.values()))
    size = first.settings
    rows = [
        ("estimated time", [_figure("{:.1f} s", run.estimate.seconds) for run in runs.values()]),
        ("estimated price", [_figure("${:.4f}", run.estimate.cost_usd) for run in runs.values()]),
        ("windows, steps", [f"{run.settings.windows}, {run.settings.steps}" for run in runs.values()]),
        ("frames of a window", [str(run.settings.window) for run in runs.values()]),
    ]
    head = "".join(f"<th{_marked(mode == chosen)}>{escape(mode_name(mode))}</th>" for mode in runs)
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td{_marked(mode == chosen)}>{escape(cell)}</td>" for mode, cell in zip(runs, cells, strict=True))
        + "</tr>"
        for name, cells in rows
    )
    warnings = dict.fromkeys(warning for run in runs.values() for warning in run.warnings)
    turns = [f"Speaker {turn.speaker}: {turn.start_s:.2f} to {turn.end_s:.2f} s." for turn in first.turns or ()]
    return (
        f'<div class="it-plan"><div>{size.width}x{size.height}, {size.frames} frames, {size.duration_s:.2f} s</div>'
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<small>{escape(first.estimate.basis)}</small></div>"
        + "".join(note(sentence) for sentence in [*turns, *warnings])
    )


def result(made: Mapping[str, Any], place: str | None, notes: Sequence[str]) -> str:
    """A finished job: what its checks found, what it took, where it is, what to know."""
    facts = [f"{made['gpu_seconds']:.1f} s" if isinstance(made.get("gpu_seconds"), int | float) else ""]
    facts.append(f"${made['cost_usd']:.4f}" if isinstance(made.get("cost_usd"), int | float) else "")
    facts.append(f"seed {made['seed']}" if "seed" in made else "")
    facts.append(f"{place}" if place else "")
    warnings = made.get("warnings")
    told = [*(warnings if isinstance(warnings, list) else ()), *notes]
    return (
        f"{_verdict(made.get('checks'))}"
        f'<div class="it-facts">{" · ".join(escape(fact) for fact in facts if fact)}</div>'
        + "".join(note(str(sentence)) for sentence in told)
    )


def _verdict(checks: object) -> str:
    """What was found in the finished file, in a sentence for each finding."""
    if not isinstance(checks, Mapping):
        return note("The video was not checked.")
    found = checks.get("look_at")
    if checks.get("verdict") == "ok" or not isinstance(found, list):
        return '<div class="it-ok">Checked: there is nothing that you need to look at.</div>'
    sentences = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in found)
    again = checks.get("retryable_with")
    advice = ""
    if isinstance(again, Mapping):
        values = ", ".join(f"{name} {value}" for name, value in again.items())
        advice = f"<div>It may help to make it again with {escape(values)}.</div>"
    return f'<div class="it-look">Checked: look at it.<ul>{sentences}</ul>{advice}</div>'


def _figure(form: str, value: float | None) -> str:
    return "unknown" if value is None else form.format(value)


def _marked(chosen: bool) -> str:
    return ' class="it-chosen"' if chosen else ""
