"""Operators that numpy computes with the same bits as the engine: none of them adds up or approximates.

They move elements, compare them, or compute a single sum, product or quotient in float64, of which IEEE 754 leaves no
choice (torch's square roots are sometimes an ulp off, so they are not among them). Whatever an entry does not take is
left to the engine, to compute or to refuse; this file refuses nothing. tests/reference compares both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.errors import RewriteError
from edgeconv.reference._extent import MOST_ELEMENTS, MOST_FOLDED, largest, result_elements
from edgeconv.reference._moves import MOVES, expanded, permutation, range_terms, shape_result
from edgeconv.reference._operands import Operands

Array = npt.NDArray[Any]
# Element types that numpy computes here, and in what: floats in float64, the others as they are.
_HELD: Mapping[ir.DataType, str] = {
    **{dtype: dtype.name.lower() for dtype in (ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64)},
    **dict.fromkeys((ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16), "float64"),
}


@dataclass(frozen=True)
class Call(Operands[Array]):
    """One node, with the arrays of its inputs; see `Operands`."""


Operator = Callable[[Call], "Array | tuple[Array, ...]"]


class _Unfit(Exception):  # noqa: N818  (it never leaves this file)
    """These operands are left to the engine."""


def computed(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> tuple[Array, ...] | None:
    """The results of a node in the types that the reference holds them in; None where the engine is to be asked.

    Args:
        node: see `edgeconv.reference.evaluate_node`.
        arrays: one per input; None where an optional one is left out.
        opset: of the default domain.
    """
    operator = EXACT.get(node.op_type) if node.domain == "" else None
    if operator is None or any(value.dtype is not None and value.dtype not in _HELD for value in node.outputs):
        return None
    try:
        operands = tuple(_held(value, array) for value, array in zip(node.inputs, arrays, strict=True))
        elements = result_elements(node, operands)
        if not elements <= (MOST_FOLDED if elements > largest(operands) else MOST_ELEMENTS):
            return None
        with np.errstate(all="ignore"):
            results = operator(Call(node, operands, opset, _no_body))
    except (_Unfit, RewriteError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError, MemoryError):
        return None
    copies = [np.array(result, order="C") for result in (results if isinstance(results, tuple) else [results])]
    if len(copies) != len(node.outputs) or any(_not_a_number(copy) for copy in copies):
        return None  # IEEE 754 leaves open which bits a NaN has
    return tuple(copies)


def _held(value: ir.Value | None, array: Array | None) -> Array | None:
    if value is None or array is None:
        return None
    dtype = value.dtype or ir.DataType.from_numpy(array.dtype)
    if dtype not in _HELD:
        raise _Unfit
    return np.array(array, dtype=_HELD[dtype], order="C")


def _no_body(graph: ir.Graph) -> tuple[Array, ...]:
    raise _Unfit


def _not_a_number(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def _pair(function: Callable[[Array, Array], Array], kinds: str = "if") -> Operator:
    """An operator of two operands of one type, whose kind numpy names by one of these letters."""

    def operator(call: Call) -> Array:
        a, b = call[0], call[1]
        if len(call.values) != 2 or a.dtype != b.dtype or a.dtype.kind not in kinds:
            raise _Unfit
        return function(a, b)

    return operator


def _each(function: Callable[[Array], Array], kinds: str = "if") -> Operator:
    def operator(call: Call) -> Array:
        if call[0].dtype.kind not in kinds:
            raise _Unfit
        return function(call[0])

    return operator


def _divided(a: Array, b: Array) -> Array:
    """Div: integers are truncated (specification: Div)."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if (b <= 0).any():
        raise _Unfit  # division by zero, or of the smallest integer by -1, which overflows
    quotient = np.abs(a) // b
    if (a == np.iinfo(a.dtype).min).any():
        raise _Unfit
    return np.where(a < 0, -quotient, quotient).astype(a.dtype)


