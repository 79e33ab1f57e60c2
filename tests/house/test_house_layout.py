"""The rules of the house that a reader relies on: layout, import direction, sizes, what the wheel holds."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

import edgeconv
from edgeconv.core.package import SUMMARY
from edgeconv.devices import ENVIRONMENTS

ROOT = Path(edgeconv.__file__).parents[1]
PACKAGE = ROOT / "edgeconv"
STAGES = ("recipe", "capture", "rewrite", "quantize", "emit", "devices", "parity", "report", "release")
# What every stage may import beside the stages to its left; the reference is the truth that tests and folds ask.
GROUND = ("errors", "core", "graph", "reference")
KNOW_ALL = {"flow", "cli", "__init__"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_submodule_imports() -> None:
    for item in pkgutil.walk_packages([str(PACKAGE)], "edgeconv."):
        importlib.import_module(item.name)


def test_the_package_and_its_command_say_the_same_of_themselves() -> None:
    assert edgeconv.__doc__ == SUMMARY


def test_importing_edgeconv_is_light() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "pydantic", "typer", "rich", "onnx_ir")
    code = f"import edgeconv, sys; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_command_line_starts_without_torch_and_graphs() -> None:
    """`--help` and `inspect` need neither: with these they would start half as fast."""
    code = "import edgeconv.cli, sys; print([name for name in ('torch', 'onnx', 'onnx_ir') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_top_level_holds_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked.stdout.splitlines()}
    allowed = {"pyproject.toml", "edgeconv", "export_scripts", "models", "tests", "Makefile", "README.md", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} - allowed == {"requirements.lock"}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imports(path: Path) -> set[str]:
    """The rooms of edgeconv that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edgeconv":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("edgeconv.")}
    return found


def _room(path: Path) -> str:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if room == "__main__" else room  # the same command under another name


def _against_the_flow(path: Path) -> set[str]:
    """The rooms that a file imports and must not."""
    room = _room(path)
    if room in KNOW_ALL:
        return set()
    if room in STAGES:
        return _imports(path) - {room, *GROUND, *STAGES[: STAGES.index(room)]}
    if room in GROUND:
        return _imports(path) - {room, *GROUND[: GROUND.index(room)]}
    return _imports(path) & KNOW_ALL - {"__init__"}


def test_data_moves_left_to_right_only() -> None:
    assert {str(path): rooms for path in SOURCES if (rooms := _against_the_flow(path))} == {}


def test_the_house_has_few_rooms_floors_and_arrows_and_no_circle() -> None:
    """A newcomer keeps twenty rooms in mind; a room stands on the floor above the highest that it imports."""
    below: dict[str, set[str]] = {}
    for path in SOURCES:
        below.setdefault(_room(path), set()).update(_imports(path) - {_room(path)})
    rooms = below.keys()
    arrows = {(room, other) for room, others in below.items() for other in others & rooms}
    floors: dict[str, int] = {}
    while len(floors) < len(rooms):
        ready = [room for room in rooms - floors.keys() if all(other in floors for at, other in arrows if at == room)]
        assert ready, f"these import one another in a circle: {sorted(rooms - floors.keys())}"
        floors |= {room: 1 + max((floors[other] for at, other in arrows if at == room), default=0) for room in ready}
    assert len(rooms) <= 20
    assert max(floors.values()) <= 9  # the scripts stand on the tenth
    assert len(arrows) <= 63


def test_files_are_of_a_readable_length() -> None:
    longest = {"agent.py": 600}  # which is copied to devices, and so has to stay one file
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {str(path): length for path, length in lengths.items() if length > longest.get(path.name, 450)} == {}


def _exits(node: ast.AST) -> bool:
    """Whether it is `sys.exit`."""
    named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return named and (node.value.id, node.attr) == ("sys", "exit")


def test_only_the_command_line_ends_the_process() -> None:
    others = [path for path in SOURCES if _room(path) != "cli" and path.name != "agent.py"]
    assert [str(path) for path in others if any(map(_exits, ast.walk(_tree(path))))] == []


def test_the_lock_pins_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {_normal(line) for group in groups for line in group}
    pinned = {_normal(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert named <= pinned


def _normal(requirement: str) -> str:
    for sign in "<>=! ;[":
        requirement = requirement.split(sign)[0]
    return requirement.lower().replace("_", "-")


def test_the_old_runtime_is_pinned_exactly() -> None:
    pins = ENVIRONMENTS["tflite-runtime"].packages
    assert "tflite-runtime==2.14.0" in pins
    assert all("==" in pin for pin in pins)


def test_the_wheel_holds_the_package_and_its_data(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = {
        str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }
    assert tracked <= names
    assert not {name for name in names if name.startswith(("tests/", "models/", "export_scripts/"))}
