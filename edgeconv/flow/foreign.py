"""Judges a file that another converter wrote: read back, on runtimes layer by layer, and by its outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeconv.capture import whatever_it_brings
from edgeconv.core import DATA_SUFFIX, NCHW, NHWC, Array, Artifact, Fidelity, Run, Sample, Verdict
from edgeconv.core.named_files import read_named
from edgeconv.core.precision import to_float32
from edgeconv.core.verdicts import Link, LinkResult
from edgeconv.devices import Sessions
from edgeconv.errors import DEVICES, EdgeconvError, ParityError
from edgeconv.flow.borders import match_notes, matched_specs, takes
from edgeconv.flow.certificates import with_certificates
from edgeconv.flow.coverage import coverage_of
from edgeconv.flow.file_names import JSON, golden_name
from edgeconv.flow.forms import FACTORS, forms_of, on_values
from edgeconv.flow.job import job_of
from edgeconv.flow.judge import judge, with_float32
from edgeconv.flow.links import not_judged
from edgeconv.flow.output import Staging, staged
from edgeconv.flow.own_file import beside_recipe, with_own
from edgeconv.flow.proof import Proof, check_devices
from edgeconv.flow.prove import first_environment, reference_of
from edgeconv.flow.record import read_report, write_report
from edgeconv.flow.source import Source, of_shapes
from edgeconv.graph.indices import indices_of
from edgeconv.graph.joints import joints_of
from edgeconv.graph.summary import summarize
from edgeconv.parity import Golden, compare, golden_bytes
from edgeconv.progress import Progress
from edgeconv.report import Report
from edgeconv.rewrite import optimize

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeconv.parity.writing import IntegerFaults, ReadBack
    from edgeconv.recipe import Recipe

_MOST_READ_BACK = 32  # samples that the reference evaluates a file of integers on


@dataclass(frozen=True)
class Ends:
    """What the caller says of a file's inputs and outputs.

    Attributes:
        names: the module's name by the file's, for inputs and outputs that name and shape do not identify.
        layout: ``"nhwc"`` or ``"nchw"``, where a shape is the same in both; empty where that is not known.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""


def judge_file(
    path: Path,
    recipe: Recipe,
    out: Path,
    *,
    devices: Sequence[str] | None = None,
    ends: Ends | None = None,
    progress: Progress,
) -> Report:
    """Judges a file of any converter by a recipe; writes the report, a copy of the file and golden values into `out`.

    Link 3 holds the outputs of the file, read back, against the module's in float64: a float32 file within what
    rounding its constants explains (`edgeconv.parity.writing.rounding_bound`), any other by the recipe's acceptance
    thresholds for its variant, since its quantization is its converter's. Links 4 and 5 are those of our own files.

    Args:
        path: of an ``.onnx`` or ``.tflite`` file.
        recipe: of the network that the file should be: module or ``.onnx`` file, samples, bounds.
        out: a folder without another file's report.
        devices: in place of the recipe's.
        ends: what name and shape do not show of inputs and outputs.
        progress: notified of the stages.

    Raises:
        ParityError: the file cannot be read, or is none of this network by its inputs and outputs; `out` has another
            report; no sample fits the file.
        EdgeconvError: as `edgeconv.flow.job.job_of` raises of recipes.
    """
    from edgeconv.parity.writing import read_back

    check_devices(devices, DEVICES)
    _require_free(out, path.name)
    with whatever_it_brings(path), progress.stage(f"{path.name} read"):
        file = read_back(path)
    with progress.stage("model and inputs"):
        named = devices if devices is not None else recipe.parity.devices
        job = job_of(recipe, variants=(file.variant,), devices=None if named is None else tuple(named))
    assert job.proof is not None  # job_of makes one by default
    proof, source = job.proof, job.source
    with progress.stage("capture"):
        model = of_shapes(source, proof.samples[0]).graph()
    artifact, notes = _artifact(path, file, model, ends or Ends())
    proof = replace(proof, samples=_fitting(proof.samples, artifact))
    with staged(out) as staging:
        artifact = _copied(staging, artifact)
        report = _judged(staging, artifact, file, model, recipe, proof, source, progress)
        report = replace(
            report,
            model=job.name,
            description=job.description,
            source=job.metadata,
            graphs=(summarize("captured", model),),
            notes=notes,
        )
        write_report(staging, report)
    return report


