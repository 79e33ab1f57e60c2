"""Questions to the nodes of a traced program that several files here ask: operator, arguments, inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node as FxNode


def program_inputs(program: torch.export.ExportedProgram) -> list[tuple[FxNode, Any]]:
    """The placeholders of a program, each with its specification: weights and constants first, then user inputs."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    return list(zip(placeholders, program.graph_signature.input_specs, strict=True))


def name_of(node: FxNode) -> str:
    """The name of an operator without namespace and overload: ``add_`` of ``aten.add_.Tensor``.

    Empty for Python functions such as ``getitem``.
    """
    return str(getattr(node.target, "_opname", ""))


def is_item(node: FxNode) -> bool:
    """Whether a node takes one element of a list of results (``getitem``), and so computes nothing."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def arguments_of(node: FxNode) -> dict[str, Any]:
    """All arguments of an operator by the names of its schema, with the schema's defaults for those left out."""
    arguments: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        arguments[argument.name] = value
    return arguments


def writes(node: FxNode) -> bool:
    """Whether the operator changes one of its arguments in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def apart(leaf: Any) -> Any:
    """`copied`, in autograd if the tensor was: an argument of a call that is traced.

    torch takes arguments that are one tensor for one value, and an argument that is a weight for that weight: the graph
    would read one of them in the place of the others.
    """
    return copied(leaf).requires_grad_(leaf.requires_grad) if isinstance(leaf, torch.Tensor) else leaf


def copied(leaf: Any) -> Any:
    """A copy of a tensor in memory of its own, outside of autograd; any other value as it is."""
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
