"""Operators that a caller names: by what they make, by the torch module, or by their kind; with ``*`` and ``?``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

import onnx_ir as ir

from edgeconv.core.quantization_options import Override, QuantizationOptions
from edgeconv.core.values import close_to
from edgeconv.errors import QuantizeError
from edgeconv.graph.constants import clip_bounds
from edgeconv.graph.edit import MODULE, only_reader
from edgeconv.graph.origin import origin_of
from edgeconv.quantize._graph import ADDED, is_activation, name_of, named
from edgeconv.quantize._structure import bias_add

T = TypeVar("T", bound=QuantizationOptions)
_WILD = frozenset("*?[")
_NAMES = "name an operator's first output, a torch module or a type, with * for any letters"


def matching(graph: ir.Graph, patterns: Sequence[str], where: str, inputs: Sequence[str] = ()) -> list[str]:
    """The names of the operators that are meant, in the order of the patterns.

    A pattern that is the name of an operator's first output means that one alone. Else it means all operators whose
    output or torch module it matches, as `fnmatch` does (``"head.*"``), or whose ONNX type it is (``"Sigmoid"``).

    Args:
        graph: float32, NCHW.
        patterns: the caller's.
        where: as errors name them.
        inputs: names that may be meant, too.

    Raises:
        QuantizeError: no operator that makes real numbers is meant by one.
    """
    nodes = [node for node in graph if any(is_activation(value) for value in node.outputs)]
    exact = {*inputs, *(name_of(node) for node in graph)}
    names: dict[str, None] = {}
    for pattern in patterns:
        meant = [pattern] if pattern in exact else [name for name in inputs if fnmatchcase(name, pattern)]
        meant += [] if pattern in exact else [name_of(node) for node in nodes if _is_meant(node, pattern)]
        if not meant and not _WILD.isdisjoint(pattern):
            raise QuantizeError(f"{pattern!r} matches no operator", where=where, hint=_NAMES)
        names |= dict.fromkeys(meant or [pattern])  # a plain name that is unknown is told where it is used
    return list(names)


def with_names(options: T, before: ir.Graph, after: ir.Graph) -> T:
    """The options with what patterns mean in one graph by its names in another, whose nodes replace its own in order.

    Those that equalization added replace none.

    Raises:
        QuantizeError: a name or a pattern means nothing.
    """
    pairs = zip(before, (node for node in after if not node.meta.get(ADDED)), strict=True)
    now = {node.outputs[0].name or "": replaced.outputs[0].name or "" for node, replaced in pairs}
    float_names = matching(before, options.keep_float, "keep_float")
    overrides = overrides_of(before, options.override)
    return replace(
        options,
        keep_float=tuple(now.get(name, name) for name in float_names),
        override=tuple(replace(item, operators=(now.get(name, name),)) for name, item in overrides.items()),
    )


def unknown(graph: ir.Graph, name: str, where: str, inputs: Sequence[str] = ()) -> QuantizeError:
    """The error about a plain name that means no operator, and no input where those may be meant."""
    modules = {module for node in graph for module in _modules_of(node)}
    close = close_to(name, {*inputs, *map(name_of, graph), *modules, *(node.op_type for node in graph)})
    hint = f"did you mean {close[0]!r}? {_NAMES}" if close else _NAMES
    return QuantizeError(f"no operator makes {name!r}", where=where, hint=f"{hint}, or an input" if inputs else hint)


def overrides_of(graph: ir.Graph, overrides: Iterable[Override]) -> dict[str, Override]:
    """The override that counts for each operator, by its first output, and for each input of the graph.

    Raises:
        QuantizeError: a name or a pattern means neither.
    """
    inputs = [named(value) for value in graph.inputs if is_activation(value)]
    known = {*inputs, *(name_of(node) for node in graph)}
    counting: dict[str, Override] = {}
    for override in overrides:
        names = matching(graph, override.operators, "override", inputs)
        for name in names:
            if name not in known:
                raise unknown(graph, name, "override", inputs)
            if override.range is not None and name not in inputs:  # whose channels equalization may change
                hint = "state ranges of inputs alone, and choose an observer of what operators make"
                raise QuantizeError(f"{name!r} is no input", where="override", hint=hint)
        counting |= dict.fromkeys(names, override)
    return counting


def overrides_by_value(graph: ir.Graph, overrides: Iterable[Override]) -> dict[str, Override]:
    """The override that counts for each value; of an operator that others are fused into, also for what they make."""
    counting = overrides_of(graph, overrides)
    by_value = {named(value): counting[named(value)] for value in graph.inputs if value.name in counting}
    for node in graph:
        if name_of(node) not in counting:
            continue
        values = list(node.outputs)
        if (added := bias_add(node)) is not None and name_of(added[0]) not in counting:
            values += added[0].outputs
        for clamp in [reader for value in values if (reader := only_reader(value)) is not None]:
            values += clamp.outputs if clip_bounds(clamp) is not None and name_of(clamp) not in counting else ()
        by_value |= {value.name: counting[name_of(node)] for value in values if value.name}
    return by_value


def _is_meant(node: ir.Node, pattern: str) -> bool:
    names = [name_of(node), *_modules_of(node)]
    return node.op_type == pattern or any(fnmatchcase(name, pattern) for name in names)


def _modules_of(node: ir.Node) -> set[str]:
    """The torch modules of an operator: whose output its own is, and whose operator it is.

    A convolution with a BatchNorm folded in makes what the BatchNorm's module makes, and is still the convolution's.
    """
    return {node.outputs[0].metadata_props.get(MODULE, ""), origin_of(node).module} - {""}
