"""Only float32 is captured: every later stage computes, compares and bounds its errors in it.

What a module computes in float16, bfloat16 or float64 (its parameters, its casts, regions of autocast) is traced as it
stands and then made float32 in the traced graph, for both paths. In real arithmetic, which is what a file is measured
against, that is the same function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node as FxNode
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from edgeconv.errors import CaptureError

_PACKED = frozenset({getattr(torch, "float4_e2m1fn_x2", None)})  # which torch has since 2.8
_CHECKS = frozenset({"aten._assert_tensor_metadata.default"})


def settle_precision(program: torch.export.ExportedProgram, where: str) -> tuple[str, ...]:
    """Makes every floating tensor of a traced graph float32.

    Returns:
        numpy's names of the other floating types that there were.

    Raises:
        CaptureError: one of them has 8 bits, and is used to round; or 4 bits.
    """
    graph = program.graph
    stored = [*program.state_dict.values(), *program.constants.values()]
    values = [leaf for node in graph.nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    others = {leaf.dtype for leaf in (*stored, *values) if isinstance(leaf, torch.Tensor) and _is_other(leaf.dtype)}
    if any(isinstance(tensor, torch.Tensor) and tensor.dtype in _PACKED for tensor in stored):
        what = "a weight is stored in float4_e2m1fn_x2, two numbers in one element, which torch does not convert"
        raise CaptureError(what, where=where, hint="store it in another type")
    narrow = sorted(str(dtype).removeprefix("torch.") for dtype in _rounded_to(graph))
    if narrow:
        what = f"forward computes in {narrow[0]}, whose rounding a file of float32 would leave out"
        raise CaptureError(what, where=where, hint="leave the cast out, or export int8 among the variants")
    if others:
        program._state_dict = {name: _single(value) for name, value in program.state_dict.items()}
        program._constants = {name: _single(value) for name, value in program.constants.items()}
        for node in list(graph.nodes):
            if str(node.target) in _CHECKS:
                graph.erase_node(node)
            else:
                _retype(node)
    program.graph_module.recompile()
    return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in others))


def _rounded_to(graph: torch.fx.Graph) -> set[torch.dtype]:
    """The floating types of 8 bits that results are in: stored weights, and views of them, have been rounded before."""
    rounded: set[torch.dtype] = set()
    for node in graph.nodes:
        if node.op == "call_function":
            results = _dtypes_of([node])
            moved = _dtypes_of(node.all_input_nodes) if getattr(node.target, "is_view", False) else set()
            rounded |= {dtype for dtype in results - moved if _is_other(dtype) and dtype.itemsize == 1}
    return rounded


def _dtypes_of(nodes: Iterable[FxNode]) -> set[torch.dtype]:
    leaves = [leaf for node in nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    return {leaf.dtype for leaf in leaves if isinstance(leaf, torch.Tensor)}


def in_module_precision(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments in the floating type of the module, where all its parameters have one other than float32.

    A module in float16 refuses float32 inputs. With parameters of several types the arguments stay as they are.
    """
    dtypes = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    if len(dtypes) != 1 or torch.float32 in dtypes:
        return args
    (dtype,) = dtypes

    def taken(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float32 else leaf

    converted: tuple[Any, ...] = pytree.tree_map(taken, args)
    return converted


def _is_other(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype is not torch.float32


def _single(leaf: Any) -> Any:
    """A tensor, a dtype or anything else with float32 for other floating types."""
    if isinstance(leaf, torch.Tensor) and _is_other(leaf.dtype):
        return torch.nn.Parameter(leaf.float(), False) if isinstance(leaf, torch.nn.Parameter) else leaf.float()
    return torch.float32 if isinstance(leaf, torch.dtype) and _is_other(leaf) else leaf


def _retype(node: FxNode) -> None:
    """Works out anew, without data, what a node makes."""
    if node.op == "placeholder":
        fake = node.meta.get("val")
        if isinstance(fake, torch.Tensor):
            with fake.fake_mode:  # type: ignore[attr-defined]
                node.meta["val"] = _single(fake)
    elif node.op == "call_function":
        node.args = map_aggregate(node.args, _single)
        node.kwargs = map_aggregate(node.kwargs, _single)
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda argument: argument.meta["val"])
        fakes = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if hasattr(leaf, "fake_mode")]
        if fakes and callable(node.target):
            with fakes[0].fake_mode, torch.no_grad():
                node.meta["val"] = node.target(*args, **kwargs)