def _judged(
    staging: Staging,
    artifact: Artifact,
    file: ReadBack,
    model: ir.Model,
    recipe: Recipe,
    proof: Proof,
    source: Source,
    progress: Progress,
) -> Report:
    """All links; golden values are written."""
    outputs = tuple(value.name or "" for value in model.graph.outputs)
    reference = _in_widths_of(artifact, reference_of(source, proof.samples, outputs, artifact.path.name, progress))
    # Causes are named by layers of the optimized graph, which other converters fuse alike.
    rewritten = optimize(model.clone())
    graph = rewritten.graph
    golden = Golden(proof.samples, reference, joints=joints_of(graph), indices=indices_of(graph))
    with Sessions() as sessions:
        golden, own_run = with_float32(golden, source, proof, progress, sessions)
    own_run = own_run and _in_widths_of(artifact, own_run)
    with progress.stage(f"{artifact.path.name} read back"):
        own = beside_recipe(artifact, file, recipe, golden, progress)
        link = _writing(artifact, file, model, rewritten, golden, proof, by_layers=own.writing is None)
    with progress.stage("the module's graph, what the inputs reach of it"):
        coverage, kinds = coverage_of(model, golden.of(artifact.variant), artifact.variant)
    (artifact,) = with_certificates(
        [replace(artifact, links=tuple(with_own(link, own)), coverage=coverage)], golden, progress
    )
    golden = replace(golden, derived={artifact.variant: kinds} if kinds else {})
    name, data = golden_name(artifact.path.stem), golden_bytes(golden)
    staging.write(name, data)
    comparisons, devices = judge([artifact], golden, proof, source, progress, own_run=own_run)
    return Report(
        model=artifact.path.stem,
        artifacts=(artifact,),
        comparisons=comparisons,
        environment=first_environment(proof, "the recipe's bounds", source, data, devices),
        golden=name,
    )


