"""Functions with steps: signs, remainders, tests for infinities and what is no number, shrinkage."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import per_element, read
from edgeconv.emit.tflite.lower._operators.elementwise import magnitude, operands

_BOOL = np.dtype(np.bool_)


def _sign(low: Lowering, x: Tensor) -> Tensor:
    """(x > 0) - (x < 0), since SIGN is younger than the oldest runtime."""
    zero = low.graph.constant(np.zeros(1, x.dtype), f"{low.base}/zero")
    above, below = (
        low.emit("CAST", [low.emit(code, [x, zero], x.shape, dtype=_BOOL)], x.shape, dtype=x.dtype)
        for code in ("GREATER", "LESS")
    )
    return low.emit("SUB", [above, below], x.shape)


def modulo(low: Lowering, node: ir.Node) -> None:
    """Mod: with the sign of the divisor FLOOR_MOD, with that of the dividend (``fmod``) made of it.

    Of int32 what a quotient leaves: the microcontrollers' FLOOR_MOD takes floats only.
    """
    (x, divisor), form, shape = operands(low, node)
    if x.dtype == np.int32:
        low.bind(node.outputs[0], form, _left(low, x, divisor, shape, floored=not node.attributes.get_int("fmod", 0)))
        return
    remainder = low.emit("FLOOR_MOD", [x, divisor], shape)
    if node.attributes.get_int("fmod", 0) and x.dtype.kind == "i":
        remainder = integer_remainder(low, x, divisor, remainder)
    elif node.attributes.get_int("fmod", 0) and x.dtype.kind == "f":
        # Of magnitudes, both remainders are the same.
        sizes = [magnitude(low, number) for number in (x, divisor)]
        remainder = low.emit("MUL", [_sign(low, x), low.emit("FLOOR_MOD", sizes, shape)], shape)
    low.bind(node.outputs[0], form, remainder)


def _left(low: Lowering, x: Tensor, divisor: Tensor, shape: tuple[int, ...], *, floored: bool) -> Tensor:
    """What DIV, which rounds towards zero, leaves of int32; `floored`: one divisor more, where the signs differ."""
    product = low.emit("MUL", [low.emit("DIV", [x, divisor], shape), divisor], shape)
    rest = low.emit("SUB", [x, product], shape)
    if not floored:
        return rest
    # The rest has the dividend's sign. Where that is not the divisor's, and the rest is not 0, a divisor is added.
    zero = low.graph.constant(np.zeros(1, x.dtype), f"{low.base}/zero")
    below = low.emit("LESS", [rest, zero], shape, dtype=_BOOL)
    if divisor.data is None or not np.all(divisor.data > 0):
        negative = low.emit("LESS", [divisor, zero], divisor.shape, dtype=_BOOL)
        above = low.emit("GREATER", [rest, zero], shape, dtype=_BOOL)
        opposite = low.emit("LOGICAL_AND", [above, negative], shape, dtype=_BOOL)
        positive = low.emit("LOGICAL_NOT", [negative], divisor.shape, dtype=_BOOL)
        below = low.emit(
            "LOGICAL_OR", [opposite, low.emit("LOGICAL_AND", [below, positive], shape, dtype=_BOOL)], shape, dtype=_BOOL
        )
    more = low.emit("MUL", [low.emit("CAST", [below], shape, dtype=x.dtype), divisor], shape)
    return low.emit("ADD", [rest, more], shape)


def integer_remainder(low: Lowering, x: Tensor, divisor: Tensor, floored: Tensor) -> Tensor:
    """FLOOR_MOD's result, whose sign is the divisor's, with the sign of the dividend: one divisor off if they differ.

    Magnitudes would not do: the lowest integer has none.
    """
    zero, shape = low.graph.constant(np.zeros(1, x.dtype), f"{low.base}/zero"), floored.shape
    signs = [low.emit("LESS", [number, zero], number.shape, dtype=_BOOL) for number in (x, floored)]
    differ = low.emit("NOT_EQUAL", signs, shape, dtype=_BOOL)
    some = low.emit("NOT_EQUAL", [floored, zero], shape, dtype=_BOOL)
    back = low.emit("LOGICAL_AND", [differ, some], shape)
    return low.emit("SELECT_V2", [back, low.emit("SUB", [floored, divisor], shape), floored], shape, dtype=x.dtype)


def is_nan(low: Lowering, node: ir.Node) -> None:
    """IsNaN: only what is no number differs from itself."""
    x, form = read(low, node)
    low.bind(node.outputs[0], form, low.emit("NOT_EQUAL", [x, x], x.shape, dtype=_BOOL))


def is_inf(low: Lowering, node: ir.Node) -> None:
    """IsInf: what equals infinity, of either sign or of the one that is asked for."""
    x, form = read(low, node)
    signs = [node.attributes.get_int(name, 1) for name in ("detect_negative", "detect_positive")]
    if not any(signs):
        low.refuse("it looks for no sign of infinity")
    end = low.floats(np.inf if signs[1] else -np.inf)
    of = magnitude(low, x) if all(signs) else x
    low.bind(node.outputs[0], form, low.emit("EQUAL", [of, end], x.shape, dtype=_BOOL))


def shrink(low: Lowering, node: ir.Node) -> None:
    """Shrink: x - bias above lambd, x + bias below -lambd, zero between."""
    x, form = read(low, node)
    if x.dtype.kind != "f":
        low.refuse("it shrinks integers", hint="cast them to float32")
    reach, bias = node.attributes.get_float("lambd", 0.5), node.attributes.get_float("bias", 0.0)
    zero = low.floats(0.0)
    above = low.emit("GREATER", [x, low.floats(reach)], x.shape, dtype=_BOOL)
    below = low.emit("LESS", [x, low.floats(-reach)], x.shape, dtype=_BOOL)
    lower, upper = (low.emit(code, [x, low.floats(bias)], x.shape) for code in ("ADD", "SUB"))
    rest = low.emit("SELECT_V2", [below, lower, zero], x.shape, dtype=x.dtype)
    low.bind(node.outputs[0], form, low.emit("SELECT_V2", [above, upper, rest], x.shape, dtype=x.dtype))


def thresholded_relu(low: Lowering, node: ir.Node) -> None:
    """ThresholdedRelu: x above alpha, else zero."""
    x, form = read(low, node)
    above = low.emit("GREATER", [x, low.floats(node.attributes.get_float("alpha", 1.0))], x.shape, dtype=_BOOL)
    low.bind(node.outputs[0], form, low.emit("SELECT_V2", [above, x, low.floats(0.0)], x.shape, dtype=x.dtype))


LOWERINGS: dict[str, Lower] = {
    "Sign": per_element(_sign),
    "Mod": modulo,
    "IsInf": is_inf,
    "IsNaN": is_nan,
    "Shrink": shrink,
    "ThresholdedRelu": thresholded_relu,
}
