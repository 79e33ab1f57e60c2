"""The one place where names are invented: none is a name that the graph has, or had when it was captured.

1. `unique_name` invents at once. A value that a rewrite took away keeps its name to itself, too: whoever compares a
   file with the captured graph goes by names, and would take the new value for the old one.
2. While a graph is captured its own names are not all known: a value invented there is named later. `name_later` gives
   it a temporary name, and remembers the preferred one in ``Value.meta``, which is not serialized; `preferred_name`
   tells it to who names all values in the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import onnx_ir as ir

_RESERVED = "edgeconv.names"
_TEMPORARY = "edgeconv.temporary_names"
"""Graph.meta key: what temporary names begin with and no other name does, and a counter."""

_PREFERRED = "edgeconv.preferred_name"
"""Value.meta key: what the value is to be called once all names are known; its present name is temporary."""


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


def unique_name(graph: ir.Graph, preferred: str) -> str:
    """``preferred``, or ``preferred_1``, ``preferred_2``, … where that name is or was taken in the graph."""
    return free_name(preferred, names_of(graph) | reserved_names(graph))


def free_name(preferred: str, taken: Iterable[str]) -> str:
    """``preferred``, or ``preferred_1``, ``preferred_2``, … where it is among the taken names."""
    names = taken if isinstance(taken, set | frozenset) else set(taken)
    name, number = preferred, 0
    while name in names:
        number += 1
        name = f"{preferred}_{number}"
    return name


def take_name(preferred: str, taken: set[str]) -> str:
    """A free name, as `free_name` gives it, which counts as taken from then on."""
    name = free_name(preferred, taken)
    taken.add(name)
    return name


def begin_temporary_names(graph: ir.Graph, foreign: Iterable[str] = ()) -> None:
    """From now on `temporary_name` avoids the graph's names, those of its branches, and foreign ones that may come."""
    taken = {*foreign, *(name for part in (graph, *graph.subgraphs()) for name in names_of(part))}
    graph.meta[_TEMPORARY] = (_unmet_prefix(taken), itertools.count())


def temporary_name(graph: ir.Graph) -> str:
    """A name that no value of the graph has, for a value that is named later."""
    if _TEMPORARY not in graph.meta:
        begin_temporary_names(graph)
    prefix, counter = graph.meta[_TEMPORARY]
    return f"{prefix}{next(counter)}"


def name_later(graph: ir.Graph, value: ir.Value, preferred: str) -> None:
    """Gives a value of the graph, or one that is about to enter it, a temporary name until all names are known.

    Args:
        graph: whose names the temporary one avoids.
        value: changed in place.
        preferred: what it is to be called then; a number is added where that name is taken.
    """
    value.name = temporary_name(graph)
    value.meta[_PREFERRED] = preferred


def is_named_later(value: ir.Value) -> bool:
    """Whether its present name is temporary."""
    return _PREFERRED in value.meta


def preferred_name(value: ir.Value) -> str:
    """What the value is to be called; its own name where it is not named later."""
    name: str = value.meta.get(_PREFERRED, value.name or "")
    return name


def forget_all_but_name(value: ir.Value) -> None:
    """Empties ``Value.meta`` but for what the value is to be called."""
    for key in value.meta.keys() - {_PREFERRED}:
        del value.meta[key]


def move_name(source: ir.Value, target: ir.Value) -> None:
    """The target gets the source's name, and what is to come of it; the source, no initializer, is left without."""
    target.meta.pop(_PREFERRED, None)
    if _PREFERRED in source.meta:
        target.meta[_PREFERRED] = source.meta.pop(_PREFERRED)
    name, source.name = source.name, None
    target.name = name


def rename_values(graph: ir.Graph, chosen: Mapping[ir.Value, str]) -> None:
    """Gives all these names at once, for good: through names that clash with nothing, as values may exchange theirs."""
    prefix = _unmet_prefix(names_of(graph) | set(chosen.values()))
    for number, value in enumerate(chosen):
        value.name = f"{prefix}{number}"
    for value, name in chosen.items():
        value.name = name
        value.meta.pop(_PREFERRED, None)
        if value.const_value is not None:
            value.const_value.name = name
    graph.meta.pop(_TEMPORARY, None)


def _unmet_prefix(names: Iterable[str]) -> str:
    """What no name begins with."""
    return free_name("temporary", {name.partition(".")[0] for name in names}) + "."


def input_name(op_type: str, domain: str, index: int, opset: int) -> str:
    """An operator's own name of its input, in lower case: what a constant that has no name is called after."""
    import onnx

    try:
        inputs = onnx.defs.get_schema(op_type, opset, domain).inputs
    except onnx.defs.SchemaError:
        return f"input_{index}"
    return str(inputs[min(index, len(inputs) - 1)].name).lower()
