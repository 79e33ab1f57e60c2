"""The range of a value is the one that its observer, as it is defined, gives for what calibration saw of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edgeconv.core.observed import Observed
from edgeconv.parity.quantizing._origin import Origin
from edgeconv.parity.quantizing._place import Place

_Floats = npt.NDArray[np.float64]
_LEVELS = {"int8": 2**8, "uint8": 2**8, "int16": 2**16}
_CUT_OFF = 5.0  # of "mse": the weight of a square error by clipping, against one by rounding, as the observer states it
_SHARES = np.append(np.arange(2, 100, 4) / 100, 1.0)  # of the seen range on either side, every fourth that it tries
_LEAST_SHARE = 0.1  # of "entropy"
_NEAR = 2.0**-20  # relative: sums over the same counts in another order


def observed_faults(origin: Origin) -> Iterator[Place]:
    """Faults of ranges that an observer chose; nothing is asked of those that are stated, fixed or widened."""
    for name, seen in origin.observed.items():
        numbers, chosen = origin.numbers.tensors.get(name), origin.ranges.get(name)
        if numbers is None or chosen is None:
            continue
        wrong = _RULES[seen.observer](seen, *chosen, _LEVELS[numbers.dtype])
        if wrong:
            what = f"the range of {name}, {chosen[0]:.6g} to {chosen[1]:.6g}"
            yield Place(name, f"{what}, is not the one of the observer {seen.observer}: {wrong}")


def _all_of_it(seen: Observed, low: float, high: float, levels: int) -> str:
    """Everything that was seen."""
    return "" if (low, high) == (seen.low, seen.high) else f"{seen.low:.6g} to {seen.high:.6g} were seen"


def _of_most(seen: Observed, low: float, high: float, levels: int) -> str:
    """Leaves out half of the rest at each end, to the bin, and holds zero."""
    counts = seen.counts.astype(np.float64)
    counts[-seen.first] += seen.zeros
    below = np.concatenate([[0.0], np.cumsum(counts)]) / max(1.0, counts.sum())  # the share in front of each bin
    tail = (1 - seen.percentile / 100) / 2
    at_low = int(np.clip(np.floor(low / seen.width) - seen.first, 0, len(counts) - 1))
    # Bins hold their lower edge: the largest element may be on that of the last bin, any other end is an upper edge.
    of_high = np.floor(high / seen.width) if high == seen.high else np.ceil(high / seen.width) - 1
    at_high = int(np.clip(of_high - seen.first, 0, len(counts) - 1))
    ends = (
        ("below", low, below[at_low], below[at_low + 1]),
        ("above", high, 1 - below[at_high + 1], 1 - below[at_high]),
    )
    for side, end, outside, with_its_bin in ends:
        if outside > tail + _NEAR:
            return f"{100 * outside:.4g} % of the elements are {side} it, and {100 * tail:.4g} % may be"
        if end and with_its_bin <= tail - _NEAR:
            return f"{100 * with_its_bin:.4g} % of the elements are {side} it with the bin at its end"
    return ""


def _of_least_error(seen: Observed, low: float, high: float, levels: int) -> str:
    """No other share of what was seen, at either end, has a smaller weighed square error."""
    edges = np.clip((seen.first + np.arange(len(seen.counts) + 1)) * seen.width, seen.low, seen.high)
    values, counts = (edges[:-1] + edges[1:]) / 2, seen.counts.astype(np.float64)

    def cut(ends: _Floats) -> _Floats:
        """The square error of what is beyond each end, of values of its sign."""
        sign = np.sign(ends)[:, None]
        return np.asarray((np.square(np.maximum(values * sign - ends[:, None] * sign, 0.0)) * counts).sum(1))

    lows = np.append(_SHARES * seen.low, low) if seen.low else np.array([low])
    highs = np.append(_SHARES * seen.high, high) if seen.high else np.array([high])
    below, above = cut(lows) * (lows != 0), cut(highs) * (highs != 0)
    steps = (highs[None, :] - lows[:, None]) / (levels - 1)
    error = np.square(steps) / 12 * counts.sum() + _CUT_OFF * (below[:, None] + above[None, :])
    own, least = float(error[-1, -1]), float(error.min())
    if own <= least * (1 + _NEAR):
        return ""
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return f"its weighed square error is {own / (least or 1e-300):.3g} times that of {lows[i]:.6g} to {highs[j]:.6g}"


def _of_one_share(seen: Observed, low: float, high: float, levels: int) -> str:
    """What was seen, shrunk by the same share on both sides."""
    shares = [end / whole for end, whole in ((low, seen.low), (high, seen.high)) if whole]
    if not shares or (max(shares) - min(shares) <= _NEAR and _LEAST_SHARE - _NEAR <= shares[0] <= 1 + _NEAR):
        return ""
    return f"it holds {' and '.join(f'{share:.3g}' for share in shares)} of both sides"


_RULES: Mapping[str, Callable[[Observed, float, float, int], str]] = {
    "min-max": _all_of_it,
    "percentile": _of_most,
    "mse": _of_least_error,
    "entropy": _of_one_share,
}
