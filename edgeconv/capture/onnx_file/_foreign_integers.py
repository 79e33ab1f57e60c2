"""Files of quantized operators (QLinearConv, QLinearAdd, QGemm, …), read as the same numbers in QDQ.

1. A quantized operator dequantizes, computes in real numbers and quantizes: three nodes take its place, so that both
   formats carry its scales. onnxruntime writes them (``quantize_static(quant_format=QuantFormat.QOperator)``).
2. onnxruntime's own QuantizeLinear and DequantizeLinear (``UseQDQContribOps``) are the specification's, which has those
   of 16 and 4 bits from opset 21 on.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from edgeconv.graph.quantized_operators import DOMAIN, OF_THE_SPECIFICATION, SPELLED, spell_out

_YOUNG = frozenset(
    getattr(onnx.TensorProto, name) for name in ("INT16", "UINT16", "INT4", "UINT4") if hasattr(onnx.TensorProto, name)
)
_SINCE = 21  # since which opset QuantizeLinear and DequantizeLinear have these types


def is_spelled(node: onnx.NodeProto) -> bool:
    """Whether `spelled` knows the node's operator."""
    return node.op_type in (SPELLED if node.domain == DOMAIN else OF_THE_SPECIFICATION)


def least_opset(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> int:
    """The opset that the file needs once these nodes are the specification's."""
    read = {name for node in nodes if node.domain == DOMAIN for name in node.input}
    young = any(tensor.data_type in _YOUNG and tensor.name in read for tensor in proto.graph.initializer)
    return _SINCE if young else 0


def spelled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with Q and DQ around operators of real numbers; what has parameters that are computed stays."""
    model = ir.from_proto(proto)
    spell_out(model, all_of_them=True, products=ir.DataType.FLOAT)
    return ir.to_proto(model)
