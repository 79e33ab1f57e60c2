"""The environment of a report: package versions, operating system, CPU."""

from __future__ import annotations

import platform
from importlib import metadata

from edgeconv.devices.agent import machine_environment
from edgeconv.package import VERSION

_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "ai-edge-litert", "numpy")


def environment() -> dict[str, str]:
    """Versions of every package that shapes an artifact, Python, operating system, CPU and its instructions."""
    machine = machine_environment()
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "edgeconv": VERSION,
        **versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": machine["cpu"],
        "cpu instructions": machine["instructions"],
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
