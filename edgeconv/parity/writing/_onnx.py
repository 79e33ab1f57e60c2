"""An `.onnx` file held at the values that the graph has, too: read back from its bytes, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import EmitError
from edgeconv.graph.quantized_operators import misread
from edgeconv.graph.stored_integers import dequantize_stored
from edgeconv.parity.causes import HELD, Part, Stated
from edgeconv.parity.writing._beside import Beside
from edgeconv.parity.writing._constants import half_steps
from edgeconv.parity.writing._ends import HALF_UNIT, End
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._kinks import reach_of_graph
from edgeconv.parity.writing._more_channels import take_out_channels
from edgeconv.parity.writing._narrowed import left_open, narrowed, rounded
from edgeconv.parity.writing._node_order import IN_ORDER, POSITIVE, misplaced, without_scale
from edgeconv.parity.writing._on_demand import OnDemand, held_on_demand
from edgeconv.parity.writing._solved import is_quantized, is_rounded
from edgeconv.parity.writing._steps import Steps
from edgeconv.reference import OPERATORS

_GREATEST = 127  # of int8, which weights are


class OnnxFile:
    """A file, beside the graph that it should be.

    Args:
        path: of the file.
        graph: that it was written from.
        halves: whether it computes in float16 wherever it can.

    Attributes:
        constants: its floating-point constants, by name.
        unused: its constants that no operator reads.
        unknown: its operators that the reference does not compute.
        approximated: none: a graph's operators are a file's.
        saturated: none: what it rounds has the graph's name.

    Raises:
        EmitError: a node reads what a later one computes, or a scale is no positive number.
    """

    approximated: frozenset[str] = frozenset()
    saturated: frozenset[str] = frozenset()

    def __init__(self, path: Path, graph: Graph, *, halves: bool = False) -> None:
        model = ir.load(path)
        if why := misplaced(model.graph):
            raise EmitError(why, hint=IN_ORDER)
        if why := without_scale(model.graph):
            raise EmitError(why, hint=POSITIVE)
        dequantize_stored(model.graph)
        take_out_channels(model.graph, graph.model.graph)
        _with_real_borders(model.graph, graph)
        initializers = model.graph.initializers.items()
        self.unused = tuple(name for name, item in initializers if not item.uses() and not item.is_graph_output())
        self._file = Graph(model, computed=graph.quantizers)
        types = {node.op_type for node in self._file.model.graph.all_nodes()}
        self.unknown = tuple(sorted(types - OPERATORS.keys()))
        self._operators = {value.name: node.op_type for node in self._file.model.graph for value in node.outputs}
        self.names = frozenset(self._file.named & graph.named)
        self._file = self._file.saturating(self.names)
        self.constants = self._file.real_constants
        self._fed: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {})
        self._graph, self._halves = graph, halves

    @property
    def read(self) -> frozenset[str]:
        """Those that operators read, and not the value of another precision that they were cast from."""
        values = [value for node in self._file.model.graph if node.op_type != "Cast" for value in node.outputs]
        return frozenset(value.name or "" for value in values if value.uses())

    @property
    def reach(self) -> float:
        """How far operands must reach to lie beyond all that operators bend at, or compare with."""
        return reach_of_graph(self._file.model.graph)

    @property
    def looked_up(self) -> dict[str, Steps]:
        """None: operators compute with real numbers."""
        return {}

    def quantized(self) -> Iterator[tuple[str, str, float, int]]:
        """Name, again, scale, and the zero point counted from the smallest integer, of each quantized value."""
        for name in self.names & self._file.quantizers.keys():
            yield (name, name, *self._file.parameters(name))

    def misread(self) -> Iterator[tuple[str, str]]:
        """What the graph does not do: integers read as other numbers than were written, floats narrowed or rounded.

        And constants by other scales than the graph's: of a channel of zeros no number tells it.
        """
        own = {name for name, _ in misread(self._graph.model)}
        yield from ((name, line) for name, line in misread(self._file.model) if name not in own)
        yield from left_open(self._file.model, self._graph.model)
        yield from rounded(self._file.model, self._graph.model)
        yield from narrowed(self._file.model, self._graph.model, halves=self._halves)
        yield from self._other_scales()

    def _other_scales(self) -> Iterator[tuple[str, str]]:
        due = self._graph.constant_steps
        for name, scales in self._file.constant_steps.items():
            stated = due.get(name)
            if stated is None or stated.shape != scales.shape or np.array_equal(stated, scales):
                continue
            held, other = scales.reshape(-1), stated.reshape(-1)
            at = int(np.argmax(held != other))
            yield name, f"constant {name}: its scale [{at}] is {held[at]:.9g}, the graph's is {other[at]:.9g}"

    @property
    def stated(self) -> Stated:
        """Its nodes and its constants of integers."""
        graph = self._file.model.graph
        nodes = {value.name: node for node in graph for value in node.outputs if value.name}
        tensors = {name: value.const_value for name, value in graph.initializers.items()}
        integers = {name: tensor.numpy() for name, tensor in tensors.items() if tensor and tensor.dtype.is_integer()}
        return Stated(nodes, integers)

    def alike(self, held: Collection[str]) -> frozenset[str]:
        """The values of both sides that the file computes by the graph's own nodes, from the same of the held ones.

        The same evaluator makes the same numbers of the same nodes and operands: nothing is left to compare.
        """
        graph, file = self._graph, self._file
        models = graph.model, file.model
        if any(model.functions for model in models) or graph.quantizers.keys() != file.quantizers.keys():
            return frozenset()
        if len({model.graph.opset_imports.get("", 1) for model in models}) > 1:
            return frozenset()
        beside = Beside(*models, held)
        return frozenset(name for name in self.names if beside.is_alike(name))

    def compare(
        self,
        inputs: Mapping[str, Array],
        values: Mapping[str, Array],
        expected: Mapping[str, Array],
        known: Collection[str] = (),
    ) -> Iterator[End]:
        """Evaluates the file; what reads a held value reads the graph's. Parameters as of `TfliteFile.compare`."""
        names = [name for name in self._in_order() if name in expected]
        self._fed = (inputs, OnDemand.among(values, self.names))
        results = held_on_demand(self._file, *self._fed, {}, [name for name in names if name not in known])
        for name in names:
            due = expected[name]
            yield End(name, name, self._operators.get(name, ""), results.get(name, due), due, (*range(due.ndim),))

    def again(self, tensor: str, changed: Mapping[str, Array], ranges: Mapping[str, float] | None = None) -> Array:
        """Evaluates one value that was compared once more, with other numbers in constants; there are no own ranges."""
        return self._file.held(*self._fed, changed, [tensor])[tensor]

    def part(self, tensor: str) -> Part:
        """The nodes that a value which was compared is computed by; they read values, and each other's results.

        Raises:
            RewriteError: the reference cannot compute it by itself.
        """
        inputs, values = self._fed
        layers = (piece := self._file.piece(tensor, inputs, values, {})).layers
        names = [[(value.name or "").removesuffix(HELD) for value in layer.node.outputs] for layer in layers]

        def readable(at: int) -> Mapping[str, Array]:
            inner = [zip(names[place], layers[place].results, strict=True) for place in reversed(range(at))]
            after = {name for place in range(at, len(names)) for name in names[place]}
            before = OnDemand.over(OnDemand.among(values, values.keys() - after), inputs)
            return OnDemand.over(dict(itertools.chain(*inner)), before)

        def reading(name: str, array: Array) -> Array:
            return piece.with_constants({name: array})

        return Part(layers, piece.after, reading, readable)

    def own_ranges(self, tensor: str) -> frozenset[str]:
        """None: all integers are the graph's."""
        return frozenset()

    def operands(self, tensor: str) -> frozenset[str]:
        """The held values, and the graph's inputs, that a value which was compared is computed from."""
        inputs, values = self._fed
        return self._file.operands(tensor, values) & (inputs.keys() | values.keys())

    def half_steps(self, constant: str) -> Array:
        """What rounding once may have moved the numbers of a constant by: of integers, rounding their scale."""
        array = self.constants[constant]
        return np.abs(array) * HALF_UNIT if array.dtype == np.float64 else half_steps(array)

    def own_half_steps(self, constant: str) -> Array:
        """The same of numbers that the writer computed itself."""
        return self.half_steps(constant)

    def is_stored(self, constant: str, exact: Array, doubt: Array) -> Array:
        """Whether the numbers of a constant are those that exact ones, known but for a doubt, become in its type."""
        held, steps = self.constants[constant], self._file.constant_steps.get(constant)
        if steps is None:
            return is_rounded(held, exact, doubt)
        return is_quantized(held, np.broadcast_to(steps, held.shape), exact, doubt, _GREATEST)

    def ends(self, constant: str) -> tuple[float, float]:
        """The least and the greatest number that a constant can have: it is of floats, or the graph's own integers."""
        return -np.inf, np.inf

    def constants_before(self, tensor: str) -> frozenset[str]:
        """The constants between a value and the held ones that it is computed from."""
        return self._file.constants_before(tensor, self._fed[1]) & self.constants.keys()

    def _in_order(self) -> list[str]:
        """The values of both sides as they are computed, and outputs that are constants."""
        graph = self._file.model.graph
        stored = [value for value in graph.outputs if value.is_initializer()]
        made = [*(value for node in graph for value in node.outputs), *stored]
        return [name for name in dict.fromkeys(value.name or "" for value in made) if name in self.names]


