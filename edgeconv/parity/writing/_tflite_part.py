"""The operators of a `.tflite` file before a tensor, each of which can be computed again under another assumption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from edgeconv.core import Array
from edgeconv.errors import EmitError
from edgeconv.parity.causes import Part, Skipped
from edgeconv.parity.writing._on_demand import OnDemand
from edgeconv.reference.tflite import Operator, Tensor, TfliteGraph

Computed = Callable[[Operator, Mapping[int, Array]], Sequence[tuple[int, Array]]]


@dataclass(frozen=True, eq=False)
class _Operation:
    """One operator with its operands and results."""

    made_of: Operator
    tensors: Sequence[Tensor]
    values: Mapping[int, Array]
    computed: Computed

    @property
    def operator(self) -> str:
        return self.made_of.name

    @property
    def name(self) -> str:
        return f"{self.made_of.name} {self.tensors[self.made_of.outputs[0]].name}"

    @cached_property
    def operands(self) -> tuple[Array | None, ...]:
        return tuple(self.values.get(index) for index in self.made_of.inputs)

    @cached_property
    def results(self) -> tuple[Array, ...]:
        return tuple(array for _, array in self.computed(self.made_of, self.values))

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.tensors[index].name if index >= 0 else "" for index in self.made_of.inputs)

    @property
    def options(self) -> Mapping[str, Any]:
        return self.made_of.options

    def is_constant(self, index: int) -> bool:
        at = self.made_of.inputs[index]
        return at >= 0 and self.tensors[at].data is not None

    def again(
        self,
        operands: Mapping[int, Array | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        operator: str | None = None,
    ) -> tuple[Array, ...]:
        """Its results with other operands, options, or as another operator."""
        inputs = list(self.made_of.inputs)
        values = {index: self.values[index] for index in inputs if index in self.values}
        for place, array in (operands or {}).items():
            if array is None:
                inputs[place] = -1
                continue
            # A tensor that is read twice is another one only where it is replaced.
            inputs[place] = self._stand_in(inputs, place)
            values[inputs[place]] = array
        changed = replace(
            self.made_of,
            name=operator or self.made_of.name,
            inputs=tuple(inputs),
            options=self.made_of.options if attributes is None else attributes,
        )
        return tuple(array for _, array in self.computed(changed, values))

    def _stand_in(self, inputs: Sequence[int], place: int) -> int:
        """A tensor of the same kind that the operator does not read elsewhere."""
        index = inputs[place]
        if index >= 0 and list(inputs).count(index) == 1:
            return index
        own = self.tensors[index]
        alike = (at for at, tensor in enumerate(self.tensors) if tensor.dtype == own.dtype and at not in inputs)
        other = next(alike, None)
        if other is None:
            raise EmitError("no other tensor has its kind", where=own.name)
        return other


def part_of_file(
    file: TfliteGraph,
    before: Sequence[Operator],
    values: Mapping[int, Array],
    result: int,
    computed: Computed,
    finish: Callable[[Array], Array],
) -> Part:
    """The operators before a tensor as a `Part`.

    Args:
        file: of real numbers.
        before: the operators that the tensor is computed by.
        values: of tensors that are read, and of all that `before` computes.
        result: the tensor.
        computed: the results of an operator on values, by tensor.
        finish: what becomes of the result where it is stored.
    """
    order = {index: at for at, operator in enumerate(file.operators) for index in operator.outputs}
    read = {index for operator in file.operators for index in operator.inputs} | {*file.outputs}
    operations = [_Operation(operator, file.tensors, values, computed) for operator in before]

    def changed_from(start: int, changed: dict[int, Array]) -> Array:
        for operator in before[start:]:
            if not changed.keys().isdisjoint(operator.inputs):
                read = {index: values[index] for index in operator.inputs if index in values} | changed
                changed.update(computed(operator, read))
        return finish(changed[result] if result in changed else values[result])

    def after(at: int, results: Sequence[Array]) -> Array:
        return changed_from(at + 1, dict(zip(before[at].outputs, results, strict=False)))

    def reading(name: str, array: Array) -> Array:
        return changed_from(0, {index: array for index in values if file.tensors[index].name == name})

    def skipped() -> Iterator[Skipped]:
        for operator in file.operators:
            if read.isdisjoint(operator.outputs) and operator.outputs[0] in values:
                name = f"{operator.name} {file.tensors[operator.outputs[0]].name}"
                for index in operator.inputs:
                    if index in values and file.tensors[index].data is None:
                        reading = partial(changed_from, 0, {index: values[operator.outputs[0]]})
                        yield Skipped(name, file.tensors[index].name, reading)

    def readable(at: int) -> Mapping[str, Array]:
        place = order[before[at].outputs[0]]
        earlier = [index for index in values if order.get(index, -1) < place]
        # What no operator reads is what was left out; otherwise the nearest is the likeliest.
        earlier.sort(key=lambda index: (index in read, -order.get(index, -1)))
        indices = {file.tensors[index].name: index for index in earlier}
        return OnDemand.of_each(indices, lambda name: values[indices[name]])

    return Part(operations, after, reading, readable, skipped)
