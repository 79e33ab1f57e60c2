"""`Domain`: the integers that an input may hold, and seeded draws of them.

`edgeconv.graph.domains` finds the domain of an input, from the operators that read it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array

Bound = float | npt.NDArray[np.float64]
_MOST = 8
"""The largest magnitude drawn for integers that nothing bounds: products of these stay small."""


class Extent(IntEnum):
    """How much of a domain is worth drawing."""

    LIMIT = 0
    """All of it is allowed; numbers of the usual range that lie in it are drawn."""

    TYPICAL = 1
    """All of it, where nothing else says more: numbers around one that the input is compared with."""

    WHOLE = 2
    """All of it: each row of a table."""


class Distinct(IntEnum):
    """Which elements must differ."""

    NONE = 0

    ALONG_AXIS = 1
    """Those that differ in their place along `Domain.axis` alone."""

    ROWS = 2
    """The rows along the last axis, as wholes."""

    ALL = 3
    """Each from each other."""


@dataclass(frozen=True)
class Domain:
    """What an integer input may hold.

    Attributes:
        low: the least number; or one for each place along the last axis.
        high: the largest, like `low`.
        extent: how much of it is drawn.
        nonzero: whether 0 is left out.
        distinct: which elements differ; those from -n to -1 then stand for those from 0 to n - 1, where n is the
            number behind `high`.
        axis: of `Distinct.ALONG_AXIS`.
    """

    low: Bound = -np.inf
    high: Bound = np.inf
    extent: Extent = Extent.LIMIT
    nonzero: bool = False
    distinct: Distinct = Distinct.NONE
    axis: int = 0

    def uniform(self) -> Domain:
        """With the same bounds at every place, for readers that see the elements elsewhere."""
        distinct = Distinct.ALL if self.distinct else Distinct.NONE
        return replace(self, low=float(np.max(self.low)), high=float(np.min(self.high)), distinct=distinct)

    def within(self, other: Domain) -> Domain:
        """What is in both domains; this one alone, where nothing is."""
        first, second = self, other
        if np.shape(first.low) != np.shape(second.low) and 0 not in (np.ndim(first.low), np.ndim(second.low)):
            first, second = first.uniform(), second.uniform()
        low, high = np.maximum(first.low, second.low), np.minimum(first.high, second.high)
        # Contradicting readers: the file would be undefined on any input, and the first reader is as good as the
        # second.
        if np.any(low > high) or (np.all(low == 0) and np.all(high == 0) and (self.nonzero or other.nonzero)):
            return self
        stricter = first if first.distinct >= second.distinct else second
        return Domain(
            low,
            high,
            max(first.extent, second.extent),
            first.nonzero or second.nonzero,
            stricter.distinct,
            stricter.axis,
        )

    def or_else(self, other: Domain) -> Domain:
        """What is in either domain, where they meet; else this one."""
        first, second = self.uniform(), other.uniform()
        # With a gap between them, their hull would hold integers of neither.
        if first.low > second.high + 1 or second.low > first.high + 1:
            return first
        low, high = min(first.low, second.low), max(first.high, second.high)
        return replace(first, low=low, high=high, nonzero=first.nonzero and second.nonzero)


def draw(domain: Domain, shape: tuple[int, ...], dtype: npt.DTypeLike, seed: Any, *, below: int | None = None) -> Array:
    """Integers of a domain.

    Args:
        domain: what they may be.
        shape: of the result.
        dtype: of the result, an integer one. Of a byte all values are usual, as cameras give; of others those from -8
            (0 for unsigned ones) to 8.
        seed: for NumPy; the same seed gives the same integers.
        below: those from 0 to this are usual, instead.
    """
    generator = np.random.default_rng(seed)
    low, high = _bounds(domain, np.dtype(dtype), below)
    if domain.distinct:
        values = _distinct(domain, low, high, shape, generator)
    else:
        values = generator.integers(low, high, shape, dtype=np.int64, endpoint=True)
    if domain.nonzero:
        values = np.where(values == 0, np.where(high >= 1, 1, -1), values)
    return np.asarray(values, dtype)


def _bounds(
    domain: Domain, dtype: np.dtype[Any], below: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The least and largest number to draw."""
    info = np.iinfo(dtype)
    limit = float(min(info.max, 2**53))
    representable = Domain(float(max(info.min, -(2**53))), limit)
    if below is not None:
        usual = Domain(0, min(below, limit) - 1)
    elif dtype.itemsize == 1:
        usual = representable
    else:
        usual = Domain(-_MOST if info.min else 0, _MOST)
    # Integers that are merely allowed are drawn around zero; a table is drawn whole, so that each row is read.
    if domain.extent is Extent.LIMIT or (domain.extent is Extent.TYPICAL and below is not None):
        domain = domain.within(usual)
    domain = domain.within(representable)
    low, high = np.broadcast_arrays(np.asarray(domain.low, np.float64), np.asarray(domain.high, np.float64))
    low, high = np.where(np.isfinite(low), low, high - 2 * _MOST), np.where(np.isfinite(high), high, low + 2 * _MOST)
    return np.ceil(low).astype(np.int64), np.floor(high).astype(np.int64)


def _distinct(
    domain: Domain,
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    shape: tuple[int, ...],
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Elements of which as many differ as there is room for; see `Domain`."""
    # Where negative numbers count from the end, they name the same elements as those from 0 on: both are not drawn.
    least = np.maximum(low, 0) if (low < 0).any() else low
    room = high - least + 1
    if domain.distinct is Distinct.ROWS and shape:
        sizes = np.broadcast_to(room, shape[-1:])
        count = int(np.prod(shape[:-1]))
        places = _chosen(int(np.prod(sizes)), count, generator)
        values = np.stack(np.unravel_index(places, tuple(sizes)), axis=-1).reshape(shape)
    elif domain.distinct is Distinct.ALONG_AXIS and shape:
        lines = np.moveaxis(np.empty(shape, np.int64), domain.axis, -1)
        flat = [_chosen(int(room.min()), lines.shape[-1], generator) for _ in range(int(np.prod(lines.shape[:-1])))]
        values = np.moveaxis(np.array(flat, np.int64).reshape(lines.shape), -1, domain.axis)
    else:
        values = _chosen(int(room.min()), int(np.prod(shape)), generator).reshape(shape)
    values = values + least
    # The same element counted from the end: -1 stands for `high`; half of them are written so.
    behind = values - (high + 1)
    return np.where(generator.integers(0, 2, shape).astype(bool) & (behind >= low) & (low < 0), behind, values)


def _chosen(room: int, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Numbers from 0 to room - 1, each at most once more often than any other."""
    rounds = [generator.choice(room, min(room, count - start), replace=False) for start in range(0, count, room)]
    return np.concatenate([np.zeros(0, np.int64), *rounds]).astype(np.int64)
