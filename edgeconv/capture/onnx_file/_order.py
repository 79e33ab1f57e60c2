"""Sorts the nodes of a graph topologically, as runtimes do when they load a file."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

import onnx

from edgeconv.capture.onnx_file._soundness import every_graph, graphs_of


def order_nodes(graph: onnx.GraphProto) -> None:
    """Sorts the nodes in place so that each comes after the nodes whose results it, or a graph inside it, reads.

    The specification requires that order (IR, Graphs), and onnx's checker refuses files without it. onnxruntime sorts
    the outermost graph when it loads a file, so editors that append constants at the end go unnoticed. An order that
    is right stays; another one changes as little as possible: of the nodes that are ready the first comes next. A graph
    with a cycle is left to the checker.
    """
    producers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    sources: list[set[int]] = []  # by node: the nodes that it reads from
    for at, node in enumerate(graph.node):
        sources.append({producers[name] for name in _reads(node) if name in producers} - {at})
    if all(source < at for at, read in enumerate(sources) for source in read):
        return
    order = _sorted(sources)
    if len(order) < len(sources):
        return
    nodes = [onnx.NodeProto() for _ in order]
    for node, at in zip(nodes, order, strict=True):
        node.CopyFrom(graph.node[at])
    del graph.node[:]
    graph.node.extend(nodes)


def _sorted(sources: list[set[int]]) -> list[int]:
    """Kahn's algorithm, taking the smallest number that is ready.

    Args:
        sources: by node, the nodes that have to come before it.

    Returns:
        The order; without the nodes on and behind a cycle.
    """
    readers: dict[int, list[int]] = defaultdict(list)
    for at, read in enumerate(sources):
        for source in read:
            readers[source].append(at)
    missing = [len(read) for read in sources]
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
    """The names that a node and the graphs inside it read; those graphs may read values of the graphs around them."""
    yield from node.input
    for inside in graphs_of(node):
        for graph in every_graph(inside):
            yield from (name for inner in graph.node for name in inner.input)
            yield from (output.name for output in graph.output)
