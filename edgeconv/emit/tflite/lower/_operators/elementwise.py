"""Elementwise arithmetic with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import Form, first, last, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import per_element, read, unary


def binary(code: str, dtype: type[np.generic] | None = None) -> Lower:
    """A broadcasting operator of two inputs, whose result is of their type, or of that one."""

    def lower(low: Lowering, node: ir.Node) -> None:
        tensors, form, shape = operands(low, node)
        result = low.emit(code, tensors, shape, dtype=None if dtype is None else np.dtype(dtype))
        low.bind(node.outputs[0], form, result)

    return lower


def variadic(code: str) -> Lower:
    """Sum, Max or Min of any number of inputs, two by two."""

    def lower(low: Lowering, node: ir.Node) -> None:
        tensors, form, _ = operands(low, node)
        combined = tensors[0]
        for tensor in tensors[1:]:
            combined = low.emit(code, [combined, tensor], np.broadcast_shapes(combined.shape, tensor.shape))
        if len(tensors) == 1:
            low.alias(node.outputs[0], low.input(node))
        else:
            low.bind(node.outputs[0], form, combined)

    return lower


def operands(low: Lowering, node: ir.Node) -> tuple[list[Tensor], Form, tuple[int, ...]]:
    """The inputs of a broadcasting operator in one form, that form, and the shape of the result in it."""
    shape = low.shape(node.outputs[0])
    form = common_form(low, node.inputs, len(shape))
    return [operand(low, value, form) for value in node.inputs], form, permuted(shape, form)


def common_form(low: Lowering, values: Sequence[ir.Value | None], rank: int) -> Form:
    """The form of the result that costs the fewest transposes."""
    computed = [value for value in values if value is not None and low.array(value) is None]
    full = [value for value in computed if len(low.shape(value)) == rank]
    # Channels last where the costs are equal: the kernels of images want that.
    candidates = list(dict.fromkeys([last(4)] * (rank == 4) + [form for value in full for form in low.forms[value]]))
    existing = [form for form in candidates if any(form in low.forms[value] for value in full)]
    if not existing:
        return first(rank)

    def missing(form: Form) -> int:
        return sum(int(np.prod(low.shape(value))) for value in full if form not in low.forms[value])

    return min(existing, key=missing)


def operand(low: Lowering, value: ir.Value | None, form: Form) -> Tensor:
    """The value in the form of a result of higher or equal rank, ready to be broadcast."""
    value = low.required(value)
    rank, shape = len(form), low.shape(value)
    array = low.array(value)
    if array is not None:
        return low.graph.constant(aligned(array, form), value.name or "constant", low.scale_of(value))
    if len(shape) == rank:
        return low.tensor(value, form)
    if form == first(rank):
        return low.tensor(value, first(len(shape)))
    # Of a lower rank and not in torch's order: given all axes first, it can be transposed like the result.
    padded = (1,) * (rank - len(shape)) + shape
    tensor = low.reshape(low.tensor(value, first(len(shape))), padded, f"{value.name}/padded")
    return low.transpose(tensor, form, f"{value.name}/aligned")


def aligned(array: Array, form: Form) -> Array:
    """A constant in the form of a result, its leading axes of size 1 dropped; never of rank 0."""
    array = array.reshape((1,) * (len(form) - array.ndim) + array.shape).transpose(form)
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return np.atleast_1d(array)


def prelu(low: Lowering, node: ir.Node) -> None:
    """PRelu; the slope is permuted with the input, and one that is computed multiplies what is below zero.

    A shared slope is written once per channel: XNNPACK in TensorFlow Lite 2.14 computes a slope of one element wrongly.
    """
    x, form = read(low, node)
    if low.array(low.input(node, 1)) is None and not low.integer:
        _sloped(low, node, x, form, operand(low, node.inputs[1], form))
        return
    slope = low.constant(node.inputs[1], "slope")
    # ONNX lets a slope have leading axes of size 1 beyond the input's.
    slope = slope.reshape(slope.shape[slope.ndim - len(form) :] if slope.ndim > len(form) else slope.shape)
    full = slope.reshape((1,) * (len(form) - slope.ndim) + slope.shape).transpose(form)
    if full.ndim and full.shape[-1] == 1:
        full = np.broadcast_to(full, (*full.shape[:-1], x.shape[-1]))
    name = low.input(node, 1).name or ""
    if not full.ndim or full.shape[0] != 1:  # PRELU has no number alone, nor a slope of its own for each image
        _sloped(low, node, x, form, low.floats(full, name))
        return
    constant = low.graph.constant(full.reshape(full.shape[1:]).astype(np.float32), name, low.scale_of(node.inputs[1]))
    low.bind(node.outputs[0], form, low.emit("PRELU", [x, constant], x.shape))


def _sloped(low: Lowering, node: ir.Node, x: Tensor, form: Form, slope: Tensor) -> None:
    below = low.emit("MINIMUM", [x, low.floats(0.0)], x.shape)
    parts = [low.emit("RELU", [x], x.shape), low.emit("MUL", [below, slope], x.shape)]
    low.bind(node.outputs[0], form, low.emit("ADD", parts, x.shape))


def power(low: Lowering, node: ir.Node) -> None:
    """Pow; small constant exponents as products and roots, which are exact and which delegates take."""
    exponent = low.array(node.inputs[1])
    value = None if exponent is None or exponent.size != 1 else float(exponent.reshape(()))
    if value not in _POWERS and value != _THREE_QUARTERS:
        _any_power(low, node)
        return
    x, form = read(low, node)
    if value == _THREE_QUARTERS:
        root = low.emit("SQRT", [x], x.shape)
        low.bind(node.outputs[0], form, low.emit("MUL", [root, low.emit("SQRT", [root], x.shape)], x.shape))
        return
    result = x
    for code in _POWERS[value]:
        if code == "SQUARE" and not np.issubdtype(x.dtype, np.floating):
            result = low.emit("MUL", [result, result], x.shape)  # the kernels of SQUARE take no integers
        else:
            result = low.emit(code, [result] if code != "MUL" else [result, x], x.shape)
    if result is x:
        low.alias(node.outputs[0], low.input(node))
    else:
        low.bind(node.outputs[0], form, result)


def _any_power(low: Lowering, node: ir.Node) -> None:
    """POW, whose operands have one element type, where ONNX lets the exponent have another."""
    (base, exponent), form, shape = operands(low, node)
    kind = low.dtype(node.outputs[0])
    together = kind if exponent.dtype.kind != "f" else np.dtype(np.float32)
    result = low.emit("POW", [converted(low, tensor, together) for tensor in (base, exponent)], shape)
    low.bind(node.outputs[0], form, converted(low, result, kind))


def converted(low: Lowering, tensor: Tensor, kind: np.dtype[Any]) -> Tensor:
    """The tensor in another element type."""
    if tensor.dtype == kind:
        return tensor
    if tensor.data is not None:
        return low.graph.constant(tensor.data.astype(kind), tensor.name)
    return low.emit("CAST", [tensor], tensor.shape, dtype=kind)


_THREE_QUARTERS = 0.75  # LocalResponseNorm's exponent
# XNNPACK's delegate takes these, and no POW (VisitNode in delegates/xnnpack/xnnpack_delegate.cc).
_POWERS: dict[float | None, tuple[str, ...]] = {
    0.5: ("SQRT",),
    -0.5: ("RSQRT",),
    1.0: (),
    2.0: ("SQUARE",),
    3.0: ("SQUARE", "MUL"),
    4.0: ("SQUARE", "SQUARE"),
    0.25: ("SQRT", "SQRT"),
}


def reciprocal(low: Lowering, node: ir.Node) -> None:
    """Reciprocal 1 / x."""
    x, form = read(low, node)
    low.bind(node.outputs[0], form, low.emit("DIV", [low.floats(1.0), x], x.shape))


def magnitude(low: Lowering, x: Tensor) -> Tensor:
    """|x|; of integers max(x, -x): ABS takes no int64, and int32 only since version 5, which not every runtime has."""
    if np.issubdtype(x.dtype, np.floating):
        return low.emit("ABS", [x], x.shape)
    if x.dtype.kind == "u":
        return x
    return low.emit("MAXIMUM", [x, opposite(low, x)], x.shape)


def opposite(low: Lowering, x: Tensor) -> Tensor:
    """-x; of int32 0 - x, since the microcontrollers' NEG takes floats only."""
    if x.dtype != np.int32:
        return low.emit("NEG", [x], x.shape)
    return low.emit("SUB", [low.graph.constant(np.zeros(1, x.dtype), f"{low.base}/zero"), x], x.shape)


