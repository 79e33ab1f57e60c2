"""Functions of one number that have no int8 kernel: in a quantized graph they are looked up.

Which ones says `edgeconv.graph.integer_rules.LOOKED_UP`, by which the plan is made, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Operator, Tensor
from edgeconv.emit.tflite.integer._rules import TABLE
from edgeconv.emit.tflite.lower._lowering import Lowering
from edgeconv.emit.tflite.lower._operators.activation import in_best_form, mish, read, softsign
from edgeconv.emit.tflite.lower._operators.functions import exponential_numbers, nearly_erf, sinh
from edgeconv.graph.edit import KEEP_FLOAT
from edgeconv.graph.thresholds import Threshold


def is_known(low: Lowering, node: ir.Node) -> bool:
    """Whether both sides are int8 by the plan, and the function is not to stay float between them."""
    return not node.metadata_props.get(KEEP_FLOAT) and all(
        _is_int8(low, value) for value in (node.inputs[0], node.outputs[0])
    )


def is_of_integers(low: Lowering, node: ir.Node, threshold: Threshold) -> bool:
    """The same of a threshold that ends in this node; not where the plan rounds the magnitude that is compared."""
    if node.metadata_props.get(KEEP_FLOAT) or not (_is_int8(low, threshold.x) and _is_int8(low, node.outputs[0])):
        return False
    return threshold.magnitude is None or (threshold.magnitude.name or "") not in low.activations


def _is_int8(low: Lowering, value: ir.Value | None) -> bool:
    steps = low.activations.get((value.name if value is not None else "") or "")
    return steps is not None and steps.dtype == "int8"


def look_up(low: Lowering, node: ir.Node) -> None:
    """Writes a placeholder, which becomes an int8 look-up (GATHER) once the scales of both sides are known."""
    x, form = read(low, node)
    result = low.emit(
        TABLE,
        [x],
        x.shape,
        function=lambda array: _images(node, array),
        operator=node.op_type,
        numbers=_NUMBERS[node.op_type](node) if node.op_type in _NUMBERS else {},
        floats=_in_floats(low, x, _IN_FLOATS[node.op_type]) if node.op_type in _IN_FLOATS else [],
    )
    low.bind(node.outputs[0], form, result)


def threshold_of_integers(low: Lowering, threshold: Threshold, result: ir.Value) -> None:
    """The same for a threshold."""
    x, form = in_best_form(low, threshold.x)
    limit, value = np.float32(threshold.limit), np.float32(threshold.value)

    def images(array: Array) -> Array:
        compared = array if threshold.magnitude is None else np.abs(array)
        return np.where(compared > limit, array, value)

    numbers = {"alpha": float(limit), "value": float(value), "of_magnitude": float(threshold.magnitude is not None)}
    table = low.emit(TABLE, [x], x.shape, function=images, operator="Threshold", numbers=numbers, floats=[])
    low.bind(result, form, table)


def _in_floats(low: Lowering, x: Tensor, write: Callable[[Lowering, Tensor], Tensor]) -> list[Operator]:
    """The operators on floats that compute a function of x, taken out of the graph again."""
    operators = low.graph.operators
    before = len(operators)
    write(low, x)
    low.graph.operators, written = operators[:before], operators[before:]
    return written


_IN_FLOATS: Mapping[str, Callable[[Lowering, Tensor], Tensor]] = {
    "Erf": nearly_erf,
    "Mish": mish,
    "Sinh": sinh,
    "Softsign": softsign,
}
"""Those that are no chains, and that XNNPACK computes faster in floats than a GATHER looks them up."""


def _of_shrink(node: ir.Node) -> dict[str, float]:
    return {name: node.attributes.get_float(name, default) for name, default in (("lambd", 0.5), ("bias", 0.0))}


def _of_threshold(node: ir.Node) -> dict[str, float]:
    return {"alpha": node.attributes.get_float("alpha", 1.0)}


_NUMBERS: Mapping[str, Callable[[ir.Node], dict[str, float]]] = {
    **dict.fromkeys(("Celu", "Elu", "Selu"), exponential_numbers),
    "Shrink": _of_shrink,
    "ThresholdedRelu": _of_threshold,
}
"""Attributes by which a function has one form or another."""


def _images(node: ir.Node, array: Array) -> Array:
    from onnx.reference import ReferenceEvaluator

    single = ir.node(node.op_type, [ir.val("x")], version=node.version)
    single.attributes.update(node.attributes)
    single.outputs[0].name = "y"
    with np.errstate(all="ignore"):
        outputs = ReferenceEvaluator(ir.to_proto(single)).run(None, {"x": array})
        return np.asarray(next(iter(outputs)))
