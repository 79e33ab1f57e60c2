"""Determinants, inverses and linear systems of small matrices, by their minors; cross products; matrices of powers.

ONNX has Det but no inverse, TFLite neither. Up to four rows, Laplace's expansion (Golub and Van Loan, Matrix
Computations, 2.1) takes few operators. Larger matrices would need elimination with pivots, which depend on values.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Result, Unsupported, renamed, sizes_of

LARGEST = 4
"""The most rows of a matrix that is expanded by minors."""
_SMALLEST = float(np.finfo(np.float32).tiny)
_Places = Mapping[tuple[tuple[int, ...], tuple[int, ...]], int]
"""By (rows, columns) of a minor: its position on the last axis."""


def inverse(b: Builder, A: ir.Value) -> ir.Value:  # noqa: N803 torch's name
    """The adjugate (the transposed cofactors) divided by the determinant, of matrices (…, n, n), n up to `LARGEST`.

    Computed of the matrix with scaled rows (`_scaled`); the columns of the inverse are divided by the same scales.
    """
    if _size(A) == 1:
        return b.add("Reciprocal", A)
    scaled, scales = _scaled(b, A)
    adjugate, whole = _adjugate(b, scaled)
    return b.add("Div", b.add("Div", adjugate, whole), _as_row(b, scales))


def inverse_with_info(b: Builder, A: ir.Value, check_errors: bool) -> Result:  # noqa: N803 torch's name
    """The inverse; a module that uses ``info``, whether there is one, is refused."""
    if b.is_used(1):
        raise Unsupported("whether a matrix has an inverse")
    return [inverse(b, A), None]


def determinant(b: Builder, A: ir.Value) -> ir.Value:  # noqa: N803 torch's name
    """The determinants (…) of matrices (…, n, n), n up to `LARGEST`: of rows scaled to 1, times the scales."""
    if _size(A) == 1:
        return b.reshape(A, sizes_of(A)[:-2])
    scaled, scales = _scaled(b, A)
    factors = b.concat([_determinant(b, scaled), scales], -2 % len(sizes_of(A)))
    return b.reshape(b.reduce("ReduceProd", factors, [-2], keepdims=False), sizes_of(A)[:-2])


def log_determinant(b: Builder, A: ir.Value) -> Result:  # noqa: N803 torch's name
    """``slogdet``: the sign of the determinant, and the logarithm of its absolute value."""
    sizes = sizes_of(A)[:-2]
    if _size(A) == 1:
        whole = b.reshape(A, sizes)
        return [b.add("Sign", whole), b.add("Log", b.add("Abs", whole))]
    scaled, scales = _scaled(b, A)
    whole = b.reshape(_determinant(b, scaled), sizes)
    return [b.add("Sign", whole), _with_logarithms(b, b.add("Abs", whole), scales)]


def logarithm(b: Builder, x: ir.Value) -> ir.Value:
    """``logdet``: the logarithm of the determinant, which is NaN where that is negative."""
    if _size(x) == 1:
        return b.add("Log", b.reshape(x, sizes_of(x)[:-2]))
    scaled, scales = _scaled(b, x)
    return _with_logarithms(b, b.reshape(_determinant(b, scaled), sizes_of(x)[:-2]), scales)


def solve(b: Builder, A: ir.Value, B: ir.Value, left: bool) -> ir.Value:  # noqa: N803 torch's names
    """A⁻¹ · B, or B · A⁻¹ (``left=False``): the product with the adjugate, then the division by the determinant.

    In this order the result may be in range where the inverse itself is not. A vector is one column; a row vector is
    refused.
    """
    is_vector = len(sizes_of(B)) == 1 or sizes_of(B) == sizes_of(A)[:-1]
    if is_vector and not left:
        raise Unsupported("a row vector")
    column = b.reshape(B, (*sizes_of(B), 1)) if is_vector else B
    if _size(A) == 1:
        return b.reshape(b.add("Div", column, A), b.shape)
    scaled, scales = _scaled(b, A)
    adjugate, whole = _adjugate(b, scaled)
    if left:
        solution = b.add("Div", b.matmul(adjugate, b.add("Div", column, scales)), whole)
    else:
        solution = b.add("Div", b.add("Div", b.matmul(column, adjugate), whole), _as_row(b, scales))
    return b.reshape(solution, b.shape)


def _scaled(b: Builder, matrix: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The matrix with each row divided by its largest absolute element, and these divisors, (…, n, 1).

    Minors are products of up to four elements. Without the scales those of elements of 1e-12 underflow in float32,
    where torch's LU factors are in range, and those of a camera matrix overflow in float16; so all of these nodes stay
    float32 in a float16 file.
    """
    b.write_out()
    largest = b.reduce("ReduceMax", b.add("Abs", matrix), [-1], keepdims=True)
    scales = b.add("Max", largest, b.scalar(_SMALLEST))  # no division by 0 in a row of zeros
    return b.add("Div", matrix, scales), scales


def _as_row(b: Builder, scales: ir.Value) -> ir.Value:
    *batch, size, _ = sizes_of(scales)
    return b.reshape(scales, (*batch, 1, size))


