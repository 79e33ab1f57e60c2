"""Inlines subgraphs that torch.export makes of ``with torch.autocast`` and ``with torch.no_grad``.

A file has neither switch. The dtypes that autocast chose are recorded at the operators inside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node as FxNode

_REGIONS = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled"})


def dissolve_regions(program: torch.export.ExportedProgram) -> None:
    """Replaces each such region by the operators inside it."""
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
