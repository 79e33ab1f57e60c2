"""The second half of the flow: artifacts -> devices -> parity -> report files."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from edgeconv.core import (
    Array,
    Artifact,
    Comparison,
    Fidelity,
    GraphSummary,
    Parts,
    Run,
    Sample,
    Tolerance,
    Verdict,
)
from edgeconv.devices import Sessions
from edgeconv.errors import DEVICES, ParityError
from edgeconv.flow.certificates import with_certificates
from edgeconv.flow.coverage import with_coverage
from edgeconv.flow.environment import proof_environment
from edgeconv.flow.file_names import golden_name
from edgeconv.flow.judge import judge, with_float32
from edgeconv.flow.layers import carried_over, judged_by_layer
from edgeconv.flow.links import with_links
from edgeconv.flow.output import Staging, staged
from edgeconv.flow.own_steps import own_steps, told_steps
from edgeconv.flow.proof import Proof, check_devices
from edgeconv.flow.rebuilt import Rebuilt
from edgeconv.flow.record import read_report, require_unchanged, write_report
from edgeconv.flow.rewriting import Rewriting
from edgeconv.flow.source import OnnxSource, Source
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import is_quantized
from edgeconv.graph.indices import indices_of
from edgeconv.graph.joints import joints_of
from edgeconv.parity import (
    Golden,
    Integers,
    golden_bytes,
    load_golden,
)
from edgeconv.parity.coverage import Reach
from edgeconv.progress import Progress
from edgeconv.report import GOLDEN_SHA256, OWN_INTEGERS, TIMEOUT, Report, TargetSearch, names_listed, seconds_of

_ALTERED = "were judged by several bounds: it was altered"
_NAME_IT = "name the recipe, whose own bounds decide, or export again"
_OTHER_RECIPE = "give the recipe that the folder was exported from, and what --set said of it"


MakeProof = Callable[[tuple[str, ...]], Proof]
"""Makes the proof for variants, by their names."""
Rebuild = Callable[[Sequence[Artifact], Report], Rebuilt]
"""Makes anew the graphs that files of an earlier report were written from."""


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
    joints: Mapping[str, tuple[Parts, ...]] = MappingProxyType({}),
    indices: frozenset[str] = frozenset(),
    target_search: TargetSearch | None = None,
    rewriting: Rewriting | None = None,
) -> Report:
    """Judges freshly made artifacts; writes the golden values and the report beside them.

    Raises:
        ParityError: the source itself cannot run the samples.
    """
    # 1. What the source computes in float64, and quantized graphs in exact integers.
    reference = reference_of(source, proof.samples, outputs, name, progress)
    reached: dict[str, Reach] = {}
    integers = _integers(variants, proof.samples, reached, progress)
    golden = Golden(proof.samples, reference, integers, joints, indices=indices)
    with Sessions() as sessions:  # a source that is a file runs where its artifacts do
        golden, own_run = with_float32(golden, source, proof, progress, sessions)
        own = own_steps(variants, integers, proof.samples, own_run, reference)
        for note in own:
            progress.note(note)
        # 2. Links 1 to 3, and what the inputs reach; derived inputs look for what they do not.
        artifacts = with_links(artifacts, variants, golden, progress, rewriting)
        artifacts, derived = with_coverage(artifacts, variants, golden, reached, progress)
        golden = replace(golden, derived=derived)
        golden_file, data = golden_name(name), golden_bytes(golden)
        staging.write(golden_file, data)
        artifacts = with_certificates(artifacts, golden, progress)
        # 3. Devices: link 4 and the outputs.
        comparisons, devices = judge(artifacts, golden, proof, source, progress, own_run=own_run, sessions=sessions)
    comparisons = judged_by_layer(comparisons, artifacts, variants, golden, proof.timeout_s, progress)
    trained = _own_integers(variants, integers)
    comparisons = told_steps(comparisons, artifacts, trained)
    stated = {OWN_INTEGERS: ", ".join(sorted(trained))} if trained else {}
    report = Report(
        model=name,
        description=description,
        source=metadata,
        artifacts=tuple(artifacts),
        comparisons=comparisons,
        graphs=graphs,
        environment={**first_environment(proof, "the export's own bounds", source, data, devices), **stated},
        golden=golden_file,
        notes=(*notes, *own),
        target_search=target_search,
    )
    write_report(staging, report)
    return report


def first_environment(
    proof: Proof, bounds: str, source: Source, golden: bytes, devices: Mapping[str, Mapping[str, str]]
) -> dict[str, str | Mapping[str, str]]:
    """The environment of a report of golden values that the source just computed; `bounds` says whose bounds."""
    judged_by = f"{bounds}, and what {source.title} computes"
    facts = {**proof.facts, GOLDEN_SHA256: hashlib.sha256(golden).hexdigest()}
    return proof_environment(proof.timeout_s, judged_by, devices, facts)


def reference_of(
    source: Source, samples: tuple[Sample, ...], outputs: tuple[str, ...], name: str, progress: Progress
) -> Run:
    """Runs the source in float64 on all samples: the reference.

    Raises:
        ParityError: it fails, or an output of a sample is all NaN or infinite.
    """
    with progress.stage(f"{source.title} float64, the reference"):
        reference = source.run(samples, outputs, "float64")
    if reference.verdict is not Verdict.PASS:
        what = f"{source.title} cannot run the parity inputs: {reference.reason}"
        raise ParityError(what, where=name, hint="fix the inputs or the model")
    _require_numbers(reference, name, source.title)
    return reference


def repeat(
    folder: Path,
    *,
    devices: Sequence[str] | None,
    progress: Progress,
    source: Source | None = None,
    out: Path | None = None,
    make_proof: MakeProof | None = None,
    rebuild: Rebuild | None = None,
) -> Report:
    """Runs the artifacts of an earlier export again and writes their report anew.

    Args:
        folder: where ``parity.json``, the artifacts and the golden values lie.
        devices: these instead of all devices of the report; the rows of others stay, as their files did not change.
        source: what was exported, if the caller has it: it must reproduce the golden values, and those that it computes
            now are used. Without it, its own float32 row stays as it was.
        progress: notified of the runs.
        out: where the new report goes; over the old one by default.
        make_proof: makes the proof (bounds, time limit, samples) of these variants, in place of the report's; its
            samples must equal the stored ones (empty: the stored ones are used).
        rebuild: makes the graphs anew. Links 1 to 3 and the layers of their files are judged anew, and what quantized
            graphs compute replaces the stored integers; without it, all of this is taken from the report.

    Raises:
        ParityError: the report cannot be read, a file changed since it was written or while the devices ran, or the
            source is another one.
        DeviceError: a device of `devices` cannot be had.
    """
    # 1. The old report, whose files are checked against their checksums; what is judged by now.
    old = read_report(folder)
    check_devices(devices, DEVICES)
    golden = load_golden(folder / old.golden)  # its checksum is one of those that `read_report` has checked
    names = tuple(devices) if devices is not None else tuple(dict.fromkeys(map(_selecting_device, old.comparisons)))
    proof = _proof_again(make_proof, old, golden, names)
    artifacts = tuple(replace(item, path=folder / item.path.name) for item in old.artifacts)
    # 2. Golden values: from the source, where it is at hand, else as stored.
    own_run: Run | None = None
    if source is not None:
        with progress.stage(f"{source.title} float64 beside the golden values"):
            golden = _own_values(source, proof.samples, golden, folder / old.golden)
        with Sessions() as sessions:
            golden, own_run = with_float32(golden, source, proof, progress, sessions)
    # 3. Graphs that are made anew give their integers and links 1 to 3 anew.
    again = rebuild(artifacts, old) if rebuild is not None else Rebuilt()
    artifacts, golden = _links_again(artifacts, again, golden, progress)
    # 4. Rows of devices that are not run again stay, if the same bounds judged them.
    stored_rows = tuple(row for row in old.comparisons if not _is_run_again(row, names, source))
    _require_bound(stored_rows, artifacts, proof, folder)
    artifacts = with_certificates(artifacts, golden, progress)
    own = [row for row in stored_rows if not row.artifact]
    comparisons, devices_now = judge(artifacts, golden, proof, source, progress, own=own, own_run=own_run)
    layers = [row for row in old.comparisons if _variant_of(row, artifacts) not in again.names]
    comparisons = carried_over(comparisons, layers, devices_now, old.environment)
    comparisons = judged_by_layer(comparisons, artifacts, again.variants, golden, proof.timeout_s, progress)
    stated = {*names_listed(old.environment, OWN_INTEGERS)} - again.names
    comparisons = told_steps(comparisons, artifacts, stated | _own_integers(again.variants, golden.integers))
    report = replace(
        old,
        artifacts=artifacts,
        comparisons=(*stored_rows, *comparisons),
        environment={
            **old.environment,
            **proof_environment(proof.timeout_s, _judged_by(source, make_proof is not None), devices_now),
        },
    )
    with staged(out or folder) as staging:
        # Devices take minutes, in which another command may have written the folder that was read.
        staging.before_commit(lambda: require_unchanged(folder, old), reads=folder)
        write_report(staging, report)
    return report


def _proof_again(make_proof: MakeProof | None, old: Report, golden: Golden, devices: tuple[str, ...]) -> Proof:
    """The proof of a repeated run: as `make_proof`, else from the report and its golden values."""
    if make_proof is None:
        return Proof(golden.samples, devices, _tolerance(old), _bounds(old), _timeout_s(old))
    proof = make_proof(tuple(dict.fromkeys(artifact.variant for artifact in old.artifacts)))
    return replace(proof, samples=proof.samples or golden.samples, devices=devices)


def _links_again(
    artifacts: tuple[Artifact, ...], again: Rebuilt, golden: Golden, progress: Progress
) -> tuple[tuple[Artifact, ...], Golden]:
    """Links 1 to 3 of the files whose graphs are at hand, and the golden values with the integers of these graphs."""
    variants = again.variants
    if not variants:
        return artifacts, golden
    graph = variants[0].model.graph
    reached: dict[str, Reach] = {}
    integers = _integers(variants, golden.samples, reached, progress)
    stored = {name: item for name, item in golden.integers.items() if name not in again.names}
    golden = replace(golden, integers={**stored, **integers}, joints=joints_of(graph), indices=indices_of(graph))
    artifacts = _with_intermediates(artifacts, variants)
    artifacts = with_links(artifacts, variants, golden, progress, again.rewriting)
    artifacts, derived = with_coverage(artifacts, variants, golden, reached, progress)
    return artifacts, replace(golden, derived={**golden.derived, **derived})


def _with_intermediates(artifacts: Sequence[Artifact], variants: Sequence[Variant]) -> tuple[Artifact, ...]:
    """The artifacts, with the intermediates that their variants have."""
    by_file = {name: tensors for variant in variants for name, tensors in variant.intermediates.items()}
    return tuple(replace(artifact, intermediates=by_file.get(artifact.path.name, ())) for artifact in artifacts)


def _is_run_again(row: Comparison, devices: tuple[str, ...], source: Source | None) -> bool:
    """Whether a row of the report is replaced: the source's own where it is at hand and named, else by its device."""
    if row.artifact == "":
        return source is not None and source.device in devices
    return row.device in devices


