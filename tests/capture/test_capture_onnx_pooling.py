"""Pools of files, rounded up: the sizes and values of onnxruntime, which leaves out a window that starts in padding.

Members of paddings as wide as the window: averages that count it or do not, sums of powers, maxima; on one side or on
both; strides that leave it unread; dilations that read past it; sizes rounded up; places of maxima.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
from crossed import slow_but
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from same_everywhere import assert_same_everywhere

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.emit.onnx import to_onnx
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

Arrays = dict[str, npt.NDArray[Any]]
SHORT: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}
"""Of 8 by 8: three windows and not four, as the fourth would start in the padding."""
_FEW = settings(deadline=None, max_examples=20)


def pooled(path: Path, nodes: list[Any], size: tuple[int, int], weights: Arrays | None = None) -> ir.Model:
    """The graph of a file of one input ``x`` and one output ``y``, which is that of onnxruntime in every form."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()
    path.write_bytes(data)
    return assert_same_everywhere(path, (1, 2, *size))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_what_follows_has_the_right_size(tmp_path: Path, op: str) -> None:
    """onnx's own inference says 4 by 4, which contradicts the weights of the layer behind."""
    nodes = [
        helper.make_node(op, ["x"], ["p"], **SHORT),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(1).standard_normal((18, 5)).astype(np.float32)}
    model = pooled(tmp_path / "m.onnx", nodes, (8, 8), weights)
    assert {value.name: value.shape for node in model.graph for value in node.outputs}["p"] == (1, 2, 3, 3)
    names = {value.name for value in (*model.graph.initializers.values(), *(n.outputs[0] for n in model.graph))}
    assert not [name for name in names if name is None or name.startswith("_")]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_what_follows_in_a_branch_has_the_right_size(tmp_path: Path, op: str) -> None:
    """Its sizes were inferred from the pool's wrong ones, too, and stayed when the pool was settled."""
    branch = helper.make_graph(
        [helper.make_node("Relu", ["p"], ["r"])], "then", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["p"], ["n"])], "else", [], [helper.make_tensor_value_info("n", 1, None)]
    )
    nodes = [
        helper.make_node(op, ["x"], ["p"], **SHORT),
        helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=other),
        helper.make_node("Sigmoid", ["i"], ["y"]),
    ]
    model = pooled(tmp_path / "m.onnx", nodes, (8, 8), {"yes": np.array(True)})
    assert model.graph.outputs[0].shape == (1, 2, 3, 3)


def test_pools_behind_pools(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], **SHORT),
        helper.make_node("AveragePool", ["a"], ["b"], **SHORT, count_include_pad=1),
        helper.make_node("MaxPool", ["b"], ["y"], **SHORT),
    ]
    pooled(tmp_path / "m.onnx", nodes, (26, 23))


_PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=_PAIRS,
    strides=_PAIRS,
    padding=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    size=st.tuples(st.integers(5, 13), st.integers(5, 13)),
    counted=st.booleans(),
    valid=st.booleans(),
)
@_FEW
def test_any_pool_is_right_from_a_file(
    tmp_path_factory: pytest.TempPathFactory,
    op: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: list[int],
    size: tuple[int, int],
    counted: bool,
    valid: bool,
) -> None:
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "ceil_mode": 1}
    if valid:
        attributes["auto_pad"] = "VALID"
    else:
        attributes["pads"] = [min(pad, taps - 1) for pad, taps in zip(padding, kernel * 2, strict=True)]
    if op == "AveragePool":
        attributes["count_include_pad"] = int(counted)
    node = helper.make_node(op, ["x"], ["p"], **attributes)
    pooled(tmp_path_factory.mktemp("pool") / "m.onnx", [node, helper.make_node("Neg", ["p"], ["y"])], size)


def test_places_in_a_map_that_is_cut_are_refused(tmp_path: Path) -> None:
    shorter = {**SHORT, "pads": [0, 0, 0, 0], "kernel_shape": [1, 2]}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 9, 10])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node("MaxPool", ["x"], ["a", "y"], name="p", **shorter)], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CaptureError, match=r"node p: MaxPool leaves out a window.*without ceil_mode"):
        open_onnx(tmp_path / "m.onnx").graph({"x": (1, 1, 9, 10)})


ROUNDED_UP = {"strides": [3, 3], "ceil_mode": 1}
WIDE: list[tuple[str, dict[str, Any]]] = [
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [2, 2, 2, 2], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [2, 3], "pads": [4, 0, 1, 3], "count_include_pad": 1, "strides": [2, 3]}),
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [3, 2, 4, 2], "count_include_pad": 1, **ROUNDED_UP}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 1, 3, 3], "strides": [9, 10]}),
    ("LpPool", {"kernel_shape": [2, 2], "pads": [2, 0, 3, 2]}),
    ("LpPool", {"kernel_shape": [1, 2], "pads": [1, 2, 1, 2], "p": 1}),
    ("LpPool", {"kernel_shape": [2, 2], "pads": [2, 2, 0, 0], "strides": [2, 1], "p": 3}),
    ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 1, 2, 2], "strides": [9, 10]}),
]  # fmt: skip


