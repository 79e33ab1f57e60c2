"""The captured and the rewritten graph side by side, with what became of each operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeconv.core import GraphSummary, NodeSummary
from edgeconv.core.values import counted


@dataclass(frozen=True)
class CountView:
    """One operator type: how often it occurs per stage; ``change`` is last minus first, ``""`` when equal."""

    op: str
    counts: tuple[int, ...]
    change: str


@dataclass(frozen=True)
class NodeView:
    """One line of a graph's list; ``fate`` is ``"gone"``, ``"new"``, ``"changed"`` or ``""``, and styles the line."""

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
    """Compares the first graph with the last; None for a report without graphs."""
    if not graphs:
        return None
    # Operators by how often they occur at the most, so that those which the rewrites have removed come early, too.
    tables = [Counter(node.op for node in graph.nodes) for graph in graphs]
    ops = sorted({op for table in tables for op in table}, key=lambda op: (-max(t[op] for t in tables), op))
    totals = tuple(table.total() for table in tables)
    first, last = graphs[0], graphs[-1]
    lists = (_before(first, last), _after(last, first)) if len(graphs) > 1 else (_before(first, first),)
    return GraphsView(
        stages=tuple(graph.stage for graph in graphs),
        totals=totals,
        change=_change(totals[0], totals[-1]),
        counts=tuple(
            CountView(op, tuple(table[op] for table in tables), _change(tables[0][op], tables[-1][op])) for op in ops
        ),
        lists=lists,
    )


def _change(before: int, after: int) -> str:
    if before == after:
        return ""
    return f"+{after - before:,}" if after > before else f"−{before - after:,}"


def _before(graph: GraphSummary, later: GraphSummary) -> StageView:
    """The first graph's operators and what became of each; they correspond by the names of their values."""
    ops = {node.name: node.op for node in later.nodes}
    absorbers = _absorbers(graph, ops)
    return _listed(graph, lambda node: _fate(node, ops.get(node.name), absorbers))


def _absorbers(graph: GraphSummary, ops: Mapping[str, str]) -> dict[str, str]:
    """Operators into which the next one was folded, whose name they now have: a Conv with its BatchNormalization."""
    made_by = {node.name: node for node in graph.nodes}
    return {
        source: node.name
        for node in graph.nodes
        for source in node.inputs
        # The source's name is gone, and this node's name now belongs to an operator of the source's type.
        if source in made_by and source not in ops and ops.get(node.name) == made_by[source].op != node.op
    }


def _fate(node: NodeSummary, later_op: str | None, absorbers: Mapping[str, str]) -> tuple[str, str]:
    if node.name in absorbers:
        return "changed", f"now yields {absorbers[node.name]}"
    if later_op is None:
        return "gone", "gone"
    if later_op == node.op:
        return "", ""
    return ("gone", f"folded into {later_op}") if node.name in absorbers.values() else ("changed", f"now {later_op}")


def _after(graph: GraphSummary, earlier: GraphSummary) -> StageView:
    ops = {node.name: node.op for node in earlier.nodes}
    absorbed = set(_absorbers(earlier, {node.name: node.op for node in graph.nodes}).values())
    return _listed(graph, lambda node: _origin(node, ops.get(node.name), absorbed))


def _origin(node: NodeSummary, earlier_op: str | None, absorbed: Collection[str]) -> tuple[str, str]:
    if earlier_op is None:
        return "new", "new"
    if earlier_op == node.op:
        return "", ""
    return "changed", f"with {earlier_op} folded in" if node.name in absorbed else f"was {earlier_op}"


def _listed(graph: GraphSummary, judge: Callable[[NodeSummary], tuple[str, str]]) -> StageView:
    nodes = tuple(
        NodeView(node.op, node.name, ", ".join(node.inputs), "×".join(map(str, node.shape)), *judge(node))
        for node in graph.nodes
    )
    return StageView(graph.stage, counted(len(nodes), "operator"), nodes)
