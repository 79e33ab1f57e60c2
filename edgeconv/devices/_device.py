"""What a device is: a name, the formats that it runs, and the command that reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from edgeconv.core.defaults import PROBE_TIMEOUT_S
from edgeconv.devices._process import NotInstalledError, device_line
from edgeconv.devices._session import Session
from edgeconv.devices.agent import machine_environment
from edgeconv.errors import DeviceError, is_own_fault

_LONGEST_NAME = 200  # characters; the limit of a report's `Title`


@dataclass(frozen=True)
class Device:
    """Where an artifact runs.

    Attributes:
        name: unique, as recipes and reports write it.
        title: for people.
        formats: the artifact formats that it takes (``"onnx"``, ``"tflite"``); empty for torch, which runs modules.
        command: makes the command line of a process that speaks the protocol of `agent.py`; it raises DeviceError
            where the device is not installed. None for torch, which runs in this process.
        variants: those that its runtime has kernels for; empty for all.
        open_batch: whether it runs files whose batch is left open at every batch size.
        lacks_operators: whether its runtime has no kernels of some operators that people deploy. Such a device is there
            to judge files, not to ship to, so a file with such an operator is skipped and not failed.
        tells_intermediates: whether it can return the tensors inside a file; integer layers are then judged on it.
    """

    name: str
    title: str
    formats: tuple[str, ...]
    command: Callable[[], Sequence[str]] | None = None
    variants: tuple[str, ...] = ()
    open_batch: bool = True
    lacks_operators: bool = False
    tells_intermediates: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not 0 < len(self.name) <= _LONGEST_NAME:
            hint = f"give it a printable name of 1 to {_LONGEST_NAME} characters"
            raise DeviceError(f"the device's name is {self.name!r:.80}", hint=hint)
        for what, words in (("formats", self.formats), ("variants", self.variants)):
            if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in words):
                raise DeviceError(f"its {what} are {words!r:.80}", where=f"device {self.name}", hint="give a tuple")

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> Mapping[str, str]:
        """Asks the device what it is: runtime, version, python, numpy, machine, cpu.

        Raises:
            DeviceError: it is not installed or cannot be reached; the hint says what to do.
        """
        if self.command is None:
            return torch_environment()
        try:
            with start(self) as session:
                return session.hello(timeout_s)
        except DeviceError as error:
            raise DeviceError(error.what, where=f"device {self.name}", hint=error.hint) from error


def start(device: Device) -> Session:
    """Starts a device and returns at once, so that several can get ready side by side.

    Raises:
        DeviceError: it is not installed, or runs in this process.
    """
    if device.command is None:
        raise DeviceError("runs modules in this process, there is nothing to start", where=f"device {device.name}")
    return Session(device.name, _command(device))


def _command(device: Device) -> Sequence[str]:
    """The device's command line; its package may be anybody's.

    Raises:
        NotInstalledError: it says that it is not installed.
        DeviceError: it has none, or what it gives is no command line.
    """
    where = f"device {device.name}"
    try:
        command = device.command() if device.command is not None else None
    except DeviceError as error:
        raise NotInstalledError(error.what, where=error.where, hint=error.hint) from error
    except Exception as error:  # an entry point may be anybody's, and raise anything
        if is_own_fault(error):
            raise
        what = f"its command cannot be made ({type(error).__name__}: {device_line(error)})"
        raise DeviceError(what, where=where, hint="fix or uninstall its package") from error
    if not isinstance(command, list | tuple) or not command or not all(isinstance(word, str) for word in command):
        what = f"its command is {device_line(repr(command)):.80}, and no list of words"
        raise DeviceError(what, where=where, hint="fix or uninstall its package")
    return command


def torch_environment() -> Mapping[str, str]:
    """torch's version and the machine, as `Device.probe` returns them, without importing torch.

    Raises:
        DeviceError: torch is not installed.
    """
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError as error:
        raise DeviceError("torch is not installed", where="device torch", hint="pip install torch") from error
    return {"runtime": "torch", "version": version, **machine_environment()}
