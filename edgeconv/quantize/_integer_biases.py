"""Biases as integer kernels have them: whole numbers of the input's step times the weight's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import exact
from edgeconv.graph.edit import KEEP_FLOAT, input_of, producer_of
from edgeconv.graph.replace import replace_constant

_BIAS = 2  # operand of a layer
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def with_integer_biases(model: ir.Model) -> ir.Model:
    """A copy of a graph whose layers of integers add biases of 32 bits, as both formats' kernels do.

    Layers that stay float, or whose operands are not both rounded, keep theirs.
    """
    model = model.clone()
    for node in tuple(model.graph):
        if node.op_type not in _LAYERS or node.metadata_props.get(KEEP_FLOAT):
            continue
        operand = input_of(node, _BIAS)
        bias = exact(operand)
        step = None if bias is None else _step(node, bias.size)
        if operand is not None and bias is not None and step is not None:
            name = operand.name or "bias"
            rounded = (np.rint(bias.reshape(-1) / step) * step).reshape(bias.shape)
            replace_constant(node, _BIAS, rounded, ir.DataType.FLOAT, name)
    return model


def _step(node: ir.Node, channels: int) -> npt.NDArray[np.float64] | None:
    """One unit of a layer's sums, by channel; None where it has none."""
    scales = []
    for operand in (input_of(node, 0), input_of(node, 1)):
        producer = producer_of(operand)
        is_rounded = producer is not None and producer.op_type == "DequantizeLinear"
        scale = exact(input_of(producer, 1)) if producer is not None and is_rounded else None
        if scale is None or scale.size not in (1, channels) or not (scale > 0).all():
            return None
        scales.append(scale.reshape(-1))
    factors = {node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}  # of Gemm
    return scales[0] * scales[1] if scales[0].size == 1 and factors == {1.0} else None
