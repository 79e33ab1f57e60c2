"""Arrays that are computed when they are asked for: all values of a network, several times over, fill gigabytes.

A value costs little on operands that are at hand, and the values of a graph and of its file are asked for in the same
order. So what was asked for last stays, and the rest is computed anew where it is asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import RewriteError

_MOST_ELEMENTS = 1 << 22  # that stay: 32 MB of float64, what some layers that follow each other read
_Key = TypeVar("_Key", bound=Hashable)


class NotComputedError(RewriteError):
    """The graph does not compute a value that was asked for: nothing that a file could answer for."""


class _Held(Protocol):
    """See `edgeconv.parity.writing._held.Graph`."""

    @property
    def model(self) -> ir.Model: ...
    def held(
        self,
        inputs: Mapping[str, Array],
        values: Mapping[str, Array],
        changed: Mapping[str, Array],
        names: Collection[str],
    ) -> dict[str, Array]: ...


class OnDemand(Mapping[_Key, Array]):
    """Computes arrays in groups; the groups that were asked for last stay.

    Args:
        keys: all that there are, in their order.
        compute: gives the array of a key, and those of others that cost no more with it. It is a pure function.
        most: elements that stay, besides the last group.
    """

    def __init__(
        self, keys: Collection[_Key], compute: Callable[[_Key], Mapping[_Key, Array]], most: int = _MOST_ELEMENTS
    ) -> None:
        self._keys, self._compute, self._most = dict.fromkeys(keys), compute, most
        self._last: dict[_Key, Array] = {}
        self._elements = 0

    @classmethod
    def of_each(cls, keys: Collection[_Key], compute: Callable[[_Key], Array]) -> OnDemand[_Key]:
        """Each array by itself."""
        return cls(keys, lambda key: {key: compute(key)})

    @classmethod
    def among(cls, arrays: Mapping[_Key, Array], keys: Collection[_Key]) -> OnDemand[_Key]:
        """Those of a mapping that are among some keys."""
        return cls([key for key in arrays if key in keys], lambda key: {key: arrays[key]}, most=0)

    @classmethod
    def over(cls, arrays: Mapping[_Key, Array], others: Mapping[_Key, Array]) -> OnDemand[_Key]:
        """Those of a mapping, with others in place of some, or besides."""
        keys = [*dict.fromkeys([*arrays, *others])]
        return cls(keys, lambda key: {key: others[key] if key in others else arrays[key]}, most=0)

    def __getitem__(self, key: _Key) -> Array:
        if key not in self._keys:
            raise KeyError(key)
        if key not in self._last:
            group = self._compute(key)
            self._elements += sum(array.size for other, array in group.items() if other not in self._last)
            self._last |= group
            while self._elements > self._most and (oldest := next(iter(self._last))) not in group:
                self._elements -= self._last.pop(oldest).size
        return self._last[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def held_on_demand(
    graph: _Held,
    inputs: Mapping[str, Array],
    values: Mapping[str, Array],
    changed: Mapping[str, Array],
    names: Collection[str],
    error: type[RewriteError] = RewriteError,
) -> Mapping[str, Array]:
    """What `Graph.held` gives, group by group in the order of the graph.

    A value that cannot be computed raises the error where it is asked for.
    """
    groups = _groups(graph.model.graph, names)
    group_of = {name: group for group in groups for name in group}

    def compute(name: str) -> Mapping[str, Array]:
        try:
            return graph.held(inputs, values, changed, group_of[name])
        except RewriteError as cause:
            raise error(cause.what, where=cause.where, hint=cause.hint) from cause

    return OnDemand(list(group_of), compute)


def _groups(graph: ir.Graph, names: Collection[str]) -> Sequence[Sequence[str]]:
    """Values in the order of a graph, together as long as they are small together; inputs and constants are first."""
    shapes = {value.name or "": value.shape for node in graph for value in node.outputs}
    ordered = [*(name for name in names if name not in shapes), *(name for name in shapes if name in names)]
    groups: list[list[str]] = [[]]
    elements = 0
    for name in ordered:
        size = math.prod(size for size in shapes.get(name) or () if isinstance(size, int))
        if elements + size > _MOST_ELEMENTS // 2 and groups[-1]:
            groups.append([])
            elements = 0
        groups[-1].append(name)
        elements += size
    return groups
