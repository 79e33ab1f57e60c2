"""Convolutions, average pools and scaled identities in one form, in which branches of a sum can be added.

Every branch is a correlation of its input, extended by zeros on all sides, with some taps: the output at position ``o``
sees the input at ``o * stride + offset``, for the offset of each tap. Padding, kernel size and dilation only decide
which offsets there are, and two branches of equal stride are added tap by tap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeconv.graph.affine_maps import Affine, affine
from edgeconv.graph.constants import Float64, add_constant, exact
from edgeconv.graph.edit import dims, graph_of, input_of, only_reader, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like
from edgeconv.graph.windows import dilations_of, pads_by_size, stated_pads, strides_of


@dataclass(frozen=True)
class Window:
    """The taps along one axis.

    Attributes:
        start: offset of the first tap, at most 0: the padding before the input, negated.
        step: distance between taps; the dilation.
        count: how many taps there are.
        spare: the padding at the end minus the offset of the last tap. Two branches with outputs of one length may
            differ in it, by less than a stride.
    """

    start: int
    step: int
    count: int
    spare: int

    @property
    def last(self) -> int:
        """Offset of the last tap."""
        return self.start + self.step * (self.count - 1)

    @property
    def padding(self) -> tuple[int, int]:
        """Padding at the start and at the end, as ONNX's ``pads``."""
        return -self.start, self.spare + self.last

    def __add__(self, other: Window) -> Window:
        """The smallest window that has the taps of both."""
        start, last = min(self.start, other.start), max(self.last, other.last)
        steps = [window.step for window in (self, other) if window.count > 1]
        # All offsets of both are multiples of this step apart; windows of one tap have no step of their own.
        step = math.gcd(*steps, self.start - other.start) or 1
        return Window(start, step, (last - start) // step + 1, self.spare)

    def places_in(self, whole: Window) -> slice:
        """The positions of the taps among those of a window that contains them all."""
        begin, stride = (self.start - whole.start) // whole.step, max(1, self.step // whole.step)
        return slice(begin, begin + stride * (self.count - 1) + 1, stride)


@dataclass(frozen=True)
class Taps:
    """The form of a branch's weights, without their values.

    Attributes:
        windows: one per spatial axis.
        groups: as in `Linear`.
        channels_in: Cin.
        channels_out: Cout.
    """

    windows: tuple[Window, ...]
    groups: int
    channels_in: int
    channels_out: int

    @property
    def weights(self) -> int:
        """The number of weights, which is that of multiply-adds per output position."""
        taps = math.prod(window.count for window in self.windows)
        return self.channels_out * (self.channels_in // self.groups) * taps

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position sees one input position, without padding: a kernel of 1."""
        return all(window.count == 1 and window.padding == (0, 0) for window in self.windows)

    def __add__(self, other: Taps) -> Taps:
        """The smallest form that holds both: a group of it spans whole groups of either."""
        windows = tuple(first + second for first, second in zip(self.windows, other.windows, strict=True))
        return replace(self, windows=windows, groups=math.gcd(self.groups, other.groups))

    def spread(self, weight: Float64, whole: Taps) -> Float64:
        """``weight``, [Cout, Cin/groups, taps…], in the form of ``whole``, with zeros for what it does not have."""
        # Several groups become one: a block-diagonal matrix of channels, with one of our groups in each block.
        parts = self.groups // whole.groups
        out, inner = self.channels_out // self.groups, self.channels_in // self.groups
        sizes = [window.count for window in whole.windows]
        full = np.zeros((whole.groups, parts, out, parts, inner, *sizes))
        places = tuple(window.places_in(outer) for window, outer in zip(self.windows, whole.windows, strict=True))
        ours = weight.reshape(whole.groups, parts, out, inner, *weight.shape[2:])
        for part in range(parts):
            block: tuple[slice | int, ...] = (slice(None), part, slice(None), part, slice(None), *places)
            full[block] = ours[:, part]
        return full.reshape(self.channels_out, parts * inner, *sizes)


@dataclass(frozen=True)
class Branch:
    """One operand of a sum, or several of them merged.

    Attributes:
        source: x.
        strides: one per spatial axis.
        taps: the form of its weights.
        cost: multiply-adds per output position that it takes as it is; 0 for the input itself.
        convolves: whether it has a Conv or pool, and not only a scale.
        numbers: computes weight [Cout, Cin/groups, taps…] and bias [Cout], float64; called only if they are needed.
    """

    source: ir.Value
    strides: tuple[int, ...]
    taps: Taps
    cost: int
    convolves: bool
    numbers: Callable[[], tuple[Float64, Float64]]

    def __add__(self, other: Branch) -> Branch | None:
        """Both in one branch; None if that takes more multiply-adds than the two and their addition."""
        taps = self.taps + other.taps
        costs = self.cost + other.cost + self.taps.channels_out
        if taps.weights > costs or not (self.convolves or other.convolves):
            return None

        def numbers() -> tuple[Float64, Float64]:
            (weight, bias), (more, shift) = self.numbers(), other.numbers()
            return self.taps.spread(weight, taps) + other.taps.spread(more, taps), bias + shift

        return replace(self, taps=taps, cost=taps.weights, convolves=True, numbers=numbers)


def branch(operand: ir.Value, sign: float) -> Branch | None:
    """Reads an operand of a sum, multiplied by ``sign``; None if it has not that form.

    Affine nodes that nothing but the sum depends on belong to the branch, and so does the Conv or pool before them.
    """
    maps, value = _affine_chain(operand)
    inner = window(value.producer()) if only_reader(value) is not None else None
    inner = _identity(value) if inner is None else inner
    if inner is None or any(item.along(1, inner.taps.channels_out) is None for item in maps):
        return None
    cost = inner.cost if inner.convolves else inner.taps.channels_out * len(maps)
    return replace(inner, cost=cost, numbers=_mapped(inner, maps, sign))


def window(node: ir.Node | None) -> Branch | None:
    """Reads a single Conv, or AveragePool whose divisor is the same everywhere; None for other nodes."""
    reader = _READERS.get(node.op_type) if node is not None and node.domain == "" else None
    return reader(node) if reader is not None and node is not None else None


def _affine_chain(value: ir.Value) -> tuple[list[Affine], ir.Value]:
    """The chain of affine nodes that ends in a value, last one first, and the value that it starts from."""
    maps: list[Affine] = []
    node = value.producer()
    while node is not None and only_reader(value) is not None and (affine_map := affine(node)) is not None:
        maps.append(affine_map)
        value = affine_map.source
        node = value.producer()
    return maps, value


def _mapped(inner: Branch, maps: list[Affine], sign: float) -> Callable[[], tuple[Float64, Float64]]:
    """The numbers of a branch with affine maps behind it, times a sign."""

    def numbers() -> tuple[Float64, Float64]:
        weight, bias = inner.numbers()
        for item in reversed(maps):
            scale, shift = item.along(1, len(bias)) or (np.ones(1), np.zeros(1))
            weight, bias = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), bias * scale + shift
        return weight * sign, bias * sign

    return numbers


def _identity(value: ir.Value) -> Branch | None:
    """A value itself, as a depthwise convolution by one tap of 1."""
    shape = value.shape
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        return None
    channels, spatial = shape[1], len(shape) - 2
    taps = Taps((Window(0, 1, 1, 0),) * spatial, channels, channels, channels)
    ones = (channels, 1, *(1,) * spatial)
    return Branch(value, (1,) * spatial, taps, 0, False, lambda: (np.ones(ones), np.zeros(channels)))


def _convolution(node: ir.Node) -> Branch | None:
    source, tensor = node.inputs[0], tensor_of(node.inputs[1])
    bias = input_of(node, 2)
    if source is None or tensor is None or (bias is not None and exact(bias) is None):
        return None
    channels_out, per_group, *kernel = tensor.shape.numpy()
    windows = _windows(node, kernel)
    if windows is None:
        return None
    groups = node.attributes.get_int("group", 1)
    taps = Taps(windows, groups, per_group * groups, channels_out)

    def numbers() -> tuple[Float64, Float64]:
        weight, shift = exact(node.inputs[1]), exact(bias)
        if weight is None:
            raise ir.passes.PreconditionError(f"the weight of {node.outputs[0].name} is no longer constant")
        return weight, np.zeros(channels_out) if shift is None else shift

    strides = strides_of(node, len(kernel))
    return Branch(source, tuple(strides), taps, taps.weights, True, numbers)


def _average(node: ir.Node) -> Branch | None:
    """An AveragePool whose divisor is the window's size everywhere, as a depthwise convolution."""
    source, kernel = node.inputs[0], node.attributes.get_ints("kernel_shape", ())
    windows = _windows(node, kernel)
    shape = dims(source)
    if source is None or shape is None or windows is None or node.attributes.get_int("ceil_mode", 0) != 0:
        return None
    if any(stated_pads(node, len(kernel))) and not node.attributes.get_int("count_include_pad", 0):
        return None
    channels = shape[1]
    taps = Taps(windows, channels, channels, channels)
    weight = np.full((channels, 1, *kernel), 1.0 / math.prod(kernel))
    strides = strides_of(node, len(kernel))
    return Branch(source, tuple(strides), taps, taps.weights, True, lambda: (weight, np.zeros(channels)))


def _windows(node: ir.Node, kernel: Sequence[int]) -> tuple[Window, ...] | None:
    """One window per spatial axis; None where the padding follows from the input's size."""
    if pads_by_size(node):
        return None
    spatial = len(kernel)
    pads = stated_pads(node, spatial)
    dilations = dilations_of(node, spatial)
    return tuple(
        Window(-begin, step, size, end - (step * (size - 1) - begin))
        for size, step, begin, end in zip(kernel, dilations, pads[:spatial], pads[spatial:], strict=True)
    )


def convolution(node: ir.Node, conv: Branch, numbers: tuple[Float64, Float64], suffix: str = "") -> ir.Value:
    """Inserts the Conv of a branch before ``node``, like whose result its own is; returns that result."""
    graph, base = graph_of(node), f"{node.outputs[0].name}{suffix}"
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    weight, bias = numbers
    inputs = [conv.source, add_constant(graph, unique_name(graph, f"{base}.weight"), weight, dtype)]
    if bias.any():
        inputs.append(add_constant(graph, unique_name(graph, f"{base}.bias"), bias, dtype))
    windows = conv.taps.windows
    before, behind = zip(*(window.padding for window in windows), strict=True)
    attributes = [
        ir.AttrInt64s("kernel_shape", [window.count for window in windows]),
        ir.AttrInt64s("pads", [*before, *behind]),
        ir.AttrInt64s("strides", list(conv.strides)),
        ir.AttrInt64s("dilations", [window.step for window in windows]),
        ir.AttrInt64("group", conv.taps.groups),
    ]
    return insert_like(node, "Conv", inputs, attributes, unique_name(graph, base))


_READERS: dict[str, Callable[[ir.Node], Branch | None]] = {
    "AveragePool": _average,
    "Conv": _convolution,
}
