"""The second half of the flow: artifacts -> devices -> parity -> report files."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from edgeconv.core import (
    Array,
    Artifact,
    Comparison,
    Fidelity,
    GraphSummary,
    Run,
    Sample,
    Tolerance,
    Verdict,
    sha256_of,
)
from edgeconv.devices import INTEGER_KERNELS, SATURATING, all_devices, find, run_artifact
from edgeconv.emit.c_array import c_files_of
from edgeconv.environment import environment
from edgeconv.errors import ParityError
from edgeconv.layers import carried_over, judged_by_layer
from edgeconv.output import Staging, staged
from edgeconv.parity import (
    Golden,
    Integers,
    asks_of_all,
    compare,
    explained_by_fusion,
    golden_bytes,
    held_to_all,
    load_golden,
)
from edgeconv.progress import Progress
from edgeconv.recipe.variants import DEFAULT_FIDELITY
from edgeconv.report import Frontier, Report, from_json, to_html, to_json, to_junit
from edgeconv.source import OnnxSource, Source
from edgeconv.variants import Variant, is_quantised

JSON, HTML, JUNIT = "parity.json", "parity.html", "parity.junit.xml"
_MakeRun = Callable[[tuple[Sample, ...]], Run]
GOLDEN_SHA256 = "golden sha256"
TIMEOUT = "timeout, s"


@dataclass(frozen=True)
class Proof:
    """On what, and how strictly, artifacts are proven.

    Attributes:
        samples: the inputs.
        devices: names; None is "every device that runs here" (a missing runtime is then a skipped row; when it
            was named, it is an error before anything is exported).
        tolerance: the bound of every comparison of float32 with float32.
        bounds: what is asked of each variant that approximates, by its name.
        timeout_s: for one artifact on one device, seconds.
        facts: what the report's environment says beside versions and CPU, e.g. seeds.
    """

    samples: tuple[Sample, ...]
    devices: tuple[str, ...] | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    bounds: Mapping[str, Fidelity] = field(default_factory=lambda: dict(DEFAULT_FIDELITY))
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
    source: Source,
    progress: Progress,
    *,
    name: str,
    description: str,
    metadata: Mapping[str, str],
    outputs: tuple[str, ...],
    graphs: tuple[GraphSummary, ...],
    notes: tuple[str, ...] = (),
    variants: Sequence[Variant] = (),
    frontier: Frontier | None = None,
) -> Report:
    """Judges freshly made artifacts; writes the golden values and the report beside them.

    Raises:
        ParityError: the source itself cannot run the samples.
    """
    with progress.stage(f"{source.title} float64, the reference"):
        reference = source.run(proof.samples, outputs, "float64")
    if reference.verdict is not Verdict.PASS:
        raise ParityError(
            f"{source.title} cannot run the parity inputs: {reference.reason}",
            where=name,
            mend="mend the inputs or the model",
        )
    _require_numbers(reference, name, source.title)
    golden = Golden(proof.samples, reference, _integers(variants, proof.samples, progress))
    golden_name, data = f"{name}.golden.safetensors", golden_bytes(golden)
    staging.write(golden_name, data)
    comparisons, devices = judge(artifacts, golden, proof, source, progress)
    comparisons = judged_by_layer(comparisons, artifacts, variants, golden, proof.timeout_s, progress)
    report = Report(
        model=name,
        description=description,
        source=metadata,
        artifacts=tuple(artifacts),
        comparisons=comparisons,
        graphs=graphs,
        environment={
            **environment(),
            **proof.facts,
            TIMEOUT: f"{proof.timeout_s:g}",
            GOLDEN_SHA256: hashlib.sha256(data).hexdigest(),
            **devices,
        },
        golden=golden_name,
        notes=notes,
        frontier=frontier,
    )
    write_report(staging, report)
    return report


def discard_outdated(staging: Staging, out: Path, artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """Has the earlier report of a folder removed, and the files that it alone speaks of: they would mislead.

    Files that changed since their report was written are somebody else's by now, and stay.

    Returns:
        Notes that say what goes.
    """
    made = {artifact.path.name for artifact in artifacts}
    try:
        recorded = _recorded(from_json((out / JSON).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, ParityError):
        recorded = {}
    for name in (JSON, HTML, JUNIT):
        staging.discard(name)
    stale = [
        name
        for name, sha256 in recorded.items()
        if name not in made and (out / name).is_file() and sha256_of(out / name) == sha256
    ]
    for name in stale:
        staging.discard(name)
    for name in (*made, *stale):
        for of_it in c_files_of(out / name):
            staging.discard(of_it)
    artifacts_gone = [name for name in stale if not name.endswith(".safetensors")]
    return tuple(f"{name} of the earlier export is removed: it is not made any more" for name in artifacts_gone)


def repeat(
    folder: Path,
    *,
    devices: Sequence[str] | None,
    source: Source | None,
    progress: Progress,
    out: Path | None = None,
) -> Report:
    """Runs the artifacts of an earlier export again and writes their report anew.

    Args:
        folder: where ``parity.json``, the artifacts and the golden values lie.
        devices: only these, instead of all of the report; rows of others stay: nothing that they speak of changed.
        source: what was exported, where the caller has it: it must give the golden values again. Without, its own row
            stays as it was.
        progress: hears of the runs.
        out: where the new report goes; over the old one by default.

    Raises:
        ParityError: the report cannot be read, a file changed since it was written, or the source is another one.
        DeviceError: a device of `devices` cannot be had.
    """
    old = _read_report(folder)
    check_devices(devices)
    golden = load_golden(folder / old.golden)
    samples, reference = golden.samples, golden.reference
    names = tuple(devices) if devices is not None else tuple(dict.fromkeys(map(_asked_as, old.comparisons)))
    proof = Proof(samples, names, _tolerance(old), _bounds(old), _timeout_s(old))
    artifacts = tuple(dataclasses.replace(item, path=folder / item.path.name) for item in old.artifacts)
    if source is not None:
        with progress.stage(f"{source.title} float64 beside the golden values"):
            run = source.run(samples, tuple(reference.outputs[0]), "float64")
            _require_same(run, reference, samples, folder / old.golden)
    own_again = source is not None and source.device in names
    kept = tuple(row for row in old.comparisons if (not own_again if row.artifact == "" else row.device not in names))
    comparisons, devices_now = judge(artifacts, golden, proof, source, progress)
    comparisons = carried_over(comparisons, old.comparisons, devices_now, old.environment)
    report = dataclasses.replace(
        old,
        artifacts=artifacts,
        comparisons=(*kept, *comparisons),
        environment={**old.environment, **environment(), **devices_now},
    )
    with staged(out or folder) as staging:
        write_report(staging, report)
    return report


def judge(
    artifacts: Sequence[Artifact], golden: Golden, proof: Proof, source: Source | None, progress: Progress
) -> tuple[tuple[Comparison, ...], dict[str, Mapping[str, str]]]:
    """Runs every artifact on every device that takes its format, and compares with the float64 reference.

    Args:
        artifacts: their files exist.
        golden: the source in float64, and what quantised graphs say exactly.
        proof: samples, devices and bounds.
        source: its own float32 is a row; None where it is not at hand.
        progress: hears of each run.

    Returns:
        One comparison per output of every artifact and device, the source first; and what each device said of itself,
        by ``"device <name>"``.
    """
    outputs = tuple(golden.reference.outputs[0])
    comparisons: list[Comparison] = []
    environments: dict[str, Mapping[str, str]] = {}
    for title, variant, make_run, unfused in _runs(artifacts, proof, source, outputs):
        mine = golden.of(variant)
        if not mine.samples:
            raise ParityError(
                f"no parity input is for the variant {variant}", mend="leave `variants` out of one in the recipe"
            )
        rows_of = partial(_rows, golden=mine, variant=variant, proof=proof, outputs=outputs)
        with progress.stage(title):
            run = make_run(mine.samples)
            rows = rows_of(run)
        if unfused is not None and any(map(asks_of_all, rows)):
            with progress.stage(f"{title}, nothing fused"):
                saturating = run.environment.get(INTEGER_KERNELS) == SATURATING
                rows = explained_by_fusion(rows, rows_of(unfused(mine.samples)), saturating=saturating)
        comparisons += rows
        if run.environment:
            key = f"device {run.device}"
            environments[key] = {**environments.get(key, {}), **run.environment}
    for variant, bound in proof.bounds.items():
        of = {artifact.path.name for artifact in artifacts if artifact.variant == variant}
        comparisons = held_to_all(comparisons, bound, of=of)
    return tuple(comparisons), environments


def _rows(run: Run, *, golden: Golden, variant: str, proof: Proof, outputs: tuple[str, ...]) -> tuple[Comparison, ...]:
    return compare(
        run,
        golden.reference,
        golden.samples,
        artifact=run.artifact,
        tolerance=proof.bounds.get(variant, proof.tolerance),
        output_names=outputs,
        integers=golden.integers.get(variant),
    )


def _integers(variants: Sequence[Variant], samples: Sequence[Sample], progress: Progress) -> dict[str, Integers]:
    """What each quantised graph says exactly."""
    found = {}
    for variant in variants:
        if variant.plan is not None or is_quantised(variant.model):
            with progress.stage(f"{variant.name} graph, its integers"):
                integers = variant.integers(samples)
            if integers is not None:
                found[variant.name] = integers
    return found


def _runs(
    artifacts: Sequence[Artifact], proof: Proof, source: Source | None, outputs: tuple[str, ...]
) -> Iterator[tuple[str, str, _MakeRun, _MakeRun | None]]:
    """The title, the variant and the doing of each run; one at a time, since outputs may be large.

    The last is the same run with nothing fused, where that may tell why an artifact fails.
    """
    if source is not None and source.device in proof.device_names:
        run = partial(source.run, outputs=outputs, precision="float32", timeout_s=proof.timeout_s)
        yield f"{source.title} float32", source.variant, run, None
    for artifact in artifacts:
        for device in map(find, proof.device_names):
            if artifact.format in device.formats:
                title = f"{artifact.path.name} on {device.name}"
                make_run = partial(run_artifact, device, artifact, timeout_s=proof.timeout_s)
                unfused = partial(make_run, optimized=False) if artifact.format == "onnx" else None
                yield title, artifact.variant, make_run, unfused


def _asked_as(row: Comparison) -> str:
    """The device that a row is asked for by: a file's own row comes with onnxruntime's."""
    return OnnxSource.device if row.device == OnnxSource.row else row.device


def write_report(staging: Staging, report: Report) -> None:
    """Writes the three forms of the report; the JSON last, as it is what a release check reads."""
    staging.write(HTML, to_html(report).encode())
    staging.write(JUNIT, to_junit(report).encode())
    staging.write(JSON, to_json(report).encode())


def _require_numbers(reference: Run, name: str, title: str) -> None:
    """A reference without a finite number agrees with every file that has none either, and proves nothing."""
    for index, outputs in enumerate(reference.outputs):
        for output, array in outputs.items():
            if array.dtype.kind == "f" and array.size and not np.isfinite(array).any():
                raise ParityError(
                    f"{title}'s own output {output!r} is all NaN or infinite for input {index}",
                    where=name,
                    mend="mend the model, its weights or that input",
                )


def _require_same(run: Run, reference: Run, samples: Sequence[Sample], golden: Path) -> None:
    """The module must be the one whose outputs were stored: float64 sums may differ in their order, and no more."""
    mend = "give the recipe that the folder was exported from"
    if run.verdict is not Verdict.PASS:
        raise ParityError(f"the recipe's model does not run: {run.reason}", where=str(golden), mend=mend)
    for sample, outputs, stored in zip(samples, run.outputs, reference.outputs, strict=True):
        for name, b in stored.items():
            a = outputs[name]
            if a.shape != b.shape or not _close(a, b):
                raise ParityError(
                    f"the recipe's model does not give these values (output {name!r}, sample {sample.name})",
                    where=str(golden),
                    mend=mend,
                )


def _close(a: Array, b: Array) -> bool:
    """NaN and infinities stand in the same places; all else differs by no more than the order of sums makes."""
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    level = float(np.sqrt(np.mean(np.square(b[finite], dtype=np.float64)))) if finite.any() else 0.0
    return np.allclose(a[finite], b[finite], rtol=1e-9, atol=1e-9 * level)


def _tolerance(report: Report) -> Tolerance:
    """The bound that the report was judged by: one for all its rows."""
    found = (row.tolerance for row in report.comparisons)
    return next((tolerance for tolerance in found if isinstance(tolerance, Tolerance)), Tolerance())


def _timeout_s(report: Report) -> float:
    """That of the export; the first reports did not say."""
    stated = report.environment.get(TIMEOUT)
    return float(stated) if isinstance(stated, str) else Proof.timeout_s


def _bounds(report: Report) -> dict[str, Fidelity]:
    """What was asked of each approximation."""
    variants = {artifact.path.name: artifact.variant for artifact in report.artifacts}
    return {
        variants[row.artifact]: row.tolerance
        for row in report.comparisons
        if isinstance(row.tolerance, Fidelity) and row.artifact in variants
    }


def _read_report(folder: Path) -> Report:
    """Reads ``parity.json`` and makes sure that every file it speaks of is still the one it judged."""
    path = folder / JSON
    try:
        report = from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"cannot read the report: {error}", where=str(path), mend="export again") from error
    for name, sha256 in _recorded(report).items():
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


def _recorded(report: Report) -> dict[str, str]:
    """The checksum of every file that the report speaks of, by name."""
    return {
        **{item.path.name: item.sha256 for item in report.artifacts},
        report.golden: str(report.environment.get(GOLDEN_SHA256, "")),
    }
