"""How large a result gets is told before it is computed, and not larger than it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.reference import evaluate


def test_weights_of_a_wide_classifier_are_dequantized() -> None:
    """Scales lie along one axis: they are no operand that broadcasts from the last one, to 1.3 thousand million."""
    weight, scale = np.ones((1000, 1280, 1, 1), np.int8), np.full(1000, 0.5, np.float32)
    constants = [ir.Value(name=name, const_value=ir.tensor(array)) for name, array in (("w", weight), ("s", scale))]
    node = ir.node("DequantizeLinear", constants, {"axis": 0})
    node.outputs[0].name = "y"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=constants, opset_imports={"": 18})
    values = evaluate(ir.Model(graph, ir_version=10), {}, keep=["y"])
    assert values["y"].shape == weight.shape
    assert float(values["y"].max()) == 0.5