def _with_logarithms(b: Builder, whole: ir.Value, scales: ir.Value) -> ir.Value:
    """The logarithm of a determinant (…): that of the scaled matrix's, plus those of the scales."""
    logarithms = b.reduce("ReduceSum", b.add("Log", scales), [-2, -1], keepdims=False)
    return b.add("Add", b.add("Log", whole), logarithms)


def _determinant(b: Builder, matrix: ir.Value) -> ir.Value:
    """The determinant, of shape (…, 1, 1)."""
    *batch, size, _ = sizes_of(matrix)
    return b.reshape(_minors(b, b.reshape(matrix, (*batch, size * size)), size, size)[0], (*batch, 1, 1))


def _adjugate(b: Builder, matrix: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The adjugate of matrices (…, n, n), of the same shape, and the determinant, (…, 1, 1)."""
    *batch, size, _ = sizes_of(matrix)
    flat = b.reshape(matrix, (*batch, size * size))
    minors, places = _minors(b, flat, size, size - 1)
    everything = range(size)

    def without(index: int) -> tuple[int, ...]:
        return tuple(other for other in everything if other != index)

    # Transposed: the element (row, column) is the minor without that column's row and that row's column.
    order = [places[without(column), without(row)] for row in everything for column in everything]
    signs = [(-1.0) ** (row + column) for row in everything for column in everything]
    adjugate = b.add("Mul", _taken(b, minors, order), b.constant(np.array(signs, b.dtype.numpy())))
    first_row = _taken(b, flat, range(size))
    first_cofactors = _taken(b, adjugate, [row * size for row in everything])
    whole = b.reduce("ReduceSum", b.add("Mul", first_row, first_cofactors), [-1], keepdims=True)
    return b.reshape(adjugate, sizes_of(matrix)), b.reshape(whole, (*batch, 1, 1))


def _size(matrix: ir.Value) -> int:
    size = sizes_of(matrix)[-1]
    if size > LARGEST:
        raise Unsupported(f"a matrix of {size} rows")
    return size


def _minors(b: Builder, flat: ir.Value, size: int, order: int) -> tuple[ir.Value, _Places]:
    """All minors of `order` rows and columns, along the last axis, and the position of each.

    Args:
        b: appends the nodes.
        flat: matrices (…, size · size), row by row.
        size: rows of the matrices.
        order: rows of the minors.

    A minor is expanded along its first row: elements times minors of one row less, with alternating signs. All minors
    of one order are computed together, by two Gathers and a Mul per term.
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


def cross(b: Builder, x: ir.Value, other: ir.Value, dim: int) -> ir.Value:
    """The cross product along an axis of three: (x₁y₂ - x₂y₁, x₂y₀ - x₀y₂, x₀y₁ - x₁y₀)."""
    values = [b.tensor(value) for value in (x, other)]

    def rotated(value: ir.Value, *places: int) -> ir.Value:
        sizes = sizes_of(value)
        return b.add("Gather", value, b.ints(*places), shape=sizes, axis=dim % len(sizes))

    next_ones, after_next = ([rotated(value, *places) for value in values] for places in ((1, 2, 0), (2, 0, 1)))
    return b.add("Sub", b.add("Mul", next_ones[0], after_next[1]), b.add("Mul", after_next[0], next_ones[1]))


def vandermonde(b: Builder, x: ir.Value, N: int | None) -> ir.Value:  # noqa: N803 torch's name
    """The powers 0 to N-1 of each element of x (…, n), as many as elements by default: (…, n, N).

    Each step multiplies the powers so far by the largest of them, so that N powers take log2(N) products.
    """
    count = b.shape[-1]
    powers = b.reshape(b.cast(x, b.dtype), (*sizes_of(x), 1))
    ones = b.filled(1, *sizes_of(powers))
    if count < 2:
        return b.add("Expand", ones, b.ints(*b.shape), shape=b.shape)
    b.write_out()
    while (width := sizes_of(powers)[-1]) < count - 1:
        largest = b.slice(powers, -1, width - 1, width)
        next_ones = b.slice(powers, -1, 0, min(width, count - 1 - width))
        powers = b.concat([powers, b.add("Mul", next_ones, largest)], len(b.shape) - 1)
    return b.concat([ones, powers], len(b.shape) - 1)


def vander(b: Builder, x: ir.Value, N: int | None, increasing: bool) -> ir.Value:  # noqa: N803 torch's name
    """``torch.vander`` of a vector: `vandermonde`, from the largest power unless ``increasing``."""
    powers = vandermonde(b, x, N)
    count = b.shape[-1]
    if increasing or count < 2:
        return powers
    return b.add("Gather", powers, b.ints(*reversed(range(count))), shape=b.shape, axis=1)


TABLE: Mapping[str, Entry] = {
    "aten.linalg_cross.default": cross,
    "aten.cross.default": cross,
    "aten.linalg_inv.default": inverse,
    "aten.linalg_inv_ex.default": inverse_with_info,
    "aten.inverse.default": renamed(inverse, x="A"),
    "aten.linalg_det.default": determinant,
    "aten.det.default": renamed(determinant, x="A"),
    "aten.linalg_slogdet.default": log_determinant,
    "aten.slogdet.default": renamed(log_determinant, x="A"),
    "aten.logdet.default": logarithm,
    "aten.linalg_solve.default": solve,
    "aten.linalg_vander.default": vandermonde,
    "aten.vander.default": vander,
}
