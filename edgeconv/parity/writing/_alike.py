"""Which value of a module an array of a file is: by its numbers, in some order of axes, but for factors of channels.

A converter may even out channels (each a positive factor of its own) and bring them into another order; both go
through activations and layers, so that most values of such a file are the module's nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._steps import Steps

_CLOSE = 0.03  # of a channel's energy: 15 dB, far more than 8-bit weights are off, far less than two values are apart
_MOST = 0.6  # of the channels have to be close; what is wrong with a value is mostly wrong with few, or with all
_FLOOR = 0.01  # of the mean energy of channels; one with less is not compared, as rounding alone would decide
_ROWS = 16  # numbers of a channel from which its factor is estimated
_CUT = 1e-9  # of the energy beyond a range: of two values that it makes one, that which it makes nothing of
_FEW = 1 << 12  # numbers that most candidates are ruled out by


@dataclass(frozen=True, eq=False)
class Alike:
    """An array of a file beside the value of the module that it holds.

    Attributes:
        value: the module's name.
        axes: of the module's value, in the file's order.
        order: which channel of the module each of the file's is; None where they are as they are.
        factors: of each channel of the file; None where all are 1.
        share: of the channels that are close.
    """

    value: str
    axes: tuple[int, ...]
    order: Array | None = None
    factors: Array | None = None
    share: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether channels are as the module has them."""
        return self.order is None and self.factors is None

    def arranged(self, value: Array, shape: tuple[int, ...]) -> Array:
        """A value of the module as the file has it."""
        moved = value.transpose(self.axes).reshape(shape)
        if self.order is not None:
            moved = moved[..., self.order]
        return moved if self.factors is None else moved * self.factors


