"""What the nodes of a traced program say of their operators."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node as FxNode


def name_of(node: FxNode) -> str:
    """The name of an operator without namespace and overload; empty for what is none of torch's."""
    return str(getattr(node.target, "_opname", ""))


def writes(node: FxNode) -> bool:
    """Whether the operator changes one of its arguments in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def copied(leaf: Any) -> Any:
    """A tensor of the same numbers, whatever is written to the first; other values as they are."""
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
