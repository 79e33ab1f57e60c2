"""A traced program and the graph that was captured of it, both held at the values that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.threads import one_thread
from edgeconv.errors import RewriteError
from edgeconv.graph.edit import constant
from edgeconv.graph.signs import never_negative
from edgeconv.parity.rewriting._jumps import jumps
from edgeconv.parity.rewriting._operands import POLYNOMIAL, has_empty_channel
from edgeconv.parity.rewriting._signs import Signs
from edgeconv.parity.writing import HALF_UNIT, Cut
from edgeconv.reference import evaluate

_MOST_HELD = 40_000_000  # elements of float64
_MOST_PARTS = 3
_MOST_ALONE = 1 << 21  # elements of the calls, operands and results, that are asked on further operands
# torch's products and sums of one operand and weights, by their names' beginnings.
_LINEAR = ("aten.conv", "aten.linear.", "aten.addmm.", "aten.batch_norm.")
Arrays = Mapping[str, Array]


class Call(Protocol):
    """A call of a traced program: see `edgeconv.devices.ProgramCall`."""

    @property
    def operator(self) -> str: ...
    @property
    def arguments(self) -> str: ...
    @property
    def numbers(self) -> tuple[float, ...]: ...
    @property
    def elements(self) -> int: ...


class Program(Protocol):
    """A traced program that torch runs in float64: see `edgeconv.devices.ProgramRun`."""

    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def calls(self) -> Mapping[str, Call]: ...
    @property
    def holdable(self) -> Collection[str]: ...
    def read_by(self, names: Collection[str], held: Collection[str]) -> Collection[str]: ...
    def values(self, held: Arrays, names: Collection[str], *, rounded: bool = False) -> dict[str, Array]: ...


@dataclass(frozen=True)
class On:
    """What both sides are computed on.

    Attributes:
        inputs: by the graph's names.
        values: what is read in place of computed values, by the graph's names.
        is_sample: whether they follow from a sample of the user's.
    """

    inputs: Arrays
    values: Arrays
    is_sample: bool = False

    def array(self, name: str) -> Array:
        """The input or value of a name."""
        return self.inputs[name] if name in self.inputs else self.values[name]


class CallSides:
    """Both sides, held at what torch computes of a sample.

    Args:
        captured: the graph, before any rewrite.
        program: that it was captured of.
        names: by call or input of the program, the graph's value that stands for its result.
        inputs: the sample, by name.

    Attributes:
        names: of these, the calls that torch computes of the sample.
        results: what it computes, by call, in the program's order: of as many, spread evenly, as memory holds.
        sample: the operands that follow from the sample.
    """

    def __init__(self, captured: ir.Model, program: Program, names: Mapping[str, str], inputs: Arrays) -> None:
        self._program = program
        self._made = {value.name or "": node for node in captured.graph for value in node.outputs}
        known = self._made.keys() | {value.name or "" for value in captured.graph.inputs}
        usable = {call: name for call, name in names.items() if name in known and call in program.holdable}
        fed = {call: inputs[usable[call]] for call in program.inputs if call in usable}
        calls = [call for call in program.calls if call in usable]
        share = max(1, -(-sum(program.calls[call].elements for call in calls) // _MOST_HELD))
        self.results = program.values(fed, calls[::share])
        self.names = {call: name for call, name in usable.items() if call in self.results or call in fed}
        # What a view of written memory stands for is read by its readers as its owner's elements, and cannot be held.
        shared = {name for call, name in names.items() if call not in program.holdable}
        # Of several calls with one value the first makes it, and the others have to give the same.
        self._makers: dict[str, str] = {}
        for call in self.results:
            if self.names[call] in self._made and self.names[call] not in shared:
                self._makers.setdefault(self.names[call], call)
        self.sample = On(inputs, {name: self.results[call] for name, call in self._makers.items()}, is_sample=True)
        self._held = {call for call, name in self.names.items() if name in self._makers or name in inputs}
        self._cut = Cut(captured, frozenset(self._makers), frozenset(), {})
        self._parts: dict[frozenset[str], ir.Model] = {}
        self._never_negative: dict[ir.Value, bool] = {}
        self.never_negative = {
            value.name or ""
            for node in captured.graph
            for value in node.outputs
            if never_negative(value, self._never_negative)
        }

    def computed(self, call: str) -> bool:
        """Whether nodes of the graph's make its value for it: else it has that of an earlier call, or of an input."""
        name = self.names[call]
        return name in self._made and self._makers.get(name, call) == call

    def nodes(self, call: str) -> list[ir.Node]:
        """The nodes that were captured of a call, behind the held values before it, the last one first."""
        nodes: dict[ir.Node, None] = {}
        waiting = [self.names[call]] if self.computed(call) else []
        while waiting:
            node = self._made.get(waiting.pop())
            if node is not None and node not in nodes:
                nodes[node] = None
                read = [value.name or "" for value in node.inputs if value is not None]
                waiting += [name for name in read if name not in self._makers]
        return [*nodes]

    def _read(self, nodes: Sequence[ir.Node]) -> set[str]:
        """The inputs and held values that some nodes read."""
        names = {value.name or "" for node in nodes for value in node.inputs if value is not None}
        return {name for name in names if name in self._makers or name in self.sample.inputs}

    def operands(self, call: str) -> list[str]:
        """The graph's values that a call is computed from on torch's side."""
        return [self.names[read] for read in self._program.read_by([call], self._held - {call})]

    def smallest(self) -> list[str]:
        """Of the calls that do the same, the smallest: one operator, the same arguments, captured as the same nodes.

        Products and sums of operands and weights are told apart by any operands: they are not among these where some
        are not zero in every channel.
        """
        alike: dict[object, list[tuple[int, str]]] = defaultdict(list)
        for call, result in self.results.items():
            stated, nodes = self._program.calls[call], self.nodes(call)
            operands = [self.sample.array(name) for name in self.operands(call)]
            if not self._read(nodes) <= {*self.operands(call)}:
                continue  # it reads another result of the same call, which other operands would contradict
            is_sum = is_linear(stated.operator) and POLYNOMIAL.issuperset(node.op_type for node in nodes)
            if not is_sum or any(map(has_empty_channel, operands)):
                kind = stated.operator, stated.arguments, tuple(map(_stated, nodes))
                alike[kind].append((result.size + sum(array.size for array in operands), call))
        chosen: set[str] = set()
        elements = 0
        for size, call in sorted(min(group) for group in alike.values()):
            elements += size
            if elements <= _MOST_ALONE:
                chosen.add(call)
        return [call for call in self.results if call in chosen]

    def of_torch(self, calls: Collection[str], on: On, *, rounded: bool = False) -> dict[str, Array]:
        """What torch computes; see `edgeconv.devices.ProgramRun.values`."""
        if on.is_sample and not rounded:
            return {call: self.results[call] for call in calls}
        read = self._program.read_by(calls, self._held)
        return self._program.values({call: on.array(self.names[call]) for call in read}, calls, rounded=rounded)

    def of_graph(self, calls: Sequence[str], on: On, signs: Signs | None = None) -> dict[str, Array]:
        """What the graph computes, by call; what it cannot compute is left out, but for a sample's.

        Args:
            calls: any.
            on: operands.
            signs: moves every number on the way; of `HALF_UNIT` stored ones, too, and of less the operands.

        Raises:
            RewriteError: it cannot be computed of a sample, unmoved.
        """
        arrays = {call: on.array(self.names[call]) for call in calls if not self.computed(call)}
        computed = [call for call in calls if call not in arrays]
        if not computed:
            return arrays
        try:
            return arrays | self._evaluated(computed, on, signs)
        except RewriteError:
            if len(computed) == 1:
                if on.is_sample and signs is None:
                    raise
                return arrays
        for call in computed:  # one of them alone
            arrays |= self.of_graph([call], on, signs)
        return arrays

    def _part(self, names: frozenset[str]) -> ir.Model:
        """The nodes before some values; those of the last few questions, which alternate, stay."""
        part = self._parts.pop(names, None) or self._cut.part(names)
        self._parts = {**dict([*self._parts.items()][-_MOST_PARTS:]), names: part}
        return part

    def _evaluated(self, calls: Sequence[str], on: On, signs: Signs | None) -> dict[str, Array]:
        ends = {call: self._cut.ends[self.names[call]] for call in calls}
        part = self._part(frozenset(self.names[call] for call in calls))
        feeds = self._cut.feeds([*part.graph.inputs], on.inputs, on.values)
        # What a comparison reads is the same on both sides to the last bit.
        jumping = {value.name for node in part.graph if jumps(node) for value in node.inputs if value is not None}
        if signs is not None and signs.change == HALF_UNIT:
            stored = {value.name or "": value.const_value for value in part.graph.initializers.values()}
            arrays = {name: tensor.numpy() for name, tensor in stored.items() if tensor is not None}
            feeds |= signs.on_stored(
                {name: array for name, array in arrays.items() if array.dtype.kind == "f" and name not in jumping}
            )
        elif signs is not None:
            feeds |= signs.on_arrays({name: array for name, array in feeds.items() if name not in jumping})
        with one_thread():
            results = evaluate(part, feeds, keep={*ends.values()}, altered=None if signs is None else signs.on_tensor)
        return {call: results[end] for call, end in ends.items()}


def is_linear(operator: str) -> bool:
    """Whether torch computes products with weights, and sums of these."""
    return operator.startswith(_LINEAR)


def _stated(node: ir.Node) -> tuple[object, ...]:
    """What a node states: its operator, attributes, and constants of one number."""
    numbers = [constant(value) for value in node.inputs]
    return (
        node.op_type,
        tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())),
        tuple(array.tobytes() if array is not None and array.size == 1 else None for array in numbers),
    )
