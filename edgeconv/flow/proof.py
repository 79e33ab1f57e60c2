"""How the files of an export are proven, and whether the devices for it can be had; the proof itself is `prove`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeconv.core import Fidelity, Sample, Tolerance
from edgeconv.core.defaults import DEVICE_TIMEOUT_S
from edgeconv.core.variants import DEFAULT_FIDELITY
from edgeconv.errors import DeviceError, Wording

if TYPE_CHECKING:
    from edgeconv.devices import Device


@dataclass(frozen=True)
class Proof:
    """How artifacts are proven: samples, devices, bounds, time limit.

    Attributes:
        samples: the inputs.
        devices: names; None is "every device that runs here" (a missing runtime is then a skipped row; when it
            was named, it is an error before anything is exported).
        tolerance: the bound of every comparison of float32 with float32.
        bounds: acceptance thresholds of each variant that approximates, by its name.
        timeout_s: for one artifact on one device, seconds.
        facts: what the report's environment says beside versions and CPU, e.g. seeds.
    """

    samples: tuple[Sample, ...]
    devices: tuple[str, ...] | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    bounds: Mapping[str, Fidelity] = field(default_factory=lambda: dict(DEFAULT_FIDELITY))
    timeout_s: float = DEVICE_TIMEOUT_S
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def device_names(self) -> tuple[str, ...]:
        """The devices in the report's order."""
        if self.devices is not None:
            return self.devices
        from edgeconv.devices import all_devices

        return tuple(all_devices())


def check_devices(names: Sequence[str] | None, where: str | Wording = "") -> None:
    """Refuses devices that were named and cannot be had, before any work is done; `where` they were named.

    One that has answered is not started again: several recipes, or exports of one process, name the same ones.

    Raises:
        DeviceError: unknown (with the nearest known name), or its runtime is not installed or does not start.
    """
    for device in [_named(name, where) for name in names or ()]:
        command = _command_of(device)
        if command in _ANSWERED:
            continue
        device.probe()
        if command is not None:
            _ANSWERED.add(command)


def _named(name: str, where: str | Wording) -> Device:
    from edgeconv.devices import find

    try:
        return find(name)
    except DeviceError as error:
        raise DeviceError(error.what, where=error.where or where, hint=error.hint) from error


_ANSWERED: set[tuple[str, ...]] = set()
"""Commands of devices that have answered their probe in this process."""


def _command_of(device: Device) -> tuple[str, ...] | None:
    """The command that reaches it now, none for torch; None where it is not installed, which its probe explains."""
    try:
        return tuple(device.command()) if device.command else ()
    except DeviceError:
        return None
