"""Checks what the specification asks of a node's operands and attributes, and onnx's shape inference does not.

Later stages would fail with messages of numpy, or kernels would differ.

- `check_operands`: shapes of operands fit each other. A rule takes the node and the shapes of its inputs (None where
  unknown), and returns whether they may be right.
- `check_flags`: flags are 0 or 1; runtimes, and onnx's own inference, differ in what 2 means.
- `check_scalars`: operands that must be a single number are one.
- `check_groups`: weights, groups, biases and statistics fit the channels.
- `check_axes`: a stated axis exists.
- `check_windows`: no window reaches beyond its padded input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.traits import Trait, having

Sizes = Sequence[int]
Rule = Callable[[ir.Node, Sequence[Sizes | None]], bool]


def check_operands(graph: ir.Graph) -> None:
    """Checks the shapes of all operands, as far as they are known.

    Raises:
        CaptureError: they do not fit; names the node and the shapes.
    """
    for node in graph:
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if rule is None:
            continue
        sizes = [_sizes(value) for value in node.inputs]
        if not rule(node, sizes):
            listed = ", ".join("?" if shape is None else str(list(shape)) for shape in sizes)
            what = f"{node.op_type} cannot compute with operands of the shapes {listed}"
            raise refused(node, what, "correct the model")


def _sizes(value: ir.Value | None) -> Sizes | None:
    """The static shape of a value, declared, inferred or a constant's; None where it is unknown or open."""
    if value is None:
        return None
    if value.shape is None:
        array = constant(value)
        return None if array is None else array.shape
    return list(value.shape.numpy()) if value.shape.is_static() else None


def _at(sizes: Sequence[Sizes | None], index: int) -> Sizes | None:
    return sizes[index] if index < len(sizes) else None


def _spreads(part: Sizes | None, whole: Sizes | None) -> bool:
    """Whether a tensor broadcasts to another one, which keeps its shape."""
    if part is None or whole is None:
        return True
    pairs = zip(reversed(part), reversed(whole), strict=False)
    return len(part) <= len(whole) and all(size in (1, due) for size, due in pairs)


