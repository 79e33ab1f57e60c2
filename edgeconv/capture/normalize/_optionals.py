"""Optional values that are known to be there, or not to be, are the tensors in them.

1. OptionalGetElement of what Optional makes is Optional's own input; of a tensor (opset 18) it is that tensor.
2. OptionalHasElement of either is true; without an input, or of an Optional of nothing, it is false.

Optional inputs of a file are refused before (`onnx_file/_read`). Source: the operators' pages of the ONNX
specification.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import input_of, producer_of
from edgeconv.graph.steps import Steps


def settle_optionals(graph: ir.Graph) -> None:
    """Replaces these operators, in place; an Optional that nobody reads any more is removed as unused."""
    for node in list(graph):
        if node.domain != "" or node.op_type not in ("OptionalGetElement", "OptionalHasElement"):
            continue
        element = _element(input_of(node, 0))
        if node.op_type == "OptionalHasElement":
            steps = Steps(graph, node)
            steps.replace({node.outputs[0]: steps.constant(np.array(element is not None), "has_element")})
        elif element is not None:
            same = ir.node("Identity", [element])
            steps = Steps(graph, node)
            steps.insert(same)
            same.outputs[0].type, same.outputs[0].shape = element.type, element.shape
            steps.name(same.outputs[0], "element")
            steps.replace({node.outputs[0]: same.outputs[0]})


def _element(value: ir.Value | None) -> ir.Value | None:
    """The tensor in an optional value; None where there is none."""
    producer = producer_of(value)
    if producer is not None and producer.op_type == "Optional" and producer.domain == "":
        return input_of(producer, 0)
    return value
