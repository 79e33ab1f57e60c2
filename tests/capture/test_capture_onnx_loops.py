"""Loop with a constant count: unrolled, as onnxruntime runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from trained import computed

import edgeconv

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _value(name: str, kind: int = _FLOAT, shape: Any = (2, 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _body(nodes: list[onnx.NodeProto], outputs: list[str], condition: str = "again") -> onnx.GraphProto:
    """One run: `run` and `again` come in, and `a`; `half` is stored inside."""
    inputs = [_value("run", _INT, ()), _value("again", _BOOL, ()), _value("a")]
    results = [_value(condition, _BOOL, ()), *(_value(name, shape=None) for name in outputs)]
    stored = [numpy_helper.from_array(np.float32(0.5), "half")]
    return helper.make_graph(nodes, "body", inputs, results, stored)


_NODES = [
    helper.make_node("Cast", ["run"], ["turn"], to=_FLOAT),
    helper.make_node("Add", ["a", "turn"], ["b0"]),
    helper.make_node("Mul", ["b0", "half"], ["b1"]),
    helper.make_node("Add", ["b1", "x"], ["b"]),
]
_STOP = helper.make_node("Constant", [], ["stop"], value=numpy_helper.from_array(np.array(False)))
_INNER = helper.make_graph(
    [helper.make_node("Sub", ["d", "a"], ["e"]), helper.make_node("Identity", ["more"], ["further"])],
    "inner",
    [_value("at", _INT, ()), _value("more", _BOOL, ()), _value("d")],
    [_value("further", _BOOL, ()), _value("e")],
)


def _loops() -> dict[str, tuple[list[str], onnx.GraphProto, list[str]]]:
    """By name: the inputs of the Loop, its body and its outputs."""
    nested = [*_NODES, helper.make_node("Loop", ["two", "", "b"], ["c"], body=_INNER)]
    return {
        "count": (["n", "", "x"], _body(_NODES, ["b"]), ["y"]),
        "condition": (["n", "true", "x"], _body(_NODES, ["b"]), ["y"]),
        "collected": (["n", "", "x"], _body(_NODES, ["b", "b1"]), ["last", "y"]),
        "stops": (["n", "", "x"], _body([*_NODES, _STOP], ["b"], "stop"), ["y"]),
        "never": (["n", "false", "x"], _body(_NODES, ["b"]), ["y"]),
        "unchanged": (["n", "", "x"], _body(_NODES, ["a", "b"]), ["last", "y"]),
        "nested": (["n", "", "x"], _body(nested, ["c"]), ["y"]),
    }


@pytest.mark.parametrize("case", _loops())
def test_a_loop_of_a_constant_count_is_its_runs(case: str, tmp_path: Path) -> None:
    operands, body, results = _loops()[case]
    nodes = [helper.make_node("Loop", operands, results, name="loop", body=body)]
    nodes.append(helper.make_node("Neg", ["y"], ["z"]))
    constants = {"n": np.array(4), "true": np.array(True), "false": np.array(False), "two": np.array(2)}
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "loops", [_value("x")], [_value("z", shape=None)], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "l.onnx")
    (expected,) = onnxruntime.InferenceSession(tmp_path / "l.onnx").run(None, {"x": X})
    for artifact in edgeconv.export_onnx(tmp_path / "l.onnx", tmp_path / "out", name="l").artifacts:
        np.testing.assert_allclose(computed(artifact, torch.from_numpy(X)), expected, rtol=1e-5, atol=1e-6)
