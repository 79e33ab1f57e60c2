"""FLOAT attributes: the float32 numbers that an `.onnx` file holds, and what they are before it rounds them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def rounded_attributes(model: ir.Model) -> tuple[ir.Model, dict[str, list[ir.Attr]]]:
    """A copy of a graph whose FLOAT attributes are the float32 numbers that files hold.

    Returns:
        The copy, and by the name of their node's first result the attributes that were other numbers.
    """
    model = model.clone()
    exact: dict[str, list[ir.Attr]] = {}
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            rounded = _rounded(name, attribute)
            if rounded is not None and rounded.value != attribute.value:
                exact.setdefault(node.outputs[0].name or "", []).append(attribute)
                node.attributes[name] = rounded
    return model, exact


def _rounded(name: str, attribute: ir.Attr) -> ir.Attr | None:
    """A FLOAT attribute as float32; None of another type."""
    if attribute.type == ir.AttributeType.FLOAT:
        return ir.AttrFloat32(name, float(np.float32(attribute.as_float())))
    if attribute.type == ir.AttributeType.FLOATS:
        return ir.AttrFloat32s(name, [float(np.float32(number)) for number in attribute.as_floats()])
    return None
