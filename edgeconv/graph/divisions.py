"""Of what parts the values of a graph are joined, along which axes.

A detector joins boxes in pixels and scores of 0 to 1 in one tensor. What follows (a clamp, a product with a stride, a
maximum over windows, another order of the axes) leaves them apart, so that an application still reads them so. Who
judges or quantizes such a value has to know where one part ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import integers, permutation_of, stated_axes
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.traits import Trait, having

Divisions = dict[int, tuple[int, ...]]
"""The sizes of the parts along an axis, by axis. Channels that one layer makes are one part."""

_Known = Mapping[ir.Value, Divisions]
_Rule = Callable[[ir.Node, ir.Value, _Known], Divisions]
_Flags = npt.NDArray[np.bool_]

_HOLDS_ITS_SHAPE = having(Trait.SCALED) | {"Cast"}  # QuantizeLinear and the like keep every element at its place
_ALONG_AN_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "TopK": -1, "CumSum": 0, "GatherElements": 0}
"""What computes along one axis, and the default of that axis; nothing comes from one place of another axis to another.
CumSum's axis is an operand."""
_RESIZES = {"CenterCropPad", "Pad", "Resize", "Tile", "Upsample"}
"""An axis whose size these leave alone is one along which nothing moves."""
_SUMS = {"Add", "Sum"}
_ROUNDED_ZERO = 2.0**-23  # of the largest constant: the middle of a ramp from -1 to 1
_UNLIKE, _GAP = 10.0, 5.0  # of the largest to the smallest constant, and of one to the next smaller


def divisions_of(graph: ir.Graph) -> dict[ir.Value, Divisions]:
    """The parts of each value that a node makes; values of which nothing is known have none.

    Parts are the operands of a Concat, or of what joins in other words: a Where whose constant condition chooses
    channels, a sum of which no two terms are other than zero at one place. Behind an operator that computes (other than
    by constants) the channels of a single layer do not count as a part any more: which of them are large says nothing
    of features behind a rectifier.
    """
    known: dict[ir.Value, Divisions] = {}
    for node in graph:
        rule = _rule_of(node.op_type)
        for value in node.outputs:
            known[value] = rule(node, value, known) if rule is not None and sizes_at_batch_1(value) else {}
    return known


def _rule_of(op_type: str) -> _Rule | None:
    if op_type in _RULES:
        return _RULES[op_type]
    for traits, rule in _BY_TRAIT:
        if op_type in traits:
            return rule
    return None


