"""What must agree before a distance means anything: dtype, shape, and where NaN and infinities are."""

from __future__ import annotations

import numpy as np

from edgeconv.core import Array, values
from edgeconv.errors import ParityError

_STANDS_FOR = {"float64": "float32"}


def check(a: Array, b: Array) -> str:
    """Compares an output with its reference in dtype, shape and places of NaN and infinities; "" if these agree.

    Args:
        a: what a device computed.
        b: the reference. A float64 one stands for float32, and where it overflows float32 it counts as infinite.

    Returns:
        Which of dtype, shape, positions of NaN, positions or signs of infinities differs, and where at first.
    """
    a, b = values.array(a, "a", ParityError), values.array(b, "b", ParityError)
    expected = _STANDS_FOR.get(b.dtype.name, b.dtype.name)
    if a.dtype.name != expected:
        return f"dtype is {a.dtype}, the reference has {expected}"
    if a.shape != b.shape:
        return f"shape is {a.shape}, the reference has {b.shape}"
    if a.dtype.kind != "f" or (_all_finite(a) and _all_finite(b)):
        return ""
    with np.errstate(over="ignore"):
        rounded = b.astype(a.dtype)
    for kind, of in (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf)):
        differs = of(a) != of(rounded)
        count = int(np.count_nonzero(differs))
        if count:
            at = tuple(int(index) for index in np.unravel_index(int(np.argmax(differs)), a.shape))
            return f"{kind} is not where the reference has it, at {count} of {a.size} elements, first at {at}"
    return ""


def _all_finite(array: Array) -> bool:
    # A sum is finite only if every term is, and needs no temporary; where it overflows, look at each.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())