def _with_real_borders(graph: ir.Graph, beside: Graph) -> None:
    """Quantizes the inputs and dequantizes the outputs of a graph that are integers, as the graph beside it does."""
    for index, value in enumerate(list(graph.inputs)):
        readers = [use.node for use in value.uses()]
        quantized = beside.quantized_inputs.get(value.name or "")
        if quantized is None or not readers or any(node.op_type != "DequantizeLinear" for node in readers):
            continue
        real = ir.Value(name=value.name, shape=value.shape, type=readers[0].outputs[0].type)
        graph.inputs[index] = real
        quantizer = ir.Node("", "QuantizeLinear", [real, *readers[0].inputs[1:]], num_outputs=1)
        quantizer.outputs[0].name, quantizer.outputs[0].type = quantized, value.type
        graph.insert_before(graph[0], quantizer)
        for node in readers:
            node.replace_input_with(0, quantizer.outputs[0])
    own = {value.name for value in beside.model.graph.outputs if _is_made_by("QuantizeLinear", value)}
    for index, value in enumerate(list(graph.outputs)):
        maker = value.producer()
        if maker is None or maker.op_type != "QuantizeLinear" or value.name in own:
            continue
        name = value.name
        real = ir.Value(name=name, shape=value.shape, type=maker.inputs[0].type if maker.inputs[0] else None)
        value.name = beside.dequantized.get(name or "", f"{name}.quantized")
        graph.outputs[index] = real
        graph.append(ir.Node("", "DequantizeLinear", [value, *maker.inputs[1:]], outputs=[real]))


def _is_made_by(operator: str, value: ir.Value) -> bool:
    maker = value.producer()
    return maker is not None and maker.op_type == operator
