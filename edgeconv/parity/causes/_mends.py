"""The file's own operators, one of which is changed: with the change, the file computes what the graph does.

Hypotheses elsewhere in this room change the graph until it computes what the file does. Operators that a writer
makes by itself, of an activation or a normalization, have no node in the graph; what is wrong with them is told by the
change that mends them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._functions import FUNCTIONS, FUNCTIONS_OF_ONE
from edgeconv.parity.causes._operands import KINDRED
from edgeconv.parity.causes._other_numbers import MOST_NUMBERS, OtherNumbers, index_of
from edgeconv.parity.causes._piece import Evidence, Hypothesis

_ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "TANH", "LOGISTIC", "ELU", "HARD_SWISH", "GELU")
_POWERS = ("EXP", "LOG", "SQUARE", "SQRT", "RSQRT", "SIN", "COS")
_STEPS = ("ABS", "NEG", "SIGN", "ROUND", "FLOOR", "CEIL")
# Operators of the same operands, one of which may stand in another's place.
_KINDRED = (
    ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW"),
    ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "EQUAL", "NOT_EQUAL"),
    ("LOGICAL_AND", "LOGICAL_OR"),
    ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"),
    ("ARG_MAX", "ARG_MIN"),
    ("SOFTMAX", "LOG_SOFTMAX"),
    ("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"),
    ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
    (*_ACTIVATIONS, *_POWERS, *_STEPS),
    *KINDRED,
    (*FUNCTIONS_OF_ONE, "Relu", "Sigmoid", "Tanh", "Softplus", "HardSwish", "Mish", "Elu", "Selu", "Gelu"),
)
_DEFAULTS: Mapping[str, Any] = {"approximate": False, "beta": 1.0, "fused_activation_function": 0, "keep_dims": False}
_MOST_READ = 48  # values that are tried in an operand's place
_MOST_ORDERED = 5  # integers whose every order is tried
_MOST_EXCHANGED = 64  # integers of which all two are exchanged
_MOST_SHOWN = 8  # integers
_PARTS = (2, 3, 4)  # gates, say


class Operation(Protocol):
    """One operator of a file; `Layer` is one of an `.onnx` file."""

    @property
    def operator(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def operands(self) -> Sequence[Array | None]: ...
    @property
    def results(self) -> Sequence[Array]: ...
    @property
    def reads(self) -> Sequence[str]:
        """The names of its operands."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """What it states, where that is single numbers, flags or words."""
        ...

    def is_constant(self, index: int) -> bool: ...
    def again(
        self,
        operands: Mapping[int, Array | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        operator: str | None = None,
    ) -> tuple[Array, ...]: ...


@dataclass(frozen=True, eq=False)
class Skipped:
    """An operator of a file whose result nothing reads.

    Attributes:
        name: of the operator.
        read: one of its operands.
        mended: the judged value, where all that read this operand read the operator's result.
    """

    name: str
    read: str
    mended: Callable[[], Array]


@dataclass(frozen=True, eq=False)
class Part:
    """The operators of a file between values that are held and one that is judged.

    Attributes:
        operations: in the order of execution.
        after: the judged value, with these results in place of those of the operation at a place.
        reading: the judged value, where all operations read an array in place of the value of a name.
        readable: by name, what an operation at a place may read instead, the likeliest first.
        skipped: the operators whose results nothing reads, with each of their operands.
    """

    operations: Sequence[Operation]
    after: Callable[[int, Sequence[Array]], Array]
    reading: Callable[[str, Array], Array]
    readable: Callable[[int], Mapping[str, Array]]
    skipped: Callable[[], Iterable[Skipped]] = tuple

    @property
    def constants(self) -> dict[str, tuple[str, Array]]:
        """What it reads that is stored, by name: where it is read first, and the array."""
        stored: dict[str, tuple[str, Array]] = {}
        for operation in self.operations:
            for index, array in enumerate(operation.operands):
                if array is not None and operation.is_constant(index):
                    name = operation.reads[index]
                    stored.setdefault(name, (f"the constant {name} of {operation.name}", array))
        return stored

    def again(
        self,
        at: int,
        operands: Mapping[int, Array | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        operator: str | None = None,
    ) -> Array:
        """The judged value, where an operation is computed under another assumption."""
        return self.after(at, self.operations[at].again(operands, attributes, operator))


def mends(part: Part, evidence: Evidence, wrong: Array) -> Iterator[Hypothesis]:
    """Each change of one operator of a file that may mend it, in words that say what is wrong now.

    Args:
        part: of the file.
        evidence: what the graph computes, which a mended file does.
        wrong: what the file computes.
    """
    yield from _each(part, _of_kin)
    yield from _each(part, _exchanged)
    yield from _each(part, _stating)
    for item in part.skipped():
        yield Hypothesis(f"{item.name} is left out: {item.read} is read in its place", item.mended)
    yield from _each(part, _rewired)
    yield from _each(part, _too_many)
    for name, (called, array) in part.constants.items():
        yield from (
            Hypothesis(f"{called} {words}", partial(part.reading, name, other)) for words, other in _orders(array)
        )
    for name, (called, array) in part.constants.items():
        if array.dtype.kind == "f" and wrong.shape == evidence.actual.shape:
            yield from OtherNumbers(partial(part.reading, name), called, array).hypotheses(evidence, wrong)
    yield from _each(part, _missing)


def _each(part: Part, hypotheses: Callable[[Part, int], Iterator[Hypothesis]]) -> Iterator[Hypothesis]:
    return itertools.chain.from_iterable(hypotheses(part, at) for at in range(len(part.operations)))


def _of_kin(part: Part, at: int) -> Iterator[Hypothesis]:
    operation = part.operations[at]
    for kindred in (kinds for kinds in _KINDRED if operation.operator in kinds):
        for other in (kind for kind in kindred if kind != operation.operator):
            words = f"{operation.name} stands in the place of {other}"
            stored = [name for index, name in enumerate(operation.reads) if operation.is_constant(index)]
            if stored and {operation.operator, other} == {"ADD", "SUB"}:
                words += f", or its constant {stored[0]} has the other sign"
            yield Hypothesis(words, partial(_as_other, part, at, other))
            if other == "GELU":
                words = f"{operation.name} stands in the place of the tanh approximation of GELU"
                yield Hypothesis(words, partial(_as_other, part, at, other, {"approximate": True}))


def _as_other(part: Part, at: int, operator: str, stated: Mapping[str, Any] = MappingProxyType({})) -> Array:
    """The judged value with another operator; not of one that would do nothing, as others do nothing in its place."""
    operation = part.operations[at]
    attributes = _attributes(operation, operator)
    attributes = {**(attributes or {}), **stated} if stated else attributes
    results = operation.again(attributes=attributes, operator=operator)
    if any(operand is not None and _is_spread(operand, results[0]) for operand in operation.operands):
        raise ValueError(f"{operator} does nothing")
    return part.after(at, results)


def _is_spread(operand: Array, result: Array) -> bool:
    try:
        return bool((np.broadcast_to(operand, result.shape) == result).all())
    except ValueError:  # an axis, say
        return False


def _attributes(operation: Operation, operator: str) -> Mapping[str, Any] | None:
    """TFLite's options have names in common, ONNX's attributes few: functions of one operand have their defaults."""
    if operator.isupper():
        return {**_DEFAULTS, **operation.options}
    return {} if len(operation.operands) == 1 else None


def _exchanged(part: Part, at: int) -> Iterator[Hypothesis]:
    """Two operands, or two results, in each other's place."""
    operation = part.operations[at]
    for first, second in itertools.combinations(range(len(operation.operands)), 2):
        swapped = {first: operation.operands[second], second: operation.operands[first]}
        words = f"operands {first} and {second} of {operation.name} are in each other's place"
        yield Hypothesis(words, partial(part.again, at, swapped))
    for first, second in itertools.combinations(range(len(operation.results)), 2):
        results = list(operation.results)
        results[first], results[second] = results[second], results[first]
        words = f"results {first} and {second} of {operation.name} are in each other's place"
        yield Hypothesis(words, partial(part.after, at, results))


