"""Runs a module in float64 or float32 throughout, whatever casts it does itself.

A module may say ``.float()``, ``.half()`` or ``dtype=torch.float32``, or ask for a tensor's dtype. In a run in float64
each of these means float64; the module is told that its tensors are float32, so that it branches as it does for its
owner. In a run in float32 only what is narrower is widened: what the module computes in float64, it does so there too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# What each dtype becomes in a run in the other: complex numbers have the precision of their parts.
_WIDENED: Mapping[torch.dtype, Mapping[torch.dtype, torch.dtype]] = {
    torch.float64: {
        torch.float16: torch.float64,
        torch.bfloat16: torch.float64,
        torch.float32: torch.float64,
        torch.complex32: torch.complex128,
        torch.complex64: torch.complex128,
    },
    torch.float32: {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.complex32: torch.complex64,
    },
}
_NARROWED: Mapping[torch.dtype, torch.dtype] = {torch.float64: torch.float32, torch.complex128: torch.complex64}
_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]

_Number = int | float | torch.Tensor


@contextmanager
def computing_in(kind: torch.dtype) -> Iterator[None]:
    """Within the block, every floating tensor that is computed is float64, or at least float32.

    Constants that a module makes in its forward (``torch.zeros``, ``torch.arange``) have that precision, too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with _DtypeMask(kind), _Widening(kind):
            yield
    finally:
        torch.set_default_dtype(before)


class _DtypeMask(TorchFunctionMode):
    """Makes ``tensor.dtype`` of a float64 tensor read float32, so that a module branches as usual.

    Operators that are written in Python see what the tensors are (`torchao.quantize_affine` refuses float64): they get
    float32, and what they compute of it is wide again.
    """

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self._kind = kind

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except AssertionError:  # the operator's own check of a dtype, in Python
            with _disable_current_modes():  # else narrow tensors are widened at once
                narrow = pytree.tree_map(_narrowed, (tuple(args), dict(kwargs or {})))
                result = pytree.tree_map(self._wide, func(*narrow[0], **narrow[1]))
        masked = func == _DTYPE and self._kind is torch.float64
        return _NARROWED.get(result, result) if masked else result

    def _wide(self, leaf: Any) -> Any:
        return leaf.to(self._kind) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


class _Widening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Widens narrower dtypes among the arguments and results of every operator."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = kind

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # What an operator writes into stays the caller's own tensor: a widened copy would take the result in its place.
        arguments: tuple[Any, Any] = (tuple(args), dict(kwargs or {}))
        written = {
            id(tensor)
            for tensor in pytree.tree_leaves(_written_arguments(func, *arguments))
            if isinstance(tensor, torch.Tensor)
        }
        wide = self._widened(arguments, written)
        try:
            kernel = _kernel(func) if self._kind is torch.float64 else func
            result = kernel(*wide[0], **wide[1])
        except (RuntimeError, NotImplementedError):
            # An operator that has no kernel in this precision computes in the one that it has.
            result = func(*pytree.tree_map(_narrowed, arguments[0]), **pytree.tree_map(_narrowed, arguments[1]))
        return self._widened(result, written)

    def _widened(self, value: Any, written: Collection[int]) -> Any:
        """A value with what it holds widened, but for tensors of these ids.

        Operators hold values in tuples, lists and dicts alone; pytree's walk takes as long as a small convolution.
        """
        if isinstance(value, (tuple, list)):
            leaves = [self._widened(leaf, written) for leaf in value]
            return leaves if isinstance(value, list) else tuple(leaves)
        if isinstance(value, dict):
            return {key: self._widened(leaf, written) for key, leaf in value.items()}
        return value if id(value) in written else _converted(value, _WIDENED[self._kind])


def _narrowed(leaf: Any) -> Any:
    return _converted(leaf, _NARROWED)


def _converted(leaf: Any, dtypes: Mapping[torch.dtype, torch.dtype]) -> Any:
    """A dtype, or a tensor in the dtype, that a table has for it; anything else as it is."""
    if isinstance(leaf, torch.dtype):
        return dtypes.get(leaf, leaf)
    return leaf.to(dtypes[leaf.dtype]) if isinstance(leaf, torch.Tensor) and leaf.dtype in dtypes else leaf


@cache
def _kernel(func: Any) -> Callable[..., Any]:
    return _OWN.get(str(func), func)


