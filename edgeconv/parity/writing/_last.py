"""What was computed of a graph last, for whoever asks for the same: another link, or another file of the graph."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from edgeconv.core import Array

if TYPE_CHECKING:
    from edgeconv.parity.writing._operands import Operands


class Last:
    """The last evaluation of a graph, which several links and files ask for; one, as it weighs.

    Attributes:
        values: by name.
    """

    def __init__(self) -> None:
        self._feeds: Mapping[str, Array] = {}
        self.values: Mapping[str, Array] = {}

    def has(self, feeds: Mapping[str, Array], names: Collection[str]) -> bool:
        """Whether these values are of these very arrays."""
        same = feeds.keys() == self._feeds.keys() and all(feeds[name] is self._feeds[name] for name in feeds)
        return same and self.values.keys() >= frozenset(names)

    def keep(self, feeds: Mapping[str, Array], values: Mapping[str, Array]) -> None:
        """Takes the place of the one before."""
        self._feeds, self.values = feeds, values


class Shared:
    """The operands beyond a sample's on which several files of one graph are judged: the last ones, as they weigh."""

    def __init__(self) -> None:
        self._what: Hashable = None
        self._arrays: Sequence[Array] = ()
        self._operands: list[Operands] = []
        self._left: Iterator[Operands] = iter(())

    def of(
        self, what: Hashable, arrays: Sequence[Array], compute: Callable[[], Iterator[Operands]]
    ) -> Iterator[Operands]:
        """The operands that a function computes, each once for all who ask for the same.

        Args:
            what: all that they depend on, but for arrays.
            arrays: that they are computed of; others are other ones, though their numbers may be the same.
            compute: gives them, in their order.
        """
        same = len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))
        if what != self._what or not same:
            self._what, self._arrays, self._operands, self._left = what, arrays, [], compute()
        operands, left = self._operands, self._left
        for at in itertools.count():
            if at == len(operands):
                # Where this raises, nothing is kept: whoever asks next has to meet the same.
                kept, self._what = self._what, None
                item = next(left, None)
                self._what = kept
                if item is None:
                    return
                operands.append(item)
            yield operands[at]
