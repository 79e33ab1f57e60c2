"""Sums of products: convolutions, products of matrices, averages; by the operator itself on magnitudes.

What an operator adds up, |W| * |x| + |b|, is the operator's own result on the magnitudes of its operands, whatever its
layout, windows and groups are: no rule knows these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded

Evaluate = Callable[[Sequence[Array]], Array]
_MOST_AT_ONCE = 1 << 23  # weights, of float64: 64 MB

# F(m x m, 3 x 3): what transforms data, weights and result (Lavin and Gray 2015, section 4: B^T, G and A^T).
_TRANSFORMS: dict[int, tuple[Array, Array, Array]] = {
    2: (
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float64),
        np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.float64) / 2,
        np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float64),
    ),
    4: (
        np.array(
            [
                *([4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]),
                *([0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]),
            ],
            np.float64,
        ),
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float64) / 24,
        np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64),
    ),
}


def linear(
    operands: Sequence[Bounded],
    total: Array,
    evaluate: Evaluate,
    count: Array | float,
    *,
    terms: int = 0,
    outputs: Sequence[int | None] = (),
) -> Bounded:
    """A result that is linear in each of its operands, with factors that are not negative.

    Args:
        operands: data, weights, bias.
        total: the exact result.
        evaluate: the same operator, on other operands.
        count: the number of products in each element.
        terms: of further terms: the bias.
        outputs: of each operand, the axis that is the last of the result; None where it has none. Large weights then
            go in parts.
    """
    evaluated = partial(_in_parts, operands, evaluate, outputs)
    magnitude = evaluated(lambda operand, part: np.abs(operand.value[part]))
    spreads: list[Array] = []
    for name in ("worst", "likely"):
        errors = [getattr(operand, name) for operand in operands]
        if not any(error.any() for error in errors):
            spreads.append(np.zeros(()))
        elif spreads and all(operand.worst is operand.likely for operand in operands):
            spreads.append(spreads[0])
        else:
            # |W| |x| with the errors added, less that without: d |x| + |W| e + d e.
            wider = evaluated(partial(_wider, name))
            spreads.append(np.maximum(wider - magnitude, 0.0))
    return operands[0].sum_of_products(total, magnitude, count, (spreads[0], spreads[1]), terms=terms)


_Part = tuple[slice, ...]


def _wider(name: str, operand: Bounded, part: _Part) -> Array:
    """A part of an operand's magnitudes with its errors of that name."""
    size, error = np.abs(operand.value[part]), getattr(operand, name)
    if not error.any():
        return size
    return np.asarray(size + (error[part] if error.shape == operand.value.shape else error))


def _in_parts(
    operands: Sequence[Bounded],
    evaluate: Evaluate,
    outputs: Sequence[int | None],
    read: Callable[[Bounded, _Part], Array],
) -> Array:
    """A result on what is read of the operands; a part of it at a time where the weights are large."""
    weight = max(operands, key=lambda operand: operand.value.size).value
    along = outputs[[operand.value is weight for operand in operands].index(True)] if outputs else None
    if along is None or weight.size <= _MOST_AT_ONCE:
        return evaluate([read(operand, ()) for operand in operands])
    count, step = weight.shape[along], max(1, weight.shape[along] * _MOST_AT_ONCE // weight.size)
    results = []
    for start in range(0, count, step):
        arrays = []
        for operand, axis in zip(operands, outputs, strict=True):
            part: _Part = ()
            if axis is not None and operand.value.ndim and operand.value.shape[axis] == count:
                part = (*[slice(None)] * (axis % operand.value.ndim), slice(start, start + step))
            arrays.append(read(operand, part))
        results.append(evaluate(arrays))
    return np.concatenate(results, -1)


def winograd(direct: Bounded, x: Array, weight: Array, bias: Array | None) -> Bounded:
    """A 3 x 3 convolution of stride 1 in tiles, with the errors of the direct one where these are larger.

    Each factor goes through its transforms, the products are added up over the channels, and the sums are transformed
    back: |A| ((|G| |w| |G|') . (|B| |x| |B|')) |A|' bounds what is added up, and each path to a result rounds a known
    number of times (Barabasz et al. 2020, theorem 2, element by element instead of in norms).

    Args:
        direct: the bound of the direct convolution, NCHW.
        x: padded data, NCHW: two more rows and columns than the result.
        weight: OIHW.
        bias: by output channel.
    """
    data, filters, back = _TRANSFORMS[direct.arithmetic.winograd]
    tile, size = back.shape
    batch, channels = x.shape[:2]
    rows, columns = direct.value.shape[2:]
    counts = -(-rows // tile), -(-columns // tile)
    fill = [(0, count * tile + 2 - extent) for count, extent in zip(counts, x.shape[2:], strict=True)]
    padded = np.pad(np.abs(x), [(0, 0), (0, 0), *fill])
    tiles = sliding_window_view(padded, (size, size), (2, 3))[:, :, ::tile, ::tile]
    moved = np.abs(data) @ tiles @ np.abs(data).T
    turned = np.abs(filters) @ np.abs(weight) @ np.abs(filters).T
    sums = np.einsum("nchwij,kcij->nkhwij", moved, turned, optimize=True)
    whole = (np.abs(back) @ sums @ np.abs(back).T).transpose(0, 1, 2, 4, 3, 5)
    magnitude = whole.reshape(batch, len(weight), counts[0] * tile, counts[1] * tile)[:, :, :rows, :columns]
    magnitude = magnitude if bias is None else magnitude + np.abs(bias).reshape(-1, 1, 1)
    u = direct.arithmetic.unit
    # Each transform is applied from both sides, and each of its sums has one product and one addition for every number
    # of a row that is not 0; in between are the products, summed over the channels, and at the end the bias.
    steps = 2 * sum(int(2 * (matrix != 0).sum(1).max()) for matrix in (data, filters, back)) + channels + 2
    ratio = steps * u
    error = (ratio / (1 - ratio) if ratio < 1 else np.inf) * magnitude + steps * direct.arithmetic.least
    worst, likely = np.maximum(direct.worst, error), np.maximum(direct.likely, error)
    return direct.widened(0.0) if not np.size(error) else Bounded(direct.value, worst, likely, direct.arithmetic)
