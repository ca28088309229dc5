"""Imports point down: a module imports only modules of lower layers."""

import ast
from pathlib import Path

import pytest

import infinitetalk

PACKAGE = Path(infinitetalk.__file__).parent
ROOT = PACKAGE.parent

LAYERS = (
    (
        "infinitetalk",
        "errors",
        "shapes",
        "generation.pixels",
        "logs",
        "contract",
        "generation",
        "job",
        "media",
        "models",
        "planning",
        "startup",
        "transfer",
        "progress",
        "transfer.safe_http",
        "transfer.volume",
        "media.child",
        "quality",
    ),
    ("contract.request", "planning.windows"),
    ("contract.settings", "contract.result", "generation.reference_schedule", "transfer.bucket"),
    ("contract.presets",),
    ("planning.plan",),
    (
        "planning.estimate",
        "transfer.downloads",
        "transfer.delivery",
        "job.faults",
        "media.container",
        "startup.weights",
    ),
    ("media.ffmpeg", "transfer.exchange"),
    ("media.audio", "media.image", "media.video", "media.encode"),
    ("generation.schedule", "generation.guidance", "generation.masks", "generation.color", "generation.joins"),
    ("models.checkpoint", "models.attention", "models.sparse_attention"),
    ("models.transformer",),
    (
        "models.lora",
        "models.original",
        "models.text_encoder",
        "models.image_encoder",
        "models.audio_encoder",
        "models.vae",
    ),
    ("models.fp8",),
    ("models.loading", "models.compiling"),
    ("generation.conditioning", "generation.denoise"),
    ("generation.pipeline", "job.resume"),
    ("job.run",),
    ("startup.calibration", "startup.fitness", "quality.faces", "quality.speech", "quality.similarity"),
    ("quality.tracking",),
    ("quality.measures",),
    ("quality.report",),
    ("cli", "handler"),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    if path == ROOT / "handler.py":
        return "handler"
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "infinitetalk"


MODULES = {module_name(path): path for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("handler.py")]}


def imported_modules(source: str) -> set[str]:
    """Modules of this package that a source text imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the package imports by full name"
            # `from package import x` may import the module package.x or a name inside package
            names |= {
                full if full.removeprefix("infinitetalk.") in MODULES else node.module
                for full in (f"{node.module}.{alias.name}" for alias in node.names)
            }
    return {name.removeprefix("infinitetalk.") for name in names if name.split(".")[0] in ("infinitetalk", "handler")}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    assert name in LAYER, f"add {name} to LAYERS, above everything it imports"
    for imported in imported_modules(MODULES[name].read_text("utf-8")) & set(LAYER):
        assert LAYER[imported] < LAYER[name], f"{name} imports {imported}, which is not below it"


def test_imports_of_every_form_are_seen():
    source = """
import infinitetalk.planning.plan, torch
from infinitetalk import errors, __version__
from infinitetalk.models import loading
def later():
    from infinitetalk.contract.request import Request
"""
    modules = imported_modules(source)
    assert modules == {"planning.plan", "errors", "infinitetalk", "models.loading", "contract.request"}
