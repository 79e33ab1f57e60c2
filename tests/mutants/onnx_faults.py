"""Faults in the structure and the attributes of `.onnx` files; each changes a file in place and says where."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from array_faults import rolled
from onnx_edit import OnnxEdit
from planted import NoPlaceError, drawn

OnnxFault = Callable[[OnnxEdit, random.Random], str]
_POOLS = ("MaxPool", "AveragePool")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu")


def _kernel(edit: OnnxEdit, node: onnx.NodeProto) -> list[int]:
    stated = edit.attribute(node, "kernel_shape")
    return list(stated) if stated else list(edit.shape(node.input[1])[2:])


def _shifted_window(*, strided: bool) -> OnnxFault:
    """One cell of padding moves from the end to the beginning or back, where the stride is above 1, or is 1."""

    def plant(edit: OnnxEdit, rng: random.Random) -> str:
        places = []
        for node in edit.nodes("Conv", *_POOLS):
            pads, kernel = edit.attribute(node, "pads"), _kernel(edit, node)
            strides = edit.attribute(node, "strides") or [1] * len(kernel)
            if pads is None:
                continue
            for axis, (size, stride) in enumerate(zip(kernel, strides, strict=True)):
                begin, end = pads[axis], pads[axis + len(kernel)]
                if size > 1 and (stride > 1) == strided and begin + end > 0:
                    places.append((node, list(pads), axis, axis + len(kernel)))
        node, pads, begin, end = drawn(rng, places)
        first, second = (begin, end) if pads[end] > 0 else (end, begin)
        pads[first] += 1
        pads[second] -= 1
        edit.set_attribute(node, "pads", pads)
        return node.output[0]

    return plant


def _padded_before(mode: str, value: float = 0.0) -> OnnxFault:
    """A convolution's zeros become another padding, by a node of its own."""

    def plant(edit: OnnxEdit, rng: random.Random) -> str:
        places = []
        for node in edit.nodes("Conv"):
            pads, shape = edit.attribute(node, "pads"), edit.shape(node.input[0])
            if pads and max(pads) > 0 and len(shape) == 4 and min(shape[2:]) > max(pads):
                places.append(node)
        node = drawn(rng, places)
        pads = edit.attribute(node, "pads")
        half = len(pads) // 2
        amounts = edit.constant(np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64))
        inputs = [node.input[0], amounts]
        if mode == "constant":
            inputs.append(edit.constant(np.array(value, edit.dtype(node.input[0]))))
        node.input[0] = edit.insert(node, "Pad", inputs, mode=mode)
        edit.set_attribute(node, "pads", [0] * len(pads))
        return node.output[0]

    return plant


