"""What of a graph the inputs of a proof reach: clamps, branches of activations, padding, ends of integer ranges.

A fault in a part that no input reaches changes nothing that a proof sees at the outputs: a ReLU6 that is a ReLU where
nothing is above 6, a slope of a LeakyReLU that is wrong where nothing is negative, a border that is repeated instead of
padded where all of it is zero anyway. Such parts are counted and named.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.values import counted
from edgeconv.core.verdicts import Coverage, PartKind, UnreachedPart
from edgeconv.graph.edit import constant, dims, input_of
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import dilations_of, stated_pads, strides_of

Observe = Callable[[int, str, Array], None]
"""Hears of a value: the sample's index, the value's name, and its array in torch's layout."""
_Test = Callable[[Array], npt.NDArray[np.bool_]]
_SIDES = {1: (("start", "end"),), 2: (("top", "bottom"), ("left", "right"))}
_IN = ", in "  # so many channels
_POOLS = having(Trait.WINDOWS | Trait.BY_CHANNEL)


@dataclass(eq=False)
class _Part:
    """A part of a graph, and whether it was reached: by channel where each has constants of its own."""

    kind: PartKind
    node: ir.Node
    text: str
    test: _Test
    reached: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, np.bool_))

    def told(self) -> UnreachedPart:
        count = self.reached.size
        of = f"{_IN}{int(np.sum(~self.reached))} of {counted(count, 'channel')}" if count > 1 else ""
        return UnreachedPart(self.kind, self.node.outputs[0].name or "", self.node.op_type, self.text + of)


@dataclass(frozen=True, eq=False)
class Heard:
    """What a value reaches of a part: by channel where each has constants of its own."""

    name: str
    part: _Part
    reached: npt.NDArray[np.bool_]


class Reach:
    """Hears of the values of a graph, sample by sample, and tells what was reached.

    Args:
        model: ONNX operators; values inside of subgraphs are left out.
    """

    def __init__(self, model: ir.Model) -> None:
        self._open: dict[str, list[_Part]] = defaultdict(list)
        self._parts: list[_Part] = []
        for node in model.graph:
            operand = input_of(node, 0)
            if operand is not None and constant(operand) is None:
                parts = list(_parts(node))
                self._parts += parts
                self._open[operand.name or ""] += parts

    @property
    def is_complete(self) -> bool:
        """Whether all is reached, and no further sample can tell more."""
        return not any(self._open.values())

    def observer(self, counting: Sequence[bool] | None = None) -> Observe:
        """What hears of values.

        Args:
            counting: whether each sample is one of the proof; all are by default.
        """

        def observe(sample: int, name: str, array: Array) -> None:
            if counting is None or counting[sample]:
                self.take(self.heard(name, array))

        return observe

    def heard(self, name: str, array: Array) -> list[Heard]:
        """What a value reaches of what is left, which does not count yet."""
        return [Heard(name, part, part.test(array)) for part in self._open.get(name, ())]

    def take(self, heard: Sequence[Heard]) -> bool:
        """Counts what was heard as reached; tells whether any of it was not before."""
        is_more = False
        for item in heard:
            is_more |= bool((item.reached & ~item.part.reached).any())
            item.part.reached = item.part.reached | item.reached
        for name in {item.name for item in heard}:
            self._open[name] = [part for part in self._open[name] if not part.reached.all()]
        return is_more

    def with_derived(self, own: Coverage) -> Coverage:
        """What the proof's own inputs reached, with what was reached of the rest since."""
        left = {(part.kind, part.name, part.part.split(_IN)[0]) for part in self.coverage().unreached}
        derived = [part for part in own.unreached if (part.kind, part.name, part.part.split(_IN)[0]) not in left]
        return replace(own, derived=tuple(derived))

    def coverage(self) -> Coverage:
        """What was reached so far."""
        unreached = tuple(part.told() for part in self._parts if not part.reached.all())
        return Coverage(dict(Counter(part.kind for part in self._parts)), unreached)


def _parts(node: ir.Node) -> Iterator[_Part]:
    """The parts of an operator."""
    if node.op_type in _KINKS:
        bends = bends_of(node)
        ends = [-math.inf, *bends, math.inf]
        for low, high in pairwise(ends) if bends else ():
            yield _Part(_KINKS[node.op_type][0], node, _between(low, high), _within(low, high))
    elif node.op_type == "PRelu":
        yield _Part(PartKind.BRANCH, node, "below 0", _negative_by_channel(node))
        yield _Part(PartKind.BRANCH, node, "above 0", _within(0.0, math.inf))
    elif node.op_type == "QuantizeLinear":
        yield from _saturations(node)
    elif node.op_type == "Conv" or node.op_type in _POOLS:
        yield from _borders(node)
    elif node.op_type == "Pad":
        yield from _padded(node)


def bends_of(node: ir.Node) -> list[float]:
    """Where the pieces of a piecewise operator meet, in ascending order; nothing of other operators."""
    _, bends = _KINKS.get(node.op_type, (None, _nowhere))
    return [bend for bend in bends(node) if math.isfinite(bend)]


def _nowhere(node: ir.Node) -> list[float]:
    return []


def _limits(node: ir.Node) -> list[float]:
    """Of a Clip: its constant limits."""
    return [_scalar(node, 1, -math.inf), _scalar(node, 2, math.inf)]


