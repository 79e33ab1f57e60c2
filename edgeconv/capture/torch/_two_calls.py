"""Two calls of a module as one functional graph: whether the second call returns what the first returned.

This is value numbering, as compilers use it to find common subexpressions: every node gets a number, and nodes with
the same operator and the same numbers of arguments get the same one. The outputs of both calls are numbered with "the
inputs of this call" as the same symbols; equal numbers then mean equal results for all inputs. Values are computed only
where a call assigns to a buffer what may be the value that it has (`_unchanged`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._operation import is_item, name_of, program_inputs

# Functional writes to a part of a tensor, with the operator that reads that part. Both name the part by the same
# arguments: those behind the written tensor and the values here, those behind the tensor there.
_PARTS: Mapping[str, str] = {
    "aten.slice_scatter.default": "aten.slice.Tensor",
    "aten.select_scatter.default": "aten.select.int",
}
# Arguments: x, weight, bias, running mean, running variance, training, …; results: y, mean, rstd, the new running two.
_BATCH_NORM = "aten._native_batch_norm_legit_functional.default"
# Operators that take nothing but shape and dtype from their first tensor.
_FILLED = frozenset({"fill", "zero", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"})
STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class TwoCalls:
    """The graph of two calls.

    Args:
        program: functional; its outputs are those of the first call, the written state, and those of the second.
        written: names of the buffers and parameters that a call writes to.
    """

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
        if self._first[1] == self._second[1]:  # lists and dicts of the same form
            if self._are_alike({}):
                return None
            unchanged = self._unchanged()
            if unchanged and self._are_alike(unchanged):
                return None
        behind = _ancestors([item for item in self._second[0] if isinstance(item, FxNode)])
        changed = [name for name, node in self._state.items() if node in behind or _source(node) in behind]
        return changed[0] if changed else ""

    def _are_alike(self, same: Mapping[FxNode, FxNode]) -> bool:
        """Whether both calls return equal expressions of their own inputs; `same` as in `_numbered`."""
        first, second = self._numbered(0, same), self._numbered(1, same)
        before = [_numbered_item(first, item) for item in self._first[0]]
        after = [_numbered_item(second, item) for item in self._second[0]]
        return before == after

    def _numbered(self, call: int, same: Mapping[FxNode, FxNode]) -> dict[FxNode, int]:
        """The numbers of all nodes as one of the calls sees them.

        Args:
            call: 0 or 1. Its arguments are numbered by position ("input 0"); those of the other call by their names,
                so that a result which depends on them equals nothing.
            same: nodes with another node that has the same value; both get one number.
        """
        numbers: dict[FxNode, int] = {}
        equal: dict[int, int] = {}
        user = [node for node, spec in program_inputs(self._program) if spec.kind is InputKind.USER_INPUT]
        own = user[len(user) // 2 * call :][: len(user) // 2]  # both calls take equally many
        for node, spec in program_inputs(self._program):
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
        """The number of an expression, which is first reduced to what its value really depends on."""
        equal = self._equal(node)
        if equal is not node:
            return numbers[equal]
        name, args = str(node.target), list(node.args)
        # A write to the same part right before is overwritten: a scratch buffer need not hold what it held.
        while name in _PARTS and (void := _void_write(node, self._equal(args[0]))) is not None:
            args[0] = void.args[0]
        if name_of(node) in _FILLED or name == "aten.copy.default":  # the first gives its shape and dtype, no value
            args[0] = _kind(node)
        if name == _BATCH_NORM and args[5]:  # in training mode y comes from the batch, not from the running statistics
            args[3:5] = ()
        if _is_new_statistic(node):  # which do go into the new running statistics
            name, args = f"{name} of a batch", [*node.args, *node.args[0].args[3:5]]
        return self._number((name, _frozen(args, numbers), _frozen(node.kwargs, numbers)))

    def _equal(self, node: Any) -> Any:
        """The node whose value a node passes on; itself where it computes.

        Reading a part that was just written gives what was written; a copy of a tensor of the same shape and dtype
        gives that tensor.
        """
        if not isinstance(node, FxNode) or not node.args:
            return node
        name, first = str(node.target), self._equal(node.args[0])
        if name in _PARTS.values() and isinstance(first, FxNode) and _PARTS.get(str(first.target)) == name:
            return self._equal(first.args[1]) if _place(first, 2) == _place(node, 1) else node
        if name == "aten.copy.default" and isinstance(source := node.args[1], FxNode) and _kind(node) == _kind(source):
            return self._equal(source)
        return node

    def _content(self, spec: Any) -> Hashable:
        """The value of a constant, so that ``torch.tensor([1.0])`` in both calls counts as one; None for other inputs.

        Above 2**16 elements a constant counts by its name, which is safe: at worst the module is refused.
        """
        if spec.kind is not InputKind.CONSTANT_TENSOR:
            return None
        tensor = self._program.constants.get(spec.target)
        if not isinstance(tensor, torch.Tensor) or tensor.numel() > 2**16:
            return None
        return (str(tensor.dtype), tuple(tensor.shape), tensor.detach().cpu().flatten().tolist().__repr__())

    def _unchanged(self) -> dict[FxNode, FxNode]:
        """State that the call leaves as it was: its node after the call, with its node before."""
        named = {spec.target: node for node, spec in program_inputs(self._program) if spec.kind in STATE}
        unchanged = {}
        for name, node in self._state.items():
            after, before = _source(node), named.get(f"module.{name}")
            if before is not None and after is not before and self._is_value_of(after, before):
                unchanged[after] = before
        return unchanged

    def _is_value_of(self, after: FxNode, before: FxNode) -> bool:
        """Whether an expression of constants is bit for bit the value of a buffer."""
        values: dict[FxNode, Any] = {}
        for node, spec in program_inputs(self._program):
            if spec.kind in STATE:  # buffers that are not persistent are among the constants
                stored = self._program.state_dict if spec.target in self._program.state_dict else None
                values[node] = (stored or self._program.constants)[spec.target]
        # Suppressed: what torch raises of arguments that do not fit, and KeyError of `_evaluated`.
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


def _kind(node: FxNode) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple(value.shape), value.dtype


def _is_new_statistic(node: FxNode) -> bool:
    """Whether a node is what a batch norm makes of its running statistics; its other results do not depend on them."""
    source = node.args[0] if is_item(node) else None
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
