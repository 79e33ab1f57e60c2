"""Moves an average pool behind a pointwise convolution before it, where there are fewer positions left to convolve."""

from __future__ import annotations

import math
from functools import partial

import onnx_ir as ir

from edgeconv.graph.constants import stated_axes
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, graph_of, only_reader
from edgeconv.graph.replace import disown, take_over
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import may_pad
from edgeconv.rewrite.algebra._branch import Branch, window


class PoolFirstPass(EachNodePass):
    """Swaps a pointwise Conv and the average pool, global or not, that alone reads it, where that saves work.

    1. Requires: a 1x1 Conv without padding, with stride 1 and constant weights; an AveragePool, GlobalAveragePool or
       ReduceMean over all spatial axes that keeps them; static shapes. The numbers of multiply-adds fall. An
       AveragePool that counts its padding needs a Conv without bias.
    2. Ensures: the Conv's result has the name of the pool's; the pool's result is the output of no torch module.
    3. Exact: an average over space and a matrix product over channels commute. The weights of an average sum to one,
       so that a bias passes through; at the border of an average that counts its padding they do not.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """The swap of a Conv and the pool behind it."""
        pool = _pool(node) if node.op_type == "Conv" else None
        return None if pool is None else partial(_swap, node, pool)


def _pool(node: ir.Node) -> ir.Node | None:
    """The pool that should come before the Conv; None if (1) does not hold."""
    pool = only_reader(node.outputs[0])
    if pool is None or pool.domain != "" or pool.op_type not in having(Trait.AVERAGES):
        return None
    conv = window(node)
    before, after = dims(node.outputs[0]), dims(pool.outputs[0])
    if conv is None or before is None or after is None or pool.inputs[0] is not node.outputs[0]:
        return None
    if (
        not conv.taps.is_pointwise
        or any(stride != 1 for stride in conv.strides)
        or not _averages_space(pool, before, after)
    ):
        return None
    if _counts_padding(pool) and len(node.inputs) > 2:
        return None  # at the borders an average has a part of the bias; a Conv behind it would add all
    return pool if _saves(conv, pool, before[2:], after[2:]) else None


def _averages_space(pool: ir.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    if pool.op_type != "ReduceMean":
        return True
    spatial = set(range(2, len(before)))
    return {axis % len(before) for axis in stated_axes(pool) or ()} == spatial and len(after) == len(before)


def _counts_padding(pool: ir.Node) -> bool:
    if pool.op_type != "AveragePool" or pool.attributes.get_int("count_include_pad", 0) == 0:
        return False
    if pool.attributes.get_int("ceil_mode", 0):  # the last windows may reach beyond the input
        return True
    return may_pad(pool)


def _saves(conv: Branch, pool: ir.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether multiply-adds are saved: the Conv has fewer positions, but the pool may have more channels (Cin)."""
    kernel = pool.attributes.get_ints("kernel_shape", before)
    per_channel = math.prod(kernel) * math.prod(after)
    saved = conv.taps.weights * (math.prod(before) - math.prod(after))
    return saved > per_channel * (conv.taps.channels_in - conv.taps.channels_out) and saved > 0


def _swap(node: ir.Node, pool: ir.Node) -> None:
    graph, x = graph_of(node), node.inputs[0]
    between, result = node.outputs[0], pool.outputs[0]
    if x is None or x.shape is None or result.shape is None:
        return
    first = ir.Value(type=x.type, shape=ir.Shape([*x.shape[:2], *result.shape[2:]]))
    inputs = [x, *pool.inputs[1:]]
    moved = ir.Node("", pool.op_type, inputs, list(pool.attributes.values()), outputs=[first], name=pool.name)
    moved.metadata_props.update(pool.metadata_props)
    graph.insert_before(node, moved)
    first.name = between.name
    disown(first, graph)
    node.replace_input_with(0, first)
    take_over(result, between)
