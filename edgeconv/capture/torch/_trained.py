"""Fake quantizations of quantization-aware training: of torch.ao, of torchao, and recorded in exported programs.

torch's ``FakeQuantize.forward`` branches on the values of its buffers (``observer_enabled``), which cannot be traced.
With the observer off it only rounds, so its forward is replaced by that rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from edgeconv.errors import CaptureError

Rounding = Callable[[torch.Tensor], torch.Tensor]
"""Quantizes and dequantizes a float tensor, with fixed parameters."""
_RECORDED = torch.ops.aten.fused_moving_avg_obs_fake_quant.default


def kinds(name: str) -> tuple[Any, ...]:
    """torch.ao's class of a name, and torchao's where that is imported: a copy, which is no subclass of torch.ao's."""
    from torch.ao import quantization

    file = "observer" if name == "ObserverBase" else "fake_quantize"
    torchao = sys.modules.get(f"torchao.quantization.pt2e.{file}")
    classes = (getattr(package, name, None) for package in (quantization, torchao))
    return tuple(kind for kind in classes if isinstance(kind, type))


@contextmanager
def frozen_quantization(module: torch.nn.Module) -> Iterator[None]:
    """Inside of the block, every fake quantization only rounds; `_unfit.check_fit` has refused those that observe.

    Observers beside them hand on what they get, as ever: torch's mapping for training gives PReLU's result one.
    """
    parts = [
        part for part in module.modules() if isinstance(part, (*kinds("FakeQuantizeBase"), *kinds("ObserverBase")))
    ]
    for part in parts:
        rounds = isinstance(part, kinds("FakeQuantizeBase"))
        vars(part)["forward"] = _rounding_of(part) if rounds else _handed_on
    try:
        yield
    finally:
        for part in parts:
            del vars(part)["forward"]


def _handed_on(x: torch.Tensor) -> torch.Tensor:
    return x


def _rounding_of(part: Any) -> Rounding:
    """The rounding of a fake quantization, with its present scale; none where it is switched off."""
    if not bool(part.fake_quant_enabled[0]):
        return _handed_on
    if is_learnable(part):
        return _learned(part)
    limits = part.activation_post_process.quant_min, part.activation_post_process.quant_max
    return rounding(part.scale, part.zero_point, part.ch_axis if part.is_per_channel else None, limits)


def is_learnable(part: Any) -> bool:
    """Whether it is a ``_LearnableFakeQuantize``, whose scale and zero point are parameters (LSQ)."""
    return hasattr(part, "static_enabled") and hasattr(part, "learning_enabled")


def _learned(part: Any) -> Rounding:
    """As its forward has it: the scale no smaller than its eps, the zero point rounded, or zero where symmetric."""
    limits = part.quant_min, part.quant_max
    scale, zero = part.scale.detach().clamp(min=float(part.eps)), part.zero_point.detach().round().clamp(*limits)
    if part.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric):
        zero = torch.zeros_like(zero)
    is_per_channel = part.qscheme in (torch.per_channel_symmetric, torch.per_channel_affine)
    return rounding(scale, zero, part.ch_axis if is_per_channel else None, limits)


def rounding(scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None, limits: tuple[int, int]) -> Rounding:
    """Fake quantization with these parameters.

    Args:
        scale: of one element, or of one per element of `axis`.
        zero_point: as many integers.
        axis: None for one scale, which is then a number of the graph.
        limits: the least and the greatest integer.
    """
    if axis is not None:
        zeros = zero_point.to(torch.int32)
        return lambda x: torch.fake_quantize_per_channel_affine(x, scale, zeros, axis, *limits)
    step, zero = float(scale), int(zero_point)
    return lambda x: torch.fake_quantize_per_tensor_affine(x, step, zero, *limits)


class FixedRounding(torch.nn.Module):
    """A fake quantization with parameters that nothing moves, which a rebuilt module has in place of integers.

    Attributes:
        scale: float32, of one element, or of one per element of `ch_axis`.
        zero_point: as many integers.
        ch_axis: of several scales; 0 of one.
        is_per_channel: whether there are several.
        quant_min: the least integer.
        quant_max: the greatest one.
    """

    def __init__(self, scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None, limits: tuple[int, int]):
        super().__init__()
        self.scale, self.zero_point = scale.detach().reshape(-1), zero_point.detach().reshape(-1)
        self.is_per_channel, self.ch_axis = axis is not None, axis or 0
        self.quant_min, self.quant_max = limits
        self._by = rounding(scale, zero_point, axis, limits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The rounded tensor."""
        return self._by(x)


def freeze_recorded(graph_module: torch.fx.GraphModule) -> None:
    """Replaces fake quantizations that observe as well (``fused_moving_avg_obs_fake_quant``) by plain ones.

    Raises:
        CaptureError: an observer is still on.
    """
    nodes = [node for node in graph_module.graph.nodes if node.target is _RECORDED]
    for node in nodes:
        x, observes, rounds, _, _, scale, zero, _, low, high, axis, *by_channel = node.args
        observing, rounding_on, scales, zeros = (
            _buffer(graph_module, read) for read in (observes, rounds, scale, zero)
        )
        if bool(observing.any()):
            what = "it records a fake quantization that still observes: every call moves its scale"
            hint = "call module.apply(torchao.quantization.pt2e.disable_observer) before torch.export.export"
            raise CaptureError(what, where="module", hint=hint)
        with graph_module.graph.inserting_before(node):
            if not bool(rounding_on.any()):
                plain = x
            elif by_channel and by_channel[0]:
                target = torch.ops.aten.fake_quantize_per_channel_affine.default
                plain = graph_module.graph.call_function(target, (x, scale, zero, axis, low, high))
            else:
                target = torch.ops.aten.fake_quantize_per_tensor_affine.default
                plain = graph_module.graph.call_function(target, (x, float(scales), int(zeros), low, high))
        node.replace_all_uses_with(plain)
        graph_module.graph.erase_node(node)
    if nodes:
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()


def _buffer(graph_module: torch.fx.GraphModule, node: torch.fx.Node) -> torch.Tensor:
    """The buffer that a node of a program's module reads."""
    item: Any = graph_module
    for name in str(node.target).split("."):
        item = getattr(item, name)
    return item  # type: ignore[no-any-return]
