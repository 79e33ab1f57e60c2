"""A graph computed node by node on many samples at once, in float32 by onnxruntime.

Nothing is fused, so a QDQ graph computes what the plan says, and a caller may look at what enters a layer, change the
layer, and go on with what it then makes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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

_FORGOTTEN = np.empty(0, np.float32)  # in the place of an array that nothing reads any more
_MOST_BYTES = 1 << 28  # of one value over all samples: three or four are alive at a time

Values: TypeAlias = "list[Array] | _Dequantized"
"""One array per sample."""


class Walk:
    """The values of a graph so far, one array per sample.

    Args:
        model: float32 or QDQ; not changed, but constants that its owner changes meanwhile are seen.
        samples: graph inputs by name, for each sample.
    """

    def __init__(self, model: ir.Model, samples: Sequence[Mapping[str, Array]]) -> None:
        self._opset = model.graph.opset_imports.get("", 1)
        self._values: dict[ir.Value, Values] = {
            value: [sample[value.name or ""] for sample in samples]
            for value in model.graph.inputs
            if not value.is_initializer()
        }
        self._count = len(samples)
        self._computed: set[ir.Node] = set()
        self._nodes = list(model.graph)
        self._reads = Counter(value for node in self._nodes for value in node.inputs if value is not None)
        self._reads.update(model.graph.outputs)

    def layers(self, names: Collection[str]) -> Iterator[ir.Node]:
        """Computes the nodes in order; stops before each of these layers. `compute` may compute it ahead of time."""
        for node in self._nodes:
            if layer_name(node) in names:
                yield node
            if node not in self._computed:
                self.compute(node)

    def read(self, value: ir.Value | None) -> Values:
        """A value that is still alive: of a graph input, or of a node that was computed and is yet to be read."""
        if value is None or value not in self._values:
            array = constant(value)
            if value is None or array is None:
                raise QuantizeError(f"the value {value.name if value else ''!r} was not computed", where="quantize")
            return [array] * self._count
        return self._values[value]

    def write(self, value: ir.Value | None, arrays: list[Array]) -> None:
        """Replaces a value for all nodes to come."""
        if value is None:
            raise QuantizeError("an input that is left out cannot be replaced", where="quantize")
        self._values[value] = arrays

    def compute(self, node: ir.Node) -> None:
        """Computes one node, and forgets what nobody reads any more, sample by sample."""
        self._computed.add(node)
        self._reads.subtract(value for value in node.inputs if value is not None)
        integers, scale, zero_point = (input_of(node, index) for index in range(3))
        steps = constant(scale) if node.op_type == "DequantizeLinear" and integers in self._values else None
        if integers is not None and steps is not None and steps.size == 1:
            self._values[node.outputs[0]] = _Dequantized(self._values[integers], steps, constant(zero_point))
        else:
            self._run(node)
        for value in [*node.inputs, *node.outputs]:
            if value is not None and self._reads[value] <= 0:
                self._values.pop(value, None)

    def _run(self, node: ir.Node) -> None:
        operands = [value for value in dict.fromkeys(node.inputs) if value is not None]
        fed = [value for value in operands if value in self._values]
        session = _session(node, self._opset, fed)
        feeds = [self._values[value] for value in fed]
        once = all(arrays[0] is arrays[-1] for arrays in feeds)  # a constant: the same array for every sample
        last_read = [] if once else [self._values.pop(value) for value in fed if self._reads[value] <= 0]
        runs: list[list[Array]] = []
        with mapped(f"operator {name_of(node)}"):
            for index in range(1 if once else self._count):
                runs.append(session.run(None, {f"x{i}": arrays[index] for i, arrays in enumerate(feeds)}))
                for arrays in last_read:
                    arrays[index] = _FORGOTTEN
        runs = runs * self._count if once else runs
        for position, value in enumerate(output for output in node.outputs if output.name):
            self._values[value] = [results[position] for results in runs]


class _Dequantized:
    """Real numbers, sample by sample, that are held as the integers that stand for them: in a quarter of the memory."""

    def __init__(self, integers: Iterable[Array], scale: Array, zero_point: Array | None) -> None:
        self._integers, self._scale = list(integers), scale.reshape(())
        self._zero_point = np.zeros(()) if zero_point is None else zero_point.reshape(())

    def __len__(self) -> int:
        return len(self._integers)

    def __getitem__(self, index: int) -> Array:
        return dequantized(self._integers[index], self._scale, self._zero_point, np.float32)

    def __iter__(self) -> Iterator[Array]:
        return (self[index] for index in range(len(self)))

    def __setitem__(self, index: int, array: Array) -> None:
        self._integers[index] = array


def chosen(model: ir.Model, batches: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """As many of the batches as a walk holds in memory, evenly taken."""
    if not batches:
        raise QuantizeError("there is no calibration data", where="quantize", hint="give at least one batch")
    rows = max((array.shape[0] for batch in batches for array in batch.values() if array.ndim), default=1)
    largest = max((_bytes(value, rows) for node in model.graph for value in node.outputs), default=1)
    count = max(1, min(len(batches), _MOST_BYTES // max(1, largest)))
    return [batches[index * len(batches) // count] for index in range(count)]


def _bytes(value: ir.Value, rows: int) -> int:
    """Of a value of so many rows, where its batch is open."""
    size = 4
    for length in value.shape or ():
        size *= length if isinstance(length, int) else rows
    return size


def _session(node: ir.Node, opset: int, fed: Sequence[ir.Value]) -> onnxruntime.InferenceSession:
    """The node by itself, under names of its own; what is not fed is a constant of it."""
    import onnx

    names = {value: f"x{index}" for index, value in enumerate(fed)}
    constants = []
    for value in node.inputs:
        if value is not None and value not in names:
            names[value] = f"c{len(names)}"
            array = constant(value)
            if array is None:
                raise QuantizeError(f"nothing gives the value {value.name!r}", where=f"operator {name_of(node)}")
            constants.append(onnx.numpy_helper.from_array(array, names[value]))
    proto = ir.to_proto(node)
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
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    with mapped(f"operator {name_of(node)}"):
        return session(model.SerializeToString())


def _info(name: str, value: ir.Value) -> onnx.ValueInfoProto:
    """Of any shape: onnxruntime sees the shapes of what it is given."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, int(value.dtype or ir.DataType.FLOAT), None)
