"""SplitToSequence and SequenceAt of ``.onnx`` files: the part that is asked for, or a refusal.

Members: a chunk length, sizes, sizes of 0 and larger than the axis, negative axes and positions, parts of one element
with and without their axis; and what no runtime takes: positions beyond the parts (which once came round again), sizes
that do not fill the axis, a length of 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.capture import open_onnx

_X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


def _file(folder: Path, split: Any, position: Any, axis: int, **attributes: int) -> Path:
    """Without a split (None), the parts are of one element each."""
    constants = {"position": position} if split is None else {"split": split, "position": position}
    initializers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    operands = ["x"] if split is None else ["x", "split"]
    nodes = [
        helper.make_node("SplitToSequence", operands, ["parts"], axis=axis, **attributes),
        helper.make_node("SequenceAt", ["parts", "position"], ["part"]),
        helper.make_node("Relu", ["part"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, _X.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "parts", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "parts.onnx")
    return folder / "parts.onnx"


@pytest.mark.parametrize(
    ("split", "position", "axis"),
    [(3, 0, 0), (3, 2, 0), (3, -1, 0), (3, [0], 0), ([3, 4], 1, 0), ([0, 4], 1, 1), ([1, 6], 0, -2), (2**40, 0, 0)],
)
def test_the_part_is_the_one_that_is_asked_for(tmp_path: Path, split: Any, position: Any, axis: int) -> None:
    path = _file(tmp_path, split, position, axis)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": _X})
    result = edgeconv.export_onnx(path, tmp_path / "out", name="parts", formats="onnx")
    (computed,) = onnxruntime.InferenceSession(result.artifacts[0].path).run(None, {"x": _X})
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_without_sizes_each_part_is_one_element_of_the_axis(tmp_path: Path, keepdims: int) -> None:
    path = _file(tmp_path, None, -2, 1, keepdims=keepdims)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": _X})
    result = edgeconv.export_onnx(path, tmp_path / "out", name="parts", formats="onnx")
    (computed,) = onnxruntime.InferenceSession(result.artifacts[0].path).run(None, {"x": _X})
    np.testing.assert_array_equal(computed, expected)


def test_a_part_keeps_the_name_that_the_file_gives_it(tmp_path: Path) -> None:
    graph = open_onnx(_file(tmp_path, 3, 1, 0)).graph({"x": _X.shape}).graph
    assert "part" in [value.name for node in graph for value in node.outputs]


@pytest.mark.parametrize(
    ("split", "position"),
    [(3, 3), (3, -4), (3, [0, 1]), ([3, 3], 1), ([[3], [4]], 1), (0, 0), (-1, 0), ([-1, 8], 1)],
)
def test_a_part_that_there_is_not_is_refused(tmp_path: Path, split: Any, position: Any) -> None:
    path = _file(tmp_path, split, position, 0)
    with pytest.raises(edgeconv.CaptureError, match=r"parts\.onnx: "):
        edgeconv.export_onnx(path, tmp_path / "out", name="parts", formats="onnx")
    assert not (tmp_path / "out").exists()
