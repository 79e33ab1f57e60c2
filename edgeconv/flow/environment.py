"""The environment of a report: package versions, operating system, CPU."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

from edgeconv.core.package import VERSION
from edgeconv.devices.agent import machine_environment
from edgeconv.report import TIMEOUT

JUDGED_BY = "judged by"

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


def proof_environment(
    timeout_s: float,
    judged_by: str,
    devices: Mapping[str, Mapping[str, str]],
    facts: Mapping[str, str] | None = None,
) -> dict[str, str | Mapping[str, str]]:
    """What a report says of where and by what its artifacts were judged.

    Args:
        timeout_s: for one artifact on one device, seconds.
        judged_by: whose the bounds and the reference are.
        devices: what each device said of itself, by ``"device <name>"``.
        facts: what else there is to say, e.g. seeds.
    """
    return {**environment(), **(facts or {}), TIMEOUT: f"{timeout_s:g}", JUDGED_BY: judged_by, **devices}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
