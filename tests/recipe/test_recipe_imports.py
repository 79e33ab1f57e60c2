"""The code that a recipe names is the code beside it.

Members: a module of one name beside two recipes, in the working folder, among installed packages, and loaded by the
program already; files that import each other, also late (in a factory, a forward, a generator); packages with
submodules and relative imports, folders without ``__init__.py``; a file that was edited since; names of Python's own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.recipe import build_module, load_recipe
from edgeconv.recipe.calibration import calibration_batches

RECIPE = """name = "{name}"
[model]
factory = "{factory}"
[[inputs]]
name = "x"
shape = [1, 3, 4, 4]
[quantize]
generator = "{module}:batches"
"""
NET = """from torch import nn
import numpy
def make(): return nn.{0}()
def batches():
    import scale
    yield numpy.full((1, 3, 4, 4), scale.SCALE, numpy.float32)
"""


NAMES = ("net", "scale", "pack")


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Imports leave the search path as it was; what the working folder lends stays loaded, and is taken out here."""
    path, finders = list(sys.path), list(sys.meta_path)
    yield
    assert (sys.path, sys.meta_path) == (path, finders)
    for name in NAMES:
        sys.modules.pop(name, None)


def _folder(path: Path, activation: str, scale: int = 1, factory: str = "net:make") -> Path:
    path.mkdir(exist_ok=True)
    (path / "net.py").write_text(NET.format(activation))
    (path / "scale.py").write_text(f"SCALE = {scale}")
    (path / "r.toml").write_text(RECIPE.format(name=path.name, factory=factory, module=factory.partition(":")[0]))
    return path / "r.toml"


def _name_of(recipe: Path) -> str:
    return type(build_module(load_recipe(recipe))).__name__


def test_two_recipes_each_have_their_own_and_keep_it(tmp_path: Path) -> None:
    first, second = _folder(tmp_path / "a", "ReLU", 1), _folder(tmp_path / "b", "Sigmoid", 2)
    assert [_name_of(each) for each in (first, second, first)] == ["ReLU", "Sigmoid", "ReLU"]
    scales = [next(calibration_batches(load_recipe(each)))["x"].max() for each in (first, second, first)]
    assert scales == [1, 2, 1]


def test_batches_of_two_recipes_taken_in_turns(tmp_path: Path) -> None:
    recipes = _folder(tmp_path / "a", "ReLU", 1), _folder(tmp_path / "b", "Sigmoid", 2)
    batches = [calibration_batches(load_recipe(each)) for each in recipes]
    assert [next(each)["x"].max() for each in batches] == [1, 2]
    assert [list(each) for each in batches] == [[], []]


@pytest.mark.parametrize("where", ["working folder", "installed", "loaded"])
def test_the_file_beside_the_recipe_goes_first(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    _folder(other, "Tanh", 9)
    if where == "working folder":
        monkeypatch.chdir(other)
    else:
        monkeypatch.syspath_prepend(other)
    if where == "loaded":
        importlib.import_module("net")
    recipe = _folder(tmp_path / "a", "ReLU", 1)
    assert _name_of(recipe) == "ReLU"
    assert next(calibration_batches(load_recipe(recipe)))["x"].max() == 1
    assert ("net" in sys.modules) == (where == "loaded")
    assert where != "loaded" or sys.modules["net"].make().__class__ is nn.Tanh


@pytest.mark.parametrize("where", ["working folder", "installed"])
def test_without_a_file_beside_the_recipe_the_others_are_found(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [_folder(tmp_path / name, "ReLU") for name in ("a", "b")]
    (tmp_path / "b" / "net.py").unlink()
    _folder(tmp_path / "other", "Tanh")
    if where == "working folder":
        monkeypatch.chdir(tmp_path / "other")
    else:
        monkeypatch.syspath_prepend(tmp_path / "other")
    assert [_name_of(each) for each in recipes] == ["ReLU", "Tanh"]


def _package(path: Path, activation: str, *, marked: bool) -> Path:
    recipe = _folder(path, "ReLU", factory="pack.sub.net:make")
    (path / "pack" / "sub").mkdir(parents=True)
    if marked:
        (path / "pack" / "__init__.py").write_text("")
        (path / "pack" / "sub" / "__init__.py").write_text("from .. import blocks")
    (path / "pack" / "sub" / "net.py").write_text("def make():\n    from ..blocks import Block\n    return Block()\n")
    (path / "pack" / "blocks.py").write_text(f"from torch import nn\nimport scale\nBlock = nn.{activation}\n")
    return recipe


@pytest.mark.parametrize("marked", [True, False])
def test_packages_beside_two_recipes(tmp_path: Path, marked: bool) -> None:
    recipes = [_package(tmp_path / name, act, marked=marked) for name, act in (("a", "ReLU"), ("b", "Sigmoid"))]
    assert [_name_of(each) for each in (*recipes, recipes[0])] == ["ReLU", "Sigmoid", "ReLU"]


def test_a_file_that_was_edited_is_read_again(tmp_path: Path) -> None:
    recipe = _folder(tmp_path / "a", "ReLU")
    assert _name_of(recipe) == "ReLU"
    _folder(tmp_path / "a", "Tanh", 5)
    assert _name_of(recipe) == "Tanh"
    assert next(calibration_batches(load_recipe(recipe)))["x"].max() == 5
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_class_is_the_same_one_the_next_time(tmp_path: Path) -> None:
    recipe = _folder(tmp_path / "a", "ReLU")
    (tmp_path / "a" / "net.py").write_text("from torch import nn\nclass make(nn.ReLU): pass\n")
    assert type(build_module(load_recipe(recipe))) is type(build_module(load_recipe(recipe)))


def test_what_edgeconv_and_python_run_on_is_not_replaced(tmp_path: Path) -> None:
    recipe = _folder(tmp_path / "a", "ReLU")
    for name in ("torch", "numpy", "edgeconv", "json", "pydantic", "onnx_ir"):
        (tmp_path / "a" / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "a" / "net.py").write_text("import torch, numpy, edgeconv, json\ndef make(): return torch.nn.Tanh()\n")
    assert _name_of(recipe) == "Tanh"
    assert sys.modules["torch"] is torch


def test_a_forward_may_import_late(tmp_path: Path) -> None:
    recipe = _folder(tmp_path / "a", "ReLU", 3)
    (tmp_path / "a" / "net.py").write_text(
        "from torch import nn\n"
        "class make(nn.Module):\n"
        "    def forward(self, x):\n"
        "        from scale import SCALE\n"
        "        return x * SCALE\n"
    )
    result = edgeconv.export_recipe(load_recipe(recipe), tmp_path / "out", devices=("onnxruntime",), formats=("onnx",))
    assert result.report is not None
    assert result.report.verdict.value == "pass"