def _wide(path: Path, op: str, attributes: dict[str, Any], outputs: tuple[str, ...] = ("y",)) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 7, 8])
    kinds = (TensorProto.FLOAT, TensorProto.INT64)
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outputs, kinds, strict=False)]
    nodes = [helper.make_node(op, ["x"], [*outputs], name="wide", **attributes)]
    graph = helper.make_graph(nodes, "g", [x], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("op", "attributes"), slow_but([*WIDE[1:3], *WIDE[5:]], WIDE))
def test_padding_as_wide_as_the_window(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    """onnxruntime takes no such file; the specification gives its values, as the reference has them."""
    path = _wide(tmp_path / "m.onnx", op, attributes)
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 8)).astype(np.float32)
    expected = evaluate(ir.load(path), {"x": x})["y"]
    assert np.isfinite(expected).all()
    model = open_onnx(path).graph({"x": x.shape})
    assert (evaluate(model, {"x": x})["y"] == expected).all()
    result = edgeconv.export_onnx(path, tmp_path / "out", name="m", devices=("onnxruntime", "litert"))
    assert result.report is not None
    rows = {row.artifact: str(row.verdict) for row in result.report.comparisons if row.artifact}  # but the source's own
    assert rows == {"m.fp32.onnx": "pass", "m.fp32.tflite": "pass"}


@pytest.mark.parametrize(
    ("op", "attributes", "outputs", "says"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [2, 2, 2, 2]}, ("y",), "has windows of nothing but padding"),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [0, 2, 0, 0]}, ("y",), "has windows of nothing but padding"),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0], "dilations": [3, 1]}, ("y", "i"), "of its maxima"),
    ],
)
def test_windows_of_nothing_but_padding(
    tmp_path: Path, op: str, attributes: dict[str, Any], outputs: tuple[str, ...], says: str
) -> None:
    with pytest.raises(CaptureError, match=says) as caught:
        open_onnx(_wide(tmp_path / "m.onnx", op, attributes, outputs)).graph({"x": (1, 2, 7, 8)})
    assert "node wide: " in str(caught.value)


def test_a_dilated_maximum_reads_past_the_padding(tmp_path: Path) -> None:
    path = _wide(tmp_path / "m.onnx", "MaxPool", {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0], "dilations": [3, 1]})
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 8)).astype(np.float32)
    model = open_onnx(path).graph({"x": x.shape})
    assert [node.op_type for node in model.graph] == ["Pad", "MaxPool"]
    expected = evaluate(ir.load(path), {"x": x})["y"]
    np.testing.assert_array_equal(
        onnxruntime.InferenceSession(to_onnx(model, metadata={}).data).run(None, {"x": x})[0], expected
    )


@_FEW
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), p=st.integers(1, 3),
    ends=st.tuples(*[st.integers(0, 2)] * 4), strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)  # fmt: skip
def test_roots_of_sums_of_powers(
    tmp_path_factory: pytest.TempPathFactory,
    kernel: tuple[int, int], p: int, ends: tuple[int, int, int, int], strides: tuple[int, int],
) -> None:  # fmt: skip
    pads = [min(end, size - 1) for end, size in zip(ends, kernel * 2, strict=True)]
    node = helper.make_node("LpPool", ["x"], ["y"], kernel_shape=kernel, p=p, pads=pads, strides=strides)
    pooled(tmp_path_factory.mktemp("lp") / "m.onnx", [node], (7, 6))


@pytest.mark.parametrize("told", ["value", "output"])
def test_sizes_that_a_branch_tells_of_itself_are_not_believed(tmp_path: Path, told: str) -> None:
    """They are of the shapes that the file was written for, or of ONNX's window too many."""
    wrong = [1, 2, 4, 4]
    values = {name: helper.make_tensor_value_info(name, 1, wrong if told == "value" else None) for name in ("r", "s")}
    output = helper.make_tensor_value_info("s", 1, wrong if told == "output" else None)
    inner = [helper.make_node("Relu", ["p"], ["r"]), helper.make_node("Neg", ["r"], ["s"])]
    branch = helper.make_graph(inner, "then", [], [output], value_info=[values["r"]])
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], **SHORT),
        helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Sigmoid", ["i"], ["y"]),
    ]
    model = pooled(tmp_path / "m.onnx", nodes, (8, 8), {"yes": np.array(True)})
    assert {tuple(value.shape or ()) for node in model.graph for value in node.outputs} == {(1, 2, 3, 3)}
