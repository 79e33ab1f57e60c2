"""The steps of a random graph that move, choose and join elements, and those with graphs of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from random_graphs import RandomGraph, declared
from random_operators import drawn_axis, drawn_normal, drawn_partner, drawn_value, needs_opset


def _factors(graph: RandomGraph, size: int) -> list[int]:
    """Sizes whose product is this."""
    sizes: list[int] = []
    while size > 1 and len(sizes) < 4:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        sizes.append(int(graph.pick(*divisors)))
        size //= sizes[-1]
    sizes.append(size)
    return [sizes[int(at)] for at in graph.rng.permutation(len(sizes))]


def reshape(graph: RandomGraph) -> None:
    x = drawn_value(graph, "fib")
    shape = list(graph.arrays[x].shape)
    way = graph.pick("factors", "keep", "shape", "flat")
    if way == "shape" and len(shape) > 1:  # as torch writes x.view(x.shape[0], -1)
        (extents,) = graph.node("Shape", [x])
        (batch,) = graph.node("Gather", [extents, graph.constant(np.int64(0))], axis=0)
        unsqueezed = [batch, graph.ints([0])] if graph.opset >= 13 else [batch]
        (row,) = graph.node("Unsqueeze", unsqueezed, **({} if graph.opset >= 13 else {"axes": [0]}))
        (wanted,) = graph.node("Concat", [row, graph.ints([-1])], axis=0)
        graph.node("Reshape", [x, wanted])
        return
    sizes = [1, *_factors(graph, int(np.prod(shape)))] if way == "factors" else [0, -1] if way == "keep" else [-1]
    if way == "factors" and graph.chance(0.5):
        sizes[int(graph.rng.integers(len(sizes)))] = -1
    graph.node("Reshape", [x, graph.ints(sizes)])


def moved(graph: RandomGraph) -> None:
    x = drawn_value(graph, "fib")
    shape = graph.arrays[x].shape
    rank = len(shape)
    way = graph.pick("Transpose", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Tile", "DepthToSpace", "SpaceToDepth")
    if way == "Transpose":
        graph.node(way, [x], perm=graph.pick(None, *([int(a) for a in graph.rng.permutation(rank)] for _ in range(3))))
    elif way in ("Unsqueeze", "Squeeze"):
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        axes = [int(graph.rng.integers(rank + 1))] if way == "Unsqueeze" else [int(graph.pick(*ones))]
        if graph.opset >= 13:
            graph.node(way, [x, graph.ints(axes)])
        else:
            graph.node(way, [x], axes=axes)
    elif way == "Expand":
        sizes = [int(graph.pick(1, 2, 3)) if size == 1 else int(graph.pick(1, size)) for size in shape]
        graph.node(way, [x, graph.ints([*graph.pick([], [1], [2]), *sizes])])
    elif way == "Tile":
        graph.node(way, [x, graph.ints([int(graph.pick(1, 1, 2)) for _ in shape])])
    elif rank == 4:
        modes = {"mode": graph.pick(None, "CRD", "DCR")} if way == "DepthToSpace" and graph.opset >= 11 else {}
        graph.node(way, [x], blocksize=2, **modes)


def join(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    shape = graph.arrays[x].shape
    axis = drawn_axis(graph, len(shape))
    rest = [size for at, size in enumerate(shape) if at != axis % len(shape)]
    fitting = [
        name for name, array in graph.arrays.items()
        if array.dtype == np.float32 and array.ndim == len(shape)
        and [size for at, size in enumerate(array.shape) if at != axis % len(shape)] == rest
    ]  # fmt: skip
    parts = [x, *(str(graph.pick(*fitting)) for _ in range(int(graph.pick(1, 1, 2))))]
    if graph.chance(0.2):
        parts.append(graph.constant(drawn_normal(graph, *shape)))
    graph.node("Concat", parts, axis=axis if graph.opset >= 11 else axis % len(shape))


def split(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    shape = graph.arrays[x].shape
    axis = drawn_axis(graph, len(shape)) if graph.opset >= 11 else int(graph.rng.integers(len(shape)))
    size = shape[axis]
    if size < 2:
        raise LookupError(size)
    first = int(graph.rng.integers(1, size))
    if graph.opset >= 18 and graph.chance(0.4):
        graph.node("Split", [x], 2, axis=axis, num_outputs=2)
    elif size % 2 == 0 and graph.opset < 18 and graph.chance(0.4):
        graph.node("Split", [x], 2, axis=axis)
    elif graph.opset >= 13:
        graph.node("Split", [x, graph.ints([first, size - first])], 2, axis=axis)
    else:
        graph.node("Split", [x], 2, axis=axis, split=[first, size - first])


def sliced(graph: RandomGraph) -> None:
    x = drawn_value(graph, "fib")
    shape = graph.arrays[x].shape
    axes = sorted({int(graph.rng.integers(len(shape))) for _ in range(int(graph.pick(1, 1, 2)))})
    steps = [int(graph.pick(1, 1, 2, -1, -2, 3)) for _ in axes]
    starts, ends = [], []
    for axis, step in zip(axes, steps, strict=True):
        low, high = sorted(int(at) for at in graph.rng.integers(0, shape[axis] + 1, 2))
        if step < 0:
            starts.append(int(graph.pick(high, -1, 10**6)))
            ends.append(int(graph.pick(low - 1 if low else -(10**6), -(2**63) + 1)))
        else:
            starts.append(int(graph.pick(low, low - shape[axis] if low < shape[axis] else low)))
            ends.append(int(graph.pick(high, 2**63 - 1, 10**6)))
    kind = graph.pick(np.int64, np.int32)
    limit = np.iinfo(kind)
    bounds = [np.clip(np.array(one, object), limit.min, limit.max).astype(kind) for one in (starts, ends)]
    axes = [axis - len(shape) if graph.chance(0.3) else axis for axis in axes]
    graph.node("Slice", [x, *(graph.constant(one) for one in (*bounds, np.array(axes, kind), np.array(steps, kind)))])


def pad(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    shape = graph.arrays[x].shape
    mode = graph.pick(None, "constant", "reflect", "edge", *(["wrap"] if graph.opset >= 19 else []))
    sides = [[int(graph.pick(0, 0, 1, 2)) if graph.chance(0.7) else 0 for _ in shape] for _ in range(2)]
    if mode in ("reflect", "wrap"):
        sides = [[min(pad, size - 1) for pad, size in zip(side, shape, strict=True)] for side in sides]
    elif graph.chance(0.2):
        sides[0][-1] = -min(1, shape[-1] - 1)
    if graph.opset < 11:
        graph.node("Pad", [x], pads=[*sides[0], *sides[1]], mode=mode, value=graph.pick(None, 0.5))
        return
    inputs = [x, graph.ints([*sides[0], *sides[1]])]
    if mode in (None, "constant") and graph.chance(0.4):
        inputs.append(graph.constant(np.float32(graph.pick(0.5, -1.0))))
    if graph.opset >= 18 and graph.chance(0.3):
        inputs[1] = graph.ints([sides[0][-1], sides[1][-1]])
        inputs = [*[*inputs, ""][:3], graph.ints([-1])]
    graph.node("Pad", inputs, mode=mode)


def indexed(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    shape = graph.arrays[x].shape
    axis = drawn_axis(graph, len(shape))
    size = shape[axis]
    low = -size if graph.opset >= 11 else 0
    way = graph.pick("Gather", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND")
    integers = graph.rng.integers
    if way == "Gather":
        wanted = graph.pick((), (3,), (1, 2), (size,))
        graph.node(
            way, [x, graph.constant(integers(low, size, wanted).astype(graph.pick(np.int64, np.int32)))], axis=axis
        )
        return
    needs_opset(graph, 11)
    if way == "GatherElements":
        graph.node(way, [x, graph.constant(integers(low, size, shape))], axis=axis)
    elif way == "ScatterElements":
        indices = np.argsort(graph.rng.random(shape), axis=axis)
        kinds = [None, *(["add"] if graph.opset >= 16 else []), *(["max", "min", "mul"] if graph.opset >= 18 else [])]
        updates = drawn_partner(graph, x) if graph.chance(0.1) else graph.constant(drawn_normal(graph, *shape))
        graph.node(way, [x, graph.constant(indices), updates], axis=axis, reduction=graph.pick(*kinds))
    else:
        batch = int(graph.pick(0, 0, 1)) if graph.opset >= 12 and way == "GatherND" and len(shape) > 1 else 0
        depth = int(integers(1, len(shape) - batch + 1))
        head = shape[:batch]
        indices = np.stack([integers(0, size, (*head, 3)) for size in shape[batch : batch + depth]], -1)
        if way == "GatherND":
            graph.node(way, [x, graph.constant(indices)], batch_dims=batch or None)
        else:
            indices = indices[:1]
            graph.node(way, [x, graph.constant(indices), graph.constant(drawn_normal(graph, 1, *shape[depth:]))])


def ranked(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    shape = graph.arrays[x].shape
    axis = drawn_axis(graph, len(shape)) if graph.opset >= 11 else int(graph.rng.integers(len(shape)))
    way = graph.pick("ArgMax", "ArgMin", "TopK", "CumSum", "Trilu", "OneHot", "Compress")
    if way in ("ArgMax", "ArgMin"):
        last = {"select_last_index": graph.pick(None, 1)} if graph.opset >= 12 else {}
        graph.node(way, [x], axis=axis, keepdims=graph.pick(None, 0, 1), **last)
    elif way == "TopK":
        count = graph.ints([int(graph.rng.integers(1, shape[axis] + 1))])
        modes = {"largest": graph.pick(None, 0, 1), "sorted": graph.pick(None, 1)} if graph.opset >= 11 else {}
        graph.node(way, [x, count], 2, axis=axis, **modes)
    elif way == "CumSum":
        needs_opset(graph, 11)
        turns = {"exclusive": graph.pick(None, 1), "reverse": graph.pick(None, 1)}
        graph.node(way, [x, graph.constant(np.int64(axis))], **turns)
    elif way == "Trilu":
        needs_opset(graph, 14)
        inputs = [x, *graph.pick([], [graph.constant(np.int64(graph.pick(-1, 0, 1, 2)))])]
        graph.node(way, inputs, upper=graph.pick(None, 0, 1))
    elif way == "OneHot":
        (top,) = graph.node("ArgMax", [x], axis=axis, keepdims=0)
        depth, values = graph.constant(np.int64(shape[axis])), graph.constant(np.array([0.0, 1.0], np.float32))
        graph.node(way, [top, depth, values], axis=graph.pick(None, -1, 0))
    else:
        kept = np.append(True, graph.rng.random(shape[axis] - 1) < 0.6)
        graph.node(way, [x, graph.constant(kept)], axis=axis)


def resize(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(3, 4, 4, 4))
    shape = graph.arrays[x].shape
    modes = ("nearest", "linear", *(["cubic"] if graph.opset >= 11 else []))
    mode = str(graph.pick(*modes))
    factors = [1.0] * 2 + [float(graph.pick(0.5, 1.0, 2.0, 1.5, 3.0, 0.7)) for _ in shape[2:]]
    if graph.opset < 11:
        graph.node("Resize", [x, graph.constant(np.array(factors, np.float32))], mode=mode)
        return
    attributes: dict[str, Any] = {"mode": graph.pick(mode, None) if mode == "nearest" else mode}
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", None]
    ways += ["tf_half_pixel_for_nn"] if graph.opset < 13 and mode == "nearest" else []
    ways += ["half_pixel_symmetric"] if graph.opset >= 19 else []
    attributes["coordinate_transformation_mode"] = graph.pick(*ways)
    if mode == "nearest":
        attributes["nearest_mode"] = graph.pick(None, "floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic":
        attributes["cubic_coeff_a"] = graph.pick(None, -0.5)
        attributes["exclude_outside"] = graph.pick(None, 1)
    if graph.opset >= 18 and mode != "nearest" and graph.chance(0.2):
        attributes["antialias"] = 1
        if attributes["coordinate_transformation_mode"] == "align_corners":  # onnxruntime 1.32 is not as ONNX has it
            attributes["coordinate_transformation_mode"] = "half_pixel"
    empty = graph.constant(np.zeros(0, np.float32))
    roi = graph.pick("", empty) if graph.opset >= 13 else empty
    if graph.chance(0.5):
        graph.node("Resize", [x, roi, graph.constant(np.array(factors, np.float32))], **attributes)
        return
    sizes = [*shape[:2], *(int(graph.rng.integers(1, 2 * size + 2)) for size in shape[2:])]
    graph.node("Resize", [x, roi, "" if graph.opset >= 13 else empty, graph.ints(sizes)], **attributes)


def grid(graph: RandomGraph) -> None:
    needs_opset(graph, 16)
    x = drawn_value(graph, ranks=(4,))
    points = graph.rng.uniform(-1.2, 1.2, (graph.arrays[x].shape[0], 4, 5, 2)).astype(np.float32)
    grid = graph.constant(points)
    if graph.chance(0.5):
        (grid,) = graph.node("Tanh", [grid])
    modes = ("linear", "nearest") if graph.opset >= 20 else ("bilinear", "nearest")
    graph.node(
        "GridSample", [x, grid],
        mode=graph.pick(None, *modes),
        padding_mode=graph.pick(None, "zeros", "border", "reflection"),
        align_corners=graph.pick(None, 0, 1),
    )  # fmt: skip


def dropout(graph: RandomGraph) -> None:
    x = drawn_value(graph)
    outputs = 2 if graph.chance(0.3) and graph.opset >= 12 else 1
    if graph.opset < 12:
        graph.node("Dropout", [x], outputs, ratio=graph.pick(None, 0.3))
    else:
        inputs = [x, *graph.pick([], [graph.constant(np.float32(0.4))])]
        graph.node("Dropout", inputs, outputs)


def recurrent(graph: RandomGraph) -> None:
    x = drawn_value(graph, ranks=(3,))
    length, _, features = graph.arrays[x].shape
    if length > 12:
        raise LookupError(length)
    op_type = str(graph.pick("LSTM", "GRU", "RNN"))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    direction = graph.pick(None, "forward", "reverse", "bidirectional")
    ways, hidden = (2 if direction == "bidirectional" else 1), int(graph.pick(2, 4))
    inputs = [
        x,
        graph.constant(drawn_normal(graph, ways, gates * hidden, features, scale=0.5)),
        graph.constant(drawn_normal(graph, ways, gates * hidden, hidden, scale=0.5)),
    ]
    if graph.chance(0.6):
        inputs.append(graph.constant(drawn_normal(graph, ways, 2 * gates * hidden, scale=0.5)))
    extra = {"linear_before_reset": graph.pick(None, 1)} if op_type == "GRU" else {}
    outputs = int(graph.pick(1, 2, 3 if op_type == "LSTM" else 2))
    graph.node(op_type, inputs, outputs, hidden_size=hidden, direction=direction, **extra)


def attention(graph: RandomGraph) -> None:
    needs_opset(graph, 23)
    x = drawn_value(graph, ranks=(4,))
    graph.node("Attention", [x, x, x], is_causal=graph.pick(None, 1), scale=graph.pick(None, 0.5))


def einsum(graph: RandomGraph) -> None:
    needs_opset(graph, 12)
    x = drawn_value(graph, ranks=(3,))
    width = graph.arrays[x].shape[-1]
    graph.node(
        "Einsum", [x, graph.constant(drawn_normal(graph, width, 3))], equation=graph.pick("bij,jk->bik", "bij,jk->kbi")
    )


def shape_of(graph: RandomGraph) -> None:
    """What is computed of shapes alone: a constant once they are known."""
    x = drawn_value(graph)
    (sizes,) = graph.node("Shape", [x])
    if graph.opset >= 9 and graph.chance(0.5):
        value = numpy_helper.from_array(np.array([graph.pick(0.5, 1.0)], np.float32))
        (filled,) = graph.node("ConstantOfShape", [sizes], value=value)
        graph.node("Mul", [x, filled])
        return
    (floats,) = graph.node("Cast", [sizes], to=1)
    axes: dict[str, Any] = {"axes": [0]} if graph.opset < 18 else {}
    inputs = [floats, *([graph.ints([0])] if graph.opset >= 18 else [])]
    (largest,) = graph.node("ReduceMax", inputs, keepdims=0, **axes)
    graph.node("Div", [x, largest])


def branch(graph: RandomGraph) -> None:
    """An If with a known condition, whose branches read values around them and share the names inside."""
    needs_opset(graph, 11)
    x = drawn_value(graph)
    condition = graph.constant(np.array(graph.chance(0.5)))
    inside, result, weight = graph.name(), graph.name(), graph.name()
    bodies = []
    for op_type, number in (("Relu", 0.5), ("Neg", 1.5)):
        nodes = [
            helper.make_node(op_type, [x], [inside], "x0"),
            helper.make_node("Mul", [inside, weight], [result]),
        ]
        stored = [numpy_helper.from_array(np.array([number], np.float32), weight)]
        output = declared(result, np.float32, graph.arrays[x].shape)
        bodies.append(helper.make_graph(nodes, "branch", [], [output], stored))
    graph.propose(helper.make_node("If", [condition], [graph.name()], then_branch=bodies[0], else_branch=bodies[1]))


def function(graph: RandomGraph) -> None:
    """A call of a local function whose inner names are those of the graph around it."""
    x = drawn_value(graph)
    name = f"Block{len(graph.functions)}"
    first = str(graph.pick(*graph.used))
    imports = [helper.make_opsetid("", graph.opset)]
    nodes = [
        helper.make_node("Sigmoid", ["X"], [first]),
        helper.make_node("Mul", ["X", first], ["Y"]),
    ]
    graph.functions.append(helper.make_function("own", name, ["X"], ["Y"], nodes, imports))
    graph.propose(helper.make_node(name, [x], [graph.name()], domain="own"))
