"""Reductions over axes, and global pooling, which is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite._graph import Tensor
from edgeconv.emit.tflite.lower._layout import Form, complete
from edgeconv.emit.tflite.lower._lowering import Lower, Lowering
from edgeconv.emit.tflite.lower._operators.activation import in_best_form, read
from edgeconv.emit.tflite.lower._operators.elementwise import converted, magnitude
from edgeconv.emit.tflite.lower._windows import VALID
from edgeconv.graph.edit import input_of


def reduce(code: str, before: Callable[[Lowering, Tensor], Tensor] | None = None, after: str = "") -> Lower:
    """A reduction, with what is done to each element before and to each result after it where ONNX has them in one."""

    def lower(low: Lowering, node: ir.Node) -> None:
        value = low.input(node)
        axes = axes_of(low, node, len(low.shape(value)))
        if not (axes or before or after):
            low.alias(node.outputs[0], value)
            return
        x, form = in_best_form(low, value)
        kind = x.dtype
        x = converted(low, x, np.dtype(np.int32)) if kind == np.bool_ else x  # the kernels order no booleans
        x = before(low, x) if before else x
        result = reduced(low, code, x, [form.index(axis) for axis in axes]) if axes else x
        result = low.emit(after, [result], result.shape) if after else result
        result = converted(low, result, kind) if kind == np.bool_ else result
        bind_reduced(low, node, result, form, axes, bool(node.attributes.get_int("keepdims", 1)))

    return lower


def _square(low: Lowering, x: Tensor) -> Tensor:
    """x²; SQUARE takes no integers."""
    return low.emit("SQUARE", [x], x.shape) if x.dtype.kind == "f" else low.emit("MUL", [x, x], x.shape)


def log_sum_exp(low: Lowering, node: ir.Node) -> None:
    """ReduceLogSumExp: the maximum is taken out before the exponential and added after the logarithm."""
    x, form = read(low, node)
    axes = axes_of(low, node, len(form))
    places = [form.index(axis) for axis in axes]
    # exp is infinite in float32 from 88.8 on.
    largest = reduced(low, "REDUCE_MAX", x, places)
    total = reduced(low, "SUM", low.emit("EXP", [low.emit("SUB", [x, largest], x.shape)], x.shape), places)
    result = low.emit("ADD", [low.emit("LOG", [total], total.shape), largest], total.shape)
    bind_reduced(low, node, result, form, axes, bool(node.attributes.get_int("keepdims", 1)))


def reduced(low: Lowering, code: str, x: Tensor, axes: Sequence[int]) -> Tensor:
    """The tensor reduced over axes of its own, which stay with size 1: the form that delegates take.

    A maximum over height and width is one max-pool, which XNNPACK took long before it took REDUCE_MAX.
    """
    if code == "REDUCE_MAX" and len(x.shape) == 4 and sorted(axes) == [1, 2] and x.dtype == np.float32:
        window = {"filterHeight": x.shape[1], "filterWidth": x.shape[2], "strideH": 1, "strideW": 1}
        return low.emit("MAX_POOL_2D", [x], (x.shape[0], 1, 1, x.shape[3]), padding=VALID, **window)
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return low.emit(code, [x, low.integers(sorted(axes))], shape, keepDims=True)


def bind_reduced(low: Lowering, node: ir.Node, tensor: Tensor, form: Form, axes: Sequence[int], keep: bool) -> None:
    """Binds a tensor whose reduced axes have size 1 to the node's result, which may lack them."""
    y = node.outputs[0]
    if keep:
        low.bind(y, form, tensor)
        return
    remaining = [axis for axis in range(len(form)) if axis not in axes]
    shape = low.shape(y)
    order = [remaining.index(axis) for axis in form if axis in remaining]
    result = complete(shape, [axis for axis in order if shape[axis] != 1])
    low.bind(y, result, tensor)


def axes_of(low: Lowering, node: ir.Node, rank: int) -> list[int]:
    """The reduced axes, from the input (opset 18) or the attribute (before)."""
    stated = input_of(node, 1)
    axes = low.constant(stated, "axes").reshape(-1).tolist() if stated else node.attributes.get_ints("axes", ())
    if not axes:
        # ONNX, Reduce operators: no axes are all axes, unless the attribute says none.
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({axis % rank for axis in axes})