def quotient(low: Lowering, node: ir.Node) -> None:
    """Div; by a constant it is a product with the reciprocal in integers, since DIV has no int8 kernel."""
    divisor = low.array(node.inputs[1])
    if not low.integer or divisor is None or not np.issubdtype(divisor.dtype, np.floating) or not np.all(divisor):
        binary("DIV")(low, node)
        return
    form = common_form(low, node.inputs, len(low.shape(node.outputs[0])))
    factor = low.floats(1.0 / aligned(divisor.astype(np.float64), form), f"{low.base}/reciprocal")
    shape = permuted(low.shape(node.outputs[0]), form)
    low.bind(node.outputs[0], form, low.emit("MUL", [operand(low, node.inputs[0], form), factor], shape))


def negative(low: Lowering, node: ir.Node) -> None:
    """Neg; in integers 0 - x, since NEG has no int8 kernel."""
    x, form = read(low, node)
    is_quantized = low.integer and x.dtype == np.float32
    result = low.emit("SUB", [low.floats(0.0), x], x.shape) if is_quantized else opposite(low, x)
    low.bind(node.outputs[0], form, result)


def where(low: Lowering, node: ir.Node) -> None:
    """Where, with broadcasting."""
    (condition, a, b), form, shape = operands(low, node)
    low.bind(node.outputs[0], form, low.emit("SELECT_V2", [condition, a, b], shape, dtype=a.dtype))


