"""The steps of a random graph: operators of standard ONNX with any legal attributes, in the form of the graph's opset.

A step that finds no value to work on, or has no form in the opset, raises LookupError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from random_graphs import Array, RandomGraph

Step = Callable[[RandomGraph], None]


def drawn_value(graph: RandomGraph, kind: str = "f", ranks: Sequence[int] = range(1, 7)) -> str:
    """A value of this kind of elements, most likely a late one."""
    names = [name for name, array in graph.arrays.items() if array.dtype.kind in kind and array.ndim in ranks]
    if not names:
        raise LookupError(kind)
    return names[-1 - min(int(graph.rng.geometric(0.4)) - 1, len(names) - 1)]


def needs_opset(graph: RandomGraph, opset: int) -> None:
    if graph.opset < opset:
        raise LookupError(opset)


def drawn_normal(graph: RandomGraph, *shape: int, scale: float = 1.0) -> Array:
    return (graph.rng.standard_normal(shape) * scale).astype(np.float32)


def drawn_axis(graph: RandomGraph, rank: int) -> int:
    return int(graph.rng.integers(-rank, rank))


_UNARY: dict[str, tuple[int, Callable[[RandomGraph], dict[str, Any]]]] = {
    "Abs": (1, lambda g: {}),
    "Ceil": (1, lambda g: {}),
    "Celu": (12, lambda g: {"alpha": g.pick(None, 0.5, 2.0)}),
    "Cos": (7, lambda g: {}),
    "Elu": (1, lambda g: {"alpha": g.pick(None, 0.5, 1.5)}),
    "Erf": (9, lambda g: {}),
    "Exp": (1, lambda g: {}),
    "Floor": (1, lambda g: {}),
    "Gelu": (20, lambda g: {"approximate": g.pick(None, "tanh", "none")}),
    "HardSigmoid": (1, lambda g: {"alpha": g.pick(None, 0.1, 1 / 6), "beta": g.pick(None, 0.4, 0.5)}),
    "HardSwish": (14, lambda g: {}),
    "Identity": (1, lambda g: {}),
    "LeakyRelu": (1, lambda g: {"alpha": g.pick(None, 0.3, 0.0, -0.2, 1.5)}),
    "LogSoftmax": (1, lambda g: {"axis": g.pick(None, 1, -1)}),
    "Mish": (18, lambda g: {}),
    "Neg": (1, lambda g: {}),
    "Relu": (1, lambda g: {}),
    "Round": (11, lambda g: {}),
    "Selu": (1, lambda g: {"alpha": g.pick(None, 1.2), "gamma": g.pick(None, 0.9)}),
    "Shrink": (9, lambda g: {"bias": g.pick(None, 0.2), "lambd": g.pick(None, 0.3)}),
    "Sigmoid": (1, lambda g: {}),
    "Sign": (9, lambda g: {}),
    "Sin": (7, lambda g: {}),
    "Softmax": (1, lambda g: {"axis": g.pick(None, 1, -1, 2, -2)}),
    "Hardmax": (1, lambda g: {"axis": g.pick(None, 1, -1)}),
    "Softplus": (1, lambda g: {}),
    "Softsign": (1, lambda g: {}),
    "Swish": (24, lambda g: {"alpha": g.pick(None, 1.5)}),
    "Tanh": (1, lambda g: {}),
    "ThresholdedRelu": (10, lambda g: {"alpha": g.pick(None, 0.3)}),
    "Atan": (7, lambda g: {}),
    "Sinh": (9, lambda g: {}),
    "Asinh": (9, lambda g: {}),
    "GlobalAveragePool": (1, lambda g: {}),
    "GlobalMaxPool": (1, lambda g: {}),
    "GlobalLpPool": (2, lambda g: {"p": g.pick(None, 1, 2)}),
    "LpNormalization": (1, lambda g: {"axis": g.pick(None, 1, -1), "p": g.pick(None, 1, 2)}),
    "MeanVarianceNormalization": (9, lambda g: {"axes": g.pick(None, [2, 3], [1])}),
    "LRN": (1, lambda g: {"size": int(g.pick(1, 3, 5)), "alpha": g.pick(None, 0.5), "bias": g.pick(None, 2.0)}),
    "Flatten": (9, lambda g: {"axis": g.pick(None, 0, 1, 2, -1)}),
    "Det": (11, lambda g: {}),
}


_SELDOM = {
    "Atan",
    "Asinh",
    "Det",
    "Erf",
    "GlobalLpPool",
    "Hardmax",
    "LRN",
    "LpNormalization",
    "Sinh",
    "ThresholdedRelu",
}
"""Of which TFLite has no form: most graphs should come as far as its runtime."""


def unary(graph: RandomGraph) -> None:
    op_type = str(graph.pick(*_UNARY))
    if op_type in _SELDOM and graph.chance(0.7):
        raise LookupError(op_type)
    since, attributes = _UNARY[op_type]
    needs_opset(graph, since)
    graph.node(op_type, [drawn_value(graph)], **attributes(graph))


def guarded(graph: RandomGraph) -> None:
    """Functions of a restricted domain, behind what brings their operand into it."""
    x = drawn_value(graph)
    (absolute,) = graph.node("Abs", [x])
    (positive,) = graph.node("Add", [absolute, graph.constant(np.float32(graph.pick(0.5, 1.0, 0.01)))])
    op_type = str(graph.pick("Log", "Sqrt", "Reciprocal", "Pow", "Div"))
    if op_type == "Pow":
        graph.node("Pow", [positive, graph.constant(np.float32(graph.pick(0.5, 2.0, 3.0, -1.0, -0.5, 1.7)))])
    elif op_type == "Div":
        graph.node("Div", [drawn_value(graph), positive])
    else:
        graph.node(op_type, [positive])


def drawn_partner(graph: RandomGraph, x: str) -> str:
    """What broadcasts with a value: another value, or a constant of some of its axes."""
    shape = graph.arrays[x].shape
    fitting = [
        name for name, array in graph.arrays.items()
        if array.dtype == np.float32 and array.ndim <= len(shape)
        and all(a in (1, b) for a, b in zip(array.shape[::-1], shape[::-1], strict=False))
    ]  # fmt: skip
    if fitting and graph.chance(0.5):
        return str(graph.pick(*fitting))
    if graph.chance(0.2):
        return graph.constant(np.float32(graph.pick(0.5, 2.0, -1.0, 0.0, 1.0, 1e-3)))
    rank = int(graph.rng.integers(0, len(shape) + 1))
    return graph.constant(
        drawn_normal(graph, *(size if graph.chance(0.5) else 1 for size in shape[len(shape) - rank :]))
    )


def binary(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    pair = [x, drawn_partner(graph, x)]
    if graph.chance(0.3):
        pair.reverse()
    graph.node(str(graph.pick("Add", "Sub", "Mul", "Max", "Min", "Add", "Mul")), pair)


def variadic(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    others = [drawn_partner(graph, x) for _ in range(int(graph.pick(0, 1, 2, 3)))]
    graph.node(str(graph.pick("Sum", "Mean", "Max", "Min")), [x, *others])


def slope(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    shape = graph.arrays[x].shape
    own = graph.pick((shape[1], *(1 for _ in shape[2:])) if len(shape) > 1 else (1,), (1,), shape[1:] or (1,))
    graph.node("PRelu", [x, graph.constant(drawn_normal(graph, *own))])


def bounded(graph: RandomGraph) -> None:
    low, high = graph.pick((-0.5, 0.8), (0.0, 6.0), (None, 0.5), (-0.25, None), (0.0, 1.0), (None, None), (-1.0, 1.0))
    if graph.opset < 11:
        graph.node("Clip", [drawn_value(graph)], min=low, max=high)
        return
    bounds = ["" if bound is None else graph.constant(np.float32(bound)) for bound in (low, high)]
    while bounds and not bounds[-1] and graph.chance(0.7):
        bounds.pop()
    graph.node("Clip", [drawn_value(graph), *bounds])


def compared(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    op_type = str(graph.pick("Greater", "Less", *(["GreaterOrEqual", "LessOrEqual"] if graph.opset > 11 else [])))
    (mask,) = graph.node(op_type, [x, drawn_partner(graph, x)])
    if graph.chance(0.2):
        (mask,) = graph.node("Not", [mask])
    if graph.chance(0.6):
        graph.node("Where", [mask, x, drawn_partner(graph, x)])
    elif graph.chance(0.5):
        graph.node("Cast", [mask], to=1)


def logic(graph: RandomGraph) -> None:
    a = drawn_value(graph, "b", range(7))
    b = graph.pick(
        *(name for name, array in graph.arrays.items() if array.dtype == bool and array.shape == graph.arrays[a].shape)
    )
    op_type = str(graph.pick("And", "Or", "Xor", "Not", "Where", "Cast"))
    if op_type == "Not":
        graph.node("Not", [a])
    elif op_type == "Cast":
        graph.node("Cast", [a], to=int(graph.pick(1, 6, 7)))
    elif op_type == "Where":
        graph.node("Where", [a, graph.constant(np.float32(0.5)), graph.constant(np.float32(-1.5))])
    else:
        graph.node(op_type, [a, b])


def cast(graph: RandomGraph) -> None:
    x = drawn_value(graph, "fib", range(7))
    (y,) = graph.node("Cast", [x], to=int(graph.pick(1, 6, 7, 9)))
    if graph.chance(0.6):
        graph.node("Cast", [y], to=1)


def integers(graph: RandomGraph) -> None:
    x = drawn_value(graph, "i", range(7))
    dtype = graph.arrays[x].dtype
    op_type = str(graph.pick("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Neg", "Abs", "Cast"))
    if op_type in ("Neg", "Abs"):
        graph.node(op_type, [x])
    elif op_type == "Cast":
        graph.node("Cast", [x], to=1)
    else:
        least = 12 if op_type in ("Max", "Min") else 7
        needs_opset(graph, least)
        graph.node(op_type, [x, graph.constant(np.asarray(int(graph.pick(1, 2, 3, 5)), dtype))])


def _window(graph: RandomGraph, x: str) -> tuple[list[int], dict[str, Any]]:
    """A kernel for the spatial axes of a value, with strides, dilations and pads."""
    sizes = graph.arrays[x].shape[2:]
    if not sizes:
        raise LookupError(x)
    kernel = [min(int(graph.pick(1, 2, 3, 3, 5)), size) for size in sizes]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if graph.chance(0.5):
        attributes["strides"] = [int(graph.pick(1, 2, 3)) for _ in sizes]
    way = graph.pick("VALID", "SAME_UPPER", "SAME_LOWER", "pads", "pads", "pads", "")
    if way == "pads":
        attributes["pads"] = [int(graph.rng.integers(0, k)) for k in (*kernel, *kernel)]
    elif way:
        attributes["auto_pad"] = way
    return kernel, attributes


def conv(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(3, 4, 4, 4, 5))
    channels = graph.arrays[x].shape[1]
    kernel, attributes = _window(graph, x)
    if graph.chance(0.2):
        attributes["dilations"] = [int(graph.pick(1, 2)) for _ in kernel]
    group = int(graph.pick(1, 1, channels, *(g for g in (2, 4) if channels % g == 0)))
    out = group * int(graph.rng.integers(1, 1 + max(1, 8 // group)))
    if group > 1 or graph.chance(0.2):
        attributes["group"] = group
    if graph.chance(0.3):
        del attributes["kernel_shape"]
    scale = 1 / np.sqrt(channels // group * np.prod(kernel))
    inputs = [x, graph.constant(drawn_normal(graph, out, channels // group, *kernel, scale=scale))]
    if graph.chance(0.7):
        inputs.append(graph.constant(drawn_normal(graph, out)))
    (y,) = graph.node("Conv", inputs, **attributes)
    if graph.chance(0.3):
        (y,) = _batch_norm(graph, y, out)
    if graph.chance(0.4):
        graph.node(str(graph.pick("Relu", "LeakyRelu", "Sigmoid", "Tanh")), [y])


def _batch_norm(graph: RandomGraph, x: str, channels: int) -> list[str]:
    uniform = graph.rng.uniform
    parts = [
        drawn_normal(graph, channels),
        drawn_normal(graph, channels),
        drawn_normal(graph, channels),
        uniform(0.5, 2, channels),
    ]
    constants = [graph.constant(part.astype(np.float32)) for part in parts]
    return graph.node(
        "BatchNormalization", [x, *constants], epsilon=graph.pick(None, 1e-3), momentum=graph.pick(None, 0.5)
    )


def conv_transposed(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(3, 4, 4))
    shape = graph.arrays[x].shape
    group = int(graph.pick(1, 1, *(g for g in (2, shape[1]) if shape[1] % g == 0)))
    kernel = [int(graph.pick(1, 2, 3, 4)) for _ in shape[2:]]
    strides = [int(graph.pick(1, 2, 3)) for _ in shape[2:]]
    attributes: dict[str, Any] = {"strides": strides, "group": group, "kernel_shape": graph.pick(None, kernel)}
    way = graph.pick("pads", "pads", "output_shape", "SAME_UPPER", "SAME_LOWER", "VALID", "")
    if way == "pads":
        attributes["pads"] = [int(graph.rng.integers(0, k)) for k in (*kernel, *kernel)]
    elif way == "output_shape":
        attributes["output_shape"] = [size * s for size, s in zip(shape[2:], strides, strict=True)]
    elif way:
        attributes["auto_pad"] = way
    if graph.chance(0.3):
        attributes["output_padding"] = [int(graph.rng.integers(0, s)) for s in strides]
    if graph.chance(0.15):
        attributes["dilations"] = [int(graph.pick(1, 2)) for _ in kernel]
    per_group = int(graph.pick(1, 2, 3))
    inputs = [x, graph.constant(drawn_normal(graph, shape[1], per_group, *kernel, scale=0.4))]
    if graph.chance(0.5):
        inputs.append(graph.constant(drawn_normal(graph, group * per_group)))
    graph.node("ConvTranspose", inputs, **attributes)


def pool(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(3, 4, 4, 5))
    kernel, attributes = _window(graph, x)
    op_type = str(graph.pick("MaxPool", "AveragePool", "LpPool"))
    if graph.opset >= (18 if op_type == "LpPool" else 10) and graph.chance(0.3):
        attributes["ceil_mode"] = 1
    if graph.opset >= {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op_type] and graph.chance(0.15):
        attributes["dilations"] = [int(graph.pick(1, 2)) for _ in kernel]
        if attributes.get("auto_pad", "").startswith("SAME"):  # onnxruntime pads as if there were no dilation
            del attributes["auto_pad"]
    if op_type == "AveragePool" and graph.chance(0.5):
        attributes["count_include_pad"] = 1
    if attributes.get("auto_pad", "").startswith("SAME") and max(attributes.get("strides", [1])) > min(kernel):
        del attributes["auto_pad"]  # onnxruntime leaves elements out there
    if op_type == "LpPool":
        attributes["p"] = graph.pick(None, 1, 2, 3)
    outputs = 2 if op_type == "MaxPool" and graph.chance(0.1) else 1
    graph.node(op_type, [x], outputs, **attributes)


def norm(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(2, 3, 4))
    shape = graph.arrays[x].shape
    op_type = str(
        graph.pick(
            "BatchNormalization",
            "InstanceNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
        )
    )
    if op_type == "BatchNormalization":
        _batch_norm(graph, x, shape[1])
    elif op_type == "InstanceNormalization":
        graph.node(
            op_type,
            [x, *(graph.constant(drawn_normal(graph, shape[1])) for _ in range(2))],
            epsilon=graph.pick(None, 1e-3),
        )
    elif op_type == "GroupNormalization":
        needs_opset(graph, 21)
        groups = int(graph.pick(*(g for g in (1, 2, 4, shape[1]) if shape[1] % g == 0)))
        graph.node(op_type, [x, *(graph.constant(drawn_normal(graph, shape[1])) for _ in range(2))], num_groups=groups)
    else:
        needs_opset(graph, 17 if op_type == "LayerNormalization" else 23)
        axis = int(graph.rng.integers(-(len(shape) - 1), 0))
        inputs = [x, graph.constant(drawn_normal(graph, *shape[axis:]))]
        if op_type == "LayerNormalization" and graph.chance(0.6):
            inputs.append(graph.constant(drawn_normal(graph, *shape[axis:])))
        graph.node(op_type, inputs, axis=axis, epsilon=graph.pick(None, 1e-3, 1e-6))


def reduce(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    rank = graph.arrays[x].ndim
    op_type = "Reduce" + str(
        graph.pick("Mean", "Sum", "Max", "Min", "L1", "L2", "LogSumExp", "SumSquare", "Prod", "LogSum")
    )
    axes = sorted({drawn_axis(graph, rank) % rank for _ in range(int(graph.pick(1, 1, 2)))})
    axes = [axis - rank if graph.chance(0.4) and graph.opset >= 11 else axis for axis in axes]
    keepdims = graph.pick(None, 0, 1)
    if op_type == "ReduceLogSum":
        (x,) = graph.node("Exp", [x])
    since = 13 if op_type == "ReduceSum" else 18
    if graph.chance(0.1):
        noop = {"noop_with_empty_axes": graph.pick(None, 1)} if graph.opset >= since else {}
        graph.node(op_type, [x], keepdims=keepdims, **noop)
    elif graph.opset >= since:
        graph.node(op_type, [x, graph.ints(axes)], keepdims=keepdims)
    else:
        graph.node(op_type, [x], axes=axes, keepdims=keepdims)


def matrices(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(2, 3, 4))
    shape = graph.arrays[x].shape
    way = graph.pick("constant", "constant", "self", "stack", "Gemm", "vector")
    width = int(graph.rng.integers(1, 9))
    scale = 1 / np.sqrt(shape[-1])
    if way == "self":
        perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        (turned,) = graph.node("Transpose", [x], perm=perm)
        graph.node("MatMul", [x, turned] if graph.chance(0.5) else [turned, x])
    elif way == "Gemm" and len(shape) == 2:
        a, b = int(graph.pick(0, 0, 1)), int(graph.pick(0, 1))
        inner, rows = (shape[0], shape[1]) if a else (shape[1], shape[0])
        inputs = [x, graph.constant(drawn_normal(graph, *((width, inner) if b else (inner, width)), scale=scale))]
        if graph.chance(0.7):
            inputs.append(graph.constant(drawn_normal(graph, *graph.pick((width,), (1, width), (rows, 1), (1,)))))
        graph.node("Gemm", inputs, transA=a or None, transB=b, alpha=graph.pick(None, 0.5), beta=graph.pick(None, 2.0))
    elif way == "stack":
        graph.node("MatMul", [graph.constant(drawn_normal(graph, width, shape[-2], scale=scale)), x])
    elif way == "vector":
        graph.node("MatMul", [x, graph.constant(drawn_normal(graph, shape[-1], scale=scale))])
    else:
        (y,) = graph.node("MatMul", [x, graph.constant(drawn_normal(graph, shape[-1], width, scale=scale))])
        if graph.chance(0.5):
            graph.node("Add", [y, graph.constant(drawn_normal(graph, width))])