def _cast(call: Call) -> Array:
    """Cast. To integers only numbers below 2^31: conversion of larger floats is undefined in C."""
    target, x = ir.DataType(call.attribute("to", 0)), call[0]
    if target not in _HELD:
        raise _Unfit
    dtype = np.dtype(_HELD[target])
    if dtype.kind == "i" and x.dtype.kind != "b" and not (np.abs(x) < 2**31).all():
        raise _Unfit
    return x.astype(dtype)


def _concat(call: Call) -> Array:
    tensors = call.tensors()
    if len({tensor.dtype for tensor in tensors}) != 1:
        raise _Unfit
    return np.concatenate(tensors, call.axis(call[0].ndim))


def _gather(call: Call) -> Array:
    x, indices = call[0], call[1]
    if indices.dtype.kind != "i" or not x.size or not x.ndim:
        raise _Unfit
    return np.take(x, indices, call.axis(x.ndim))  # raises IndexError for an index out of range


def _filled(call: Call) -> Array:
    shape = tuple(call[0].tolist())
    if "value" not in call.node.attributes:
        return np.zeros(shape)
    stored = call.node.attributes["value"].as_tensor()
    if stored.dtype not in _HELD:
        raise _Unfit
    return np.full(shape, stored.numpy().reshape(()), _HELD[stored.dtype])


def _range(call: Call) -> Array:
    dtype = call[0].dtype
    if dtype.kind != "i" or dtype != call[1].dtype or dtype != call[2].dtype or call[0].ndim:
        raise _Unfit
    start, count, delta = range_terms(call)
    return np.asarray(start + np.arange(count, dtype=dtype) * delta)


def _tile(call: Call) -> Array:
    repeats = call.ints(1, "repeats") or []
    if len(repeats) != call[0].ndim:
        raise _Unfit
    return np.tile(call[0], repeats)


def _chosen(call: Call) -> Array:
    if call[0].dtype.kind != "b" or call[1].dtype != call[2].dtype:
        raise _Unfit
    return np.where(call[0], call[1], call[2])


def _product(call: Call) -> Array:
    """The product of all elements of integers."""
    if call[0].dtype.kind != "i" or call.ints(1, "axes") or call.attribute("noop_with_empty_axes", 0):
        raise _Unfit
    return np.asarray(np.prod(call[0], keepdims=bool(call.attribute("keepdims", 1)), dtype=call[0].dtype))


EXACT: Mapping[str, Operator] = {
    **MOVES,
    "Add": _pair(np.add),
    "And": _pair(np.logical_and, "b"),
    "Cast": _cast,
    "Ceil": _each(np.ceil, "f"),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _pair(_divided),
    "Equal": _pair(np.equal, "bif"),
    "Expand": lambda call: np.broadcast_to(call[0], expanded(call)),
    "Floor": _each(np.floor, "f"),
    "Gather": _gather,
    "Greater": _pair(np.greater),
    "GreaterOrEqual": _pair(np.greater_equal),
    "Identity": lambda call: call[0],
    "Less": _pair(np.less),
    "LessOrEqual": _pair(np.less_equal),
    "Max": _pair(np.maximum, "i"),
    "Min": _pair(np.minimum, "i"),
    "Mul": _pair(np.multiply),
    "Neg": _each(np.negative),
    "Not": _each(np.logical_not, "b"),
    "Or": _pair(np.logical_or, "b"),
    "Range": _range,
    "ReduceProd": _product,
    "Shape": lambda call: shape_result(call.node, call[0].shape),
    "Size": lambda call: shape_result(call.node, call[0].shape),
    "Sub": _pair(np.subtract),
    "Tile": _tile,
    "Transpose": lambda call: call[0].transpose(permutation(call)),
    "Where": _chosen,
}


def in_type(array: Array, dtype: ir.DataType | None) -> Array:
    """An integer result in its own element type."""
    return array if dtype is None or dtype.is_floating_point() else array.astype(dtype.numpy())
