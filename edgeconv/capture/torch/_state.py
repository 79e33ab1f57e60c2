"""Whether a module remembers: a file keeps no state, so what a call returns must not depend on the calls before it.

A forward that changes a buffer, a parameter, or a tensor, number or list among its attributes is traced once more, two
calls in a row as one graph, which torch makes functional: its signature then lists every write. Both results are
compared as expressions of their own inputs. They are the same where what was changed is never read, or is written
before it is read (a cache of what depends on shapes only, a padded scratch buffer), or is given the value that it has.
Nothing is computed and nothing is folded but such values, so that a counter inside a condition is seen as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx import Node as FxNode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._holdings import Change, Holdings
from edgeconv.errors import CaptureError

_FAR = 10**6
"""Calls after which a counter in plain Python is looked at again: a branch on it may wait for some number of them."""

# Writes that their schema does not tell of: running statistics, where the argument of this position is true.
_STATISTICS: Mapping[str, int] = {"aten.batch_norm.default": 5, "aten.instance_norm.default": 5}

# Functional writes to a part of a tensor, with the operators that read the same part: the arguments behind the tensor.
_PARTS: Mapping[str, str] = {
    "aten.slice_scatter.default": "aten.slice.Tensor",
    "aten.select_scatter.default": "aten.select.int",
}
_BATCH_NORM = "aten._native_batch_norm_legit_functional.default"
# Operators that take nothing but shape and dtype from their first tensor.
_FILLED = frozenset({"fill", "zero", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"})
_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)

Tracer = Callable[[torch.nn.Module, tuple[Any, ...]], torch.export.ExportedProgram]


def check_stateless(
    module: torch.nn.Module,
    program: torch.export.ExportedProgram,
    changes: Sequence[Change],
    calls: tuple[tuple[tuple[Any, ...], Mapping[str, Any]], tuple[tuple[Any, ...], Mapping[str, Any]]],
    trace: Tracer,
) -> None:
    """What a forward returns does not depend on what earlier ones left behind.

    Args:
        module: in eval state.
        program: one call of it, traced.
        changes: what that call changed in plain Python.
        calls: arguments of two calls, positional and by keyword, that share no tensor.
        trace: how a module is traced.

    Raises:
        CaptureError: it does; names the buffer or the attribute.
    """
    written = _written(program)
    for name in sorted(written & program.constants.keys() - dict(module.named_buffers()).keys()):
        what = f"the tensor {name}" if hasattr(module, name.split(".")[0]) else "a tensor that it holds"
        raise CaptureError(
            f"forward writes to {what}, which is no buffer of the module, and a file keeps no state",
            where=type(module).__name__,
            hint="take the state as an input and return it as an output; what starts anew in each call is made there",
        )
    if not written and not changes:
        return
    numbers = any(isinstance(change.after, int | float) and not isinstance(change.after, bool) for change in changes)
    for jump in (0, _FAR) if numbers else (0,):
        twice = trace(_Twice(module, written, jump), calls)
        drop_void_writes(twice, running=False)
        culprit = _Calls(twice.run_decompositions({}), written).culprit()
        if culprit is None:
            continue
        kind, name = "buffer" if culprit in dict(module.named_buffers()) else "parameter", culprit
        if not culprit:
            kind, name = changes[0].kind, ", ".join(sorted({change.path for change in changes})[:3])
        raise CaptureError(
            f"forward changes the {kind} {name} and its outputs depend on it, but a file keeps no state",
            where=type(module).__name__,
            hint="take the state as an input and return it as an output",
        )


def drop_void_writes(program: torch.export.ExportedProgram, *, running: bool) -> None:
    """Removes, from a traced graph, the writes to state that nobody reads afterwards.

    What a forward assigns to a buffer is written by torch.export at the end, if it has the buffer's shape or not; a
    batch norm in training mode computes with the statistics of the batch and changes the running ones.

    Args:
        program: changed in place.
        running: whether such a batch norm is left without the running ones, too.
    """
    owners, read = _owners(program).keys(), set[int]()
    for node in reversed(list(program.graph.nodes)):
        is_copy = str(node.target) == "aten.copy_.default"
        if is_copy and not node.users and _storage(node.args[0].meta["val"]) in owners - read:
            program.graph.erase_node(node)
            continue
        statistics = _statistics(node) if running else []
        if statistics and not read & {_storage(source.meta["val"]) for source in statistics}:
            node.args = (*node.args[:3], None, None, *node.args[5:])
        read |= {_storage(tensor) for source in node.all_input_nodes for tensor in _tensors_of(source)}
    program.graph_module.recompile()


class _Twice(torch.nn.Module):
    """Two calls of a module, and the state between them."""

    def __init__(self, module: torch.nn.Module, written: Collection[str], jump: int) -> None:
        super().__init__()
        self.module = module
        self._written = sorted(written)
        self._jump = jump

    def forward(self, first: Any, second: Any) -> Any:
        holdings = Holdings(self.module)
        before = self.module(*first[0], **first[1])
        for change in holdings.changes() if self._jump else ():
            if isinstance(change.before, int | float) and isinstance(change.after, int | float):
                change.container[change.key] = change.after + self._jump * (change.after - change.before)
        state = [_named_state(self.module, name).clone() for name in self._written]
        try:
            return before, state, self.module(*second[0], **second[1])
        finally:
            holdings.restore(outside_only=True)


def _named_state(module: torch.nn.Module, name: str) -> torch.Tensor:
    path, _, attribute = name.rpartition(".")
    tensor = getattr(module.get_submodule(path), attribute)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _written(program: torch.export.ExportedProgram) -> frozenset[str]:
    """The names of the buffers and parameters whose memory a traced forward writes to."""
    owners = _owners(program)
    names: set[str] = set()
    for node in program.graph.nodes:
        memory = {_storage(tensor) for target in _targets(node) for tensor in _tensors_of(target)}
        names |= {owners[storage] for storage in memory & owners.keys()}
    return frozenset(names)


def _owners(program: torch.export.ExportedProgram) -> dict[int, str]:
    """The names of the state by its memory; a constant that each call copies afresh (``torch.tensor``) is none."""
    owners: dict[int, str] = {}
    for node, spec in _inputs(program):
        afresh = node.users and all(str(user.target) == "aten.lift_fresh_copy.default" for user in node.users)
        if spec.kind in _STATE and spec.target is not None and not afresh:
            owners |= {_storage(tensor): spec.target for tensor in _tensors_of(node)}
    return owners


def _statistics(node: FxNode) -> list[FxNode]:
    """The running statistics that an operator changes, without its schema telling so."""
    position = _STATISTICS.get(str(node.target))
    if position is None or len(node.args) <= position or not node.args[position]:
        return []
    return [argument for argument in node.args[3:5] if isinstance(argument, FxNode)]


def _targets(node: FxNode) -> list[FxNode]:
    """What an operator writes to."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    targets: list[Any] = _statistics(node)
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            targets.append(node.args[index] if index < len(node.args) else node.kwargs.get(argument.name))
    return [target for target in pytree.tree_leaves(targets) if isinstance(target, FxNode)]


