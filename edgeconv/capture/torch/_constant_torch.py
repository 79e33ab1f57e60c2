"""What depends on constants only is computed by torch itself, in float64, and rounded once where a node takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._builder import Builder, Result, Unsupported, dtype_of, torch_dtype
from edgeconv.capture.torch._operation import name_of

# Operators that take nothing but a shape from their tensor, with what they fill it with; nobody may read what is in
# an empty tensor before it is written, so that zeros are as good as anything.
_FILLED: Mapping[str, float | None] = {
    "zeros_like": 0, "new_zeros": 0, "ones_like": 1, "new_ones": 1, "full_like": None, "new_full": None, "empty": 0,
    "empty_like": 0, "new_empty": 0, "empty_strided": 0, "new_empty_strided": 0, "empty_permuted": 0,
}  # fmt: skip


def is_constant_operator(node: FxNode, arguments: Mapping[str, Any], b: Builder) -> bool:
    """Whether nothing that is known only at run time goes into the operator: no tensor, and no random numbers."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    if name_of(node) in _FILLED:
        return not isinstance(arguments.get("fill_value"), ir.Value)
    return all(value in b.exact for value in _tensors(arguments))


def evaluate(node: FxNode, read: Callable[[Any], Any], b: Builder, fakes: list[torch.Tensor]) -> Result:
    """The results of an operator on constants."""
    target = node.target
    if name_of(node) in _FILLED:
        return _filled(node, read, b, fakes[0])
    args, kwargs = read(list(node.args)), {key: read(item) for key, item in node.kwargs.items()}
    if not callable(target):
        raise Unsupported("not an operator")
    # What makes a tensor out of numbers does so in its own dtype; so does an operator that has no float64.
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
    number = _FILLED[name_of(node)]
    if number is None:
        position = {"full_like": 1, "new_full": 2}[name_of(node)]
        number = read(node.args[position] if len(node.args) > position else node.kwargs["fill_value"])
    return b.exactly(torch.full(tuple(fake.shape), number, dtype=fake.dtype), dtype_of(fake))


def _argument(item: Any, b: Builder, wide: bool) -> Any:
    """Copies of constants on the CPU, as the operator may write to them: floats in float64 or, not wide, in float32."""
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
