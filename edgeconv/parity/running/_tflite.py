"""``.tflite`` files: probes, and the walk over their operators."""

from __future__ import annotations

import struct
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.bounds import Arithmetic, Bound, of_tflite
from edgeconv.parity.running._layer_cache import LayerCache
from edgeconv.parity.running._layers import Judged, carried_through, judged_layers
from edgeconv.parity.running._step import Operand, Step
from edgeconv.reference.tflite import Operator, TfliteGraph, open_tflite, read

_OUTPUTS = 8  # of a SubGraph: the place of its third field in its table of offsets
_NOT_RETURNED = ("int4", "bfloat16")  # what frames and numpy do not carry
_ADDING_UP = ("MEAN", "SUM")  # of a square before them, XNNPACK makes one operator with it (`_squares`)


class TfliteFile:
    """A file, with the arithmetic of the runtime that it is judged for.

    Args:
        data: its bytes.
        arithmetic: of the runtime; halves are dequantized, and all is computed in float32.
        cache: layers that were judged already.
    """

    def __init__(self, data: bytes, arithmetic: Arithmetic, cache: LayerCache | None = None) -> None:
        self._data = data
        self._graph = read(data)
        self._arithmetic, self._cache = arithmetic, cache
        self._places = {tensor.name: at for at, tensor in enumerate(self._graph.tensors)}

    @property
    def groups(self) -> Sequence[Collection[str]]:
        """One: TFLite fuses nothing when it loads a file, and what XNNPACK does not depend on who reads a value."""
        varying = set(self._graph.inputs)
        names = []
        for operator in self._graph.operators:
            if varying.isdisjoint(operator.inputs):  # of constants alone: it is computed beforehand
                continue
            varying.update(operator.outputs)
            tensors = [(at, self._graph.tensors[at]) for at in operator.outputs if at not in self._graph.outputs]
            names += [tensor.name for _, tensor in tensors if tensor.dtype not in _NOT_RETURNED]
        return [names]

    @property
    def remembers(self) -> bool:
        """See `ProbedFile`: it has variables."""
        return any(tensor.variable for tensor in self._graph.tensors)

    def probe(self, names: Sequence[str]) -> bytes:
        """See `ProbedFile`. A new list of outputs lies behind the file, and its graph points there."""
        places = [*self._graph.outputs, *(self._places[name] for name in names)]
        data = bytearray(self._data)
        data += bytes(-len(data) % 4)  # a vector begins at a multiple of four
        # An offset counts from its own place forwards (flatbuffers.dev/internals): any vector behind it can be reached.
        struct.pack_into("<I", data, self._field, len(data) - self._field)
        data += struct.pack(f"<I{len(places)}i", len(places), *places)
        return bytes(data)

    @cached_property
    def _field(self) -> int:
        """Where the file says where its list of outputs is."""
        table = open_tflite(self._data).Subgraphs(0)._tab
        return int(table.Pos + table.Offset(_OUTPUTS))

    def judge(self, inputs: Sequence[Array], outputs: Sequence[Array], returned: Mapping[str, Array]) -> Judged:
        """See `ProbedFile`."""
        graph = self._graph
        held = self._given(inputs)
        results: dict[Hashable, Array] = {self._places[name]: array for name, array in returned.items()}
        results |= dict(zip(graph.outputs, outputs, strict=True))
        steps = self._steps()
        halves = any(graph.tensors[at].dtype == "float16" for at in results if isinstance(at, int))
        readings = [self._held, self._unrounded] if halves else [self._held]
        return judged_layers(steps, held, results, readings, self._name, self._cache)

    def carried(self, inputs: Sequence[Array]) -> Sequence[Bound]:
        """See `OnnxFile.carried`."""
        return carried_through(self._steps(), self._given(inputs), self._graph.outputs)

    def _given(self, inputs: Sequence[Array]) -> dict[Hashable, Operand]:
        """Constants, variables at their beginning, and inputs, by tensor."""
        held: dict[Hashable, Operand] = {}
        for at, array in self._graph.kept.items():
            held[at] = array
        return held | {at: self._held(at, array) for at, array in zip(self._graph.inputs, inputs, strict=True)}

    def _steps(self) -> list[Step]:
        squares = self._squares
        return [
            Step(
                operator.name,
                tuple(None if at < 0 else at for at in operator.inputs),
                operator.outputs,
                partial(_bounds, self._graph, operator, self._arithmetic, squares),
                "" if self._cache is None else _identity(self._graph, operator, self._arithmetic, squares),
            )
            for operator in self._graph.operators
        ]

    @cached_property
    def _squares(self) -> frozenset[int]:
        """Tensors that XNNPACK may add up unrounded: it makes one operator of a square and the sum or mean behind it
        (``reduce_sum_squared``, src/subgraph.c), whoever else reads the square."""
        if self._arithmetic.runtime == "tflite":
            return frozenset()
        squaring = (item for item in self._graph.operators if item.name == "SQUARE" or _multiplies_itself(item))
        return frozenset(item.outputs[0] for item in squaring)

    def _held(self, key: Hashable, array: Array) -> Operand:
        """A returned value in the type that operators read it in."""
        assert isinstance(key, int)  # tensors have indices
        return np.asarray(array, self._graph.tensors[key].held_as)

    def _unrounded(self, key: Hashable, array: Array) -> Operand:
        """A half that XNNPACK may have read before it was rounded: of what it has no kernels for halves, a subgraph is
        computed in float32, and only its results are rounded."""
        returned = self._held(key, array)
        if array.dtype != np.float16 or not isinstance(returned, np.ndarray):
            return returned
        error = np.spacing(np.abs(array)).astype(np.float64) / 2
        return Bound(returned, error, error)

    def _name(self, key: Hashable) -> str:
        assert isinstance(key, int)  # tensors have indices
        return self._graph.tensors[key].name


