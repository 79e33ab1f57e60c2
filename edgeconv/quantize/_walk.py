"""A graph computed node by node on many samples, in float32 by onnxruntime.

Nothing is fused, so a QDQ graph computes what the plan says, and a caller may look at what enters a layer, change the
layer, and go on with what it then makes. From one layer to the next the samples go one by one: of all of them there is
only what later layers read, and of what is quantized only the integers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import dequantized
from edgeconv.errors import QuantizeError
from edgeconv.graph.edit import constant, input_of
from edgeconv.quantize._calibrate import mapped
from edgeconv.quantize._graph import layer_name, name_of
from edgeconv.quantize._onnxruntime import session

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_FORGOTTEN = np.empty(0, np.float32)  # in place of an array that nothing reads any more
_MOST_BYTES = 1 << 28  # of one value over all samples, in float32
_KEPT_BYTES = 1 << 26  # of what a layer makes of all samples; more is computed a second time


@dataclass(frozen=True)
class Dequantized:
    """Real numbers that are held as the integers that stand for them: in a quarter of the memory."""

    integers: Array
    scale: Array
    zero_point: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    def real(self, integers: Array) -> Array:
        """The real numbers of some of the integers, float32."""
        return dequantized(integers, self.scale, self.zero_point, np.float32)

    def write_real(self, result: Array) -> None:
        """Writes the real numbers of all of them into float32 of their shape."""
        # In float32 from the start, with no array between.
        np.subtract(self.integers, np.float32(self.zero_point), out=result, dtype=np.float32)
        result *= np.float32(self.scale)


Held: TypeAlias = "Array | Dequantized"


def real(held: Held) -> Array:
    """The numbers of one sample."""
    return held.real(held.integers) if isinstance(held, Dequantized) else held


class Walk:
    """The values of a graph so far, one array per sample.

    Args:
        model: float32 or QDQ; not changed.
        samples: graph inputs by name, for each sample.
    """

    def __init__(self, model: ir.Model, samples: Sequence[Mapping[str, Array]]) -> None:
        self._opset = model.graph.opset_imports.get("", 1)
        self._values: dict[ir.Value, list[Held]] = {
            value: [sample[value.name or ""] for sample in samples]
            for value in model.graph.inputs
            if not value.is_initializer()
        }
        self._constants: dict[ir.Value, Array] = {}  # what is the same for every sample
        self._count = len(samples)
        self._nodes = list(model.graph)
        self._reads = Counter(value for node in self._nodes for value in node.inputs if value is not None)
        self._reached: _Reached | None = None

    def layers(self, names: Collection[str]) -> Iterator[ir.Node]:
        """Stops before each of these layers, and computes what it reads; nothing behind the last one is computed."""
        waiting: list[ir.Node] = []
        for node in self._nodes:
            if layer_name(node) in names:
                self._compute(waiting)
                waiting, self._reached = [], None
                yield node
            waiting.append(node)

    def read(self, value: ir.Value | None) -> Sequence[Held]:
        """A value that is still alive: of a graph input, or of a node that was computed and is yet to be read."""
        if value is not None and value in self._values:
            return self._values[value]
        array = self._constants.get(value, constant(value)) if value is not None else None
        if array is None:
            raise QuantizeError(f"the value {value.name if value else ''!r} was not computed", where="quantize")
        return [array] * self._count

    def write(self, value: ir.Value | None, array: Array) -> None:
        """Replaces a value that is the same for every sample, for all nodes to come."""
        if value is None:
            raise QuantizeError("an input that is left out cannot be replaced", where="quantize")
        self._constants[value] = array

    def outputs(self, node: ir.Node) -> Iterator[Array]:
        """The output of the layer that the walk has stopped before, sample by sample."""
        reached = self._reached = _Reached(_Step(node, self._opset, self._values, self._constants))
        return (reached.first(partial(self._of, index)) for index in range(self._count))

    def move(self, shift: Array) -> None:
        """Adds to what the layer whose `outputs` were looked at makes, float32 that broadcasts to it."""
        assert self._reached is not None  # `outputs` came before
        self._reached.shift = shift

    def _of(self, index: int, value: ir.Value) -> Held:
        return self._values[value][index]

    def _compute(self, nodes: Sequence[ir.Node]) -> None:
        """Computes nodes in order, and forgets what nobody reads any more."""
        # 1. What depends on samples becomes steps; what is the same for all is computed once and becomes a constant.
        self._reads.subtract(value for node in nodes for value in node.inputs if value is not None)
        varying, steps = set(self._values), list[_Step | _Reached]()
        for node in nodes:
            if self._reached is not None and self._reached.node is node:
                steps.append(self._reached)
            elif not varying.isdisjoint(node.inputs):
                steps.append(_Step(node, self._opset, varying, self._constants))
            else:
                outputs = _Step(node, self._opset, (), self._constants).run(partial(self._of, 0))
                self._constants.update(zip(_results(node), map(real, outputs), strict=True))
                continue
            varying.update(_results(node))
        # 2. Sample by sample through all steps, so that inner values exist for one sample at a time.
        dead = [value for value in self._values if self._reads[value] <= 0]
        read_later = [value for step in steps for value in _results(step.node) if self._reads[value] > 0]
        self._values.update({value: [] for value in read_later})
        for index in range(self._count if steps else 0):
            found: dict[ir.Value, Held] = {}
            for step in steps:
                found.update(zip(_results(step.node), step.run(partial(self._among, found, index)), strict=True))
            for value in read_later:
                self._values[value].append(found[value])
            for value in dead:
                self._values[value][index] = _FORGOTTEN
        # 3. What no later node reads is let go.
        for values in (self._values, self._constants):
            for value in [value for value in values if self._reads[value] <= 0]:
                del values[value]

    def _among(self, found: Mapping[ir.Value, Held], index: int, value: ir.Value) -> Held:
        return found[value] if value in found else self._of(index, value)


def _results(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.name]


class _Step:
    """One node, to be computed for sample after sample.

    Args:
        node: that it is.
        opset: of its graph.
        varying: the values that each sample has its own of.
        constants: the numbers of others that are no constants of the graph.
    """

    def __init__(
        self, node: ir.Node, opset: int, varying: Collection[ir.Value], constants: Mapping[ir.Value, Array]
    ) -> None:
        self.node = node
        self._fed = [value for value in dict.fromkeys(node.inputs) if value is not None and value in varying]
        integers, scale, zero_point = (input_of(node, index) for index in range(3))
        # A DequantizeLinear of one scale is not computed: its integers are kept, and become floats where they are read.
        steps = constant(scale) if node.op_type == "DequantizeLinear" and integers in self._fed else None
        self._grid: tuple[Array, Array] | None = None
        if steps is not None and steps.size == 1:
            offset = constant(zero_point)
            self._grid = steps.reshape(()), np.zeros(()) if offset is None else offset.reshape(())
        else:
            self._session = _session(node, opset, self._fed, constants)

    def run(self, held: Callable[[ir.Value], Held]) -> list[Held]:
        """Its outputs that are read, computed from the values of one sample."""
        operands = [real(held(value)) for value in self._fed]
        if self._grid is not None:
            return [Dequantized(operands[0], *self._grid)]
        with mapped(f"operator {name_of(self.node)}"):
            return list(self._session.run(None, {f"x{index}": array for index, array in enumerate(operands)}))


class _Reached:
    """The layer that a walk has stopped before: its outputs, as far as memory allows, and the shift to be added."""

    def __init__(self, step: _Step) -> None:
        self.step, self.node, self.shift = step, step.node, np.zeros((), np.float32)
        self._kept: deque[Array] = deque()
        self._size = 0

    def first(self, held: Callable[[ir.Value], Held]) -> Array:
        """The layer's output of one sample, without the shift; kept for `run`, which comes in the same order."""
        array = real(self.step.run(held)[0])
        self._size += array.nbytes
        if self._size <= _KEPT_BYTES:
            self._kept.append(array)
        return array

    def run(self, held: Callable[[ir.Value], Held]) -> list[Held]:
        array = self._kept.popleft() if self._kept else real(self.step.run(held)[0])
        array += self.shift  # in place: it is nobody else's
        return [array]


