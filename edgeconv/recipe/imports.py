"""Imports the code that a recipe names, from its own folder first, without mixing up recipes' modules of equal name.

Python knows one module per name in a process, and finds it through one list of folders. Several recipes may each mean
the ``net.py`` beside them, and a program, the working folder or an installed package may have one, too. So the modules
of a recipe's folder are in ``sys.modules`` only while code of that recipe runs; they are kept beside it, to be there
again the next time, unless one of their files has changed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

OURS = ("edgeconv", "torch", "numpy")  # also from a checkout on PYTHONPATH, of which no record of an install tells
_modules: dict[Path, dict[str, ModuleType]] = {}
"""By recipe folder, the modules that were imported from it, by name."""
_stamps: dict[Path, dict[str, tuple[int, int]]] = {}
"""Likewise the time of change (ns) and size of each module's file."""


@contextmanager
def importing_from(directory: Path) -> Iterator[None]:
    """Within the block, imports search this folder first and the working folder last.

    What edgeconv itself runs on (Python's own modules, torch, numpy, …) is never replaced.
    """
    folder, before, bytecode = directory.resolve(), list(sys.path), sys.dont_write_bytecode
    importlib.invalidate_caches()
    finder = _Finder(folder)
    # Modules of the same names from elsewhere make room, and come back at the end.
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if finder.has(name)}
    sys.modules.update(_unchanged(folder))
    sys.path.append(str(Path.cwd()))
    sys.dont_write_bytecode = True  # compiled files are told apart by whole seconds, and the folder is the user's
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.dont_write_bytecode, sys.path[:] = bytecode, before
        _modules[folder] = {name: sys.modules.pop(name) for name in list(sys.modules) if finder.has(name)}
        for name, module in _modules[folder].items():
            _stamps.setdefault(folder, {}).setdefault(name, _stamp(module))
        sys.modules.update(hidden)


class _Finder:
    """Finds the top-level modules and packages of one folder; what lies in a package is found through it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._specs: dict[str, bool] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The folder's module of that name; called by the import system."""
        return PathFinder.find_spec(fullname, [str(self._folder)]) if path is None and self.has(fullname) else None

    def has(self, name: str) -> bool:
        """Whether a module, or the package that it lies in, is the folder's."""
        top = name.partition(".")[0]
        if top not in self._specs:
            self._specs[top] = self._has(top)
        return self._specs[top]

    def _has(self, top: str) -> bool:
        if not top.isidentifier() or top in sys.stdlib_module_names or top == "__main__":
            return False
        spec = PathFinder.find_spec(top, [str(self._folder)])
        if spec is None:
            return False
        elsewhere = PathFinder.find_spec(top)
        # Which package a module belongs to is read from the records of all that is installed: 0.3 s.
        if top in OURS or (elsewhere is not None and elsewhere.origin != spec.origin and is_needed(top)):
            return False
        if spec.loader is None:  # a folder without __init__.py yields to anything that is a module
            return (elsewhere is None or elsewhere.loader is None) and any(Path(self._folder, top).rglob("*.py"))
        return True


def _unchanged(folder: Path) -> dict[str, ModuleType]:
    """The folder's modules from its last use; none if any of their files has changed since, so that all load anew."""
    modules, stamps = _modules.get(folder, {}), _stamps.get(folder, {})
    if all(_stamp(module) == stamps[name] for name, module in modules.items()):
        return modules
    _stamps.pop(folder, None)
    return {}


def _stamp(module: ModuleType) -> tuple[int, int]:
    try:
        state = Path(module.__file__ or "").stat()
    except (OSError, ValueError):
        return 0, 0
    return state.st_mtime_ns, state.st_size


@cache
def is_needed(top: str) -> bool:
    """Whether a module belongs to a package that edgeconv runs on."""
    return bool(_runtime() & {_canonical(name) for name in importlib.metadata.packages_distributions().get(top, ())})


@cache
def _runtime() -> frozenset[str]:
    """Names of the distributions that edgeconv depends on, directly or not, without extras."""
    distributions: set[str] = set()
    waiting = ["edgeconv"]
    while waiting:
        name = _canonical(waiting.pop())
        if name in distributions:
            continue
        distributions.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        named = [re.match(r"[\w.-]+", line) for line in required if "extra ==" not in line]
        waiting += [match.group() for match in named if match is not None]
    return frozenset(distributions)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
