"""Forms that onnxruntime refuses in its own optimized graph, or has no kernel for: written so that it takes them.

Thought of: Pad with a list of axes behind a Transpose, cubic Resize by sizes and by scales among integers,
Celu, IsInf and scatters with a reduction in float16; every operator that onnxruntime runs in float32, but not in
float16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from random_graphs import Array, declared, run_plain
from random_judge import decibels, run_file

import edgeconv
from edgeconv.graph.traits import TRAITS

X = np.random.default_rng(0).standard_normal((1, 3, 8, 6)).astype(np.float32)
_WEIGHT = np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)


def _model(nodes: list[onnx.NodeProto], **constants: Array) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [declared("x", np.float32, X.shape)], [onnx.ValueInfoProto(name="y")], stored)
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _checked(model: onnx.ModelProto, folder: Path, variant: str, least_db: float) -> onnx.ModelProto:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    data = edgeconv.Quantization(batches=lambda: [{"x": X}])
    result = edgeconv.export_onnx(
        path, folder / "out", name="m", formats="onnx", variants=variant, quantization=data
    )  # fmt: skip
    (artifact,) = result.artifacts
    assert decibels(run_plain(model, {"x": X})[0], run_file(artifact, {"x": X})[0]) > least_db
    return onnx.load(artifact.path)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_states_all_axes(mode: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("Pad", ["t", "pads", "", "axes"], ["p"], mode=mode),
        helper.make_node("Sigmoid", ["p"], ["y"]),
    ]
    model = _model(nodes, pads=np.array([1, 2], np.int64), axes=np.array([-1], np.int64))
    written = _checked(model, tmp_path, "fp32", 90)
    (pad,) = (node for node in written.graph.node if node.op_type == "Pad")
    assert len([name for name in pad.input if name]) <= 3
    amounts = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in written.graph.initializer}
    assert sorted(amounts[pad.input[1]]) == [0, 0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("inputs", [["t", "", "scales"], ["t", "", "", "sizes"]])
def test_cubic_resize_among_integers_runs(inputs: list[str], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("Resize", inputs, ["r"], mode="cubic"),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    constants: dict[str, Any] = {"w": _WEIGHT}
    if "sizes" in inputs:
        constants["sizes"] = np.array([1, 3, 4, 3], np.int64)
    else:
        constants["scales"] = np.array([1, 1, 0.5, 0.5], np.float32)
    _checked(_model(nodes, **constants), tmp_path, "int8", 20)


_COMBINED = {"i": np.zeros((1, 3, 1, 1), np.int64), "u": np.ones((1, 3, 1, 1), np.float32)}
_COMBINED_ND = {"i": np.zeros((2, 1), np.int64), "u": np.ones((2, 3, 8, 6), np.float32)}
_WITHOUT_HALVES: dict[str, tuple[list[onnx.NodeProto], dict[str, Array]]] = {
    "celu": ([helper.make_node("Celu", ["c"], ["y"], alpha=0.5)], {}),
    "is_inf": (
        [
            helper.make_node("IsInf", ["c"], ["b"]),
            helper.make_node("Cast", ["b"], ["f"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Add", ["f", "c"], ["y"]),
        ],
        {},
    ),
    "scatter_elements": ([helper.make_node("ScatterElements", ["c", "i", "u"], ["y"], reduction="add")], _COMBINED),
    **{
        f"scatter_nd_{how}": ([helper.make_node("ScatterND", ["c", "i", "u"], ["y"], reduction=how)], _COMBINED_ND)
        for how in ("add", "mul", "min", "max")
    },
}


@pytest.mark.parametrize("name", _WITHOUT_HALVES)
def test_what_has_no_half_stays_float32(name: str, tmp_path: Path) -> None:
    nodes, constants = _WITHOUT_HALVES[name]
    _checked(
        _model([helper.make_node("Conv", ["x", "w"], ["c"]), *nodes], w=_WEIGHT, **constants), tmp_path, "fp16", 40
    )


def _operands(op_type: str) -> list[Array]:
    """Operands of float32 that many an operator takes, for those of the sweep."""
    more = {"BatchNormalization": [np.ones(3, np.float32)] * 4, "InstanceNormalization": [np.ones(3, np.float32)] * 2}
    more |= {"LayerNormalization": [np.ones(6, np.float32)], "PRelu": [np.ones((3, 1, 1), np.float32)]}
    more |= {"CumSum": [np.array(1)], "TopK": [np.array([2])], "Conv": [_WEIGHT], "ConvTranspose": [_WEIGHT]}
    more |= {"Expand": [np.array([1, 3, 8, 6])], "Reshape": [np.array([-1])], "Tile": [np.array([1, 1, 2, 2])]}
    more |= {"Gather": [np.array([0])], "GatherElements": [np.zeros(X.shape, np.int64)], "GatherND": [np.array([[0]])]}
    more |= {"GridSample": [np.zeros((1, 2, 2, 2), np.float32)], "Pad": [np.array([0, 0, 1, 1] * 2)]}
    more |= {"Slice": [np.array([0]), np.array([1])], "Unsqueeze": [np.array([0])]}
    return [X, *more.get(op_type, [X] * (onnx.defs.get_schema(op_type, 18).min_input - 1))]


_ATTRIBUTES: dict[str, dict[str, Any]] = {
    **{op_type: {"kernel_shape": [2, 2]} for op_type in ("AveragePool", "LpPool", "MaxPool")},
    "Concat": {"axis": 1},
    "LRN": {"size": 3},
    "Mod": {"fmod": 1},
    "SpaceToDepth": {"blocksize": 2},
    "Transpose": {"perm": [0, 1, 3, 2]},
}


def _runs(op_type: str, operands: list[Array], path: Path | None = None) -> bool:
    """Whether onnxruntime runs one operator alone; also writes the file."""
    names = [f"x{index}" for index in range(len(operands))]
    shapes = {name: declared(name, array.dtype, array.shape) for name, array in zip(names, operands, strict=True)}
    outputs = [f"y{index}" for index in range(onnx.defs.get_schema(op_type, 18).min_output)]
    node = helper.make_node(op_type, names, outputs, **_ATTRIBUTES.get(op_type, {}))
    graph = helper.make_graph([node], "g", list(shapes.values()), [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if path is not None:
        path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        session.run(None, dict(zip(names, operands, strict=True)))
    except Exception:  # noqa: BLE001 its classes are not public
        return False
    return True


def test_every_operator_without_a_half_is_written_so_that_it_runs(tmp_path: Path) -> None:
    """Each operator that runs in float32 and not in float16 is exported as fp16 and runs."""
    onnxruntime.set_default_logger_severity(4)
    tried = 0
    for op_type in TRAITS:
        if not onnx.defs.has(op_type) or onnx.defs.get_schema(op_type).since_version == 0:
            continue
        try:
            operands = _operands(op_type)
        except onnx.defs.SchemaError:
            continue
        halves = [array.astype(np.float16) if array.dtype == np.float32 else array for array in operands]
        path = tmp_path / f"{op_type}.onnx"
        if not _runs(op_type, operands, path) or _runs(op_type, halves):
            continue
        tried += 1
        result = edgeconv.export_onnx(path, tmp_path / op_type, name="m", formats="onnx", variants="fp16")
        (artifact,) = result.artifacts
        feed = {f"x{index}": array for index, array in enumerate(operands)}
        assert len(run_file(artifact, feed)) >= 1, op_type
    assert tried >= 3