def chosen(model: ir.Model, batches: Iterable[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """As many batches as a walk holds in memory, evenly spread over all; at most twice as many are held on the way."""
    held, stride, most = [], 1, 1
    for number, batch in enumerate(batches):
        if number % stride:
            continue
        held.append(batch)
        most = max(1, _MOST_BYTES // max(1, _largest(model, held)))
        # More than fit: every second one goes, and from now on only every second is taken.
        if len(held) > 2 * most:
            held, stride = held[::2], 2 * stride
    if not held:
        raise QuantizeError("there is no calibration data", where="quantize", hint="give at least one batch")
    count = min(len(held), most)
    return [held[index * len(held) // count] for index in range(count)]


def _largest(model: ir.Model, batches: Sequence[Mapping[str, Array]]) -> int:
    """Bytes of the largest value of the graph for the largest of the batches."""
    rows = max((array.shape[0] for batch in batches for array in batch.values() if array.ndim), default=1)
    return max((_bytes(value, rows) for node in model.graph for value in node.outputs), default=1)


def _bytes(value: ir.Value, rows: int) -> int:
    """The bytes of a value in float32, with so many rows where its batch is open."""
    size = 4
    for length in value.shape or ():
        size *= length if isinstance(length, int) else rows
    return size


def _session(
    node: ir.Node, opset: int, fed: Sequence[ir.Value], known: Mapping[ir.Value, Array]
) -> onnxruntime.InferenceSession:
    """The node by itself, under names of its own; what is not fed is a constant of it."""
    import onnx

    names = {value: f"x{index}" for index, value in enumerate(fed)}
    constants = []
    for value in node.inputs:
        if value is not None and value not in names:
            names[value] = f"c{len(names)}"
            array = known[value] if value in known else constant(value)
            if array is None:
                raise QuantizeError(f"nothing gives the value {value.name!r}", where=f"operator {name_of(node)}")
            constants.append(onnx.numpy_helper.from_array(array, names[value]))
    proto = ir.serde.serialize_node(node)
    proto.input[:] = ["" if value is None else names[value] for value in node.inputs]
    results = {f"y{index}": value for index, value in enumerate(node.outputs) if value.name}
    proto.output[:] = [f"y{index}" if value.name else "" for index, value in enumerate(node.outputs)]
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [_info(names[value], value) for value in fed],
        [_info(name, value) for name, value in results.items()],
        constants,
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    # Not onnx's newest IR version, which an installed onnxruntime need not know yet.
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    with mapped(f"operator {name_of(node)}"):
        return session(model.SerializeToString())


def _info(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    """An input or output without a shape: onnxruntime takes those of the arrays that it gets."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, int(value.dtype or ir.DataType.FLOAT), None)
