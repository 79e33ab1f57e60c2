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
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from edgeconv.capture.normalize._silent import silent
from edgeconv.capture.torch._borders import export_errors
from edgeconv.capture.torch._covariance import Covariances
from edgeconv.capture.torch._holdings import Change, Holdings, restored_after
from edgeconv.capture.torch._operation import apart, copied
from edgeconv.capture.torch._state import check_stateless, drop_void_writes

_TRANSFORMS = "torch._functorch.predispatch"


def export_program(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> torch.export.ExportedProgram:
    """``torch.export`` of a module that is in eval state, for exactly these shapes.

    Raises:
        CaptureError: torch cannot trace the module with these inputs, or what it returns depends on earlier calls.
    """
    args, kwargs = pytree.tree_map(apart, (args, dict(kwargs)))
    with restored_after(module) as holdings, quiet(), export_errors(module), contextlib.ExitStack() as forms:
        try:
            program, changes = _traced(module, args, kwargs, holdings)
        except SpecViolationError:  # the forward stores an input itself as a buffer; see `_view`
            program, changes = _traced(module, args, kwargs, holdings, see=_view)
        except DataDependentOutputException:  # of torch.cov, or the module's own
            forms.enter_context(Covariances())
            program, changes = _traced(module, args, kwargs, holdings)
        # Two calls with equal numbers in tensors of their own: shared ones would tie the calls together.
        calls = ((args, kwargs), pytree.tree_map(copied, (args, dict(kwargs))))
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
    """Traces a module once, and restores what its forward changed in plain Python.

    Args:
        module: as in `export_program`, like `args` and `kwargs`.
        args: see `module`.
        kwargs: see `module`.
        holdings: the snapshot of the module from before the call.
        see: applied to each input before the forward gets it; None for nothing.

    Returns:
        The traced program, and the changes that the forward made to plain Python objects.
    """
    changes: list[Change] = []

    def record_changes(*_: Any) -> None:
        changes.extend(holdings.changes())
        holdings.restore(outside_only=True)  # torch calls the forward more than once, and puts back attributes alone

    hooks = [module.register_forward_hook(record_changes)]
    if see is not None:
        see_all = partial(pytree.tree_map, see)
        hooks.append(module.register_forward_pre_hook(lambda _, a, k: see_all((a, k)), prepend=True, with_kwargs=True))
    try:
        return _flat(module, args, dict(kwargs)), changes
    finally:
        for hook in hooks:
            hook.remove()
        holdings.restore()


def _flat(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> torch.export.ExportedProgram:
    """``torch.export`` without regions of autocast and gradients, and without the wrappers of ``torch.vmap``."""
    program = torch.export.export(module, args, kwargs)
    _dissolve_regions(program)
    if any(getattr(node.target, "__module__", "") == _TRANSFORMS for node in program.graph.nodes):
        # Traces the program once more, which turns the wrappers that torch.vmap recorded into plain operators.
        program = program.run_decompositions({})
    return program


def _view(leaf: Any) -> Any:
    """torch cannot export a forward that assigns an input, as it is, to a buffer; it can a view of it."""
    return leaf.view_as(leaf) if isinstance(leaf, torch.Tensor) else leaf


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch from printing and from recording a Python stack trace for each node.

    Nothing here reads the stack traces, and they take an eighth of the time of a capture.
    """
    setting_before = torch.fx.config.do_not_emit_stack_traces
    try:
        torch.fx.config.do_not_emit_stack_traces = True
        with silent():
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = setting_before


_REGIONS = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled"})


def _dissolve_regions(program: torch.export.ExportedProgram) -> None:
    """Inlines the subgraphs that torch.export makes of ``with torch.autocast`` and ``with torch.no_grad``.

    A file has neither switch. The dtypes that autocast chose are recorded at the operators inside.
    """
    dissolved = False
    # Regions may stand in regions: each round lists the nodes anew.
    while any(map(_dissolved, list(program.graph.nodes))):
        dissolved = True
    if dissolved:
        program.graph_module.recompile()


def _dissolved(node: FxNode) -> bool:
    """Inlines a node if it is a region.

    Returns:
        Whether it was one. Its arguments are switches, then the subgraph (``get_attr``), then the subgraph's inputs.
    """
    if getattr(node.target, "__name__", "") not in _REGIONS or node.op != "call_function":
        return False
    args: list[Any] = list(node.args)
    owner: Any = node.graph.owning_module
    position = next(
        index for index, argument in enumerate(args) if isinstance(argument, FxNode) and argument.op == "get_attr"
    )
    holder = args[position]
    body: torch.fx.Graph = owner.get_submodule(str(holder.target)).graph
    placeholders = [inner for inner in body.nodes if inner.op == "placeholder"]
    with node.graph.inserting_before(node):
        results: Any = node.graph.graph_copy(body, dict(zip(placeholders, args[position + 1 :], strict=True)))
    for user in list(node.users):  # items of the region's tuple of results
        index: Any = user.args[1]
        item: Any = results[index] if isinstance(results, tuple | list) else results
        user.replace_all_uses_with(item)
        node.graph.erase_node(user)
    node.graph.erase_node(node)
    if not holder.users:
        node.graph.erase_node(holder)
    return True
