"""``--shape``: what an ``.onnx`` file leaves open."""

from __future__ import annotations

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
            raise RecipeError(f"{text!r} names no input", where="--shape", mend="write NAME=1,3,224,224")
        if name in stated:
            raise RecipeError(f"two shapes are given for {name!r}", where="--shape", mend="give one")
        stated[name] = tuple(int(dim) if dim.isdecimal() else dim for dim in map(str.strip, dims.split(",")))
    return stated
