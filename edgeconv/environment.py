"""What the numbers of a report were measured on."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import edgeconv

_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "ai-edge-litert", "numpy")


def environment() -> dict[str, str]:
    """Versions of every package that shapes an artifact, Python, operating system and CPU."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "edgeconv": edgeconv.__version__,
        **versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    """The CPU's model name; Linux tells it in /proc/cpuinfo, elsewhere the platform module has to do."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