def _tensors_of(node: FxNode) -> list[torch.Tensor]:
    value = node.meta.get("val")
    return [
        tensor for tensor in (value if isinstance(value, list | tuple) else [value]) if isinstance(tensor, torch.Tensor)
    ]


def _storage(tensor: torch.Tensor) -> int:
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]


def _inputs(program: torch.export.ExportedProgram) -> list[tuple[FxNode, Any]]:
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    return list(zip(placeholders, program.graph_signature.input_specs, strict=True))


class _Calls:
    """The graph of two calls, functional; every node has a number, and equal expressions have the same."""

    def __init__(self, program: torch.export.ExportedProgram, written: Collection[str]) -> None:
        self._program = program
        self._numbers: dict[Hashable, int] = {}
        output = next(node for node in program.graph.nodes if node.op == "output")
        results = [
            None if isinstance(spec.arg, ConstantArgument) and spec.arg.value is None else node
            for node, spec in zip(output.args[0], program.graph_signature.output_specs, strict=True)
            if spec.kind is OutputKind.USER_OUTPUT
        ]
        assert program.call_spec.out_spec is not None
        first, state, second = pytree.tree_unflatten(results, program.call_spec.out_spec)
        self._first, self._second = pytree.tree_flatten(first), pytree.tree_flatten(second)
        self._state = dict(zip(sorted(written), state, strict=True))

    def culprit(self) -> str | None:
        """The buffer or parameter that the second call depends on; ``""`` for another state, None for none."""
        if self._first[1] == self._second[1]:
            unchanged = self._unchanged()
            for same in ({}, unchanged) if unchanged else ({},):
                first, second = self._numbered(0, same), self._numbered(1, same)
                if [_numbered_item(first, item) for item in self._first[0]] == [
                    _numbered_item(second, item) for item in self._second[0]
                ]:
                    return None
        behind = _ancestors([item for item in self._second[0] if isinstance(item, FxNode)])
        changed = [name for name, node in self._state.items() if node in behind or _source(node) in behind]
        return changed[0] if changed else ""

    def _numbered(self, call: int, same: Mapping[FxNode, FxNode]) -> dict[FxNode, int]:
        """The numbers of all nodes, where the arguments of this call are the inputs, and those of the other are not."""
        numbers: dict[FxNode, int] = {}
        equal: dict[int, int] = {}
        user = [node for node, spec in _inputs(self._program) if spec.kind is InputKind.USER_INPUT]
        own = user[len(user) // 2 * call :][: len(user) // 2]
        for node, spec in _inputs(self._program):
            key: Hashable = ("state", self._content(spec) or spec.target)
            if spec.kind is InputKind.USER_INPUT:
                key = ("input", own.index(node)) if node in own else ("other", node.name)
            numbers[node] = self._number(key)
        for node in self._program.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                number = self._number_of(node, numbers)
                if node in same:
                    equal[number] = numbers[same[node]]
                numbers[node] = equal.get(number, number)
        return numbers

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _number_of(self, node: FxNode, numbers: Mapping[FxNode, int]) -> int:
        """Of an expression; a part that is written twice holds what was written last, and gives it back."""
        equal = self._equal(node)
        if equal is not node:
            return numbers[equal]
        name, args = str(node.target), list(node.args)
        while name in _PARTS and (void := _void_write(node, self._equal(args[0]))) is not None:
            args[0] = void.args[0]
        if _operation(node) in _FILLED or name == "aten.copy.default":  # the first gives its shape and dtype, no value
            args[0] = _kind(node)
        if name == _BATCH_NORM and args[5]:
            args[3:5] = ()
        if _is_new_statistic(node):
            name, args = f"{name} of a batch", [*node.args, *node.args[0].args[3:5]]
        return self._number((name, _frozen(args, numbers), _frozen(node.kwargs, numbers)))

    def _equal(self, node: Any) -> Any:
        """The node whose value a node only passes on; itself where it computes."""
        if not isinstance(node, FxNode) or not node.args:
            return node
        name, first = str(node.target), self._equal(node.args[0])
        if name in _PARTS.values() and isinstance(first, FxNode) and _PARTS.get(str(first.target)) == name:
            return self._equal(first.args[1]) if _place(first, 2) == _place(node, 1) else node
        if name == "aten.copy.default" and isinstance(source := node.args[1], FxNode) and _kind(node) == _kind(source):
            return self._equal(source)
        return node

    def _content(self, spec: Any) -> Hashable:
        """A constant that a forward makes out of Python numbers is made anew in each call."""
        if spec.kind is not InputKind.CONSTANT_TENSOR:
            return None
        tensor = self._program.constants.get(spec.target)
        if not isinstance(tensor, torch.Tensor) or tensor.numel() > 2**16:
            return None
        return (str(tensor.dtype), tuple(tensor.shape), tensor.detach().cpu().flatten().tolist().__repr__())

    def _unchanged(self) -> dict[FxNode, FxNode]:
        """State that is given the value that it has: what it holds after the call, and what it held."""
        named = {spec.target: node for node, spec in _inputs(self._program) if spec.kind in _STATE}
        unchanged = {}
        for name, node in self._state.items():
            after, before = _source(node), named.get(f"module.{name}")
            if before is not None and after is not before and self._is_value_of(after, before):
                unchanged[after] = before
        return unchanged

    def _is_value_of(self, after: FxNode, before: FxNode) -> bool:
        """Whether an expression of constants is bit for bit the value of a buffer."""
        values: dict[FxNode, Any] = {}
        for node, spec in _inputs(self._program):
            if spec.kind in _STATE:
                held_in = self._program.state_dict if spec.target in self._program.state_dict else None
                values[node] = (held_in or self._program.constants)[spec.target]
        with contextlib.suppress(RuntimeError, TypeError, ValueError, KeyError), torch.no_grad():
            expected, value = values[before], _evaluated(after, values)
            return value.dtype == expected.dtype and value.shape == expected.shape and torch.equal(value, expected)
        return False


def _evaluated(node: FxNode, values: dict[FxNode, Any]) -> Any:
    """The value of a node that no input goes into.

    Raises:
        KeyError: an input does, or a random number.
    """
    for step in (*sorted(_ancestors([node]), key=list(node.graph.nodes).index), node):
        if step in values:
            continue
        if step.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(step.target, "tags", ()):
            raise KeyError(step.name)
        args, kwargs = torch.fx.node.map_arg((step.args, dict(step.kwargs)), values.__getitem__)
        values[step] = step.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]


