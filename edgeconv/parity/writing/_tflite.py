"""A `.tflite` file held at the values that the graph has, too: read back, in float64.

A quantized tensor is taken for the real numbers that it stands for, within its range but not rounded: whether its scale
and zero point are the graph's is another question, which needs no tolerance. Integers are rounded only where an
operator reads them as such, for a look-up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from edgeconv.core import Array, IntegerTensor, TensorSpec
from edgeconv.core.affine import limits_of
from edgeconv.parity.causes import Part, Stated
from edgeconv.parity.writing._axes import Axes, arranged
from edgeconv.parity.writing._constants import half_steps
from edgeconv.parity.writing._ends import HALF_UNIT, End
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._kinks import reach_of_file
from edgeconv.parity.writing._narrowed import narrowed_in_tflite
from edgeconv.parity.writing._own_scales import OwnScales
from edgeconv.parity.writing._real_file import as_stored, in_real_numbers, range_of
from edgeconv.parity.writing._rounded_before import rounded_before_moves
from edgeconv.parity.writing._solved import is_quantized, is_rounded
from edgeconv.parity.writing._steps import Steps
from edgeconv.parity.writing._tensors import Tensors
from edgeconv.parity.writing._tflite_integers import parameters_of, real_numbers, tflite_misread
from edgeconv.parity.writing._tflite_part import part_of_file
from edgeconv.reference.tflite import OPERATORS, Operator, Tensor, TfliteGraph, evaluate_operator

_SAME = frozenset({"QUANTIZE", "DEQUANTIZE"})  # the same real numbers in other integers, or in none
_MOVING = frozenset({"TRANSPOSE", "RESHAPE", "DEQUANTIZE"})
# Where no element is left out, and the scale is the same, as that of a QUANTIZE between integers may be.
_MOVING_ALL = frozenset({"TRANSPOSE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "QUANTIZE"})


@dataclass(frozen=True)
class _Holder:
    """What a tensor holds: a value of the graph, and its axes in the tensor's order where they are known."""

    name: str
    axes: tuple[int, ...] | None = None


