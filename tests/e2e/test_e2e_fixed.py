"""An input that is fixed to a number is no input any more, and branches on it dissolve.

Members: integers, floats and booleans; an ``If`` of a file, a branch of a forward, in the middle of its arguments; from
the command line, a recipe and Python; a type that cannot hold the number, names that are none, nothing left open.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as Tensors
from onnx import helper, numpy_helper

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.cli import run
from edgeconv.errors import CaptureError, EdgeconvError
from edgeconv.recipe import load_recipe

NET = """from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__(); self.low, self.high = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3)
    def forward(self, x, sr, y, gain=1.0, flip=False):
        z = self.low(x) if sr == 8000 else self.high(x)
        return (-z if flip else z) * gain + y
"""
RECIPE = """name = "m"
[model]
factory = "net:Net"
fixed = {{ sr = {sr}, gain = 0.5, flip = true }}
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
[[inputs]]
name = "y"
shape = [1]
"""


def _branch(name: str, operator: str) -> onnx.GraphProto:
    node = helper.make_node(operator, ["x"], [name])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, Tensors.FLOAT, [1, 4])])


def _file(path: Path, kind: int = Tensors.INT64) -> Path:
    """Relu where ``sr`` is 16000, else Neg."""
    nodes = [
        helper.make_node("Cast", ["sr"], ["number"], to=Tensors.INT64),
        helper.make_node("Equal", ["number", "wide"], ["is_wide"]),
        helper.make_node("If", ["is_wide"], ["y"], then_branch=_branch("a", "Relu"), else_branch=_branch("b", "Neg")),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", Tensors.FLOAT, [1, 4]), value("sr", kind, [])]
    constants = [numpy_helper.from_array(np.int64(16000), "wide")]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", Tensors.FLOAT, [1, 4])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def _operators(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(folder / "m.fp32.onnx").graph.node]


@pytest.mark.parametrize(("number", "operator"), [(16000, "Relu"), (8000, "Neg")])
def test_a_file_from_python_and_from_the_command_line(tmp_path: Path, number: int, operator: str) -> None:
    path = _file(tmp_path / "m.onnx")
    result = edgeconv.export_onnx(
        path, tmp_path / "a", name="m", fixed={"sr": number}, devices=("onnxruntime", "litert")
    )
    assert result.report is not None
    assert result.report.verdict.value == "pass"
    assert [each.name for each in result.artifacts[0].inputs] == ["x"]
    assert _operators(tmp_path / "a") == [operator]
    options = ["export", str(path), "--set", f"sr={number}", "--out", str(tmp_path / "b"), "--no-parity"]
    assert run(options) == 0
    assert _operators(tmp_path / "b" / "m") == [operator]


@pytest.mark.parametrize(("number", "size"), [(8000, 1), (16000, 3)])
def test_a_recipe_and_what_the_command_line_says_of_it(tmp_path: Path, number: int, size: int) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "r.toml").write_text(RECIPE.format(sr=number))
    recipe = load_recipe(tmp_path / "r.toml")
    result = edgeconv.export_recipe(recipe, tmp_path / "a", devices=("onnxruntime", "litert", "torch"))
    assert result.report is not None
    assert result.report.verdict.value == "pass"
    assert [each.name for each in result.artifacts[0].inputs] == ["x", "y"]
    weights = {tensor.name: tensor for tensor in onnx.load(tmp_path / "a" / "m.fp32.onnx").graph.initializer}
    assert [list(each.dims)[2:] for each in weights.values() if len(each.dims) == 4] == [[size, size]]
    text = RECIPE.format(sr=1).replace("sr = 1, ", "") + '[[inputs]]\nname = "sr"\nshape = []\ndtype = "int64"\n'
    (tmp_path / "r.toml").write_text(text)
    options = ["export", str(tmp_path / "r.toml"), "--set", f"sr={number}", "--no-parity", "--out", str(tmp_path / "b")]
    assert run(options) == 0
    assert (tmp_path / "b" / "m" / "m.fp32.onnx").read_bytes() == (tmp_path / "a" / "m.fp32.onnx").read_bytes()
    assert run([*options, "--set", "rate=1"]) == 2


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    path = _file(tmp_path / "m.onnx", Tensors.INT8)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sr": 16000}, "'sr' is int8, which has no 16000"),
        ({"sr": 0.5}, "'sr' is int8, which has no 0.5"),
        ({"rate": 1}, "no input 'rate' to be fixed; name one of x, sr"),
        ({"sr": 1, "x": 0}, "all of its inputs are fixed"),
    ]
    for fixed, what in cases:
        with pytest.raises(EdgeconvError, match=what):
            edgeconv.export_onnx(path, tmp_path / "a", name="m", fixed=fixed)


@pytest.mark.parametrize(
    ("kind", "number", "refused"),
    [
        (Tensors.FLOAT, 1e39, r"'sr' is float32, which has no 1e\+39"),
        (Tensors.FLOAT, -1e39, r"'sr' is float32, which has no -1e\+39"),
        (Tensors.FLOAT, 1e-50, "'sr' is float32, which has no 1e-50"),
        (Tensors.FLOAT, 1e-44, "'sr' is float32, which has no 1e-44"),
        (Tensors.FLOAT, 10**39, r"'sr' is float32, which has no 1e\+39"),
        pytest.param(Tensors.FLOAT, 10**5000, "it is inf; give a finite number", id="thousands of digits"),
        (Tensors.FLOAT, 3.4028235e38, None),
        (Tensors.FLOAT, 1.2e-38, None),
        (Tensors.FLOAT, -0.1, None),
        (Tensors.FLOAT, 0, None),
        (Tensors.INT64, 2**63, "'sr' is int64, which has no 9223372036854775808"),
        (Tensors.INT64, 1e19, r"'sr' is int64, which has no 1e\+19"),
        (Tensors.INT64, 2**63 - 1, None),
        (Tensors.INT64, -(2**63), None),
        (Tensors.INT64, -(2**70), "'sr' is int64, which has no -1.18"),
        (Tensors.UINT8, -1, "'sr' is uint8, which has no -1"),
        (Tensors.BOOL, 2, "'sr' is bool, which has no 2"),
        (Tensors.BOOL, True, None),
    ],
)
def test_the_limits_of_each_type(tmp_path: Path, kind: int, number: float, refused: str | None) -> None:
    file = open_onnx(_file(tmp_path / "m.onnx", kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy's
        if refused is not None:
            with pytest.raises(CaptureError, match=refused):
                file.fixed({"sr": number})
            return
        fixed = file.fixed({"sr": number}).proto.graph.initializer[-1]
    assert numpy_helper.to_array(fixed) == np.asarray(number).astype(helper.tensor_dtype_to_np_dtype(kind))


@pytest.mark.parametrize("text", ["sr", "=1", "sr=fast", "sr=nan", "sr=inf"])
def test_a_text_that_sets_nothing(tmp_path: Path, text: str) -> None:
    path = _file(tmp_path / "m.onnx")
    assert run(["export", str(path), "--set", text, "--out", str(tmp_path / "b")]) == 2
