"""Files that an input of one number keeps from being plain: the error names the input, and how to fix it.

Members thought of: Dropout whose mode is an input, or computed of one; branches and loops whose condition or count is;
two inputs that decide together, a factor of a size. Where an input of many numbers or a condition of the data decides,
the model is at fault.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.cli import run
from edgeconv.errors import CaptureError

_node, _value = helper.make_node, helper.make_tensor_value_info


def _branch(operator: str) -> onnx.GraphProto:
    result = _value("r", TensorProto.FLOAT, None)
    return helper.make_graph([_node(operator, ["x"], ["r"])], operator, [], [result])


_IF = {"then_branch": _branch("Relu"), "else_branch": _branch("Sigmoid")}
_BODY = helper.make_graph(
    [_node("Relu", ["a"], ["b"]), _node("Identity", ["go"], ["on"])],
    "body",
    [_value("at", TensorProto.INT64, ()), _value("go", TensorProto.BOOL, ()), _value("a", TensorProto.FLOAT, (1, 3))],
    [_value("on", TensorProto.BOOL, ()), _value("b", TensorProto.FLOAT, (1, 3))],
)
_FLAG, _COUNT = _value("a flag", TensorProto.BOOL, ()), _value("n", TensorProto.INT64, (1,))


def _file(folder: Path, nodes: list[onnx.NodeProto], *inputs: onnx.ValueInfoProto) -> Path:
    x, y = _value("x", TensorProto.FLOAT, (1, 3)), _value("y", TensorProto.FLOAT, None)
    constants = {"zero": np.int64([0]), "low": np.float32(0), "one": np.float32([1])}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [x, *inputs], [y], initializers)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("nodes", "inputs", "hint"),
    [
        ([_node("Dropout", ["x", "", "a flag"], ["y"])], [_FLAG], r"fixed=\{'a flag': False\}"),
        (
            [_node("Not", ["a flag"], ["on"]), _node("Dropout", ["x", "", "on"], ["y"])],
            [_FLAG],
            r"fixed=\{'a flag': <true or false>\}",
        ),
        ([_node("If", ["a flag"], ["y"], **_IF)], [_FLAG], r"fixed=\{'a flag': <true or false>\}"),
        (
            [_node("Greater", ["n", "zero"], ["on"]), _node("If", ["on"], ["y"], **_IF)],
            [_COUNT],
            r"fixed=\{'n': <number>\}",
        ),
        ([_node("Loop", ["n", "", "x"], ["y"], body=_BODY)], [_COUNT], r"fixed=\{'n': <number>\}"),
        (
            [_node("Loop", ["n", "a flag", "x"], ["y"], body=_BODY)],
            [_COUNT, _FLAG],
            r"fix the inputs: fixed=\{'n': <number>, 'a flag': <true or false>\}",
        ),
        (
            [_node("Concat", ["one", "s"], ["by"], axis=0), _node("Resize", ["x", "", "by"], ["y"])],
            [_value("s", TensorProto.FLOAT, (1,))],
            r"fixed=\{'s': <number>\}",
        ),
        ([_node("If", ["flags"], ["y"], **_IF)], [_value("flags", TensorProto.BOOL, (2,))], "without loops"),
        ([_node("HannWindow", ["n"], ["w"]), _node("Mul", ["x", "w"], ["y"])], [_COUNT], r"fixed=\{'n': <number>\}"),
        ([_node("ConstantOfShape", ["n"], ["w"]), _node("Sin", ["w"], ["y"])], [_COUNT], r"fixed=\{'n': <number>\}"),
        (
            [
                _node("ReduceMax", ["x"], ["m"], keepdims=0),
                _node("Greater", ["m", "low"], ["on"]),
                _node("If", ["on"], ["y"], **_IF),
            ],
            [],
            "export the model without loops",
        ),
    ],
    ids=[
        "dropout",
        "dropout unless",
        "branch",
        "branch by a number",
        "loop",
        "loop by two",
        "size by a factor",
        "branch by many numbers",
        "window",
        "shape",
        "branch by the data",
    ],
)
def test_the_hint_names_the_input_that_decides(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], hint: str, tmp_path: Path
) -> None:
    with pytest.raises(CaptureError, match=hint):
        edgeconv.export_onnx(_file(tmp_path, nodes, *inputs), tmp_path / "out", name="m")


def test_the_hint_can_be_followed_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, [_node("Dropout", ["x", "", "a flag"], ["y"])], _FLAG)
    command = ["export", str(path), "--out", str(tmp_path / "out"), "--no-parity", "-q"]
    assert run(command) == 2
    assert "fix the input: --set 'a flag'=false" in capsys.readouterr().err
    assert run([*command, "--set", "a flag=false"]) == 0


@pytest.mark.parametrize("name", ["two words", "ü:0", "a=b,c", 'say "x"', "n" * 400])
def test_shapes_of_inputs_with_any_printable_name_can_be_stated(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = _value(name, TensorProto.FLOAT, (1, 3, "h")), _value("y", TensorProto.FLOAT, None)
    path = tmp_path / "m.onnx"
    graph = helper.make_graph([_node("Relu", [name], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    command = ["export", str(path), "--out", str(tmp_path / "out"), "--no-parity", "-q"]
    assert run(command) == 2
    assert "state it: --shape " in capsys.readouterr().err
    assert run([*command, "--shape", f"{name}=1,3,8"]) == 0


@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("behind", [[], [_node("GlobalAveragePool", ["w"], ["y"])]], ids=["output", "averaged"])
def test_inputs_too_small_for_a_window_are_told(
    operator: str, size: int, behind: list[onnx.NodeProto], tmp_path: Path
) -> None:
    is_layer = operator == "Conv"
    node = _node(operator, ["x", "k"] if is_layer else ["x"], ["w" if behind else "y"], kernel_shape=[4, 4], name="n")
    x, y = _value("x", TensorProto.FLOAT, (1, 2, size, size)), _value("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.ones((2, 2, 4, 4), np.float32), "k")] if is_layer else []
    graph = helper.make_graph([node, *behind], "g", [x], [y], weights)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    told = rf"node n: {operator} has a window of \[4, 4\] for an input of the shape \[1, 2, {size}, {size}\].*larger"
    with pytest.raises(CaptureError, match=told):
        edgeconv.export_onnx(path, tmp_path / "out", name="m")


@pytest.mark.parametrize(
    "nodes",
    [
        [_node("Optional", ["x"], ["o"]), _node("OptionalGetElement", ["o"], ["e"]), _node("Relu", ["e"], ["y"])],
        [_node("OptionalGetElement", ["x"], ["e"]), _node("Relu", ["e"], ["y"])],
        [_node("OptionalHasElement", ["x"], ["has"]), _node("If", ["has"], ["y"], **_IF)],
        [
            _node("OptionalHasElement", [], ["has"]),
            _node("Not", ["has"], ["hasnt"]),
            _node("If", ["hasnt"], ["y"], **_IF),
        ],
    ],
    ids=["optional", "tensor", "has", "has not"],
)
def test_optional_values_that_are_there_are_their_tensors(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    result = edgeconv.export_onnx(_file(tmp_path, nodes), tmp_path / "out", name="m")
    written = onnx.load(result.artifacts[0].path)
    assert [node.op_type for node in written.graph.node] == ["Relu"]
