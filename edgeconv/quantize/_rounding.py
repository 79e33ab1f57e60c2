"""Rounding of weights that lets later weights make up for the error of earlier ones.

Frantar et al., "GPTQ" (ICLR 2023, arXiv 2210.17323), after Hassibi and Stork's optimal brain surgeon: of all taps of a
channel one after another is rounded, and what that does to the layer's output is taken back, as far as it goes, by
those still to be rounded. The inputs' second moments say how; no gradient is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import WEIGHT_LIMITS, saturated
from edgeconv.core.threads import one_thread
from edgeconv.quantize._pairs import LARGEST_SUM
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._targets import unit_of
from edgeconv.quantize._tune import Rounding, RoundingProblem, tune

_Floats = npt.NDArray[np.float64]

_DAMPING = 0.01  # of the mean second moment: taps that were never seen apart from others stay near their own value
_LEAST_POWER = 2.0**-60  # of sums of squares: products that float32 does not hold are nothing beside it
_ROWS = 192  # of moments that are computed together
_BLOCK = 64  # taps whose errors reach the later ones in one product (section 3.3, "lazy batch-updates")
# Per layer: on EfficientNet-Lite0 4000 gave 0.5 dB, 8000 0.8 dB and 20000 1.0 dB over bias correction.
_POSITIONS = 8000
# And no more for each tap: 1152 for a depthwise 3x3, whose columns are nine times its input. EfficientNet-Lite0,
# onnxruntime, five sets of 100 calibration images, judged on 900 to 1000 photographs that are in none: 24.76, 25.01,
# 25.22, 25.28 and 25.22 dB. With 1000, which takes a second more: 24.72, 24.97, 25.31, 25.14, 25.17; 256 and 512 gain
# as little. Agreement moves both ways: 99.0, 99.1, 99.1, 99.1, 99.2 %, and 99.4, 99.1, 98.8, 99.1, 99.2.
_POSITIONS_PER_TAP = 128
_HIGHEST = WEIGHT_LIMITS[1]


def round_weights(
    model: ir.Model,
    plan: Plan,
    batches: Iterable[Mapping[str, Array]],
    *,
    progress: Callable[[str], None] | None = None,
) -> ir.Model:
    """Rounds weights with feedback, and corrects the biases, layer by layer on calibration data.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: says what is quantized, and the grid of each weight.
        batches: calibration data; as many as fit into memory (256 MiB for the largest activation) are used.
        progress: is told how far it is, in one line, before every layer.

    Returns:
        A new float model whose weights lie on the plan's grid, so that rounding to nearest finds them again.

    Raises:
        QuantizeError: the plan does not fit the model, or the batches do not.
    """
    rounding = Rounding(_round, _POSITIONS, _POSITIONS_PER_TAP)
    with one_thread():
        return tune(model, plan, batches, title="rounding with feedback", rounding=rounding, progress=progress)


def _round(problem: RoundingProblem) -> _Floats:
    return rounded_with_feedback(problem.weight, problem.scales, moments(problem.seen), _HIGHEST, problem.partner)


def moments(columns: Array) -> _Floats:
    """Second moments (groups, taps, taps) of columns (groups, positions, taps), times a number of their own.

    float32 does not hold the square of 1e20, and rounding does not depend on the number.
    """
    sums = _products(columns)
    # To look for the unit first would take as long as the products of a depthwise layer do.
    if not _LEAST_POWER < sums.max(initial=0.0) < np.inf:
        sums = _products(columns * unit_of(columns))
    return np.asarray(sums.astype(np.float64) / columns.shape[1])


def _products(columns: Array) -> Array:
    """Sums over positions of the products of any two taps: float32 (groups, taps, taps)."""
    import torch

    x = torch.from_numpy(columns)
    groups, _, taps = x.shape
    sums = torch.empty(groups, taps, taps)
    # They are symmetric: a block of rows needs the columns from its own on.
    for start in range(0, taps, _ROWS):
        rows = slice(start, start + _ROWS)
        products = torch.bmm(x[:, :, rows].transpose(1, 2), x[:, :, start:])
        sums[:, rows, start:] = products
        sums[:, start:, rows] = products.transpose(1, 2)
    return np.asarray(sums.numpy())


def rounded_with_feedback(
    weight: _Floats, scales: _Floats, moments: _Floats, highest: int, partner: npt.NDArray[np.int64] | None = None
) -> _Floats:
    """Rounds a weight to multiples of its scales.

    Args:
        weight: (groups, channels, taps).
        scales: that broadcast over it, one per channel.
        moments: (groups, taps, taps), of the layer's inputs.
        highest: the largest multiple.
        partner: of `edgeconv.quantize._pairs.partners`: no such pair overflows; None where all may.

    Returns:
        The multiples of the scales, (groups, channels, taps), as real weights.
    """
    import torch

    # 1. Taps in the order in which they are rounded, as rows: (groups, taps, channels).
    diagonal = torch.diagonal(torch.from_numpy(moments), dim1=1, dim2=2)
    order = torch.argsort(diagonal, dim=1, descending=True).numpy()  # what moves the output most is rounded first
    w = np.take_along_axis(np.swapaxes(weight, 1, 2), order[:, :, None], axis=1)
    scale = np.broadcast_to(scales, weight.shape)[:, :, 0]
    factor = _factor(moments, order)
    ease = np.diagonal(factor, axis1=1, axis2=2)
    pairs = None if partner is None else _Pairs(partner, order, ease)
    # 2. Tap by tap: round, and subtract what that costs from the taps still to be rounded.
    taps = w.shape[1]
    for start in range(0, taps, _BLOCK):
        stop = min(start + _BLOCK, taps)
        errors = np.empty((w.shape[0], stop - start, w.shape[2]))
        for tap in range(start, stop):
            real = w[:, tap]
            steps = real / scale
            if pairs is not None:
                steps = pairs.limited(tap, steps, w, scale)
            rounded = saturated(steps, (-highest, highest)) * scale
            error = errors[:, tap - start] = (real - rounded) / ease[:, tap, None]
            w[:, tap + 1 : stop] -= factor[:, tap, tap + 1 : stop, None] * error[:, None]
            w[:, tap] = rounded
        behind = torch.from_numpy(factor[:, start:stop, stop:]).transpose(1, 2) @ torch.from_numpy(errors)
        w[:, stop:] -= behind.numpy()
    result = np.empty_like(weight)
    np.put_along_axis(np.swapaxes(result, 1, 2), order[:, :, None], w, axis=1)
    return result


def _factor(moments: _Floats, order: npt.NDArray[np.int64]) -> _Floats:
    """The upper Cholesky factor of H⁻¹, of taps in an order (groups, taps).

    Row t says how an error of tap t is best made up for by all later taps (section 3.3, step 3: the same as updating
    H⁻¹ after each tap, and stable). With the taps backwards H = L·Lᵀ; forwards again the inverse of L is the factor,
    since H⁻¹ = L⁻ᵀ·L⁻¹: half the work of H⁻¹ and two factorizations.
    """
    import torch

    backwards = order[:, ::-1]
    h = torch.from_numpy(moments[np.arange(len(order))[:, None, None], backwards[:, :, None], backwards[:, None, :]])
    mean = torch.diagonal(h, dim1=1, dim2=2).mean(dim=1).clamp(min=1e-30)
    identity = torch.eye(h.shape[1], dtype=h.dtype)
    lower = torch.linalg.cholesky(h + identity * (_DAMPING * mean)[:, None, None])
    inverse = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
    # A copy in any case: of a single tap the view counts as contiguous, and torch takes no negative strides.
    return np.array(inverse.numpy()[:, ::-1, ::-1], order="C")


class _Pairs:
    """Bounds of a tap by its partner, where taps are rounded in an order of their own.

    The second of a pair is bounded by what the first became. The first leaves it room: where both together are too
    large each gives up a share of the excess, the larger the less it moves the output (the squares of the factor's
    diagonal are the inverse of what a unit of error costs once all later taps have made up for it).

    Args:
        partner: of each tap, of `edgeconv.quantize._pairs.partners`.
        order: of rounding, (groups, taps).
        diagonal: of the factor, (groups, taps).
    """

    def __init__(self, partner: npt.NDArray[np.int64], order: npt.NDArray[np.int64], diagonal: _Floats) -> None:
        groups, taps = order.shape
        place = np.argsort(order, axis=1)  # where each tap stands in the order of rounding
        mates = partner[order]
        alone, self._mates = mates < 0, np.take_along_axis(place, np.maximum(mates, 0), axis=1)
        ease = np.square(diagonal)
        # A tap whose partner is rounded already takes the whole excess on itself.
        share = np.where(
            self._mates < np.arange(taps), 1.0, ease / (ease + np.take_along_axis(ease, self._mates, axis=1))
        )
        self._shares = np.where(alone, 0.0, share)[:, :, None]
        self._groups = np.arange(groups)

    def limited(self, tap: int, steps: _Floats, weight: _Floats, scale: _Floats) -> _Floats:
        """The steps (groups, channels) of a tap within what its partner leaves it.

        Args:
            tap: that is next.
            steps: its multiples of the scale.
            weight: (groups, taps, channels); taps before this one are rounded.
            scale: (groups, channels).
        """
        other = weight[self._groups, self._mates[:, tap]] / scale
        size = np.minimum(np.abs(steps), _HIGHEST)
        excess = np.maximum(np.minimum(np.abs(other), _HIGHEST) + size - LARGEST_SUM, 0)
        smaller = np.sign(steps) * (size - excess * self._shares[:, tap])
        return np.where(steps * other > 0, smaller, steps)
