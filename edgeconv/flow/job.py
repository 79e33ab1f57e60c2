"""`Job`: everything that an export has to do, checked before any work; made of Python arguments or of a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING

from edgeconv import errors
from edgeconv.capture import open_onnx, settled_shapes
from edgeconv.core import NCHW, NHWC, Sample, values
from edgeconv.core.defaults import BATCH, OPSETS
from edgeconv.core.domain import Domain
from edgeconv.core.quantization_options import Override
from edgeconv.core.variants import VARIANTS
from edgeconv.errors import NO_TORCH, CaptureError, DeviceError, EmitError, QuantizeError, RecipeError, RewriteError
from edgeconv.flow.arguments import Expected, checked_samples
from edgeconv.flow.proof import Proof, check_devices
from edgeconv.flow.source import OnnxSource, Source, TorchSource, with_other_batch
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization
from edgeconv.recipe import (
    FORMATS,
    LAYOUTS,
    Recipe,
    calibration_batches,
    in_float32,
    names_data,
    onnx_path,
    own_imports,
    parity_samples,
    place_of,
    plan_text,
    seeds_of,
    with_inputs,
)

if TYPE_CHECKING:
    from edgeconv.report import TargetSearch

_QUANTIZATION = "pass an edgeconv.Quantization: Quantization(batches=…)"
# With the longest suffix it is still a name that a commit's journal takes (`edgeconv.flow.journal`, 200 characters).
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Job:
    """One module or file, the files to make of it, and how they are proven.

    Attributes:
        name: stem of every file.
        source: what is exported.
        formats: of `FORMATS`.
        variants: of `VARIANTS`.
        layouts: of `LAYOUTS`: of the rank-4 inputs and outputs of the TFLite file; one file each.
        opset: of the ONNX file; None for that of the graph.
        skip_rewrites: names of rewrites to leave out.
        preprocessing: how images become inputs, one line of JSON; empty where it is not known.
        description: a sentence for the report.
        quantization: how variants of integers are made.
        proof: how the files are proven; None leaves the report out.
        target_search: what the report says of the target of `quantization`, its points still to be measured.
        c_samples: writes each TFLite file as C source, too, with the first of these samples that is for its variant;
            None writes none.
    """

    name: str
    source: Source
    formats: tuple[str, ...] = FORMATS
    variants: tuple[str, ...] = ("fp32",)
    layouts: tuple[str, ...] = (NHWC,)
    opset: int | None = None
    skip_rewrites: tuple[str, ...] = ()
    preprocessing: str = ""
    description: str = ""
    quantization: Quantization = field(default_factory=Quantization)
    proof: Proof | None = None
    target_search: TargetSearch | None = None
    c_samples: tuple[Sample, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            what, hint = f"{self.name!r:.80} cannot begin a file name", "use up to 128 letters, digits, '_', '-', '.'"
            raise EmitError(what, where="name", hint=hint)
        for setting, names, choices in (
            (errors.FORMATS, self.formats, FORMATS),
            (errors.VARIANTS, self.variants, VARIANTS),
            (errors.LAYOUTS, self.layouts, LAYOUTS),
        ):
            values.chosen(names, setting, choices, EmitError)

        for needs, what in (("int16x8" in self.variants, "int16x8"), (self.c_samples is not None, "the C source")):
            if needs and "tflite" not in self.formats:
                raise EmitError(
                    f"{what} is made of TFLite only, which is not among the formats",
                    where=errors.FORMATS,
                    hint=errors.TFLITE_TOO,
                )

        named = self.proof.devices if self.proof is not None else None
        if isinstance(self.source, OnnxSource) and TorchSource.device in (named or ()):
            raise DeviceError(
                "the device torch runs modules, and this is an .onnx file", where=self.source.title, hint=NO_TORCH
            )

    @property
    def metadata(self) -> Mapping[str, str]:
        """The files' metadata, beside edgeconv's version and their layout."""
        return {**self.source.metadata, **({"preprocessing": self.preprocessing} if self.preprocessing else {})}

    def files(self, variant: Variant) -> tuple[tuple[str, str], ...]:
        """(format, layout) of every file of a variant, in the order in which they are made."""
        layouts = {"onnx": (NCHW,), "tflite": self.layouts}
        formats = [format_ for format_ in self.formats if format_ in variant.formats]
        return tuple((format_, layout) for format_ in formats for layout in layouts[format_])


def stated_job(
    source: Source,
    samples: Sequence[Sample] | Callable[[], Sample],
    expected: Mapping[str, Expected],
    *,
    name: str,
    formats: str | Sequence[str],
    variants: str | Sequence[str],
    layouts: str | Sequence[str],
    opset: int | None,
    quantization: Quantization,
    c_array: bool,
    skip_rewrites: Collection[str],
    devices: str | Sequence[str],
) -> Job:
    """The job of a call of `edgeconv.export`; a choice may be one str or several.

    Args:
        source: what is exported.
        samples: of the proof and the C source, or a function that makes the only one; unused where there is neither.
        expected: shape and dtype of each input.
        name: as in `Job`, like what follows but for `c_array` and `devices`.
        formats: see `name`.
        variants: see `name`.
        layouts: see `name`.
        opset: see `name`.
        quantization: see `name`.
        c_array: whether C source is written, too.
        skip_rewrites: see `name`.
        devices: to prove the files on; none for no proof.

    Raises:
        DeviceError: a device is unknown or not installed.
        ParityError: a sample does not fit the inputs.
    """
    proof: Proof | None = None
    checked: tuple[Sample, ...] = ()
    named = values.once(values.names(devices, errors.DEVICES, DeviceError), errors.DEVICES, DeviceError)
    c_array = values.flag(c_array, "c_array", EmitError)
    if opset is not None:
        opset = values.integer(opset, "opset", EmitError, least=OPSETS[0], most=OPSETS[-1])
    values.instance(quantization, Quantization, "quantization", QuantizeError, hint=_QUANTIZATION)
    if named or c_array:
        check_devices(named, errors.DEVICES)
        checked = checked_samples((samples(),) if callable(samples) else samples, expected)
    if named:
        proof = Proof(with_other_batch(checked, source.batched), named)
    return Job(
        name=name,
        source=source,
        formats=values.chosen(formats, errors.FORMATS, FORMATS, EmitError),
        variants=values.chosen(variants, errors.VARIANTS, VARIANTS, EmitError),
        layouts=values.chosen(layouts, errors.LAYOUTS, LAYOUTS, EmitError),
        opset=opset,
        skip_rewrites=values.names(skip_rewrites, errors.SKIPPED, RewriteError),
        quantization=quantization,
        proof=proof,
        c_samples=checked if c_array else None,
    )


def job_of(
    recipe: Recipe,
    *,
    prove: bool = True,
    devices: tuple[str, ...] | None = None,
    formats: tuple[str, ...] | None = None,
    variants: tuple[str, ...] | None = None,
    c_array: bool | None = None,
    skip_rewrites: tuple[str, ...] = (),
) -> Job:
    """The job of a recipe: builds the module or reads the file, and reads the parity inputs.

    `devices`, `formats`, `variants` and `c_array` stand in place of the recipe's; inputs that are for none of the
    variants are not read.

    Raises:
        RecipeError: the module, its weights or its inputs cannot be used.
        CaptureError: the file cannot be used.
    """
    recipe, source = _source_of(recipe)
    variants = variants or _stated_variants(recipe, source)
    c_array = recipe.export.c_array if c_array is None else c_array
    domains = _domains_of(source)
    samples = parity_samples(recipe, variants, domains) if prove or c_array else ()
    proof = _proof_on(samples, recipe, source, variants, devices) if prove else None
    return Job(
        name=recipe.name,
        source=source,
        formats=formats or recipe.export.formats,
        variants=variants,
        layouts=recipe.export.tflite_layouts,
        opset=recipe.opset,
        skip_rewrites=skip_rewrites,
        preprocessing=recipe.preprocessing.to_json() if recipe.preprocessing else "",
        description=recipe.description,
        quantization=_quantization(recipe, domains),
        proof=proof,
        c_samples=samples if c_array else None,
    )


def proof_of(recipe: Recipe, source: Source, variants: tuple[str, ...]) -> Proof:
    """The proof that a recipe states, without building its module again.

    Raises:
        RecipeError: its inputs cannot be used.
    """
    recipe = _with_inputs(recipe, source) if isinstance(source, OnnxSource) else recipe
    return _proof_on(parity_samples(recipe, variants, _domains_of(source)), recipe, source, variants, None)


def _domains_of(source: Source) -> Callable[[], Mapping[str, Domain]]:
    """The domains of a source's integer inputs, found once, when first needed.

    Nothing where the source cannot be captured: the export itself will say why.
    """

    @cache
    def domains() -> Mapping[str, Domain]:
        try:
            return source.domains()
        except CaptureError:
            return {}

    return domains


def _proof_on(
    samples: tuple[Sample, ...],
    recipe: Recipe,
    source: Source,
    variants: tuple[str, ...],
    devices: tuple[str, ...] | None,
) -> Proof:
    if not samples:
        what = f"no parity input is for {', '.join(variants)}"
        raise RecipeError(what, where=f"{recipe.path}: parity", hint="leave `variants` out of one input")
    return Proof(
        samples=with_other_batch(samples, source.batched),
        devices=devices,
        tolerance=recipe.parity.tolerance,
        bounds=recipe.parity.bounds,
        timeout_s=recipe.parity.timeout_s,
        facts=seeds_of(recipe),
    )


def _with_inputs(recipe: Recipe, source: OnnxSource) -> Recipe:
    """The recipe of a file with every input stated."""
    return with_inputs(recipe, source.shapes, {tensor.name: tensor.dtype for tensor in source.file.inputs})


def _stated_variants(recipe: Recipe, source: Source) -> tuple[str, ...]:
    """The recipe's variants; by default, a file that is quantized already has only its own."""
    stated = "variants" in recipe.export.model_fields_set
    return (source.variant,) if source.variant and not stated else recipe.export.variants