def _dilation(edit: OnnxEdit, rng: random.Random) -> str:
    places = []
    for node in edit.nodes("Conv"):
        kernel, pads = _kernel(edit, node), edit.attribute(node, "pads") or [0] * 4
        dilations = edit.attribute(node, "dilations") or [1] * len(kernel)
        grow = [(size - 1) // 2 for size in kernel]
        sizes_fit = all(size % 2 for size in kernel) and max(kernel) > 1 and len(kernel) == 2
        shrinks = dilations[0] > 1 and all(pad >= more for pad, more in zip(pads, grow * 2, strict=True))
        if sizes_fit and (shrinks or dilations[0] == 1):
            sign = -1 if shrinks else 1
            new_pads = [pad + sign * more for pad, more in zip(pads, grow * 2, strict=True)]
            places.append((node, [d + sign for d in dilations], new_pads))
    node, dilations, pads = drawn(rng, places)
    edit.set_attribute(node, "dilations", dilations)
    edit.set_attribute(node, "pads", pads)
    return node.output[0]


def _slope(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("LeakyRelu"))
    old = edit.attribute(node, "alpha", 0.01)
    edit.set_attribute(node, "alpha", drawn(rng, [value for value in (0.01, 0.1, 0.2) if abs(value - old) > 1e-6]))
    return node.output[0]


def _slope_ulp(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("LeakyRelu"))
    alpha = np.float32(edit.attribute(node, "alpha", 0.01))
    edit.set_attribute(node, "alpha", float(np.nextafter(alpha, np.float32(rng.choice([-1, 1])))))
    return node.output[0]


def _prelu(edit: OnnxEdit, rng: random.Random) -> str:
    slopes = [(node, edit.stored(node.input[1])) for node in edit.nodes("PRelu")]
    node, constant = drawn(rng, [(node, slope) for node, slope in slopes if slope is not None])
    constant.store(rolled(constant.values, rng))
    return node.output[0]


def _dropped(*types: str) -> OnnxFault:
    """A node that keeps the shape is left out."""

    def plant(edit: OnnxEdit, rng: random.Random) -> str:
        shape = edit.shape
        places = [node for node in edit.nodes(*types) if shape(node.input[0]) == shape(node.output[0]) != ()]
        node = drawn(rng, places)
        edit.rewire(node.output[0], node.input[0])
        return node.output[0]

    return plant


def _relu_to_relu6(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Relu"))
    bounds = [edit.constant(np.array(bound, edit.dtype(node.input[0]))) for bound in (0.0, 6.0)]
    node.op_type = "Clip"
    node.input.extend(bounds)
    return node.output[0]


def _relu6_to_relu(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, [node for node in edit.nodes("Clip") if len(node.input) > 2 and node.input[2]])
    del node.input[2:]
    return node.output[0]


def _relu_added(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Conv", "Add", "Gemm"))
    readers = [reader for reader in edit.readers(node.output[0]) if reader.op_type != "Relu"]
    reader = drawn(rng, readers)
    rectified = edit.insert(reader, "Relu", [node.output[0]])
    for at, name in enumerate(reader.input):
        if name == node.output[0]:
            reader.input[at] = rectified
    return node.output[0]


def _clamp(edit: OnnxEdit, rng: random.Random) -> str:
    places = []
    for node in edit.nodes("Clip"):
        for name in filter(None, node.input[1:]):
            bound = edit.stored(name)
            if bound is not None and bound.values.size == 1 and bound.values.item() != 0:
                places.append((node, bound))
    node, bound = drawn(rng, places)
    bound.store(bound.values * bound.values.dtype.type(0.98))
    return node.output[0]


def _gelu(edit: OnnxEdit, rng: random.Random) -> str:
    """The error function of the exact form becomes the hyperbolic tangent of the other."""
    if edit.nodes("Gelu"):
        node = drawn(rng, edit.nodes("Gelu"))
        exact = edit.attribute(node, "approximate", "none") == "none"
        edit.set_attribute(node, "approximate", "tanh" if exact else "none")
        return node.output[0]
    node = drawn(rng, edit.nodes("Erf"))
    dtype, x = edit.dtype(node.input[0]), node.input[0]

    def number(value: float) -> str:
        return edit.constant(np.array(value, dtype))

    cube = edit.insert(node, "Mul", [edit.insert(node, "Mul", [x, x]), x])
    linear = edit.insert(node, "Mul", [x, number(2 / math.sqrt(math.pi))])
    cubic = edit.insert(node, "Mul", [cube, number(0.044715 * 4 / math.sqrt(math.pi))])
    node.input[0] = edit.insert(node, "Add", [linear, cubic])
    node.op_type = "Tanh"
    return node.output[0]


def _sigmoid(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Sigmoid", "HardSigmoid", "HardSwish"))
    if node.op_type == "HardSwish":
        gate = edit.insert(node, "Sigmoid", [node.input[0]])
        node.op_type = "Mul"
        node.input.append(gate)
    elif node.op_type == "HardSigmoid":
        edit.set_attribute(node, "alpha", 0.2)
    else:
        node.op_type = "HardSigmoid"
        edit.set_attribute(node, "alpha", 1 / 6)
    return node.output[0]


def _tanh(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Sigmoid", "Tanh"))
    node.op_type = "Tanh" if node.op_type == "Sigmoid" else "Sigmoid"
    return node.output[0]


def _softmax_axis(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Softmax"))
    shape = edit.shape(node.input[0])
    now = edit.attribute(node, "axis", -1) % len(shape)
    edit.set_attribute(node, "axis", drawn(rng, [axis for axis in range(1, len(shape)) if axis != now]))
    return node.output[0]


def _softmax_sharper(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Softmax"))
    factor = edit.constant(np.array(1.01, edit.dtype(node.input[0])))
    node.input[0] = edit.insert(node, "Mul", [node.input[0], factor])
    return node.output[0]


def _norm_eps(edit: OnnxEdit, rng: random.Random) -> str:
    places = [node for node in edit.graph.node if edit.attribute(node, "epsilon") is not None]
    node = drawn(rng, places)
    edit.set_attribute(node, "epsilon", edit.attribute(node, "epsilon") * 10)
    return node.output[0]


def _pads_counted(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, [node for node in edit.nodes("AveragePool") if any(edit.attribute(node, "pads") or [0])])
    edit.set_attribute(node, "count_include_pad", 1 - edit.attribute(node, "count_include_pad", 0))
    return node.output[0]


def _pool(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, [node for node in edit.nodes(*_POOLS) if len(node.output) == 1])
    for name in ("count_include_pad", "storage_order"):
        edit.set_attribute(node, name, None)
    node.op_type = "MaxPool" if node.op_type == "AveragePool" else "AveragePool"
    return node.output[0]


def _mean(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("GlobalAveragePool", "ReduceMean"))
    node.op_type = "GlobalMaxPool" if node.op_type == "GlobalAveragePool" else "ReduceMax"
    return node.output[0]


def _attribute(op_type: str, name: str, choices: Sequence[Any], default: Any, **where: Any) -> OnnxFault:
    """Another of the choices for an attribute."""

    def plant(edit: OnnxEdit, rng: random.Random) -> str:
        places = [
            node
            for node in edit.nodes(op_type)
            if all(edit.attribute(node, key, value) == value for key, value in where.items())
        ]
        node = drawn(rng, places)
        now = edit.attribute(node, name, default)
        edit.set_attribute(node, name, drawn(rng, [choice for choice in choices if choice != now]))
        return node.output[0]

    return plant


def _resize_kind(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, edit.nodes("Resize"))
    linear = edit.attribute(node, "mode", "nearest") != "nearest"
    edit.set_attribute(node, "mode", "nearest" if linear else "linear")
    if linear:
        edit.set_attribute(node, "nearest_mode", "floor")
    return node.output[0]


def _concat(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, [node for node in edit.nodes("Concat") if len(set(node.input)) > 1 and not _of_sizes(edit, node)])
    first, second = rng.sample(range(len(node.input)), 2)
    node.input[first], node.input[second] = node.input[second], node.input[first]
    return node.output[0]


def _of_sizes(edit: OnnxEdit, node: onnx.NodeProto) -> bool:
    """Whether a node computes shapes, not values."""
    return edit.dtype(node.output[0]).kind in "iu"


def _two_operands(edit: OnnxEdit, *types: str) -> list[onnx.NodeProto]:
    found = []
    for node in edit.nodes(*types):
        names = list(node.input)
        if len(set(names)) == 2 and all(edit.stored(name) is None for name in names) and not _of_sizes(edit, node):
            found.append(node)
    return found


def _operand_dropped(edit: OnnxEdit, rng: random.Random) -> str:
    places = []
    for node in _two_operands(edit, "Add", "Mul", "Sub"):
        places += [(node, name) for name in node.input if edit.shape(name) == edit.shape(node.output[0]) != ()]
    node, kept = drawn(rng, places)
    edit.rewire(node.output[0], kept)
    return node.output[0]


def _operand_doubled(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, _two_operands(edit, "Add", "Mul"))
    shapes = [edit.shape(name) for name in node.input]
    larger = 0 if math.prod(shapes[0]) >= math.prod(shapes[1]) else 1
    node.input[1 - larger] = node.input[larger]
    return node.output[0]


def _operands_exchanged(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, [node for node in edit.nodes("Sub", "Div") if not _of_sizes(edit, node)])
    first, second = node.input
    node.input[0], node.input[1] = second, first
    return node.output[0]


def _added_to_multiplied(edit: OnnxEdit, rng: random.Random) -> str:
    node = drawn(rng, _two_operands(edit, "Add", "Mul", "Sub"))
    node.op_type = drawn(rng, [kind for kind in ("Add", "Mul", "Sub") if kind != node.op_type])
    return node.output[0]


def _results_exchanged(edit: OnnxEdit, rng: random.Random) -> str:
    """Two results of Split, or two outputs of the graph, of the same shape."""
    pairs = [list(node.output) for node in edit.nodes("Split")]
    same = [names for names in (*pairs, edit.outputs) if len({(edit.shape(n), edit.dtype(n)) for n in names}) == 1]
    names = drawn(rng, [names for names in same if len(names) > 1])
    first, second = rng.sample(names, 2)
    if names in pairs:
        node = edit.producer(first)
        assert node is not None  # a Split
        at = {name: index for index, name in enumerate(node.output)}
        node.output[at[first]], node.output[at[second]] = second, first
        return first
    exchanged = {first: second, second: first}
    for node in edit.graph.node:
        for side in (node.input, node.output):
            side[:] = [exchanged.get(name, name) for name in side]
    return first


def _images(edit: OnnxEdit) -> list[tuple[onnx.NodeProto, tuple[int, ...]]]:
    """Nodes that read images."""
    nodes = edit.nodes("Conv", *_POOLS, "Resize", "ConvTranspose", "Concat", "GlobalAveragePool", "ReduceMean")
    shapes = [(node, edit.shape(node.input[0])) for node in nodes]
    return [(node, shape) for node, shape in shapes if len(shape) == 4 and min(shape[1:]) > 1]


def _sides_exchanged(edit: OnnxEdit, rng: random.Random) -> str:
    node, _ = drawn(rng, [(node, shape) for node, shape in _images(edit) if shape[2] == shape[3]])
    node.input[0] = edit.insert(node, "Transpose", [node.input[0]], perm=[0, 1, 3, 2])
    return node.output[0]


def _layout_misread(edit: OnnxEdit, rng: random.Random) -> str:
    """The elements of (N, C, H, W) are taken for those of (N, H, W, C)."""
    node, (batch, channels, height, width) = drawn(rng, _images(edit))
    shape = edit.constant(np.array([batch, height, width, channels], np.int64))
    misread = edit.insert(node, "Reshape", [node.input[0], shape])
    node.input[0] = edit.insert(node, "Transpose", [misread], perm=[0, 3, 1, 2])
    return node.output[0]


def _permutation(edit: OnnxEdit, rng: random.Random) -> str:
    places = []
    for node in edit.nodes("Transpose"):
        shape, perm = edit.shape(node.input[0]), list(edit.attribute(node, "perm"))
        same = [(a, b) for a in range(len(perm)) for b in range(a) if shape and shape[perm[a]] == shape[perm[b]] > 1]
        places += [(node, perm, pair) for pair in same]
    node, perm, (first, second) = drawn(rng, places)
    perm[first], perm[second] = perm[second], perm[first]
    edit.set_attribute(node, "perm", perm)
    return node.output[0]


def _slice(edit: OnnxEdit, rng: random.Random) -> str:
    places = []
    for node in edit.nodes("Slice"):
        starts, ends = edit.stored(node.input[1]), edit.stored(node.input[2])
        axes = edit.stored(node.input[3]) if len(node.input) > 3 else None
        if starts is None or ends is None or starts.values.size != 1:
            continue
        axis = int(axes.values.item()) if axes is not None else 0
        size = edit.shape(node.input[0])[axis]
        start, end = int(starts.values.item()), min(int(ends.values.item()), size)
        by = 1 if end < size else -1
        if start + by >= 0 and end > 0:
            places.append((node, start + by, end + by))
    node, start, end = drawn(rng, places)
    node.input[1] = edit.constant(np.array([start], np.int64))
    node.input[2] = edit.constant(np.array([end], np.int64))
    return node.output[0]


def _depth_to_space(edit: OnnxEdit, rng: random.Random) -> str:
    return _attribute("DepthToSpace", "mode", ("DCR", "CRD"), "DCR")(edit, rng)


def _read_otherwise(place: int) -> OnnxFault:
    """One DequantizeLinear reads an activation with a scale or a zero point of its own."""

    def plant(edit: OnnxEdit, rng: random.Random) -> str:
        written = {name for node in edit.nodes("QuantizeLinear") for name in node.output}
        readers = [node for node in edit.nodes("DequantizeLinear") if node.input[0] in written]
        node = drawn(rng, [node for node in readers if len(node.input) > place])
        right = edit.stored(node.input[place])
        if right is None:
            raise NoPlaceError
        up = right.values < 100 if place == 2 else np.array(True)
        other = right.values * np.float32(1.01) if place == 1 else right.values + np.where(up, 1, -1)
        node.input[place] = edit.constant(other.astype(right.values.dtype))
        return node.input[0]

    return plant


ONNX_FAULTS: dict[str, OnnxFault] = {
    "scale-of-a-reader": _read_otherwise(1),
    "zero-point-of-a-reader": _read_otherwise(2),
    "padding-shifted": _shifted_window(strided=False),
    "stride-phase": _shifted_window(strided=True),
    "padding-of-edges": _padded_before("edge"),
    "padding-of-ones": _padded_before("constant", 1.0),
    "dilation": _dilation,
    "slope": _slope,
    "slope-ulp": _slope_ulp,
    "prelu-permuted": _prelu,
    "activation-dropped": _dropped(*_ACTIVATIONS),
    "relu-to-relu6": _relu_to_relu6,
    "relu6-to-relu": _relu6_to_relu,
    "relu-added": _relu_added,
    "clamp": _clamp,
    "gelu": _gelu,
    "sigmoid-hard": _sigmoid,
    "sigmoid-tanh": _tanh,
    "softmax-axis": _softmax_axis,
    "softmax-sharper": _softmax_sharper,
    "norm-eps": _norm_eps,
    "pads-counted": _pads_counted,
    "pool-exchanged": _pool,
    "mean-to-max": _mean,
    "resize-convention": _attribute(
        "Resize", "coordinate_transformation_mode", ("half_pixel", "align_corners", "asymmetric"), "half_pixel"
    ),
    "nearest-rounding": _attribute(
        "Resize", "nearest_mode", ("floor", "ceil", "round_prefer_ceil"), "round_prefer_floor", mode="nearest"
    ),
    "resize-kind": _resize_kind,
    "concat-order": _concat,
    "operand-dropped": _operand_dropped,
    "operand-doubled": _operand_doubled,
    "operands-exchanged": _operands_exchanged,
    "another-arithmetic": _added_to_multiplied,
    "layer-skipped": _dropped("Conv", *_POOLS, "Gemm", "MatMul"),
    "outputs-exchanged": _results_exchanged,
    "sides-exchanged": _sides_exchanged,
    "layout-misread": _layout_misread,
    "permutation": _permutation,
    "slice-shifted": _slice,
    "depth-to-space": _depth_to_space,
}
__all__ = ["ONNX_FAULTS", "NoPlaceError", "OnnxFault"]
