"""Determinants, by Gaussian elimination with row exchanges, or by cofactors.

Elimination gives the determinant of A + E, but for the n roundings of its last product, where |E| <= gamma_n |L| |U|
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., theorem 9.3 and section 14.6); blocks, as Eigen's
`partialPivLu` has them, which onnxruntime's core/providers/cpu/math/det.cc calls, only take other orders of sums. Where
a kernel may find another pivot, as two are equal but for its errors, |L| <= 1 and each step at most doubles the largest
number of a column (Wilkinson's growth): column j of |L| |U| has no number beyond 2^j max_i |a_ij|.

By E the determinant changes by the least of these. It is linear in each column and at most the product of their
lengths (Hadamard): prod (|a_j| + |e_j|) - prod |a_j|. And it is det(A) (det(I + X) - 1) with X = A^-1 E, a sum over all
sets of columns of which each is at most the product of the columns' sums: |det(A)| (prod (1 + c_j) - 1).
Where the pivots are sure, it is also at most what their own running errors make of their product.

Cofactors round each of the n! products at most n (n + 1) / 2 times, and the sum of their magnitudes is at most the
product of the columns' sums; kernels that have them do for up to four rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded

_COFACTORS = 4
_WELL_CONDITIONED = 1e10  # up to which the inverse in float64 is right to six digits
_SIX_DIGITS = 1e-6


def determinant(x: Bounded, value: Array) -> Bounded:
    """Of square matrices in the last two axes.

    Args:
        x: (..., n, n).
        value: the exact determinants, (...).
    """
    count, u, least = x.value.shape[-1], x.arithmetic.unit, x.arithmetic.least
    matrices = x.value.reshape(-1, count, count)
    errors = np.broadcast_to(x.worst, x.value.shape).reshape(matrices.shape)
    size = np.abs(matrices)
    grown = 2.0 ** np.arange(1, count + 1) * (size + errors).max(-2)
    factors = _eliminated(matrices, errors, grown, u)
    # Two more roundings: a quotient may be a product by a reciprocal. Products and quotients may vanish.
    moved = _gamma(count + 2, u) * factors.product + least * (count + grown)[:, None, :]
    moved += np.take_along_axis(errors, factors.rows[:, :, None], 1)
    permuted = np.take_along_axis(matrices, factors.rows[:, :, None], 1)
    change = np.fmin(_by_lengths(permuted, moved), _by_inverse(permuted, moved))
    change = np.fmin(change, (factors.pivots + factors.errors).prod(-1) - factors.pivots.prod(-1))
    worst = change + _gamma(count, u) * (np.abs(value.reshape(-1)) + change)
    if count <= _COFACTORS:
        sums = (size + errors).sum(-2).prod(-1)
        expanded = _gamma(count * (count + 1) / 2, u) * sums + (sums - size.sum(-2).prod(-1))
        worst = np.maximum(worst, expanded)
    # Partial products of the pivots may vanish or overflow.
    largest = np.maximum(np.diagonal(factors.product, axis1=1, axis2=2), 1.0).prod(-1)
    worst = worst + 2 * count * least * largest + np.where(largest < x.arithmetic.largest, 0.0, np.inf)
    worst = (errors.reshape(-1) if count == 1 else worst).reshape(value.shape)
    return x.within(value, worst, worst)


@dataclass(frozen=True)
class _Factors:
    """What elimination makes of matrices.

    Attributes:
        rows: their order, (N, n).
        product: |L| |U| as a kernel may have it, of the rows in that order.
        pivots: their magnitudes.
        errors: of the pivots; infinite where a kernel may find others.
    """

    rows: Array
    product: Array
    pivots: Array
    errors: Array


def _eliminated(matrices: Array, errors: Array, grown: Array, unit: float) -> _Factors:
    """By running error analysis, with sums in any order: each addition rounds at most all that is added up."""
    value, error, added = matrices.copy(), errors.copy(), np.abs(matrices) + errors
    batch, count = value.shape[:2]
    rows, product, at = np.tile(np.arange(count), (batch, 1)), np.zeros(value.shape), np.arange(batch)
    sure = np.asarray(np.isfinite(matrices).all((1, 2)))
    for step in range(count):
        size, spread = np.abs(value[:, step:, step]), error[:, step:, step]
        pivot = size.argmax(1)
        lowest = size[at, pivot] - spread[at, pivot]
        others = size + spread
        others[at, pivot] = 0.0
        sure &= lowest > others.max(1)
        for array in (value, error, added, rows, product):
            array[at, step], array[at, pivot + step] = array[at, pivot + step].copy(), array[at, step].copy()
        right, right_error = value[:, step, None, step:], error[:, step, None, step:]
        below = value[:, step + 1 :, step, None] / right[:, :, :1]
        # A quotient's error (see `Bounded`), its own two roundings among it; where the pivot may be 0, it is not sure.
        room = np.where(sure, lowest, 1.0)[:, None, None]
        below_error = (error[:, step + 1 :, step, None] + np.abs(below) * right_error[:, :, :1]) / room
        below_error = below_error + 2 * unit * (np.abs(below) + below_error)
        carried = np.abs(below) * right_error + below_error * (np.abs(right) + right_error)
        product[:, step, step:] += (np.abs(right) + right_error)[:, 0]
        product[:, step + 1 :, step:] += np.abs(below * right) + carried
        value[:, step + 1 :, step:] -= below * right
        added[:, step + 1 :, step:] += np.abs(below * right) + carried
        error[:, step + 1 :, step:] += carried + unit * (np.abs(below * right) + added[:, step + 1 :, step:])
    sure &= np.isfinite(product).all((1, 2))
    pivots, spread = (np.abs(np.diagonal(array, axis1=1, axis2=2)) for array in (value, error))
    return _Factors(
        rows, np.where(sure[:, None, None], product, grown[:, None, :]), pivots, np.where(sure[:, None], spread, np.inf)
    )


def _by_lengths(matrices: Array, errors: Array) -> Array:
    """By Hadamard's inequality."""
    lengths, further = (np.sqrt(np.square(array).sum(-2)) for array in (matrices, errors))
    return np.asarray((lengths + further).prod(-1) - lengths.prod(-1))


def _by_inverse(matrices: Array, errors: Array) -> Array:
    """By the sums of the columns of |A^-1| |E|; infinite where A may be singular."""
    finite = np.isfinite(matrices).all((1, 2))
    condition = np.full(len(matrices), np.inf)
    condition[finite] = np.linalg.cond(matrices[finite])
    regular = condition < _WELL_CONDITIONED
    change = np.full(len(matrices), np.inf)
    inverse = np.abs(np.linalg.inv(matrices[regular]))
    inverse += _SIX_DIGITS * inverse.max((1, 2), initial=0.0)[:, None, None]
    sums = (inverse @ errors[regular]).sum(-2)
    change[regular] = np.abs(np.linalg.det(matrices[regular])) * np.expm1(np.log1p(sums).sum(-1))
    return change


def _gamma(count: float, unit: float) -> float:
    """n u / (1 - n u) (Higham, lemma 3.1)."""
    return count * unit / (1 - count * unit) if count * unit < 1 else math.inf
