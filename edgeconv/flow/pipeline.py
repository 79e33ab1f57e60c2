"""The whole flow, on one screen: capture -> rewrite -> emit -> devices -> parity -> report.

`export`, `export_onnx` and `export_recipe` state a `Job`; `run_job` does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgeconv import errors
from edgeconv.capture import NOTE, PRECISION, open_onnx, settled_shapes
from edgeconv.core import NHWC, Artifact, Emitted, GraphSummary, Sample, values
from edgeconv.core.search_target import Target
from edgeconv.errors import Caller, CaptureError, QuantizeError, RecipeError, telling
from edgeconv.flow.arguments import (
    batched_inputs,
    checked_call,
    example,
    expected_of,
    instead_of_recipe,
    listener,
    named_inputs,
    named_variants,
    numbers_by_name,
    output_folder,
    stated_samples,
)
from edgeconv.flow.job import Job, job_of, stated_job
from edgeconv.flow.output import staged
from edgeconv.flow.proof import check_devices
from edgeconv.flow.record import discard_outdated
from edgeconv.flow.rewriting import rewritten
from edgeconv.flow.source import OnnxSource, TorchSource, failing_as_a_file
from edgeconv.flow.target import variants_of_job, with_target
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization
from edgeconv.flow.writing import emit_file, write_c, write_file, write_plans
from edgeconv.graph.edit import ROUNDED_WEIGHTS
from edgeconv.graph.indices import indices_of
from edgeconv.graph.joints import joints_of
from edgeconv.progress import Progress
from edgeconv.recipe import FORMATS, Recipe, place_of
from edgeconv.rewrite import selected

if TYPE_CHECKING:
    import torch

    from edgeconv.report import Report, TargetSearch

_DEFAULT = Quantization()


@dataclass(frozen=True)
class ExportResult:
    """What an export made: files, the graph before and after folding, notes, and the report where one was asked for.

    ``warnings`` are the notes that came too late for the report: files that another export wrote into the folder
    meanwhile, and that the commit removed.
    """

    artifacts: tuple[Artifact, ...]
    graphs: tuple[GraphSummary, ...]
    notes: tuple[str, ...] = ()
    report: Report | None = None
    warnings: tuple[str, ...] = ()


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...],
    out: str | Path,
    *,
    name: str,
    kwargs: Mapping[str, Any] | None = None,
    formats: str | Sequence[str] = FORMATS,
    variants: str | Sequence[str] = "fp32",
    tflite_layout: str | Sequence[str] = NHWC,
    opset: int = 18,
    input_names: str | Sequence[str] | None = None,
    output_names: str | Sequence[str] = (),
    dynamic_batch: bool | str | Sequence[str] = False,
    quantization: Quantization = _DEFAULT,
    c_array: bool = False,
    skip_rewrites: Collection[str] = (),
    devices: str | Sequence[str] = (),
    samples: Sequence[Sample] = (),
    progress: Progress | None = None,
) -> ExportResult:
    """Exports a module to deployable files, and proves them on the devices that are named.

    Args:
        module: any nn.Module; captured as in eval mode, and left as it was found. Or an ``ExportedProgram`` (``args``
            may be ``()`` for its own example inputs), or a ``ScriptModule``, which torch converts.
        args: example arguments in the order of ``forward``. Each tensor is an input of the files, those in lists,
            tuples and dicts too (``features_0``); its shape and dtype become the file's. Everything else (None,
            numbers, text) is fixed to what it is here.
        out: output folder, made if missing; the files appear in it all together or not at all.
        name: stem of the files: ``<name>.<variant>.onnx``, ``<name>.<variant>.tflite`` (NHWC),
            ``<name>.<variant>.nchw.tflite``.
        kwargs: example arguments by keyword, as in `args`.
        formats: of ``"onnx"``, ``"tflite"``; here and below a single name may stand for a sequence of one.
        variants: of ``"fp32"``, ``"fp16"``, ``"int8"``, ``"int8-mixed"``, ``"int8-weights"``, ``"int16x8"`` (TFLite).
        tflite_layout: ``"nhwc"``, ``"nchw"`` or both: of rank-4 inputs and outputs of the TFLite file.
        opset: of the ONNX file, 13 or newer.
        input_names: one per input; the names of ``forward``'s parameters by default.
        output_names: one per tensor that comes out; by default the keys of a dict or fields of a named tuple, else
            ``output``, ``output_1``, ….
        dynamic_batch: whether dimension 0 stays open in the files (``batch``): True for every input, or the names of
            the inputs that have a batch, as ``dynamic_shapes={name: {0: "batch"}}`` says to ``torch.onnx.export``.
        quantization: data and options of the variants of integers.
        c_array: writes each TFLite file as C source, too (``<name>.<variant>.h`` and ``.cc``), with the values of the
            first sample and what the file's graph makes of them.
        skip_rewrites: rewrites to leave out, by name.
        devices: devices to prove the files on (``edgeconv devices`` lists them); with any, the report
            ``parity.json``, ``parity.html`` and ``parity.junit.xml`` is written beside the files.
        samples: inputs of the proof; `args` themselves by default. Where the batch is open their batches may differ;
            where all have the same, one of another batch is added.
        progress: notified of the stages.

    Returns:
        The artifacts, in the order of `formats` and layouts, and the report.

    Raises:
        CaptureError: the module cannot be captured.
        EmitError: an operator has no form in the format, or the folder cannot be written.
        DeviceError: a named device is unknown or not installed.
    """
    folder, receiver = output_folder(out), listener(progress)
    origin = f"{type(module).__module__}:{type(module).__qualname__}"
    module, tensors, own_names = checked_call(module, args, kwargs)
    names = named_inputs(input_names, own_names)
    outputs = values.tensor_names(output_names, "output_names", CaptureError)
    named_args = dict(zip(names, tensors, strict=True))
    batched = batched_inputs(dynamic_batch, named_args)
    job = stated_job(
        TorchSource(module, tensors, names, outputs, origin, batched),
        stated_samples(samples) or partial(example, named_args),
        expected_of(named_args, batched),
        name=name,
        formats=formats,
        variants=variants,
        layouts=tflite_layout,
        opset=opset,
        quantization=quantization,
        c_array=c_array,
        skip_rewrites=skip_rewrites,
        devices=devices,
    )
    return run_job(job, folder, receiver)


def export_onnx(
    path: str | Path,
    out: str | Path,
    *,
    name: str,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    fixed: Mapping[str, float] | None = None,
    formats: str | Sequence[str] = FORMATS,
    variants: str | Sequence[str] = (),
    tflite_layout: str | Sequence[str] = NHWC,
    opset: int | None = None,
    quantization: Quantization = _DEFAULT,
    c_array: bool = False,
    skip_rewrites: Collection[str] = (),
    devices: str | Sequence[str] = (),
    samples: Sequence[Sample] = (),
    progress: Progress | None = None,
) -> ExportResult:
    """Exports an ``.onnx`` file to deployable files, and proves them on the devices that are named.

    The reference is the file's own graph in float64; with onnxruntime among the devices the file itself is run on it
    and judged, too.

    Args:
        path: the file, with its external data beside it; float32, standard operators, opset 7 or newer.
        out: as in `export`.
        name: as in `export`.
        shapes: of the inputs that the file leaves open, by name. A file that leaves nothing open but its batch keeps
            it open; a number here fixes it, a str in front keeps it open under that name.
        fixed: inputs that are these numbers for good and no inputs of what is exported (``{"sr": 16000}``): branches
            on them dissolve.
        formats: as in `export`.
        variants: as in `export`; by default fp32, and int8 of a file that is quantized already, which has no other.
        tflite_layout: as in `export`.
        opset: of the ONNX file; the input file's own by default, or 18 where that is older.
        quantization: as in `export`.
        c_array: as in `export`.
        skip_rewrites: as in `export`.
        devices: as in `export`.
        samples: inputs of the proof; one of noise by default: standard normal floats, and integers that
            their readers take (see `edgeconv.graph.domains`).
        progress: notified of the stages.

    Returns:
        As `export`.

    Raises:
        CaptureError: the file cannot be read or turned into a graph of static shapes.
        EmitError: as `export`.
        DeviceError: as `export`.
    """
    folder, receiver = output_folder(out), listener(progress)
    file = open_onnx(path).fixed(numbers_by_name(fixed))
    source = OnnxSource(file, settled_shapes(file, {} if shapes is None else shapes))
    job = stated_job(
        source,
        stated_samples(samples) or source.noise,
        source.expected,
        name=name,
        formats=formats,
        variants=named_variants(variants) or source.variant or "fp32",
        layouts=tflite_layout,
        opset=opset,
        quantization=quantization,
        c_array=c_array,
        skip_rewrites=skip_rewrites,
        devices=devices,
    )
    return run_job(job, folder, receiver)


def export_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    devices: Sequence[str] | None = None,
    prove: bool = True,
    formats: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    c_array: bool | None = None,
    skip_rewrites: Collection[str] = (),
    target: Target | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Exports what a recipe describes into the folder `out`, and proves it unless `prove` is False.

    Args:
        recipe: from `edgeconv.recipe.load_recipe`.
        out: output folder of this recipe.
        devices: instead of the recipe's.
        prove: False runs no device and writes no report.
        formats: instead of the recipe's.
        variants: instead of the recipe's.
        c_array: instead of the recipe's.
        skip_rewrites: rewrites to leave out, by name.
        target: the first of the variants keeps as many of its worst layers in float as this needs; see
            `edgeconv.flow.target.with_target`.
        progress: notified of the stages.

    Raises:
        EdgeconvError: as `export`; RecipeError for weights and inputs that cannot be used; TargetError.
    """
    values.instance(recipe, Recipe, "recipe", RecipeError, hint="pass what edgeconv.load_recipe(path) gives")
    folder, receiver = output_folder(out), listener(progress)
    if target is not None:
        values.instance(target, Target, "target", QuantizeError, hint="give edgeconv.quantize.Target(sqnr_db=…)")
    choices = instead_of_recipe(recipe, devices, prove, formats, variants, c_array, skip_rewrites)
    selected(choices["skip_rewrites"], errors.SKIPPED)
    if prove:
        named_in = place_of(recipe.path, "parity.devices") if devices is None else errors.DEVICES
        with receiver.stage("devices"):
            check_devices(choices["devices"], named_in)
    # From here on, hints name keys of the recipe, and not arguments of a call.
    with telling(Caller.RECIPE):
        with receiver.stage("model and inputs"):
            job = job_of(recipe, **choices)
            job = job if target is None else with_target(job, recipe, target)
        return run_job(job, folder, receiver)


