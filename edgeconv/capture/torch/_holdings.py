"""What modules hold in plain Python: attributes, lists, dicts, objects, and what their code keeps outside of them.

Read before and after a forward, and put back.

torch.export puts attributes back as well, but as copies, leaves new ones and whatever was appended to a list, and keeps
silent where a tensor in one of them changes: that is memory, which a file has not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch

from edgeconv.capture.torch._outside import Variables, is_foreign, variables

# torch.nn.Module's own; what happens to parameters and buffers stands in the traced graph.
_STANDARD = frozenset(vars(torch.nn.Module()))
_LARGEST = 100_000  # places that are watched; a data set in memory would take longer than the export
_OPAQUE = (torch.Tensor, str, bytes, int, float, complex, type, FunctionType, MethodType, ModuleType)
_ABSENT = object()
_ATTRIBUTE = "attribute"


@dataclass(frozen=True)
class Change:
    """A place that a forward leaves with something else than it found.

    Attributes:
        kind: of place: attribute, global variable, ….
        path: as Python writes it, from the module: ``encoder.history[0]``.
        container: the dict, list, set, deque or group of variables that holds it.
        key: in `container`.
        before: what it was; None where it is new.
        after: what it is now; None where it is gone.
    """

    kind: str
    path: str
    container: Any
    key: Any
    before: Any
    after: Any


class Holdings:
    """A snapshot of everything that a module and its submodules hold beside tensors' values."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._places: list[_Place] = []
        self._seen: set[Hashable] = set()
        for path, part in module.named_modules():
            self._enter(_Place.of(path, vars(part), is_plain=True))
        for group in variables(module):
            self._enter(_Place.of(group.owner, group, is_plain=True, kind=group.kind))

    def _enter(self, place: _Place) -> None:
        """Remembers a container and what lies in it."""
        waiting = [place]
        while waiting and len(self._places) < _LARGEST:
            place = waiting.pop()
            is_outside = place.kind != _ATTRIBUTE
            identity = place.container.identity if isinstance(place.container, Variables) else id(place.container)
            if identity in self._seen:
                continue
            self._seen.add(identity)
            self._places.append(place)
            for key, item in place.items.items():
                inner = None if is_outside and is_foreign(item) else _container(item)
                if inner is not None:
                    is_plain = place.is_plain and key not in _STANDARD
                    waiting.append(_Place.of(place.path_to(key), inner, is_plain=is_plain, kind=place.kind))

    def changes(self) -> list[Change]:
        """What is not as it was, but for parameters, buffers, submodules and hooks."""
        changes = []
        for place in self._places:
            items = _items(place.container)
            for key in {**place.items, **items} if place.is_plain else ():
                old, new = place.items.get(key, _ABSENT), items.get(key, _ABSENT)
                if key not in _STANDARD and not _is_unchanged(old, new):
                    olds, news = (None if item is _ABSENT else item for item in (old, new))
                    changes.append(Change(place.kind, place.path_to(key), place.container, key, olds, news))
        return changes

    def restore(self, *, outside_only: bool = False) -> None:
        """Puts everything back, into the very containers that held it; or only what lies outside of the module."""
        for place in self._places:
            container, items = place.container, place.items
            if (outside_only and place.kind == _ATTRIBUTE) or _identities(_items(container)) == _identities(items):
                continue
            if isinstance(container, Variables):
                container.restore(items)
                continue
            container.clear()
            if isinstance(container, list | deque):
                container.extend(items.values())
            else:
                container.update(items)


@dataclass(frozen=True)
class _Place:
    """A container, and what lay in it: values by key, position, or (in sets) by themselves."""

    path: str
    container: Any
    items: dict[Any, Any]
    is_plain: bool
    kind: str

    @classmethod
    def of(cls, path: str, container: Any, *, is_plain: bool, kind: str = _ATTRIBUTE) -> _Place:
        return cls(path, container, _items(container), is_plain, kind)

    def path_to(self, key: Any) -> str:
        if isinstance(self.container, dict | Variables) and isinstance(key, str) and key.isidentifier():
            return f"{self.path}.{key}" if self.path else key
        return f"{self.path}[{key!r}]"


@contextmanager
def held(module: torch.nn.Module) -> Iterator[Holdings]:
    """The holdings of a module before the block; afterwards they are what they were."""
    holdings = Holdings(module)
    try:
        yield holdings
    finally:
        holdings.restore()


def _container(item: Any) -> Any:
    """What can be changed in place: the item itself, or the attributes of an object; None for all else."""
    if isinstance(item, dict | list | set | deque):
        return item
    if item is None or isinstance(item, _OPAQUE):
        return None
    attributes = getattr(item, "__dict__", None)
    return attributes if isinstance(attributes, dict) else None


def _items(container: Any) -> dict[Any, Any]:
    if isinstance(container, dict):
        return dict(container)
    if isinstance(container, Variables):
        return container.items()
    return {item: item for item in container} if isinstance(container, set) else dict(enumerate(container))


def _identities(items: dict[Any, Any]) -> list[tuple[Any, int]]:
    return [(key, id(item)) for key, item in items.items()]


def _is_unchanged(old: Any, new: Any) -> bool:
    """Whether nothing can be told apart: one object, or equal plain values."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if isinstance(old, list | tuple | deque):
        return len(old) == len(new) and all(map(_is_unchanged, old, new))
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_is_unchanged(old[key], new[key]) for key in old)
    if isinstance(old, int | float | str | bytes | torch.dtype | torch.device):
        return bool(old == new)
    return False
