"""Keeps onnxruntime from rounding otherwise than the graph does, by a LeakyRelu of slope 1, which computes nothing.

1. Two pairs in a row, to unlike steps: its DoubleQDQPairsRemover makes one of them, and a quarter of the numbers is a
   step off (3x3 convolution, steps of 0.0258 and 0.0141). With a LeakyRelu between they become one table of integers:
   0.21 ms become 0.27 ms (64x64x8, onnxruntime 1.32, one thread, AVX-512 VNNI).
2. A Softmax to other steps than 1/256: of QLinearSoftmax 3 to 23 % are a step off (30 and 4 classes), and none with
   that scale. Behind a LeakyRelu it stays of floats.
3. What is to stay of floats, between two roundings: it becomes one operator of integers with them otherwise.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import KEEP_FLOAT, constant, hand_on, producer_of
from edgeconv.graph.integer_rules import FIXED
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having_any

_THROUGH = having_any((Trait.MOVES, Trait.CLAMPS))


def keep_rounding(graph: ir.Graph) -> None:
    """Puts a LeakyRelu of slope 1 in front of each QuantizeLinear that onnxruntime would merge into something else."""
    for node in tuple(graph):
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        before = producer_of(source)
        if source is None or before is None or not _is_merged(before, node):
            continue
        result = ir.Value(name=unique_name(graph, f"{source.name}.kept"), type=source.type, shape=source.shape)
        between = ir.Node("", "LeakyRelu", [source], [ir.AttrFloat32("alpha", 1.0)], outputs=[result])
        hand_on(node, between)
        graph.insert_before(node, between)
        node.replace_input_with(0, result)


def _is_merged(before: ir.Node, quantize: ir.Node) -> bool:
    scale = constant(quantize.inputs[1])
    if scale is None or scale.size != 1:
        return False
    if _stays_float(before):
        return True
    if before.op_type == "Softmax":
        return float(scale.reshape(())) != FIXED["Softmax"].scale
    other = constant(before.inputs[1]) if before.op_type == "DequantizeLinear" else None
    return other is not None and other.tolist() != scale.tolist()


def _stays_float(node: ir.Node) -> bool:
    """Whether an operator is to be computed in floats, or what it clamps or moves (which rounding may go ahead of)."""
    if node.metadata_props.get(KEEP_FLOAT):
        return True
    before = producer_of(node.inputs[0]) if node.op_type in _THROUGH else None
    return before is not None and _stays_float(before)