def _in_widths_of(artifact: Artifact, run: Run) -> Run:
    """The module's integers in the width in which a file has them, where it holds them all: an ArgMax of int32."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in artifact.outputs}

    def in_width(array: Array, dtype: np.dtype[np.generic]) -> Array:
        if array.dtype.kind not in "iu" or dtype.kind not in "iu":
            return array
        narrowed = array.astype(dtype)
        return narrowed if np.array_equal(narrowed.astype(array.dtype), array) else array

    outputs = tuple(
        {name: in_width(array, dtypes.get(name, array.dtype)) for name, array in values.items()}
        for values in run.outputs
    )
    return replace(run, outputs=outputs)


def _writing(
    artifact: Artifact,
    file: ReadBack,
    captured: ir.Model,
    rewritten: ir.Model,
    golden: Golden,
    proof: Proof,
    *,
    by_layers: bool,
) -> LinkResult:
    """Link 3 of the file; skipped where the reference lacks an operator of it.

    Args:
        by_layers: whether the layers and constants of a file of integers are looked for in the module's graphs.
    """
    from edgeconv.parity.writing import IntegerFaults, with_faults

    if file.unknown:
        link = not_judged(Link.WRITING, f"the reference does not compute {', '.join(file.unknown)}")
        return with_faults(link, file.contradictions)
    bound = proof.bounds.get(artifact.variant)  # None for float32: rounding its constants has to explain all
    judged = IntegerFaults()
    try:
        if bound is None:
            link = _of_floats(artifact, file, captured, rewritten, golden)
        else:
            judged = _faults(artifact, file, captured, rewritten, golden) if by_layers else judged
            link = _by_threshold(artifact, file, golden.of(artifact.variant), bound)
    except EdgeconvError as error:  # an operator on integers that is computed on real numbers alone, say
        link = not_judged(Link.WRITING, error)
    link = replace(link, reason="; ".join(filter(None, [link.reason, judged.remark])))
    return with_faults(link, [*file.contradictions, *judged.faults])


def _of_floats(
    artifact: Artifact, file: ReadBack, captured: ir.Model, rewritten: ir.Model, golden: Golden
) -> LinkResult:
    """Link 3 of a float file: its outputs on a sample, and on larger numbers, which pass the clamps that it does not.

    One that fails names the first layer that is none of the module's, and the cause.
    """
    from edgeconv.parity.writing import Ends as FileEnds
    from edgeconv.parity.writing import Graph, first_float_fault, outputs_link, rounding_bound, told_constants

    remark = told_constants(captured, rewritten, file.constants)
    graphs = forms_of(captured, rewritten)
    links: list[LinkResult] = []
    for factor, on in zip(FACTORS, on_values(graphs, golden.samples[0]), strict=True):
        names = (value.name or "" for value in captured.graph.outputs)
        expected = golden.reference.outputs[0] if factor == 1 else {name: on.values[name] for name in names}
        computed = dict(_computed(artifact, file, replace(golden.samples[0], inputs=on.inputs)))
        if factor != 1:  # a formula that overflows there is none of the user's
            computed = {name: _as_finite(array, expected[name]) for name, array in computed.items()}
        link = outputs_link(expected, computed, rounding_bound(captured, on.inputs), remark)
        links.append(link)
        if link.verdict is Verdict.FAIL:
            enlarged = "" if factor == 1 else f" on {golden.samples[0].name} times {factor:g}"
            fault = None
            if file.real is not None:
                ours = [Graph(graph) for graph in reversed(graphs)]
                fault = first_float_fault(file.real, on, FileEnds(artifact.inputs, artifact.outputs), ours)
            told = f"{link.reason}{enlarged}"
            return (
                replace(link, reason=told)
                if fault is None
                else replace(link, where=fault[0], reason=f"{told}; the first layer that differs: {fault[1]}")
            )
    return links[0]


def _as_finite(array: Array, expected: Array) -> Array:
    """An array of the same shape with the right numbers where it is not finite."""
    return np.where(np.isfinite(array), array, expected) if array.shape == expected.shape else array


def _faults(
    artifact: Artifact, file: ReadBack, captured: ir.Model, rewritten: ir.Model, golden: Golden
) -> IntegerFaults:
    """What is wrong with a file of integers, beside the module in each form that a converter may have it in."""
    from edgeconv.parity.writing import Ends as FileEnds
    from edgeconv.parity.writing import Graph, integer_faults

    graphs = forms_of(captured, rewritten)
    samples = on_values(graphs, golden.samples[0])
    constants = [Graph(graph).real_constants for graph in graphs]
    return integer_faults(file, constants, samples, FileEnds(artifact.inputs, artifact.outputs))


def _by_threshold(artifact: Artifact, file: ReadBack, golden: Golden, bound: Fidelity) -> LinkResult:
    """Link 3 of a file whose quantization is its converter's: by the thresholds that its outputs must reach."""
    samples = golden.samples[:_MOST_READ_BACK]
    outputs = tuple(
        {name: to_float32(array) for name, array in _computed(artifact, file, sample).items()} for sample in samples
    )
    reference = replace(golden.reference, outputs=golden.reference.outputs[: len(samples)])
    rows = compare(
        Run("reference", artifact.path.name, outputs),
        reference,
        samples,
        artifact=artifact.path.name,
        tolerance=bound,
        output_names=tuple(reference.outputs[0]),
        joints=golden.joints,
        indices=golden.indices,
    )
    worst = max(rows, key=lambda row: (row.verdict is Verdict.FAIL, row.excess or 0.0))
    return LinkResult(
        Link.WRITING,
        worst.verdict,
        error=None if worst.metrics is None else worst.metrics.max_abs,
        used=worst.excess,
        sqnr_db=None if worst.metrics is None else worst.metrics.sqnr_db,
        where=worst.output,
        reason=worst.reason,
    )


