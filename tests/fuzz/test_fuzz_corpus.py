"""What `make fuzz` found stays refused in one line, by a check that was meant for it.

Members: biases that are no numbers of channels; reshapes that keep dimensions that there are not; offsets, lengths and
vtables of `.tflite` files that lead out of them, operators without outputs; `.onnx` files whose reshapes do not fit,
whose indices or axes are out of range, with element types that there are not, or that a constant is not of and is
declared as, with values in subgraphs that are no tensors, with configurations of devices, with attributes of functions
outside of any, with functions that read or give what they do not make, with scales and sizes beyond float32 and beyond
any line, of a hundred axes, with sizes below zero, with attributes that are no text; golden files that lack tensors;
journals of other types, and with numbers of thousands of digits; plans with keys of as many.
"""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeconv.cli
from edgeconv.bench import read_file
from edgeconv.errors import EdgeconvError
from edgeconv.flow.journal import JOURNAL
from edgeconv.parity import load_golden
from edgeconv.quantize import Plan
from edgeconv.reference import tflite

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from foresight import CALLS_OF_LIBRARIES, unforeseen  # noqa: E402  (`make fuzz` runs beside it, as a program)


def _of_kind(suffix: str) -> list[Path]:
    return sorted((HERE / "corpus").glob(f"*{suffix}"))


@pytest.mark.parametrize("path", _of_kind(".onnx"), ids=lambda path: path.stem)
@pytest.mark.parametrize("command", ["export", "inspect", "integer-only"])
def test_onnx_mutants_end_with_a_foreseen_refusal_or_none(
    path: Path, command: str, tmp_path: Path, refusals: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "export": ["export", str(path), "--out", str(tmp_path), "--no-parity", "-q"],
        "inspect": ["inspect", str(path)],
        "integer-only": ["inspect", "--integer-only", str(path)],
    }[command]
    code = edgeconv.cli.run(arguments)
    told = capsys.readouterr().err
    assert code in ((0, 2) if command == "export" else (0, 1, 2)), told
    assert refusals == ([""] if code == 2 else [])
    assert len(told) < 4_000
    assert len(told.splitlines()) == len(refusals), told
    assert "cannot be converted (" not in told, "whatever_it_brings is for what nobody foresaw"


@pytest.mark.parametrize("path", _of_kind(".tflite"), ids=lambda path: path.stem)
def test_tflite_mutants_are_refused_by_the_place_of_their_damage(
    path: Path, refusals: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [edgeconv.cli.run(["inspect", *options, str(path)]) for options in ((), ("--integer-only",))]
    assert set(codes) <= {0, 1, 2}
    assert not any(refusals)
    if 2 in codes:
        assert "damaged: " in capsys.readouterr().err, "it says where"
        with pytest.raises(EdgeconvError, match="damaged: "):
            read_file(path)


@pytest.mark.parametrize("path", _of_kind(".tflite"), ids=lambda path: path.stem)
def test_tflite_is_evaluated_or_refused(path: Path) -> None:
    """Operands whose shapes do not broadcast were told in numpy's words."""
    refused = ""
    try:
        graph = tflite.read(path)
        inputs = [graph.tensors[index] for index in graph.inputs]
        tflite.evaluate(graph, {each.name: np.zeros(each.shape, np.float32) for each in inputs})
    except EdgeconvError as error:
        refused = unforeseen(error)
    assert refused == ""


@pytest.mark.parametrize("path", _of_kind(".safetensors"), ids=lambda path: path.stem)
def test_golden_mutants_are_refused_for_the_tensor_they_lack(path: Path) -> None:
    with pytest.raises(EdgeconvError, match="it lacks the tensor") as error:
        load_golden(path)
    assert not unforeseen(error.value)


@pytest.mark.parametrize("path", _of_kind(".json"), ids=lambda path: path.stem)
def test_journal_mutants_are_refused_as_no_journal(
    path: Path, tmp_path: Path, refusals: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(path, tmp_path / JOURNAL)
    assert edgeconv.cli.run(["parity", str(tmp_path)]) == 2
    assert refusals == [""]
    assert f"{JOURNAL} is no journal" in capsys.readouterr().err


@pytest.mark.parametrize("path", _of_kind(".plan"), ids=lambda path: path.stem)
def test_plan_mutants_are_refused_in_a_line_that_can_be_read(path: Path) -> None:
    with pytest.raises(EdgeconvError, match=r"^plan") as error:
        Plan.from_json(path.read_text())
    assert not unforeseen(error.value)
    assert len(str(error.value)) < 4_000
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("file", sorted({file for file, _ in CALLS_OF_LIBRARIES}))
def test_what_is_foreseen_is_there(file: str) -> None:
    """A function that was renamed would make faults of what it maps well."""
    found: set[str] = set()

    def collect(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            inner = prefix
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                inner = f"{prefix}{node.name}."
            collect(node, inner)

    collect(ast.parse((Path(edgeconv.__file__).parent / file).read_text()), "")
    assert {function for other, function in CALLS_OF_LIBRARIES if other == file} <= found
