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
from edgeconv.graph.edit import constant, only_reader, producer_of, tensor_of
from edgeconv.graph.replace import drop


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
        back = ir.node("DequantizeLinear", [integers, scales, zeros], {"axis": axis} if scale.ndim else {})
        old, new = node.outputs[0], back.outputs[0]
        new.type, new.shape = old.type, old.shape
        graph.insert_before(node, back)
        old.name, factor = None, node.inputs[1]
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove([node, cast], safe=True)
        if factor is not None:
            drop(factor)
        new.name = back.name = name


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