def _quantization(recipe: Recipe, domains: Callable[[], Mapping[str, Domain]]) -> Quantization:
    """The recipe's options for integer variants."""
    plan, path = plan_text(recipe)
    places = {name: f"{recipe.path}: quantize.{name}" for name in ("keep_float", "override")}
    if path is not None:
        places["plan"] = str(path)
    return Quantization(
        # A plan needs no data, and where the recipe names none there is only noise: rounding on it would fit the
        # weights to what the plan's network never sees.
        batches=partial(calibration_batches, recipe, domains) if names_data(recipe) or not plan else None,
        plan=plan,
        places=places,
        pixels=_pixels(recipe) if recipe.quantize.options.io == "uint8" else None,
        **vars(recipe.quantize.options),
    )


def _pixels(recipe: Recipe) -> Override | None:
    """The range of preprocessed pixels for the image inputs, where it is the same for all channels."""
    pixels = recipe.preprocessing.pixel_range if recipe.preprocessing is not None else None
    images = [item.name for item in recipe.inputs if item.dtype == "float32" and len(item.shape) == 4]
    return Override(operators=tuple(images), range=pixels) if pixels is not None and images else None


def _source_of(recipe: Recipe) -> tuple[Recipe, Source]:
    """The recipe with every input stated, and the module or file that it exports."""
    path = onnx_path(recipe)
    if path is not None:
        file = open_onnx(path).fixed(recipe.model.fixed)
        shapes = settled_shapes(file, {item.name: item.shape for item in recipe.inputs})
        source = OnnxSource(file, shapes)
        return _with_inputs(recipe, source), source
    return _module_of(recipe)


def _module_of(recipe: Recipe) -> tuple[Recipe, TorchSource]:
    """The module that a recipe builds; torch is imported here, and not where a file is the source."""
    import torch

    from edgeconv.capture.torch.call import with_fixed_arguments
    from edgeconv.recipe import build_module

    batched = tuple(item.name for item in recipe.inputs if item.batch is not None)
    tensors = tuple(torch.zeros(i.static_shape, dtype=getattr(torch, i.dtype)) for i in recipe.inputs)
    return in_float32(recipe), TorchSource(
        with_fixed_arguments(build_module(recipe), tensors, recipe.model.fixed, place_of(recipe.path, "model.fixed")),
        args=tensors,
        input_names=tuple(i.name for i in recipe.inputs),
        output_names=recipe.outputs,
        origin=recipe.source,
        batched=batched,
        within=own_imports(recipe),
        symbol=next((item.batch for item in recipe.inputs if item.batch is not None), BATCH),
    )
