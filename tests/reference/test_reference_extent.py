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


def test_rows_that_places_name_are_gathered() -> None:
    """Places hold several indices each, which are no elements of the result: 2 thousand million were told."""
    data, places = np.zeros((1, 256, 256), np.float32), np.zeros((40_000, 3), np.int64)
    assert gathered("GatherND", data, places).shape == (40_000,)


def test_elements_are_gathered_as_many_as_indices() -> None:
    data, indices = np.zeros((1, 40_000), np.float32), np.zeros((1, 40_000, 1), np.int64)
    assert gathered("GatherElements", data[..., None], indices).shape == (1, 40_000, 1)


def gathered(operator: str, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    constants = [ir.Value(name=name, const_value=ir.tensor(array)) for name, array in (("x", data), ("i", indices))]
    node = ir.node(operator, constants)
    node.outputs[0].name = "y"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=constants, opset_imports={"": 18})
    return evaluate(ir.Model(graph, ir_version=10), {}, keep=["y"])["y"]