def _computed(artifact: Artifact, file: ReadBack, sample: Sample) -> dict[str, Array]:
    """The outputs of the file, read back, by the module's names and in torch's layout."""
    inputs = [_stored(spec.to_file(sample.inputs[spec.name]), spec.dtype) for spec in artifact.inputs]
    results = file.computed(inputs)
    return {spec.name: spec.from_file(array) for spec, array in zip(artifact.outputs, results, strict=True)}


def _stored(array: Array, dtype: str) -> Array:
    """Integers in the file's type; real numbers as they are (the reference rounds them as the file says)."""
    return array if array.dtype.kind == "f" else array.astype(dtype)


def _artifact(path: Path, file: ReadBack, model: ir.Model, ends: Ends) -> tuple[Artifact, tuple[str, ...]]:
    """The file as an artifact of the module, and notes on what its inputs and outputs were taken for.

    Raises:
        ParityError: see `matched_specs`.
    """
    sides = []
    remarks: list[str] = []
    for side, specs, values in (
        ("input", file.inputs, model.graph.inputs),
        ("output", file.outputs, model.graph.outputs),
    ):
        ours = {value.name or "": _shape_of(value) for value in values}
        stored = {value.name for value in values if value.dtype is not None and value.dtype.is_integer()}
        matched = matched_specs(
            specs, ours, side=side, titles=file.titles, stated=ends.names, layout=ends.layout, where=str(path)
        )
        if path.suffix.lower() == ".onnx":  # integers of the module's own are what they are
            matched = tuple(
                replace(spec, scale=None, zero_point=0) if spec.name in stored else spec for spec in matched
            )
        remarks += match_notes(specs, matched)
        sides.append(matched)
    data = read_named(path, kind=path.suffix, error=ParityError)
    layout = NHWC if any(spec.layout == NHWC for side in sides for spec in side) else NCHW
    format_ = path.suffix.lower()[1:]
    artifact = Artifact(
        path, format_, file.variant, layout, hashlib.sha256(data).hexdigest(), sides[0], sides[1], len(data)
    )
    return artifact, (f"{path.name}: {', '.join(remarks)}",) if remarks else ()


def _shape_of(value: ir.Value) -> tuple[int | str, ...]:
    """A shape as `matched_specs` takes it: an open dimension is its name."""
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())


def _copied(staging: Staging, artifact: Artifact) -> Artifact:
    """The artifact, with its file and the weights beside it in the staging folder."""
    data = read_named(artifact.path, kind=artifact.path.suffix, error=ParityError)
    path = staging.write(artifact.path.name, data)
    beside = artifact.path.with_name(artifact.path.name + DATA_SUFFIX)
    if artifact.format != "onnx" or not beside.is_file():
        return replace(artifact, path=path)
    weights = np.fromfile(beside, np.uint8)
    sha256 = staging.write_parts(beside.name, [weights])
    return replace(artifact, path=path, data_sha256=sha256, size_bytes=len(data) + weights.nbytes)


def _fitting(samples: Sequence[Sample], artifact: Artifact) -> tuple[Sample, ...]:
    """The samples whose shapes the file takes.

    Raises:
        ParityError: there are none.
    """
    fitting = tuple(sample for sample in samples if sample.is_for(artifact.variant) and takes(artifact, sample))
    if not fitting:
        what = f"no parity input of the recipe has the shapes that it takes, or is for {artifact.variant}"
        raise ParityError(what, where=str(artifact.path), hint="state one in the recipe")
    return fitting


def _require_free(out: Path, name: str) -> None:
    """Refuses a folder with the report of other files: it would be lost, and they would lie unjudged.

    Raises:
        ParityError: there is one.
    """
    if (out / JSON).exists():
        others = [item.path.name for item in read_report(out).artifacts if item.path.name != name]
        if others:
            what = f"the report of other files lies here ({', '.join(others[:3])})"
            raise ParityError(what, where=str(out), hint="give a folder of its own with --out")
