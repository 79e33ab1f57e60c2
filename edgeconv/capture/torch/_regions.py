"""Regions of a traced graph that switch something which has no meaning in a file: autocast, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node as FxNode

_REGIONS = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled"})


def dissolve_regions(program: torch.export.ExportedProgram) -> None:
    """Puts the operators of each such region in its place."""
    dissolved = False
    while any(map(_dissolved, list(program.graph.nodes))):
        dissolved = True
    if dissolved:
        program.graph_module.recompile()


def _dissolved(node: FxNode) -> bool:
    """Whether a node was a region, which its operators have replaced."""
    if getattr(node.target, "__name__", "") not in _REGIONS or node.op != "call_function":
        return False
    args: list[Any] = list(node.args)
    owner: Any = node.graph.owning_module
    position = next(
        index for index, argument in enumerate(args) if isinstance(argument, FxNode) and argument.op == "get_attr"
    )
    holder = args[position]
    body: torch.fx.Graph = owner.get_submodule(str(holder.target)).graph
    inner = dict(
        zip([argument for argument in body.nodes if argument.op == "placeholder"], args[position + 1 :], strict=True)
    )
    with node.graph.inserting_before(node):
        results: Any = node.graph.graph_copy(body, inner)
    for user in list(node.users):  # items of the region's tuple of results
        index: Any = user.args[1]
        taken: Any = results[index] if isinstance(results, tuple | list) else results
        user.replace_all_uses_with(taken)
        node.graph.erase_node(user)
    node.graph.erase_node(node)
    if not holder.users:
        node.graph.erase_node(holder)
    return True
