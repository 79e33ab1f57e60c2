"""Rewrites assignments under a mask, ``y[m] = f(y[m])``, as ``y = where(m, f(y), y)``.

The number of selected rows depends on values, and a file has fixed sizes. But where f treats every row by itself, it
can be computed on the whole tensor, and its result be taken where the mask is true. What it gives elsewhere, infinite
or NaN perhaps, is never read.

Rules
    1. A selection is ``z[..., m]`` with one boolean mask, or ``masked_select``. It reads the tensor as it is at that
       point of the graph, so the whole tensor is cloned there.
    2. Operators on selections must treat every selected row by itself: elementwise operators, and those along axes
       behind the mask (linear, layer norm, softmax). Their other operands must not have the axis of the selection.
    3. Selections that are combined, and the assignment, must have equal masks: the same tensor with no write in
       between, or results of the same operators on the same tensors.
    4. If a selection is used in any other way, everything that was selected by its mask stays as it is
       (`_interface.check_sizes` then refuses it).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._operation import name_of, writes
from edgeconv.capture.torch._storage import storage_of

_ALIKE = frozenset(
    {"clone", "contiguous", "detach", "alias", "to", "_to_copy", "dropout", "lift_fresh_copy"}
    | {"__and__", "__or__", "__xor__", "__lshift__", "__rshift__"}
)
"""Operators that keep every element at its place, though torch does not tag (all of) them ``pointwise``."""
_SHIFTS = frozenset({"__lshift__", "__rshift__", "bitwise_left_shift", "bitwise_right_shift"})
_DIVISIONS = _SHIFTS | {"div", "divide", "floor_divide", "remainder", "fmod", "pow"}
"""Elementwise operators that may fail on integers: by a divisor 0, or a negative exponent, outside of the mask."""
_SIZES = frozenset(
    {"sym_size", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range_for_size", "sym_constrain_range"}
)
"""Operators by which torch records the number of selected rows."""


@dataclass(frozen=True)
class _Selected:
    """The whole tensor that stands for a tensor of selected rows.

    Attributes:
        whole: the tensor of which the rows are selected.
        mask: selects the rows.
        read_at: the position in the graph where the mask was read.
        lead: number of axes in front of the mask's.
        behind: number of axes behind the mask's.
    """

    whole: FxNode
    mask: FxNode
    read_at: int
    lead: int
    behind: int


def settle_masks(program: torch.export.ExportedProgram) -> None:
    """Rewrites every such assignment of a traced graph, in place."""
    nodes = list(program.graph.nodes)
    if not any(_is_selection(node) for node in nodes):
        return
    walk = _Walk(program, nodes)
    for place, node in enumerate(nodes):
        if node.op in ("call_function", "output"):
            walk.visit(place, node)
    walk.finish()
    program.graph_module.recompile()


class _Walk:
    """One pass over a graph, which only adds to it until `finish`."""

    def __init__(self, program: torch.export.ExportedProgram, nodes: Sequence[FxNode]) -> None:
        self.program = program
        self.graph: torch.fx.Graph = program.graph
        self.nodes = nodes
        self.places = {node: place for place, node in enumerate(nodes)}
        self.selected: dict[FxNode, _Selected] = {}
        # By each node that follows from a selection: the first mask that equals its own, which stands for all of them.
        self.masks: dict[FxNode, FxNode] = {}
        self.spoilt: set[FxNode] = set()  # masks under rule 4
        self.choices: dict[FxNode, tuple[FxNode, FxNode]] = {}  # by the assignment: its Where, and the mask
        self.added: list[tuple[FxNode, FxNode]] = []  # nodes that were added, with the mask that they were added for

    def visit(self, place: int, node: FxNode) -> None:
        """Follows a node; one that no rule covers spoils the masks of its arguments."""
        sources = [source for source in node.all_input_nodes if source in self.masks]
        masks = {self.masks[source] for source in sources}
        if not sources and _is_selection(node):
            self._select(place, node)
        elif sources:
            understood = len(masks) == 1 and node.op == "call_function" and self._follow(place, node, sources)
            if not understood:
                self.spoilt |= masks
            if node not in self.choices:
                self.masks[node] = self.masks[sources[0]]

    def finish(self) -> None:
        """Replaces the assignments by the choices, and removes the nodes on selected rows."""
        for node, mask in reversed(self.added):
            if mask in self.spoilt and not node.users:
                self.graph.erase_node(node)
        # The signature names outputs by their nodes; the hook renames them as nodes are replaced.
        renamed = self.program.graph_signature.get_replace_hook()
        with self.program.graph_module._set_replace_hook(renamed):
            for node, (choice, mask) in self.choices.items():
                if mask not in self.spoilt:
                    node.replace_all_uses_with(choice)
                    self.graph.erase_node(node)
        for node in reversed(self.nodes):
            if node in self.masks and self.masks[node] not in self.spoilt:
                self.graph.erase_node(node)

    def _select(self, place: int, node: FxNode) -> None:
        tensor, mask, lead = _selection(node)
        first = next((earlier for earlier in self.masks.values() if self._are_equal(earlier, mask, place)), None)
        if first is None and mask in self.masks.values():  # it was written to since
            self.spoilt.add(mask)
        first = first or mask
        rank = len(_shape(mask))
        behind = len(_shape(tensor)) - lead - rank
        self.masks[node] = first
        if behind < 0 or (name_of(node) == "masked_select" and _shape(mask) != _shape(tensor)):
            self.spoilt.add(first)
            return
        whole = self._add(node, torch.ops.aten.clone.default, (tensor,))
        self.selected[node] = _Selected(whole, mask, place, lead, behind)

    def _follow(self, place: int, node: FxNode, sources: Sequence[FxNode]) -> bool:
        """Translates a node that reads selected rows; returns whether a rule covers it."""
        if node.target in vars(operator).values() or name_of(node) in _SIZES:
            return not isinstance(node.meta.get("val"), torch.Tensor)
        rows = [self.selected[source] for source in sources if source in self.selected]
        if len(rows) != len(sources) and name_of(node) != "view":
            return False
        first = rows[0] if rows else None
        if first is None or any((row.lead, row.behind) != (first.lead, first.behind) for row in rows):
            return False
        if name_of(node) in ("index_put", "index_put_", "masked_scatter", "masked_scatter_"):
            return self._choose(place, node, first)
        if name_of(node) == "view":  # torch leaves out axes of one element in front of what it assigns
            value = node.args[0]
            if not isinstance(value, FxNode) or value not in self.selected or not _drops_ones(value, node):
                return False
            self.selected[node] = self.selected[value]
            return True
        return self._compute(node, first)

    def _compute(self, node: FxNode, rows: _Selected) -> bool:
        """Adds the same operator on whole tensors (rule 2); returns whether that is possible."""
        kwargs = _fit_arguments(node, rows)
        if kwargs is None or not self._fit_others(node, rows):
            return False
        target = _functional(node.target)
        if target is None or (target is not node.target and node.args[0] not in self.selected):
            return False
        instead = {source: self.selected[source].whole for source in node.all_input_nodes if source in self.selected}
        args = pytree.tree_map_only(FxNode, lambda argument: instead.get(argument, argument), list(node.args))
        whole = self._add(node, target, tuple(args), {**node.kwargs, **kwargs})
        if whole.meta["val"].dtype != node.meta["val"].dtype:  # an in-place operator casts to the type of its target
            return False
        result = _Selected(whole, rows.mask, rows.read_at, rows.lead, rows.behind)
        if target is not node.target:  # every view of what was written to shows the same rows
            memory = storage_of(node)
            for view in [view for view in self.selected if storage_of(view) == memory]:
                self.selected[view] = result
        self.selected[node] = result
        return True

    def _fit_others(self, node: FxNode, rows: _Selected) -> bool:
        """Whether the other operands broadcast in the same way with a whole tensor: only along axes behind the mask."""
        if name_of(node) in ("linear", "layer_norm"):
            return node.args[0] in self.selected and len([x for x in node.all_input_nodes if x in self.selected]) == 1
        for other in node.all_input_nodes:
            front = _shape(other)[: len(_shape(other)) - rows.behind] if other not in self.selected else ()
            if any(size != 1 for size in front):
                return False
        return True

    def _choose(self, place: int, node: FxNode, rows: _Selected) -> bool:
        """Adds the Where of an assignment; returns whether that is possible."""
        # 1. Target, mask and values of the assignment.
        target, where, values = (node.args[0], *node.args[1:3]) if len(node.args) > 2 else (None, None, None)
        if name_of(node).startswith("index_put") and isinstance(where, list | tuple):
            mask, lead = _only_mask(where)
            if len(node.args) > 3 and node.args[3]:
                return False
        else:  # masked_scatter: it broadcasts a smaller mask over the last axes, while rows are along the first ones
            mask, lead = where, 0
            if not isinstance(target, FxNode) or not isinstance(mask, FxNode) or _shape(mask) != _shape(target):
                return False
        if not isinstance(target, FxNode) or not isinstance(mask, FxNode) or not isinstance(values, FxNode):
            return False
        # 2. They have the same axes as the rows, and the same mask.
        sizes, mask_sizes = _shape(target), _shape(mask)
        fits = lead == rows.lead and sizes[lead : lead + len(mask_sizes)] == mask_sizes == _shape(rows.mask)
        if (
            not fits
            or len(sizes) != lead + len(mask_sizes) + rows.behind
            or not self._are_equal(rows.mask, mask, place, rows)
        ):
            return False
        whole = rows.whole
        if target in self.masks or whole.meta["val"].dtype != target.meta["val"].dtype:
            return False
        if np.broadcast_shapes(_shape(whole), sizes) != sizes:
            return False
        # 3. The choice; written to the target where the assignment was in place.
        wide = self._add(node, torch.ops.aten.view.default, (mask, [*mask_sizes, *(1 for _ in range(rows.behind))]))
        choice = self._add(node, torch.ops.aten.where.self, (wide, whole, target))
        if name_of(node).endswith("_"):
            choice = self._add(node, torch.ops.aten.copy_.default, (target, choice))
        self.choices[node] = choice, self._mask_of(node)
        return True

    def _are_equal(self, before: FxNode, mask: FxNode, place: int, rows: _Selected | None = None) -> bool:
        """Whether a mask that was read before and one at `place` are equal (rule 3)."""
        differing = _differing_nodes(before, mask)
        if differing is None:
            return False
        # Between the first of their different nodes and `place`, nothing may be written that they are made of.
        start = min((self.places[node] for node in differing), default=rows.read_at if rows else self.places[before])
        written = [node.args[0] for node in self.nodes[start:place] if writes(node)]
        plain = [node for node in written if isinstance(node, FxNode)]
        if before is not mask:
            return len(plain) == len(written) and all(node in self.selected for node in plain)
        return len(plain) == len(written) and all(storage_of(node) != storage_of(mask) for node in plain)

    def _add(self, node: FxNode, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> FxNode:
        """Inserts a node before another, as a part of the same module, with shape and dtype inferred."""
        with self.graph.inserting_before(node):
            added = self.graph.call_function(target, args, dict(kwargs or {}))
        added.meta = dict(node.meta)
        values = pytree.tree_map_only(FxNode, lambda argument: argument.meta["val"], (args, dict(kwargs or {})))
        if target is torch.ops.aten.copy_.default:
            added.meta["val"] = args[0].meta["val"]
        else:
            added.meta["val"] = target(*values[0], **values[1])
        self.added.append((added, self.masks[node] if node in self.masks else self._mask_of(node)))
        return added

    def _mask_of(self, node: FxNode) -> FxNode:
        return next(self.masks[source] for source in node.all_input_nodes if source in self.masks)


def _is_selection(node: FxNode) -> bool:
    """Whether a node selects rows by a boolean mask, so that their number depends on values."""
    if node.op != "call_function" or name_of(node) not in ("index", "masked_select"):
        return False
    mask = _selection(node)[1]
    return isinstance(mask, FxNode) and mask.meta["val"].dtype is torch.bool and bool(_open_axes(node))


def _selection(node: FxNode) -> tuple[Any, Any, int]:
    """The tensor that is selected from, the mask, and the number of axes in front of it."""
    if name_of(node) == "masked_select":
        return node.args[0], node.args[1], 0
    mask, lead = _only_mask(node.args[1])
    return node.args[0], mask, lead


def _only_mask(indices: Any) -> tuple[Any, int]:
    """The single index of an indexing, and its position; None where several axes are indexed."""
    stated = [(index, position) for position, index in enumerate(indices) if index is not None]
    return stated[0] if len(stated) == 1 else (None, 0)


def _fit_arguments(node: FxNode, rows: _Selected) -> Mapping[str, Any] | None:
    """Further keywords for an operator on whole tensors; None where it does not treat every row by itself."""
    name, value = _plain_name(node.target), node.meta.get("val")
    if not isinstance(value, torch.Tensor) or torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return None
    if len(value.shape) <= rows.behind or not isinstance(value.shape[len(value.shape) - rows.behind - 1], torch.SymInt):
        return None
    if name == "dropout":
        return None if node.args[2] else {}
    if name == "linear":
        return {} if rows.behind else None
    if name == "layer_norm":
        return {} if len(node.args[1]) <= rows.behind else None  # type: ignore[arg-type]
    if name == "softmax" or name == "log_softmax":
        return {} if isinstance(node.args[1], int) and -rows.behind <= node.args[1] < 0 else None
    if name in _DIVISIONS and not value.is_floating_point():
        other = node.args[1]
        return {} if isinstance(other, int | float) and other > 0 else None
    return {} if name in _ALIKE or torch.Tag.pointwise in node.target.tags else None  # type: ignore[union-attr]


def _differing_nodes(node: FxNode, other: FxNode) -> list[FxNode] | None:
    """The nodes of two expressions that are equal in form but not the same; None where they are not equal in form."""
    if node is other:
        return []
    if node.op != "call_function" or node.target is not other.target or other.op != "call_function":
        return None
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or writes(node):
        return None
    (left, left_form), (right, right_form) = (pytree.tree_flatten((side.args, side.kwargs)) for side in (node, other))
    if left_form != right_form:
        return None
    differing = [node, other]
    for a, b in zip(left, right, strict=True):
        if isinstance(a, FxNode) and isinstance(b, FxNode):
            deeper = _differing_nodes(a, b)
            if deeper is None:
                return None
            differing += deeper
        elif type(a) is not type(b) or a != b:
            return None
    return differing


def _drops_ones(before: FxNode, after: FxNode) -> bool:
    """Whether a view removes leading axes of size 1, and does nothing else."""
    sizes, fewer = list(before.meta["val"].shape), list(after.meta["val"].shape)
    cut = len(sizes) - len(fewer)
    are_ones = all(isinstance(size, int) and size == 1 for size in sizes[:cut])
    # Compared as text: `==` of symbolic sizes would have torch guard on an unknown number.
    return cut >= 0 and are_ones and str(sizes[cut:]) == str(fewer)


def _functional(target: Any) -> Any:
    """The operator that returns a new tensor in place of one that writes in place; None where torch has none."""
    if not target._schema.is_mutable:
        return target
    return getattr(getattr(torch.ops.aten, _plain_name(target), None), target._overloadname, None)


def _plain_name(target: Any) -> str:
    """The name of that operator: ``add`` of ``add_``, ``__lshift__`` of ``__ilshift__``."""
    name = str(getattr(target, "_opname", ""))
    if not getattr(target, "_schema", None) or not target._schema.is_mutable:
        return name
    return f"__{name[3:]}" if name.startswith("__i") and name.endswith("__") else name.removesuffix("_")


def _open_axes(node: FxNode) -> list[int]:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return []
    return [axis for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)]


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