def _own_values(source: Source, samples: tuple[Sample, ...], golden: Golden, path: Path) -> Golden:
    """The golden values computed anew by the source, checked to equal the stored ones.

    Raises:
        ParityError: the samples or the values are others.
    """
    for sample, stored in itertools.zip_longest(samples, golden.samples):
        if not _is_same_sample(sample, stored):
            name = (sample or stored).name
            what = f"the recipe's model does not give these values: the sample {name!r} is another in the recipe"
            raise ParityError(what, where=str(path), hint=_OTHER_RECIPE)
    run = source.run(samples, tuple(golden.reference.outputs[0]), "float64")
    _require_same(run, golden.reference, samples, path)
    return replace(golden, samples=samples, reference=replace(golden.reference, outputs=run.outputs))


def require_own_values(source: Source, graph: ir.Graph | None, golden: Golden, path: Path) -> None:
    """Refuses a source that does not give the stored values of the first sample: the files are of something else.

    Args:
        source: of the recipe.
        graph: of the source, whose inputs and outputs are compared first; None where there is none.
        golden: the stored values.
        path: of the file that they were read from.

    Raises:
        ParityError: it gives others, or does not run.
    """
    samples, stored = golden.samples[:1], replace(golden.reference, outputs=golden.reference.outputs[:1])
    ends = (
        ()
        if graph is None
        else ((graph.inputs, samples[0].inputs, "input"), (graph.outputs, stored.outputs[0], "output"))
    )
    for values, arrays, end in ends:
        # The first dimension may be open.
        own = {str(value.name): list(value.shape or ())[1:] for value in values}
        theirs = {name: list(array.shape[1:]) for name, array in arrays.items()}
        wrong = next((name for name in {**theirs, **own} if own.get(name) != theirs.get(name)), None)
        if wrong is not None:
            what = f"the recipe's model does not have the {end} {wrong!r} of these values, or of another shape"
            raise ParityError(what, where=str(path), hint=_OTHER_RECIPE)
    _require_same(source.run(samples, tuple(stored.outputs[0]), "float64"), stored, samples, path)