class Candidates:
    """Values of a module by how many elements they have.

    Args:
        values: by name, float64; of those that have the same numbers the first counts.
    """

    def __init__(self, values: Mapping[str, Array]) -> None:
        self._values = values
        self._by_size: dict[int, list[str]] = {}
        seen: set[bytes] = set()
        for name, array in values.items():
            few = array.reshape(-1)[:: max(1, array.size // 64)]
            mark = few.tobytes() + repr(array.shape).encode()
            if array.dtype.kind == "f" and mark not in seen and np.isfinite(array).all():
                seen.add(mark)
                self._by_size.setdefault(array.size, []).append(name)

    def find(self, array: Array, steps: Steps | None, *, factors: bool, orders: Sequence[Array] = ()) -> Alike | None:
        """The value that an array is.

        Args:
            array: of the file, float64.
            steps: that it is saturated by, if it is quantized.
            factors: whether channels may have factors, and another order.
            orders: those that its operands have, which go through activations.
        """
        if factors and array.size < _ROWS * (array.shape or (1,))[-1]:
            return None  # so few numbers are near to many, but for factors
        # 1. A value as the module has it, in one order of axes or another.
        candidates = [
            Alike(name, axes) for name in self._by_size.get(array.size, []) for axes in orders_of(self._values[name])
        ]
        best: tuple[float, Alike] | None = None
        for alike in candidates:
            score = self._score(alike, array, steps, best is not None)
            if score is not None and (best is None or score[0] < best[0]):
                best = score
        whole = best is not None and best[1].share == 1
        if whole or not factors or array.ndim < 2:
            return None if best is None else best[1]
        # 2. Where not all channels are close: one whose channels have factors, or another order.
        fitted = [fit for alike in candidates if (fit := self._fitted(alike, array, orders)) is not None]
        return max([*([] if best is None else [best[1]]), *fitted], key=lambda alike: alike.share, default=None)

    def _score(self, alike: Alike, array: Array, steps: Steps | None, quick: bool) -> tuple[float, Alike] | None:
        """How far the array is from a value, the less the better, where most of its channels are close."""
        due = alike.arranged(self._values[alike.value], array.shape)
        few = slice(None, None, max(1, array.size // _FEW))
        # With a candidate at hand already, one that is half its energy off on a few numbers is not looked at closely.
        if quick and _apart(*cut_alike(array.reshape(-1)[few], due.reshape(-1)[few], steps)) > 0.5:
            return None
        cut, due_cut = map(by_channel, cut_alike(array, due, steps))
        energy = _energy(due_cut)
        off = np.square(cut - due_cut).sum(0)
        telling = energy > _FLOOR * max(float(energy.mean()), 1e-300)
        share = float((off[telling] <= _CLOSE * energy[telling]).mean()) if telling.any() else 0.0
        if share < _MOST:
            return None
        beyond = 0.0 if steps is None else float(np.square(due - np.clip(due, steps.least, steps.greatest)).sum())
        total = max(float(energy.sum()), 1e-300)
        return 1 - share + (float(off.sum()) + _CUT * beyond) / total, replace(alike, share=share)

    def _fitted(self, alike: Alike, array: Array, orders: Sequence[Array]) -> Alike | None:
        """The same with a factor of each channel; then with the channels in another order, one of these or any."""
        held = array.reshape(-1, array.shape[-1])
        due = alike.arranged(self._values[alike.value], array.shape).reshape(held.shape)
        energies = np.square(due).sum(0)
        own = np.square(held).sum(0)
        telling = (own > _FLOOR * own.mean()) & (own > 0)
        if not telling.any():
            return None
        # Cosines between channels: of a channel that is a positive multiple of the module's it is 1. Two channels of an
        # activation that shuts nearly always may both be 1, which the order of what it reads tells apart.
        for order in (None, *(order for order in orders if len(order) == held.shape[1])):
            moved, energy = (due, energies) if order is None else (due[:, order], energies[order])
            products = (held * moved).sum(0)
            with np.errstate(all="ignore"):
                likeness = np.nan_to_num(products / np.sqrt(own * energy))
            share = _share(likeness, telling)
            if share >= _MOST:
                return Alike(alike.value, alike.axes, order, _factors(products, energy, likeness), share)
        # Of every channel of the file with every one of the module.
        with np.errstate(all="ignore"):
            table = np.nan_to_num((held.T @ due) / np.sqrt(own[:, None] * energies[None, :]))
        order = table.argmax(1)
        likeness = table[np.arange(len(order)), order]
        share = _share(likeness, telling)
        close = telling & (likeness > 1 - _CLOSE / 2)
        if share < _MOST or len(np.unique(order[close])) < close.sum():
            return None
        order = _completed(order, close)
        products = (held * due[:, order]).sum(0)
        return Alike(alike.value, alike.axes, order, _factors(products, energies[order], likeness), share)


def by_channel(array: Array) -> Array:
    """Numbers by channel on the last axis; those of an array that has too few for that, all as one channel."""
    rows = array.size // array.shape[-1] if array.ndim > 1 and array.shape[-1] else 0
    return array.reshape(-1, array.shape[-1]) if rows >= _ROWS else array.reshape(-1, 1)


def _energy(array: Array) -> Array:
    """Of each channel, about its mean, and of what all have in common a part."""
    energy = np.square(array - array.mean(0)).sum(0)
    return np.asarray(energy + _FLOOR * energy.mean())


def _apart(array: Array, due: Array) -> float:
    energy = float(np.square(due - due.mean()).sum())
    return float(np.square(array - due).sum()) / energy if energy else np.inf


def cut_alike(array: Array, due: Array, steps: Steps | None) -> tuple[Array, Array]:
    """Both as integers saturate them where the file's does: a ReLU may be such a range."""
    if steps is None:
        return array, due
    beyond = (array < steps.least) | (array > steps.greatest)
    return (np.where(beyond, steps.saturated(array), array), np.where(beyond, steps.saturated(due), due))


def _share(likeness: Array, telling: Array) -> float:
    return float((likeness[telling] > 1 - _CLOSE / 2).mean())


def _factors(products: Array, energies: Array, likeness: Array) -> Array:
    """By least squares; 1 where a channel tells none."""
    told = (likeness > 1 - _CLOSE / 2) & (energies > 0)
    return np.asarray(np.where(told, products / np.where(told, energies, 1.0), 1.0))


def _completed(order: Array, close: Array) -> Array:
    """An order of all channels, of which some are known: the others are what is left."""
    left = np.setdiff1d(np.arange(len(order)), order[close])
    result = order.copy()
    result[~close] = left[: np.count_nonzero(~close)]
    return np.asarray(result)


def orders_of(value: Array) -> Iterator[tuple[int, ...]]:
    """The orders of axes that a file may have a value of a module in."""
    rank = value.ndim
    yield tuple(range(rank))
    if rank > 2:
        yield (0, *range(2, rank), 1)
    if rank == 3:
        yield (1, 0, 2)
