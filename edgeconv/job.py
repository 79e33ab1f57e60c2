"""What an export has to do, stated whole before anything is done."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from edgeconv.capture import open_onnx, settled_shapes
from edgeconv.core import NCHW, NHWC, Array, Sample
from edgeconv.errors import CaptureError, DeviceError, EmitError, ParityError
from edgeconv.prove import Proof
from edgeconv.recipe import Recipe, build_module, parity_samples
from edgeconv.recipe.calibration import calibration_batches
from edgeconv.recipe.files import locate
from edgeconv.recipe.inputs import VARIANTS
from edgeconv.recipe.load import with_inputs
from edgeconv.recipe.schema import FORMATS, LAYOUTS
from edgeconv.report import Frontier
from edgeconv.source import BATCH, OnnxSource, Source, TorchSource, with_other_batch
from edgeconv.variants import Quantization, Variant

Expected = tuple[tuple[int | str, ...], np.dtype[np.generic]]
"""Shape (a str is an open batch) and dtype of an input."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Job:
    """One module or file, and what to make of it.

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
        frontier: what the report says of the target of `quantization`, its points still to be measured.
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
    frontier: Frontier | None = None
    c_samples: tuple[Sample, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise EmitError(
                f"the name {self.name!r} cannot begin a file name", mend="use up to 128 letters, digits, '_', '-', '.'"
            )
        for what, asked, known in (
            ("formats", self.formats, FORMATS),
            ("variants", self.variants, VARIANTS),
            ("tflite_layout", self.layouts, LAYOUTS),
        ):
            unknown = [item for item in asked if item not in known]
            if unknown or not asked:
                wrong = f"{unknown[0]!r} is not known" if unknown else "nothing is asked for"
                raise EmitError(wrong, where=what, mend=f"choose of {', '.join(known)}")
            if len(set(asked)) < len(asked):
                raise EmitError("a name stands twice", where=what, mend="name each once")

        for needs, what in (("int16x8" in self.variants, "int16x8"), (self.c_samples is not None, "the C source")):
            if needs and "tflite" not in self.formats:
                raise EmitError(
                    f"{what} is made of TFLite only, which is not among the formats", where="formats", mend="add tflite"
                )

        named = self.proof.devices if self.proof is not None else None
        if isinstance(self.source, OnnxSource) and TorchSource.device in (named or ()):
            raise DeviceError(
                "torch runs modules, and this is an .onnx file", where=self.source.title, mend="leave it out"
            )

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the files say of themselves beside edgeconv's version and their layout."""
        return {**self.source.metadata, **({"preprocessing": self.preprocessing} if self.preprocessing else {})}

    def files(self, variant: Variant) -> tuple[tuple[str, str], ...]:
        """(format, layout) of every file of a variant, in the order in which they are made."""
        layouts = {"onnx": (NCHW,), "tflite": self.layouts}
        formats = [format_ for format_ in self.formats if format_ in variant.formats]
        return tuple((format_, layout) for format_ in formats for layout in layouts[format_])


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
    """States what a recipe asks for: builds the module or reads the file, and the parity inputs.

    `devices`, `formats`, `variants` and `c_array` stand in place of the recipe's; inputs that are for none of the
    variants are not read.

    Raises:
        RecipeError: the module, its weights or its inputs cannot be used.
        CaptureError: the file cannot be used.
    """
    recipe, source = _source_of(recipe)
    variants = variants or _stated_variants(recipe, source)
    c_array = recipe.export.c_array if c_array is None else c_array
    samples = parity_samples(recipe, variants) if prove or c_array else ()
    proof = None
    if prove:
        seeds = {"input seeds": ", ".join(str(item.seed) for item in recipe.parity.random) or "none"}
        model_seed = {"model seed": str(recipe.model.seed)} if recipe.model.onnx is None else {}
        proof = Proof(
            samples=with_other_batch(samples, source.batched),
            devices=devices,
            tolerance=recipe.parity.tolerance,
            bounds=recipe.parity.bounds,
            timeout_s=recipe.parity.timeout_s,
            facts={**model_seed, **seeds},
        )
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
        quantization=_quantization(recipe),
        proof=proof,
        c_samples=samples if c_array else None,
    )


def _stated_variants(recipe: Recipe, source: Source) -> tuple[str, ...]:
    """The recipe's; where it states none, those of a file that is quantised already are its own."""
    stated = "variants" in recipe.export.model_fields_set
    return (source.variant,) if source.variant and not stated else recipe.export.variants


def _quantization(recipe: Recipe) -> Quantization:
    """How a recipe has variants of integers made."""
    asked = recipe.quantize
    plan = ""
    if asked.plan is not None:
        where = f"{recipe.path}: quantize.plan"
        plan = locate(asked.plan, recipe.directory, where=where).read_text(encoding="utf-8")
    return Quantization(
        batches=partial(calibration_batches, recipe),
        observer=asked.observer,
        per_channel=asked.per_channel,
        equalize=asked.equalize,
        rounding=asked.rounding,
        iterations=asked.iterations,
        relu6_as_relu=asked.relu6_as_relu,
        io=asked.io,
        keep_float=asked.keep_float,
        plan=plan,
    )


