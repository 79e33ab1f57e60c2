"""``--shape`` and ``--set``: what is said of inputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from edgeconv.errors import RecipeError


def stated_shapes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """``images=batch,3,224,224`` as a name and a shape; names may hold ``=``, shapes may not.

    Raises:
        RecipeError: a text names no input, or two name the same.
    """
    stated: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, sign, dims = text.rpartition("=")
        if not sign or not name:
            raise RecipeError(f"{text!r} names no input", where="--shape", hint="write NAME=1,3,224,224")
        if name in stated:
            raise RecipeError(f"two shapes are given for {name!r}", where="--shape", hint="give one")
        stated[name] = tuple(int(dim) if dim.isdecimal() else dim for dim in map(str.strip, dims.split(",")))
    return stated


def stated_values(texts: Sequence[str]) -> dict[str, float]:
    """``sr=16000`` as a name and a number; ``true`` and ``false`` are numbers, too.

    Raises:
        RecipeError: a text names no input or no number, or two name the same.
    """
    stated: dict[str, float] = {}
    for text in texts:
        name, sign, number = (part.strip() for part in text.rpartition("="))
        if not sign or not name:
            raise RecipeError(f"{text!r} names no input", where="--set", hint="write NAME=NUMBER")
        if name in stated:
            raise RecipeError(f"two numbers are given for {name!r}", where="--set", hint="give one")
        stated[name] = _number(number)
    return stated


def _number(text: str) -> float:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if math.isfinite(value):
                return value
    raise RecipeError(f"{text!r} is no number", where="--set", hint="write NAME=NUMBER, or true or false")
