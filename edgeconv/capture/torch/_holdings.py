"""Snapshots of the plain Python state of a module: attributes, lists, dicts, objects, and variables of its code.

A snapshot is taken before a forward, compared after it, and restored. torch.export restores attributes too, but as
copies; it leaves new attributes and list elements, and does not report a tensor that was replaced in a list or dict:
that is state between calls, which a file cannot have.
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

# Attributes that torch.nn.Module itself has; writes to parameters and buffers are seen in the traced graph.
_STANDARD = frozenset(vars(torch.nn.Module()))
_LARGEST = 100_000  # containers that are watched: a data set in memory would take longer than the export
_OPAQUE = (torch.Tensor, str, bytes, int, float, complex, type, FunctionType, MethodType, ModuleType)
_ABSENT = object()
_ATTRIBUTE = "attribute"


@dataclass(frozen=True)
class Change:
    """An element of a container that a forward has changed.

    Attributes:
        kind: of container, for messages: attribute, global variable, ….
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
    """A snapshot of everything that a module and its submodules hold, except the values of tensors."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._places: list[_Place] = []
        self._seen: set[Hashable] = set()
        for path, part in module.named_modules():
            self._enter(_Place.of(path, vars(part), is_plain=True))
        for group in variables(module):
            self._enter(_Place.of(group.owner, group, is_plain=True, kind=group.kind))

    def _enter(self, place: _Place) -> None:
        """Records a container, and all containers inside it."""
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
        """The differences to the snapshot, except of parameters, buffers, submodules and hooks."""
        changes = []
        for place in self._places:
            items = _items(place.container)
            for key in {**place.items, **items} if place.is_plain else ():
                old, new = place.items.get(key, _ABSENT), items.get(key, _ABSENT)
                if key not in _STANDARD and not _is_unchanged(old, new):
                    before, after = (None if item is _ABSENT else item for item in (old, new))
                    changes.append(Change(place.kind, place.path_to(key), place.container, key, before, after))
        return changes

    def restore(self, *, outside_only: bool = False) -> None:
        """Restores the snapshot in the same container objects; with `outside_only`, only variables of the code."""
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
    """A container and its elements at the time of the snapshot: by key, by position, or (in sets) by themselves.

    `is_plain` is false inside the attributes that torch.nn.Module manages: those are restored, but not reported.
    """

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
def restored_after(module: torch.nn.Module) -> Iterator[Holdings]:
    """The snapshot of a module before the block, which is restored after it."""
    holdings = Holdings(module)
    try:
        yield holdings
    finally:
        holdings.restore()


def _container(item: Any) -> Any:
    """The mutable container of an item: itself, or the attributes of an object; None where there is none."""
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
    """Whether two values cannot be told apart: the same object, or equal plain values. Tensors count by identity."""
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
