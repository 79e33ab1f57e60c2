"""Masks of zeros and ones that are outputs: integers, where the files' outputs are to be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core.affine import asymmetric, symmetric
from edgeconv.graph.constants import new_constant
from edgeconv.graph.edit import hand_on
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._plan import RANGES


def round_masks(model: ir.Model, dtype: str) -> ir.Model:
    """Rounds outputs that are booleans as floats, which costs nothing: zero and one are both ends of the integers.

    A comparison stays float (`edgeconv.graph.integer_rules.FLOAT`), and so would a mask that it makes, among outputs of
    integers.

    Args:
        model: with the plan's QuantizeLinear nodes; not changed.
        dtype: ``"int8"`` or ``"int16"``, of its activations.

    Returns:
        A new model, or the same one where no output is a mask.
    """
    if not any(_is_mask(value) for value in model.graph.outputs):
        return model
    model = model.clone()
    graph = model.graph
    span = (float(symmetric(1.0, RANGES[dtype][1])), 0) if dtype == "int16" else asymmetric(0.0, 1.0, dtype)
    for index, value in enumerate(list(graph.outputs)):
        node = value.producer()
        if node is None or not _is_mask(value):
            continue
        name = value.name or "mask"
        parameters = [
            new_constant(graph, f"{name}.{what}", array)
            for what, array in (("scale", np.array(span[0], np.float32)), ("zero_point", np.array(span[1], dtype)))
        ]
        kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        integers = ir.Value(name=unique_name(graph, f"{name}.quantized"), type=kind, shape=value.shape)
        # The output keeps its name, and so its place in every report; the float mask before it gets another one.
        real = ir.Value(name=name, type=value.type, shape=value.shape)
        real.metadata_props.update(value.metadata_props)
        value.name = unique_name(graph, f"{name}.float")
        pair = [
            ir.Node("", "QuantizeLinear", [value, *parameters], outputs=[integers]),
            ir.Node("", "DequantizeLinear", [integers, *parameters], outputs=[real]),
        ]
        for added in pair:
            hand_on(node, added)
        graph.outputs[index] = real
        graph.insert_after(node, pair)
    return model


def _is_mask(value: ir.Value) -> bool:
    """Whether a value of floats is booleans, cast and moved."""
    node = value.producer()
    # A mask may be reshaped or sliced behind its Cast; the numbers stay 0 and 1.
    while node is not None and node.op_type in having(Trait.MOVES) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Cast" or value.dtype != ir.DataType.FLOAT or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype == ir.DataType.BOOL
