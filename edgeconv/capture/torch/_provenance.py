"""Reads, from what torch records while it traces and exports, the `Origin` of every ONNX node."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node as FxNode

from edgeconv.capture.torch._operation import is_item
from edgeconv.graph.origin import Origin, origin_of, set_origin

_SCOPES = "pkg.torch.onnx.name_scopes"
"""torch.onnx's metadata property of a node: the list of module paths that leads to it, ending in its fx node's name."""
_CALL_NUMBER = re.compile(r"@\d+$")
"""torch.export's mark of the second and later calls of one module: ``L['self'].act@1``."""


def set_origins(
    model: ir.Model, decomposed: torch.export.ExportedProgram, program: torch.export.ExportedProgram
) -> None:
    """Gives every node of the exporter's graph its origin.

    The exporter names, for every ONNX node, the node of the decomposed torch graph; that one names the node of the
    graph as it was traced, which carries the operation that the user wrote. A node that names nothing belongs to
    the node before it on its data path.

    Args:
        model: the exporter's.
        decomposed: the torch graph after the exporter's decompositions, which its names refer to.
        program: the torch graph before them.
    """
    origins = {node.name: _origin(node, source) for node, source in _sources(decomposed, program).items()}
    previous = Origin()
    for node in model.graph:
        scopes = node.metadata_props.get(_SCOPES)
        name = ast.literal_eval(scopes)[-1] if scopes else ""
        if name in origins:
            previous = origins[name]
        elif node.inputs and node.inputs[0] is not None and (producer := node.inputs[0].producer()) is not None:
            previous = origin_of(producer)
        set_origin(node, previous)


def _sources(decomposed: torch.export.ExportedProgram, program: torch.export.ExportedProgram) -> dict[FxNode, FxNode]:
    """The traced node that each decomposed one came from.

    After an in-place change torch creates the views of the changed tensor anew where they are next used, and records
    that user as their source: the flatten behind an in-place ReLU seems a part of the linear layer. To undo that, both
    graphs are walked backwards from the user as long as they show views of the same shapes.
    """
    traced = {node.name: node for node in program.graph.nodes}
    parts: dict[FxNode, list[FxNode]] = defaultdict(list)
    for node in decomposed.graph.nodes:
        if node.op == "call_function":
            parts[_recorded_source(node, traced)].append(node)
    sources: dict[FxNode, FxNode] = {}
    for source, nodes in parts.items():
        sources |= dict.fromkeys(nodes, source)
        view = _viewed(source)
        for node in reversed(nodes[:-1]):
            if view is None or not _is_view(node) or _shapes(node) != _shapes(view):
                break
            sources[node] = view
            view = _viewed(view)
    return sources


def _recorded_source(node: FxNode, traced: dict[str, FxNode]) -> FxNode:
    """The traced node that torch recorded as the source; the node itself where it recorded none."""
    # ``from_node`` nests: each decomposition wraps the record of the one before. The innermost is the trace.
    sources = list(node.meta.get("from_node") or ())
    while sources:
        deeper = list(sources[0].from_node or ())
        if not deeper:
            return traced.get(sources[0].name, node)
        sources = deeper
    return traced.get(node.name, node)


def _viewed(node: FxNode) -> FxNode | None:
    """The first argument of a node, if that is a view."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, FxNode) and _is_view(first) else None


def _is_view(node: FxNode) -> bool:
    """Whether a node's result may share memory with its input; an item of a split counts."""
    if is_item(node):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info and not result.alias_info.is_write for result in schema.returns)


def _shapes(node: FxNode) -> list[Any]:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return [list(tensor.shape) for tensor in tensors if tensor is not None]


def origin_in(node: FxNode) -> Origin:
    """The origin of a node of the graph as it was traced."""
    return _origin(node, node)


def _origin(node: FxNode, source: FxNode) -> Origin:
    calls, modules = [], []
    stack = source.meta.get("nn_module_stack") or node.meta.get("nn_module_stack") or {}
    for key, (path, _) in stack.items():
        if path:
            number = _CALL_NUMBER.search(key)
            calls.append(path + (number.group() if number else ""))
            modules.append(path)
    while is_item(source) and isinstance(parent := source.args[0], FxNode):
        source = parent
    return Origin(tuple(calls), tuple(modules), _operation(source), source.name)


def _operation(node: FxNode) -> str:
    """torch's name of the operation: ``aten.relu_.default`` is ``relu``."""
    schema = getattr(node.target, "_schema", None)
    name = str(schema.name).rpartition("::")[2] if schema is not None else str(getattr(node.target, "__name__", ""))
    return name.strip("_") or node.name
