"""Scales of a Resize that stand for a quotient of two sizes, which float32 does not hold: 0.6, a third."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import tensor_of

_UNITS = 2  # of float32: a quotient is rounded once, and may be moved by a unit so that it gives the size
_SCALES = 2  # the place of scales among the operands


def exact_ratios(model: ir.Model) -> dict[str, Array]:
    """By constants that scales of a Resize are: the quotients of the sizes, float64, where these are what is meant.

    A format without scales has the sizes. Positions between two elements follow from the quotient, and where one is
    the place of an element both sides of it count: no slope of one side tells what its rounding makes of the result.
    """
    ratios: dict[str, Array] = {}
    for node in model.graph:
        value = node.inputs[_SCALES] if node.op_type == "Resize" and len(node.inputs) > _SCALES else None
        stored = tensor_of(value)
        if value is None or stored is None or not stored.size:
            continue
        scales, (before, after) = stored.numpy(), (node.inputs[0], node.outputs[0])
        axes = node.attributes.get_ints("axes", range(len(scales)))
        exact = [
            _ratio(scale, _size(before, axis), _size(after, axis)) for scale, axis in zip(scales, axes, strict=True)
        ]
        if not np.array_equal(exact, scales.astype(np.float64)):
            ratios[value.name or ""] = np.array(exact)
    return ratios


def _size(value: ir.Value | None, axis: int) -> int:
    """Of an axis; 0 where it is not known."""
    size = value.shape[axis] if value is not None and value.shape is not None else 0
    return size if isinstance(size, int) else 0


def _ratio(scale: np.float32, before: int, after: int) -> float:
    if not before or not after or abs(after / before - float(scale)) > _UNITS * float(np.spacing(scale)):
        return float(scale)
    ratio = after / before
    while math.floor(before * ratio) < after:
        ratio = math.nextafter(ratio, math.inf)
    return ratio
