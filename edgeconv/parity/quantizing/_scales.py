"""The plan's numbers are what they are chosen for: scales hold the largest weight, ranges what an observer chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, input_of, only_reader
from edgeconv.graph.integer_rules import FIXED, LAYERS, SHARED
from edgeconv.parity.quantizing import _pairs
from edgeconv.parity.quantizing._alongside import first_name
from edgeconv.parity.quantizing._integers import output_axis
from edgeconv.parity.quantizing._origin import Numbers, Origin, TensorNumbers
from edgeconv.parity.quantizing._place import Place

_HIGHEST = 127
_NEAR = 2.0**-20  # relative: scales are float32
_SMALLEST = 2.0**-126  # a normal number of float32
# Below these a scale is no finer, whatever the weights: a multiplier of int32 is 0 for a channel 2**40 times weaker, or
# for a quotient of scales of 2**-32, and a bias of more than 2**30 steps leaves no room for a correction in int32.
_WEAKEST, _FINEST, _MOST_BIAS = 2.0**-40, 2.0**-31, 2.0**30
_FUSED = 4  # operators behind a layer that have no parameters of their own


def scale_faults(origin: Origin) -> Iterator[Place]:
    """Faults of a plan's numbers that were chosen for the prepared graph; of others nothing is asked."""
    if not origin.is_chosen:
        return
    numbers = origin.numbers
    for node in origin.prepared.graph:
        if first_name(node) in numbers.weights and node.op_type in LAYERS:
            yield from _weight(node, numbers)
    yield from _ranges(origin.prepared.graph, numbers, origin.ranges)


def _weight(node: ir.Node, numbers: Numbers) -> Iterator[Place]:
    """A channel's largest weight becomes 127, or as much less as its pairs ask for."""
    name, weight = first_name(node), constant(input_of(node, 1))
    if weight is None:
        yield Place(name, f"the plan has scales of {name}, which has no constant weight")
        return
    plan, axis = numbers.weights[name], output_axis(node, weight.ndim)
    channels = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    rows = _pairs.in_rows(node, axis, weight.astype(np.float64)) if numbers.pair_safe else None
    if len(plan.scales) == 1:
        channels = channels.reshape(1, -1)
    if len(plan.scales) != len(channels):
        yield Place(name, f"the plan has {len(plan.scales)} scales of {name}, which has {len(channels)} channels")
        return
    scales, least = np.array(plan.scales), np.abs(channels).max(axis=1, initial=0.0) / _HIGHEST
    largest = float(least.max(initial=0.0))
    if not largest:
        return
    floor = _floor(node, numbers, largest, len(channels))
    most = np.maximum(np.where(least > 0, least, largest), floor)
    if rows is not None and (scales > most * (1 + _NEAR)).any():
        growth = _pairs.most_growth(rows)
        growth = growth.max(keepdims=True) if len(channels) == 1 else growth
        grown = least * growth
        most = np.maximum(np.where(least > 0, grown, grown.max()), floor)  # a channel of zeros may have any other's
    for wrong, what in ((scales < least * (1 - _NEAR), "smaller"), (scales > most * (1 + _NEAR), "larger")):
        if wrong.any():
            at = int(np.argmax(wrong))
            reason = f"the scale of channel {at} of the weight of {name} is {what} than its largest weight asks for"
            yield Place(
                name, reason, float(scales[at] / (least[at] or largest)), float(most[at] / (least[at] or largest))
            )
            return


def _floor(node: ir.Node, numbers: Numbers, largest: float, count: int) -> Array:
    """Below which no scale of the layer's has to be."""
    floor = np.full(count, max(largest * _WEAKEST, _SMALLEST))
    source = numbers.tensors.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
    if source is None:
        return floor
    vector, value = constant(input_of(node, 2)), node.outputs[0]
    result: TensorNumbers | None = None
    for _ in range(_FUSED):
        result = numbers.tensors.get(value.name or "")
        reader = only_reader(value)
        if result is not None or reader is None:
            break
        if node.op_type == "MatMul" and reader.op_type == "Add" and vector is None:
            vector = next((array for read in reader.inputs if (array := constant(read)) is not None), None)
        value = reader.outputs[0]
    if result is not None:
        floor = np.maximum(floor, _FINEST * result.scale / source.scale)
    if vector is not None and vector.size:
        size = np.abs(vector.astype(np.float64)).reshape(-1)
        size = size.max(keepdims=True) if count == 1 or size.size % count else size.reshape(-1, count).max(axis=0)
        floor = np.maximum(floor, size / (source.scale * _MOST_BIAS))
    return floor


def _ranges(graph: ir.Graph, numbers: Numbers, ranges: Mapping[str, tuple[float, float]]) -> Iterator[Place]:
    """The integers of a value reach as far as the ranges of all that share its parameters, to half a step."""
    makers = {value.name: node.op_type for node in graph for value in node.outputs}
    for names in _groups(graph, numbers):
        own = [ranges[name] for name in names if name in ranges]
        if len(own) == len(names) and not any(makers.get(name) in FIXED for name in names):
            low, high = min(0.0, *(low for low, _ in own)), max(0.0, *(high for _, high in own))
            yield from _range(names[0], numbers.tensors[names[0]], low, high)


def _range(name: str, parameters: TensorNumbers, low: float, high: float) -> Iterator[Place]:
    if high - low <= 0 or parameters.scale <= _SMALLEST:
        return
    if parameters.dtype == "int16":
        off = abs(max(-low, high) / parameters.scale - (2**15 - 1))
        ends, allowed = "the largest integer", 0.5
    else:
        lowest, highest = (end - parameters.zero_point for end in (-128, 127))
        off = max(abs(low / parameters.scale - lowest), abs(high / parameters.scale - highest))
        ends, allowed = "the ends of its integers", 0.5
    if off > allowed + 2.0**-10:
        what = f"{ends} of {name} are {off:.3g} steps from the range that was chosen of it, {low:.4g} to {high:.4g}"
        yield Place(name, f"{what}, and half a step is allowed", off, allowed)


def _groups(graph: ir.Graph, numbers: Numbers) -> list[list[str]]:
    """The names of the plan's tensors that computed values share parameters by: connected by operators of `SHARED`."""
    group = {name: name for name in numbers.tensors}

    def first(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    computed: list[str] = []
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.name in group and constant(value) is None:
            computed.append(value.name or "")
    for node in graph:
        if node.op_type not in SHARED or node.outputs[0].name not in group:
            continue
        result = node.outputs[0].name or ""
        for other in (*node.inputs, *node.outputs):
            name = "" if other is None else other.name or ""
            if name in group and numbers.tensors[name] == numbers.tensors[result]:
                group[first(name)] = first(result)
    members: dict[str, list[str]] = {}
    for name in computed:
        members.setdefault(first(name), []).append(name)
    return list(members.values())