def cast(low: Lowering, node: ir.Node) -> None:
    """Cast; nothing when the element type stays.

    Floats become narrow integers by way of int32, as torch and onnxruntime have it: of what is out of range the lower
    bits are left, where the kernel's own cast leaves it to the processor.
    """
    x, form = read(low, node)
    target = low.dtype(node.outputs[0])
    if x.dtype.kind == "f" and target.kind in "iu" and target.itemsize < 4 and x.data is None:
        x = low.emit("CAST", [x], x.shape, dtype=np.dtype(np.int32))
    if target == x.dtype:
        low.alias(node.outputs[0], low.input(node))
    else:
        low.bind(node.outputs[0], form, low.emit("CAST", [x], x.shape, dtype=target))


LOWERINGS: dict[str, Lower] = {
    "PRelu": prelu,
    "Add": binary("ADD"),
    "Sub": binary("SUB"),
    "Mul": binary("MUL"),
    "Max": variadic("MAXIMUM"),
    "Min": variadic("MINIMUM"),
    "Sum": variadic("ADD"),
    "Greater": binary("GREATER", np.bool_),
    "GreaterOrEqual": binary("GREATER_EQUAL", np.bool_),
    "Less": binary("LESS", np.bool_),
    "LessOrEqual": binary("LESS_EQUAL", np.bool_),
    "Equal": binary("EQUAL", np.bool_),
    "And": binary("LOGICAL_AND"),
    "Or": binary("LOGICAL_OR"),
    "Xor": binary("NOT_EQUAL", np.bool_),
    "Not": unary("LOGICAL_NOT"),
    "Where": where,
    "Cast": cast,
    "CastLike": cast,
    "Abs": per_element(magnitude),
    "Neg": negative,
    "Sqrt": unary("SQRT"),
    "Exp": unary("EXP"),
    "Log": unary("LOG"),
    "Floor": unary("FLOOR"),
    "Ceil": unary("CEIL"),
    "Round": unary("ROUND"),
    "Sin": unary("SIN"),
    "Cos": unary("COS"),
    "Reciprocal": reciprocal,
}