def _source(node: FxNode) -> FxNode:
    """The state behind the copy of it that `_Twice` returns."""
    source = node.args[0] if node.op == "call_function" else node
    assert isinstance(source, FxNode)
    return source


def _ancestors(nodes: Collection[FxNode]) -> set[FxNode]:
    ancestors: set[FxNode] = set()
    waiting = list(nodes)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in ancestors:
                ancestors.add(source)
                waiting.append(source)
    return ancestors


def _operation(node: FxNode) -> str:
    return str(getattr(node.target, "_opname", ""))


def _kind(node: FxNode) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple(value.shape), value.dtype


def _is_new_statistic(node: FxNode) -> bool:
    """Whether a node is what a batch norm makes of its running statistics; its other results do not depend on them."""
    source = node.args[0] if getattr(node.target, "__name__", "") == "getitem" else None
    return isinstance(source, FxNode) and str(source.target) == _BATCH_NORM and node.args[1] in (3, 4)


def _void_write(node: FxNode, target: Any) -> FxNode | None:
    """The write that a write to the same part of its result makes void."""
    if not isinstance(target, FxNode) or target.target != node.target:
        return None
    return target if _place(target, 2) == _place(node, 2) else None


def _place(node: FxNode, behind: int) -> tuple[Any, ...]:
    """Which part of a tensor an operator reads or writes."""
    return (*node.args[behind:], dict(node.kwargs))


def _numbered_item(numbers: Mapping[FxNode, int], item: Any) -> Any:
    return numbers[item] if isinstance(item, FxNode) else item


def _frozen(argument: Any, numbers: Mapping[FxNode, int]) -> Hashable:
    if isinstance(argument, FxNode):
        return ("node", numbers[argument])
    if isinstance(argument, Mapping):
        return tuple((key, _frozen(item, numbers)) for key, item in argument.items())
    if isinstance(argument, list | tuple):
        return tuple(_frozen(item, numbers) for item in argument)
    return (type(argument).__name__, str(argument))
