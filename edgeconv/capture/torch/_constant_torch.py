"""Constant folding while a module is translated: torch computes it in float64, and it is rounded once at its use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._builder import Builder, Result, Unsupported, dtype_of, torch_dtype
from edgeconv.capture.torch._operation import name_of

# Operators that take nothing but the shape from their tensor, with the number that they fill it with; None where that
# is an argument. The content of an empty tensor is undefined before it is written: zeros do.
_FILLED: Mapping[str, float | None] = {
    "zeros_like": 0, "new_zeros": 0, "ones_like": 1, "new_ones": 1, "full_like": None, "new_full": None, "empty": 0,
    "empty_like": 0, "new_empty": 0, "empty_strided": 0, "new_empty_strided": 0, "empty_permuted": 0,
}  # fmt: skip


def is_constant_operator(node: FxNode, arguments: Mapping[str, Any], b: Builder) -> bool:
    """Whether the results of an operator are known now: its tensors are constants, and it draws no random numbers."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    if name_of(node) in _FILLED:
        return not isinstance(arguments.get("fill_value"), ir.Value)
    return all(value in b.exact for value in _tensors(arguments))


def evaluate(node: FxNode, read: Callable[[Any], Any], b: Builder, fakes: list[torch.Tensor]) -> Result:
    """The results of an operator on constants.

    Args:
        node: the operator; `is_constant_operator` holds.
        read: gives the present value of an argument.
        b: keeps the results, unrounded.
        fakes: the results as torch recorded them.

    Raises:
        Unsupported: torch raises.
    """
    target = node.target
    if name_of(node) in _FILLED:
        return _filled(node, read, b, fakes[0])
    args, kwargs = read(list(node.args)), {key: read(item) for key, item in node.kwargs.items()}
    if not callable(target):
        raise Unsupported("not an operator")
    # First in float64. An operator that makes a tensor of numbers keeps its own dtype, and so does one that torch does
    # not run in float64 (an index of uint8, a fake quantization).
    for wide in (True, False) if _tensors({"args": args, **kwargs}) else (False,):
        arguments = [_argument(item, b, wide) for item in args]
        options = {key: _argument(item, b, wide) for key, item in kwargs.items()}
        try:
            with torch.no_grad():
                outcome = target(*arguments, **options)
            break
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            if not wide:
                raise Unsupported(f"constants that torch cannot evaluate: {error}") from error
    tensors = list(outcome) if isinstance(outcome, list | tuple) else [outcome]
    values = [b.exactly(_widened(tensor), dtype_of(fake)) for tensor, fake in zip(tensors, fakes, strict=True)]
    return values if isinstance(outcome, list | tuple) else values[0]


def _filled(node: FxNode, read: Callable[[Any], Any], b: Builder, fake: torch.Tensor) -> ir.Value:
    """The result of an operator in `_FILLED`."""
    number = _FILLED[name_of(node)]
    if number is None:
        position = {"full_like": 1, "new_full": 2}[name_of(node)]
        number = read(node.args[position] if len(node.args) > position else node.kwargs["fill_value"])
    return b.exactly(torch.full(tuple(fake.shape), number, dtype=fake.dtype), dtype_of(fake))


def _argument(item: Any, b: Builder, wide: bool) -> Any:
    """An argument with copies of constants, as the operator may write to them: in float64 or, not wide, in their dtype.

    A device among the arguments becomes the CPU, where the constants are.
    """
    if isinstance(item, ir.Value):
        constant = b.exact[item].detach().cpu().clone()
        return _widened(constant) if wide else constant.to(torch_dtype(item.dtype))
    if isinstance(item, list | tuple):
        return [_argument(element, b, wide) for element in item]
    if isinstance(item, torch.device):
        return torch.device("cpu")
    return torch.float64 if wide and isinstance(item, torch.dtype) and item.is_floating_point else item


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _tensors(arguments: Mapping[Any, Any]) -> list[ir.Value]:
    return [leaf for leaf in pytree.tree_leaves(list(arguments.values())) if isinstance(leaf, ir.Value)]
