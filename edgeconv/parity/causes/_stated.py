"""What the file's own node states where the graph has one of the same name: operator, attributes, stored integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.parity.causes._piece import Hypothesis, Layer, Piece

_MOST_SHOWN = 8  # integers


@dataclass(frozen=True, eq=False)
class Stated:
    """What a file states in its own nodes, where these have the graph's names.

    Attributes:
        nodes: by their results' names.
        integers: its constants of integers, by name.
    """

    nodes: Mapping[str, ir.Node]
    integers: Mapping[str, Array]


def stated_otherwise(piece: Piece, stated: Stated) -> Iterator[Hypothesis]:
    """Another operator, other attributes, operands left out, other integers: each alone, on the graph's operands."""
    for at, layer in enumerate(piece.layers):
        names = [value.name for value in layer.node.outputs if value.name]
        node = next((stated.nodes[name] for name in names if name in stated.nodes), None)
        if node is not None:
            yield from _of_node(piece, at, layer, node)
        for index in layer.constants(floating=False):
            value, own = layer.node.inputs[index], layer.operands[index]
            other = stated.integers.get(value.name or "") if value is not None else None
            if value is not None and own is not None and other is not None and not np.array_equal(own, other):
                words = f"the integers {value.name} of {layer.name} {_differing(own, other)}"
                yield Hypothesis(words, partial(piece.again, at, {index: other}))


def _of_node(piece: Piece, at: int, layer: Layer, node: ir.Node) -> Iterator[Hypothesis]:
    if node.op_type != layer.operator:
        attributes = {name: item for name, item in node.attributes.items() if item.value is not None}
        words = f"{layer.name} is computed as {node.op_type}"
        yield Hypothesis(words, partial(piece.again, at, attributes=attributes, operator=node.op_type))
        return
    if others := _others(layer, node):
        changes = (
            f"{name} {_shown(_value(node, name))} instead of {_shown(_value(layer.node, name))}" for name in others
        )
        changed = {name: node.attributes.get(name) for name in others}
        yield Hypothesis(f"{layer.name} has {' and '.join(changes)}", partial(piece.again, at, attributes=changed))
    for index, value in enumerate(layer.node.inputs):
        if value is not None and (index >= len(node.inputs) or node.inputs[index] is None):
            words = f"operand {index} of {layer.name} ({value.name}) is left out"
            yield Hypothesis(words, partial(piece.again, at, {index: None}))


def _value(node: ir.Node, name: str) -> Any:
    attribute = node.attributes.get(name)
    return None if attribute is None or attribute.is_ref() else attribute.value


def _others(layer: Layer, node: ir.Node) -> list[str]:
    """The attributes that differ; tensors and graphs, which are told elsewhere, do not count."""
    names = sorted({*layer.node.attributes, *node.attributes})
    pairs = {name: (_value(layer.node, name), _value(node, name)) for name in names}
    plain = (int, float, str, tuple, list, type(None))
    return [name for name, (own, other) in pairs.items() if isinstance(other, plain) and _plain(own) != _plain(other)]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    if value is None:
        return "its default"
    return (
        str(list(value)) if isinstance(value, (list, tuple)) else f"{value:.6g}" if type(value) is float else str(value)
    )


def _differing(own: Array, other: Array) -> str:
    if max(own.size, other.size) <= _MOST_SHOWN:
        return f"are {other.tolist()} instead of {own.tolist()}"
    if own.shape != other.shape:
        return f"have the shape {list(other.shape)} instead of {list(own.shape)}"
    places = np.argwhere(own != other)
    first = tuple(int(index) for index in places[0])
    moved = f"{len(places)} of {own.size}" if len(places) > 1 else "one"
    return f"have {moved} that is another ({other[first]} instead of {own[first]} at {list(first)})"