def _multiplies_itself(operator: Operator) -> bool:
    return operator.name == "MUL" and operator.inputs[0] == operator.inputs[1]


def _identity(graph: TfliteGraph, operator: Operator, arithmetic: Arithmetic, squares: Collection[int]) -> str:
    """All that the bounds of an operator depend on, but for the numbers of its operands."""
    tensors = [None if at < 0 else graph.tensors[at] for at in (*operator.inputs, *operator.outputs)]
    facts = [
        tensor and (tensor.dtype, tensor.shape, tensor.quantization, tensor.variable, tensor.data is None)
        for tensor in tensors
    ]
    which = [operator.inputs.index(at) for at in operator.inputs]  # an operand may be there twice
    kind = (operator.name, operator.version, operator.custom, sorted(operator.options.items()), len(operator.outputs))
    return repr((kind, which, facts, arithmetic, operator.name in _ADDING_UP and operator.inputs[0] in squares))


def _bounds(
    graph: TfliteGraph,
    operator: Operator,
    arithmetic: Arithmetic,
    squares: Collection[int],
    operands: Sequence[Operand],
) -> Sequence[Bound]:
    values = {at: value for at, value in zip(operator.inputs, operands, strict=True) if value is not None}
    errors = {at: value for at, value in values.items() if isinstance(value, Bound)}
    exact = {at: value.exact if isinstance(value, Bound) else value for at, value in values.items()}
    arrays = graph.operands(operator, exact)
    if any(graph.tensors[at].dtype == "float16" for at in operator.outputs):
        # A file that computes in halves, and not only stores its weights so: XNNPACK adds up in them.
        arithmetic = replace(arithmetic, storage="float16", compute="float16")
    first = operator.inputs[0] if operator.inputs else -1
    if operator.name in _ADDING_UP and first in squares and first not in errors and exact[first].dtype.kind == "f":
        size = np.abs(exact[first].astype(np.float64)) * arithmetic.unit + arithmetic.least
        errors[first] = Bound(exact[first], size, size)
    return of_tflite(graph, operator, arrays, arithmetic=arithmetic, errors=errors)
