"""The distance of an output from its float64 reference, in one pass through memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array, Metrics, Tolerance, values
from edgeconv.core.affine import decibels
from edgeconv.errors import ParityError

REL_FLOOR_OF_RMS = 1e-3
"""The floor of ``max_rel``'s denominator, as a part of the reference's root mean square.

Without a floor ``max_rel`` is that of whichever element happens to lie nearest to zero, and says nothing of the rest.
"""

_CHUNK = 1 << 15  # elements: a chunk and its temporaries stay in the second-level cache
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_FLOAT32 = 2.0**-149  # subnormal
_FLOAT32_END = 2.0**128  # from here on float32 has only infinity

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Metrics, and how much of a bound is used: above an ``excess`` of 1 it is broken, worst at flat index ``at``.

    ``signal`` and ``noise`` are sum b² and sum (a - b)², which add up over samples.
    """

    metrics: Metrics
    excess: float
    at: int
    signal: float
    noise: float


def metrics(a: Array, b: Array) -> Metrics:
    """Measures how far ``a`` is from ``b``.

    Elements where either is NaN or infinite (in float32) are left out: `check` judges these.

    Args:
        a: what a device computed, any shape, any real dtype.
        b: the reference, of the same shape; float64 for floating outputs.

    Returns:
        `core.Metrics`. ``rel_floor`` is `REL_FLOOR_OF_RMS` times the root mean square of ``b``, or 1.0 where ``b`` is
        all zero. A unit of the last place (``max_ulp``) is the spacing of float32 at ``b``: 2**-149 at zero.

    Raises:
        ParityError: the shapes differ or there are no elements.
    """
    a, b = values.array(a, "a", ParityError), values.array(b, "b", ParityError)
    return measure(a, b, Tolerance(), 1.0).metrics


def measure(a: Array, b: Array, tolerance: Tolerance, scale: float) -> Measured:
    """The `metrics`, and the distance against the bound of ``tolerance`` for a sample of ``scale``; raises alike."""
    if a.shape != b.shape:
        raise ParityError(f"an output of shape {a.shape} cannot be measured against one of shape {b.shape}")
    if a.size == 0:
        raise ParityError(f"an output of shape {a.shape} has no elements: there is nothing to compare")
    flat_a, flat_b = np.ravel(a), np.ravel(b)
    floor = _rel_floor(flat_b)
    sums = _Sums()
    maxima = _Maxima(floor, tolerance, max(1.0, scale))
    # In chunks: float64 copies of a large output at once would take several times its memory.
    for start, x, y in _chunks(flat_a, flat_b):
        difference = np.abs(x - y)
        sums.add(x, y, difference)
        maxima.add(start, difference, np.abs(y))
    distance = Metrics(
        max_abs=maxima.max_abs,
        max_rel=maxima.max_rel,
        rel_floor=floor,
        max_ulp=maxima.max_ulp,
        mean_abs=sums.absolute / a.size,
        cosine=sums.cosine(),
        sqnr_db=sums.sqnr_db(),
    )
    return Measured(distance, *maxima.worst(), sums.squared_b, sums.squared_error)


def worst_of(samples: Sequence[Metrics]) -> Metrics | None:
    """The worst of each metric over samples (``mean_abs``: the mean); None of none."""
    if not samples:
        return None
    return Metrics(
        max_abs=max(sample.max_abs for sample in samples),
        max_rel=max(sample.max_rel for sample in samples),
        rel_floor=min(sample.rel_floor for sample in samples),
        max_ulp=max(sample.max_ulp for sample in samples),
        mean_abs=sum(sample.mean_abs for sample in samples) / len(samples),
        cosine=min(sample.cosine for sample in samples),
        sqnr_db=min(sample.sqnr_db for sample in samples),
    )


