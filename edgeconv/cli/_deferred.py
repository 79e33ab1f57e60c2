"""Loads sympy only where it is used: onnx_ir imports it, and calculates with symbolic dimensions alone by it.

It is a fifth of what an export of an ``.onnx`` file imports (400 modules).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

# The second names functions of the first while it is imported; both are loaded when one of their names is asked for.
_DEFERRED = frozenset({"sympy", "onnx_ir._symbolic_shapes"})


class _Deferring(MetaPathFinder):
    """Finds the modules of `_DEFERRED` where they are, and has them loaded on first use."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def defer_sympy() -> None:
    """Defers sympy from now on, for this process; one that has it already keeps it."""
    if not any(isinstance(finder, _Deferring) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Deferring())
