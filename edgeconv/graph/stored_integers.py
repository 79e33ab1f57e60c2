"""Constants that are stored as int8 and a scale, for operators that compute with floats: two forms, and the way back.

``Mul(Cast(integers), scale)`` is what DequantizeLinear computes of a zero point 0, bit for bit: float32 holds every
int8, and either rounds one product. ONNX Runtime evaluates the one when a file is loaded and leaves the other in the
graph, where every run computes it again.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import new_constant
from edgeconv.graph.edit import constant, input_of, only_reader, producer_of, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import drop, insert_like, take_over


def dequantize_stored(graph: ir.Graph) -> None:
    """Replaces each ``Mul(Cast(integers), scale)`` of int8 constants by a DequantizeLinear of its name, in place."""
    for node in list(graph):
        found = _product(node) if node.op_type == "Mul" and node.domain == "" else None
        if found is None:
            continue
        cast, integers, scale, axis = found
        name = node.outputs[0].name or ""
        scales = new_constant(graph, f"{name}.scale", scale)
        zeros = new_constant(graph, f"{name}.zero_point", np.zeros(scale.shape, np.int8))
        attributes = [ir.AttrInt64("axis", axis)] if scale.ndim else []
        new, factor = unique_name(graph, f"{name}.dequantized"), node.inputs[1]
        take_over(node.outputs[0], insert_like(node, "DequantizeLinear", [integers, scales, zeros], attributes, new))
        graph.remove(cast, safe=True)
        if factor is not None:
            drop(factor)


def own_stored(node: ir.Node, index: int) -> ir.Node | None:
    """The DequantizeLinear of constant integers about 0 that a node alone reads, as its input ``index``; or None."""
    value = input_of(node, index)
    maker = producer_of(value)
    if value is None or maker is None or maker.op_type != "DequantizeLinear" or only_reader(value) is not node:
        return None
    arrays = [constant(stored) for stored in maker.inputs]
    is_about_zero = all(array is not None and not array.any() for array in arrays[2:])
    return maker if is_about_zero and all(array is not None for array in arrays) else None


def _product(node: ir.Node) -> tuple[ir.Node, ir.Value, Array, int] | None:
    """The Cast, the integers, the scales, () or (channels,), and the axis that these lie along."""
    cast, scale = producer_of(node.inputs[0]), constant(node.inputs[1])
    if cast is None or cast.op_type != "Cast" or cast.domain != "" or scale is None or scale.dtype != np.float32:
        return None
    integers = cast.inputs[0]
    tensor = tensor_of(integers)
    if (
        integers is None
        or tensor is None
        or tensor.dtype != ir.DataType.INT8
        or only_reader(cast.outputs[0]) is not node
    ):
        return None
    if cast.attributes.get_int("to", 0) != ir.DataType.FLOAT:
        return None
    if scale.size == 1:
        return cast, integers, scale.reshape(()), 0
    along = [axis for axis, size in enumerate(scale.shape) if size > 1]
    sizes = tensor.shape.numpy()
    if scale.ndim != len(sizes) or len(along) != 1 or scale.shape[along[0]] != sizes[along[0]]:
        return None
    return cast, integers, scale.reshape(-1), along[0]