def _stating(part: Part, at: int) -> Iterator[Hypothesis]:
    """Another flag, or another number near the one that is stated."""
    operation = part.operations[at]
    for name, value in operation.options.items():
        others: list[Any] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int):
            others = [other for other in dict.fromkeys((value + 1, value - 1, 0, 1, 2, 3)) if other not in (value, -1)]
        for other in others:
            words = f"{operation.name} has {name} {value} instead of {other}"
            yield Hypothesis(words, partial(part.again, at, attributes={**operation.options, name: other}))


def _rewired(part: Part, at: int) -> Iterator[Hypothesis]:
    """Another value of the file in the place of an operand."""
    operation = part.operations[at]
    readable = part.readable(at)
    for index, operand in enumerate(operation.operands):
        if operand is None:
            continue
        alike = ((name, array) for name, array in readable.items() if array.shape == operand.shape)
        others = ((name, array) for name, array in alike if name != operation.reads[index])
        for name, array in itertools.islice(others, _MOST_READ):
            if array.dtype.kind == operand.dtype.kind:
                words = f"{operation.name} reads {operation.reads[index]} in place of {name}"
                yield Hypothesis(words, partial(part.again, at, {index: array}))


def _too_many(part: Part, at: int) -> Iterator[Hypothesis]:
    operation = part.operations[at]
    for index, operand in enumerate(operation.operands):
        is_alike = operand is not None and operand.shape == operation.results[0].shape
        if operand is not None and is_alike and not operation.is_constant(index):
            yield Hypothesis(f"{operation.name} is one too many", partial(part.after, at, (operand,)))


