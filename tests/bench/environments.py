"""The peers' environments: one each, below the project's own virtual environment, made once.

Nothing of a peer is ever installed beside edgeconv. The environments are virtual environments filled by pip, with the
user's own pip configuration, so that whatever index or wheel folder pip knows of is found (torch's CPU build, for one).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_READY = "edgeconv-bench-ready.json"
_TORCH = ("torch==2.13.0", "pytorchcv==0.0.74", "safetensors==0.8.0")


class UnavailableError(Exception):
    """A peer's environment cannot be made; the message says why."""


@dataclass(frozen=True)
class Environment:
    """A Python version and exact requirements."""

    name: str
    python: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(sys.prefix) / "share" / "edgeconv" / "bench" / self.name

    @property
    def interpreter(self) -> Path:
        """Its Python."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


ENVIRONMENTS: dict[str, Environment] = {
    environment.name: environment
    for environment in (
        Environment("litert-torch", "3.11", (*_TORCH, "litert-torch==0.10.0")),
        Environment("torch.onnx", "3.11", (*_TORCH, "onnx==1.23.2", "onnxscript==0.7.2", "onnxsim==0.8.1")),
        Environment("onnx2tf", "3.12", ("onnx2tf==2.6.9",)),  # pins all of its own requirements
    )
}


def make(environment: Environment, tell: Callable[[str], None] = print) -> None:
    """Makes an environment unless it is there, with the same pins.

    It is filled in place, since virtual environments cannot be moved; the marker is written last.

    Raises:
        UnavailableError: there is no such Python, or pip failed.
    """
    marker = environment.folder / _READY
    wanted = json.dumps(asdict(environment), sort_keys=True)
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return
    tell(f"making {environment.folder}: {', '.join(environment.packages)} (once; litert-torch alone is over 1 GB)")
    if environment.folder.exists():
        shutil.rmtree(environment.folder)
    _run([_find_python(environment.python), "-m", "venv", str(environment.folder)])
    _run([str(environment.interpreter), "-m", "pip", "install", "--quiet", *environment.packages])
    marker.write_text(wanted, encoding="utf-8")


def _find_python(version: str) -> str:
    for candidate in _candidates(version):
        if _version_of(candidate) == version:
            return candidate
    raise UnavailableError(
        f"no Python {version} was found: put python{version} on PATH, or `uv python install {version}`"
    )


def _candidates(version: str) -> Iterator[str]:
    """This Python, the one on PATH, pyenv's (its shims hide all but the chosen ones), and uv's."""
    yield sys.executable
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True))
    if uv := shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"):
        found = subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=False)
        yield found.stdout.strip()


def _version_of(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise UnavailableError(f"{' '.join(command[:5])} … failed: {lines[-1]}")


if __name__ == "__main__":
    for _name in sys.argv[1:] or ENVIRONMENTS:
        make(ENVIRONMENTS[_name])
