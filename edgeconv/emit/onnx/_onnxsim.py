"""onnxsim, imported without torch.

Its package imports all of its integrations, one of which (PPQ) looks for torch and does without where there is none:
of the 1.8 s that ``import onnxsim`` takes, 1.2 s and 200 MB are torch's, for an ``.onnx`` file that needs neither.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from edgeconv.core.package import switch_off_telemetry


def onnxsim() -> ModuleType:
    """The package; it finds torch only where this process has imported it already."""
    if "onnxsim" not in sys.modules:
        switch_off_telemetry()  # it imports onnxruntime
        try:
            with _without("torch"):
                import onnxsim
        except ImportError:  # a version that cannot do without
            import onnxsim  # noqa: F401
    return sys.modules["onnxsim"]


class _Hidden:
    """A finder that has one thread find no package of this name; what is imported already is not looked for."""

    def __init__(self, name: str) -> None:
        self._name, self._thread = name, threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuses the one package; called by the import system."""
        if name == self._name and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@contextmanager
def _without(name: str) -> Iterator[None]:
    finder = _Hidden(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
