"""Version, lazy imports of public names, and onnxruntime's telemetry switch.

onnxruntime's newer builds report their use by default, and leave files in the home folder and among the temporary ones.
A variable of the environment keeps them from it, if it stands there before onnxruntime is loaded (its Privacy.md): in
this process, and in those of devices. Who wants the reports sets it to 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

VERSION = "0.1.0"
SUMMARY = "edgeconv: PyTorch CNNs (and .onnx files) to verified .onnx and .tflite files for mobile and edge devices."
"""What the package says of itself, in one line."""
_TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"


def on_first_use(package: str, names: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package whose public names are imported on first use.

    Args:
        package: its name.
        names: that stand in each module, by the module's name below the package.
    """
    places = {name: f"{package}.{module}" for module, members in names.items() for name in members}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return get


def switch_off_telemetry() -> None:
    """Switches off onnxruntime's telemetry, in this process and its children; call it before importing onnxruntime."""
    os.environ.setdefault(_TELEMETRY_VARIABLE, "1")


def environment_without_telemetry() -> Mapping[str, str]:
    """The environment of a process that may load onnxruntime."""
    return {_TELEMETRY_VARIABLE: "1", **os.environ}
