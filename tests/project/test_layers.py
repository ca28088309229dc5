"""Imports point down: a file imports only files above it in the tree of docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

import infinitetalk

PACKAGE = Path(infinitetalk.__file__).parent
ROOT = PACKAGE.parent
TREE = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## The rooms")[1].split("```")[1]


def module_name(path: Path) -> str:
    """ "contract.request" of infinitetalk/contract/request.py; "contract" and "" of the rooms' own files."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("infinitetalk", "__init__"))


def modules_in(tree: str) -> list[str]:
    """The modules that a tree names, from top to bottom; a folder is a module too."""
    names: list[str] = []
    folders: dict[int, str] = {}
    for line in tree.strip().splitlines():
        indent, entry = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        above = [folder for depth, folder in sorted(folders.items()) if depth < len(indent)]
        if entry.endswith("/"):
            folders = {depth: folder for depth, folder in folders.items() if depth < len(indent)}
            folders[len(indent)] = entry.rstrip("/")
        path = Path(*above, entry)
        name = module_name(ROOT / path)
        if name not in names:
            names.append(name)
    return names


ORDER = modules_in(TREE)
MODULES = {module_name(path): path for path in [*PACKAGE.rglob("*.py"), ROOT / "handler.py"]}


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
    ours = {name for name in names if name.split(".")[0] in ("infinitetalk", "handler")}
    return {name.removeprefix("infinitetalk").removeprefix(".") for name in ours}


def test_the_tree_names_every_file() -> None:
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_imports_point_down(name: str) -> None:
    for imported in imported_modules(MODULES[name].read_text("utf-8")):
        assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}, which is not above it"


def test_models_know_neither_settings_nor_presets() -> None:
    for name, path in MODULES.items():
        if name.startswith("models."):
            assert not {"contract.settings", "contract.presets"} & imported_modules(path.read_text("utf-8")), name


def test_imports_of_every_form_are_seen() -> None:
    source = """
import infinitetalk.planning.plan, torch
from infinitetalk import errors, __version__
from infinitetalk.models import opening
def later():
    from infinitetalk.contract.request import Request
"""
    assert imported_modules(source) == {"planning.plan", "errors", "", "models.opening", "contract.request"}