def _is_same_sample(sample: Sample | None, stored: Sample | None) -> bool:
    if sample is None or stored is None or set(sample.inputs) != set(stored.inputs):
        return False
    if replace(sample, inputs={}) != replace(stored, inputs={}):
        return False
    pairs = [(array, stored.inputs[name]) for name, array in sample.inputs.items()]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def _require_bound(rows: Sequence[Comparison], artifacts: Sequence[Artifact], proof: Proof, folder: Path) -> None:
    """Refuses stored rows that were judged by other bounds than the rows that are judged now."""
    variants = {artifact.path.name: artifact.variant for artifact in artifacts}
    for row in rows:
        bound = proof.bounds.get(variants.get(row.artifact, ""), proof.tolerance)
        if row.artifact and row.tolerance != bound:
            what = f"the row of {row.artifact} on {row.device} was judged by another bound than the recipe's"
            hint = "run every device again: leave --device out"
            raise ParityError(what, where=str(folder / "parity.json"), hint=hint)


def _judged_by(source: Source | None, by_recipe: bool) -> str:
    """Says to the reader whether bounds and references came from the folder alone."""
    bounds = "the recipe's bounds" if by_recipe else "the folder's own bounds"
    if source is None:
        return f"{bounds} and golden values, which whoever can write the folder can change: name the recipe"
    return f"{bounds}, and what {source.title} computes anew"


