"""Names of new values: never one that the graph has, or had when it was captured.

1. `unique_name` gives a name at once. Names of values that a rewrite has removed are not used again: the proof compares
   files with the captured graph by name, and would take a new value for the old one.
2. During capture the final names are not all known yet. `name_later` gives a new value a temporary name, and keeps the
   preferred one in ``Value.meta``, which is not serialized; whoever names all values in the end reads it by
   `preferred_name`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import onnx_ir as ir

_RESERVED = "edgeconv.names"
_TEMPORARY = "edgeconv.temporary_names"
"""Graph.meta key: the prefix of temporary names, with which no other name begins, and a counter."""

_PREFERRED = "edgeconv.preferred_name"
"""Value.meta key: the preferred name of a value whose present name is temporary."""


def reserve_names(graph: ir.Graph) -> None:
    """Reserves the present names of computed values: `unique_name` avoids them, in this graph and its clones."""
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
    """``preferred``, or ``preferred_1``, ``preferred_2``, … if the graph has or had that name."""
    return free_name(preferred, names_of(graph) | reserved_names(graph))


def free_name(preferred: str, taken: Iterable[str]) -> str:
    """``preferred``, or ``preferred_1``, ``preferred_2``, … if it is among the taken names."""
    names = taken if isinstance(taken, set | frozenset) else set(taken)
    name, number = preferred, 0
    while name in names:
        number += 1
        name = f"{preferred}_{number}"
    return name


def take_name(preferred: str, taken: set[str]) -> str:
    """A name as of `free_name`, which is added to the taken ones."""
    name = free_name(preferred, taken)
    taken.add(name)
    return name


def begin_temporary_names(graph: ir.Graph, foreign: Iterable[str] = ()) -> None:
    """Starts the temporary names of a graph, which avoid its names, those of its subgraphs, and `foreign` ones."""
    taken = {*foreign, *(name for part in (graph, *graph.subgraphs()) for name in names_of(part))}
    graph.meta[_TEMPORARY] = (_unmet_prefix(taken), itertools.count())


def temporary_name(graph: ir.Graph) -> str:
    """A name that no value of the graph has, for a value that gets its final name later."""
    if _TEMPORARY not in graph.meta:
        begin_temporary_names(graph)
    prefix, counter = graph.meta[_TEMPORARY]
    return f"{prefix}{next(counter)}"


def name_later(graph: ir.Graph, value: ir.Value, preferred: str) -> None:
    """Gives a value a temporary name until all names are known.

    Args:
        graph: that the value is, or will be, part of.
        value: changed in place.
        preferred: its name then; with a number if that is taken.
    """
    value.name = temporary_name(graph)
    value.meta[_PREFERRED] = preferred


def is_named_later(value: ir.Value) -> bool:
    """Whether its present name is temporary."""
    return _PREFERRED in value.meta


def preferred_name(value: ir.Value) -> str:
    """The name that a value prefers; its own name if it is not temporary."""
    name: str = value.meta.get(_PREFERRED, value.name or "")
    return name


def forget_all_but_name(value: ir.Value) -> None:
    """Empties ``Value.meta``, except for the preferred name."""
    for key in value.meta.keys() - {_PREFERRED}:
        del value.meta[key]


def move_name(source: ir.Value, target: ir.Value) -> None:
    """Moves the name, and the preferred name, from one value to another; the source is no initializer."""
    target.meta.pop(_PREFERRED, None)
    if _PREFERRED in source.meta:
        target.meta[_PREFERRED] = source.meta.pop(_PREFERRED)
    name, source.name = source.name, None
    target.name = name


def rename_values(graph: ir.Graph, chosen: Mapping[ir.Value, str]) -> None:
    """Gives values their final names. It goes through temporary ones, as values may exchange names."""
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
    """A prefix that no name has."""
    return free_name("temporary", {name.partition(".")[0] for name in names}) + "."


def input_name(op_type: str, domain: str, index: int, opset: int) -> str:
    """The specification's name of an operator's input, in lower case: a constant without a name is named after it."""
    import onnx

    try:
        inputs = onnx.defs.get_schema(op_type, opset, domain).inputs
    except onnx.defs.SchemaError:
        return f"input_{index}"
    return str(inputs[min(index, len(inputs) - 1)].name).lower()
