"""The visible table of devices, and how outsiders' devices are found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from edgeconv.core import values
from edgeconv.devices import agent
from edgeconv.devices._device import Device
from edgeconv.devices._environments import ENVIRONMENTS, TFLITE_RUNTIME, python_of
from edgeconv.errors import DeviceError

AGENT = Path(agent.__file__)
"""The agent's file, which may be copied anywhere that has Python, numpy and a runtime."""

ENTRY_POINTS = "edgeconv.devices"
"""Outsiders' devices: each entry point of this group names a `Device`."""


def _here(runtime: str) -> Callable[[], Sequence[str]]:
    # -P: the folder of agent.py must not be searched for modules.
    return lambda: [sys.executable, "-P", str(AGENT), runtime, "--threads", "1"]


def _isolated(runtime: str) -> Callable[[], Sequence[str]]:
    # -I: PYTHONPATH and user packages would bring in the very numpy that the environment is there to avoid.
    return lambda: [str(python_of(ENVIRONMENTS[runtime])), "-I", str(AGENT), runtime, "--threads", "1"]


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("torch", "PyTorch, float32", ()),
        Device("onnxruntime", "ONNX Runtime", ("onnx",), _here("onnxruntime")),
        Device("litert", "LiteRT with XNNPACK", ("tflite",), _here("litert")),
        Device(
            "litert-reference",
            "LiteRT with reference kernels",
            ("tflite",),
            _here("litert-reference"),
            lacks_operators=True,  # CEIL, ELU, ROUND, … (tflite/kernels/register_ref.cc)
            tells_intermediates=True,
        ),
        Device("tflite-runtime", f"tflite-runtime {TFLITE_RUNTIME}", ("tflite",), _isolated("tflite-runtime")),
        Device(
            "tflite-micro",
            "TensorFlow Lite for Microcontrollers",
            ("tflite",),
            _isolated("tflite-micro"),
            # Its kernels refuse float16 weights, and int8 weights beside float activations ("hybrid models").
            ("fp32", "int8", "int16x8"),
            open_batch=False,  # its arena is planned once, for a batch of 1
        ),
    )
}


def all_devices() -> Mapping[str, Device]:
    """`DEVICES` and whatever installed packages add by entry points, by name.

    Raises:
        DeviceError: a package's device cannot be loaded, or takes a name that is taken.
    """
    devices = dict(DEVICES)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        device = _load(point)
        if device.name in devices:
            what = f"the name {device.name!r} is taken"
            raise DeviceError(what, where=f"entry point {point.value}", hint="rename it")
        devices[device.name] = device
    return devices


def find(name: str) -> Device:
    """The device of that name.

    Raises:
        DeviceError: there is none; the message names the nearest ones.
    """
    device = (DEVICES.get(name) or all_devices().get(name)) if isinstance(name, str) else None
    if device is None:
        names = list(all_devices())
        near = values.close_to(name, names, most=3, likeness=0.5) if isinstance(name, str) else []
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
        raise DeviceError(f"unknown device {name!r:.80}", hint=hint)
    return device


def _load(point: metadata.EntryPoint) -> Device:
    try:
        device = point.load()
    except Exception as error:  # importing a package runs its code, which may be anybody's
        what = f"cannot be loaded ({type(error).__name__}: {error})"
        raise DeviceError(what, where=f"entry point {point.value}", hint="fix or uninstall its package") from error
    if not isinstance(device, Device):
        what = f"names a value of type {type(device).__name__}, not a Device"
        raise DeviceError(what, where=f"entry point {point.value}", hint="fix or uninstall its package")
    return device
