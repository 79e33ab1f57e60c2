"""What rounding to float32 makes of a graph, told in float64."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import helper, numpy_helper

from edgeconv.parity.rewriting import moved
from edgeconv.reference import evaluate


def test_an_exponent_is_not_moved_to_where_a_power_has_no_value() -> None:
    """LayerNorm as files spell it out: (x - mean)² by Pow, of which a negative number has no power of 2.0000001."""
    opset = helper.make_opsetid("", 18)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centered"]),
        helper.make_node("Pow", ["centered", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], keepdims=1),
        helper.make_node("Mul", ["variance", "third"], ["y"]),
    ]
    constants = {"two": np.float32(2), "third": np.float32(1 / 3)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 64])],
        [helper.make_tensor_value_info("y", 1, [1, 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[opset], ir_version=9))
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    exact = evaluate(model, {"x": x}, keep=["y"])["y"]
    draws = [moved(model, {"x": x}, seed=seed)["y"] for seed in range(4)]
    errors = [abs(float(draw.item() / exact.item()) - 1) for draw in draws]
    assert all(0 < error < 1e-6 for error in errors), "the third, which is no short number, is moved"
