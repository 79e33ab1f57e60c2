"""Names every value after the torch module whose output it is.

The rules, for the value that a node makes:

1. It *leaves* a module call when something outside of that call uses it, or when it is an output of the graph.
2. The only value that leaves a call is the call's output. A value that is the output of several calls (a module
   that ends with a submodule) gets the name of the innermost one: ``depthwise.1``, not ``depthwise``. The first call
   of a module is named by its path, the next ones by ``path@1``, ``path@2``, …
3. Any other value that leaves its torch operation is ``<scope>.<operation>`` (``features.3.add``; in the root just
   ``add``), with ``.0``, ``.1``, … when several values leave the operation (``chunk.0``).
4. A value inside of an operation that became several nodes is ``<name of its last value>.<operator>``
   (``act.sigmoid``).
5. Names of inputs, outputs, parameters and modules are never used for anything else; a clash gets ``_1``, ``_2``, …
   Those of inputs and outputs are the caller's: a parameter that is called like one is what gets another name.

A graph output is named by the caller; it keeps the name that it would have had by rule 2 in its metadata property
``edgeconv.module``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import onnx_ir as ir

from edgeconv.graph.edit import MODULE
from edgeconv.graph.names import input_name, is_named_later, rename_values, reserve_names, take_name
from edgeconv.graph.origin import Origin, origin_of


def name_values(
    model: ir.Model,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    modules: Collection[str],
    parameters: Collection[str],
) -> None:
    """Names inputs, outputs, inner values, constants and nodes of a clean graph.

    Args:
        model: the graph; its nodes know their origins.
        input_names: one per graph input.
        output_names: one per graph output.
        modules: paths of all submodules.
        parameters: names of the parameters and buffers, which their initializers keep.
    """
    graph = model.graph
    # 1. Outputs of module calls (rules 1 and 2), then what leaves an operation or is inside one (rules 3 and 4).
    outer = set(input_names) | set(output_names)
    taken = outer | set(parameters) | set(modules) - {""}
    module_names = _module_names(graph)
    chosen: dict[ir.Value, str] = {}
    for value, call in module_names.items():
        chosen[value] = call if call not in outer and call not in parameters else take_name(call, taken)
    taken |= set(chosen.values())
    for group in _groups(graph):
        _name_group(group, module_names, chosen, taken)
    # 2. The caller's names of inputs and outputs replace those; the name by rule 2 goes to the metadata.
    for value, call in module_names.items():
        if value in set(graph.outputs) or chosen[value] != call:
            value.metadata_props[MODULE] = call
    chosen |= dict(zip(graph.outputs, output_names, strict=True))
    chosen |= dict(zip(graph.inputs, input_names, strict=True))
    # 3. Constants.
    _rename_parameters(graph, chosen, outer & set(parameters), taken)
    _name_constants(graph, chosen, parameters, taken, model.opset_imports[""])
    rename_values(graph, chosen)
    for node in graph:
        node.name = node.outputs[0].name
        node.metadata_props[MODULE] = origin_of(node).module
    reserve_names(graph)


def _module_names(graph: ir.Graph) -> dict[ir.Value, str]:
    """Rules 1 and 2: the values that are outputs of module calls, in graph order."""
    outputs = set(graph.outputs)
    calls = {node: frozenset(origin_of(node).calls) for node in graph}
    leaving: dict[str, list[ir.Value]] = defaultdict(list)
    for node in graph:
        for value in node.outputs:
            users = [use.node for use in value.uses()]
            for call in origin_of(node).calls:
                if value in outputs or any(call not in calls[user] for user in users):
                    leaving[call].append(value)
    named: dict[ir.Value, str] = {}
    for node in graph:
        for call in origin_of(node).calls:
            if len(leaving[call]) == 1 and leaving[call][0] in node.outputs:
                named[leaving[call][0]] = call  # calls are ordered outermost first: the innermost overwrites
    return named


def _groups(graph: ir.Graph) -> list[list[ir.Node]]:
    """The nodes of each torch operation, in graph order."""
    groups: dict[tuple[Origin, str], list[ir.Node]] = defaultdict(list)
    for node in graph:
        origin = origin_of(node)
        groups[origin, origin.key].append(node)
    return list(groups.values())


def _name_group(
    group: list[ir.Node], modules: dict[ir.Value, str], chosen: dict[ir.Value, str], taken: set[str]
) -> None:
    """Rules 3 and 4, for the nodes of one torch operation."""
    origin, members = origin_of(group[0]), set(group)
    # A value is inside if the operation alone reads it; all others leave it.
    base = f"{origin.scope}.{origin.operation}" if origin.scope else origin.operation
    leaving: list[tuple[ir.Node, ir.Value]] = []
    inner: list[tuple[ir.Node, ir.Value]] = []
    for node in group:
        for value in node.outputs:
            users = [use.node for use in value.uses()]
            inside = bool(users) and not value.is_graph_output() and all(user in members for user in users)
            (inner if inside else leaving).append((node, value))
    for index, (_, value) in enumerate(leaving):
        if value not in modules:
            chosen[value] = take_name(base if len(leaving) == 1 else f"{base}.{index}", taken)
    stem = chosen[leaving[0][1]] if len(leaving) == 1 else base
    for node, value in inner:
        if value not in modules:
            chosen[value] = take_name(f"{stem}.{node.op_type.lower()}", taken)


def _rename_parameters(
    graph: ir.Graph, chosen: dict[ir.Value, str], clashing: Collection[str], taken: set[str]
) -> None:
    """Rule 5: parameters that are called like an input or output get another name."""
    for name, value in graph.initializers.items():
        if name in clashing and value not in chosen:
            chosen[value] = take_name(name, taken)


def _name_constants(
    graph: ir.Graph, chosen: dict[ir.Value, str], parameters: Collection[str], taken: set[str], opset: int
) -> None:
    """Constants that are no parameters are named after their first reader and its input: ``flatten.shape``."""
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or value in chosen:
                continue
            if value.name in parameters and not is_named_later(value):
                continue
            operand = input_name(node.op_type, node.domain, index, opset)
            chosen[value] = take_name(f"{chosen[node.outputs[0]]}.{operand}", taken)
