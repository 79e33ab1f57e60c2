"""Environments of their own for runtimes that cannot live beside numpy 2.

They are made by `install` and by nothing else: nothing is installed behind the user's back.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeconv.devices._process import NotInstalledError
from edgeconv.errors import DeviceError

ROOT_VARIABLE = "EDGECONV_RUNTIMES"
TFLITE_RUNTIME = "2.14.0"
"""The pinned version of tflite-runtime: its last, and so the oldest runtime that files are promised to load in."""
_READY = "edgeconv-ready.json"  # written last: without it, an environment is not finished
_UV_TIMEOUT_S = 600  # packages are downloaded, and a Python where there is none of that version


@dataclass(frozen=True)
class Environment:
    """An isolated environment, by what is pinned in it.

    Attributes:
        device: the device that it is for.
        folder: its folder below `runtimes_root`.
        python: the Python version.
        packages: exact requirements.
    """

    device: str
    folder: str
    python: str
    packages: tuple[str, ...]


ENVIRONMENTS: Mapping[str, Environment] = {
    environment.device: environment
    for environment in (
        # Its wheels exist for Python 3.9 to 3.11 and were built against numpy 1.
        Environment(
            "tflite-runtime",
            f"tflite-runtime-{TFLITE_RUNTIME}",
            "3.11",
            (f"tflite-runtime=={TFLITE_RUNTIME}", "numpy==1.26.4"),
        ),
        # The microcontrollers' interpreter is built each night; this build is pinned so that its kernels stay.
        Environment(
            "tflite-micro", "tflite-micro-20261023", "3.11", ("tflite-micro==0.dev20261023182759", "numpy==2.4.6")
        ),
    )
}


def runtimes_root() -> Path:
    """Where environments live: in this virtual environment, so that they go with it, or at $EDGECONV_RUNTIMES."""
    override = os.environ.get(ROOT_VARIABLE)
    return Path(override).absolute() if override else Path(sys.prefix) / "share" / "edgeconv" / "runtimes"


def python_of(environment: Environment) -> Path:
    """The Python of an installed environment.

    Raises:
        DeviceError: it is not installed (or was not finished).
    """
    folder = runtimes_root() / environment.folder
    if not _is_ready(environment, folder):
        hint = f"run `edgeconv devices --install {environment.device}`"
        raise NotInstalledError(f"{environment.device} is not installed", hint=hint)
    return _python(folder)


def install(name: str) -> bool:
    """Makes the environment of a device, unless it is there already.

    It is built in place, since a virtual environment cannot be moved, and counts as installed only once the marker
    that is written last is there: a killed install is simply made anew by the next one.

    Returns:
        Whether anything was installed.

    Raises:
        DeviceError: the device has no environment of its own, or uv failed.
    """
    environment = ENVIRONMENTS.get(name) if isinstance(name, str) else None
    if environment is None:
        hint = f"installable: {', '.join(ENVIRONMENTS)}"
        raise DeviceError(f"there is nothing to install for {name!r:.80}", hint=hint)
    folder = runtimes_root() / environment.folder
    if _is_ready(environment, folder):
        return False
    with _locked(folder):
        if _is_ready(environment, folder):  # made while we waited
            return False
        _uv("venv", "--quiet", "--clear", "--no-project", "--python", environment.python, str(folder))
        _uv("pip", "install", "--quiet", "--python", str(_python(folder)), *environment.packages)
        # Written and renamed, so that nobody reads half a marker.
        fresh = folder / f".{_READY}.{os.getpid()}"
        fresh.write_text(_marker(environment), encoding="utf-8")
        fresh.replace(folder / _READY)
    return True


def _is_ready(environment: Environment, folder: Path) -> bool:
    try:
        text = (folder / _READY).read_text(encoding="utf-8")
    except OSError:
        return False
    return text == _marker(environment) and _python(folder).exists()


def _marker(environment: Environment) -> str:
    return json.dumps(asdict(environment), sort_keys=True) + "\n"


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time build ``folder``; the lock goes with the process that holds it."""
    import fcntl

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = (folder.parent / f".{folder.name}.lock").open("w", encoding="utf-8")
    except OSError as error:
        hint = f"make it writable or set {ROOT_VARIABLE} to another folder"
        raise DeviceError(f"cannot write: {error.strerror or error}", where=str(folder.parent), hint=hint) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _uv(*arguments: str) -> None:
    import uv

    # Both would make uv look at or write into another environment than the one named.
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    try:
        done = subprocess.run(
            [uv.find_uv_bin(), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_UV_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"uv cannot be run: {error}", hint="pip install uv") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
        # The first line says what failed, the last one its innermost cause.
        message = " … ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else f"exit status {done.returncode}"
        raise DeviceError(f"uv {arguments[0]} failed: {message}", hint="check the network and the package index")
