"""onnxsim is imported without torch, and nobody else's import of torch is touched.

Members thought of: torch not imported before, imported before, imported afterwards, imported by another thread
meanwhile; a version of onnxsim that needs it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeconv.emit.onnx._onnxsim import _without

_CODE = """
import sys
from edgeconv.emit.onnx._onnxsim import onnxsim
finders = list(sys.meta_path)
assert callable(onnxsim().simplify)
assert "torch" not in sys.modules
assert sys.meta_path == finders
import torch
assert torch.zeros(1).sum() == 0
"""


def _run(code: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_torch_is_not_imported_and_can_be_afterwards(tmp_path: Path) -> None:
    _run(_CODE, tmp_path)


def test_a_version_that_needs_torch_gets_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "onnxsim.py").write_text("import torch\n")
    _run("from edgeconv.emit.onnx._onnxsim import onnxsim; assert onnxsim().torch", tmp_path)


def test_another_thread_finds_what_is_hidden_from_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hidden_here.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with _without("hidden_here"):
        with pytest.raises(ModuleNotFoundError):
            __import__("hidden_here")
        thread = threading.Thread(target=__import__, args=("hidden_here",))
        thread.start()
        thread.join()
    assert sys.modules.pop("hidden_here").__name__ == "hidden_here"
