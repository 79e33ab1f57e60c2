"""Nodes that compute ``y = scale[c] * x + shift[c]`` along one axis: BatchNormalization, arithmetic with constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import Float64, exact
from edgeconv.graph.edit import is_taken
from edgeconv.graph.near_zero import holds_one


@dataclass(frozen=True)
class Affine:
    """``y = scale * x + shift``, per channel.

    Attributes:
        node: the node that does it.
        source: x.
        axis: the channel axis; None if ``scale`` and ``shift`` are single numbers, which hold along every axis.
        scale: float64, [C] or [1].
        shift: float64, [C] or [1].
    """

    node: ir.Node
    source: ir.Value
    axis: int | None
    scale: Float64
    shift: Float64

    @property
    def result(self) -> ir.Value:
        """y."""
        return self.node.outputs[0]

    def along(self, axis: int, channels: int) -> tuple[Float64, Float64] | None:
        """Scale and shift, [channels] each, if the map is along ``axis``; else None."""
        if self.axis not in (None, axis) or self.scale.size not in (1, channels):
            return None
        return np.broadcast_to(self.scale, (channels,)), np.broadcast_to(self.shift, (channels,))


def affine(node: ir.Node) -> Affine | None:
    """Reads a node as an affine map with constant coefficients; None when it is not one."""
    reader = _READERS.get(node.op_type)
    return reader(node) if reader is not None and node.domain == "" else None


def batch_normalization(node: ir.Node) -> Affine | None:
    """An inference-mode BatchNormalization, by the formula of its ONNX operator specification.

    ``scale = gamma / sqrt(var + epsilon)``, ``shift = beta - mean * scale``. In training mode, or where its running
    statistics are used as outputs, it is not affine.
    """
    source = node.inputs[0]
    statistics = [exact(value) for value in node.inputs[1:5]]
    training = node.attributes.get_int("training_mode", 0) != 0
    if source is None or training or any(map(is_taken, node.outputs[1:])):
        return None
    # A node of a broken file may lack some of the four.
    gamma, beta, mean, variance = (*statistics, None, None, None, None)[:4]
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    # Where var + epsilon is 0 or below, `_finite` refuses the map, and the node stays as it is.
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return _finite(Affine(node, source, 1, scale, beta - mean * scale))


def _arithmetic(node: ir.Node) -> Affine | None:
    """Add, Sub, Mul or Div with one constant operand that has one number per channel, or a single one.

    The 1 of ln(1 + x) and of exp(x) - 1 is no shift: merged with another one and rounded, it would lose a small x.
    """
    left, right = node.inputs
    constants = exact(left), exact(right)
    # Two constants are left to constant folding; two variables are no map.
    if (constants[0] is None) == (constants[1] is None):
        return None
    constant_first = constants[0] is not None
    constant = constants[0] if constants[0] is not None else constants[1]
    source = right if constant_first else left
    if constant is None or source is None or source.shape is None or holds_one(node):
        return None
    channels = _channels(constant, source.shape)
    coefficients = _COEFFICIENTS.get((node.op_type, constant_first))
    if channels is None or coefficients is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        scale, shift = coefficients(channels[1])
    return _finite(Affine(node, source, channels[0], scale, shift))


def _channels(constant: Float64, shape: ir.Shape) -> tuple[int | None, Float64] | None:
    """The axis of x along which a broadcast constant varies, and its numbers; None if it would also enlarge x."""
    # A constant of more axes adds axes to the result.
    if constant.ndim > len(shape):
        return None
    wide = [axis for axis, size in enumerate(constant.shape) if size != 1]
    if not wide:
        return None, constant.reshape(1)
    axis = wide[0] + len(shape) - constant.ndim
    if len(wide) > 1 or shape[axis] != constant.size:
        return None
    return axis, constant.reshape(-1)


def _finite(candidate: Affine) -> Affine | None:
    return candidate if np.isfinite(candidate.scale).all() and np.isfinite(candidate.shift).all() else None


# (operator, the constant is its first operand) -> constant c -> (scale, shift). c / x is not affine.
_COEFFICIENTS: dict[tuple[str, bool], Callable[[Float64], tuple[Float64, Float64]]] = {
    ("Add", False): lambda c: (np.ones_like(c), c),
    ("Add", True): lambda c: (np.ones_like(c), c),
    ("Sub", False): lambda c: (np.ones_like(c), -c),
    ("Sub", True): lambda c: (-np.ones_like(c), c),
    ("Mul", False): lambda c: (c, np.zeros_like(c)),
    ("Mul", True): lambda c: (c, np.zeros_like(c)),
    ("Div", False): lambda c: (1.0 / c, np.zeros_like(c)),
}

_READERS: dict[str, Callable[[ir.Node], Affine | None]] = {
    "BatchNormalization": batch_normalization,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
}
