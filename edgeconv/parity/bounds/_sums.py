"""Sums of products: convolutions, products of matrices, averages; by the operator itself on magnitudes.

What an operator adds up, |W| * |x| + |b|, is the operator's own result on the magnitudes of its operands, whatever its
layout, windows and groups are: no rule knows these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded

Evaluate = Callable[[Sequence[Array]], Array]

# F(m x m, 3 x 3): data, weights and result transformed (Lavin and Gray 2015, section 4).
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
    operands: Sequence[Bounded], total: Array, evaluate: Evaluate, count: Array | float, *, terms: int = 0
) -> Bounded:
    """A result that is linear in each of its operands, with factors that are not negative.

    Args:
        operands: data, weights, bias.
        total: the exact result.
        evaluate: the same operator, on other operands.
        count: the number of products in each element.
        terms: of further terms: the bias.
    """
    magnitudes = [np.abs(operand.value) for operand in operands]
    magnitude = evaluate(magnitudes)
    spreads: list[Array] = []
    for name in ("worst", "likely"):
        errors = [getattr(operand, name) for operand in operands]
        if not any(error.any() for error in errors):
            spreads.append(np.zeros(()))
        elif spreads and all(operand.worst is operand.likely for operand in operands):
            spreads.append(spreads[0])
        else:
            pairs = zip(magnitudes, errors, strict=True)
            wider = [size + error if error.any() else size for size, error in pairs]
            spreads.append(np.maximum(evaluate(wider) - magnitude, 0.0))
    return operands[0].sum_of_products(total, magnitude, count, (spreads[0], spreads[1]), terms=terms)


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
    steps = 2 * sum(int(2 * (matrix != 0).sum(1).max()) for matrix in (data, filters, back)) + channels + 2
    ratio = steps * u
    error = (ratio / (1 - ratio) if ratio < 1 else np.inf) * magnitude + steps * direct.arithmetic.least
    worst, likely = np.maximum(direct.worst, error), np.maximum(direct.likely, error)
    return direct.widened(0.0) if not np.size(error) else Bounded(direct.value, worst, likely, direct.arithmetic)
