"""`edgeconv init`: the recipe that it writes is sound, as it stands and with its comments taken away.

Kinds thought of: one and several inputs, an open batch, weights, names that TOML has to escape, a file that is there
already, no person to ask, a person at a terminal.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeconv.cli import run
from edgeconv.recipe import load_recipe

FACTORY = "edgeconv.nn:DepthwiseSeparableConv"
PROGRAM = Path(sys.executable).with_name("edgeconv")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_recipe_states_what_was_told() -> None:
    assert run(["init", FACTORY, "--shape", "x=batch,3,32,32", "--shape", "mask=1,1,32,32", "--weights", "w.pt"]) == 0
    recipe = load_recipe(Path("depthwiseseparableconv.toml"))
    assert recipe.name == "depthwiseseparableconv"
    assert recipe.model.factory == FACTORY
    assert recipe.model.weights == "w.pt"
    assert [(item.name, item.shape) for item in recipe.inputs] == [
        ("x", ("batch", 3, 32, 32)),
        ("mask", (1, 1, 32, 32)),
    ]


@pytest.mark.parametrize("weights", [[], ["--weights", "w.pt"]])
def test_each_comment_is_a_line_that_a_recipe_may_have(weights: list[str]) -> None:
    assert run(["init", FACTORY, "--shape", "x=1,3,32,32", "--out", "net.toml", *weights]) == 0
    text = Path("net.toml").read_text()
    stated, count = re.subn(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.M)
    assert count > 20
    Path("net.toml").write_text(stated)
    recipe = load_recipe(Path("net.toml"))
    assert recipe.preprocessing is not None
    assert recipe.quantize.images
    assert recipe.parity.images
    assert recipe.parity.arrays


def test_the_recipe_exports(capsys: pytest.CaptureFixture[str]) -> None:
    Path("told.py").write_text("import torch\n\ndef net():\n    return torch.nn.Conv2d(3, 4, 3)\n")
    assert run(["init", "told:net", "--shape", "x=1,3,8,8"]) == 0
    assert "next: edgeconv export net.toml" in capsys.readouterr().out
    assert run(["export", "net.toml", "--no-parity", "--quiet", "--out", "out"]) == 0
    assert Path("out/net/net.fp32.tflite").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([FACTORY], "--shape NAME=1,3,224,224"),
        ([], "name package.module:callable"),
        (["no factory", "--shape", "x=1"], "write package.module:callable"),
        ([FACTORY, "--shape", "x=1,wide,3"], "only the first one, the batch, can stay open"),
        ([FACTORY, "--shape", f"x=1,{'3' * 5000}"], "--shape: a dimension has 5,000 digits"),
        ([FACTORY, "--shape", "x=1,3", "--name", "../x"], "use letters, digits"),
        ([FACTORY, "--shape", "x=1,3", "--weights", "a\nb"], "weights"),
        ([FACTORY, "--shape", "x=1,3", "--out", "x.json"], "ends in .toml"),
        ([FACTORY, "--shape", "x=1,3", "--out", "missing/x.toml"], "cannot be written"),
    ],
)
def test_what_makes_no_recipe_is_refused_and_leaves_no_file(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["init", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.toml").write_text("mine")
    assert run(["init", FACTORY, "--shape", "x=1,3", "--out", "net.toml"]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert Path("net.toml").read_text() == "mine"


def test_names_that_toml_escapes_and_a_recipe_of_several_lines_in_its_name() -> None:
    assert run(["init", FACTORY, "--shape", 'a"b\\=1,3', "--out", "two\nname = 3 lines.toml"]) == 0
    assert load_recipe(Path("two\nname = 3 lines.toml")).inputs[0].name == 'a"b\\'


def test_a_person_at_a_terminal_is_asked(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([PROGRAM, "init"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path) as program:
        os.close(theirs)
        os.write(ours, b"told:Net\nx=1,3,8,8 y=1,3,8,8\n")
        assert program.wait(60) == 0
    os.close(ours)
    assert [item.name for item in load_recipe(tmp_path / "net.toml").inputs] == ["x", "y"]
