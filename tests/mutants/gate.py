"""The gate that is put to the test: what the proof says of a file, link by link.

`Gate.judge` is the one function that faults and clean rows are put to. It asks what the flow asks (`edgeconv.flow`), in
this process and with runtimes that stay started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from exports import Export

from edgeconv.core import Artifact, Comparison, Run, Sample, Tolerance
from edgeconv.core.variants import DEFAULT_FIDELITY
from edgeconv.core.verdicts import Link, Verdict
from edgeconv.devices import Session, Sessions, find, start
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.flow.links import with_links
from edgeconv.flow.rewriting import Rewriting
from edgeconv.flow.running import judged_running
from edgeconv.parity import Golden, Integers, compare, judge_layers, layer_steps, unjudged_layers
from edgeconv.parity.chain import relieved
from edgeconv.progress import Silent

DEVICES = ("onnxruntime", "litert", "litert-reference")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Judged:
    """What the gate says of a file.

    Attributes:
        broken: the links that do not hold, with the first reason of each; empty where the file passes.
        broken_on: the same by device, of the links that a device takes part in.
        runs: what each device computed.
    """

    broken: Mapping[Link, str]
    broken_on: Mapping[str, Mapping[Link, str]]
    runs: tuple[Run, ...]

    def links_on(self, device: str) -> Mapping[Link, str]:
        """The links that do not hold for a device: its own, and those of the file, which no device takes part in."""
        own = self.broken_on[device]
        elsewhere = {link for links in self.broken_on.values() for link in links}
        return {**{link: reason for link, reason in self.broken.items() if link not in elsewhere}, **own}


@dataclass(frozen=True)
class Reference:
    """What files are compared with: samples, the module on them in float64, and the integers of a quantized graph."""

    samples: tuple[Sample, ...]
    golden: Golden
    integers: Integers | None

    @classmethod
    def of(cls, export: Export, samples: Sequence[Sample], golden: Golden) -> Reference:
        """For an export; ``golden`` is the module's on these samples."""
        return cls(tuple(samples), golden, export.variant.integers(samples))


class Gate:
    """Judges files; a context, at whose end the devices are closed.

    Args:
        folder: where the files that are judged lie while they are.
        devices: names.
    """

    def __init__(self, folder: Path, devices: Sequence[str] = DEVICES) -> None:
        self._folder = folder
        self._devices = [find(name) for name in devices]
        self._sessions = Sessions()
        self._probing: dict[str, Session] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sessions.__exit__(kind, error, trace)
        for session in self._probing.values():
            session.close()

    def judge(self, export: Export, data: bytes, reference: Reference) -> Judged:
        """Judges bytes that are said to be the export's file."""
        artifact = export.renewed(data, self._folder)
        runs, rows_on = [], {}
        for device in self._devices:
            if artifact.format in device.formats:
                run = self._sessions.run(device, artifact, reference.samples, timeout_s=_TIMEOUT_S)
                rows = self._rows(export, artifact, run, reference)
                runs.append(run)
                rows_on[device.name] = self._with_running(artifact, run, rows, reference)
        rewriting = Rewriting(export.model.captured, export.model.graph, source=export.model.source)
        (linked,) = with_links([artifact], [export.variant], reference.golden, Silent(), rewriting)
        broken = {link.link: link.reason for link in linked.links if link.verdict is Verdict.FAIL}
        broken_on = {name: _broken(relieved(rows, [linked])) for name, rows in rows_on.items()}
        for links in broken_on.values():
            broken = {**links, **broken}
        artifact.path.unlink()
        return Judged(broken, broken_on, tuple(runs))

    def _rows(self, export: Export, artifact: Artifact, run: Run, reference: Reference) -> list[Comparison]:
        """Of the outputs, and of the layers of integers."""
        outputs = compare(
            run,
            reference.golden.reference,
            reference.samples,
            artifact=artifact.path.name,
            tolerance=DEFAULT_FIDELITY.get(artifact.variant, Tolerance()),
            output_names=export.model.outputs,
            integers=reference.integers,
            joints=reference.golden.joints,
            scales=reference.golden.scales(),
        )
        rows = list(outputs)
        judged = artifact.intermediates and find(run.device).tells_intermediates
        if judged and outputs[0].verdict is not Verdict.SKIPPED and run.outputs:
            rows.append(self._layers(export, artifact, run, reference, outputs[0]))
        return rows

    def _with_running(
        self, artifact: Artifact, run: Run, rows: Sequence[Comparison], reference: Reference
    ) -> list[Comparison]:
        """The rows of a device, the first with link 4."""
        if not run.outputs:
            return list(rows)
        device, samples = find(run.device), reference.samples
        link = judged_running(self._sessions, device, artifact, samples, run, rows, timeout_s=_TIMEOUT_S)
        return [replace(rows[0], links=(link,)), *rows[1:]]

    def _layers(
        self, export: Export, artifact: Artifact, run: Run, reference: Reference, row: Comparison
    ) -> Comparison:
        blank = Comparison(row.artifact, row.device, row.output, None, row.tolerance, Verdict.PASS)
        try:
            session = self._probing.get(run.device)
            if session is None or not session.alive:
                session = self._probing[run.device] = start(find(run.device))
            tensors = session.run_intermediates(artifact, reference.samples, timeout_s=_TIMEOUT_S)
            inputs = [sample.inputs for sample in reference.samples]
            return judge_layers(blank, layer_steps(export.variant.model, artifact.intermediates, inputs, tensors))
        except DeviceError as error:
            return unjudged_layers(blank, str(error))
        except EdgeconvError as error:
            return unjudged_layers(blank, f"{type(error).__name__}: {error}")


def _broken(rows: Sequence[Comparison]) -> dict[Link, str]:
    """The links that a device takes part in, and that do not hold."""
    reasons = [row.reason for row in rows if row.verdict is Verdict.FAIL]
    broken = {Link.END_TO_END: reasons[0]} if reasons else {}
    return broken | {link.link: link.reason for row in rows for link in row.links if link.verdict is Verdict.FAIL}
