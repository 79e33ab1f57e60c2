"""Reads ``--shape`` and ``--set``: shapes of inputs, and inputs that are fixed to numbers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.core.named_files import is_onnx
from edgeconv.errors import RecipeError

if TYPE_CHECKING:
    from edgeconv.recipe import Recipe


def recipe_of(path: Path, shapes: Sequence[str], fixed: Sequence[str]) -> Recipe:
    """The recipe that a file is, or that of an .onnx file, with what ``--shape`` and ``--set`` say.

    Raises:
        RecipeError: the recipe cannot be read, or they say nothing sound.
    """
    from edgeconv.recipe import load_recipe, onnx_recipe, with_fixed

    read = onnx_recipe(path, shapes=stated_shapes(shapes)) if is_onnx(path) else load_recipe(path)
    values = stated_values(fixed)
    return with_fixed(read, values) if values else read


def stated_shapes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """``images=batch,3,224,224`` as a name and a shape; names may hold ``=``, shapes may not.

    Raises:
        RecipeError: a text names no input, or two name the same, or a dimension has thousands of digits.
    """
    stated: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, sign, dims = text.rpartition("=")
        if not sign or not name:
            raise RecipeError(f"{text!r:.80} names no input", where="--shape", hint="write NAME=1,3,224,224")
        if name in stated:
            raise RecipeError(f"two shapes are given for {name!r:.80}", where="--shape", hint="give one")
        stated[name] = tuple(map(_dimension, dims.split(",")))
    return stated


def _dimension(text: str) -> int | str:
    text = text.strip()
    try:
        return int(text) if text.isdecimal() else text
    except ValueError as error:  # Python refuses to parse integers of thousands of digits
        what = f"a dimension has {len(text):,} digits"
        raise RecipeError(what, where="--shape", hint="write NAME=1,3,224,224") from error


def stated_values(texts: Sequence[str]) -> dict[str, float]:
    """``sr=16000`` as a name and a number; ``true`` and ``false`` are numbers, too.

    Raises:
        RecipeError: a text names no input or no number, or two name the same.
    """
    stated: dict[str, float] = {}
    for text in texts:
        name, sign, number = (part.strip() for part in text.rpartition("="))
        if not sign or not name:
            raise RecipeError(f"{text!r:.80} names no input", where="--set", hint="write NAME=NUMBER")
        if name in stated:
            raise RecipeError(f"two numbers are given for {name!r:.80}", where="--set", hint="give one")
        stated[name] = _number(number)
    return stated


def _number(text: str) -> float:
    if text in ("true", "false"):
        return text == "true"
    # Integers first: a float would lose digits of large ones.
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if math.isfinite(value):
                return value
    raise RecipeError(f"{text!r:.80} is no number", where="--set", hint="write NAME=NUMBER, or true or false")