def run_job(job: Job, out: Path, progress: Progress) -> ExportResult:
    """Does a job; files and report appear in `out` together, after the last of them is complete.

    Raises:
        EdgeconvError: as `export`.
    """
    # What could fail at the end is tried first: a misspelled rewrite, a folder that cannot be written.
    selected(job.skip_rewrites, errors.SKIPPED)
    with failing_as_a_file(job.source), staged(out) as staging:
        # 1. One graph, captured and rewritten; of it a graph per variant.
        model, rewriting, graphs = rewritten(job.source, job.skip_rewrites, progress, is_proved=job.proof is not None)
        job, variants = variants_of_job(job, model, progress)
        # 2. A file per variant, format and layout; plans and C source beside them.
        written = [
            write_file(staging, variant, job, format_, layout, progress)
            for variant in variants
            for format_, layout in job.files(variant)
        ]
        artifacts = tuple(artifact for artifact, _ in written)
        write_plans(staging, job, variants)
        write_c(staging, job, variants, written)
        # 3. Notes for the user; the report has them, too.
        removal = discard_outdated(staging, out, artifacts)
        notes = _notes(model, variants, written) + removal.notes
        if job.proof is not None:
            from edgeconv.flow.half_range import beyond_half

            notes += beyond_half(artifacts, variants, job.proof.samples)
        for note in notes:
            progress.note(note)
        # 4. Devices, comparisons, report. All files appear when the block ends.
        report = None
        if job.proof is not None:
            # Half of the package, which an export without proof does without.
            from edgeconv.flow.prove import prove
            from edgeconv.report import LEFT_OUT

            left_out = {LEFT_OUT: ", ".join(sorted(job.skip_rewrites))} if job.skip_rewrites else {}
            report = prove(
                staging,
                artifacts,
                dataclasses.replace(job.proof, facts={**job.proof.facts, **left_out}),
                job.source,
                progress,
                name=job.name,
                description=job.description,
                metadata=job.metadata,
                outputs=tuple(value.name or "" for value in model.graph.outputs),
                graphs=graphs,
                notes=notes,
                variants=variants,
                joints=joints_of(model.graph),
                indices=indices_of(model.graph),
                target_search=_target_search(job, variants, progress),
                rewriting=rewriting,
            )
    artifacts = tuple(dataclasses.replace(artifact, path=out / artifact.path.name) for artifact in artifacts)
    told = notes if report is None else report.notes  # a proof adds its own
    return ExportResult(artifacts, graphs, (*told, *removal.late), report, tuple(removal.late))