def _missing(part: Part, at: int) -> Iterator[Hypothesis]:
    """A function in front of an operand."""
    operation = part.operations[at]
    for index, operand in enumerate(operation.operands):
        if operand is None or operand.dtype.kind != "f" or operation.is_constant(index):
            continue
        for function, compute in FUNCTIONS.items():
            words = f"{operation.name} reads {operation.reads[index]} itself, where {function} of it is due"
            yield Hypothesis(words, _of_operand(part, at, index, compute))


def _of_operand(part: Part, at: int, index: int, function: Callable[[Array], Array]) -> Callable[[], Array]:
    def compute() -> Array:
        operand = part.operations[at].operands[index]
        return part.again(at, {index: None if operand is None else function(operand)})

    return compute


def _orders(array: Array) -> Iterator[tuple[str, Array]]:
    if array.dtype.kind in "iu":
        yield from _other_integers(array)
    for axis, size in enumerate(array.shape):
        if size > 1:
            yield f"is reversed along axis {axis}", np.flip(array, axis)
            for by in (-1, 1):
                yield f"is moved by one along axis {axis}", np.roll(array, by, axis)
        for count in (count for count in _PARTS if size >= count and size % count == 0):
            parts = np.split(array, count, axis)
            for order in itertools.permutations(range(count)):
                moved = np.concatenate([parts[place] for place in order], axis)
                yield f"has its {count} parts along axis {axis} in another order", moved
    for first, second in itertools.combinations(range(array.ndim), 2):
        if array.shape[first] == array.shape[second] > 1:
            yield f"is transposed: axes {first} and {second}", np.swapaxes(array, first, second)
    if array.dtype.kind == "b":
        yield "has each truth value as the other one", ~array
    elif array.dtype.kind in "fi":
        yield "has the other sign", -array


def _other_integers(array: Array) -> Iterator[tuple[str, Array]]:
    """In another order, two exchanged, or one that is one more or less, or of the other sign."""
    numbers = array.reshape(-1).tolist()
    orders: list[Sequence[int]] = []
    if array.size <= _MOST_ORDERED:
        orders += itertools.permutations(numbers)
    if array.size <= _MOST_EXCHANGED:
        for first, second in itertools.combinations(range(array.size), 2):
            swapped = list(numbers)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            orders.append(swapped)
    for place in range(array.size if array.size <= MOST_NUMBERS else 0):
        for other in (numbers[place] + 1, numbers[place] - 1, -numbers[place]):
            orders.append([*numbers[:place], other, *numbers[place + 1 :]])
    for order in orders:
        if array.size <= _MOST_SHOWN:
            words = f"is {numbers} instead of {list(order)}"
        else:
            places = [place for place, pair in enumerate(zip(numbers, order, strict=True)) if len({*pair}) > 1]
            held, due = ([items[place] for place in places] for items in (numbers, order))
            words = f"is {held} instead of {due} at {[index_of(array, place) for place in places]}"
        yield words, np.array(order).astype(array.dtype).reshape(array.shape)
