"""Activations of one input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import Form, first, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering


def unary(code: str) -> Lower:
    """An operator that TFLite has as it is, whatever the form."""
    return per_element(lambda low, x: low.emit(code, [x], x.shape))


def per_element(function: Callable[[Lowering, Tensor], Tensor]) -> Lower:
    """A function of each element by itself: the result has the form of the operand."""

    def lower(low: Lowering, node: ir.Node) -> None:
        x, form = read(low, node)
        low.bind(node.outputs[0], form, function(low, x))

    return lower


def read(low: Lowering, node: ir.Node) -> tuple[Tensor, Form]:
    """The first input in its best form."""
    return in_best_form(low, low.input(node))


def in_best_form(low: Lowering, value: ir.Value) -> tuple[Tensor, Form]:
    """The tensor of a value that costs no TRANSPOSE, and its form."""
    form = low.form(value)
    return low.tensor(value, form), form


def relu(low: Lowering, node: ir.Node) -> None:
    """Relu; of integers a MAXIMUM, since the kernels of RELU take none."""
    x, form = read(low, node)
    low.bind(node.outputs[0], form, clipped(low, x, 0.0, math.inf))


def leaky_relu(low: Lowering, node: ir.Node) -> None:
    """LeakyRelu(alpha)."""
    x, form = read(low, node)
    alpha = node.attributes.get_float("alpha", 0.01)
    low.bind(node.outputs[0], form, low.emit("LEAKY_RELU", [x], x.shape, alpha=alpha))


def clip(low: Lowering, node: ir.Node) -> None:
    """Clip to the activation that TFLite has for these bounds, else MAXIMUM and then MINIMUM.

    The upper bound holds where the two cross. A bound may be computed.
    """
    x, form = read(low, node)
    lower, upper = (*node.inputs[1:], None, None)[:2]
    arrays = [None if value is None else low.array(value) for value in (lower, upper)]
    is_computed = any((value is None) != (array is None) for value, array in zip((lower, upper), arrays, strict=True))
    if x.dtype == np.float32 and not is_computed:
        x = clipped(low, x, _finite(low, arrays[0], -1), _finite(low, arrays[1], 1))
    else:
        # ONNX, Clip: where min is above max, every element becomes max.
        x = _bounded(low, _bounded(low, x, "MAXIMUM", lower), "MINIMUM", upper)
    low.bind(node.outputs[0], form, x)


def _finite(low: Lowering, array: Array | None, sign: int) -> float:
    """A bound; infinite where there is none, or, of integers, one beyond half of float32's range: it bounds nothing."""
    bound = math.inf * sign if array is None else float(array.reshape(-1)[0])
    return math.inf * sign if low.integer and bound * sign > np.finfo(np.float32).max / 2 else bound


def _bounded(low: Lowering, x: Tensor, code: str, value: ir.Value | None) -> Tensor:
    """The larger (or smaller) of each element and a bound, of any element type; one at the type's end costs nothing."""
    if value is None:
        return x
    array = low.array(value)
    if array is None:
        bound = low.reshape(low.tensor(value, first(len(low.shape(value)))), (1,), f"{low.base}/bound")
        return low.emit(code, [x, bound], x.shape)
    info = np.iinfo(x.dtype) if x.dtype.kind in "iu" else np.finfo(np.float32)
    end = info.min if code == "MAXIMUM" else info.max
    if array.reshape(-1)[0] == end:
        return x
    return low.emit(code, [x, low.graph.constant(array.reshape(-1)[:1].astype(x.dtype), f"{low.base}/bound")], x.shape)


# The clamps that are fused activations, too (ActivationFunctionType of the schema).
_CLIPS = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, math.inf): "RELU"}


def clipped(low: Lowering, x: Tensor, lowest: float, highest: float) -> Tensor:
    """min(max(x, lowest), highest); infinite bounds cost nothing."""
    if (lowest, highest) in _CLIPS and x.dtype == np.float32:
        return low.emit(_CLIPS[lowest, highest], [x], x.shape)
    # RELU can become the activation of the layer before (ActivationFunctionType of the schema), and MAXIMUM cannot.
    if lowest == 0.0 and x.dtype == np.float32:
        x, lowest = low.emit("RELU", [x], x.shape), -math.inf
    for code, bound in (("MAXIMUM", lowest), ("MINIMUM", highest)):
        if math.isfinite(bound):
            constant = low.graph.constant(np.array([bound], x.dtype), f"{low.base}/bound")
            x = low.emit(code, [x, constant], x.shape)
    return x


