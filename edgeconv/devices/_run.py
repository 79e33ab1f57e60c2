"""Runs artifacts on devices, and reads their intermediates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from edgeconv.core import Array, Artifact, Run, Sample, Verdict
from edgeconv.devices._device import Device, start
from edgeconv.devices._process import NotInstalledError
from edgeconv.devices._session import Session
from edgeconv.errors import DeviceError

# What TFLite's resolver says of an operator that it does not know (core/api/op_resolver.cc).
_NO_KERNEL = re.compile(r"Didn't find op for builtin opcode '(\w+)'")


def run_artifact(
    device: Device,
    artifact: Artifact,
    samples: Sequence[Sample],
    *,
    timeout_s: float,
    session: Session | None = None,
    optimized: bool = True,
) -> Run:
    """Runs an artifact on samples and never raises for what a runtime does.

    Args:
        device: where.
        artifact: the file; its bytes are read here and sent.
        samples: inputs in torch's layout; they are cast to the file's dtypes and moved to its layouts.
        timeout_s: real seconds for all of it: start, load and every sample.
        session: one that was started before with `start(device)`; it stays open. A dead one is replaced for this
            run, so that one artifact's crash is not the next one's.
        optimized: False has a runtime that knows how compute every operator of the file by itself, unfused.

    Returns:
        PASS with outputs in torch's layout; FAIL where the runtime refuses the file, crashes, hangs or returns what
        the file does not declare; SKIPPED where the device is not installed or does not take the format, the variant,
        an open batch or an operator of the file.
    """
    refused = _refused(device, artifact)
    if refused is not None:
        return refused
    if session is not None and session.alive:
        return _lacking(device, session.run(artifact, samples, timeout_s=timeout_s, optimized=optimized))
    fresh = _started(device, artifact)
    if isinstance(fresh, Run):
        return fresh
    with fresh:
        return _lacking(device, fresh.run(artifact, samples, timeout_s=timeout_s, optimized=optimized))


class Sessions:
    """One session per device, started for the first artifact that it takes and kept for those that follow.

    To start a runtime takes longer than most artifacts do. A session whose run did not pass is ended: whatever ails it
    is no business of the next artifact's.
    """

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def run(
        self,
        device: Device,
        artifact: Artifact,
        samples: Sequence[Sample],
        *,
        timeout_s: float,
        optimized: bool = True,
    ) -> Run:
        """As `run_artifact`; ``timeout_s`` bounds the start of the device where this run needs it."""
        refused = _refused(device, artifact)
        if refused is not None:
            return refused
        session = self._open.get(device.name) or _started(device, artifact)
        if isinstance(session, Run):
            return session
        self._open[device.name] = session
        run = session.run(artifact, samples, timeout_s=timeout_s, optimized=optimized)
        if run.verdict is not Verdict.PASS:
            self._open.pop(device.name).close()
        return _lacking(device, run)

    def run_probe(
        self, device: Device, artifact: Artifact, probe: bytes | None, sample: Sample, *, outputs: int, timeout_s: float
    ) -> tuple[Array, ...]:
        """As `Session.run_probe`.

        Raises:
            DeviceError: as there; also where the device cannot be started.
        """
        session = self._open.get(device.name) or start(device)
        self._open[device.name] = session
        try:
            return session.run_probe(artifact, probe, sample, outputs=outputs, timeout_s=timeout_s)
        except DeviceError:
            self._open.pop(device.name).close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._open.values():
            session.close()
        self._open.clear()


def _refused(device: Device, artifact: Artifact) -> Run | None:
    """A SKIPPED run if the device does not take this format, variant or open batch; else None."""
    name = artifact.path.name
    if artifact.format not in device.formats:
        takes = " and ".join(device.formats) or "modules only"
        return Run(device.name, name, (), Verdict.SKIPPED, f"{device.name} runs {takes}, not {artifact.format}")
    if device.variants and artifact.variant not in device.variants:
        reason = f"{device.title} has kernels for {', '.join(device.variants)} only, not for {artifact.variant}"
        return Run(device.name, name, (), Verdict.SKIPPED, reason)
    if not device.open_batch and any(isinstance(size, str) for spec in artifact.inputs for size in spec.shape):
        reason = f"{device.title} runs files of a fixed batch only, and the batch of this one is open"
        return Run(device.name, name, (), Verdict.SKIPPED, reason)
    return None


def _lacking(device: Device, run: Run) -> Run:
    """The run; SKIPPED where it failed for an operator that the device is known to have no kernel of."""
    lacked = _NO_KERNEL.search(run.reason) if device.lacks_operators and run.verdict is Verdict.FAIL else None
    if lacked is None:
        return run
    return replace(run, verdict=Verdict.SKIPPED, reason=f"{device.title} have no kernel of {lacked[1]}")


def _started(device: Device, artifact: Artifact) -> Session | Run:
    """A session with the device, or, where it cannot be started, a SKIPPED or FAIL run with the reason."""
    try:
        return start(device)
    except NotInstalledError as error:
        return Run(device.name, artifact.path.name, (), Verdict.SKIPPED, str(error))
    except DeviceError as error:
        return Run(device.name, artifact.path.name, (), Verdict.FAIL, str(error))


def run_intermediates(
    device: Device, artifact: Artifact, samples: Sequence[Sample], *, timeout_s: float
) -> tuple[Mapping[str, Array], ...]:
    """The integers of ``artifact.intermediates`` on each sample, by name, in the file's layout.

    Args:
        device: one whose ``tells_intermediates`` is True.
        artifact: the file; its bytes are read here and sent.
        samples: as for `run_artifact`.
        timeout_s: as for `run_artifact`.

    Raises:
        DeviceError: the device is not installed, or cannot tell them.
    """
    with start(device) as session:
        return session.run_intermediates(artifact, samples, timeout_s=timeout_s)
