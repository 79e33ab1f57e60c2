"""Functions of one number that have no int8 kernel: in a quantized graph they are looked up.

Which ones says `edgeconv.graph.integer_rules.LOOKED_UP`, by which the plan is made, too.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite.integer._rules import TABLE
from edgeconv.emit.tflite.lower._lowering import Lowering
from edgeconv.emit.tflite.lower._operators.activation import read
from edgeconv.graph.edit import KEEP_FLOAT


def is_known(low: Lowering, node: ir.Node) -> bool:
    """Whether both sides are int8 by the plan, and the function is not to stay float between them."""
    if node.metadata_props.get(KEEP_FLOAT):
        return False
    sides = [
        low.activations.get((value.name if value is not None else "") or "")
        for value in (node.inputs[0], node.outputs[0])
    ]
    return all(side is not None and side.dtype == "int8" for side in sides)


def look_up(low: Lowering, node: ir.Node) -> None:
    """Writes a placeholder, which becomes an int8 look-up (GATHER) once the scales of both sides are known."""
    x, form = read(low, node)
    result = low.emit(TABLE, [x], x.shape, function=lambda array: _images(node, array), operator=node.op_type)
    low.bind(node.outputs[0], form, result)


def _images(node: ir.Node, array: Array) -> Array:
    from onnx.reference import ReferenceEvaluator

    single = ir.node(node.op_type, [ir.val("x")], version=node.version)
    single.attributes.update(node.attributes)
    single.outputs[0].name = "y"
    with np.errstate(all="ignore"):
        outputs = ReferenceEvaluator(ir.to_proto(single)).run(None, {"x": array})
        return np.asarray(next(iter(outputs)))