def _written_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    return [
        args[index] if index < len(args) else kwargs.get(argument.name)
        for index, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _fake_quantized(
    x: torch.Tensor, scale: _Number, zero: _Number, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fake-quantizes with one scale, or several that broadcast; returns also the mask of unclipped elements.

    torch's own kernel multiplies by the scale's inverse as float32 has it.
    """
    scale = _as_stored(x, scale)
    steps = torch.round(x / scale) + zero
    return (steps.clamp(low, high) - zero) * scale, (steps >= low) & (steps <= high)


def _by_channel(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, axis: int, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    scale, zero = _along(x, axis, scale, zero)
    return _fake_quantized(x, scale, zero, low, high)


def _enabled(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, rounds: torch.Tensor, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return _fake_quantized(x, scale, zero, low, high) if bool(rounds.any()) else (x, torch.ones_like(x) > 0)


def _along(x: torch.Tensor, axis: int, *parameters: torch.Tensor) -> list[torch.Tensor]:
    """Parameters for each element of an axis, in a shape that broadcasts to x."""
    return [
        parameter.view([-1 if index == axis % x.ndim else 1 for index in range(x.ndim)]) for parameter in parameters
    ]


def _observed(
    x: torch.Tensor,
    observes: torch.Tensor,
    rounds: torch.Tensor,
    lowest: torch.Tensor,
    highest: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    average: float,
    low: int,
    high: int,
    axis: int,
    is_by_channel: bool = False,
    is_symmetric: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What FusedMovingAvgObsFakeQuantize calls, with its observer off: a weight near a tie of float32 is not at one."""
    if bool(observes.any()):
        raise NotImplementedError  # it moves its scale: torch's own kernel
    if not bool(rounds.any()):
        return x, torch.ones_like(x, dtype=torch.bool)
    return _by_channel(x, scale, zero, axis, low, high) if is_by_channel else _fake_quantized(x, scale, zero, low, high)


def _quantized(x: torch.Tensor, scale: _Number, zero: _Number, low: Any, high: Any, dtype: torch.dtype) -> torch.Tensor:
    """The integers of ``quantized_decomposed``, whose own kernels compute in float32 alone.

    A number within float32's rounding of a tie would be at another integer there than where the rest is in float64.
    """
    return (torch.round(x / _as_stored(x, scale)) + zero).clamp(low, high).to(dtype)


def _dequantized(
    integers: torch.Tensor, scale: _Number, zero: _Number, *limits: object, out_dtype: torch.dtype | None = None
) -> torch.Tensor:
    steps = integers.to(out_dtype or torch.get_default_dtype()) - zero
    return steps * _as_stored(steps, scale)


def _as_stored(like: torch.Tensor, scale: _Number) -> torch.Tensor:
    """A scale as float32 holds it, which files and torch's kernels compute with."""
    return torch.as_tensor(scale, dtype=torch.float64).float().to(like.dtype)


def _quantized_by_channel(
    x: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, axis: int, low: int, high: int, dtype: torch.dtype
) -> torch.Tensor:
    scales, zeros = _along(x, axis, scales, zeros)
    return _quantized(x, scales, zeros, low, high, dtype)


def _dequantized_by_channel(
    integers: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    axis: int,
    *limits: object,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    offsets = torch.zeros_like(scales) if zeros is None else zeros
    return _dequantized(integers, *_along(integers, axis, scales, offsets), out_dtype=out_dtype)


def _without_infinities(
    function: Any, x: torch.Tensor, nan: float | None = None, above: float | None = None, below: float | None = None
) -> torch.Tensor:
    """An infinity becomes the largest number of float32, which files compute in, and not that of this run."""
    largest = torch.finfo(torch.float32).max
    result: torch.Tensor = function(x, nan, largest if above is None else above, -largest if below is None else below)
    return result


# Operators whose float64 kernels are missing, ask for float32 scales or depend on the dtype; inputs are already wide.
_OWN: Mapping[str, Callable[..., Any]] = {
    "aten._fused_moving_avg_obs_fq_helper.default": _observed,
    "aten.fake_quantize_per_tensor_affine_cachemask.default": _fake_quantized,
    "aten.fake_quantize_per_tensor_affine.default": lambda *args: _fake_quantized(*args)[0],
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": lambda *args: _fake_quantized(*args)[0],
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default": _enabled,
    "aten.fake_quantize_per_channel_affine_cachemask.default": _by_channel,
    "aten.fake_quantize_per_channel_affine.default": lambda *args: _by_channel(*args)[0],
    "aten.nan_to_num.default": partial(_without_infinities, torch.ops.aten.nan_to_num.default),
    "aten.nan_to_num_.default": partial(_without_infinities, torch.ops.aten.nan_to_num_.default),
    **{f"quantized_decomposed.quantize_per_tensor.{form}": _quantized for form in ("default", "tensor", "tensor2")},
    **{f"quantized_decomposed.dequantize_per_tensor.{form}": _dequantized for form in ("default", "tensor", "tensor2")},
    "quantized_decomposed.quantize_per_channel.default": _quantized_by_channel,
    "quantized_decomposed.dequantize_per_channel.default": _dequantized_by_channel,
    "quantized_decomposed.fake_quant_per_channel.default": lambda *args: _by_channel(*args)[0],
}
