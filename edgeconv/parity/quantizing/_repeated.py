"""Roundings of a captured graph that a rewrite may leave out, as another one gives the same integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import RewriteError
from edgeconv.parity.quantizing._alongside import numbers_of


def left_out(names: Sequence[str], captured: ir.Model, model: ir.Model, inputs: Mapping[str, Array]) -> Iterator[str]:
    """Of roundings that a graph no longer has, those that no other one stands for.

    One stands for another by the same scale and zero point if it gives the same integers, on a sample in float64: two
    roundings of one value, of equal values, or one behind the other. What both round is read by nothing else then,
    unless it was before. Where nothing can be evaluated, the same scale and zero point are enough.

    Args:
        names: of the integers in the captured graph.
        captured: has them.
        model: the graph that has not.
        inputs: of a sample, by name.
    """
    if not names:
        return
    from edgeconv.parity.writing import Graph  # torch, which an export that is not proved does without

    before, after = _roundings(captured), _roundings(model)
    others = {name: _stand_ins(before[name], before, after) for name in names}
    results = dict[str, Array]()
    try:
        graph = Graph(captured, unrounded=True)
        results = graph.values(inputs, {}, graph.quantizers.keys() & {*names, *after})
    except RewriteError:
        pass
    for name in names:
        if not any(_stands_for(before[at], before[name], after[at], results) for at in others[name]):
            yield name


def _roundings(model: ir.Model) -> dict[str, ir.Node]:
    return {node.outputs[0].name or "": node for node in model.graph if node.op_type == "QuantizeLinear"}


def _stand_ins(node: ir.Node, before: Mapping[str, ir.Node], after: Mapping[str, ir.Node]) -> list[str]:
    """The other roundings by the same numbers that both graphs have."""
    due = _bytes(node)
    return [name for name in after if name in before and before[name] is not node and _bytes(before[name]) == due]


def _stands_for(other: ir.Node, node: ir.Node, left: ir.Node, results: Mapping[str, Array]) -> bool:
    """Whether a rounding gives the integers of another, of which only it is left.

    Args:
        other: in the captured graph.
        node: what it stands for.
        left: the first in the graph that has only that.
        results: integers by name; of none, both are taken for equal.
    """
    pair = [results.get(item.outputs[0].name or "") for item in (other, node)]
    is_one_value = other.inputs[0] is node.inputs[0]
    if results and not is_one_value and (pair[0] is None or pair[1] is None or not _is_same(pair[0], pair[1])):
        return False
    sources = [item.inputs[0] for item in (other, node) if item.inputs[0] is not None]
    unread = {value.name for value in sources if not _is_rounded(value) and not _is_read(value)}
    graph = left.graph
    assert isinstance(graph, ir.Graph)  # of a model
    there = [value for item in graph for value in item.outputs if value.name in unread]
    there += [value for value in graph.inputs if value.name in unread]
    if len(unread) == len({id(value) for value in sources}) and left.inputs[0] is not None:
        there.append(left.inputs[0])
    return not any(map(_is_read, there))


def _is_same(integers: Array, others: Array) -> bool:
    return integers.size == others.size and bool((integers.reshape(-1) == others.reshape(-1)).all())


def _is_rounded(value: ir.Value) -> bool:
    maker = value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def _is_read(value: ir.Value) -> bool:
    """Whether anything but a rounding reads a value."""
    return value.is_graph_output() or any(use.node.op_type != "QuantizeLinear" for use in value.uses())


def _bytes(node: ir.Node) -> tuple[object, ...]:
    scale, zero = numbers_of(node)
    return scale.tobytes(), zero.dtype.name, zero.tobytes(), node.attributes.get_int("axis", 1) if scale.size > 1 else 0
