"""What callers pass to `edgeconv.export`, checked before any work: example inputs, samples, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeconv.core import Array, Sample
from edgeconv.errors import CaptureError, ParityError
from edgeconv.source import BATCH

if TYPE_CHECKING:
    import torch

Expected = tuple[tuple[int | str, ...], np.dtype[np.generic]]
"""Shape (a str is an open batch) and dtype of an input."""


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """A single name, which Python would take for a sequence of letters, as a sequence of one."""
    return (names,) if isinstance(names, str) else tuple(names)


def checked_call(
    module: object, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]:
    """The module, the tensors of its example call, and their names; see `edgeconv.capture.call.called`.

    Raises:
        CaptureError: no module, or no tuple of arguments; ``(x)`` for ``(x,)`` is the commonest slip.
    """
    import torch  # a module was passed, and has imported it

    from edgeconv.capture.call import called

    where = type(module).__name__
    if not isinstance(module, torch.nn.Module | torch.export.ExportedProgram):
        raise CaptureError(f"{where} is not a torch.nn.Module", mend="pass the module itself")
    if not isinstance(args, tuple | list):
        raise CaptureError(
            f"args is a {type(args).__name__}, not a tuple", where=where, mend="write (x,) for a single input"
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise CaptureError(f"kwargs is a {type(kwargs).__name__}, not a dict", where=where, mend='write {"mask": mask}')
    return called(module, tuple(args), kwargs or {})


def batched_inputs(dynamic: bool | str | Sequence[str], args: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The inputs whose batch stays open, by what the caller said of them.

    Raises:
        CaptureError: a name is no input, or an input has no dimension to be a batch.
    """
    if isinstance(dynamic, bool):
        named = tuple(args) if dynamic else ()
    elif isinstance(dynamic, str | list | tuple):
        named = several(dynamic)
    else:
        raise CaptureError(
            f"it is a {type(dynamic).__name__}", where="dynamic_batch", mend="give True, or the names of the inputs"
        )
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
    """As the files take it: a floating input of any type is float32 there."""
    plain = value.detach().cpu()
    plain = plain.float() if plain.is_floating_point() else plain
    try:
        return np.ascontiguousarray(plain.numpy()).reshape(value.shape)
    except TypeError as error:  # numpy has no such dtype
        raise CaptureError(f"inputs of {value.dtype} are not exported", mend="convert them to float32") from error
