"""Checks operands that must be a single number by the specification, which onnx's inference does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused

_SCALARS: Mapping[str, Mapping[int, str]] = {
    "Clip": {1: "min", 2: "max"},
    "CumProd": {1: "axis"},
    "CumSum": {1: "axis"},
    "Dropout": {1: "ratio", 2: "training_mode"},
    "OneHot": {1: "depth"},
    "Pad": {2: "constant_value"},
    "Range": {0: "start", 1: "limit", 2: "delta"},
    "TopK": {1: "k"},
    "Trilu": {1: "k"},
}


def check_scalars(graph: ir.Graph) -> None:
    """Checks that each such operand has one element, of whatever rank, as far as its shape is known.

    Raises:
        CaptureError: one has more, or none; names the node.
    """
    for node in graph:
        for index, name in _SCALARS.get(node.op_type, {}).items() if node.domain == "" else ():
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or value.shape is None or not value.shape.is_static():
                continue
            if math.prod(value.shape.numpy()) != 1:
                shape = list(value.shape)
                what = f"{node.op_type} takes one number as its {name}, and has a tensor of the shape {shape}"
                raise refused(node, what, "give one number")
