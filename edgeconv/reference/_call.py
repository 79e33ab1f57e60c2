"""A node with the torch tensors of its inputs, which is the argument of every operator's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from edgeconv.reference._operands import Operands

Tensor = torch.Tensor
# A value of a graph: a tensor, or (SplitToSequence and its like) a list of them.
Value = Tensor | list[Tensor]
# What an operator returns: its only output, or all that the node may ask for, in their order.
Result = Value | tuple[Value, ...]


@dataclass(frozen=True)
class Call(Operands[Tensor]):
    """One node, with the values of its inputs; see `Operands`."""


Operator = Callable[[Call], Result]


def each(function: Callable[[Tensor], Tensor]) -> Operator:
    """An operator of one input and no attributes."""
    return lambda call: function(call[0])


def pair(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of two inputs that broadcast, and no attributes."""
    return lambda call: function(call[0], call[1])