class _Sums:
    """What adds up over the chunks."""

    def __init__(self) -> None:
        self.absolute = self.squared_error = self.squared_a = self.squared_b = self.product = 0.0

    def add(self, a: Floats, b: Floats, difference: Floats) -> None:
        self.absolute += float(difference.sum())
        self.squared_error += _dot(difference, difference)
        self.squared_a += _dot(a, a)
        self.squared_b += _dot(b, b)
        self.product += _dot(a, b)

    def cosine(self) -> float:
        if self.squared_a == 0.0 and self.squared_b == 0.0:
            return 1.0
        norms = float(np.sqrt(self.squared_a) * np.sqrt(self.squared_b))
        return min(1.0, max(-1.0, self.product / norms)) if norms > 0.0 else 0.0

    def sqnr_db(self) -> float:
        return decibels(self.squared_b, self.squared_error)


class _Maxima:
    """Maxima over the chunks, and the element that uses most of its bound."""

    def __init__(self, rel_floor: float, tolerance: Tolerance, scale: float) -> None:
        self._rel_floor = rel_floor
        self._tolerance = tolerance
        self._scale = scale
        self.max_abs = self.max_rel = self.max_ulp = self.excess = 0.0
        self._at = self._at_max_abs = 0

    def add(self, start: int, difference: Floats, magnitude: Floats) -> None:
        largest = float(difference.max())
        if largest == 0.0:
            return
        if largest > self.max_abs:
            self.max_abs = largest
            self._at_max_abs = start + int(difference.argmax())
        self.max_rel = max(self.max_rel, float((difference / np.maximum(magnitude, self._rel_floor)).max()))
        self.max_ulp = max(self.max_ulp, float((difference / float32_spacing(magnitude)).max()))
        bound = magnitude * self._tolerance.rtol + self._scale * self._tolerance.atol
        # 0 / 0, no error where none is allowed, is NaN, and fmax passes over it.
        with np.errstate(divide="ignore", invalid="ignore"):
            used = difference / bound
        excess = float(np.fmax.reduce(used))
        if excess > self.excess:
            self.excess = excess
            self._at = start + int(np.nanargmax(used))

    def worst(self) -> tuple[float, int]:
        """The excess over either bound, and the flat index of the element that has it."""
        limit = self._tolerance.max_abs
        if limit is None or self.max_abs == 0.0:
            return self.excess, self._at
        beyond = self.max_abs / (limit * self._scale) if limit > 0.0 else float("inf")
        return (beyond, self._at_max_abs) if beyond > self.excess else (self.excess, self._at)


def float32_spacing(magnitude: Floats) -> Floats:
    """The unit of the last place of float32 at each of these non-negative numbers, as `numpy.spacing` gives it.

    The exponent field alone, read as a float32, is the power of two below the number (IEEE 754, binary32).
    """
    rounded = np.minimum(magnitude, _FLOAT32_MAX).astype(np.float32)
    power = (rounded.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)
    return np.maximum(power * np.float64(2.0**-23), _SMALLEST_FLOAT32)


def _chunks(a: Array, b: Array) -> Iterator[tuple[int, Floats, Floats]]:
    """Pairs of chunks in float64 with their start; zeros stand where either is not finite in float32."""
    for start in range(0, b.size, _CHUNK):
        x = a[start : start + _CHUNK].astype(np.float64)
        y = b[start : start + _CHUNK].astype(np.float64, copy=False)
        finite = (np.abs(x) < _FLOAT32_END) & (np.abs(y) < _FLOAT32_END)
        if not finite.all():
            x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        yield start, x, y


def _dot(x: Floats, y: Floats) -> float:
    """The inner product without BLAS: its threads cost more than such chunks, and far more on busy cores.

    On 2 loaded cores an export of the leading case took 57 to 128 s with BLAS's threads, and 15 s with one.
    """
    return float(np.einsum("i,i->", x, y))


def _rel_floor(b: Array) -> float:
    total = 0.0
    for _, y, _ in _chunks(b, b):
        total += _dot(y, y)
    rms = float(np.sqrt(total / b.size))
    return REL_FLOOR_OF_RMS * rms if rms > 0.0 else 1.0


def used_of(value: float, most: float) -> float:
    """The used share of a threshold, 0 for nothing; infinite where none is allowed and there is some."""
    if most > 0.0:
        return value / most
    return 0.0 if value <= 0.0 else float("inf")
