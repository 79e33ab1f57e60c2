"""Where the axes of a value lie in a tensor.

A *form* is a permutation: a tensor in form ``p`` of a value ``x`` holds ``x.transpose(p)``, so ``p[i]`` is the
value's axis that lies at the tensor's axis ``i``. `first` is torch's own order and `last` moves axis 1, the
channels, to the end: (N, C, H, W) -> (N, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Form = tuple[int, ...]
Shape = tuple[int, ...]


def first(rank: int) -> Form:
    """Torch's order."""
    return tuple(range(rank))


def last(rank: int) -> Form:
    """Channels-last: (0, 2, …, rank-1, 1). Below rank 3 it is torch's order."""
    return (0, *range(2, rank), 1) if rank > 2 else first(rank)


def permuted(shape: Sequence[int], form: Form) -> Shape:
    """The shape of a tensor in a form, of a value of this shape."""
    return tuple(shape[axis] for axis in form)


def between(source: Form, target: Form) -> Form:
    """The permutation that takes a tensor in form ``source`` to form ``target``."""
    return tuple(source.index(axis) for axis in target)


def through_transpose(form: Form, perm: Sequence[int]) -> Form:
    """The form of ``y = x.transpose(perm)`` that is, in memory, ``x`` in ``form``."""
    return tuple(list(perm).index(axis) for axis in form)


def significant(shape: Sequence[int], form: Form) -> tuple[int, ...]:
    """The value's axes of size other than 1 in the order in which they lie in memory."""
    return tuple(axis for axis in form if shape[axis] != 1)


def same_memory(shape: Sequence[int], a: Form, b: Form) -> bool:
    """Whether the two forms of a value of this shape hold the same bytes."""
    return significant(shape, a) == significant(shape, b)


def reshape_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Splits a reshape into the smallest independent ones.

    Returns pairs (axes before, axes after), in order, of equal element counts; axes of size 1 are left out.
    """
    left = [axis for axis, size in enumerate(before) if size != 1]
    right = [axis for axis, size in enumerate(after) if size != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        a, b = [left[i]], [right[j]]
        i, j = i + 1, j + 1
        # Takes axes on the side with fewer elements until both products meet: the smallest groups of equal size.
        while (p := math.prod(before[axis] for axis in a)) != (q := math.prod(after[axis] for axis in b)):
            if p < q:
                a.append(left[i])
                i += 1
            else:
                b.append(right[j])
                j += 1
        groups.append((a, b))
    return groups


def through_reshape(before: Sequence[int], after: Sequence[int], form: Form) -> Form | None:
    """The form of the reshaped value that has the same bytes as the given form of the value before.

    None when there is none: then the axes that the reshape merges do not lie side by side.
    """
    order = significant(before, form)
    groups = reshape_groups(before, after)
    group_of = {axis: index for index, (axes, _) in enumerate(groups) for axis in axes}
    result: list[int] = []
    position = 0
    while position < len(order):
        axes, targets = groups[group_of[order[position]]]
        # A group of axes moves as a block; within it the order must be that of the reshape, which is row-major.
        if list(order[position : position + len(axes)]) != axes:
            return None
        result += targets
        position += len(axes)
    return complete(after, result)


def before_reshape(before: Sequence[int], after: Sequence[int], target: Form) -> Form | None:
    """The form of the value before in which a reshape yields the target form of the value after, or None."""
    return through_reshape(after, before, target)


def complete(shape: Sequence[int], order: Iterable[int]) -> Form:
    """A form whose axes of size other than 1 lie in this order: channels-last or torch's, if either is one."""
    axes = tuple(order)
    rank = len(shape)
    for form in (last(rank), first(rank)) if rank == 4 else (first(rank), last(rank)):
        if significant(shape, form) == axes:
            return form
    # Neither layout: axes of size 1 may lie anywhere, so they come first.
    return (*(axis for axis in range(rank) if shape[axis] == 1), *axes)