class TfliteFile:
    """A file, beside the graph that it should be.

    Attributes:
        constants: the real numbers of its floating-point and quantized constants, by tensor.
        unused: its constants that no operator reads.
        unknown: its operators that the reference does not compute.
        saturated: quantized values of the graph that no tensor holds, and that the file saturates all the same.
        approximated: the graph's operators that TFLite has none for, nor a formula in its own ones.
    """

    approximated = frozenset({"Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Erf", "Sinh", "Softplus"})

    def __init__(
        self,
        file: TfliteGraph,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        intermediates: Sequence[IntegerTensor],
    ) -> None:
        self._stated, self._graph, self._inputs, self._outputs = file, graph, inputs, outputs
        self._real = replace(file, tensors=tuple(map(in_real_numbers, file.tensors)))
        names = {operator.name for operator in file.operators}
        self.unknown = tuple(sorted(name for name in names if name not in OPERATORS))
        self._makers = {index: operator for operator in file.operators for index in operator.outputs}
        self._index = {tensor.name: index for index, tensor in enumerate(file.tensors)}
        # A border of uint8 holds what int8 held before it: rounded already, the graph's dequantized value.
        self._written_again = {
            index: graph.dequantized[file.tensors[index].name]
            for operator in file.operators
            for index in operator.outputs
            if operator.name == "QUANTIZE" and not file.tensors[operator.inputs[0]].floating
            if index in file.outputs and str(file.tensors[index].held_as) == "uint8"
            if file.tensors[index].name in graph.dequantized
        }
        self._holders = self._held_values(graph, intermediates)
        held = {index: holder.name for index, holder in self._holders.items()}
        self.saturated = rounded_before_moves(file, held, graph)
        self._values = Tensors({})
        self._cut: set[int] = set()
        self._axes = Axes()
        self._evaluated: tuple[int, list[Operator], Tensors] | None = None
        read = {index for operator in file.operators for index in operator.inputs} | set(file.outputs)
        constants = {index: tensor for index, tensor in enumerate(self._real.tensors) if tensor.data is not None}
        self.constants = {tensor.name: np.asarray(tensor.data) for tensor in constants.values() if tensor.floating}
        self.unused = tuple(tensor.name for index, tensor in constants.items() if index not in read)

    def _held_values(self, graph: Graph, intermediates: Sequence[IntegerTensor]) -> dict[int, _Holder]:
        """By tensor: quantized values as the writer tells them, all others by their name."""
        told = {tensor.name: tensor for tensor in intermediates}
        # A graph that is read as integers has no node that makes them: the writer tells of no tensor that holds them.
        rounded = {name for tensor in intermediates for name in tensor.values}
        untold = {name: value for name, value in graph.quantized_inputs.items() if value not in rounded}
        holders: dict[int, _Holder] = {}
        for index, tensor in enumerate(self._stated.tensors):
            integer = told.get(tensor.name)
            # Integers that are an output have its name, which the real numbers have here (`with_real_borders`).
            value = "" if integer is None else graph.dequantized.get(integer.values[0], integer.values[0])
            if integer is not None and value in graph.quantizers:
                holders[index] = _Holder(value, integer.axes)
            elif index in self._stated.inputs and not tensor.floating and tensor.name in untold:
                holders[index] = _Holder(untold[tensor.name])
            elif (
                tensor.quantization is not None
                and tensor.name in graph.dequantized
                and index not in self._written_again
            ):
                holders[index] = _Holder(graph.dequantized[tensor.name])
            # Integers under the name of a float are the writer's own: they saturate where the graph does not.
            elif self._is_real(index) and not tensor.variable and tensor.name in graph.floats:
                holders[index] = _Holder(tensor.name)
        for index, spec in zip(self._stated.outputs, self._outputs, strict=True):
            name = holders[index].name if index in holders else spec.name
            holders[index] = _Holder(name, spec.axes)
        moved = graph.moved_from({holder.name for holder in holders.values()})
        first = {index: holder for index, holder in holders.items() if holder.name not in moved}
        return {**dict(self._held_before(first)), **holders}

    def _held_before(self, holders: Mapping[int, _Holder]) -> Iterator[tuple[int, _Holder]]:
        """The integers that held ones have the elements of, where other operators read them, too.

        The graph has one value, whose rounding all its readers read. Values that are moved from others of the file's
        are not among these: the graph moves what it has rounded.
        """
        readers = Counter(index for operator in self._stated.operators for index in operator.inputs)
        for index, holder in holders.items():
            axes, moved = holder.axes, index
            while (source := self._moved_whole(moved)) is not None and source not in holders:
                axes = axes if self._makers[moved].name != "TRANSPOSE" else None
                if readers[source] > 1:
                    yield source, _Holder(holder.name, axes)
                moved = source

    def _is_rounded(self, index: int) -> bool:
        """Whether a tensor is moved from one that is read as the graph's value: it has the numbers that are read.

        The value of that one may be another: of what the graph moves in float, it rounds each place by itself, and the
        file may round once, before the move.
        """
        source = self._moved_whole(index)
        while source is not None and source not in self._cut:
            source = self._moved_whole(source)
        return source is not None

    def _moved_whole(self, index: int) -> int | None:
        """The tensor of the same integers that an operator moved to this one, all of them."""
        maker, tensors = self._makers.get(index), self._stated.tensors
        if maker is None or maker.name not in _MOVING_ALL or tensors[index].quantization is None:
            return None
        source = maker.inputs[0]
        is_same = tensors[source].quantization == tensors[index].quantization
        is_whole = math.prod(tensors[source].shape) == math.prod(tensors[index].shape)
        return source if is_same and is_whole and source in self._makers else None

    def _is_real(self, index: int) -> bool:
        tensor = self._stated.tensors[index]
        return tensor.data is None and (tensor.floating or tensor.quantization is None)

    @property
    def names(self) -> frozenset[str]:
        """The values of the graph that its tensors hold."""
        return frozenset(holder.name for holder in self._holders.values())

    @property
    def read(self) -> frozenset[str]:
        """Those whose tensors operators read, and not another one that they were moved from.

        Without those that were compared and are the same in several orders of their axes, such as products of a matrix
        with itself: other numbers in their place would not be.
        """
        indices = {index for operator in self._stated.operators for index in operator.inputs} - self._axes.in_any_order
        indices -= {index for index in self._makers if self._is_moved(index)}
        return frozenset(holder.name for index, holder in self._holders.items() if index in indices)

    def _is_moved(self, index: int) -> bool:
        """Whether a tensor has the elements, in another order, of one before it that is read in its place."""
        while index in self._makers and self._makers[index].name in _MOVING:
            index = self._makers[index].inputs[0]
            if index in self._holders:
                return True
        return False

    @property
    def reach(self) -> float:
        """How far operands must reach to lie beyond all that operators compare with."""
        return reach_of_file(self._real)

    @property
    def looked_up(self) -> dict[str, Steps]:
        """Those whose integers operators read as numbers of a place in a table, which has none between them."""
        operators, tensors = self._stated.operators, self._stated.tensors
        indices = {operator.inputs[0] for operator in operators if operator.name == "CAST"}
        for operator in reversed(operators):
            for result in indices.intersection(operator.outputs):
                if operator.name in _MOVING:
                    indices.add(operator.inputs[0])
                # What only picks (SLICE, CONCATENATION, MAX_POOL_2D) hands integers on: the result has their scale.
                due = tensors[result].quantization
                indices.update(at for at in operator.inputs if due and at >= 0 and tensors[at].quantization == due)
        steps = {self._holders[at].name: range_of(tensors[at]) for at in indices & self._holders.keys()}
        return {name: of for name, of in steps.items() if of is not None}

    def quantized(self) -> Iterator[tuple[str, str, float, int]]:
        """Tensor, value, scale, and the zero point counted from the smallest integer, of each quantized holder."""
        for index, name in self._integers():
            tensor = self._stated.tensors[index]
            (scale, *_), (zero, *_) = parameters_of(tensor)
            yield tensor.name, name, scale, zero - limits_of(str(tensor.held_as))[0]

    def misread(self) -> Iterator[tuple[str, str]]:
        """Tensor and one line: integers read as other numbers than written or from nothing; narrowed floats."""
        yield from tflite_misread(self._stated, 0.0)
        stated = {index for index, name in self._integers() if name in self._graph.quantizers}
        yield from OwnScales(self._stated, stated, self._graph.constants).faults()
        yield from narrowed_in_tflite(self._stated)

    @property
    def stated(self) -> Stated:
        """Nothing by the graph's names: operators are others, and axes in another order."""
        return Stated({}, {})

    def _integers(self) -> Iterator[tuple[int, str]]:
        """The quantized tensors that hold a value of the graph, and that value."""
        for index, holder in self._holders.items():
            tensor = self._stated.tensors[index]
            if tensor.quantization is not None and not tensor.floating:
                yield index, self._written_again.get(index, holder.name)

    def alike(self, held: Collection[str]) -> frozenset[str]:
        """None: its operators are others, and another reader evaluates them."""
        return frozenset()

    def compare(
        self,
        inputs: Mapping[str, Array],
        values: Mapping[str, Array],
        expected: Mapping[str, Array],
        known: Collection[str] = (),
    ) -> Iterator[End]:
        """Evaluates the file operator by operator; each held tensor is compared, then read as the graph's value.

        Args:
            inputs: of the graph, by name, in torch's layout.
            values: what the graph's readers read, by name.
            expected: what it computes, before rounding, by name.
            known: values that are the expected ones, of `alike`.
        """
        self._cut, self._axes.of, self._evaluated = set(), {}, None
        self._values = Tensors(self._real.kept)
        for index, spec in zip(self._stated.inputs, self._inputs, strict=True):
            holder = self._holders.get(index)
            array = values.get(holder.name, inputs[spec.name]) if holder is not None else inputs[spec.name]
            self._axes.of[index] = tuple(spec.axes)
            self._values[index] = array.transpose(spec.axes).astype(self._real.tensors[index].held_as)
        last = {index: operator for operator in self._stated.operators for index in operator.inputs}
        for operator in self._stated.operators:
            results = self._computed(operator, self._values)
            for index in operator.inputs:
                if last[index] is operator and index in self._makers and index not in self._cut:
                    self._values.drop(index)
            for index, array in results:
                self._values[index] = array
                self._axes.follow(operator, index, array.ndim)
                holder = self._holders.get(index)
                if holder is None or holder.name not in expected:
                    continue
                due, tensor = expected[holder.name], self._stated.tensors[index]
                # What callers get has its shape, too: a last RESHAPE to [10, 1] leaves the numbers as they are. One
                # that has the name of another output may have other axes than are stated.
                stated = holder.axes if index in self._stated.outputs else None
                fits = stated is None or len(stated) == due.ndim
                order = stated or self._axes.of.get(index, ())
                order = order if len(order) == due.ndim else (*range(due.ndim),)
                own = due.transpose(order)
                if array.size != due.size or not fits or (stated is not None and array.shape != own.shape):
                    yield End(holder.name, tensor.name, operator.name, array, own, order)
                    return
                again = holder.name in values and self._is_rounded(index)
                due = (values if again else expected)[holder.name]
                axes = holder.axes if holder.axes is not None else self._axes.told(index, array, due)
                if axes is None:
                    continue
                compared = array if again else self._compared(index, array)
                yield End(holder.name, tensor.name, operator.name, compared, arranged(due, axes, array), axes)
                self._axes.of[index] = axes
                if holder.name in values:
                    self._values.read_from(
                        index, partial(_arranged, values, holder.name, axes, array.shape, array.dtype)
                    )
                    self._cut.add(index)

    def again(self, tensor: str, changed: Mapping[str, Array], ranges: Mapping[str, float] | None = None) -> Array:
        """Evaluates one tensor that was compared once more.

        Args:
            tensor: its name.
            changed: other numbers in constants, by name.
            ranges: what the range of integers on the way is multiplied by, by name.
        """
        target = self._index[tensor]
        others = {self._index[name]: array for name, array in changed.items()}
        factors = {self._index[name]: factor for name, factor in (ranges or {}).items()}
        operators, unchanged = self._evaluated_before(target)
        values, moved = unchanged.with_others(others), {*others}
        # A recurrence that is written out step by step is hundreds of operators, most of which read nothing that moved.
        for operator in operators:
            if not moved.isdisjoint(operator.inputs) or not factors.keys().isdisjoint(operator.outputs):
                values.update(self._computed(operator, values, factors))
                moved.update(operator.outputs)
        return self._compared(target, values[target])

    def _evaluated_before(self, target: int) -> tuple[list[Operator], Tensors]:
        """The operators before a tensor, and the values of their results; kept for the one that was asked for last."""
        if self._evaluated is None or self._evaluated[0] != target:
            operators, values = self._before(target), self._values.with_others({})
            for operator in operators:
                values.update(self._computed(operator, values))
            self._evaluated = target, operators, values
        return self._evaluated[1:]

    def part(self, tensor: str) -> Part:
        """The operators that a tensor which was compared is computed by."""
        target = self._index[tensor]
        before, values = self._evaluated_before(target)
        return part_of_file(self._real, before, values, target, self._computed, partial(self._compared, target))

    def own_ranges(self, tensor: str) -> frozenset[str]:
        """The integers between a tensor and the held ones before it whose scale the graph does not have."""
        target = self._index[tensor]
        inner = {index for operator in self._before(target) for index in operator.outputs}
        inner -= self._holders.keys() | {target}
        return frozenset(tensor.name for tensor in map(self._stated.tensors.__getitem__, inner) if range_of(tensor))

    def _compared(self, index: int, array: Array) -> Array:
        """As the graph's quantized values are compared; what is rounded already is not saturated again."""
        steps = None if index in self._written_again else range_of(self._stated.tensors[index])
        return array if steps is None else steps.saturated(array)

    def operands(self, tensor: str) -> frozenset[str]:
        """The held values, and the graph's inputs, that a tensor which was compared is computed from."""
        target = self._index[tensor]
        read = {index for operator in self._before(target) for index in operator.inputs}
        inputs = {index: spec.name for index, spec in zip(self._stated.inputs, self._inputs, strict=True)}
        held = {index: self._holders[index].name for index in self._cut - {target}}
        names = {**inputs, **{index: self._holders[index].name for index in inputs if index in self._holders}, **held}
        return frozenset(names[index] for index in read if index in names)

    def half_steps(self, constant: str) -> Array:
        """What rounding once may have moved the numbers of a constant by."""
        tensor = self._stated.tensors[self._index[constant]]
        assert tensor.data is not None  # it is a constant
        if tensor.floating:
            return half_steps(tensor.data)
        steps = real_numbers(tensor, np.ones(tensor.shape)) - real_numbers(tensor, np.zeros(tensor.shape))
        return np.asarray(steps / 2)

    def own_half_steps(self, constant: str) -> Array:
        """The same of numbers that the writer computed itself.

        Integers of a single magnitude, the greatest that there is, stand for it exactly, but for the float32 that they
        were rounded from and that their scale is.
        """
        tensor, real = self._stated.tensors[self._index[constant]], self.constants[constant].astype(np.float64)
        magnitudes = np.unique(np.abs(real[real != 0]))
        if (
            tensor.floating
            or len(magnitudes) != 1
            or np.max(np.asarray(tensor.data)) != limits_of(str(tensor.held_as))[1]
        ):
            return self.half_steps(constant)
        return np.abs(real) * 2 * HALF_UNIT

    def is_stored(self, constant: str, exact: Array, doubt: Array) -> Array:
        """Whether the numbers of a constant are those that exact ones, known but for a doubt, become in its type."""
        tensor, held = self._stated.tensors[self._index[constant]], self.constants[constant]
        if tensor.floating:
            return is_rounded(held, exact, doubt)
        assert tensor.quantization is not None  # of integers
        half = self.half_steps(constant)
        least, greatest = limits_of(str(tensor.held_as))
        if {*tensor.quantization.zero_points} == {least}:  # of positive numbers alone
            greatest -= least
        return is_quantized(held, 2 * half, exact, doubt, greatest)

    def ends(self, constant: str) -> tuple[float, float]:
        """The least and the greatest number that a constant can have: of integers with one scale, what these reach."""
        steps = range_of(self._stated.tensors[self._index[constant]])
        return (-np.inf, np.inf) if steps is None else (steps.least, steps.greatest)

    def constants_before(self, tensor: str) -> frozenset[str]:
        """The constants between a tensor and the held ones that it is computed from."""
        read = {index for operator in self._before(self._index[tensor]) for index in operator.inputs if index >= 0}
        return frozenset({self._stated.tensors[index].name for index in read} & self.constants.keys())

    def _before(self, target: int) -> list[Operator]:
        """The operators between a tensor and the held ones before it, in their order."""
        waiting, needed = [target], set()
        while waiting:
            index = waiting.pop()
            if index in self._makers and index not in needed and (index == target or index not in self._cut):
                needed.add(index)
                waiting += self._makers[index].inputs
        return [operator for operator in self._stated.operators if needed.intersection(operator.outputs)]

    def _computed(
        self, operator: Operator, values: Mapping[int, Array], ranges: Mapping[int, float] | None = None
    ) -> list[tuple[int, Array]]:
        """The results of an operator on real numbers, saturated where they are quantized."""
        source = self._stated.tensors[operator.inputs[0]] if operator.inputs else None
        values = self._real.operands(operator, values)
        if operator.name in _SAME:
            results: tuple[Array, ...] = (values[operator.inputs[0]],)
        elif operator.name == "CAST" and source is not None and source.quantization is not None:
            stored = {operator.inputs[0]: as_stored(source, values[operator.inputs[0]])}
            results = evaluate_operator(self._stated, operator, stored)
        else:
            results = evaluate_operator(self._real, operator, values)
        return [
            (index, _saturated(self._stated.tensors[index], array, (ranges or {}).get(index, 1.0)))
            for index, array in zip(operator.outputs, results, strict=False)
        ]


def _arranged(
    values: Mapping[str, Array], name: str, axes: Sequence[int], shape: Sequence[int], dtype: np.dtype[Any]
) -> Array:
    """A value of the graph as a tensor of the file has it."""
    return values[name].transpose(axes).reshape(shape).astype(dtype, copy=False)


def _saturated(tensor: Tensor, array: Array, factor: float = 1.0) -> Array:
    """Within the range of a quantized tensor, times a factor."""
    steps = range_of(tensor)
    return array if steps is None else np.clip(array, steps.least * factor, steps.greatest * factor)