def _scalar(node: ir.Node, index: int, default: float) -> float:
    """An input that is one constant number; else the default."""
    array = constant(input_of(node, index))
    return default if array is None or array.size != 1 else float(array.reshape(-1)[0])


def _hard_sigmoid(node: ir.Node) -> list[float]:
    alpha, beta = (node.attributes.get_float(name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
    return [-beta / alpha, (1 - beta) / alpha] if alpha > 0 else []


def _shrink(node: ir.Node) -> list[float]:
    end = node.attributes.get_float("lambd", 0.5)
    return [-end, end]


def _at_zero(node: ir.Node) -> list[float]:
    return [0.0]


_KINKS: dict[str, tuple[PartKind, Callable[[ir.Node], list[float]]]] = {
    "Relu": (PartKind.CLAMP, _at_zero),
    "Clip": (PartKind.CLAMP, _limits),
    "Max": (PartKind.CLAMP, lambda node: [_scalar(node, 1, math.inf)]),
    "Min": (PartKind.CLAMP, lambda node: [_scalar(node, 1, math.inf)]),
    **dict.fromkeys(("LeakyRelu", "Elu", "Selu", "Celu", "Abs"), (PartKind.BRANCH, _at_zero)),
    "HardSwish": (PartKind.BRANCH, lambda node: [-3.0, 3.0]),
    "HardSigmoid": (PartKind.BRANCH, _hard_sigmoid),
    "Shrink": (PartKind.BRANCH, _shrink),
    "ThresholdedRelu": (PartKind.BRANCH, lambda node: [node.attributes.get_float("alpha", 1.0)]),
}
"""Piecewise operators: of which kind, and where their pieces meet, in ascending order."""


def _between(low: float, high: float) -> str:
    if low == -math.inf:
        return f"below {high:.4g}"
    return f"above {low:.4g}" if high == math.inf else f"between {low:.4g} and {high:.4g}"


def _within(low: float, high: float) -> _Test:
    return lambda array: np.array([bool(((array > low) & (array < high)).any())])


def _negative_by_channel(node: ir.Node) -> _Test:
    """Of a PRelu: whether a channel has a negative number, where each has its own slope."""
    slope = constant(input_of(node, 1))
    rank = len(dims(input_of(node, 0)) or ())
    channels = (1, slope.size, *[1] * (rank - 2)) if slope is not None else ()
    if slope is None or slope.size == 1 or (1,) * (rank - slope.ndim) + slope.shape != channels:
        return _within(-math.inf, 0.0)
    others = tuple(axis for axis in range(rank) if axis != 1)
    return lambda array: np.asarray((array < 0).any(axis=others))


def _saturations(node: ir.Node) -> Iterator[_Part]:
    """Where a quantizer with one scale ends."""
    scale, zero = constant(input_of(node, 1)), constant(input_of(node, 2))
    if scale is None or scale.size != 1 or zero is None or zero.dtype.kind not in "iu":
        return
    limits, point = np.iinfo(zero.dtype), float(zero.reshape(-1)[0])
    low, high = (float(scale.reshape(-1)[0]) * (end - point) for end in (limits.min - 0.5, limits.max + 0.5))
    yield _Part(PartKind.SATURATION, node, "lower end", _within(-math.inf, low))
    yield _Part(PartKind.SATURATION, node, "upper end", _within(high, math.inf))


def _borders(node: ir.Node) -> Iterator[_Part]:
    """The padded sides of a convolution or a pool, without those that no window reaches."""
    sizes, counts, window = _spatial(input_of(node, 0)), _spatial(node.outputs[0]), _spatial(input_of(node, 1))
    rank = len(sizes)
    kernel = node.attributes.get_ints("kernel_shape", window)
    if not rank == len(counts) == len(kernel):
        return
    strides, dilations, pads = strides_of(node, rank), dilations_of(node, rank), stated_pads(node, rank)
    for axis, size in enumerate(sizes):
        last = (counts[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] - pads[axis]
        yield from _sides(node, axis, rank, (pads[axis], last - size + 1))


def _spatial(value: ir.Value | None) -> list[int]:
    """The sizes behind batch and channels; none where they are open."""
    sizes = () if value is None or value.shape is None else value.shape[2:]
    return [size for size in sizes if isinstance(size, int)]


def _padded(node: ir.Node) -> Iterator[_Part]:
    """The sides of a Pad of images."""
    pads, shape, axes = constant(input_of(node, 1)), dims(input_of(node, 0)), constant(input_of(node, 3))
    if pads is None or shape is None or axes is not None or pads.size != 2 * len(shape):
        return
    for axis in range(2, len(shape)):
        yield from _sides(node, axis - 2, len(shape) - 2, (int(pads[axis]), int(pads[axis + len(shape)])))


def _sides(node: ir.Node, axis: int, rank: int, pads: Sequence[int]) -> Iterator[_Part]:
    """The padded sides along an axis: reached where the border beside them is not zero throughout."""
    names = _SIDES.get(rank, tuple((f"start of axis {at}", f"end of axis {at}") for at in range(rank)))[axis]
    for name, pad, place in zip(names, pads, (0, -1), strict=True):
        if pad > 0:
            yield _Part(PartKind.PADDING, node, name, _filled(axis + 2, place))


def _filled(axis: int, place: int) -> _Test:
    return lambda array: np.array([bool(array.take(place, axis).any())])
