"""Files that store numbers which no runtime computes soundly with: one line that names the node."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.cli import run
from edgeconv.errors import CaptureError

NAN, INF = float("nan"), float("inf")


def written(path: Path, nodes: Sequence[onnx.NodeProto], opset: int = 18, **constants: Any) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def quantized(path: Path, scale: float, zero: Any = 0) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quant"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequant"),
    ]
    return written(path, nodes, s=np.float32(scale), z=np.asarray(zero, np.int8))


def of_weights(path: Path, scales: list[float], axis: int = 0) -> Path:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"], name="dequant", axis=axis),
        helper.make_node("MatMul", ["x", "wf"], ["y"]),
    ]
    return written(path, nodes, w=np.ones((4, 4), np.int8), s=np.array(scales, np.float32))


def captured(path: Path) -> None:
    open_onnx(path).graph({"x": (2, 4)})


@pytest.mark.parametrize("scale", [0.0, -0.1, NAN, INF, 1e-40])
def test_scales_that_are_none(tmp_path: Path, scale: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy's would follow
        with pytest.raises(CaptureError, match="node quant: its scale cannot be one") as caught:
            captured(quantized(tmp_path / "m.onnx", scale))
    assert "m.onnx" in str(caught.value)
    assert "quantize the model again" in str(caught.value)


@pytest.mark.parametrize("scale", [2e-38, 0.1, 1e38])
def test_scales_that_are_odd_and_sound(tmp_path: Path, scale: float) -> None:
    captured(quantized(tmp_path / "m.onnx", scale))


@pytest.mark.parametrize(
    ("scales", "axis", "says"),
    [
        ([0.1, 0.0, 0.1, NAN], 0, "2 of its 4 scales cannot be one: the first of them is 0"),
        ([0.1, 0.1, 0.1], 0, r"3 scales for the axis 0 of a tensor of shape \[4, 4\]"),
        ([0.1] * 4, 2, "4 scales for the axis 2"),
    ],
)
def test_scales_of_channels(tmp_path: Path, scales: list[float], axis: int, says: str) -> None:
    with pytest.raises(CaptureError, match=f"node dequant: .*{says}"):
        captured(of_weights(tmp_path / "m.onnx", scales, axis))


@pytest.mark.parametrize(
    ("shape", "block", "fits"),
    [((4, 4), 0, False), ((2, 4), 2, True), ((4, 2), 2, False), ((1, 1), 0, False), ((4,), 2, False)],
)
@pytest.mark.parametrize("computed", [True, False])
def test_scales_of_blocks_have_the_shape_of_the_blocks(
    tmp_path: Path, shape: tuple[int, ...], block: int, fits: bool, computed: bool
) -> None:
    """Computed ones were not looked at, and onnxruntime told of them in its own words."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most" if computed else "s", "sizes"], ["scale"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wf"], name="dequant", axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "wf"], ["y"]),
    ]
    constants = {"w": np.ones((4, 4), np.int8), "s": np.float32(0.1), "sizes": np.array(shape)}
    path = written(tmp_path / "m.onnx", nodes, 21, **constants)
    with (
        nullcontext() if fits else pytest.raises(CaptureError, match=r"node dequant: it has .*scales.* for the axis 0")
    ):
        captured(path)


def test_zero_points_are_as_many_as_scales(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="node quant: it has 1 scales and 4 zero points"):
        captured(quantized(tmp_path / "m.onnx", 0.1, np.zeros(4, np.int8)))


