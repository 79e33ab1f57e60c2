"""`edgeconv operators`: the table is that of the README's list, and what it says happens."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeconv.cli import run
from edgeconv.flow.operators import operators, rows
from edgeconv.reference import OPERATORS


def test_every_operator_of_the_reference_has_a_row_as_the_readme_lists_it() -> None:
    table = {row.operator: row for row in rows()}
    assert set(OPERATORS) <= table.keys()
    lists = operators()
    assert {name for name, row in table.items() if row.tflite} == {*lists.both, *lists.dissolved}
    assert {name for name, row in table.items() if not row.tflite} == {*lists.onnx_only, *lists.unread}
    assert all((row.int8 == "no") == (not row.tflite) for row in table.values())


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("Conv", {"tflite": True, "int8": "yes", "int16": "yes", "batch": True}),
        ("Gelu", {"tflite": True, "int8": "yes", "int16": "float", "batch": True}),
        ("GridSample", {"tflite": True, "int8": "float", "int16": "float", "batch": True}),
        ("Swish", {"tflite": True, "int8": "parts", "int16": "parts", "batch": True}),
        ("Gemm", {"tflite": True, "int8": "yes", "int16": "yes", "batch": True}),
        ("NonZero", {"tflite": True, "int8": "dissolved", "int16": "dissolved", "batch": True}),  # constant, or refused
        ("DFT", {"tflite": True, "int8": "dissolved", "int16": "dissolved", "batch": True}),  # constant, or refused
        ("Det", {"tflite": False, "int8": "no", "int16": "no", "batch": True}),
    ],
)
def test_rows_for_programs(operator: str, expected: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operators", operator.lower(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"operator": operator, **expected}]


def test_the_table_for_people_has_a_line_per_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operators"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["operator", ".onnx", ".tflite", "int8", "int16x8", "open", "batch"]
    assert {line.split()[0] for line in lines[1:-1]} == {row.operator for row in rows()}


def test_the_details_name_the_file_of_every_table_or_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operators", "gridsample", "--details"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "## GridSample, opsets 16 to 24" in lines
    assert "- capture: torch's grid_sampler, grid_sampler_2d; files" in lines
    assert "- .tflite: `sampling`" in lines
    assert "- int8: no (stays float: tflite-runtime 2.14 has no int8 kernel of FLOOR)" in lines
    assert run(["operators", "gridsample", "--details", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["opsets"] == list(range(16, 25))
    assert row["tables"]["reference"] == {"entry": "`resize`", "reason": ""}


def test_torchs_operators_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operators", "--torch", "--json"]) == 0
    families = json.loads(capsys.readouterr().out)
    assert "conv2d" in families["convolution"]
    assert run(["operators", "--torch", "Conv"]) == 2
    assert run(["operators", "--torch", "--details"]) == 2


def test_an_operator_that_is_none_is_told_its_neighbors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operators", "Relux"]) == 2
    assert "'Relux' is no ONNX operator that is exported; the nearest are Relu" in capsys.readouterr().err


@pytest.mark.parametrize("operator", ["Cos", "Acos", "Erf", "Softsign"])
def test_what_the_table_says_of_tflite_and_the_batch_happens(operator: str, tmp_path: Path) -> None:
    (row,) = [row for row in rows() if row.operator == operator]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "one", value[:1], value[1:])
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    export = ["export", str(path), "--no-parity", "-q", "--out", str(tmp_path), "--format"]
    assert run([*export, "onnx"]) == (0 if row.batch else 2)
    assert run([*export, "tflite"]) == (0 if row.tflite and row.batch else 2)
