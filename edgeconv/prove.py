"""The second half of the flow: artifacts -> devices -> parity -> report files."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from edgeconv.core import Artifact, Comparison, GraphSummary, Run, Sample, Tolerance, Verdict, sha256_of
from edgeconv.devices import all_devices, find, run_artifact
from edgeconv.environment import environment
from edgeconv.errors import ParityError
from edgeconv.output import Staging, staged
from edgeconv.parity import compare, golden_bytes, load_golden
from edgeconv.progress import Progress
from edgeconv.report import Report, from_json, to_html, to_json, to_junit

TORCH = "torch"
JSON, HTML, JUNIT = "parity.json", "parity.html", "parity.junit.xml"
GOLDEN_SHA256 = "golden sha256"

# Runs the module itself on the samples: "float64" is the reference, "float32" a row of the report.
TorchRun = Callable[[Literal["float64", "float32"]], Run]


@dataclass(frozen=True)
class Proof:
    """On what, and how strictly, artifacts are proven.

    Attributes:
        samples: the inputs.
        devices: names; None is "every device that runs here" (a missing runtime is then a skipped row; when it
            was named, it is an error before anything is exported).
        tolerance: the bound of every comparison.
        timeout_s: for one artifact on one device, seconds.
        facts: what the report's environment says beside versions and CPU, e.g. seeds.
    """

    samples: tuple[Sample, ...]
    devices: tuple[str, ...] | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    timeout_s: float = 120.0
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def device_names(self) -> tuple[str, ...]:
        """The devices in the report's order."""
        return tuple(all_devices()) if self.devices is None else self.devices


def check_devices(names: Sequence[str] | None) -> None:
    """Refuses devices that were named and cannot be had, before any work is done.

    Raises:
        DeviceError: unknown (with the nearest known name), or its runtime is not installed or does not start.
    """
    for device in [find(name) for name in names or ()]:
        device.probe(timeout_s=60.0)


def prove(
    staging: Staging,
    artifacts: Sequence[Artifact],
    proof: Proof,
    torch_run: TorchRun,
    progress: Progress,
    *,
    name: str,
    description: str,
    source: Mapping[str, str],
    graphs: tuple[GraphSummary, ...],
    notes: tuple[str, ...] = (),
) -> Report:
    """Judges freshly made artifacts; writes the golden values and the report beside them.

    Raises:
        ParityError: torch itself cannot run the samples.
    """
    with progress.stage("torch float64, the reference"):
        reference = torch_run("float64")
    if reference.verdict is not Verdict.PASS:
        raise ParityError(
            f"torch cannot run the parity inputs: {reference.reason}", where=name, mend="mend the inputs or the module"
        )
    golden = golden_bytes(proof.samples, reference)
    golden_name = f"{name}.golden.safetensors"
    staging.write(golden_name, golden)
    comparisons, devices = judge(artifacts, reference, proof, torch_run, progress)
    report = Report(
        model=name,
        description=description,
        source=source,
        artifacts=tuple(artifacts),
        comparisons=comparisons,
        graphs=graphs,
        environment={**environment(), **proof.facts, GOLDEN_SHA256: hashlib.sha256(golden).hexdigest(), **devices},
        golden=golden_name,
        notes=notes,
    )
    write_report(staging, report)
    return report