def hard_sigmoid(low: Lowering, node: ir.Node) -> None:
    """HardSigmoid max(0, min(1, alpha·x + beta)) as relu6(6·alpha·x + 6·beta) / 6."""
    x, form = read(low, node)
    alpha = node.attributes.get_float("alpha", 0.2)
    beta = node.attributes.get_float("beta", 0.5)
    # The attribute holds torch's 1/6 in float32: six times that is 1 but for 3e-8. Paddle's 0.1666667 is no sixth.
    if abs(6 * alpha - 1) > 1e-7:
        x = times(low, x, 6 * alpha)
    shifted = low.emit("ADD", [x, low.floats(6 * beta)], x.shape)
    # RELU6 becomes the activation of this ADD; a clamp to 0 and 1 could not (ActivationFunctionType of the schema).
    six = low.emit("RELU6", [shifted], x.shape)
    low.bind(node.outputs[0], form, low.emit("MUL", [six, low.floats(1 / 6)], x.shape))


def mish(low: Lowering, x: Tensor) -> Tensor:
    """Mish x·tanh(ln(1 + eˣ)).

    With p = sigmoid(x) and u = p·(2 - p), tanh(ln(1 + eˣ)) = u / (2 - u): no exponential that could overflow, and no
    cancellation for negative x.
    """
    p = low.emit("LOGISTIC", [x], x.shape)
    two = low.floats(2.0)
    u = low.emit("MUL", [p, low.emit("SUB", [two, p], x.shape)], x.shape)
    gate = low.emit("DIV", [u, low.emit("SUB", [two, u], x.shape)], x.shape)
    return low.emit("MUL", [x, gate], x.shape)


def softsign(low: Lowering, x: Tensor) -> Tensor:
    """Softsign x / (1 + |x|)."""
    below = low.emit("ADD", [low.emit("ABS", [x], x.shape), low.floats(1.0)], x.shape)
    return low.emit("DIV", [x, below], x.shape)


def times(low: Lowering, x: Tensor, factor: float) -> Tensor:
    """A multiple; the tensor itself when the factor is 1."""
    return x if factor == 1 else low.emit("MUL", [x, low.floats(factor)], x.shape)


def gelu(low: Lowering, node: ir.Node) -> None:
    """Gelu, by the error function or by tanh."""
    x, form = read(low, node)
    tanh = node.attributes.get_string("approximate", "none") == "tanh"
    low.bind(node.outputs[0], form, low.emit("GELU", [x], x.shape, approximate=tanh))


def gelu_of(low: Lowering, value: ir.Value, result: ir.Value, *, tanh: bool) -> None:
    """Gelu of a value, by tanh or by the error function, for a group of nodes that spell it out."""
    x, form = in_best_form(low, value)
    low.bind(result, form, low.emit("GELU", [x], x.shape, approximate=tanh))


def softmax(code: str) -> Lower:
    """Softmax or LogSoftmax over one axis, which TFLite wants to lie last."""

    def lower(low: Lowering, node: ir.Node) -> None:
        value = low.input(node)
        rank = len(low.shape(value))
        axis = node.attributes.get_int("axis", -1) % rank
        form = low.form(value)
        # Both kernels run over the last axis: trailing_dim in kernels/internal/reference/softmax.h and log_softmax.h.
        if form[-1] != axis:
            # A form with that axis last that somebody has made already costs no TRANSPOSE.
            existing = [candidate for candidate in low.forms.get(value, {}) if candidate[-1] == axis]
            form = existing[0] if existing else (*(other for other in form if other != axis), axis)
        x = low.tensor(value, form)
        options = {"beta": 1.0} if code == "SOFTMAX" else {}
        low.bind(node.outputs[0], form, low.emit(code, [x], permuted(low.shape(value), form), **options))

    return lower


def identity(low: Lowering, node: ir.Node) -> None:
    """Identity, and Dropout out of training."""
    low.alias(node.outputs[0], low.input(node))


LOWERINGS: dict[str, Lower] = {
    "Relu": relu,
    "Sigmoid": unary("LOGISTIC"),
    "Tanh": unary("TANH"),
    "LeakyRelu": leaky_relu,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary("HARD_SWISH"),
    "Mish": per_element(mish),
    "Softsign": per_element(softsign),
    "Gelu": gelu,
    "Softmax": softmax("SOFTMAX"),
    "LogSoftmax": softmax("LOG_SOFTMAX"),
    "Identity": identity,
    "Dropout": identity,
}
