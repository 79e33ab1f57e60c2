"""``Loop`` that runs a known number of times is unrolled: its body is written once per run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._branches import release_outer_values, splice
from edgeconv.core import Array
from edgeconv.graph.edit import add_initializer, constant, input_of, is_taken
from edgeconv.graph.names import unique_name
from edgeconv.graph.origin import origin_of, set_origin

_MOST_NODES = 1024  # of all runs together: beyond that, the time to capture and the file grow out of proportion
_CARRIED = 2  # the inputs before those that one run hands to the next: the count and the condition


def unroll_loops(graph: ir.Graph) -> bool:
    """Unrolls, in place, every ``Loop`` whose count is a constant and whose condition no run computes.

    A condition that is handed on unchanged, or is a constant, is not computed. Scan outputs are joined along a new
    first axis. Other loops, and those of more than 1,024 nodes in all runs, stay.

    Returns:
        Whether there was one.
    """
    loops = [node for node in graph if node.op_type == "Loop" and node.domain == ""]
    counts = {node: count for node in loops if (count := _count(node)) is not None}
    for node, count in counts.items():
        _unroll(graph, node, count)
    return bool(counts)


def _count(node: ir.Node) -> int | None:
    """How many times it runs; None where that is unknown, or too often."""
    body = node.attributes["body"].as_graph()
    most, first = constant(input_of(node, 0)), constant(input_of(node, 1))
    if most is None or most.size != 1 or (first is None and input_of(node, 1) is not None):
        return None
    carried = len(node.inputs) - _CARRIED
    if len(body.inputs) != len(node.inputs) or len(body.outputs) != len(node.outputs) + 1 or carried < 0:
        return None
    goes_on = _goes_on(body)
    if goes_on is None:
        return None
    count = max(0, int(most.reshape(-1)[0]))
    if not goes_on:
        count = min(count, 1)
    if first is not None and not first.any():
        count = 0
    is_empty = count == 0 and any(map(is_taken, node.outputs[carried:]))  # a scan output of no elements
    return None if is_empty or count * sum(1 for _ in body.all_nodes()) > _MOST_NODES else count


def _goes_on(body: ir.Graph) -> bool | None:
    """The condition behind a run; None where the run computes it."""
    value: ir.Value | None = body.outputs[0]
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    if value is body.inputs[1]:
        return True
    condition = constant(value)
    return None if condition is None or condition.size != 1 else bool(condition.reshape(-1)[0])


def _unroll(graph: ir.Graph, node: ir.Node, count: int) -> None:
    body, carried = node.attributes["body"].as_graph(), list(node.inputs[_CARRIED:])
    scans: list[list[ir.Value]] = [[] for _ in node.outputs[len(carried) :]]
    for run in range(count):
        copied = body.clone(allow_outer_scope_values=True)
        operands = (_constant(graph, node, np.array(run)), _constant(graph, node, np.array(True)), *carried)
        stated = zip(copied.inputs, operands, strict=True)
        _, *results = splice(graph, node, copied, {value: operand for value, operand in stated if operand is not None})
        carried = list(results[: len(carried)])
        for scan, result in zip(scans, results[len(carried) :], strict=True):
            scan.append(result)
    joined = [_joined(graph, node, scan) if scan else None for scan in scans]
    for output, value in zip(node.outputs, (*carried, *joined), strict=True):
        if value is not None:
            ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    release_outer_values(node)
    graph.remove(node, safe=True)


def _joined(graph: ir.Graph, node: ir.Node, values: list[ir.Value]) -> ir.Value:
    """The values along a new first axis."""
    axis = _constant(graph, node, np.array([0]))
    parts = [ir.node("Unsqueeze", [value, axis]) for value in values]
    whole = ir.node("Concat", [part.outputs[0] for part in parts], {"axis": 0})
    for part in (*parts, whole):
        part.outputs[0].name = unique_name(graph, f"{node.name or 'loop'}.{part.op_type.lower()}")
        set_origin(part, origin_of(node))
        graph.insert_before(node, part)
    return whole.outputs[0]


def _constant(graph: ir.Graph, node: ir.Node, array: Array) -> ir.Value:
    return add_initializer(graph, unique_name(graph, f"{node.name or 'loop'}.constant"), array)
