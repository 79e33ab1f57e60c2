"""The arrays of a file's tensors while it is evaluated: computed ones, and those that are read from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from edgeconv.core import Array


class Tensors(Mapping[int, Array]):
    """Arrays by the number of the tensor; what is read from elsewhere takes no memory of its own.

    Args:
        stored: arrays that are at hand.
    """

    def __init__(self, stored: Mapping[int, Array]) -> None:
        self._stored = dict(stored)
        self._elsewhere: dict[int, Callable[[], Array]] = {}

    def __setitem__(self, index: int, array: Array) -> None:
        self._elsewhere.pop(index, None)
        self._stored[index] = array

    def read_from(self, index: int, read: Callable[[], Array]) -> None:
        """Reads a tensor with a function, in place of the array that it has."""
        self._stored.pop(index, None)
        self._elsewhere[index] = read

    def update(self, arrays: Iterable[tuple[int, Array]]) -> None:
        """Stores several."""
        for index, array in arrays:
            self[index] = array

    def drop(self, index: int) -> None:
        """Forgets one, if it is there."""
        self._stored.pop(index, None)
        self._elsewhere.pop(index, None)

    def with_others(self, others: Mapping[int, Array]) -> Tensors:
        """The same with other arrays in place of some; no array is copied."""
        copy = Tensors(self._stored)
        copy._elsewhere = dict(self._elsewhere)
        copy.update(others.items())
        return copy

    def __getitem__(self, index: int) -> Array:
        return self._stored[index] if index in self._stored else self._elsewhere[index]()

    def __contains__(self, index: object) -> bool:
        return index in self._stored or index in self._elsewhere

    def __iter__(self) -> Iterator[int]:
        yield from self._stored
        yield from self._elsewhere

    def __len__(self) -> int:
        return len(self._stored) + len(self._elsewhere)
