"""Attributes that a file leaves out are float32 numbers, as those that it states."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError

_ROUNDED_SIXTH = float(np.float32(1 / 6))


def state_defaults(graph: ir.Graph) -> None:
    """States the defaults that no short decimal number is, in subgraphs too; and 1/6, where a file holds it rounded.

    The specification's files (onnx/defs) hold defaults in float32: a LeakyRelu without ``alpha`` multiplies by
    0.009999999776…, as one that states 0.01 does, since a file has no wider number. Later stages read what is not
    stated as the decimal, in float64, and would find each written file a little off.
    """
    opset = graph.opset_imports.get("", 1)
    for node in graph.all_nodes():
        if node.op_type == "HardSigmoid" and node.attributes.get_float("alpha", 0.2) == _ROUNDED_SIXTH:
            # Of a HardSwish that is written out, whose slope is 1/6 by definition: no file can hold it.
            node.attributes.add(ir.AttrFloat32("alpha", 1 / 6))
        for name, number in _defaults(node.op_type, node.version or opset) if node.domain == "" else ():
            if name not in node.attributes:
                node.attributes.add(ir.AttrFloat32(name, number))


@cache
def _defaults(operator: str, opset: int) -> tuple[tuple[str, float], ...]:
    """Of the attributes of an operator that have a default in float32 which differs from its own shortest decimal."""
    try:
        schema = onnx.defs.get_schema(operator, opset)
    except SchemaError:  # no operator of the standard: said elsewhere
        return ()
    return tuple(_inexact(schema))


def _inexact(schema: OpSchema) -> Iterator[tuple[str, float]]:
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        if default.type == onnx.AttributeProto.FLOAT and float(str(np.float32(default.f))) != default.f:
            yield name, default.f
