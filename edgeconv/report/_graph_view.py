"""The graph before and after, side by side: what became of each operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgeconv.core import GraphSummary, NodeSummary
from edgeconv.report._report import counted


@dataclass(frozen=True)
class CountView:
    """One operator type: how often it occurs per stage; ``change`` is last minus first, ``""`` when equal."""

    op: str
    counts: tuple[int, ...]
    change: str


@dataclass(frozen=True)
class NodeView:
    """One line of a graph's list; ``fate`` is ``"gone"``, ``"new"``, ``"changed"`` or ``""``."""

    op: str
    name: str
    inputs: str
    shape: str
    fate: str
    remark: str


@dataclass(frozen=True)
class StageView:
    """One graph's list of operators."""

    title: str
    total: str
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True)
class GraphsView:
    """Counts over all stages; lists of the first and the last."""

    stages: tuple[str, ...]
    totals: tuple[int, ...]
    change: str
    counts: tuple[CountView, ...]
    lists: tuple[StageView, ...]


def graphs_view(graphs: Sequence[GraphSummary]) -> GraphsView | None:
    """Compares the first graph with the last; None when there is none."""
    if not graphs:
        return None
    tables = [Counter(node.op for node in graph.nodes) for graph in graphs]
    ops = sorted({op for table in tables for op in table}, key=lambda op: (-max(t[op] for t in tables), op))
    totals = tuple(table.total() for table in tables)
    first, last = graphs[0], graphs[-1]
    lists = [_stage(first, last, "gone")]
    if len(graphs) > 1:
        lists.append(_stage(last, first, "new"))
    return GraphsView(
        stages=tuple(graph.stage for graph in graphs),
        totals=totals,
        change=_change(totals[0], totals[-1]),
        counts=tuple(
            CountView(op, tuple(table[op] for table in tables), _change(tables[0][op], tables[-1][op])) for op in ops
        ),
        lists=tuple(lists),
    )


def _change(before: int, after: int) -> str:
    if before == after:
        return ""
    return f"+{after - before:,}" if after > before else f"−{before - after:,}"


def _stage(graph: GraphSummary, other: GraphSummary, fate: str) -> StageView:
    """Operators correspond by name: a value keeps its name through every rewrite while it is still computed."""
    ops = {node.name: node.op for node in other.nodes}
    nodes = tuple(_node(node, ops.get(node.name), fate, alone=graph is other) for node in graph.nodes)
    return StageView(graph.stage, counted(len(graph.nodes), "operator"), nodes)


def _node(node: NodeSummary, other_op: str | None, fate: str, *, alone: bool) -> NodeView:
    inputs, shape = ", ".join(node.inputs), "×".join(str(size) for size in node.shape)
    if alone or other_op == node.op:
        return NodeView(node.op, node.name, inputs, shape, "", "")
    if other_op is None:
        return NodeView(node.op, node.name, inputs, shape, fate, "absorbed" if fate == "gone" else "new")
    remark = f"becomes {other_op}" if fate == "gone" else f"was {other_op}"
    return NodeView(node.op, node.name, inputs, shape, "changed", remark)
