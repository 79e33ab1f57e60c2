"""Determinants, inverses and linear systems of small matrices, by their minors.

ONNX has a determinant and no inverse, TFLite neither. Up to four rows the minors are exact forms of few operators
(Laplace's expansion: Golub and Van Loan, Matrix Computations, 2.1); larger matrices need pivots that depend on values.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import onnx_ir as ir

from edgeconv.capture._builder import Builder, Entry, Result, Unsupported, sizes_of

LARGEST = 4
"""Rows of a matrix whose minors are written."""
_Places = Mapping[tuple[tuple[int, ...], tuple[int, ...]], int]


def inverse(b: Builder, A: ir.Value) -> ir.Value:  # noqa: N803 torch's name
    """The transposed cofactors by the determinant."""
    size = _size(A)
    flat = b.reshape(A, (*sizes_of(A)[:-2], size * size))
    if size == 1:
        return b.add("Reciprocal", A)
    minors, places = _minors(b, flat, size, size - 1)
    everything = range(size)

    def without(index: int) -> tuple[int, ...]:
        return tuple(each for each in everything if each != index)

    order = [places[without(column), without(row)] for row in everything for column in everything]
    signs = [(-1.0) ** (row + column) for row in everything for column in everything]
    adjugate = b.add("Mul", _taken(b, minors, order), b.constant(np.array(signs, b.dtype.numpy())))
    first_row = _taken(b, flat, range(size))
    first_cofactors = _taken(b, adjugate, [row * size for row in everything])
    whole = b.reduce("ReduceSum", b.add("Mul", first_row, first_cofactors), [-1], keepdims=True)
    return b.reshape(b.add("Div", adjugate, whole), sizes_of(A))


def old_inverse(b: Builder, x: ir.Value) -> ir.Value:
    return inverse(b, x)


def inverse_with_info(b: Builder, A: ir.Value, check_errors: bool) -> Result:  # noqa: N803 torch's name
    if b.is_used(1):
        raise Unsupported("whether a matrix has an inverse")
    return [inverse(b, A), None]


def determinant(b: Builder, A: ir.Value) -> ir.Value:  # noqa: N803 torch's name
    size = _size(A)
    flat = b.reshape(A, (*sizes_of(A)[:-2], size * size))
    return b.reshape(_minors(b, flat, size, size)[0], sizes_of(A)[:-2])


def old_determinant(b: Builder, x: ir.Value) -> ir.Value:
    return determinant(b, x)


def log_determinant(b: Builder, A: ir.Value) -> Result:  # noqa: N803 torch's name
    whole = determinant(b, A)
    return [b.add("Sign", whole), b.add("Log", b.add("Abs", whole))]


def old_log_determinant(b: Builder, x: ir.Value) -> Result:
    return log_determinant(b, x)


def logarithm(b: Builder, x: ir.Value) -> ir.Value:
    return b.add("Log", determinant(b, x))


def solve(b: Builder, A: ir.Value, B: ir.Value, left: bool) -> ir.Value:  # noqa: N803 torch's names
    """The product with the inverse; a vector is one column."""
    is_vector = len(sizes_of(B)) == 1 or sizes_of(B) == sizes_of(A)[:-1]
    inverted = inverse(b, A)
    if not is_vector:
        return b.matmul(inverted, B) if left else b.matmul(B, inverted)
    if not left:
        raise Unsupported("a row vector")
    return b.reshape(b.matmul(inverted, b.reshape(B, (*sizes_of(B), 1))), b.shape)


def _size(matrix: ir.Value) -> int:
    size = sizes_of(matrix)[-1]
    if size > LARGEST:
        raise Unsupported(f"a matrix of {size} rows")
    return size


def _minors(b: Builder, flat: ir.Value, size: int, order: int) -> tuple[ir.Value, _Places]:
    """All determinants of that many rows and columns, along the last axis, and where each stands.

    Each is expanded along its first row: elements times minors of one row less, with alternating signs.
    """
    places: _Places = {((row,), (column,)): row * size + column for row in range(size) for column in range(size)}
    minors = flat
    for count in range(2, order + 1):
        chosen = list(combinations(range(size), count))
        pairs = [(rows, columns) for rows in chosen for columns in chosen]
        total: ir.Value | None = None
        for index in range(count):
            elements = [rows[0] * size + columns[index] for rows, columns in pairs]
            smaller = [places[rows[1:], columns[:index] + columns[index + 1 :]] for rows, columns in pairs]
            term = b.add("Mul", _taken(b, flat, elements), _taken(b, minors, smaller))
            total = term if total is None else b.add("Sub" if index % 2 else "Add", total, term)
        if total is not None:
            minors, places = total, {pair: place for place, pair in enumerate(pairs)}
    return minors, places


def _taken(b: Builder, value: ir.Value, places: range | list[int]) -> ir.Value:
    """These places of the last axis."""
    order, sizes = list(places), sizes_of(value)
    if order == list(range(sizes[-1])):
        return value
    return b.add("Gather", value, b.ints(*order), shape=(*sizes[:-1], len(order)), axis=len(sizes) - 1)


TABLE: Mapping[str, Entry] = {
    "aten.linalg_inv.default": inverse,
    "aten.linalg_inv_ex.default": inverse_with_info,
    "aten.inverse.default": old_inverse,
    "aten.linalg_det.default": determinant,
    "aten.det.default": old_determinant,
    "aten.linalg_slogdet.default": log_determinant,
    "aten.slogdet.default": old_log_determinant,
    "aten.logdet.default": logarithm,
    "aten.linalg_solve.default": solve,
}
