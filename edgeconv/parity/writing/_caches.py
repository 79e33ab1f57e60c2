"""Caches of one entry: what was computed of a graph last is not computed again for another link or another file.

One entry, since the values of a network take as much memory as all its feature maps.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence

from edgeconv.core import Array
from edgeconv.parity.writing._ends import Operands


class EvaluationCache:
    """The last evaluation of a graph, for the links and the files that ask for the same.

    Attributes:
        values: by name.
    """

    def __init__(self) -> None:
        self._feeds: Mapping[str, Array] = {}
        self.values: Mapping[str, Array] = {}

    def holds(self, feeds: Mapping[str, Array], names: Collection[str]) -> bool:
        """Whether the entry was evaluated on these very arrays, and has all these values."""
        same = feeds.keys() == self._feeds.keys() and all(feeds[name] is self._feeds[name] for name in feeds)
        return same and self.values.keys() >= frozenset(names)

    def store(self, feeds: Mapping[str, Array], values: Mapping[str, Array]) -> None:
        """Takes the place of the entry before."""
        self._feeds, self.values = feeds, values


class OperandCache:
    """The last operands beyond a sample's own on which a graph is judged, for the other files of the graph."""

    def __init__(self) -> None:
        self._what: Hashable = None
        self._arrays: Sequence[Array] = ()
        self._operands: list[Operands] = []
        self._left: Iterator[Operands] = iter(())

    def of(
        self, what: Hashable, arrays: Sequence[Array], compute: Callable[[], Iterator[Operands]]
    ) -> Iterator[Operands]:
        """The operands that a function computes, each computed once for all callers that ask for the same.

        Args:
            what: all that the operands depend on, except arrays.
            arrays: what the operands are computed of; compared by identity, since comparing numbers costs as much.
            compute: yields the operands.
        """
        same = len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))
        if what != self._what or not same:
            self._what, self._arrays, self._operands, self._left = what, arrays, [], compute()
        operands, left = self._operands, self._left
        for at in itertools.count():
            if at == len(operands):
                # Where this raises, the entry is dropped: the next caller has to meet the same error.
                self._what = None
                item = next(left, None)
                self._what = what
                if item is None:
                    return
                operands.append(item)
            yield operands[at]
