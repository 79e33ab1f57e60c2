"""The one place where names are invented: none is a name that the graph has, or had when it was captured.

A value that a rewrite took away keeps its name to itself, too: whoever compares a file with the captured graph goes by
names, and would take the new value for the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

_RESERVED = "edgeconv.names"


def reserve_names(graph: ir.Graph) -> None:
    """Keeps the present names of computed values from being invented later on, in this graph and its clones."""
    computed = {value.name for node in graph for value in node.outputs if value.name}
    graph.meta[_RESERVED] = reserved_names(graph) | computed


def reserved_names(graph: ir.Graph) -> frozenset[str]:
    """The names that computed values had when the graph was captured."""
    names: frozenset[str] = graph.meta.get(_RESERVED, frozenset())
    return names


def names_of(graph: ir.Graph) -> frozenset[str]:
    """The present names of all values."""
    values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    return frozenset(value.name for value in values if value.name)


def unique_name(graph: ir.Graph, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ``wanted_2``, … where that name is or was taken in the graph."""
    return free_name(wanted, names_of(graph) | reserved_names(graph))


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """``wanted``, or ``wanted_1``, ``wanted_2``, … where it is among the taken names."""
    names = taken if isinstance(taken, set | frozenset) else set(taken)
    name, number = wanted, 0
    while name in names:
        number += 1
        name = f"{wanted}_{number}"
    return name


def take_name(wanted: str, taken: set[str]) -> str:
    """As `free_name`; the name counts as taken from then on."""
    name = free_name(wanted, taken)
    taken.add(name)
    return name


def rename_values(graph: ir.Graph, chosen: Mapping[ir.Value, str]) -> None:
    """Gives all these names at once: through names that clash with nothing, as values may exchange theirs."""
    taken = names_of(graph) | set(chosen.values())
    number = 0
    for value in chosen:
        while (between := f"\0{number}") in taken:
            number += 1
        value.name = between
        number += 1
    for value, name in chosen.items():
        value.name = name
        if value.const_value is not None:
            value.const_value.name = name
