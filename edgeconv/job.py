"""What an export has to do, stated whole before anything is done."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from edgeconv.core import NCHW, NHWC, Sample
from edgeconv.errors import CaptureError, EmitError, ParityError
from edgeconv.prove import Proof
from edgeconv.recipe import Recipe, build_module, parity_samples
from edgeconv.recipe.schema import FORMATS, LAYOUTS, VARIANTS

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


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

    def files(self) -> tuple[tuple[str, str], ...]:
        """(format, layout) of every file, in the order in which they are made."""
        layouts = {"onnx": (NCHW,), "tflite": self.layouts}
        return tuple((format_, layout) for format_ in self.formats for layout in layouts[format_])


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


def checked_samples(
    samples: Sequence[Sample], names: Sequence[str], args: Sequence[torch.Tensor]
) -> tuple[Sample, ...]:
    """The samples, if each has the arrays that the files will take; `args` as the only one where there are none.

    Raises:
        ParityError: an array is missing, or has another shape or dtype than the example input, or is not finite.
    """
    example = {name: _array(value) for name, value in zip(names, args, strict=True)}
    given = tuple(samples) or (Sample("args", example),)
    for sample in given:
        if set(sample.inputs) != set(example):
            raise ParityError(
                f"it has inputs {sorted(sample.inputs)}", where=f"sample {sample.name}", mend=f"name {sorted(example)}"
            )
        for name, like in example.items():
            array = sample.inputs[name]
            where = f"sample {sample.name}, input {name}"
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (like.shape, like.dtype):
                found = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
                raise ParityError(f"it is {found}", where=where, mend=f"give numpy {like.dtype} {like.shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ParityError("it has NaN or infinite elements", where=where, mend="give finite numbers")
    return given


def _array(value: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    try:
        return np.ascontiguousarray(value.detach().cpu().numpy()).reshape(value.shape)
    except TypeError as error:  # numpy has no such dtype, e.g. bfloat16
        raise CaptureError(f"inputs of {value.dtype} are not exported", mend="convert them to float32") from error


def _seeds(recipe: Recipe) -> str:
    return ", ".join(str(item.seed) for item in recipe.parity.random) or "none"
