"""Roundings that a source states itself: of a module that was trained for integers, or of a file that has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import limits_of, spread
from edgeconv.graph.edit import constant
from edgeconv.parity.quantizing._alongside import numbers_of
from edgeconv.parity.quantizing._cut_off import bias_faults, cut_off_faults, is_cut_off_at
from edgeconv.parity.quantizing._place import Place
from edgeconv.parity.quantizing._repeated import left_out

_OF_ROUNDINGS = ".quantizelinear"  # behind a fake quantization's path, in the name of the integers
_OF_WEIGHTS = ".fake_quantize_per_"  # behind a layer's, in the name of a weight that torch's own operator has rounded


@dataclass(frozen=True, eq=False)
class StatedRounding:
    """One rounding of a source.

    Attributes:
        name: the path of the fake quantization in its module, of a later call ``path@1`` and so on, or the integers'
            name in the file.
        scales: float32; one, or one for each slice along `axis`.
        zero_points: as many.
        limits: the least and the greatest integer.
        integers: what a constant becomes, less the zero point; None of what is computed.
        axis: of the scales, where there are several.
    """

    name: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    limits: tuple[int, int]
    integers: Array | None = None
    axis: int = 0

    def is_of(self, node: ir.Node) -> bool:
        """Whether a QuantizeLinear has these numbers; integers of as many bits may all be moved alike.

        Integers of seven bits are eight with one end cut off, which is another node's work.
        """
        scale, zero = numbers_of(node)
        least, greatest = limits_of(zero.dtype)
        first, last = self.limits
        moved = first - least if last - first == greatest - least else 0
        points = tuple(int(point) + moved for point in zero.reshape(-1))
        fits = least <= first - moved and last - moved <= greatest
        return fits and tuple(scale.reshape(-1).tolist()) == self.scales and points == self.zero_points

    def named_in(self, model: ir.Model) -> list[str]:
        """Its integers in a graph, by name."""
        names = [node.outputs[0].name or "" for node in model.graph if node.op_type == "QuantizeLinear"]
        return [name for name in names if _is_named(name, self)]


def stated_faults(
    stated: Sequence[StatedRounding],
    captured: ir.Model | None,
    rewritten: ir.Model,
    integers: ir.Model,
    inputs: Mapping[str, Array],
) -> Iterator[Place]:
    """Faults of three graphs that follow from a source, one after the other; what link 1 says is not said again.

    Args:
        stated: by the source; of none nothing is asked.
        captured: of the source; None where there is none to compare: of a rounding that is not there it is not known
            then whether another by the same numbers stands for it.
        rewritten: of that: factors may have gone into its weights, which link 1 has judged.
        integers: of that, what files are written from.
        inputs: of one sample, by name.
    """
    due = [item for item in stated if item.integers is None]
    if captured is not None:
        yield from _roundings(due, captured)
        yield from _limits(due, captured)
        yield from map(_lost, (item.name for item in due if not item.named_in(captured)))
        yield from _weights([item for item in stated if item.integers is not None], captured)
    yield from _roundings(due, integers)
    gone = [item for item in due if not item.named_in(integers)]
    if captured is None:
        nodes = [node for node in integers.graph if node.op_type == "QuantizeLinear"]
        yield from (_lost(item.name) for item in gone if not any(map(item.is_of, nodes)))
    else:
        names = [name for item in gone for name in item.named_in(captured)]
        yield from map(_lost, left_out(names, captured, integers, inputs))
    if stated:
        before, held = _stored(rewritten), _stored(integers)
        for name in before.keys() & held.keys():
            if before[name] != held[name]:
                yield Place(name, f"{name} has other integers or scales than its source")
        yield from cut_off_faults(rewritten, integers)
        yield from bias_faults(rewritten, integers)


def _is_named(name: str, item: StatedRounding) -> bool:
    return name == item.name or name.startswith((f"{item.name}{_OF_ROUNDINGS}", f"{_owner(item)}{_OF_ROUNDINGS}"))


def _owner(item: StatedRounding) -> str:
    """The path of what holds a fake quantization: where a graph module calls that, torch's trace names nothing deeper.

    Of one that nothing holds, its own.
    """
    path, mark, call = item.name.partition("@")
    return (path.rpartition(".")[0] or path) + mark + call


def _lost(name: str) -> Place:
    return Place(_told(name), f"its source rounds {_told(name)}, and the graph does not")


def _roundings(due: Sequence[StatedRounding], model: ir.Model) -> Iterator[Place]:
    """Roundings of a graph that its source does not state.

    What only moves or averages rounded numbers may be rounded again, by the parameters of what it reads.

    Args:
        due: stated by the source; of none nothing is asked.
        model: a graph of integers.
    """
    for node in model.graph if due else ():
        if node.op_type != "QuantizeLinear" or constant(node.inputs[0]) is not None:
            continue
        name = node.outputs[0].name or ""
        own = [item for item in due if _is_named(name, item)]
        if not any(item.is_of(node) for item in own or due):
            yield Place(_told(name), f"{_told(name)} is rounded by another scale or zero point than its source states")
        readers = [use.node for use in node.outputs[0].uses() if use.node.op_type == "DequantizeLinear"]
        if any(_bytes(reader) != _bytes(node) for reader in readers):
            yield Place(_told(name), f"{_told(name)} is not read back by the scale and zero point that rounded it")


def _limits(due: Sequence[StatedRounding], captured: ir.Model) -> Iterator[Place]:
    """Roundings of a captured graph that do not cut off where their source does (0 to 127, say)."""
    for node in captured.graph:
        name = node.outputs[0].name or ""
        if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None and numbers_of(node)[0].size == 1:
            own = next((item for item in due if _is_named(name, item)), None)
            if own is not None and not is_cut_off_at(node, own.limits):
                least, greatest = own.limits
                yield Place(_told(name), f"{_told(name)} is not cut off at {least} to {greatest}, as its source is")


def _weights(stated: Sequence[StatedRounding], model: ir.Model) -> Iterator[Place]:
    """Constants whose integers, or their scales, are not the source's, in whatever order of axes and channels.

    What has no value of its name is any of the constants that are left. What became one of floats is link 1's.
    """
    slices, unnamed, left = _stored(model), list[StatedRounding](), _stored(model)
    for item in stated:
        names = _weights_named(slices, item)
        due = _slices_of_item(item)
        for name in names:
            left.pop(name, None)
        if not names:
            unnamed.append(item)
        elif due not in [slices[name] for name in names]:
            yield _other(item, due, slices[names[0]])
    others = list(left.values())
    missing = [item for item in unnamed if not _taken(_slices_of_item(item), others)]
    if missing and others:
        yield _other(missing[0], _slices_of_item(missing[0]), others[0])


def _taken(due: Counter[tuple[float, bytes]], others: list[Counter[tuple[float, bytes]]]) -> bool:
    """Whether some slices are among others, which are one less then."""
    is_there = due in others
    if is_there:
        others.remove(due)
    return is_there


def _other(item: StatedRounding, due: Counter[tuple[float, bytes]], own: Counter[tuple[float, bytes]]) -> Place:
    several = f" in {(due - own).total()} of {due.total()} channels" if due & own else ""
    return Place(item.name, f"{item.name} has other integers or scales than its source rounds it to{several}")


def _slices_of_item(item: StatedRounding) -> Counter[tuple[float, bytes]]:
    assert item.integers is not None  # `stated_faults` chose these
    return _slices(item.integers, item.scales, item.axis)


def _weights_named(names: Iterable[str], item: StatedRounding) -> list[str]:
    """The names of a weight's real numbers in a graph: of its fake quantization, or of a layer and torch's operator.

    A layer of several modules (a convolution and a ReLU) is called by the name of the whole.
    """
    stored, path = set(names), item.name
    while path and item.name not in stored:
        path = path.rpartition(".")[0]
        if path and (held := [name for name in stored if name.startswith(f"{path}{_OF_WEIGHTS}")]):
            return sorted(held)
    return [item.name] if item.name in stored else []


def _stored(model: ir.Model) -> dict[str, Counter[tuple[float, bytes]]]:
    """Each constant of integers, by the name of the real numbers that it stands for."""
    nodes = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    return {node.outputs[0].name or "": _slices_of(node) for node in nodes if constant(node.inputs[0]) is not None}


def _slices_of(node: ir.Node) -> Counter[tuple[float, bytes]]:
    integers, (scale, zero) = constant(node.inputs[0]), numbers_of(node)
    assert integers is not None  # the caller looked
    axis = node.attributes.get_int("axis", 1)
    points = spread(zero, axis % max(integers.ndim, 1), integers.ndim).astype(np.int64)
    return _slices(integers.astype(np.int64) - points, tuple(scale.reshape(-1).tolist()), axis)


def _slices(integers: Array, scales: Sequence[float], axis: int) -> Counter[tuple[float, bytes]]:
    """Scale and sorted integers of each slice; of one scale, or of equal ones, those of the whole."""
    if not integers.any() or len(set(scales)) == 1 or axis >= integers.ndim or integers.shape[axis] != len(scales):
        return Counter([_slice(scales[0], integers)])
    return Counter(map(_slice, scales, np.moveaxis(integers, axis, 0)))


def _slice(scale: float, integers: Array) -> tuple[float, bytes]:
    """The least integers, sorted, and their scale: twice the integers of half the scale are the same numbers.

    Zeros are zeros at any scale: theirs is 0 here.
    """
    least = np.sort(integers.astype(np.int64), axis=None)
    bits = int(np.bitwise_or.reduce(np.abs(least))) if least.size else 0
    power = bits & -bits  # that divides all of them
    return scale * power, (least // max(power, 1)).tobytes()


def _bytes(node: ir.Node) -> tuple[bytes, ...]:
    return tuple(array.tobytes() for array in numbers_of(node))


def _told(name: str) -> str:
    return name.partition(_OF_ROUNDINGS)[0]
