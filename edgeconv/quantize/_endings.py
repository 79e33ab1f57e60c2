"""Where the noise of a graph's outputs is measured when its layers are put into an order.

A Softmax or Sigmoid that an output ends with is flat nearly everywhere: noise shows where two classes are next to
equal, and there it is all or nothing. Of eight lines that PP-OCRv4's recognizer read, one glyph that flipped was half
of the noise of a layer, and none of that of its neighbor. So it is measured before such a function, where the noises
of single roundings add up to that of all of them: 22.5 and 23.3 dB in that network, and 7.8 and 14.0 behind its
Softmax. Ordered by it, 34 of 47 layers in float gave the 22 dB that took 40 ordered by the other, and 42 ordered by
noise carried through the slope of the Softmax, which is that of the few glyphs that are next to equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import is_activation, named
from edgeconv.quantize._plan import Plan

_REARRANGING = having(Trait.REARRANGES)


class Ending(NamedTuple):
    """An output, or the function that makes it.

    Attributes:
        names: of the values that are read: the output, or what the function reads and what it makes.
        function: the steep and flat function; None where the output is measured itself.
        axis: along which all numbers may be greater by one and the same without an effect; None for no such axis.
        interval: the plan's range of what the function reads; beyond it the function is flat.
    """

    names: tuple[str, ...]
    function: Callable[[Array], Array] | None = None
    axis: int | None = None
    interval: tuple[float, float] = (-math.inf, math.inf)

    def energies(self, exact: Mapping[str, Array], coarse: Mapping[str, Array]) -> list[tuple[float, float]]:
        """Of the noise that roundings make, and of the signal, the values by name; before the function and behind."""
        real, rounded = (self._before(values[self.names[0]]) for values in (exact, coarse))
        pairs = [(real, rounded)]
        if self.function is not None:
            pairs.append((self.function(coarse[self.names[0]].astype(np.float64)), coarse[self.names[1]]))
        with np.errstate(invalid="ignore"):  # of infinite ones
            return [(_energy(rounded - real), _energy(real)) for real, rounded in pairs]

    def _before(self, array: Array) -> Array:
        clipped = np.clip(array.astype(np.float64), *self.interval)
        return clipped if self.axis is None else np.asarray(clipped - clipped.mean(self.axis, keepdims=True))


def endings_of(graph: ir.Graph, plan: Plan) -> list[Ending]:
    """Those of a graph's outputs, each once; of an output of integers what these are told by."""
    endings = [_ending(output, plan) for output in graph.outputs]
    return list({ending.names: ending for ending in endings if ending is not None}.values())


def _ending(output: ir.Value, plan: Plan) -> Ending | None:
    """None of what is not computed."""
    result: ir.Value | None = output
    while result is not None and not is_activation(result):  # places and classes have no distances
        result = _first_input(result)
    if result is None or (producer := result.producer()) is None:
        return None
    value: ir.Value | None = result
    while producer is not None and producer.op_type in _REARRANGING and value is not None:
        value = _first_input(value)
        producer = None if value is None else value.producer()
    if value is not None and producer is not None and producer.op_type in _FLAT:
        read = _first_input(value)
        if read is not None and read.producer() is not None and is_activation(read):
            tensor = plan.tensors.get(named(read))
            interval = (-math.inf, math.inf) if tensor is None else tensor.range()
            return Ending((named(read), named(value)), *_FLAT[producer.op_type](producer), interval)
    return Ending((named(result),))


def _first_input(value: ir.Value) -> ir.Value | None:
    producer = value.producer()
    return None if producer is None or not producer.inputs else producer.inputs[0]


def _softmax(node: ir.Node) -> tuple[Callable[[Array], Array], int | None]:
    axis = node.attributes.get_int("axis", -1)

    def softmax(x: Array) -> Array:
        powers = np.exp(x - x.max(axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis, keepdims=True))

    return softmax, axis


def _sigmoid(_: ir.Node) -> tuple[Callable[[Array], Array], int | None]:
    return lambda x: np.asarray(0.5 + 0.5 * np.tanh(0.5 * x)), None


_FLAT = {"Softmax": _softmax, "Sigmoid": _sigmoid}


def _energy(array: Array) -> float:
    """Of its finite numbers: a class that is ruled out by minus infinity is no signal."""
    return float(np.sum(np.square(array, dtype=np.float64), where=np.isfinite(array)))