def _target_search(job: Job, variants: Sequence[Variant], progress: Progress) -> TargetSearch | None:
    """The report's section on the search for a target, with sizes and latencies measured."""
    for variant in variants:
        if job.target_search is not None and variant.search is not None:
            from edgeconv.flow.target_points import measured

            return measured(job.target_search, variant, variant.search, job, partial(emit_file, job, {}), progress)
    return None


def _notes(
    model: ir.Model, variants: Sequence[Variant], written: Sequence[tuple[Artifact, Emitted]]
) -> tuple[str, ...]:
    """Notes for the reader: that the slower, official capture was needed, and what variants and emitters say."""
    path = model.metadata_props.get(NOTE, "fast")  # "official: " and why the fast capture did not do
    how = path.replace("official: ", "captured by the official exporter: ", 1)
    captured: tuple[str, ...] = () if path == "fast" else (how,)
    if PRECISION in model.metadata_props:
        captured += (f"the module computes in {model.metadata_props[PRECISION]}, too; the files do so in float32",)
    if ROUNDED_WEIGHTS in model.metadata_props:
        how_many = f"weights that the module rounds itself ({model.metadata_props[ROUNDED_WEIGHTS]})"
        captured += (f"{how_many} become floats; int8-weights rounds them once more, to steps of its own",)
    emitter_notes = tuple(f"{artifact.path.name}: {note}" for artifact, contents in written for note in contents.notes)
    return captured + tuple(note for variant in variants for note in variant.notes) + emitter_notes
