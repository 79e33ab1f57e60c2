"""Where a trained module cuts off at fewer integers than its type has, and the biases that its layers add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core.affine import limits_of
from edgeconv.graph.constants import clip_bounds
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.integer_rules import LAYERS
from edgeconv.graph.pairs import PICKS
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.quantizing._alongside import numbers_of
from edgeconv.parity.quantizing._place import Place

_ALL = (-np.inf, np.inf)
_PASSES_ON = PICKS - {"Pad", "Relu"} | having(Trait.MOVES) - {"Concat"}
"""Operators whose results are elements of their first operand."""
_BOUNDED: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    "Tanh": (-1.0, 1.0),
}


def is_cut_off_at(node: ir.Node, limits: tuple[int, int]) -> bool:
    """Whether a clamp right in front of a QuantizeLinear leaves just these integers, where its type has more.

    Args:
        node: of one scale; of a captured graph, where such a clamp stands by itself.
        limits: the least and the greatest integer that the source rounds to.
    """
    ends, own = limits_of(numbers_of(node)[1].dtype), _integers_of(node, depth=1)
    moved = limits[1] - limits[0] == ends[1] - ends[0]  # of all integers of the type, as uint8 or int8
    return moved or own == limits


def cut_off_faults(before: ir.Model, after: ir.Model) -> Iterator[Place]:
    """Roundings of a graph that saturate at other integers than those of the same names in the graph before it."""
    left = {node.outputs[0].name: node for node in before.graph if node.op_type == "QuantizeLinear"}
    for node in after.graph:
        other = left.get(node.outputs[0].name)
        if other is None or node.op_type != "QuantizeLinear" or numbers_of(node)[0].size != 1:
            continue
        ends, own = _integers_of(other), _integers_of(node)
        if ends != own:
            name = node.outputs[0].name or ""
            yield Place(name, f"{name} is cut off at {own[0]} to {own[1]}, and its source at {ends[0]} to {ends[1]}")


def bias_faults(before: ir.Model, after: ir.Model) -> Iterator[Place]:
    """Layers of a graph that add other numbers than the layers of the same names in the graph before it."""
    left = {node.outputs[0].name: node for node in before.graph if node.op_type in LAYERS}
    for node in after.graph:
        other, name = left.get(node.outputs[0].name), node.outputs[0].name or ""
        if other is not None and node.op_type == other.op_type and _bias(node) != _bias(other):
            yield Place(name, f"{name} adds another bias than its source")


def _bias(node: ir.Node) -> bytes | None:
    """A constant bias; None where it is computed, or there is none."""
    array = constant(input_of(node, 2))
    return None if array is None else np.asarray(array, np.float64).reshape(-1).tobytes()


def _integers_of(node: ir.Node, depth: int = -1) -> tuple[int, int]:
    """The least and the greatest integer that a QuantizeLinear may give.

    Args:
        node: of one scale.
        depth: how many operators in front of it are looked at; -1 for all.
    """
    scale, zero = numbers_of(node)
    low, high = (end / float(scale.reshape(())) + float(zero.reshape(())) for end in _range(node.inputs[0], depth))
    least, greatest = (int(np.clip(np.rint(end), *limits_of(zero.dtype))) for end in (low, high))
    return least, greatest


def _range(value: ir.Value | None, depth: int) -> tuple[float, float]:
    """The least and the greatest number that a value may have, by the clamps in front of it."""
    node = None if value is None else value.producer()
    if node is None or depth == 0:
        return _ALL
    bounds = clip_bounds(node)
    if bounds is not None:
        low, high = (float(np.clip(end, *bounds)) for end in _range(node.inputs[0], depth - 1))
        return low, high
    if node.op_type == "Concat":
        ranges = [_range(operand, depth - 1) for operand in node.inputs]
        return min(low for low, _ in ranges), max(high for _, high in ranges)
    return _range(node.inputs[0], depth - 1) if node.op_type in _PASSES_ON else _BOUNDED.get(node.op_type, _ALL)
