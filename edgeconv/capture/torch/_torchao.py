"""Rebuilds linear layers whose weights torchao holds as integers, and finds weights that are rounded by themselves.

``torchao.quantize_`` replaces a weight by a tensor that holds integers, their scales and perhaps a scale of what the
layer reads. With such a scale the layer rounds by fixed numbers and becomes a linear layer between fake quantizations.
One whose weight alone is of integers computes in floats, and is traced as it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture.torch._aten.quantization import TABLE as ROUNDINGS
from edgeconv.capture.torch._trained import FixedRounding
from edgeconv.errors import CaptureError

_TRAINED = "torchao.quantization.qat."
_INT8, _INT7 = (-128, 127), (-64, 63)  # torchao's limits, and those of its ``reduce_range``
_FLOAT = "export the float module that it was made of, and have edgeconv quantize it: int8 is one of its variants"


class _Linear(nn.Module):
    """A linear layer that rounds what it reads, and its weight.

    Args:
        part: the layer, with a weight of torchao.
        where: its path, for messages.
    """

    weight: Tensor
    bias: Tensor | None
    pre_scale: Tensor | None

    def __init__(self, part: nn.Linear, where: str) -> None:
        super().__init__()
        held: Any = part.weight
        self.register_buffer("weight", held.dequantize().float())
        self.register_buffer("bias", None if part.bias is None else part.bias.detach())
        self.register_buffer("pre_scale", held.act_pre_scale)
        self.weight_fake_quant = _rounding_of_weight(held, where)
        self.input_fake_quant = _rounding_of_input(held, where)

    def forward(self, x: Tensor) -> Tensor:
        """The product with the rounded weight, which nothing rounds."""
        scaled = x if self.pre_scale is None else x * self.pre_scale
        return functional.linear(self.input_fake_quant(scaled), self.weight_fake_quant(self.weight), self.bias)


def rounds_its_input(part: nn.Module) -> bool:
    """Whether a layer multiplies integers of torchao, of which those that it reads have a fixed scale."""
    return isinstance(part, nn.Linear) and getattr(part.weight, "act_quant_scale", None) is not None


def as_float_linear(part: Any, where: str) -> nn.Module:
    """The layer of floats that rounds as one does of which `rounds_its_input` holds.

    Raises:
        CaptureError: it has scales of rows or blocks.
    """
    return _Linear(part, where)


def rounded_weights(module: nn.Module, program: torch.export.ExportedProgram) -> int:
    """The number of weights that a module rounds or holds as integers, with scales that its activations have not."""
    traced = sum(str(node.target) in ROUNDINGS for node in program.graph.nodes)
    held = sum(hasattr(weight, "qdata") for weight in module.parameters())
    return max(traced, held) + sum(map(_rounds_a_weight, module.modules()))


def _rounds_a_weight(part: nn.Module) -> bool:
    """Whether it is a quantizer of torchao's training, or what holds the integers of a weight that was unwrapped."""
    kind = type(part)
    is_quantizer = kind.__module__.startswith(_TRAINED) and bool(getattr(part, "enabled", False))
    return is_quantizer or (kind.__module__ == "torchao.utils" and kind.__name__ == "UnwrapTensorSubclass")


def _rounding_of_weight(held: Any, where: str) -> FixedRounding:
    divided = [
        axis for axis, (block, size) in enumerate(zip(held.block_size, held.shape, strict=True)) if block != size
    ]
    if divided not in ([], [0]) or (divided and held.block_size[0] != 1):
        what = f"its weight has scales of blocks of {'x'.join(map(str, held.block_size))}"
        raise CaptureError(what, where=where, hint="quantize it with PerRow() or PerTensor(), or " + _FLOAT)
    scale = held.scale.detach().reshape(-1).float()
    zero = torch.zeros_like(scale) if held.zero_point is None else held.zero_point.detach().reshape(-1)
    return FixedRounding(scale, zero, 0 if divided else None, _INT8)


def _rounding_of_input(held: Any, where: str) -> FixedRounding:
    scale, zero = held.act_quant_scale, held.act_quant_zero_point
    if math.prod(scale.shape) != 1:
        what = f"what it reads has {math.prod(scale.shape)} scales, and files have one"
        raise CaptureError(what, where=where, hint="quantize it with PerTensor() for activations, or " + _FLOAT)
    limits = _INT7 if getattr(held.act_quant_kwargs, "reduce_range", False) else _INT8
    point = torch.zeros(1) if zero is None else zero.detach().reshape(-1)
    return FixedRounding(scale.detach().reshape(-1).float(), point, None, limits)
