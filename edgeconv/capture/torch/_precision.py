"""Makes every floating tensor of a traced graph float32: all later stages compute and bound errors in that type.

A module in float16, bfloat16 or float64 (parameters, casts, regions of autocast) is traced as it is, and the traced
graph is then retyped, for both paths. In real arithmetic, which the proof measures against, the function is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node as FxNode
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from edgeconv.errors import CaptureError

_PACKED = frozenset({getattr(torch, "float4_e2m1fn_x2", None)})  # torch has it since 2.8
_CHECKS = frozenset({"aten._assert_tensor_metadata.default"})  # which would find that a dtype has changed


def settle_precision(program: torch.export.ExportedProgram, where: str) -> tuple[str, ...]:
    """Makes every floating tensor of a traced graph float32.

    Returns:
        numpy's names of the other floating types that there were.

    Raises:
        CaptureError: one of them has 8 bits, and is used to round; or 4 bits.
    """
    graph = program.graph
    stored = [*program.state_dict.values(), *program.constants.values()]
    # 1. Which other floating types there are.
    values = [leaf for node in graph.nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    others = {leaf.dtype for leaf in (*stored, *values) if isinstance(leaf, torch.Tensor) and _is_other(leaf.dtype)}
    # 2. Types that cannot be widened without a change of what is computed.
    if any(isinstance(tensor, torch.Tensor) and tensor.dtype in _PACKED for tensor in stored):
        what = "a weight is stored in float4_e2m1fn_x2, two numbers in one element, which torch does not convert"
        raise CaptureError(what, where=where, hint="store it in another type")
    narrow = sorted(str(dtype).removeprefix("torch.") for dtype in _rounded_to(graph))
    if narrow:
        what = f"forward computes in {narrow[0]}, whose rounding a file of float32 would leave out"
        raise CaptureError(what, where=where, hint="leave the cast out, or export int8 among the variants")
    # 3. Weights, and then the nodes in order: each works out its result from those before.
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
    """The floating types of 8 bits that operators round to.

    A stored weight in float8, and views of it, do not count: its values are what they are, and float32 holds them.
    """
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
    """Casts float32 arguments to the floating type of the parameters, where all have one and it is not float32.

    torch refuses float32 inputs to a module in float16. With parameters of several types nothing is cast.
    """
    dtypes = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    if len(dtypes) != 1 or torch.float32 in dtypes:
        return args
    (dtype,) = dtypes

    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float32 else leaf

    converted: tuple[Any, ...] = pytree.tree_map(cast, args)
    return converted


def _is_other(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype is not torch.float32


def _single(leaf: Any) -> Any:
    """A tensor as float32, or float32 for a dtype, if it has another floating type; anything else unchanged."""
    if isinstance(leaf, torch.Tensor) and _is_other(leaf.dtype):
        return torch.nn.Parameter(leaf.float(), False) if isinstance(leaf, torch.nn.Parameter) else leaf.float()
    return torch.float32 if isinstance(leaf, torch.dtype) and _is_other(leaf) else leaf


def _retype(node: FxNode) -> None:
    """Casts the arguments of a node, and infers the shape and dtype of its results anew, without data."""
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
