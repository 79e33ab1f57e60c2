"""Runs the calls of a traced program one by one, each in float64 on arrays of the caller's.

A program of torch.export is a list of calls of ATen operators. torch computes any of them by itself, on whatever its
operands are said to be: what a graph makes of the same operands can be compared call by call.

What a call writes in place is written here, too: an array that is held in the place of such a result goes into the
memory that was written to, where views of it see it. A view of memory that is written to somewhere cannot be held
by itself: its elements are those of its owner.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode
from torch.fx.node import map_aggregate, map_arg
from torch.utils import _pytree as pytree

from edgeconv.core import Array
from edgeconv.core.threads import one_thread
from edgeconv.devices._precision import computing_in
from edgeconv.errors import raise_if_ending

_NUMBERS = frozenset({"number", "float", "Optional[number]", "Optional[float]"})  # types in operators' schemas
_Env = dict[FxNode, Any]


@dataclass(frozen=True)
class ProgramCall:
    """A call of a program.

    Attributes:
        name: of its node, by which its result is asked for.
        operator: torch's name, with the overload: ``aten.hardtanh.default``.
        arguments: all that are no tensors, as text: two calls of one operator with the same ones do the same.
        numbers: the real numbers among them, which a forward states: limits, slopes, eps.
        elements: of its result.
    """

    name: str
    operator: str
    arguments: str
    numbers: tuple[float, ...]
    elements: int

    def __str__(self) -> str:
        numbers = ", ".join(f"{number:g}" for number in self.numbers)
        return f"{self.operator}({numbers})" if numbers else self.operator


class ProgramRun:
    """A traced program in float64.

    Args:
        program: without control flow. It stays as it is.

    Attributes:
        inputs: the names of the nodes that stand for the inputs, in their order.
        calls: those whose result is a tensor, by name, in the program's order.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._program = program
        self._nodes = list(program.graph.nodes)
        self._by_name = {node.name: node for node in self._nodes}
        self._places = {node: place for place, node in enumerate(self._nodes)}
        specs = program.graph_signature.input_specs
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self._specs = dict(zip(placeholders, specs, strict=True))
        self.inputs = tuple(node.name for node, spec in self._specs.items() if spec.kind is InputKind.USER_INPUT)

    @cached_property
    def calls(self) -> dict[str, ProgramCall]:
        computed = [node for node in self._nodes if node.op == "call_function" and _tensors_of(node)]
        return {node.name: _call_of(node) for node in computed if isinstance(node.meta.get("val"), torch.Tensor)}

    @cached_property
    def holdable(self) -> frozenset[str]:
        """The inputs and calls in whose place an array can be read: all but views of memory that is written to."""
        names = [*self.inputs, *self.calls]
        return frozenset(
            name
            for name in names
            if _is_write(node := self._by_name[name]) or not self._written_with(node) or not _is_view(node)
        )

    @cached_property
    def _groups(self) -> dict[FxNode, tuple[FxNode, ...]]:
        """By node, all nodes in its memory, in their order; of memory alone that some call writes to."""
        members: dict[int, list[FxNode]] = defaultdict(list)
        for node in self._nodes:
            for storage in dict.fromkeys(_storage(tensor) for tensor in _tensors_of(node)):
                members[storage].append(node)
        groups: dict[FxNode, tuple[FxNode, ...]] = {}
        for nodes in members.values():
            if any(map(_is_write, nodes)):
                for node in nodes:
                    groups[node] = tuple(sorted({*groups.get(node, ()), *nodes}, key=self._places.__getitem__))
        return groups

    def _written_with(self, node: FxNode) -> tuple[FxNode, ...]:
        return self._groups.get(node, ())

    def read_by(self, names: Collection[str], held: Collection[str]) -> frozenset[str]:
        """The held inputs and calls that some calls are computed from."""
        return frozenset(node.name for node in self._needed(names, held) if node.name in held)

    def _needed(self, names: Collection[str], held: Collection[str]) -> list[FxNode]:
        """What has to be there for some calls, in order: what is held is needed for what it is read by."""
        needed = {self._by_name[name] for name in names}
        for node in reversed(self._nodes):
            if node not in needed:
                continue
            is_read = node.name in held and node.name not in names
            operands = node.all_input_nodes
            if is_read:
                operands = operands[:1] if _is_write(node) else []
            for operand in operands:
                needed.add(operand)
                place = self._places[node]
                needed |= {other for other in self._written_with(operand) if self._places[other] < place}
        return sorted(needed, key=self._places.__getitem__)

    def values(self, held: Mapping[str, Array], names: Collection[str], *, rounded: bool = False) -> dict[str, Array]:
        """What torch computes of arrays, in float64.

        Args:
            held: by name, what is read in the place of inputs (all that are needed) and of calls, which are `holdable`.
            names: of calls.
            rounded: with the real numbers among the arguments rounded to float32.

        Returns:
            The results by name, as torch computes them before they are replaced. A call that torch refuses for these
            numbers (an index beyond the end), and what is computed of that alone, is left out.
        """
        nodes = self._needed(names, held)
        last = {operand: node for node in nodes for operand in node.all_input_nodes}
        ends: dict[FxNode, list[FxNode]] = defaultdict(list)
        for operand, node in last.items():
            if not self._written_with(operand):
                ends[node].append(operand)
        env: _Env = {}
        results: dict[str, Array] = {}
        with torch.no_grad(), computing_in(torch.float64), one_thread():
            for node in nodes:
                self._step(node, env, held, names, results, rounded)
                for operand in ends[node]:
                    env.pop(operand, None)
        return results

    def _step(
        self,
        node: FxNode,
        env: _Env,
        held: Mapping[str, Array],
        names: Collection[str],
        results: dict[str, Array],
        rounded: bool,
    ) -> None:
        if node.op == "placeholder":
            stored = self._specs[node].target
            is_fed = node.name in held
            env[node] = self._array_tensor(node, held) if is_fed else self._stored(stored or "")
            return
        is_held = node.name in held
        if not is_held or node.name in names:
            try:
                env[node] = _called(node, env, rounded)
            except BaseException as error:  # noqa: BLE001 - an operator may raise anything for these numbers
                raise_if_ending(error)
                for other in (node, *self._written_with(node)):  # what was written by halves is read by nobody
                    env.pop(other, None)
            if node.name in names and isinstance(result := env.get(node), torch.Tensor):
                results[node.name] = _array(result, copied=bool(self._written_with(node)))
        if not is_held:
            return
        if not _is_write(node):
            env[node] = self._array_tensor(node, held)
        elif isinstance(target := env.get(node.all_input_nodes[0]), torch.Tensor):
            target.copy_(self._array_tensor(node, held))
            env[node] = target

    def _array_tensor(self, node: FxNode, held: Mapping[str, Array]) -> torch.Tensor:
        """The array in the place of a node; a copy where it may be written to."""
        array = held[node.name]
        is_own = array.flags.writeable and not self._written_with(node)
        tensor = torch.from_numpy(array if is_own else np.array(array, order="C"))
        return tensor.double() if tensor.is_floating_point() else tensor

    def _stored(self, name: str) -> torch.Tensor:
        """A weight or constant of the program, by its name."""
        state = self._program.state_dict
        tensor: torch.Tensor = (state[name] if name in state else self._program.constants[name]).detach().cpu()
        return tensor.double() if tensor.is_floating_point() else tensor.clone()