def _integers(
    variants: Sequence[Variant], samples: Sequence[Sample], reached: dict[str, Reach], progress: Progress
) -> dict[str, Integers]:
    """The exact outputs of each quantized graph, by variant; tells, likewise, what the samples reached of it."""
    by_variant = {}
    for variant in variants:
        if variant.plan is not None or is_quantized(variant.model):
            with progress.stage(f"{variant.name} graph, its integers"):
                reach = Reach(variant.model)
                counting = [sample.is_for(variant.name) for sample in samples]
                integers = variant.integers(samples, reach.observer(counting))
            if integers is not None:
                by_variant[variant.name], reached[variant.name] = integers, reach
    return by_variant


def _own_integers(variants: Sequence[Variant], integers: Collection[str]) -> set[str]:
    """The variants whose integers are the source's, which has chosen them itself: they have no plan."""
    return {variant.name for variant in variants if variant.plan is None} & {*integers}


def _variant_of(row: Comparison, artifacts: Sequence[Artifact]) -> str:
    """The variant of a row's artifact; empty for the source's own."""
    return next((artifact.variant for artifact in artifacts if artifact.path.name == row.artifact), "")


def _selecting_device(row: Comparison) -> str:
    """The device name that selects a row: the source file's own row is selected by onnxruntime."""
    return OnnxSource.device if row.device == OnnxSource.row else row.device


