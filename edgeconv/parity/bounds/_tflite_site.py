"""An operator of a ``.tflite`` file with its operands, as the rules of `_tflite_rules` read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeconv.parity.bounds._arithmetic import Arithmetic, Array
from edgeconv.parity.bounds._bound import Bound
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._sums import linear
from edgeconv.reference.tflite import TfliteGraph, evaluate_operator
from edgeconv.reference.tflite._call import Call

CLAMPS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}


@dataclass(frozen=True)
class Site:
    """An operator with its operands.

    Attributes:
        graph: that it is of.
        values: of its inputs, by tensor.
        call: its options and tensors.
        arithmetic: of the runtime.
        results: the exact ones.
        errors: of operands, see `of_tflite`.
        unclamped: the first result before the fused activation, where that is known.
    """

    graph: TfliteGraph
    values: Mapping[int, Array]
    call: Call
    arithmetic: Arithmetic
    results: tuple[Array, ...]
    errors: Mapping[int, Bound]
    unclamped: Array | None = None

    def x(self, index: int = 0) -> Bounded:
        """An operand, in real numbers."""
        operand = Bounded.of(self.call.real(index), self.arithmetic)
        error = self.errors.get(self.call.operator.inputs[index])  # a runtime's operand has none
        if error is None:
            return operand
        whole = operand.carrying(error.errors)
        return whole.within(whole.value, whole.worst, whole.likely)

    def linear(self, indices: Sequence[int], count: Array | float) -> Bounded:
        """A sum of products of these operands, the last of which may be a bias that is left out."""
        stated = [index for index in indices if self.call.optional(index) is not None]
        operands = [self.x(index) for index in stated]
        operands[0] = self.data(stated)
        plain = self.plain(stated)
        total = self.unclamped if self.unclamped is not None else plain([operand.value for operand in operands])
        outputs = (None, 0, -1)[: len(stated)] if self.call.operator.name == "FULLY_CONNECTED" else ()
        return linear(operands, total, plain, count, terms=max(len(stated) - 2, 0), outputs=outputs)

    def data(self, indices: Sequence[int]) -> Bounded:
        """The first of data and weights, as a kernel reads it that quantizes it to 8 bits."""
        operand = self.x(indices[0])
        if not self._is_hybrid(indices):
            return operand
        # PortableSymmetricQuantizeFloats (kernels/internal/reference/portable_tensor_utils.cc): 127 steps for the
        # largest number, by a rounded factor. From the least to the largest, 255 steps are no wider.
        return operand.widened(np.abs(operand.value).max(initial=0.0) / 127 * (1 + 2.0**-10))

    def _is_hybrid(self, indices: Sequence[int]) -> bool:
        """Data in float, weights in integers: kernels quantize the data to 8 bits, by at most one step of its range."""
        tensors = [self.call.source(index) for index in indices[:2]]
        return len(tensors) == 2 and tensors[0].floating and not tensors[1].floating

    def plain(self, indices: Sequence[int]) -> Callable[[Sequence[Array]], Array]:
        """The operator without its activation, on real numbers in place of these operands."""
        operator = self.call.operator
        options = {name: 0 if name == "fused_activation_function" else item for name, item in operator.options.items()}
        tensors = list(self.graph.tensors)
        for index in indices:
            at = operator.inputs[index]
            tensors[at] = replace(tensors[at], dtype="float32", quantization=None, data=None)
        graph, bare = replace(self.graph, tensors=tuple(tensors)), replace(operator, options=options)

        def evaluate(operands: Sequence[Array]) -> Array:
            held = {operator.inputs[index]: array for index, array in zip(indices, operands, strict=True)}
            return evaluate_operator(graph, bare, {**self.values, **held})[0]

        return evaluate

    def axes(self) -> tuple[int, ...]:
        """The axes of a reduction."""
        return tuple(sorted({self.call.axis(axis, self.call[0].ndim) for axis in self.call.ints(1)}))

    def activated(self, bounded: Bounded) -> Bounded:
        """After the fused activation, where the operator has one."""
        # An LSTM states TANH, which is in its rule.
        number = self.call.operator.options.get("fused_activation_function", 0)
        low, high = CLAMPS.get(int(number) if isinstance(number, int) else 0, CLAMPS[0])
        return bounded.clip(low, high) if (low, high) != CLAMPS[0] else bounded


Rule = Callable[[Site], Bounded]
