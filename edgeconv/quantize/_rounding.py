"""Rounding of weights that lets later weights make up for the error of earlier ones.

Frantar et al., "GPTQ" (ICLR 2023, arXiv 2210.17323), after Hassibi and Stork's optimal brain surgeon: of all taps of a
channel one after another is rounded, and what that does to the layer's output is taken back, as far as it goes, by
those still to be rounded. The inputs' second moments say how; no gradient is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import torch

_Floats = npt.NDArray[np.float64]

_DAMPING = 0.01  # of the mean second moment: taps that were never seen apart from others stay near their own value
_BLOCK = 64  # taps whose errors reach the later ones in one product (section 3.3, "lazy batch-updates")
# Per layer: on EfficientNet-Lite0 4000 gave 0.5 dB, 8000 0.8 dB and 20000 1.0 dB over bias correction.
_POSITIONS = 8000
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
    rounding = Rounding(_round, _POSITIONS)
    with one_thread():
        return tune(model, plan, batches, title="rounding with feedback", rounding=rounding, progress=progress)


def _round(problem: RoundingProblem) -> _Floats:
    return rounded_with_feedback(problem.weight, problem.scales, moments(problem.seen), _HIGHEST, problem.partner)


def moments(columns: Array) -> _Floats:
    """Second moments (groups, taps, taps) of columns (groups, positions, taps), times a number of their own.

    float32 does not hold the square of 1e20, and rounding does not depend on the number.
    """
    import torch

    x = torch.from_numpy(columns * unit_of(columns))
    means = torch.bmm(x.transpose(1, 2), x) / x.shape[1]
    return np.asarray(means.double().numpy())


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

    # 1. Taps in the order in which they are rounded.
    w, h, s = (torch.from_numpy(np.array(array)) for array in (weight, moments, np.broadcast_to(scales, weight.shape)))
    groups, channels, taps = w.shape
    diagonal = torch.diagonal(h, dim1=1, dim2=2)
    order = torch.argsort(diagonal, dim=1, descending=True)  # what moves the output most is rounded first
    rows = order[:, None, :].expand(-1, channels, -1)
    w, s = w.gather(2, rows), s.gather(2, rows)
    h = h.gather(1, order[:, :, None].expand(-1, -1, taps)).gather(2, order[:, None, :].expand(-1, taps, -1))
    # 2. The upper Cholesky factor of H⁻¹: row t says how an error of tap t is best made up for by all later taps
    # (section 3.3, step 3: the same as updating H⁻¹ after each tap, and stable).
    h = h + torch.eye(taps, dtype=h.dtype) * (_DAMPING * diagonal.mean(dim=1).clamp(min=1e-30))[:, None, None]
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    pairs = None if partner is None else _Pairs(partner, order, factor, channels)
    # 3. Tap by tap: round, and subtract what that costs from the taps still to be rounded.
    for start in range(0, taps, _BLOCK):
        stop = min(start + _BLOCK, taps)
        errors = torch.empty(groups, channels, stop - start, dtype=w.dtype)
        for tap in range(start, stop):
            real, scale = w[:, :, tap], s[:, :, tap]
            steps = real / scale
            if pairs is not None:
                steps = pairs.limited(tap, steps, w, scale)
            rounded = saturated(steps, (-highest, highest)) * scale
            error = (real - rounded) / factor[:, tap, tap, None]
            w[:, :, tap:stop] -= error[:, :, None] * factor[:, None, tap, tap:stop]
            w[:, :, tap] = rounded
            errors[:, :, tap - start] = error
        w[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return np.asarray(torch.empty_like(w).scatter_(2, rows, w).numpy())


class _Pairs:
    """Bounds of a tap by its partner, where taps are rounded in an order of their own.

    The second of a pair is bounded by what the first became. The first leaves it room: where both together are too
    large each gives up a share of the excess, the larger the less it moves the output (the squares of the factor's
    diagonal are the inverse of what a unit of error costs once all later taps have made up for it).
    """

    def __init__(
        self, partner: npt.NDArray[np.int64], order: torch.Tensor, factor: torch.Tensor, channels: int
    ) -> None:
        import torch

        groups, taps = order.shape
        # Where each tap stands in the order of rounding.
        place = torch.empty_like(order).scatter_(1, order, torch.arange(taps).expand(groups, -1))
        mates = torch.from_numpy(partner)[order]
        alone, mates = mates < 0, place.gather(1, mates.clamp(min=0))
        ease = torch.diagonal(factor, dim1=1, dim2=2).square()
        # A tap whose partner is rounded already takes the whole excess on itself.
        share = torch.where(mates < torch.arange(taps), 1.0, ease / (ease + ease.gather(1, mates)))
        self._shares = torch.where(alone, 0.0, share)[:, None].unbind(2)
        self._mates = mates[:, None, None].expand(-1, channels, -1, -1).unbind(3)

    def limited(self, tap: int, steps: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The steps (groups, channels) of a tap within what its partner leaves it.

        Args:
            tap: that is next.
            steps: its multiples of the scale.
            weight: (groups, channels, taps); taps before this one are rounded.
            scale: (groups, channels).
        """
        import torch

        other = weight.gather(2, self._mates[tap])[:, :, 0] / scale
        size = steps.abs().clamp_(max=_HIGHEST)
        excess = other.abs().clamp_(max=_HIGHEST).add_(size).sub_(LARGEST_SUM).clamp_(min=0)
        smaller = steps.sign() * (size - excess * self._shares[tap])
        return torch.where(steps * other > 0, smaller, steps)