def _convolution(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """The weight's kernel equals ``kernel_shape``, and strides, dilations and pads have as many entries as its axes.

    That the kernel has as many axes as the image is checked by onnx's inference.
    """
    weight = sizes[1]
    if weight is None:
        return True
    kernel = list(weight[2:])
    counts = {"strides": 1, "dilations": 1, "output_padding": 1, "output_shape": 1, "pads": 2}
    stated = [(len(node.attributes.get_ints(name, ())), times) for name, times in counts.items()]
    return (
        bool(kernel)
        and list(node.attributes.get_ints("kernel_shape", kernel)) == kernel
        and all(count in (0, times * len(kernel)) for count, times in stated)
    )


def _gemm(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """(M, K), (K, N), and a C that broadcasts to (M, N)."""
    a, b = sizes[:2]
    if a is None or b is None:
        return True
    if len(a) != 2 or len(b) != 2:
        return False
    a = a[::-1] if node.attributes.get_int("transA", 0) else a
    b = b[::-1] if node.attributes.get_int("transB", 0) else b
    return a[1] == b[0] and _spreads(_at(sizes, 2), [a[0], b[1]])


def _parameters(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """Slopes, scales and shifts broadcast to the first input."""
    return all(_spreads(part, sizes[0]) for part in sizes[1:])


def _by_channel(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """All inputs but the first have shape (C,)."""
    x, *parts = sizes
    return x is None or (len(x) > 1 and all(part is None or list(part) == [x[1]] for part in parts))


def _elements(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """Indices have the rank of the data and, except along the axis, at most its sizes; updates have their shape."""
    x, indices, updates = sizes[0], sizes[1], _at(sizes, 2)
    if indices is None:
        return True
    if updates is not None and list(updates) != list(indices):
        return False
    if x is None:
        return True
    axis = node.attributes.get_int("axis", 0)
    beside = [pair for i, pair in enumerate(zip(indices, x, strict=False)) if i != axis % max(len(x), 1)]
    return len(indices) == len(x) and all(count <= size for count, size in beside)


def _scattered(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """ScatterND: updates have the shape indices.shape[:-1] + data.shape[indices.shape[-1]:]."""
    x, indices, updates = sizes[:3]
    if x is None or indices is None or updates is None:
        return True
    depth = indices[-1] if indices else len(x) + 1
    return depth <= len(x) and list(updates) == [*indices[:-1], *x[depth:]]


def _vectors(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """All inputs but the first (axes, shapes, counts) are vectors or scalars."""
    return all(part is None or len(part) <= 1 for part in sizes[1:])


def _slice(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """Starts, ends, axes and steps are vectors of one length."""
    lists = [part for part in sizes[1:] if part is not None]
    return all(list(part) == list(lists[0]) and len(part) == 1 for part in lists)


def _pad(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    return _vectors(node, [None, _at(sizes, 1), _at(sizes, 3)])


def _resize(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """Roi, scales and sizes are vectors; of scales and sizes there are one per axis, or none.

    `_stated_resizes` checks the length of roi, where the mode uses it.
    """
    axes = node.attributes.get_ints("axes", ())
    count = len(axes) or (len(sizes[0]) if sizes[0] is not None else None)
    if any(part is not None and len(part) != 1 for part in sizes[1:4]):
        return False
    return count is None or all(part is None or part[0] in (0, count) for part in sizes[2:4])


def _recurrent(node: ir.Node, sizes: Sequence[Sizes | None]) -> bool:
    """X, W and R have three axes; `onnx_file._recurrent` checks their sizes."""
    return all(part is None or len(part) == 3 for part in sizes[:3])


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(having(Trait.REDUCES), _vectors),
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Expand": _vectors,
    "GRU": _recurrent,
    "GatherElements": _elements,
    "Gemm": _gemm,
    "GroupNormalization": _by_channel,
    "LSTM": _recurrent,
    "LayerNormalization": _parameters,
    "PRelu": _parameters,
    "Pad": _pad,
    "RMSNormalization": _parameters,
    "RNN": _recurrent,
    "Reshape": _vectors,
    "Resize": _resize,
    "ScatterElements": _elements,
    "ScatterND": _scattered,
    "Slice": _slice,
    "Split": _vectors,
    "Squeeze": _vectors,
    "Tile": _vectors,
    "Unsqueeze": _vectors,
}


# Attributes of the standard operators that the specification calls a boolean, or gives these two values.
_FLAGS = frozenset(
    {"align_corners", "allowzero", "antialias", "ceil_mode", "count_include_pad", "detect_negative", "detect_positive"}
    | {"exclude_outside", "exclusive", "fmod", "input_forget", "inverse", "is_causal", "keepdims", "largest", "layout"}
    | {"linear_before_reset", "noop_with_empty_axes", "onesided", "reverse", "saturate", "select_last_index", "sorted"}
    | {"storage_order", "training_mode", "transA", "transB", "upper"}
)


def check_flags(graph: ir.Graph) -> None:
    """Checks every flag, in subgraphs too.

    Raises:
        CaptureError: one is neither 0 nor 1; names the node.
    """
    for node in graph.all_nodes():
        for name in _FLAGS & node.attributes.keys() if node.domain == "" else ():
            attribute = node.attributes[name]
            if attribute.type == ir.AttributeType.INT and attribute.as_int() not in (0, 1):
                what = f"{node.op_type} has {name} {attribute.as_int()}"
                raise refused(node, what, "state 0 or 1")


_SCALARS: Mapping[str, Mapping[int, str]] = {
    "Clip": {1: "min", 2: "max"},
    "CumProd": {1: "axis"},
    "CumSum": {1: "axis"},
    "Dropout": {1: "ratio", 2: "training_mode"},
    "OneHot": {1: "depth"},
    "Pad": {2: "constant_value"},
    "Range": {0: "start", 1: "limit", 2: "delta"},
    "TopK": {1: "k"},
    "Trilu": {1: "k"},
}


def check_scalars(graph: ir.Graph) -> None:
    """Checks that each such operand has one element, of whatever rank, as far as its shape is known.

    Raises:
        CaptureError: one has more, or none; names the node.
    """
    for node in graph:
        for index, name in _SCALARS.get(node.op_type, {}).items() if node.domain == "" else ():
            value = input_of(node, index)
            if value is None or value.shape is None or not value.shape.is_static():
                continue
            if math.prod(value.shape.numpy()) != 1:
                shape = list(value.shape)
                what = f"{node.op_type} takes one number as its {name}, and has a tensor of the shape {shape}"
                raise refused(node, what, "give one number")


_PER_CHANNEL = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
}
"""Inputs that have one number per channel of the result."""


def check_groups(graph: ir.Graph) -> None:
    """Checks the weights of convolutions, and the biases and statistics of convolutions and normalizations.

    ONNX: Conv's W is (M, C / group, ...) with M a multiple of group; ConvTranspose's is (C, M / group, ...); B is (M,),
    and so are the parameters of normalizations, M being C there.

    Raises:
        CaptureError: they do not fit; names the node.
    """
    for node in graph:
        _check_per_channel(node)
        if node.op_type not in having(Trait.LAYER | Trait.WINDOWS) or len(node.inputs) < 2:
            continue
        x, weight = (value.shape if value is not None else None for value in node.inputs[:2])
        if x is None or weight is None or not (x.is_static() and weight.is_static()) or min(len(x), len(weight)) < 3:
            continue
        channels, group = x.numpy()[1], node.attributes.get_int("group", 1)
        first, second = weight.numpy()[:2]
        fits = first == channels if node.op_type == "ConvTranspose" else second * group == channels
        if not fits or first % group or channels % group:
            shape = list(weight.numpy())
            what = f"{node.op_type} of {channels} channels in {group} groups has a weight of the shape {shape}"
            raise refused(node, what, "correct the model")


def _check_per_channel(node: ir.Node) -> None:
    positions = _PER_CHANNEL.get(node.op_type, ())
    result = next((value.shape for value in node.outputs), None)
    if result is None or len(result) < 2 or not isinstance(result[1], int):
        return
    channels = result[1]
    for value in (node.inputs[at] for at in positions if at < len(node.inputs)):
        shape = None if value is None else value.shape
        if value is not None and shape is not None and shape.is_static() and shape != (channels,):
            what = f"{node.op_type} of {channels} channels takes {value.name!r} of the shape {list(shape.numpy())}"
            raise refused(node, what, "correct the model")


# Operators whose axis is not one of the first input: it is of the result, may be one past the last, or is ignored where
# there is one scale.
_OTHERWISE = frozenset(
    {"Concat", "ConcatFromSequence", "DequantizeLinear", "Flatten", "OneHot", "QuantizeLinear", "Unsqueeze"}
)
_ATTRIBUTES = ("axis", "axes", "time_axis", "batch_axis")


def check_axes(graph: ir.Graph) -> None:
    """Checks that every axis which a node states is from -r to r - 1, where r is the rank of its first input.

    Raises:
        CaptureError: one is not; names the node.
    """
    for node in graph:
        if node.op_type in _OTHERWISE or not node.inputs or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        rank = len(node.inputs[0].shape)
        most = max(rank, 1)  # kernels accept axis 0 and -1 of a scalar
        beyond = [axis for axis in _axes(node) if not -most <= axis < most]
        if beyond:
            what = f"{node.op_type} is along axis {beyond[0]} of a value of {rank} axes"
            raise refused(node, what, "state an axis that it has")


def check_windows(graph: ir.Graph) -> None:
    """Checks that at least one window fits into each image; inferred shapes may be negative otherwise, or empty.

    Raises:
        CaptureError: none does; names the node, and the shape of the image.
    """
    for node in graph:
        is_windowed = node.op_type in having(Trait.WINDOWS) and node.domain == ""
        image = _sizes(input_of(node, 0)) if is_windowed else None
        if image is None or min(image, default=1) < 1 or node.outputs[0].shape is None:
            continue
        if any(isinstance(size, int) and size < 1 for size in node.outputs[0].shape):
            weight = _sizes(input_of(node, 1)) or ()
            kernel = list(node.attributes.get_ints("kernel_shape", weight[2:]))
            dilations = "" if set(node.attributes.get_ints("dilations", [1])) == {1} else ", dilated,"
            what = f"{node.op_type} has a window of {kernel}{dilations} for an input of the shape {image}"
            raise refused(node, f"{what}, which is too small, padding included", "give the model larger inputs")


def _axes(node: ir.Node) -> Iterator[int]:
    for name in _ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT:
            yield attribute.as_int()
        elif attribute is not None and attribute.type == ir.AttributeType.INTS:
            yield from attribute.as_ints()
    if node.op_type in ("CumSum", "CumProd") and (axis := constant(node.inputs[1])) is not None:
        yield int(axis.reshape(-1)[0])
