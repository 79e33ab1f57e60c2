"""The walk over the file's operators."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeconv.errors import EmitError
from edgeconv.reference.tflite._graph import TfliteGraph
from edgeconv.reference.tflite.as_onnx import _elementwise, _shape, _sums
from edgeconv.reference.tflite.as_onnx._site import Builder, Rule, Site

RULES: Mapping[str, Rule] = {**_elementwise.RULES, **_shape.RULES, **_sums.RULES}


def to_onnx(file: TfliteGraph) -> ir.Model:
    """A file's graph in ONNX, opset 21: its names, its layout, its integers between Quantize- and DequantizeLinear.

    Args:
        file: of `edgeconv.reference.tflite.read`.

    Raises:
        EmitError: operators have no form here, and are named; or one has options or operands that ONNX has not.
    """
    unknown = sorted({operator.name for operator in file.operators if operator.name not in RULES})
    if unknown:
        hint = "nothing else shows what such a file computes than running it"
        raise EmitError(f"{', '.join(unknown)} cannot be written in ONNX", hint=hint)
    halves = [
        tensor.name
        for operator in file.operators
        for tensor in (file.tensors[index] for index in operator.outputs)
        if tensor.floating and tensor.dtype != "float32"
    ]
    if halves:
        raise EmitError("it computes in half precision", where=halves[0], hint="give the float32 file")
    builder = Builder(file)
    for operator in file.operators:
        RULES[operator.name](Site.of(builder, operator))
    model = builder.model()
    RemoveUnusedNodesPass()(model)
    return model