def repeat(
    folder: Path,
    *,
    devices: Sequence[str] | None,
    torch_run: Callable[[Sequence[Sample], Run], TorchRun] | None,
    progress: Progress,
) -> Report:
    """Runs the artifacts of an earlier export again and writes their report anew.

    Args:
        folder: where ``parity.json``, the artifacts and the golden values lie.
        devices: instead of those of the report.
        torch_run: makes something that runs the module on the golden samples, where the caller has the module;
            without, torch's row is skipped with the reason.
        progress: hears of the runs.

    Raises:
        ParityError: the report cannot be read, or a file changed since it was written.
        DeviceError: a device of `devices` cannot be had.
    """
    old = _read_report(folder)
    check_devices(devices)
    samples, reference = load_golden(folder / old.golden)
    names = tuple(devices) if devices is not None else tuple(dict.fromkeys(row.device for row in old.comparisons))
    proof = Proof(samples, names, _tolerance(old))
    artifacts = tuple(dataclasses.replace(item, path=folder / item.path.name) for item in old.artifacts)
    module_run = torch_run(samples, reference) if torch_run else _no_module
    comparisons, devices_now = judge(artifacts, reference, proof, module_run, progress)
    report = dataclasses.replace(
        old,
        artifacts=artifacts,
        comparisons=comparisons,
        environment={**old.environment, **environment(), **devices_now},
    )
    with staged(folder) as staging:
        write_report(staging, report)
    return report


def judge(
    artifacts: Sequence[Artifact], reference: Run, proof: Proof, torch_run: TorchRun, progress: Progress
) -> tuple[tuple[Comparison, ...], dict[str, Mapping[str, str]]]:
    """Runs every artifact on every device that takes its format, and compares with the float64 reference.

    Args:
        artifacts: their files exist.
        reference: torch in float64.
        proof: samples, devices and bounds.
        torch_run: runs the module; its float32 is a row.
        progress: hears of each run.

    Returns:
        One comparison per output of every artifact and device, torch first; and what each device said of itself,
        by ``"device <name>"``.
    """
    outputs = tuple(reference.outputs[0])
    comparisons: list[Comparison] = []
    environments: dict[str, Mapping[str, str]] = {}
    for title, make_run in _runs(artifacts, proof, torch_run):
        with progress.stage(title):
            run = make_run()
            comparisons += compare(
                run, reference, proof.samples, artifact=run.artifact, tolerance=proof.tolerance, output_names=outputs
            )
        if run.environment:
            environments[f"device {run.device}"] = run.environment
    return tuple(comparisons), environments


def _runs(artifacts: Sequence[Artifact], proof: Proof, torch_run: TorchRun) -> Iterator[tuple[str, Callable[[], Run]]]:
    """The title and the doing of each run; one at a time, since outputs may be large."""
    if TORCH in proof.device_names:
        yield "torch float32", partial(torch_run, "float32")
    for artifact in artifacts:
        for device in (find(name) for name in proof.device_names if name != TORCH):
            if artifact.format in device.formats:
                yield (
                    f"{artifact.path.name} on {device.name}",
                    partial(run_artifact, device, artifact, proof.samples, timeout_s=proof.timeout_s),
                )


def write_report(staging: Staging, report: Report) -> None:
    """Writes the three forms of the report; the JSON last, as it is what a release check reads."""
    staging.write(HTML, to_html(report).encode())
    staging.write(JUNIT, to_junit(report).encode())
    staging.write(JSON, to_json(report).encode())


def _no_module(dtype: str) -> Run:
    reason = f"the module is not stored beside its artifacts: give its recipe to run torch {dtype} again"
    return Run(TORCH, "", (), Verdict.SKIPPED, reason)


def _tolerance(report: Report) -> Tolerance:
    """The bound that the report was judged by: one for all its rows."""
    return next((row.tolerance for row in report.comparisons), Tolerance())


def _read_report(folder: Path) -> Report:
    """Reads ``parity.json`` and makes sure that every file it speaks of is still the one it judged."""
    path = folder / JSON
    try:
        report = from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"cannot read the report: {error}", where=str(path), mend="export again") from error
    recorded = {item.path.name: item.sha256 for item in report.artifacts}
    recorded[report.golden] = str(report.environment.get(GOLDEN_SHA256, ""))
    for name, sha256 in recorded.items():
        file = folder / name
        if not file.is_file():
            raise ParityError("the report speaks of this file, and it is missing", where=str(file), mend="export again")
        if sha256_of(file) != sha256:
            raise ParityError(
                f"changed since its report was written (sha256 was {sha256[:12]}…)",
                where=str(file),
                mend="export again, or put the judged file back",
            )
    return report
