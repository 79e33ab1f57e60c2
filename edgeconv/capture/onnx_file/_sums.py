"""Operators that capture writes out with other operators, as a module that computes the same would be captured.

Specification: CenterCropPad, Gemm, Hardmax, Mean, MeanVarianceNormalization, OneHot; of opsets 23 and 24,
RMSNormalization, RotaryEmbedding and Swish; `edgeconv.capture.normalize._attention` has Attention, and the files beside
this one Einsum and Col2Im.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._affine_grid import coordinates
from edgeconv.capture.normalize._attention import attention
from edgeconv.capture.normalize._refused import refused
from edgeconv.capture.onnx_file._column_to_image import column_to_image
from edgeconv.capture.onnx_file._einsum import einsum
from edgeconv.graph.edit import constant, input_of, producer_of, stated_input
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.traits import Trait, having


def settle_sums(graph: ir.Graph) -> None:
    """Replaces these operators, in place; all shapes must be static.

    A function of `WRITTEN_OUT` takes `Steps` and the node, and returns the replacement of each result; none to leave
    the node as it is.

    Raises:
        CaptureError: an input has a form that cannot be written out; names the node.
    """
    for node in list(graph):
        write = WRITTEN_OUT.get(node.op_type) if node.domain == "" else None
        if write is not None:
            steps = Steps(graph, node)
            if results := write(steps, node):
                steps.replace(results)


def _root_mean_square(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    x, scale = node.inputs[0], node.inputs[1]
    sizes = sizes_of(x)
    axes = list(range(node.attributes.get_int("axis", -1) % len(sizes), len(sizes)))
    mean = steps.mean(steps.add("squares", "Mul", [x, x], sizes), axes, "mean")
    epsilon = steps.constant(np.array(node.attributes.get_float("epsilon", 1e-5), np.float32), "epsilon")
    root = steps.add("guarded", "Add", [mean, epsilon], sizes_of(mean))
    root = steps.add("root", "Sqrt", [root], sizes_of(mean))
    y = steps.add("normalised", "Div", [x, root], sizes)
    return {node.outputs[0]: steps.add("scaled", "Mul", [y, scale], sizes)}


def _mean_variance(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """(x - mean) / (deviation + 1e-9) over the axes, after the specification's function.

    1e-9 is far below the rounding error of a float32 mean. Of a row of equal numbers, x - mean would be that error
    alone, divided by itself. So the difference is centered a second time, which changes nothing in real arithmetic.
    """
    x, sizes = stated_input(node), sizes_of(node.inputs[0])
    stated = node.attributes.get_ints("axes", (0, 2, 3))
    if any(not -len(sizes) <= axis < len(sizes) for axis in stated):
        what = f"MeanVarianceNormalization has the axes {list(stated)} of a value of {len(sizes)}"
        raise refused(node, what, "state axes that it has")
    axes = [axis % len(sizes) for axis in stated]
    centered = steps.add("near", "Sub", [x, steps.mean(x, axes, "mean")], sizes)
    centered = steps.add("centred", "Sub", [centered, steps.mean(centered, axes, "rest")], sizes)
    variance = steps.mean(steps.add("squares", "Mul", [centered, centered], sizes), axes, "variance")
    deviation = steps.add("deviation", "Sqrt", [variance], sizes_of(variance))
    guard = steps.constant(np.array(1e-9, np.float32), "guard")
    deviation = steps.add("guarded", "Add", [deviation, guard], sizes_of(variance))
    return {node.outputs[0]: steps.add("normalised", "Div", [centered, deviation], sizes)}


def _swish(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    x, alpha = node.inputs[0], node.attributes.get_float("alpha", 1.0)
    sizes, inner = sizes_of(x), x
    if alpha != 1:
        inner = steps.add("wide", "Mul", [x, steps.constant(np.array(alpha, np.float32), "alpha")], sizes)
    gate = steps.add("gate", "Sigmoid", [inner], sizes)
    return {node.outputs[0]: steps.add("gated", "Mul", [x, gate], sizes)}


def _rotary(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Rotates pairs of numbers (from the halves of a head, or neighbors) by the angle of their position.

    A pair (a, b) becomes (a cos - b sin, b cos + a sin): x · cos + partners(x) · ±sin, where partners swaps each pair.
    """
    # 1. Heads: (batch, heads, length, size).
    x, sizes = node.inputs[0], sizes_of(node.inputs[0])
    if len(sizes) == 4 and x is not None:
        heads = x
    else:
        batch, length, width = sizes
        count = node.attributes.get_int("num_heads", 0)
        heads = steps.reshape(x, [batch, length, count, width // max(count, 1)], "split")
        heads = steps.transpose(heads, (0, 2, 1, 3), "heads")
    # 2. Cosines and sines for every number of a head, (batch, 1, length, rotated).
    batch, count, length, width = sizes_of(heads)
    rotated = node.attributes.get_int("rotary_embedding_dim", 0) or width
    angles = [_angles(node, index, (batch, length, rotated // 2)) for index in (1, 2)]
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    wide = [np.repeat(angle, 2, -1) if interleaved else np.concatenate([angle, angle], -1) for angle in angles]
    cosine, sine = (steps.constant(np.ascontiguousarray(angle[:, None]), f"angle_{i}") for i, angle in enumerate(wide))
    # 3. The rotation; numbers behind the first `rotated` of a head stay as they are.
    parts = steps.split(heads, [rotated, width - rotated], 3, "parts") if rotated < width else [heads]
    shape = sizes_of(parts[0])
    across = steps.gather(parts[0], _partners(rotated, interleaved), 3, "partners")
    signs = np.where(_is_first(rotated, interleaved), np.float32(-1), np.float32(1))
    sine = steps.add("signed", "Mul", [sine, steps.constant(signs, "signs")], sizes_of(sine))
    along = steps.add("along", "Mul", [parts[0], cosine], shape)
    y = steps.add("turned", "Add", [along, steps.add("across", "Mul", [across, sine], shape)], shape)
    if len(parts) > 1:
        y = steps.add("whole", "Concat", [y, parts[1]], [batch, count, length, width], {"axis": 3})
    if len(sizes) == 3:
        y = steps.reshape(steps.transpose(y, (0, 2, 1, 3), "moved"), sizes, "joined")
    return {node.outputs[0]: y}


def _angles(node: ir.Node, index: int, due: tuple[int, int, int]) -> np.ndarray:
    """The cosines or sines, (batch, length, half of the rotated size): as stored, or those of ``position_ids``.

    Raises:
        CaptureError: they, or the positions, are computed, or do not fit.
    """
    cache = constant(node.inputs[index])
    position = input_of(node, 3)
    places = constant(position)
    if cache is None or (position is not None and places is None):
        what = "RotaryEmbedding takes angles or positions that are no constants"
        raise refused(node, what, "store its cos_cache, sin_cache and position_ids in the file")
    if places is not None and cache.ndim and places.size and (places.min() < 0 or places.max() >= len(cache)):
        what = f"RotaryEmbedding takes the positions {places.min()} to {places.max()} of {len(cache)}"
        raise refused(node, what, "correct position_ids")
    stated = cache.shape if places is None or not cache.ndim else (*places.shape, *cache.shape[1:])
    if stated != due:
        shapes = f"angles of the shape {list(cache.shape)}"
        shapes += f" and positions of the shape {list(places.shape)}" if places is not None else ""
        what = f"RotaryEmbedding takes {shapes}, where angles for {list(due)} are due"
        raise refused(node, what, "correct the caches, or rotary_embedding_dim")
    return np.asarray(cache if places is None else cache[places], np.float32)


def _is_first(size: int, interleaved: bool) -> np.ndarray:
    """Which numbers of a head are the first of their pair."""
    places = np.arange(size)
    return places % 2 == 0 if interleaved else places < size // 2


def _partners(size: int, interleaved: bool) -> Sequence[int]:
    """By number of a head: the position of the other one of its pair."""
    places = np.arange(size)
    partners = places ^ 1 if interleaved else (places + size // 2) % size
    return [int(partner) for partner in partners]


def _affine_grid(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """AffineGrid: theta (N, r, r + 1) times (x, y, …, 1): the last column plus, per axis, a column times coordinates.

    The columns count the axes from the last one: x is along the width.
    """
    theta, (batch, *sizes, rank) = stated_input(node), sizes_of(node.outputs[0])
    corners = bool(node.attributes.get_int("align_corners", 0))
    column = [batch, *([1] * rank), rank]
    *columns, grid = (
        steps.reshape(part, column, f"column_{index}")
        for index, part in enumerate(steps.split(theta, [1] * (rank + 1), 2, "part"))
    )
    for axis, factor in enumerate(reversed(columns)):
        along = steps.constant(coordinates(sizes, axis, align_corners=corners), f"axis_{axis}")
        wide = [batch, *(size if at == axis else 1 for at, size in enumerate(sizes)), rank]
        product = steps.add("product", "Mul", [factor, along], wide)
        grid = steps.add("sum", "Add", [grid, product], list(np.broadcast_shapes(sizes_of(grid), wide)))
    return {node.outputs[0]: grid}


def _mean(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Mean of several values, element by element: Sum, times one over their number."""
    values, sizes = list(node.inputs), sizes_of(node.outputs[0])
    total = steps.add("total", "Sum", values, sizes)
    return {node.outputs[0]: steps.scaled(total, 1 / len(values), "mean")}


def _gemm(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """A Gemm whose matrix or bias is computed, or whose bias differs from row to row, as MatMul, Mul and Add.

    To later stages a Gemm is a layer with constant weights; one that is such a layer stays.
    """
    a, b, c = (*node.inputs, None)[:3]
    sizes, rows = sizes_of(node.outputs[0]), 1 if c is None else ([1, 1, *sizes_of(c)])[-2]
    is_layer = _is_stored(b) and (c is None or (_is_stored(c) and rows == 1))
    if is_layer or a is None or b is None:
        return {}
    left, right = (
        steps.transpose(value, (1, 0), f"{name}.turned") if node.attributes.get_int(name, 0) else value
        for value, name in ((a, "transA"), (b, "transB"))
    )
    product = steps.add("product", "MatMul", [left, right], sizes)
    product = steps.scaled(product, node.attributes.get_float("alpha", 1.0), "alpha")
    if c is not None:
        shift = steps.scaled(c, node.attributes.get_float("beta", 1.0), "beta")
        product = steps.add("shifted", "Add", [product, shift], sizes)
    return {node.outputs[0]: product}


def _is_stored(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or one that a file stores as integers."""
    producer = producer_of(value)
    if producer is not None and producer.op_type == "DequantizeLinear":
        value = producer.inputs[0]
    return constant(value) is not None


_INDICES = (ir.DataType.INT32, ir.DataType.INT64)


def _one_hot(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """OneHot: the second of the values at the index, the first one elsewhere; negative indices count from the end."""
    index, values, sizes = stated_input(node), stated_input(node, 2), sizes_of(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % len(sizes)
    if index.dtype not in _INDICES:
        integer = ir.DataType.INT64
        index = steps.add("index", "Cast", [index], sizes_of(index), {"to": integer}, integer)
    shape = [1 if at == axis else size for at, size in enumerate(sizes)]
    places = steps.reshape(index, shape, "places")
    hit = _hits(steps, places, axis, 0, sizes)
    # ArgMax and TopK give no negative indices: the second comparison would be for nothing.
    producer = index.producer()
    if producer is None or producer.op_type not in having(Trait.RANKS):
        from_end = _hits(steps, places, axis, -sizes[axis], sizes)
        hit = steps.add("hit", "Or", [hit, from_end], sizes)
    off, on = (_number(steps, values, at) for at in (0, 1))
    hot = steps.add("hot", "Where", [hit, on, off], sizes, dtype=values.dtype)
    return {node.outputs[0]: hot}


def _hardmax(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Hardmax: 1 at the first of the largest elements of the axis (a single one since opset 13), 0 elsewhere."""
    x, sizes = stated_input(node), sizes_of(node.inputs[0])
    axis = node.attributes.get_int("axis", -1) % len(sizes)
    shape = [1 if at == axis else size for at, size in enumerate(sizes)]
    first = steps.add("first", "ArgMax", [x], shape, {"axis": axis, "keepdims": 1}, ir.DataType.INT64)
    hit = _hits(steps, first, axis, 0, sizes)
    to = ir.DataType.FLOAT if x.dtype is None else x.dtype
    return {node.outputs[0]: steps.add("hot", "Cast", [hit], sizes, {"to": to}, to)}


def _hits(steps: Steps, places: ir.Value, axis: int, start: int, sizes: list[int]) -> ir.Value:
    """Whether each position along the axis, counted from `start`, equals the index there: bool, of shape `sizes`."""
    kind = np.int64 if places.dtype is None else places.dtype.numpy()
    numbers = np.arange(start, start + sizes[axis], dtype=kind)
    numbers = numbers.reshape([-1 if at == axis else 1 for at in range(len(sizes))])
    constant = steps.constant(numbers, "numbers")
    return steps.add("equal", "Equal", [places, constant], sizes, dtype=ir.DataType.BOOL)


def _number(steps: Steps, values: ir.Value, at: int) -> ir.Value:
    array = constant(values)
    if array is not None:
        return steps.constant(array.reshape(-1)[at], f"value_{at}")
    return steps.reshape(steps.slice(values, 0, at, at + 1, f"value_{at}"), [], f"value_{at}.scalar")


def _center_crop_pad(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """A Slice of each axis that becomes smaller, a Pad of those that become larger; an Identity where no size changes.

    The smaller half of an odd difference is at the start.
    """
    x, sizes = stated_input(node), sizes_of(node.outputs[0])
    for axis, (before, after) in enumerate(zip(sizes_of(x), sizes, strict=True)):
        if after < before:
            start = (before - after) // 2
            x = steps.slice(x, axis, start, start + after, "cropped")
    if sizes_of(x) != sizes:
        added = np.array(sizes) - sizes_of(x)
        pads = steps.constant(np.concatenate([added // 2, added - added // 2]), "pads")
        x = steps.add("padded", "Pad", [x, pads], sizes)
    return {node.outputs[0]: steps.own(x)}


WRITTEN_OUT: Mapping[str, Callable[[Steps, ir.Node], Mapping[ir.Value, ir.Value]]] = {
    "AffineGrid": _affine_grid,
    "Attention": attention,
    "CenterCropPad": _center_crop_pad,
    "Col2Im": column_to_image,
    "Einsum": einsum,
    "Gemm": _gemm,
    "Hardmax": _hardmax,
    "Mean": _mean,
    "MeanVarianceNormalization": _mean_variance,
    "OneHot": _one_hot,
    "RMSNormalization": _root_mean_square,
    "RotaryEmbedding": _rotary,
    "Swish": _swish,
}
