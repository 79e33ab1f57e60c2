"""onnxruntime without reports of its use, which its newer builds make by default.

They leave files in the home folder and among the temporary ones. A variable of the environment keeps them from it, if
it stands there before onnxruntime is loaded (its Privacy.md): in this process, and in those of devices. Who wants the
reports sets it to 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_VARIABLE = "ORT_DISABLE_TELEMETRY"


def switch_off() -> None:
    """Keeps onnxruntime from reporting in this process, and in what it starts; before each import of it."""
    os.environ.setdefault(_VARIABLE, "1")


def environment() -> Mapping[str, str]:
    """The environment of a process that may load onnxruntime."""
    return {_VARIABLE: "1", **os.environ}
