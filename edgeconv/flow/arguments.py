"""Checks the arguments of `edgeconv.export` before any work: example inputs, samples, names, choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgeconv import errors
from edgeconv.core import Array, Sample, values
from edgeconv.core.defaults import BATCH
from edgeconv.core.layouts import hint_to_move
from edgeconv.core.variants import VARIANTS
from edgeconv.errors import CaptureError, DeviceError, EmitError, ParityError, RecipeError, RewriteError
from edgeconv.progress import Progress, Silent
from edgeconv.recipe import FORMATS, Recipe

if TYPE_CHECKING:
    import torch

Expected = tuple[tuple[int | str, ...], np.dtype[np.generic]]
"""Shape (a str is an open batch) and dtype of an input."""


def checked_call(
    module: object, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]:
    """The module, the tensors of its example call, and their names; see `edgeconv.capture.torch.call.called`.

    Raises:
        CaptureError: no module, or no tuple of arguments; ``(x)`` for ``(x,)`` is the commonest slip.
    """
    from edgeconv.capture.torch.argument import checked_module
    from edgeconv.capture.torch.call import called

    checked = checked_module(module, or_program=True)
    if not isinstance(args, tuple | list):
        what = f"it is {values.kind_of(args)}, not a tuple"
        raise CaptureError(what, where="args", hint="write (x,) for a single input")
    keywords = {} if kwargs is None else values.mapping(kwargs, "kwargs", CaptureError, hint='write {"mask": mask}')
    return called(checked, tuple(args), keywords)


def output_folder(out: object) -> Path:
    """The folder that files go to.

    Raises:
        EmitError: it is no path.
    """
    return values.path(out, "out", EmitError, hint="give a folder, as text or a pathlib.Path")


def listener(progress: object) -> Progress:
    """The receiver of progress; a silent one for None.

    Raises:
        EmitError: it has not the methods of `edgeconv.progress.Progress`.
    """
    if progress is None:
        return Silent()
    # A class in place of an object has the methods, too, but nobody to call them on.
    if isinstance(progress, type) or not all(hasattr(progress, name) for name in ("stage", "note")):
        hint = "give an object with the methods of edgeconv.progress.Progress, or leave it out"
        raise EmitError(f"it is {values.kind_of(progress)}", where="progress", hint=hint)
    return cast(Progress, progress)


def named_inputs(input_names: object, own_names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the inputs: those that are stated, else those of the parameters.

    Raises:
        CaptureError: they are no names, or not one per input.
    """
    if input_names is None:
        return own_names
    hint = "name every input once, in order"
    stated = values.tensor_names(input_names, "input_names", CaptureError)
    if len(stated) != len(own_names):
        names, inputs = values.counted(len(stated), "name"), values.counted(len(own_names), "input")
        raise CaptureError(f"{names} for {inputs} ({', '.join(own_names)})", where="input_names", hint=hint)
    return stated


def named_variants(variants: object) -> tuple[str, ...]:
    """The variants that are stated; none for None, and for no names of whatever form.

    Raises:
        EmitError: they are no names.
    """
    return values.names(variants, errors.VARIANTS, EmitError, hint=f"choose of {', '.join(VARIANTS)}")


def numbers_by_name(fixed: object) -> dict[str, Any]:
    """The inputs that are fixed, with what each is fixed to; none for None.

    Raises:
        CaptureError: it is no mapping from names.
    """
    return {} if fixed is None else values.mapping(fixed, "fixed", CaptureError, hint="write {name: number}")


def instead_of_recipe(
    recipe: Recipe,
    devices: object,
    prove: object,
    formats: object,
    variants: object,
    c_array: object,
    skip_rewrites: object,
) -> dict[str, Any]:
    """Checks the choices that a caller makes in place of the recipe's; as keyword arguments of `job_of`.

    Raises:
        EdgeconvError: one of them is no choice.
    """
    named, is_proven = recipe.parity.devices, values.flag(prove, "prove", RecipeError)
    if devices is not None:
        named = values.once(values.names(devices, errors.DEVICES, DeviceError), errors.DEVICES, DeviceError)
        if is_proven and not named:
            raise DeviceError("none is named", where=errors.DEVICES, hint="name one, or export with prove=False")
    return {
        "prove": is_proven,
        "devices": named,
        "formats": None if formats is None else values.chosen(formats, errors.FORMATS, FORMATS, EmitError),
        "variants": None if variants is None else values.chosen(variants, errors.VARIANTS, VARIANTS, EmitError),
        "c_array": None if c_array is None else values.flag(c_array, "c_array", RecipeError),
        "skip_rewrites": values.names(skip_rewrites, errors.SKIPPED, RewriteError),
    }