def _require_numbers(reference: Run, name: str, title: str) -> None:
    """Refuses a reference output that is all NaN or infinite: any file that fails alike would agree with it."""
    for index, outputs in enumerate(reference.outputs):
        for output, array in outputs.items():
            if array.dtype.kind == "f" and array.size and not np.isfinite(array).any():
                what = f"{title}'s own output {output!r} is all NaN or infinite for input {index}"
                raise ParityError(what, where=name, hint="fix the model, its weights or that input")


def _require_same(run: Run, reference: Run, samples: Sequence[Sample], golden: Path) -> None:
    """Refuses a source whose outputs differ from the stored ones by more than the order of float64 sums."""
    hint = _OTHER_RECIPE
    if run.verdict is not Verdict.PASS:
        raise ParityError(f"the recipe's model does not run: {run.reason}", where=str(golden), hint=hint)
    for sample, outputs, stored in zip(samples, run.outputs, reference.outputs, strict=True):
        if set(outputs) != set(stored):
            what = f"the recipe's model does not give these values: it has the outputs {', '.join(outputs)}"
            raise ParityError(what, where=str(golden), hint=hint)
        for name, b in stored.items():
            a = outputs[name]
            if a.shape != b.shape or not _close(a, b):
                what = f"the recipe's model does not give these values (output {name!r}, sample {sample.name})"
                raise ParityError(what, where=str(golden), hint=hint)


def _close(a: Array, b: Array) -> bool:
    """Whether two outputs agree up to the order of float64 sums, with NaN and infinities in the same places."""
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    # 1e-9 is 2^23 units of float64's last place: sums in another order differ far less, another weight far more.
    level = float(np.sqrt(np.mean(np.square(b[finite], dtype=np.float64)))) if finite.any() else 0.0
    return np.allclose(a[finite], b[finite], rtol=1e-9, atol=1e-9 * level)


def _tolerance(report: Report) -> Tolerance:
    """The bound that the report was judged by: one for all its rows.

    Raises:
        ParityError: they have several, which no export gives them.
    """
    tolerances = {row.tolerance for row in report.comparisons if isinstance(row.tolerance, Tolerance)}
    if len(tolerances) > 1:
        raise ParityError(f"its rows {_ALTERED}", where="parity.json", hint=_NAME_IT)
    return next(iter(tolerances), Tolerance())


def _timeout_s(report: Report) -> float:
    """The export's time limit; reports of early versions do not state it."""
    return seconds_of(report.environment[TIMEOUT]) if TIMEOUT in report.environment else Proof.timeout_s


def _bounds(report: Report) -> dict[str, Fidelity]:
    """The acceptance thresholds that each approximating variant was judged by.

    Raises:
        ParityError: the rows of one variant have different ones.
    """
    variants = {artifact.path.name: artifact.variant for artifact in report.artifacts}
    bounds: dict[str, Fidelity] = {}
    for row in report.comparisons:
        if isinstance(row.tolerance, Fidelity) and row.artifact in variants:
            variant = variants[row.artifact]
            if bounds.setdefault(variant, row.tolerance) != row.tolerance:
                raise ParityError(f"its rows of {variant} {_ALTERED}", where="parity.json", hint=_NAME_IT)
    return bounds
