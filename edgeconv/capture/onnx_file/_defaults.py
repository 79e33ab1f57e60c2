"""Default attributes as the float32 numbers that files hold: LeakyRelu's alpha is not 0.01 but the float32 nearest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError

_ROUNDED_SIXTH = float(np.float32(1 / 6))


def state_defaults(graph: ir.Graph) -> None:
    """Adds default attributes that float32 does not hold exactly, in subgraphs too; makes a rounded 1/6 exact.

    Attributes are float32: a LeakyRelu without ``alpha`` multiplies by 0.009999999776…, as one that states 0.01 does
    (onnx/defs keeps its defaults in float32, too). Later stages would read a missing attribute as the decimal 0.01 in
    float64, and measure a small difference in every written file.
    """
    opset = graph.opset_imports.get("", 1)
    for node in graph.all_nodes():
        if node.op_type == "HardSigmoid" and node.attributes.get_float("alpha", 0.2) == _ROUNDED_SIXTH:
            # The function body of HardSwish, whose slope is 1/6 by definition, which no float32 is.
            node.attributes.add(ir.AttrFloat32("alpha", 1 / 6))
        for name, number in _defaults(node.op_type, node.version or opset) if node.domain == "" else ():
            if name not in node.attributes:
                node.attributes.add(ir.AttrFloat32(name, number))


@cache
def _defaults(operator: str, opset: int) -> tuple[tuple[str, float], ...]:
    """The float attributes of an operator whose default differs from its shortest decimal, with the float32 value."""
    try:
        schema = onnx.defs.get_schema(operator, opset)
    except SchemaError:  # no standard operator: `_file` reports it
        return ()
    return tuple(_inexact(schema))


def _inexact(schema: OpSchema) -> Iterator[tuple[str, float]]:
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        if default.type == onnx.AttributeProto.FLOAT and float(str(np.float32(default.f))) != default.f:
            yield name, default.f
