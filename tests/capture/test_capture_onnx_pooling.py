"""Pools of files, rounded up: the sizes and values of onnxruntime, which leaves out a window that starts in padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from same_everywhere import assert_same_everywhere

from edgeconv.capture import open_onnx
from edgeconv.errors import CaptureError

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
def test_any_pool(
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