def global_lp_pool(low: Lowering, node: ir.Node) -> None:
    """GlobalLpPool: the root of the sum of powers."""
    x, form = read(low, node)
    axes = [form.index(axis) for axis in range(2, len(form))]
    low.bind(node.outputs[0], form, norm_of(low, x, axes, node.attributes.get_int("p", 2)))


def norm_of(low: Lowering, x: Tensor, axes: Sequence[int], p: int) -> Tensor:
    """The root of the sum of the powers over axes of the tensor, which stay with size 1."""
    return root_of(low, reduced(low, "SUM", power_of(low, x, p), axes), p)


def power_of(low: Lowering, x: Tensor, p: int) -> Tensor:
    """|x| to the power of p. SQUARE is rounded once; POW is libm's pow for each element."""
    if p == _SQUARES:
        return low.emit("SQUARE", [x], x.shape)
    absolute = low.emit("ABS", [x], x.shape)
    return absolute if p == 1 else low.emit("POW", [absolute, low.floats(float(p))], x.shape)


def root_of(low: Lowering, total: Tensor, p: int) -> Tensor:
    """The p-th root of a sum of powers."""
    if p == _SQUARES:
        return low.emit("SQRT", [total], total.shape)
    return total if p == 1 else low.emit("POW", [total, low.floats(1 / p)], total.shape)


_SQUARES = 2  # the order of the Euclidean norm


def global_pool(code: str) -> Lower:
    """GlobalAveragePool and GlobalMaxPool."""

    def lower(low: Lowering, node: ir.Node) -> None:
        x, form = read(low, node)
        low.bind(node.outputs[0], form, reduced(low, code, x, [form.index(axis) for axis in range(2, len(form))]))

    return lower


def arg(code: str) -> Lower:
    """ArgMax and ArgMin over one axis: the first of equal elements, or the last, by the axis turned round.

    The kernels take no int64: of that, the first place is found where the largest (or smallest) element stands.
    """

    def lower(low: Lowering, node: ir.Node) -> None:
        x, form = read(low, node)
        axis = node.attributes.get_int("axis", 0) % len(form)
        position, kernel = form.index(axis), code
        if x.dtype == np.int64:
            end = reduced(low, "REDUCE_MAX" if code == "ARG_MAX" else "REDUCE_MIN", x, [position])
            equal = low.emit("EQUAL", [x, end], x.shape, dtype=np.dtype(np.bool_))
            x, kernel = low.emit("CAST", [equal], x.shape, dtype=np.dtype(np.int32)), "ARG_MAX"
        shape = [size for index, size in enumerate(x.shape) if index != position]
        last = x.shape[position] - 1
        # Kernels give the first of equal elements: of the axis turned round that is the last.
        from_end = bool(node.attributes.get_int("select_last_index", 0)) and last > 0
        if from_end:
            x = low.emit("GATHER", [x, low.integers(range(last, -1, -1))], x.shape, axis=position, batchDims=0)
        places = low.emit(kernel, [x, low.integers([position])], shape, dtype=np.dtype(np.int64), outputType=_INT64)
        if from_end:
            end = low.graph.constant(np.array([last] if shape else last, np.int64), f"{low.base}/last")
            places = low.emit("SUB", [end, places], shape, dtype=np.dtype(np.int64))
        with_axis = low.reshape(places, [1 if index == position else size for index, size in enumerate(x.shape)])
        bind_reduced(low, node, with_axis, form, [axis], bool(node.attributes.get_int("keepdims", 1)))

    return lower


_INT64 = 4  # schema.TensorType.INT64

LOWERINGS: dict[str, Lower] = {
    "ReduceMean": reduce("MEAN"),
    "ReduceSum": reduce("SUM"),
    "ReduceMax": reduce("REDUCE_MAX"),
    "ReduceMin": reduce("REDUCE_MIN"),
    "ReduceProd": reduce("REDUCE_PROD"),
    "ReduceLogSum": reduce("SUM", after="LOG"),
    "ReduceLogSumExp": log_sum_exp,
    "ReduceL1": reduce("SUM", before=magnitude),
    "ReduceL2": reduce("SUM", before=_square, after="SQRT"),
    "ReduceSumSquare": reduce("SUM", before=_square),
    "GlobalAveragePool": global_pool("MEAN"),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_pool("REDUCE_MAX"),
    "ArgMax": arg("ARG_MAX"),
    "ArgMin": arg("ARG_MIN"),
}
