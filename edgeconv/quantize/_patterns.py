"""Operators that a caller names: by what they make, by the torch module, or by their kind; with ``*`` and ``?``."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from edgeconv.errors import QuantizeError
from edgeconv.graph.edit import MODULE
from edgeconv.quantize._graph import is_activation, name_of

_WILD = frozenset("*?[")


def matching(graph: ir.Graph, patterns: Sequence[str], where: str) -> list[str]:
    """The names of the operators that are meant, in the order of the patterns.

    A pattern that is the name of an operator's first output means that one alone. Else it means all operators whose
    output or torch module it matches, as `fnmatch` does (``"head.*"``), or whose ONNX type it is (``"Sigmoid"``).

    Args:
        graph: float32, NCHW.
        patterns: the caller's.
        where: as errors name them.

    Raises:
        QuantizeError: no operator that makes real numbers is meant by one.
    """
    nodes = [node for node in graph if any(is_activation(value) for value in node.outputs)]
    exact = {name_of(node) for node in graph}
    names: dict[str, None] = {}
    for pattern in patterns:
        meant = [pattern] if pattern in exact else [name_of(node) for node in nodes if _is_meant(node, pattern)]
        if not meant and not _WILD.isdisjoint(pattern):
            hint = "name an operator's first output, a torch module or a type, with * for any letters"
            raise QuantizeError(f"{pattern!r} matches no operator", where=where, hint=hint)
        names |= dict.fromkeys(meant or [pattern])  # a plain name that is unknown is told where it is used
    return list(names)


def _is_meant(node: ir.Node, pattern: str) -> bool:
    module = node.outputs[0].metadata_props.get(MODULE, "")
    return node.op_type == pattern or any(fnmatchcase(name, pattern) for name in (name_of(node), module) if name)
