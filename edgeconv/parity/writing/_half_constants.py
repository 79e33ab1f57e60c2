"""Floats of a file of integers that are the module's rounded to halves, though the file holds others in full.

A converter that stores all of them as halves says so by their type; numbers of float32 that hold no more than a half
have lost it on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np

from edgeconv.core import Array

_LEAST = 4  # numbers that float32 tells apart, and the narrower type does not: fewer may be so by chance
_TYPES: Mapping[str, np.dtype[np.generic]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def narrowed_constants(
    held: Mapping[str, Array], constants: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[str, str]]:
    """Name and one line of each constant of float32 whose numbers are the module's in a narrower type.

    Args:
        held: floating-point constants of the file, by name.
        constants: of the module, for each graph of it.
    """
    due: dict[int, list[Array]] = {}
    for graph in constants:
        for array in graph.values():
            if array.dtype.kind == "f":
                due.setdefault(array.size, []).append(np.sort(array, axis=None).astype(np.float32))
    for name, array in held.items():
        if array.dtype != np.float32 or array.size < _LEAST:
            continue
        numbers = np.sort(array, axis=None)
        if any(np.array_equal(numbers, other) for other in due.get(array.size, ())):
            continue
        for title, dtype in _TYPES.items():
            if any(_is_narrowed(numbers, other, dtype) for other in due.get(array.size, ())):
                yield name, f"constant {name}: it has the module's numbers rounded to {title}, and says float32"
                break


def _is_narrowed(numbers: Array, due: Array, dtype: np.dtype[np.generic]) -> bool:
    """Whether sorted numbers are others, rounded; rounding keeps their order."""
    rounded = due.astype(dtype).astype(np.float32)
    return np.array_equal(numbers, rounded) and int(np.count_nonzero(rounded != due)) >= _LEAST