def _source_of(recipe: Recipe) -> tuple[Recipe, Source]:
    """What a recipe exports, and the recipe with every input stated."""
    if recipe.model.onnx is not None:
        path = recipe.directory / recipe.model.onnx
        if path != recipe.path:
            path = locate(recipe.model.onnx, recipe.directory, where=f"{recipe.path}: model.onnx")
        file = open_onnx(path)
        shapes = settled_shapes(file, {item.name: item.shape for item in recipe.inputs})
        dtypes = {each.name: each.dtype for each in file.inputs}
        return with_inputs(recipe, shapes, dtypes), OnnxSource(file, shapes)
    batched = tuple(item.name for item in recipe.inputs if item.batch is not None)
    return recipe, TorchSource(
        build_module(recipe),
        args=tuple(torch.zeros(i.static_shape, dtype=getattr(torch, i.dtype)) for i in recipe.inputs),
        input_names=tuple(i.name for i in recipe.inputs),
        output_names=recipe.outputs,
        origin=recipe.source,
        batched=batched,
        symbol=next((item.batch for item in recipe.inputs if item.batch is not None), BATCH),
    )


def checked_args(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The example inputs, if they are ones.

    Raises:
        CaptureError: no module, or no tuple of dense tensors; ``(x)`` for ``(x,)`` is the commonest slip.
    """
    where = type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise CaptureError(f"{where} is not a torch.nn.Module", mend="pass the module itself")
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            "a ScriptModule has no Python left to trace", where=where, mend="pass the original nn.Module"
        )
    if not isinstance(args, tuple | list):
        raise CaptureError(
            f"args is a {type(args).__name__}, not a tuple", where=where, mend="write (x,) for a single input"
        )
    for index, item in enumerate(args):
        if not isinstance(item, torch.Tensor) or item.layout is not torch.strided:
            raise CaptureError(
                f"args[{index}] is a {type(item).__name__}, not a dense tensor", where=where, mend="pass tensors"
            )
    return tuple(args)


def forward_names(module: torch.nn.Module, count: int) -> tuple[str, ...]:
    """The names of forward's parameters, as torch.onnx takes them; ``input_0``, … where it has ``*args``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [item.name for item in inspect.signature(module.forward).parameters.values() if item.kind in kinds]
    return tuple(names[:count]) if len(names) >= count else tuple(f"input_{index}" for index in range(count))


def batched_inputs(dynamic: bool | str | Sequence[str], args: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The inputs whose batch stays open, by what the caller said of them.

    Raises:
        CaptureError: a name is no input, or an input has no dimension to be a batch.
    """
    if isinstance(dynamic, bool):
        named = tuple(args) if dynamic else ()
    else:
        named = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    for name in named:
        if name not in args:
            raise CaptureError(f"{name!r} is no input", where="dynamic_batch", mend=f"name of {', '.join(args)}")
        if not args[name].ndim or not len(args[name]):
            raise CaptureError(
                f"the input {name!r} has no batch", where="dynamic_batch", mend="name the inputs that have one"
            )
    return named


def expected_of(args: Mapping[str, torch.Tensor], batched: Sequence[str]) -> dict[str, Expected]:
    """What samples must hold, by example inputs."""
    arrays = {name: _array(value) for name, value in args.items()}
    return {
        name: ((BATCH, *array.shape[1:]) if name in batched else array.shape, array.dtype)
        for name, array in arrays.items()
    }


def example(args: Mapping[str, torch.Tensor]) -> Sample:
    """The example inputs as a sample."""
    return Sample("args", {name: _array(value) for name, value in args.items()})


def checked_samples(samples: Sequence[Sample], expected: Mapping[str, Expected]) -> tuple[Sample, ...]:
    """The samples, if each has the arrays that the files will take.

    Raises:
        ParityError: an array is missing, or has another shape or dtype, or is not finite; the batches of a sample's
            inputs differ.
    """
    for sample in samples:
        if set(sample.inputs) != set(expected):
            raise ParityError(
                f"it has inputs {sorted(sample.inputs)}", where=f"sample {sample.name}", mend=f"name {sorted(expected)}"
            )
        sizes = set()
        for name, (shape, dtype) in expected.items():
            array = sample.inputs[name]
            where = f"sample {sample.name}, input {name}"
            if not isinstance(array, np.ndarray) or array.dtype != dtype or not _fits(array.shape, shape):
                found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
                wanted = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
                raise ParityError(f"it is {found}", where=where, mend=f"give numpy {dtype} {wanted}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ParityError("it has NaN or infinite elements", where=where, mend="give finite numbers")
            sizes |= {len(array)} if shape and isinstance(shape[0], str) else set()
        if len(sizes) > 1:
            raise ParityError(
                f"its batches differ: {sorted(sizes)}", where=f"sample {sample.name}", mend="give all the same"
            )
    return tuple(samples)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size >= 1 if isinstance(wanted, str) else size == wanted for size, wanted in zip(shape, expected, strict=True)
    )


def _array(value: torch.Tensor) -> Array:
    try:
        return np.ascontiguousarray(value.detach().cpu().numpy()).reshape(value.shape)
    except TypeError as error:  # numpy has no such dtype, e.g. bfloat16
        raise CaptureError(f"inputs of {value.dtype} are not exported", mend="convert them to float32") from error
