"""Variables outside of a module that its code may change: globals, closures, classes, default arguments, caches.

`variables` follows a module's methods and hooks to the functions and classes that they name, but not into torch, numpy
or Python's own library. State that Python cannot read (iterators, C modules) is left to `repeat`, which compares
results.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

_FOREIGN = frozenset({"torch", "numpy", "edgeconv", *sys.stdlib_module_names})
# Modules of Python's own library whose objects (lists, namespaces, deques) may hold the program's state.
_CONTAINERS = frozenset({"builtins", "types", "collections"})
_MOST = 5_000  # functions and classes that are followed: a library may name a registry of all its models
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_UNSET = object()


class Variables:
    """A group of variables that a program can set.

    Attributes:
        kind: of variables, for messages: "global variable", "class attribute", ….
        owner: the function or class that has them, for messages; empty for globals of the forward's own module.
        identity: equal for the same variables, whichever function led to them.
    """

    def __init__(
        self,
        kind: str,
        owner: str,
        identity: Hashable,
        items: Callable[[], dict[str, Any]],
        put: Callable[[str, Any], None],
    ) -> None:
        self.kind = kind
        self.owner = owner
        self.identity = (kind, identity)
        self._items = items
        self._put = put

    def items(self) -> dict[str, Any]:
        """The present values, by name."""
        return self._items()

    def __setitem__(self, name: str, value: Any) -> None:
        self._put(name, value)

    def restore(self, items: Mapping[str, Any]) -> None:
        """Sets the variables to earlier values, and deletes those that are new."""
        now = self.items()
        for name in {**now, **items}:
            before = items.get(name, _UNSET)
            if before is not now.get(name, _UNSET):
                self._put(name, before)


def variables(module: torch.nn.Module) -> Iterator[Variables]:
    """The groups of variables that the forward of a module, or what it calls, may set.

    A ``functools.cache`` can be read and set in one respect only: it is a group of one variable, its number of entries,
    and is emptied where that has changed.
    """
    waiting: list[Any] = []
    for part in module.modules():
        waiting += [type(part), *vars(part).values()]
        waiting += [hook for name in _HOOKS for hook in getattr(part, name, {}).values()]
    # By identity: objects of the user's may define equality, or be unhashable.
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        item = waiting.pop()
        if id(item) in seen or not _is_followed(item):
            continue
        seen.add(id(item))
        if isinstance(item, MethodType):
            waiting += [item.__func__, type(item.__self__)]
        elif isinstance(item, functools.partial):
            waiting += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, functools._lru_cache_wrapper):
            waiting.append(item.__wrapped__)
            yield _memory_of(item)
        elif isinstance(item, FunctionType):
            for group in _of_function(item):
                waiting += group.items().values()
                yield group
        elif isinstance(item, type):
            group = _of_class(item)
            waiting += [*map(_underlying, group.items().values()), *item.__mro__]
            yield group
        else:
            waiting.append(type(item))


def is_foreign(item: Any) -> bool:
    """Whether an object belongs to a library whose state is not the module's."""
    root = str(type(item).__module__).partition(".")[0]
    return root in _FOREIGN - _CONTAINERS


def _is_followed(item: Any) -> bool:
    if isinstance(item, MethodType | functools.partial | functools._lru_cache_wrapper):
        return True
    if isinstance(item, FunctionType | type):
        root = str(getattr(item, "__module__", "")).partition(".")[0]
        return root not in _FOREIGN or (root == "edgeconv" and isinstance(item, FunctionType))
    return hasattr(item, "__dict__") and not isinstance(item, torch.Tensor | ModuleType) and not is_foreign(item)


def _underlying(item: Any) -> Any:
    """The function of a static method, a class method or a property."""
    return getattr(item, "__func__", None) or getattr(item, "fget", None) or item


def _of_function(function: FunctionType) -> Iterator[Variables]:
    """Globals, globals of other modules, closure, attributes and default arguments that a function can set."""
    name, code = function.__qualname__.replace("<locals>.", ""), function.__code__
    names = set(_names(code))
    yield _in_dict("global variable", "", function.__globals__, names)
    named = [function.__globals__[key] for key in names & function.__globals__.keys()]
    for module in (*named, *map(_contents, function.__closure__ or ())):
        if isinstance(module, ModuleType) and module.__name__.partition(".")[0] not in _FOREIGN:
            yield _in_dict("global variable", module.__name__, vars(module), names)
    if function.__closure__:
        yield _in_cells(name, dict(zip(code.co_freevars, function.__closure__, strict=True)))
    yield _in_dict("attribute of a function", name, vars(function), None)
    positional = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    arguments = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
    arguments |= function.__kwdefaults__ or {}
    if arguments:
        yield Variables("default argument", name, id(function), lambda: arguments, arguments.__setitem__)


def _names(code: CodeType) -> Iterator[str]:
    """The names that the code of a function and of the functions inside it uses.

    Only identifiers: pytest's rewritten asserts use names such as ``@pytest_ar``, which would lead through all of
    pytest.
    """
    yield from filter(str.isidentifier, code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _in_dict(kind: str, owner: str, namespace: dict[str, Any], names: Collection[str] | None) -> Variables:
    """The variables of these names in a namespace; all of them for None."""

    def items() -> dict[str, Any]:
        if names is None:
            return dict(namespace)
        return {name: namespace[name] for name in names if name in namespace}

    def put(name: str, value: Any) -> None:
        if value is _UNSET:
            namespace.pop(name, None)
        else:
            namespace[name] = value

    return Variables(kind, owner, (id(namespace), None if names is None else frozenset(names)), items, put)


def _in_cells(owner: str, cells: Mapping[str, CellType]) -> Variables:
    def items() -> dict[str, Any]:
        return {name: _contents(cell) for name, cell in cells.items()}

    def put(name: str, value: Any) -> None:
        if value is _UNSET:
            del cells[name].cell_contents
        else:
            cells[name].cell_contents = value

    return Variables("variable", owner, tuple(map(id, cells.values())), items, put)


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a variable that is not set yet
        return _UNSET


def _of_class(owner: type) -> Variables:
    def items() -> dict[str, Any]:
        # _abc_impl: the cache of isinstance checks against an abstract class
        return {key: value for key, value in vars(owner).items() if not key.startswith("__") and key != "_abc_impl"}

    def put(name: str, value: Any) -> None:
        if value is _UNSET:
            delattr(owner, name)
        else:
            setattr(owner, name, value)

    return Variables("class attribute", owner.__qualname__.rpartition("<locals>.")[2], id(owner), items, put)


def _memory_of(cache: functools._lru_cache_wrapper[Any]) -> Variables:
    name = cache.__wrapped__.__qualname__.rpartition("<locals>.")[2]

    def put(_: str, value: Any) -> None:
        if cache.cache_info().currsize != value:
            cache.cache_clear()

    return Variables("memory of", "", id(cache), lambda: {name: cache.cache_info().currsize}, put)
