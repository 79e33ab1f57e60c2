"""Compares two captures of one network at two batch sizes, after the batch of both was made symbolic.

In one capture a batch of 11 and any other 11 look alike: of ``x / x.shape[0]`` the scalar 11 is a constant like any
other. In a second capture it is another number. Everything that the rules rewrite (shapes, sizes, rows that repeat) is
the same in both by then, so nothing at all may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.errors import FIXED_BATCH, RewriteError
from edgeconv.graph.edit import constant
from edgeconv.graph.origin import place_of

_CLOSE = 2.0**-22
"""Relative tolerance of float constants: four steps of float32.

torch computes most elements of a constant in vectors, and the remainder one by one. Which those are depends on the
number of rows, and they may differ in the last bit of float64, and then of float32.
"""
_NEXT_TO_ZERO = 1e-12
"""Absolute tolerance, relative to the largest element of the constant: float64 has sin(pi) = 1.2e-16."""
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Freed:
    """A graph whose batch is symbolic, and the batch size that it was captured with."""

    model: ir.Model
    size: int


def require_same(first: Freed, second: Freed) -> None:
    """Checks that two graphs have the same nodes and constants; names do not matter.

    Raises:
        RewriteError: they differ: something is computed from the batch size, or chosen by it. Names the first node.
    """
    graphs = first.model.graph, second.model.graph
    counterparts: dict[ir.Value, ir.Value] = dict(zip(graphs[0].inputs, graphs[1].inputs, strict=True))
    compared: set[tuple[ir.Value, ir.Value]] = set()
    for node, other in zip_longest(*graphs):
        if node is None or other is None or not _is_like(node, other):
            _refuse_node(node, other, first.size, second.size)
        for value, counterpart in zip(node.inputs, other.inputs, strict=True):
            if value is None or counterpart is None or counterparts.get(value) is counterpart:
                continue
            # What no node before has computed is a constant, large ones of which many nodes may read.
            if (value, counterpart) not in compared:
                arrays = constant(value), constant(counterpart)
                if arrays[0] is None or arrays[1] is None:
                    _refuse_node(node, other, first.size, second.size)
                if not _same(arrays[0], arrays[1]):
                    _refuse_constant(node, _shown(arrays[0], arrays[1]), first.size, second.size)
                compared.add((value, counterpart))
        counterparts.update(zip(node.outputs, other.outputs, strict=True))
    for value, counterpart in zip(graphs[0].outputs, graphs[1].outputs, strict=True):
        if counterparts.get(value) is not counterpart:
            _refuse_node(value.producer(), counterpart.producer(), first.size, second.size)


def _is_like(node: ir.Node, other: ir.Node) -> bool:
    """Whether two nodes are the same, except for the values of their inputs."""
    return (
        (node.domain, node.op_type) == (other.domain, other.op_type)
        and [value is None for value in node.inputs] == [value is None for value in other.inputs]
        and [_kind(value) for value in node.outputs] == [_kind(value) for value in other.outputs]
        and _attributes(node) == _attributes(other)
    )


def _kind(value: ir.Value) -> tuple[str, ir.DataType | None]:
    return str(value.shape), value.dtype


def _attributes(node: ir.Node) -> Mapping[str, Any]:
    return {
        name: attribute.as_tensor().tobytes() if attribute.type is ir.AttributeType.TENSOR else attribute.value
        for name, attribute in node.attributes.items()
    }


def _same(first: _Array, second: _Array) -> bool:
    """Whether two constants are equal: integers exactly, floats within the tolerances above."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return bool(np.array_equal(first, second)) or not _apart(first, second).any()


def _apart(first: _Array, second: _Array) -> npt.NDArray[np.bool_]:
    """Where two constants of one shape and dtype differ."""
    if first.dtype.kind in "iub":
        return np.asarray(first != second)
    a, b = first.astype(np.float64), second.astype(np.float64)
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return ~np.isclose(b, a, rtol=_CLOSE, atol=_NEXT_TO_ZERO * largest, equal_nan=True)


def _shown(first: _Array, second: _Array) -> tuple[str, str]:
    """The first elements in which two constants differ, or their shapes, for a message."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return f"the shape {list(first.shape)}", f"the shape {list(second.shape)}"
    at = np.unravel_index(int(_apart(first, second).argmax()), first.shape)
    return f"{first[at]:.6g}", f"{second[at]:.6g}"


def _refuse_constant(node: ir.Node, shown: tuple[str, str], size: int, other: int) -> NoReturn:
    raise RewriteError(
        f"{node.op_type} takes a constant that is made from the batch size ({shown[0]} with a batch of {size}, "
        f"{shown[1]} with one of {other}): the batch cannot be left open",
        where=place_of(node),
        hint=FIXED_BATCH,
    )


def _refuse_node(node: ir.Node | None, other: ir.Node | None, size: int, other_size: int) -> NoReturn:
    here = node if node is not None else other
    names = [side.op_type if side is not None else "nothing" for side in (node, other)]
    what = f"{names[0]} with a batch of {size} is {names[1]} with one of {other_size}"
    if names[0] == names[1]:
        what = f"{names[0]} has other sizes, attributes or inputs with a batch of {size} than with one of {other_size}"
    what = f"{what}: the batch cannot be left open"
    raise RewriteError(what, where=place_of(here) if here is not None else "", hint=FIXED_BATCH)
