"""Pairs of QuantizeLinear and DequantizeLinear, which round to multiples of a scale: finds and repeats them."""

from __future__ import annotations

from collections.abc import Set

import onnx_ir as ir

from edgeconv.graph.constants import exact
from edgeconv.graph.edit import constant, graph_of, hand_on, is_taken, producer_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having

PICKS = frozenset({"GlobalMaxPool", "MaxPool", "Pad", "Relu"})
"""Operators whose result has only elements of the operand, or zeros: multiples of the operand's scale."""


def pair_before(node: ir.Node, kinds: Set[str] = PICKS | having(Trait.MOVES)) -> tuple[ir.Node, ir.Node] | None:
    """The pair before an operator, if its result could be quantized by the same parameters and is not yet.

    Args:
        node: any node.
        kinds: operators for whose result the operand's parameters are right.

    Returns:
        The QuantizeLinear and the DequantizeLinear; None if there are none, or the result needs none.
    """
    if node.domain != "" or node.op_type not in kinds or not node.inputs:
        return None
    result, others = node.outputs[0], [value for value in node.inputs[1:] if value is not None]
    is_tensor = isinstance(result.type, ir.TensorType) and result.dtype == ir.DataType.FLOAT  # and no sequence of them
    if any(map(is_taken, node.outputs[1:])) or not is_taken(result) or not is_tensor:
        return None
    # A Pad by another number than zero may leave the multiples of the scale.
    keeps = node.op_type in PICKS | having(Trait.MOVES)
    if keeps and any(v.dtype is None or (v.dtype.is_floating_point() and not _is_zero(v)) for v in others):
        return None
    # Already quantized: a second pair would round it twice.
    if any(use.node.op_type == "QuantizeLinear" for use in result.uses()):
        return None
    dequantize = producer_of(node.inputs[0])
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return None
    quantize = dequantize.inputs[0].producer()
    # One scale for the whole tensor: those of an axis would have to move with it.
    scale = exact(dequantize.inputs[1])
    if quantize is None or quantize.op_type != "QuantizeLinear" or scale is None or scale.size != 1:
        return None
    parameters = _parameters(dequantize)
    return (quantize, dequantize) if parameters is not None and _parameters(quantize) == parameters else None


def _parameters(node: ir.Node) -> list[list[float]] | None:
    """Scale and zero point as numbers, 0 for one that is left out; None if one is computed."""
    arrays = [constant(value) for value in node.inputs[1:3] if value is not None]
    numbers = [array.reshape(-1).tolist() for array in arrays if array is not None]
    return numbers + [[0]] * (2 - len(numbers)) if len(numbers) == len(arrays) else None


def _is_zero(value: ir.Value) -> bool:
    number = exact(value)
    return number is not None and not number.any()


def repeat(node: ir.Node, quantize: ir.Node, dequantize: ir.Node) -> None:
    """Inserts copies of the pair behind a node; their result takes over the node's name and readers."""
    graph, result = graph_of(node), node.outputs[0]
    name = result.name or "value"
    integers = ir.Value(name=unique_name(graph, f"{name}.quantized"), type=quantize.outputs[0].type, shape=result.shape)
    real = ir.Value(name=name, type=result.type, shape=result.shape)
    real.metadata_props.update(result.metadata_props)
    result.metadata_props.clear()
    ir.convenience.replace_all_uses_with(result, real, replace_graph_outputs=True)
    result.name = unique_name(graph, f"{name}.float")
    pair = [
        ir.Node("", old.op_type, [source, *old.inputs[1:]], list(old.attributes.values()), outputs=[target])
        for old, source, target in ((quantize, result, integers), (dequantize, integers, real))
    ]
    for new in pair:
        hand_on(node, new)
    graph.insert_after(node, pair)