def _called(node: FxNode, env: _Env, rounded: bool) -> Any:
    arguments = map_arg((tuple(node.args), dict(node.kwargs)), env.__getitem__)
    args, kwargs = map_aggregate(arguments, _rounded) if rounded else arguments
    if not callable(node.target):
        raise TypeError(f"{node.target} is no operator")
    return node.target(*args, **kwargs)


def _rounded(argument: Any) -> Any:
    """A real number as float32 holds it; anything else as it is."""
    return float(np.float32(argument)) if isinstance(argument, float) else argument


def _array(tensor: torch.Tensor, *, copied: bool) -> Array:
    dense = tensor.detach().resolve_conj().resolve_neg()
    return np.asarray((dense.clone() if copied else dense).numpy())


def _tensors_of(node: FxNode) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # fake tensors have storages, too


def _is_write(node: FxNode) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_view(node: FxNode) -> bool:
    """Whether a call's result lies in the memory of an operand."""
    own = {_storage(tensor) for tensor in _tensors_of(node)}
    return any(_storage(tensor) in own for operand in node.all_input_nodes for tensor in _tensors_of(operand))


def _call_of(node: FxNode) -> ProgramCall:
    maker = node
    while getattr(maker.target, "_schema", None) is None and maker.all_input_nodes:  # an item of several results
        maker = maker.all_input_nodes[0]
    schema = getattr(maker.target, "_schema", None)
    bound = dict(_bound(maker, schema.arguments)) if schema is not None else {}
    stated = {
        name: value
        for name, (_, value) in bound.items()
        if not any(isinstance(leaf, FxNode) for leaf in pytree.tree_leaves(value))
    }
    numbers = (value for kind, value in bound.values() if kind in _NUMBERS)
    item = "" if maker is node else f" item {node.args[1]}"
    return ProgramCall(
        node.name,
        str(maker.target),
        f"{stated}{item}",
        tuple(float(number) for number in numbers if isinstance(number, int | float) and not isinstance(number, bool)),
        sum(math.prod(size for size in tensor.shape if isinstance(size, int)) for tensor in _tensors_of(node)),
    )


def _bound(node: FxNode, parameters: Iterable[Any]) -> Iterator[tuple[str, tuple[str, Any]]]:
    for index, parameter in enumerate(parameters):
        default = parameter.default_value
        value = node.args[index] if index < len(node.args) else node.kwargs.get(parameter.name, default)
        yield parameter.name, (str(parameter.type), value)
