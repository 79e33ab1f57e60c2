"""``torch.export``: what every path starts with.

It is most of the time of a capture (MobileNetV2, one core, warm: 0.34 s of 0.43 s). ``make_fx`` needs 0.17 s and
``torch.jit.trace`` 0.20 s for the same network, but neither refuses a forward whose branches depend on values or that
changes its buffers, and the faster forms of ``make_fx`` are not public. ``strict=True`` needs 2.5 s. Switching module
signatures or deferred assertions changes nothing that can be measured. The first call in a process takes 1 s more,
which are the imports of ``torch.export`` itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.fx.config
from torch._export.verifier import SpecViolationError
from torch.utils import _pytree as pytree

from edgeconv.capture.normalize._silent import silent
from edgeconv.capture.torch._borders import export_errors
from edgeconv.capture.torch._holdings import Change, Holdings, held
from edgeconv.capture.torch._operation import copied
from edgeconv.capture.torch._regions import dissolve_regions
from edgeconv.capture.torch._state import check_stateless, drop_void_writes

_TRANSFORMS = "torch._functorch.predispatch"


def export_program(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> torch.export.ExportedProgram:
    """``torch.export`` of a module that is in eval state, for exactly these shapes.

    Raises:
        CaptureError: torch cannot trace the module with these inputs, or what it returns depends on earlier calls.
    """
    with held(module) as holdings, quiet(), export_errors(module):
        try:
            program, changes = _traced(module, args, kwargs, holdings)
        except SpecViolationError:
            program, changes = _traced(module, args, kwargs, holdings, see=_view)
        calls = ((args, dict(kwargs)), pytree.tree_map(copied, (args, dict(kwargs))))
        check_stateless(module, program, changes, calls, _flat)
        drop_void_writes(program, running=True)
        return program


def _traced(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    holdings: Holdings,
    see: Callable[[Any], Any] | None = None,
) -> tuple[torch.export.ExportedProgram, list[Change]]:
    """The program, and what the forward changed in plain Python; all of that is put back.

    Args:
        module: as in `export_program`, like `args` and `kwargs`.
        args: see `module`.
        kwargs: see `module`.
        holdings: of the module before.
        see: through which the forward is shown each of its inputs; None shows them as they are.
    """
    changes: list[Change] = []

    def look(*_: Any) -> None:
        changes.extend(holdings.changes())
        holdings.restore(outside_only=True)  # torch calls the forward more than once, and puts back attributes alone

    hooks = [module.register_forward_hook(look)]
    if see is not None:
        shown = partial(pytree.tree_map, see)
        hooks.append(module.register_forward_pre_hook(lambda _, a, k: shown((a, k)), prepend=True, with_kwargs=True))
    try:
        return _flat(module, args, dict(kwargs)), changes
    finally:
        for hook in hooks:
            hook.remove()
        holdings.restore()


def _flat(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> torch.export.ExportedProgram:
    program = torch.export.export(module, args, kwargs)
    dissolve_regions(program)
    if any(getattr(node.target, "__module__", "") == _TRANSFORMS for node in program.graph.nodes):
        program = program.run_decompositions({})  # which makes plain operators of what torch.vmap has recorded
    return program


def _view(leaf: Any) -> Any:
    """torch cannot export a forward that assigns an input, as it is, to a buffer; it can a view of it."""
    return leaf.view_as(leaf) if isinstance(leaf, torch.Tensor) else leaf


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around what torch does: silent, and without writing down for each node the lines of Python that made it.

    Nobody here reads these, and they are an eighth of a capture.
    """
    untraced_lines = torch.fx.config.do_not_emit_stack_traces
    try:
        torch.fx.config.do_not_emit_stack_traces = True
        with silent():
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = untraced_lines