def stated_samples(samples: object) -> tuple[Sample, ...]:
    """The samples as they are passed, of whatever inputs; none for None.

    Raises:
        ParityError: they are no samples.
    """
    hint = 'give a list of edgeconv.Sample("name", {input name: array})'
    if samples is None:
        return ()
    # Each of these is iterable, and none of samples.
    if isinstance(samples, str | bytes | Mapping | np.ndarray) or not isinstance(samples, Iterable):
        raise ParityError(f"it is {values.kind_of(samples)}", where="samples", hint=hint)
    checked = tuple(
        values.instance(item, Sample, f"samples[{index}]", ParityError, hint=hint) for index, item in enumerate(samples)
    )
    values.once(tuple(sample.name for sample in checked), "samples", ParityError)
    for sample in checked:
        for variant in sample.variants:
            values.one_of(variant, f"sample {sample.name!r:.80}, variants", VARIANTS, ParityError)
    return checked


def batched_inputs(dynamic: bool | str | Sequence[str], args: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The names of the inputs whose batch stays open.

    Raises:
        CaptureError: a name is no input, or an input has no dimension to be a batch.
    """
    hint = "give True, or the names of the inputs"
    if isinstance(dynamic, bool | np.bool_):
        named = tuple(args) if dynamic else ()
    elif dynamic is None:
        raise CaptureError("it is None", where="dynamic_batch", hint=hint)
    else:
        named = values.once(
            values.names(dynamic, "dynamic_batch", CaptureError, hint=hint), "dynamic_batch", CaptureError
        )
    for name in named:
        if name not in args:
            raise CaptureError(f"{name!r} is no input", where="dynamic_batch", hint=f"the inputs are {', '.join(args)}")
        if not args[name].ndim or not len(args[name]):
            what = f"the input {name!r} has no batch"
            raise CaptureError(what, where="dynamic_batch", hint="name the inputs that have one")
    return named


def expected_of(args: Mapping[str, torch.Tensor], batched: Sequence[str]) -> dict[str, Expected]:
    """The shape and dtype that samples must have, taken from the example inputs."""
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
            what = f"it has inputs {sorted(sample.inputs)}"
            raise ParityError(what, where=f"sample {sample.name}", hint=f"name {sorted(expected)}")
        sizes = set()
        for name, (shape, dtype) in expected.items():
            array = sample.inputs[name]
            where = f"sample {sample.name}, input {name}"
            if not isinstance(array, np.ndarray) or array.dtype != dtype or not _fits(array.shape, shape):
                actual = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
                expected_shape = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
                moved = hint_to_move(array.shape, shape) if getattr(array, "dtype", None) == dtype else ""
                hint = moved or f"give numpy {dtype} {expected_shape}"
                raise ParityError(f"it is {actual}", where=where, hint=hint)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ParityError("it has NaN or infinite elements", where=where, hint="give finite numbers")
            sizes |= {len(array)} if shape and isinstance(shape[0], str) else set()
        if len(sizes) > 1:
            what = f"its batches differ: {sorted(sizes)}"
            raise ParityError(what, where=f"sample {sample.name}", hint="give all the same")
    return tuple(samples)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether a shape is the expected one; an open batch may have any size but 0, of which a file computes nothing."""
    return len(shape) == len(expected) and all(
        size >= 1 if isinstance(expected_size, str) else size == expected_size
        for size, expected_size in zip(shape, expected, strict=True)
    )


def _array(value: torch.Tensor) -> Array:
    """The tensor as files take it: floating inputs of any type become float32."""
    plain = value.detach().cpu()
    plain = plain.float() if plain.is_floating_point() else plain
    return np.ascontiguousarray(plain.numpy()).reshape(value.shape)  # a scalar would become rank 1
