"""Nodes that stand before what they read are put behind it, as runtimes do when they load a file."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

import onnx

from edgeconv.capture.onnx_file._soundness import every_graph, graphs_of


def order_nodes(graph: onnx.GraphProto) -> None:
    """Sorts the nodes of a graph so that each stands behind what it, or a graph inside of it, reads.

    The specification wants them so (IR, Graphs), and onnx's checker refuses other files; onnxruntime sorts the
    outermost graph, and editors that add constants at the end go unnoticed. The order stays where it is sound, and
    otherwise changes as little as it can: of the nodes that are ready the first goes next. A graph with a circle is
    left to the checker.
    """
    makers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    waits = [{makers[name] for name in _reads(node) if name in makers} - {at} for at, node in enumerate(graph.node)]
    if all(before < at for at, others in enumerate(waits) for before in others):
        return
    order = _sorted(waits)
    if len(order) < len(waits):
        return
    nodes = [onnx.NodeProto() for _ in order]
    for node, at in zip(nodes, order, strict=True):
        node.CopyFrom(graph.node[at])
    del graph.node[:]
    graph.node.extend(nodes)


def _sorted(waits: list[set[int]]) -> list[int]:
    """Kahn's algorithm over who waits for whom, the smallest number first; shorter where there is a circle."""
    readers: dict[int, list[int]] = defaultdict(list)
    for at, others in enumerate(waits):
        for other in others:
            readers[other].append(at)
    missing = [len(others) for others in waits]
    ready = [at for at, count in enumerate(missing) if not count]
    order = []
    while ready:
        at = heapq.heappop(ready)
        order.append(at)
        for reader in readers[at]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    return order


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, and what the graphs inside of it do, which may be made around them."""
    yield from node.input
    for inside in graphs_of(node):
        for graph in every_graph(inside):
            yield from (name for inner in graph.node for name in inner.input)
            yield from (output.name for output in graph.output)