def _channels(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    """The channel axis of a layer's result, as one part; none for a product of two activations."""
    shape = sizes_at_batch_1(result)
    if constant(input_of(node, 1)) is None or len(shape) < 2:
        return {}
    # MatMul has its outputs in the last axis; Conv, ConvTranspose and Gemm (of rank 2) in axis 1.
    axis = len(shape) - 1 if node.op_type == "MatMul" else 1
    return {axis: (shape[axis],)}


def _concatenated(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    """Along the axis of a Concat the parts of all operands, along others those that all of them share."""
    sources = [value for value in node.inputs if value is not None]
    before, sizes = [known.get(value, {}) for value in sources], [sizes_at_batch_1(value) for value in sources]
    if not all(sizes):
        return {}
    axis = node.attributes.get_int("axis") % len(sizes[0])
    common = {
        other: parts
        for other, parts in before[0].items()
        if other != axis and all(divisions.get(other) == parts for divisions in before)
    }
    own = [part for size, divisions in zip(sizes, before, strict=True) for part in divisions.get(axis, (size[axis],))]
    own = [part for part in own if part]  # an operand may hold no elements
    return common | ({axis: tuple(own)} if len(own) > 1 else {})


def _same(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    return _before(node, known)


def _function(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    return of_parts(_before(node, known))


def _rearranged(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    before, after = sizes_at_batch_1(node.inputs[0]), sizes_at_batch_1(result)
    moved = {place_after(node, axis, before, after): sizes for axis, sizes in _before(node, known).items()}
    return {axis: sizes for axis, sizes in moved.items() if axis is not None}


def _sliced(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    """What a Slice leaves of each part."""
    before, divisions = sizes_at_batch_1(node.inputs[0]), _before(node, known)
    starts, ends = integers(input_of(node, 1)), integers(input_of(node, 2))
    if not before or not divisions or starts is None or ends is None:
        return {}
    axes = integers(input_of(node, 3)) or list(range(len(starts)))
    steps = integers(input_of(node, 4)) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= len(before)
        if axis in divisions:
            first, last, _ = slice(start, end).indices(before[axis])
            divisions = _with(divisions, axis, _cut(divisions[axis], first, last) if step == 1 else ())
    return divisions


def _split(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    """What is left of each part in one result of a Split."""
    divisions, sizes = _before(node, known), [sizes_at_batch_1(value) for value in node.outputs]
    if not all(sizes):
        return {}
    axis = node.attributes.get_int("axis", 0) % len(sizes[0])
    if axis not in divisions:
        return divisions
    index = list(node.outputs).index(result)
    first = sum(size[axis] for size in sizes[:index])
    return _with(divisions, axis, _cut(divisions[axis], first, first + sizes[index][axis]))


def _gathered(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    """Axes before that of a Gather stay, those behind it move by the rank of the indices; a range along it is a cut."""
    before = sizes_at_batch_1(node.inputs[0])
    if not before:
        return {}
    axis = node.attributes.get_int("axis", 0) % len(before)
    further = len(sizes_at_batch_1(result)) - len(before)
    after = {at if at < axis else at + further: parts for at, parts in _before(node, known).items() if at != axis}
    chosen, parts = constant(input_of(node, 1)), _before(node, known).get(axis)
    if parts and chosen is not None and chosen.ndim == 1 and chosen.size and (np.diff(chosen) == 1).all():
        first = int(chosen[0]) % before[axis]
        after = _with(after, axis, _cut(parts, first, first + chosen.size))
    return after


def _reduced(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    before = sizes_at_batch_1(node.inputs[0])
    axes = stated_axes(node)
    if axes is None:
        return {}
    gone = {axis % len(before) for axis in axes} if axes else set(range(len(before)))
    others = {axis: parts for axis, parts in _before(node, known).items() if axis not in gone}
    if not node.attributes.get_int("keepdims", 1):
        others = {axis - sum(other < axis for other in gone): parts for axis, parts in others.items()}
    return of_parts(others)


def _along_an_axis(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    before, after = sizes_at_batch_1(node.inputs[0]), sizes_at_batch_1(result)
    stated = integers(input_of(node, 1)) if node.op_type == "CumSum" else None
    if (node.op_type == "CumSum" and not stated) or len(before) != len(after):
        return {}
    axis = (stated[0] if stated else node.attributes.get_int("axis", _ALONG_AN_AXIS[node.op_type])) % len(before)
    others = {at: parts for at, parts in _before(node, known).items() if at != axis and before[at] == after[at]}
    return of_parts(others)


def _resized(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    before, after = sizes_at_batch_1(node.inputs[0]), sizes_at_batch_1(result)
    if len(before) != len(after):
        return {}
    return of_parts({axis: parts for axis, parts in _before(node, known).items() if before[axis] == after[axis]})


def _by_channel(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    return of_parts({axis: parts for axis, parts in _before(node, known).items() if axis < 2})


def _broadcast(node: ir.Node, result: ir.Value, known: _Known) -> Divisions:
    """The parts of all operands, where their ends fall together, or not; and those that constants of zeros make."""
    after = sizes_at_batch_1(result)
    ends: dict[int, set[int]] = {}
    for value in node.inputs:
        if value is None:
            continue
        further = len(after) - len(sizes_at_batch_1(value))  # broadcasting aligns the last axes
        for axis, parts in known.get(value, {}).items():
            if sum(parts) == after[axis + further]:
                ends.setdefault(axis + further, set()).update(np.cumsum(parts).tolist())
    for axis, at in _selected(node, after):
        ends.setdefault(axis, set()).update(at)
    divisions = {axis: tuple(b - a for a, b in pairwise([0, *sorted(at)])) for axis, at in ends.items()}
    computed = [value for value in node.inputs if value is not None and constant(value) is None]
    by_constants = node.op_type in having(Trait.AFFINE) and len(computed) == 1
    if by_constants and (own := unlike_channels(node)) is not None:
        divisions.setdefault(own, (after[own],))
    return divisions if by_constants else of_parts(divisions)


def unlike_channels(node: ir.Node) -> int | None:
    """The axis of a result that a product with constants gives units of its own, place by place; None without one.

    A forecast is multiplied with the deviations of its series, a regression with those of what it was trained on:
    degrees beside pascals. They are constants along one axis whose sizes differ more than ten times, with a gap
    somewhere: a ramp and a window of a filter have none.
    """
    factors = constant(input_of(node, 1))
    factors = constant(input_of(node, 0)) if factors is None and node.op_type == "Mul" else factors
    if factors is None or node.op_type not in ("Div", "Mul") or factors.dtype.kind != "f":
        return None
    sizes = np.sort(np.abs(factors[np.isfinite(factors)]))
    sizes = sizes[sizes > _ROUNDED_ZERO * sizes.max(initial=0.0)]
    axes = [axis for axis, size in enumerate(factors.shape) if size > 1]
    if len(axes) != 1 or sizes.size < 2 or sizes[-1] <= _UNLIKE * sizes[0]:
        return None
    if (sizes[1:] / sizes[:-1]).max() <= _GAP:
        return None
    return axes[0] + len(sizes_at_batch_1(node.outputs[0])) - factors.ndim


def _selected(node: ir.Node, after: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Where parts end, by axis, that constants choose: a Where's condition, or zeros in each term of a sum."""
    if node.op_type == "Where":
        condition = constant(input_of(node, 0))
        chosen = None if condition is None else _along_one_axis(condition != 0, len(after))
        return [] if chosen is None else [(chosen[0], _changes(chosen[1]))]
    if node.op_type not in _SUMS:
        return []
    terms = [_places(value, len(after)) for value in node.inputs if value is not None]
    stated = [term for term in terms if term is not None]
    if len(stated) < len(terms) or len({axis for axis, _ in stated}) != 1 or not stated:
        return []
    flags = np.stack([flags for _, flags in stated])
    return [] if (flags.sum(axis=0) > 1).any() else [(stated[0][0], _changes(flags.argmax(axis=0)))]


def _places(value: ir.Value, rank: int) -> tuple[int, _Flags] | None:
    """Along one axis of a result of this rank, where a term may be other than zero; None where that is not known."""
    node, sizes = value.producer(), sizes_at_batch_1(value)
    if node is None or len(sizes) != rank:
        return None
    if node.op_type == "Mul":
        factor = next((array for operand in node.inputs if (array := constant(operand)) is not None), None)
        return None if factor is None else _along_one_axis(factor != 0, rank)
    pads, number = integers(input_of(node, 1)), constant(input_of(node, 2))
    if node.op_type != "Pad" or pads is None or node.attributes.get_string("mode", "constant") != "constant":
        return None
    padded = [axis for axis in range(rank) if max(pads[axis], pads[axis + rank]) > 0] if len(pads) == 2 * rank else []
    if len(padded) != 1 or (number is not None and number.any()):
        return None
    places = np.arange(sizes[padded[0]])
    return padded[0], (places >= pads[padded[0]]) & (places < len(places) - pads[padded[0] + rank])


def _along_one_axis(flags: _Flags, rank: int) -> tuple[int, _Flags] | None:
    """The axis along which alone an array, broadcast to a rank, differs, and its elements there."""
    axes = [axis + rank - flags.ndim for axis, size in enumerate(flags.shape) if size > 1]
    return (axes[0], flags.reshape(-1)) if len(axes) == 1 and not flags.all() and flags.any() else None


def _changes(labels: npt.NDArray[np.generic]) -> list[int]:
    """Where runs of equal labels end."""
    return [*(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]


def _before(node: ir.Node, known: _Known) -> Divisions:
    """The parts of the first operand."""
    return known.get(node.inputs[0], {}) if node.inputs and node.inputs[0] is not None else {}


def of_parts(divisions: Divisions) -> Divisions:
    """Those of several parts, without the axes of a single one."""
    return {axis: parts for axis, parts in divisions.items() if len(parts) > 1}


def _cut(parts: Sequence[int], first: int, last: int) -> tuple[int, ...]:
    """What is left of parts between two places."""
    ends = [0, *np.cumsum(parts).tolist()]
    left = (min(end, last) - max(start, first) for start, end in pairwise(ends))
    return tuple(size for size in left if size > 0)


def _with(divisions: Divisions, axis: int, parts: tuple[int, ...]) -> Divisions:
    others = {at: known for at, known in divisions.items() if at != axis}
    return others | ({axis: parts} if parts else {})


def place_after(node: ir.Node, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """The number of an axis after a node that rearranges elements; None if it is no axis any more.

    Args:
        node: REARRANGES holds for it.
        axis: before the node.
        before: the shape before, as of `sizes_at_batch_1`.
        after: the shape after.
    """
    if not before or not after:
        return None
    if node.op_type == "Transpose":
        return permutation_of(node, len(before)).index(axis)
    if node.op_type in having(Trait.BY_SAMPLE):  # DepthToSpace: a part of the channels goes into height and width
        return axis if axis == 0 else None
    # Reshape and the like keep the order of the elements. An axis outlives it where as many elements are ahead of it as
    # before, and it has the same size: then its strides are the same, too.
    ahead = math.prod(before[:axis])
    places = [place for place, size in enumerate(after) if size == before[axis] and math.prod(after[:place]) == ahead]
    return places[0] if places else None


def sizes_at_batch_1(value: ir.Value | None) -> list[int]:
    """The shape, where it is known; an open batch counts as 1."""
    return [size if isinstance(size, int) else 1 for size in (value.shape or () if value is not None else ())]


_RULES: dict[str, _Rule] = {
    "BatchNormalization": _function,
    "Concat": _concatenated,
    "Gather": _gathered,
    "InstanceNormalization": _by_channel,
    "Slice": _sliced,
    "Split": _split,
    **dict.fromkeys(_HOLDS_ITS_SHAPE, _same),
    **dict.fromkeys(_ALONG_AN_AXIS, _along_an_axis),
    **dict.fromkeys(_RESIZES, _resized),
}
_BY_TRAIT: tuple[tuple[frozenset[str], _Rule], ...] = (
    (having(Trait.LAYER), _channels),
    (having(Trait.REARRANGES), _rearranged),
    (having(Trait.REDUCES) - having(Trait.RANKS), _reduced),
    (having(Trait.BROADCASTS) - having(Trait.COMPARES), _broadcast),
    (having(Trait.BY_CHANNEL), _by_channel),
    (having(Trait.FUNCTION), _function),
)