@pytest.mark.parametrize(
    ("scales", "zeros", "fits"),
    [
        ((4,), (4, 1), False),
        ((4,), (2, 2), False),
        ((), (1, 1), False),
        ((1,), (1, 1, 1), False),
        ((), (1,), True),
        ((1,), (), True),
        ((4,), (4,), True),
    ],
)
def test_zero_points_have_the_shape_of_the_scales(
    tmp_path: Path, scales: tuple[int, ...], zeros: tuple[int, ...], fits: bool
) -> None:
    """Four of four, in a column: the .tflite writer met numpy's own error."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], name="dequant", axis=0),
        helper.make_node("MatMul", ["x", "wf"], ["y"]),
    ]
    constants = {"w": np.ones((4, 4), np.int8), "s": np.full(scales, 0.1, np.float32), "z": np.zeros(zeros, np.int8)}
    path = written(tmp_path / "m.onnx", nodes, 18, **constants)
    with nullcontext() if fits else pytest.raises(CaptureError, match="node dequant: its scales have the shape"):
        captured(path)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_weights_of_a_diverged_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], variant: str) -> None:
    weights = np.ones((4, 4), np.float32)
    weights[1, 1] = NAN
    path = written(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], name="head")], w=weights)
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "--variant", variant, "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "node head: its weight 'w' holds NaN in 1 of 16 places" in line
    assert "calibration" not in line


@pytest.mark.parametrize("node", ["RMSNormalization", "Sum", "Mean"])
def test_every_operator_with_weights_is_looked_at(tmp_path: Path, node: str) -> None:
    weight = np.array([1, NAN, 1, 1], np.float32)
    path = written(tmp_path / "m.onnx", [helper.make_node(node, ["x", "w"], ["y"], name="one")], opset=23, w=weight)
    with pytest.raises(CaptureError, match="node one: its weight 'w' holds NaN in 1 of 4 places"):
        captured(path)


def test_infinite_weights_and_infinite_masks(tmp_path: Path) -> None:
    """A mask of minus infinity is added on purpose, and so is nothing that is multiplied and summed."""
    mask = np.array([[0, -INF, 0, 0]], np.float32)
    masked = [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Softmax", ["a"], ["y"])]
    captured(written(tmp_path / "m.onnx", masked, w=mask))
    with pytest.raises(CaptureError, match="node head: its weight 'w' holds Inf in 1 of 4 places"):
        captured(written(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w"], ["y"], name="head")], w=mask.T))


LOOKED_UP: list[tuple[str, list[Any], dict[str, int]]] = [  # the indices of x, of the shape [2, 4]; what comes as well
    ("Gather", [[3, -4]], {"axis": 1}),
    ("GatherElements", [[3, -4], [0, 0]], {"axis": 1}),
    ("GatherElements", [[1, -2]], {}),
    ("ScatterElements", [[3, -4], [0, 0]], {"axis": -1}),
    ("ScatterElements", [[1, -2]], {}),
    ("GatherND", [[1, -4], [-2, 3]], {}),
    ("GatherND", [[3], [-4]], {"batch_dims": 1}),
    ("ScatterND", [[1, -4], [-2, 3]], {}),
    ("ScatterND", [[1], [-2]], {}),
]


@pytest.mark.parametrize(("op", "indices", "attributes"), LOOKED_UP)
@pytest.mark.parametrize("beyond", [0, 1, -1])
def test_indices_of_what_is_not_there(
    tmp_path: Path, op: str, indices: list[Any], attributes: dict[str, int], beyond: int
) -> None:
    array = np.array(indices, np.int64)
    array = array + (np.sign(beyond) == np.sign(array + 0.5)) * beyond
    updates = np.zeros((2, 4) if array.ndim == 2 and array.shape[-1] == 1 else array.shape[:1], np.float32)
    updates = np.zeros(array.shape, np.float32) if op == "ScatterElements" else updates
    constants = {"i": array, **({"u": updates} if op.startswith("Scatter") else {})}
    path = written(tmp_path / "m.onnx", [helper.make_node(op, ["x", *constants], ["y"], **attributes)], **constants)
    with pytest.raises(CaptureError, match=f"{op} takes the indices .* of an axis of") if beyond else nullcontext():
        captured(path)


@pytest.mark.parametrize(("attributes", "fits"), [({}, False), ({"fmod": 0}, False), ({"fmod": 1}, True)])
def test_a_remainder_of_floats_is_stated_as_fmod(tmp_path: Path, attributes: dict[str, int], fits: bool) -> None:
    """ONNX Runtime runs no other of floats: our own file failed there."""
    node = helper.make_node("Mod", ["x", "w"], ["y"], name="rest", **attributes)
    path = written(tmp_path / "m.onnx", [node], w=np.full(4, 3, np.float32))
    with nullcontext() if fits else pytest.raises(CaptureError, match="node rest: Mod of floats is defined"):
        captured(path)


@pytest.mark.parametrize("alpha", [1 / 6, 0.1666667])
def test_a_slope_near_a_sixth_is_that_slope_in_tflite(alpha: float, tmp_path: Path) -> None:
    """PaddlePaddle writes 0.1666667, which is two float32 numbers away from 1/6."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 4, 4)) for name in "xy")
    node = helper.make_node("HardSigmoid", ["x"], ["y"], alpha=alpha, beta=0.5)
    graph = helper.make_graph([node], "slope", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "n.onnx")
    result = edgeconv.export_onnx(tmp_path / "n.onnx", tmp_path / "out", name="n", formats="tflite", devices="litert")
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons if row.verdict.value != "pass"] == []


@pytest.mark.parametrize("kind", ["UINT16", "UINT32", "UINT64"])
def test_unsigned_inputs_of_a_file_need_no_recipe(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = helper.make_tensor_value_info("x", getattr(TensorProto, kind), (1, 4))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT), helper.make_node("Sqrt", ["c"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "m.onnx")
    command = ["export", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "out"), "--device", "onnxruntime", "-q"]
    assert run([*command, "--format", "onnx"]) == 0
    assert run([*command, "--format", "tflite"]) == 2
    assert f"has element type {kind}" in capsys.readouterr().err
