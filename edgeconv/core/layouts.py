"""How an array that does not fit an input becomes one that does: the two slips that most arrays of images come with."""

from __future__ import annotations

from collections.abc import Sequence


def hint_to_move(shape: Sequence[int], expected: Sequence[int | str]) -> str:
    """What to do with an array whose channels are last, or that lacks the batch's axis.

    Args:
        shape: of the array.
        expected: of the input, batch first and channels second; a str is a size that is left open.

    Returns:
        The hint, in numpy's words; empty where neither explains the shape, nor both together.
    """
    channels_last = (expected[0], *expected[2:], expected[1]) if len(expected) > 2 else ()
    if _fits(shape, channels_last):
        return "its channels are last: give numpy.moveaxis(array, -1, 1)"
    if len(expected) > 1 and _fits(shape, expected[1:]):
        return "it has no axis for the batch: give array[None]"
    if channels_last and _fits(shape, channels_last[1:]):
        return "its channels are last, and it has no axis for the batch: give numpy.moveaxis(array, -1, 0)[None]"
    return ""


def _fits(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    """Whether a shape is the expected one."""
    return len(shape) == len(expected) > 0 and all(
        isinstance(size, str) or size == length for size, length in zip(expected, shape, strict=True)
    )
