"""What is said of a constant of a file that has other numbers than the graph's, and of a part that computes others."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes import change_of_constant
from edgeconv.parity.writing._ends import End


def told_in_place(name: str, other: str, array: Array, due: Array, differing: Array) -> str:
    """One line on a constant of the file that is another of the graph's, but for some numbers.

    Args:
        name: of the file's.
        other: of the graph's.
        array: the file's.
        due: what each number of it should be.
        differing: where it is another.
    """
    at = int(np.flatnonzero(differing)[0])
    place = [int(index) for index in np.unravel_index(at, array.shape)]
    held, stated = array.reshape(-1)[at], due.reshape(-1)[at]
    count = int(np.count_nonzero(differing))
    several = f"{count} of {array.size} numbers {'is' if count == 1 else 'are'}"
    return (
        f"constant {name}: {several} not those of the graph's {other} in the same place; {place} is {float(held):.9g}, "
        f"and the graph's is {float(stated):.9g}{units_apart(held, stated)}"
    )


def told_change(
    names: Collection[str], due: Mapping[str, Array], held: Mapping[str, Array], steps: Mapping[str, Array]
) -> str:
    """How the first of some constants that has a cause was altered, in words: it may move no value as far as its bound.

    Args:
        names: of constants that both sides have, with other numbers.
        due: the graph's, by name.
        held: the file's.
        steps: of those of the graph's that are integers.
    """
    words = ((name, change_of_constant(due[name], held[name], steps.get(name))) for name in sorted(names))
    return next((f"the constant {name} {change}" for name, change in words if change), "")


def units_apart(held: np.generic, nearest: np.generic) -> str:
    """The distance in units of the last place, where that says something."""
    if held.dtype == np.float64:
        return ""
    units = abs(float(held) - float(nearest)) / float(np.abs(np.spacing(held)))
    return f" ({units:.0f} ulp)" if units < 1000 else ""


def told_of_end(end: End, error: float, used: float, sample: str) -> str:
    """One line on a part of the file that computes something else than the graph of an input with this name."""
    place = f"{end.operator} {end.tensor}" if end.operator else end.tensor
    place += "" if end.tensor == end.value else f" ({end.value})"
    place += f", input {sample}," if sample else ""
    if not end.fits:
        return f"{place} has the shape {list(end.actual.shape)}, and the graph's is {list(end.expected.shape)}"
    return f"{place} is {error:.3g} from what the graph computes of the same, {used:.3g} times its bound"
