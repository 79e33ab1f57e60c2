"""Which value of a captured graph each call of the traced program became, for a proof that asks torch of every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    import torch

_KEY = "edgeconv.calls"  # Graph.meta key, which is not serialized


@dataclass(frozen=True, eq=False)
class TracedCalls:
    """A traced program, and the values that its nodes became in the graph that was captured of it.

    Attributes:
        program: as the graph was translated from it, call by call. It shares the module's weights.
        values: by the name of a node of the program, the name of the graph's value that stands for its result. Several
            may have one (a view of the same elements, a dropout in inference); a node is left out whose value was
            removed, or computed once and stored.
        graph: the graph, before any rewrite; None where it is the one that holds these calls.
    """

    program: torch.export.ExportedProgram
    values: Mapping[str, str]
    graph: ir.Model | None = None


def remember_values(
    model: ir.Model,
    program: torch.export.ExportedProgram,
    values: Mapping[str, ir.Value],
    outputs: Sequence[str],
) -> None:
    """Keeps, until `settle_calls`, the values that stand for the nodes of a program; they need no names yet.

    Args:
        model: captured of the program.
        program: see `TracedCalls`.
        values: by the name of a node.
        outputs: the names of the nodes that the graph's outputs are the results of; empty for one that was written to
            since. What is removed of the graph before an output is missed there at the latest.
    """
    model.graph.meta[_KEY] = (program, values, outputs)


def settle_calls(model: ir.Model) -> None:
    """States the calls of a graph whose values have their names, by the values that are still in it."""
    if _KEY not in model.graph.meta:
        return
    program, values, outputs = model.graph.meta.pop(_KEY)
    left = {*model.graph.inputs, *(value for node in model.graph for value in node.outputs)}
    names = {call: value.name or "" for call, value in values.items() if value in left}
    for call, value in zip(outputs, model.graph.outputs, strict=True):
        if call:
            names.setdefault(call, value.name or "")
    model.graph.meta[_KEY] = TracedCalls(program, names)


def take_calls(model: ir.Model) -> TracedCalls | None:
    """Removes and returns the calls that a graph was captured of; None for one that was read in a file."""
    calls: TracedCalls | None = model.graph.meta.pop(_KEY, None)
    return calls


def give_calls(model: ir.Model, calls: TracedCalls | None, graph: ir.Model) -> None:
    """Gives a model the calls of another one, captured of the same module for inputs of another batch."""
    model.graph.meta.pop(_KEY, None)
    if calls is not None:
        model.graph.meta[_KEY] = replace(calls, graph=graph)
