"""Exponents behind DequantizeLinear: the float32 numbers that a runtime reads.

A power is no continuous function of its exponent where the base is negative: it is a number for 3, and none for
3.00000004, which 255 times the float32 that is nearest to 3 / 255 is in exact arithmetic. DequantizeLinear's result is
a float32 by the specification, and that is 3.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core.affine import dequantized
from edgeconv.graph.constants import add_constant
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.names import unique_name

_EXPONENT = 1  # which operand of Pow it is


def settle_exponents(graph: ir.Graph) -> None:
    """Puts a float32 constant in place of each exponent that DequantizeLinear makes of a constant by one scale.

    Args:
        graph: changed in place.
    """
    for node in list(graph):
        exponent = input_of(node, _EXPONENT) if node.op_type == "Pow" else None
        maker = exponent.producer() if exponent is not None else None
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        integers, scale = constant(maker.inputs[0]), constant(maker.inputs[1])
        zero = input_of(maker, 2)
        point = np.zeros((), np.int64) if zero is None else constant(zero)
        if integers is None or scale is None or point is None or scale.dtype != np.float32 or scale.size != 1:
            continue
        real = dequantized(integers, scale.reshape(()), point.reshape(()), np.float32)
        name = unique_name(graph, f"{maker.outputs[0].name}.real")
        node.replace_input_with(_EXPONENT, add_constant(graph, name, real, ir.DataType.FLOAT))
        if not maker.outputs[0].uses() and not maker.outputs[0].is_graph_output():
            graph.remove(maker, safe=True)
