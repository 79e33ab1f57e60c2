"""Merges parallel linear branches of one input, as RepVGG trains them, into one convolution."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.graph.constants import Float64, holds, is_float
from edgeconv.graph.edit import dims, graph_of, only_reader, remove_unread, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like, take_over
from edgeconv.graph.traits import Trait, having
from edgeconv.rewrite.algebra._branch import Branch, branch, convolution

_SUMS = having(Trait.SIGNED_SUM)


class MergeBranchesPass(ir.passes.InPlacePass):
    """Merges a sum of convolutions, average pools and (scaled) copies of the same value into one Conv.

    1. Requires: operands of Add, Sub, Sum, and of sums nested in them, of the sum's own shape and with fixed spatial
       sizes. Two of them are merged when they read the same value with the same strides, at least one has a window,
       weights and biases are constant, nobody else reads their results, and the one convolution takes no more
       multiply-adds than the two and their addition. A dense convolution so takes in 1x1 and depthwise ones, an
       identity, BatchNormalization or a constant scale of the input; a 1x1 takes no 3x3 depthwise. An average pool must
       divide by its window's size everywhere: its padding is counted, or there is none.
    2. Ensures: no two operands of a sum are left for which (1) holds. A sum that is merged as a whole keeps its name;
       the results of its operands are gone. Operands that do not merge are added to what did, without the sums
       between them.
    3. Exact: each operand is a correlation of the same zero-extended input, and the output at ``o`` sees the input at
       ``o * stride + offset``; weights at equal offsets add, and so do biases. A 1x1 without padding has the offset 0
       of a k x k with padding (k-1)/2. A shift before zero padding is not of this form, and is not merged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merges in the graph's order, inner sums first, until nothing changes.

        The merger of two operands may take a third one that neither of them could. Each merge leaves fewer operands, so
        this ends.
        """
        modified = False
        while self._merge_once(model):
            modified = True
        return ir.passes.PassResult(model, modified)

    def _merge_once(self, model: ir.Model) -> bool:
        merged = False
        for node in tuple(model.graph):
            if node.graph is not None and _is_sum(node) and not _is_part(node):
                merge = _merge(node)
                if merge is not None:
                    merge.apply()
                    merged = True
        return merged

    def ensures(self, model: ir.Model) -> None:
        """Checks (2)."""
        for node in model.graph:
            if _is_sum(node) and not _is_part(node) and _merge(node) is not None:
                raise ir.passes.PostconditionError(f"operands of {node.outputs[0].name} could be merged")


@dataclass(frozen=True)
class _Merge:
    """A sum that can be rebuilt with fewer operands.

    Attributes:
        node: the last node of the sum.
        merged: branches that stand for two operands or more, each with weight and bias.
        others: sign and value of the other operands.
    """

    node: ir.Node
    merged: list[tuple[Branch, Float64, Float64]]
    others: list[tuple[float, ir.Value]]

    def apply(self) -> None:
        """Replaces the sum by the convolutions, plus the other operands."""
        result, operands = self.node.outputs[0], self.node.inputs
        alone = len(self.merged) == 1 and not self.others
        total: ir.Value | None = None
        for merged, weight, bias in self.merged:
            conv = convolution(self.node, merged, (weight, bias), "" if alone else ".merged")
            total = conv if total is None else _added(self.node, "Add", total, conv)
        for sign, value in self.others:
            if total is not None:
                total = _added(self.node, "Add" if sign > 0 else "Sub", total, value)
        if total is not None:
            take_over(result, total)
        remove_unread(operands)


def _is_sum(node: ir.Node) -> bool:
    """Whether (1) holds for the operands' shapes, none of them being constant."""
    shape = dims(node.outputs[0]) if node.op_type in _SUMS and node.domain == "" else None
    if shape is None or len(shape) < 3 or not is_float(node.outputs[0].dtype):
        return False
    return all(dims(value) == shape and tensor_of(value) is None for value in node.inputs)


def _is_part(node: ir.Node) -> bool:
    """Whether the sum is an operand of a larger one and of nothing else."""
    consumer = only_reader(node.outputs[0])
    return consumer is not None and _is_sum(consumer)


def _merge(node: ir.Node) -> _Merge | None:
    """Merges operands greedily: the costliest first, each into the first group that can take it."""
    operands = _operands(node, 1.0)
    branches: list[tuple[Branch, tuple[float, ir.Value]]] = []
    for item in operands:
        candidate = branch(item[1], item[0])
        if candidate is not None:
            branches.append((candidate, item))
    # No two branches share source and strides: the common case, and quick to see.
    if len({(id(candidate.source), candidate.strides) for candidate, _ in branches}) == len(branches):
        return None
    groups: list[tuple[Branch, list[tuple[float, ir.Value]]]] = []
    for candidate, item in sorted(branches, key=lambda pair: -pair[0].cost):
        for index, (other, items) in enumerate(groups):
            is_like = other.source is candidate.source and other.strides == candidate.strides
            both = other + candidate if is_like else None
            if both is not None:
                groups[index] = (both, [*items, item])
                break
        else:
            groups.append((candidate, [item]))
    # Weights are computed for groups only, and a group whose weights leave the range of the dtype stays apart.
    merged = [(whole, items, *whole.numbers()) for whole, items in groups if len(items) > 1]
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    storable = [entry for entry in merged if holds(dtype, entry[2]) and holds(dtype, entry[3])]
    in_groups = {id(item) for entry in storable for item in entry[1]}
    others = [item for item in operands if id(item) not in in_groups]
    return _Merge(node, [(entry[0], entry[2], entry[3]) for entry in storable], others) if storable else None


def _operands(node: ir.Node, sign: float) -> list[tuple[float, ir.Value]]:
    """Sign and value of all operands of a sum, with those of nested sums in their places."""
    operands: list[tuple[float, ir.Value]] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        signed = -sign if node.op_type == "Sub" and index == 1 else sign
        inner = value.producer()
        if inner is not None and _is_sum(inner) and only_reader(value) is node:
            operands += _operands(inner, signed)
        else:
            operands.append((signed, value))
    return operands


def _added(node: ir.Node, op_type: str, left: ir.Value, right: ir.Value) -> ir.Value:
    return insert_like(node, op_type, [left, right], [], unique_name(graph_of(node), f"{node.outputs[0].name}.partial"))
