"""Whether a module remembers: a file keeps no state, so what a call returns must not depend on the calls before it.

A forward that changes a buffer, a parameter, or a tensor, number or list among its attributes is traced once more, two
calls in a row as one graph, which torch makes functional: its signature then lists every write. Both results are
compared as expressions of their own inputs. They are the same where what was changed is never read, or is written
before it is read (a cache of what depends on shapes only, a padded scratch buffer), or is given the value that it has.
Nothing is computed and nothing is folded but such values, so that a counter inside a condition is seen as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._holdings import Change, Holdings
from edgeconv.capture.torch._operation import program_inputs
from edgeconv.capture.torch._storage import storage_of_tensor, tensors_of
from edgeconv.capture.torch._two_calls import STATE, TwoCalls
from edgeconv.errors import CaptureError

_FAR = 10**6
"""Calls by which a counter in plain Python is advanced for a second look: ``if self.calls > 1000:`` waits so long."""

# Operators that write to their running statistics (arguments 3 and 4) although their schema declares no write;
# they do where the argument at this position (`training`, `use_input_stats`) is true.
_STATISTICS: Mapping[str, int] = {"aten.batch_norm.default": 5, "aten.instance_norm.default": 5}

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
    # A tensor that is no buffer is a constant of the program, which torch.export writes back nowhere.
    for name in sorted(written & program.constants.keys() - dict(module.named_buffers()).keys()):
        what = f"the tensor {name}" if hasattr(module, name.split(".")[0]) else "a tensor that it holds"
        what = f"forward writes to {what}, which is no buffer of the module, and a file keeps no state"
        hint = "take the state as an input and return it as an output; what starts anew in each call is made there"
        raise CaptureError(what, where=type(module).__name__, hint=hint)
    if not written and not changes:
        return
    counts = any(isinstance(change.after, int | float) and not isinstance(change.after, bool) for change in changes)
    for jump in (0, _FAR) if counts else (0,):
        twice = trace(_Twice(module, written, jump), calls)
        drop_void_writes(twice, running=False)
        culprit = TwoCalls(twice.run_decompositions({}), written).culprit()
        if culprit is None:
            continue
        kind, name = "buffer" if culprit in dict(module.named_buffers()) else "parameter", culprit
        if not culprit:
            kind, name = changes[0].kind, ", ".join(sorted({change.path for change in changes})[:3])
        what = f"forward changes the {kind} {name} and its outputs depend on it, but a file keeps no state"
        hint = "take the state as an input and return it as an output"
        raise CaptureError(what, where=type(module).__name__, hint=hint)


def drop_void_writes(program: torch.export.ExportedProgram, *, running: bool) -> None:
    """Removes, from a traced graph, the writes to state that nobody reads afterwards.

    What a forward assigns to a buffer is written by torch.export at the end, if it has the buffer's shape or not; a
    batch norm in training mode computes with the statistics of the batch and changes the running ones.

    Args:
        program: changed in place.
        running: whether such a batch norm is left without the running ones, too.
    """
    owners, read = _owners(program).keys(), set[int]()
    # Backwards, so that `read` holds the memory that is read after the node.
    for node in reversed(list(program.graph.nodes)):
        is_copy = str(node.target) == "aten.copy_.default"
        if is_copy and not node.users and storage_of_tensor(node.args[0].meta["val"]) in owners - read:
            program.graph.erase_node(node)
            continue
        statistics = _statistics(node) if running else []
        if statistics and not read & {storage_of_tensor(source.meta["val"]) for source in statistics}:
            node.args = (*node.args[:3], None, None, *node.args[5:])  # a batch norm without running statistics
        read |= {storage_of_tensor(tensor) for source in node.all_input_nodes for tensor in tensors_of(source)}
    program.graph_module.recompile()


class _Twice(torch.nn.Module):
    """Two calls of a module, one after the other, as one forward.

    Args:
        module: that is called.
        written: names of the buffers and parameters that a call writes to.
        jump: further calls that counters in plain Python are advanced by between the two.
    """

    def __init__(self, module: torch.nn.Module, written: Collection[str], jump: int) -> None:
        super().__init__()
        self.module = module
        self._written = sorted(written)
        self._jump = jump

    def forward(self, first: Any, second: Any) -> Any:
        """Returns the first call's results, the state after it, and the second call's results."""
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
        memory = {storage_of_tensor(tensor) for target in _targets(node) for tensor in tensors_of(target)}
        names |= {owners[storage] for storage in memory & owners.keys()}
    return frozenset(names)


def _owners(program: torch.export.ExportedProgram) -> dict[int, str]:
    """The names of the state by its memory; a constant that each call copies afresh (``torch.tensor``) is none."""
    owners: dict[int, str] = {}
    for node, spec in program_inputs(program):
        afresh = node.users and all(str(user.target) == "aten.lift_fresh_copy.default" for user in node.users)
        if spec.kind in STATE and spec.target is not None and not afresh:
            owners |= {storage_of_tensor(tensor): spec.target for tensor in tensors_of(node)}
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
