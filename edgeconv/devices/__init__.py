"""Where an artifact runs.

A device is a command that speaks the protocol of `agent.py`, the single file that runs on the other side. torch
itself, which gives the reference, runs in this process.

What a device is: `Device`, `DEVICES`, `all_devices`, `find`, `AGENT`.
To run: `run_artifact`, `run_intermediates`, `run_module`, `values_of_modules`; a traced program call by call,
`ProgramRun` with its `ProgramCall`s; `Sessions` for many artifacts; `start`
and `Session` for devices that shall get ready early.
Whether their integer kernels saturate, a key of their environment and one of its values: `INTEGER_KERNELS`,
`SATURATING`.
Runtimes with an environment of their own: `ENVIRONMENTS`, `install`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.devices._device import Device, start
    from edgeconv.devices._environments import ENVIRONMENTS, install
    from edgeconv.devices._integer_probe import INTEGER_KERNELS, SATURATING
    from edgeconv.devices._module import run_module, values_of_modules
    from edgeconv.devices._program import ProgramCall, ProgramRun
    from edgeconv.devices._run import Sessions, run_artifact, run_intermediates
    from edgeconv.devices._session import Session, file_inputs
    from edgeconv.devices._table import AGENT, DEVICES, all_devices, find

__all__ = [
    "AGENT",
    "DEVICES",
    "ENVIRONMENTS",
    "INTEGER_KERNELS",
    "SATURATING",
    "Device",
    "ProgramCall",
    "ProgramRun",
    "Session",
    "Sessions",
    "all_devices",
    "file_inputs",
    "find",
    "install",
    "run_artifact",
    "run_intermediates",
    "run_module",
    "start",
    "values_of_modules",
]

# Each comes on first use: an export without proof runs nothing.
_PLACES = {
    "_device": ("Device", "start"),
    "_environments": ("ENVIRONMENTS", "install"),
    "_integer_probe": ("INTEGER_KERNELS", "SATURATING"),
    "_module": ("run_module", "values_of_modules"),
    "_program": ("ProgramCall", "ProgramRun"),
    "_run": ("Sessions", "run_artifact", "run_intermediates"),
    "_session": ("Session", "file_inputs"),
    "_table": ("AGENT", "DEVICES", "all_devices", "find"),
}
__getattr__ = on_first_use(__name__, _PLACES)
