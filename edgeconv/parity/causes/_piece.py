"""A part of a graph on arrays, each of whose layers can be computed again under another assumption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import EdgeconvError
from edgeconv.graph.edit import tensor_of
from edgeconv.graph.origin import place_of
from edgeconv.reference import evaluate_node

HELD = "/held"
"""Suffix in the name of an array that is read in place of a value."""
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Layer:
    """One node of a piece, with its operands and results.

    Attributes:
        node: the node.
        operands: in torch's layout, real numbers in float64; None where an optional one is left out.
        results: likewise.
        opset: of the default domain.
    """

    node: ir.Node
    operands: tuple[Array | None, ...]
    results: tuple[Array, ...]
    opset: int

    @property
    def operator(self) -> str:
        """Its ONNX operator."""
        return self.node.op_type

    @property
    def place(self) -> str:
        """Its first result, which is named after its torch module."""
        return self.node.outputs[0].name or place_of(self.node)

    @property
    def name(self) -> str:
        """The operator, and its result's name."""
        return f"{self.operator} {self.place}"

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of its operands."""
        return tuple("" if value is None else (value.name or "").removesuffix(HELD) for value in self.node.inputs)

    @property
    def options(self) -> dict[str, Any]:
        """Its attributes that are single numbers or words."""
        stated = {name: item.value for name, item in self.node.attributes.items() if not item.is_ref()}
        return {name: value for name, value in stated.items() if isinstance(value, int | float | str)}

    @property
    def data(self) -> Array:
        """The first operand."""
        first = self.operands[0] if self.operands else None
        return self.results[0] if first is None else first

    @property
    def result(self) -> Array:
        """The first result."""
        return self.results[0]

    def attribute(self, name: str, default: _T) -> _T:
        """An attribute as a Python value, lists for INTS and FLOATS."""
        attribute = self.node.attributes.get(name)
        if attribute is None or attribute.is_ref():
            return default
        value: Any = attribute.value
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        stated: _T = value
        return stated

    def is_constant(self, index: int) -> bool:
        """Whether an operand is stored, and not computed."""
        return index < len(self.node.inputs) and tensor_of(self.node.inputs[index]) is not None

    def constants(self, *, floating: bool = True) -> list[int]:
        """The places of its stored operands, of real numbers or of integers."""
        places = [at for at in range(len(self.operands)) if self.is_constant(at)]
        return [
            at for at in places if (array := self.operands[at]) is not None and (array.dtype.kind == "f") == floating
        ]

    @property
    def computed_operands(self) -> list[int]:
        """The places of its real operands that are not stored."""
        arrays = enumerate(self.operands)
        return [
            at for at, array in arrays if array is not None and array.dtype.kind == "f" and not self.is_constant(at)
        ]

    def again(
        self,
        operands: Mapping[int, Array | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        operator: str | None = None,
    ) -> tuple[Array, ...]:
        """The results under another assumption.

        Args:
            operands: in place of its own, by their place, or further ones behind them.
            attributes: in place of its own; None leaves one out. Of another operator all that it has; without, its own.
            operator: in place of its own.

        Raises:
            EdgeconvError: the reference cannot compute it.
        """
        arrays = dict(enumerate(self.operands)) | dict(operands or {})
        ordered = [arrays.get(at) for at in range(max(arrays, default=-1) + 1)]
        values = [None if array is None else _typed(self.node, at) for at, array in enumerate(ordered)]
        # Its own are given as they are: to find out of what type a value is takes longer than most operators do.
        is_replaced = operator is not None and attributes is not None
        own = (
            {} if is_replaced else {name: item for name, item in self.node.attributes.items() if item.value is not None}
        )
        stated = {name: item for name, item in {**own, **(attributes or {})}.items() if item is not None}
        node = ir.node(operator or self.operator, values, stated, num_outputs=len(self.node.outputs))
        # Types decide how the reference computes: integers in their own width.
        for value, original in zip(node.outputs, self.node.outputs, strict=True):
            value.type = original.type
        return evaluate_node(node, ordered, opset=self.opset)


def _typed(node: ir.Node, at: int) -> ir.Value:
    own = node.inputs[at] if at < len(node.inputs) else None
    return ir.Value(type=None if own is None else own.type)


class Piece:
    """The layers between values that are held and one that is judged.

    Args:
        nodes: in the order of execution.
        values: what the nodes read that none of them computes, by `onnx_ir` value.
        result: the value that is judged.
        opset: of the default domain.
        finish: what becomes of the result where it is stored (saturation).
        before: by `onnx_ir` value, what may be read in the place of one of `values`, in words and as an array.

    Attributes:
        evaluations: how many times it was computed again under another assumption.

    Raises:
        EdgeconvError: the reference cannot compute it.
    """

    def __init__(
        self,
        nodes: Sequence[ir.Node],
        values: Mapping[ir.Value, Array],
        result: ir.Value,
        opset: int,
        finish: Callable[[Array], Array] = lambda array: array,
        before: Mapping[ir.Value, Sequence[tuple[str, Array]]] = MappingProxyType({}),
    ) -> None:
        self._values, self._result, self._finish = dict(values), result, finish
        self.before = before
        self.evaluations = 0
        layers = []
        for node in nodes:
            operands = tuple(None if value is None else self._values[value] for value in node.inputs)
            results = evaluate_node(node, operands, opset=opset)
            layers.append(Layer(node, operands, results, opset))
            self._values.update(zip(node.outputs, results, strict=True))
        self.layers = tuple(layers)

    @cached_property
    def expected(self) -> Array:
        """What it computes of its operands."""
        return self._finish(self._values[self._result])

    @property
    def names(self) -> dict[str, Array]:
        """The stored real operands of its layers, by name."""
        named = {}
        for layer in self.layers:
            for at in layer.constants():
                value, array = layer.node.inputs[at], layer.operands[at]
                if value is not None and array is not None:
                    named[value.name or ""] = array
        return named

    def after(self, at: int, results: Sequence[Array]) -> Array:
        """The judged value, computed with these results in place of a layer's own.

        Raises:
            EdgeconvError: the reference cannot compute it.
        """
        values = dict(zip(self.layers[at].node.outputs, results, strict=False))
        return self._walked(values, at + 1)

    def again(
        self,
        at: int,
        operands: Mapping[int, Array | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        operator: str | None = None,
    ) -> Array:
        """The judged value, where a layer is computed under another assumption; see `Layer.again`.

        Raises:
            EdgeconvError: the reference cannot compute it.
        """
        return self.after(at, self.layers[at].again(operands, attributes, operator))

    def with_constants(self, changed: Mapping[str, Array]) -> Array:
        """The judged value, computed with other constants, by name.

        Raises:
            EdgeconvError: the reference cannot compute it.
        """
        inputs = {value for layer in self.layers for value in layer.node.inputs if value is not None}
        return self.reading({value: changed[value.name or ""] for value in inputs if value.name in changed})

    def reading(self, values: Mapping[ir.Value, Array]) -> Array:
        """The judged value, computed with other values in place of some that the piece reads.

        Raises:
            EdgeconvError: the reference cannot compute it.
        """
        return self._walked(dict(values), 0)

    def _walked(self, values: dict[ir.Value, Array], start: int) -> Array:
        """Computes the layers from `start` on again, as far as changed values reach; the others keep their results."""
        self.evaluations += 1
        for layer in self.layers[start:]:
            replaced = {at: values[value] for at, value in enumerate(layer.node.inputs) if value in values}
            if replaced:
                values.update(zip(layer.node.outputs, layer.again(replaced), strict=True))
        return self._finish(values.get(self._result, self._values[self._result]))


Compute = Callable[[], Array]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A possible fault: in words, and the result that the piece has with it.

    Attributes:
        words: "the kernel is rotated by 180 degrees".
        compute: the piece's result with the fault; raises EdgeconvError or ValueError where it has none.
        fitted: how many free numbers were estimated from the actual result. As many elements can always be explained,
            so more than these must differ.
    """

    words: str
    compute: Compute
    fitted: int = 0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the runtime computed, and how accurately.

    Attributes:
        actual: the result, in torch's layout, real numbers in float64.
        bound: how far a correct result may be from it.
        relative: the same as a part of the correct result's largest magnitude; the larger of both counts.
    """

    actual: Array
    bound: float
    relative: float = 0.0

    def tolerance(self, result: Array) -> float:
        """How far this result may be from the actual one, element by element."""
        finite = np.abs(result[np.isfinite(result)])
        return max(self.bound, self.relative * float(finite.max(initial=0.0)))

    def beyond(self, result: Array) -> int:
        """How many elements of a result are beyond the bound; all where it has another shape."""
        if result.shape != self.actual.shape:
            return max(self.actual.size, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            same = (result == self.actual) | (np.isnan(result) & np.isnan(self.actual))
            distance = np.abs(result.astype(np.float64) - self.actual.astype(np.float64))
        return int(np.count_nonzero(~(same | (distance <= self.tolerance(result)))))


def confirmed(hypothesis: Hypothesis, evidence: Evidence, differing: int) -> bool:
    """Whether a hypothesis explains what was computed.

    Args:
        hypothesis: to be tried.
        evidence: what was computed.
        differing: how many elements the right result does not explain.
    """
    if differing <= hypothesis.fitted:
        return False
    try:
        with np.errstate(all="ignore"):
            return evidence.beyond(hypothesis.compute()) == 0
    except (EdgeconvError, ValueError, IndexError):  # under the hypothesis, operands do not fit together
        return False
