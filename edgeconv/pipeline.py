"""The whole flow, on one screen: capture -> rewrite -> emit -> devices -> parity -> report.

`export` and `export_recipe` state a `Job`; `run_job` does it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
import torch

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import NCHW, NHWC, Artifact, Emitted, GraphSummary, Sample
from edgeconv.devices import run_module
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import CaptureError, EmitError
from edgeconv.output import Staging, staged
from edgeconv.progress import Progress, Silent
from edgeconv.prove import Proof, TorchRun, check_devices, prove
from edgeconv.recipe import Recipe, build_module, parity_samples
from edgeconv.report import Report
from edgeconv.rewrite import optimize
from edgeconv.summary import summarise

FORMATS = ("onnx", "tflite")
VARIANTS = ("fp32",)
LAYOUTS = (NHWC, NCHW)


@dataclass(frozen=True)
class Job:
    """One module, and what to make of it.

    Attributes:
        name: stem of every file.
        module: what is exported; left as it was found.
        args: example inputs.
        input_names: one per argument.
        output_names: one per result; empty for ``output``, ``output_1``, …
        formats: of `FORMATS`.
        variants: of `VARIANTS`.
        layouts: of `LAYOUTS`: of the rank-4 inputs and outputs of the TFLite file; one file each.
        opset: of the ONNX file.
        skip_rewrites: names of rewrites to leave out.
        metadata: what the files say of themselves beside edgeconv's version and their layout.
        description: a sentence for the report.
        proof: how the files are proven; None leaves the report out.
    """

    name: str
    module: torch.nn.Module
    args: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...] = ()
    formats: tuple[str, ...] = FORMATS
    variants: tuple[str, ...] = VARIANTS
    layouts: tuple[str, ...] = (NHWC,)
    opset: int = 18
    skip_rewrites: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    proof: Proof | None = None

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise EmitError(f"the name {self.name!r} cannot begin a file name", mend="use letters, digits, '_', '-'")
        for what, asked, known in (
            ("formats", self.formats, FORMATS),
            ("variants", self.variants, VARIANTS),
            ("tflite_layout", self.layouts, LAYOUTS),
        ):
            unknown = [item for item in asked if item not in known]
            if unknown or not asked:
                wrong = f"{unknown[0]!r} is not known" if unknown else "nothing is asked for"
                raise EmitError(wrong, where=what, mend=f"choose of {', '.join(known)}")

    def files(self) -> tuple[tuple[str, str], ...]:
        """(format, layout) of every file, in the order in which they are made."""
        layouts = {"onnx": (NCHW,), "tflite": self.layouts}
        return tuple((format_, layout) for format_ in self.formats for layout in layouts[format_])


@dataclass(frozen=True)
class ExportResult:
    """What an export made: files, the graph before and after folding, notes, and the report where one was asked for."""

    artifacts: tuple[Artifact, ...]
    graphs: tuple[GraphSummary, ...]
    notes: tuple[str, ...] = ()
    report: Report | None = None


def export(
    module: torch.nn.Module,
    args: tuple[torch.Tensor, ...],
    out: str | Path,
    *,
    name: str,
    formats: Sequence[str] = FORMATS,
    variants: Sequence[str] = VARIANTS,
    tflite_layout: str | Sequence[str] = NHWC,
    opset: int = 18,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] = (),
    skip_rewrites: Collection[str] = (),
    devices: Sequence[str] = (),
    samples: Sequence[Sample] = (),
    progress: Progress | None = None,
) -> ExportResult:
    """Exports a module to deployable files, and proves them on the devices that are named.

    Args:
        module: any nn.Module; captured as in eval mode, and left as it was found.
        args: example inputs in the order of ``forward``; their shapes and dtypes become the files'.
        out: output folder, made if missing; the files appear in it all together or not at all.
        name: stem of the files: ``<name>.<variant>.onnx``, ``<name>.<variant>.tflite`` (NHWC),
            ``<name>.<variant>.nchw.tflite``.
        formats: of ``"onnx"``, ``"tflite"``.
        variants: of ``"fp32"``.
        tflite_layout: ``"nhwc"``, ``"nchw"`` or both: of rank-4 inputs and outputs of the TFLite file.
        opset: of the ONNX file, 13 or newer.
        input_names: one per input; the names of ``forward``'s parameters by default.
        output_names: one per tensor that comes out; ``output``, ``output_1``, … by default.
        skip_rewrites: rewrites to leave out, by name.
        devices: devices to prove the files on (``edgeconv devices`` lists them); with any, the report
            ``parity.json``, ``parity.html`` and ``parity.junit.xml`` is written beside the files.
        samples: inputs of the proof; `args` themselves by default.
        progress: hears of the stages.

    Returns:
        The artifacts, in the order of `formats` and layouts, and the report.

    Raises:
        CaptureError: the module cannot be captured.
        EmitError: an operator has no form in the format, or the folder cannot be written.
        DeviceError: a named device is unknown or not installed.
    """
    args = tuple(args)
    names = tuple(input_names) if input_names is not None else _forward_names(module, len(args))
    if len(names) != len(args):
        raise CaptureError(f"{len(names)} input names for {len(args)} inputs", where=name, mend="name every input once")
    proof = None
    if devices:
        check_devices(devices)
        given = Sample("args", {key: value.detach().cpu().numpy() for key, value in zip(names, args, strict=True)})
        proof = Proof(tuple(samples) or (given,), tuple(devices))
    job = Job(
        name=name,
        module=module,
        args=args,
        input_names=names,
        output_names=tuple(output_names),
        formats=tuple(formats),
        variants=tuple(variants),
        layouts=(tflite_layout,) if isinstance(tflite_layout, str) else tuple(tflite_layout),
        opset=opset,
        skip_rewrites=tuple(skip_rewrites),
        metadata={"source": f"{type(module).__module__}:{type(module).__qualname__}"},
        proof=proof,
    )
    return run_job(job, Path(out), progress or Silent())


def export_recipe(
    recipe: Recipe,
    out: Path,
    *,
    devices: Sequence[str] | None = None,
    prove: bool = True,
    skip_rewrites: Collection[str] = (),
    progress: Progress | None = None,
) -> ExportResult:
    """Exports what a recipe describes into the folder `out`, and proves it unless `prove` is False.

    Args:
        recipe: from `edgeconv.recipe.load_recipe`.
        out: output folder of this recipe.
        devices: instead of the recipe's.
        prove: False runs no device and writes no report.
        skip_rewrites: rewrites to leave out, by name.
        progress: hears of the stages.

    Raises:
        EdgeconvError: as `export`; RecipeError for weights and inputs that cannot be used.
    """
    progress = progress or Silent()
    named = tuple(devices) if devices is not None else recipe.parity.devices
    if prove:
        with progress.stage("devices"):
            check_devices(named)
    with progress.stage("module and inputs"):
        job = job_of(recipe, prove=prove, devices=named, skip_rewrites=tuple(skip_rewrites))
    return run_job(job, out, progress)


def job_of(
    recipe: Recipe, *, prove: bool = True, devices: tuple[str, ...] | None = None, skip_rewrites: tuple[str, ...] = ()
) -> Job:
    """States what a recipe asks for: builds the module, reads the parity inputs.

    Raises:
        RecipeError: the module, its weights or its inputs cannot be used.
    """
    proof = None
    if prove:
        proof = Proof(
            samples=parity_samples(recipe),
            devices=devices,
            tolerance=recipe.parity.tolerance,
            timeout_s=recipe.parity.timeout_s,
            facts={"model seed": str(recipe.model.seed), "input seeds": _seeds(recipe)},
        )
    metadata = {"source": recipe.source}
    if recipe.preprocessing is not None:
        metadata["preprocessing"] = recipe.preprocessing.to_json()
    return Job(
        name=recipe.name,
        module=build_module(recipe),
        args=tuple(torch.zeros(i.static_shape, dtype=getattr(torch, i.dtype)) for i in recipe.inputs),
        input_names=tuple(i.name for i in recipe.inputs),
        output_names=recipe.outputs,
        formats=recipe.export.formats,
        variants=recipe.export.variants,
        layouts=recipe.export.tflite_layouts,
        opset=recipe.export.opset,
        skip_rewrites=skip_rewrites,
        metadata=metadata,
        description=recipe.description,
        proof=proof,
    )


def run_job(job: Job, out: Path, progress: Progress) -> ExportResult:
    """Does a job; files and report appear in `out` together, after the last of them is complete.

    Raises:
        EdgeconvError: as `export`.
    """
    with progress.stage("capture"):
        model = capture(job.module, job.args, input_names=job.input_names, output_names=job.output_names)
    captured = summarise("captured", model)
    with progress.stage("rewrite"):
        model = optimize(model, skip=job.skip_rewrites)
    graphs = (captured, summarise("folded", model))
    notes = _capture_notes(model)
    report = None
    with staged(out) as staging:
        written = [_write(staging, model, job, format_, layout, progress) for format_, layout in job.files()]
        artifacts = tuple(artifact for artifact, _ in written)
        notes += tuple(f"{artifact.path.name}: {note}" for artifact, emitted in written for note in emitted.notes)
        for note in notes:
            progress.note(note)
        if job.proof is not None:
            report = prove(
                staging,
                artifacts,
                job.proof,
                torch_run(job, job.proof.samples, tuple(value.name or "" for value in model.graph.outputs)),
                progress,
                name=job.name,
                description=job.description,
                source=job.metadata,
                graphs=graphs,
                notes=notes,
            )
    artifacts = tuple(dataclasses.replace(artifact, path=out / artifact.path.name) for artifact in artifacts)
    return ExportResult(artifacts, graphs, notes, report)


def _write(
    staging: Staging, model: ir.Model, job: Job, format_: str, layout: str, progress: Progress
) -> tuple[Artifact, Emitted]:
    variant = job.variants[0]
    infix = ".nchw" if format_ == "tflite" and layout == NCHW else ""
    file_name = f"{job.name}.{variant}{infix}.{format_}"
    metadata = {"edgeconv_version": edgeconv.__version__, "layout": layout, "variant": variant, **job.metadata}
    with progress.stage(f"emit {file_name}"):
        emitted = _emit(model, job, format_, layout, metadata)
        path = staging.write(file_name, emitted.data)
    sha256 = hashlib.sha256(emitted.data).hexdigest()
    artifact = Artifact(
        path, format_, variant, layout, sha256, emitted.inputs, emitted.outputs, size_bytes=len(emitted.data)
    )
    return artifact, emitted


def _capture_notes(model: ir.Model) -> tuple[str, ...]:
    """What the reader should know of the capture: only when the slower, official path had to be taken."""
    path = model.metadata_props.get("edgeconv.capture", "fast")
    return () if path == "fast" else (f"captured by the official exporter: {path.removeprefix('official: ')}",)


def _emit(model: ir.Model, job: Job, format_: str, layout: str, metadata: Mapping[str, str]) -> Emitted:
    if format_ == "onnx":
        return to_onnx(model, metadata=metadata, opset=job.opset)
    return to_tflite(model, layout=layout, metadata=metadata)


def torch_run(job: Job, samples: Sequence[Sample], output_names: tuple[str, ...]) -> TorchRun:
    """The job's module as something that runs `samples` in a given precision."""
    return lambda dtype: run_module(
        job.module, samples, input_names=job.input_names, output_names=output_names, dtype=dtype
    )


def _seeds(recipe: Recipe) -> str:
    return ", ".join(str(item.seed) for item in recipe.parity.random) or "none"


def _forward_names(module: torch.nn.Module, count: int) -> tuple[str, ...]:
    """The names of forward's parameters, as torch.onnx takes them; ``input_0``, … where it has ``*args``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [item.name for item in inspect.signature(module.forward).parameters.values() if item.kind in kinds]
    return tuple(names[:count]) if len(names) >= count else tuple(f"input_{index}" for index in range(count))
