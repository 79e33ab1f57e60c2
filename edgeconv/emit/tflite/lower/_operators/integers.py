"""Arithmetic of integers that TFLite's kernels do not have: quotients and powers of int64, products of matrices.

DIV, POW and BATCH_MATMUL take no int64, on any runtime, and what int32 makes of a number beyond 2³¹ is another one.
ADD, SUB, MUL, FLOOR_MOD, SUM, the comparisons and CAST take it: of these the others are made, exactly.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import first, permuted
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators import elementwise, linear
from edgeconv.emit.tflite.lower._operators.activation import per_element
from edgeconv.emit.tflite.lower._operators.elementwise import aligned, common_form, converted, operand, operands
from edgeconv.emit.tflite.lower._operators.piecewise import integer_remainder
from edgeconv.graph.traits import Trait, having

_FLOAT, _INT32, _INT64, _BOOL = (np.dtype(kind) for kind in (np.float32, np.int32, np.int64, np.bool_))
_STEPS = 3  # of 22 bits and more, in which a quotient of 63 bits is found
_BITS = 64  # of an int64, the sign among them
_EXPONENT_BITS = 6  # of the largest power of 2 in 63 bits
_INDICES = having(Trait.RANKS | Trait.REDUCES) | {"Shape", "Size"}


def quotient(low: Lowering, node: ir.Node) -> None:
    """Div of int64, towards zero: in int32 where both operands surely fit, else by steps.

    The dividend less its remainder is a multiple of the divisor. Its quotient in float32 is off by one part in 2²², and
    what the product leaves of the multiple is divided again; the last quotient, rounded, is exact.
    """
    if low.dtype(low.input(node)) != _INT64:
        elementwise.quotient(low, node)
        return
    (x, divisor), form, shape = operands(low, node)
    if all(_fits_int32(low, low.input(node, index)) for index in range(2)):
        narrow = low.emit("DIV", [converted(low, number, _INT32) for number in (x, divisor)], shape)
        low.bind(node.outputs[0], form, converted(low, narrow, _INT64))
        return
    remainder = integer_remainder(low, x, divisor, low.emit("FLOOR_MOD", [x, divisor], shape))
    # FLOOR_MOD has the divisor's sign; with the remainder of a division towards zero the rest is a multiple of it.
    rest = low.emit("SUB", [x, remainder], shape)
    size = low.emit("CAST", [divisor], divisor.shape, dtype=_FLOAT)
    parts: list[Tensor] = []
    for _ in range(_STEPS):
        if parts:
            rest = low.emit("SUB", [rest, low.emit("MUL", [parts[-1], divisor], shape)], shape)
        ratio = low.emit("DIV", [low.emit("CAST", [rest], shape, dtype=_FLOAT), size], shape)
        nearest = low.emit("FLOOR", [low.emit("ADD", [ratio, low.floats(0.5)], shape)], shape)
        parts.append(low.emit("CAST", [nearest], shape, dtype=_INT64))
    total = parts[0]
    for part in parts[1:]:
        total = low.emit("ADD", [total, part], shape)
    low.bind(node.outputs[0], form, total)


def _fits_int32(low: Lowering, value: ir.Value) -> bool:
    """Whether a value is surely within int32: a constant, an index, or what was one, moved or reckoned down."""
    array = low.array(value)
    if array is not None:
        limits = np.iinfo(np.int32)
        return not array.size or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)
    node = value.producer()
    if node is None:
        return False
    if node.op_type in _INDICES or (node.op_type == "TopK" and value is node.outputs[1]):
        return True
    if node.op_type == "Cast":
        kind = low.dtype(low.input(node))
        return kind == _BOOL or (kind.kind in "iu" and kind != _INT64)
    if node.op_type == "Mod":  # no further from 0 than the divisor
        return _fits_int32(low, low.input(node, 1))
    places = (
        range(len(node.inputs))
        if node.op_type == "Concat" or node.op_type in having(Trait.PICKS | Trait.BROADCASTS)
        else range(node.op_type in having(Trait.MOVES))
    )
    return bool(places) and all(_fits_int32(low, low.input(node, index)) for index in places)


def power(low: Lowering, node: ir.Node) -> None:
    """Pow of int64 to a power of integers: squares of the base, one for each bit of the exponent.

    Beyond 63, an exponent is taken for one that is as even or odd: only powers of 0, 1 and -1 still are numbers.
    """
    constant, fractions = low.array(node.inputs[1]), low.dtype(low.input(node, 1)).kind == "f"
    if low.dtype(low.input(node)) != _INT64:
        elementwise.power(low, node)
        return
    if (fractions and constant is None) or (constant is not None and np.any((constant < 0) | (constant % 1 != 0))):
        low.refuse("it may take integers to powers that are none", hint="cast them to float32")
    form = common_form(low, node.inputs, len(low.shape(node.outputs[0])))
    base, times = (converted(low, operand(low, value, form), _INT64) for value in node.inputs)
    most, shape = 2**_EXPONENT_BITS - 1, permuted(low.shape(node.outputs[0]), form)
    # 1. Exponents that the bits do not hold, by one that is as even or odd.
    odd = low.emit("FLOOR_MOD", [times, _whole(low, 2)], times.shape)
    beyond = low.emit("GREATER", [times, _whole(low, most)], times.shape, dtype=_BOOL)
    alike = low.emit("ADD", [odd, _whole(low, most - 1)], times.shape)
    times = low.emit("SELECT_V2", [beyond, alike, times], times.shape, dtype=_INT64)
    # 2. base ** (2 ** bit) for each bit that is set, and 1 for each that is not.
    product = _whole(low, 1)
    for bit in range(_EXPONENT_BITS):
        lower = low.emit("FLOOR_MOD", [times, _whole(low, 2 ** (bit + 1))], times.shape)
        is_set = low.emit("GREATER_EQUAL", [lower, _whole(low, 2**bit)], times.shape, dtype=_BOOL)
        factor = low.emit("SELECT_V2", [is_set, base, _whole(low, 1)], shape, dtype=_INT64)
        product = low.emit("MUL", [product, factor], shape)
        base = low.emit("MUL", [base, base], base.shape)
    low.bind(node.outputs[0], form, product)


def matmul(low: Lowering, node: ir.Node) -> None:
    """MatMul of int32 or int64: the products of all pairs, and their sums."""
    a, b = low.input(node), low.input(node, 1)
    shapes = low.shape(a), low.shape(b)
    if low.dtype(a).kind == "f" or min(map(len, shapes)) < 2:
        linear.matmul(low, node)
        return
    (*_, rows, inner), (*_, _, columns) = shapes
    left, right = (low.tensor(value, first(len(shape))) for value, shape in zip((a, b), shapes, strict=True))
    left = low.reshape(left, (*shapes[0][:-1], inner, 1))
    right = low.reshape(right, (*shapes[1][:-2], 1, inner, columns))
    outer = (*np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2]), rows, inner, columns)
    products = low.emit("MUL", [left, right], outer)
    y = node.outputs[0]
    total = low.emit("SUM", [products, low.integers([len(outer) - 2])], low.shape(y), keepDims=False)
    low.bind(y, first(len(low.shape(y))), total)


def bits(low: Lowering, node: ir.Node) -> None:
    """BitwiseAnd, BitwiseOr and BitwiseXor with a constant, whose runs of ones are remainders of powers of 2.

    ``x & y`` are those bits of x; ``x | y`` is ``x + y - (x & y)``, and ``x ^ y`` is less by ``x & y`` once more.
    """
    position = next((index for index, value in enumerate(node.inputs) if low.array(value) is not None), None)
    if position is None:
        low.refuse("TFLite has the bits of integers with a constant only")
    form = common_form(low, node.inputs, len(low.shape(node.outputs[0])))
    x, shape = operand(low, node.inputs[1 - position], form), permuted(low.shape(node.outputs[0]), form)
    mask = aligned(low.constant(node.inputs[position], "mask"), form).astype(np.int64)
    wide = converted(low, x, _INT64)
    if wide.shape != shape:  # the mask broadcasts x
        wide = low.emit("ADD", [wide, low.graph.constant(np.zeros(shape, np.int64), f"{low.base}/zero")], shape)
    result = _masked(low, wide, mask)
    if node.op_type != "BitwiseAnd":
        both = result
        result = low.emit("ADD", [wide, low.graph.constant(mask, f"{low.base}/mask")], shape)
        for _ in range(2 if node.op_type == "BitwiseXor" else 1):
            result = low.emit("SUB", [result, both], shape)
    low.bind(node.outputs[0], form, converted(low, result, x.dtype))


def _masked(low: Lowering, x: Tensor, mask: Array) -> Tensor:
    """``x & mask`` of int64: for each run of ones the bits up to its end less those below it."""
    total = low.emit("SUB", [x, x], x.shape)
    for count in range(_BITS, 0, -1):
        above = (mask >> count) & 1 if count < _BITS else np.zeros_like(mask)
        ends = ((mask >> (count - 1)) & 1) - above  # 1 where a run ends below this place, -1 where one begins at it
        if ends.any():
            part = low.emit("MUL", [_lowest(low, x, count), low.graph.constant(ends, f"{low.base}/ends")], x.shape)
            total = low.emit("ADD", [total, part], x.shape)
    return total


def _lowest(low: Lowering, x: Tensor, count: int) -> Tensor:
    """The lowest bits of an int64, as a number that is not negative unless it is all 64."""
    if count == _BITS:
        return x
    if count < _BITS - 1:
        return low.emit("FLOOR_MOD", [x, _whole(low, 1 << count)], x.shape)
    is_negative = low.emit("LESS", [x, _whole(low, 0)], x.shape, dtype=_BOOL)
    without_sign = low.emit("SUB", [x, _whole(low, -(1 << count))], x.shape)
    return low.emit("SELECT_V2", [is_negative, without_sign, x], x.shape, dtype=_INT64)


def _inverted(low: Lowering, x: Tensor) -> Tensor:
    """BitwiseNot: -1 - x, and of unsigned integers their largest less x."""
    ones = low.graph.constant(np.array([~np.zeros((), x.dtype)]), f"{low.base}/ones")
    return low.emit("SUB", [ones, x], x.shape)


def _whole(low: Lowering, number: int) -> Tensor:
    return low.graph.constant(np.array([number], _INT64), f"{low.base}/{number}")


LOWERINGS: dict[str, Lower] = {
    "Div": quotient,
    "Pow": power,
    "MatMul": matmul,
    "BitwiseAnd": bits,
    "BitwiseOr": bits,
    "BitwiseXor": bits,
    "BitwiseNot": per_element(_inverted),
}
