"""Merges two convolutions (or average pools) in a row, one of them pointwise, into one."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from edgeconv.graph.constants import Float64, holds
from edgeconv.graph.edit import dims, only_reader, remove_unread
from edgeconv.graph.replace import take_over
from edgeconv.rewrite.algebra._branch import Branch, Taps, convolution, window


class MergeChainsPass(ir.passes.InPlacePass):
    """Merges a Conv or AveragePool with the one that alone feeds it, where that saves multiply-adds.

    1. Requires: constant weights and static shapes; one of the two is pointwise: 1x1 without padding, the first one
       with stride 1. Where the second one pads, the first one has no bias. The one convolution takes no more
       multiply-adds than both.
    2. Ensures: no two are left for which (1) holds; the result keeps its name.
    3. Exact: ``B (A x + a) + b`` is ``(B A) x + (B a + b)``. A pointwise B sees no borders. Before a pointwise A
       without bias, the zeros that B pads with are the results of zeros; with a bias they are not.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merges in the graph's order until nothing changes: a merged pair may merge with what is before it."""
        modified = False
        while self._merge_once(model):
            modified = True
        return ir.passes.PassResult(model, modified)

    def _merge_once(self, model: ir.Model) -> bool:
        modified = False
        for node in tuple(model.graph):
            merged = _merge(node)
            if merged is not None:
                result, former = node.outputs[0], node.inputs
                take_over(result, convolution(node, *merged))
                remove_unread(former)
                modified = True
        return modified

    def ensures(self, model: ir.Model) -> None:
        """Checks (2)."""
        for node in model.graph:
            if _merge(node) is not None:
                raise ir.passes.PostconditionError(f"{node.outputs[0].name} could be merged with what is before it")


def _merge(node: ir.Node) -> tuple[Branch, tuple[Float64, Float64]] | None:
    """The one convolution for a node and the one before it, with its numbers; None when (1) does not hold."""
    outer = window(node) if node.graph is not None else None
    if outer is None or only_reader(outer.source) is not node:
        return None
    inner = window(outer.source.producer())
    if inner is None or len(inner.taps.windows) != len(outer.taps.windows):
        return None
    is_plain = inner.taps.is_pointwise and all(stride == 1 for stride in inner.strides)
    if not (outer.taps.is_pointwise or is_plain):
        return None
    taps = _composed(inner, outer)
    between, after = dims(outer.source), dims(node.outputs[0])
    if between is None or after is None:
        return None
    # Multiply-adds per image and output position, of both and of the one.
    spent = inner.taps.weights * math.prod(between[2:]) + outer.taps.weights * math.prod(after[2:])
    padded = any(any(span.padding) for span in outer.taps.windows)
    if taps.weights * math.prod(after[2:]) > spent or (padded and inner.numbers()[1].any()):
        return None
    # Positions of the second are positions of the first one's output: strides multiply.
    strides = tuple(first * second for first, second in zip(inner.strides, outer.strides, strict=True))
    numbers = _product(inner, outer, taps)
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    if not all(holds(dtype, array) for array in numbers):
        return None
    return replace(inner, strides=strides, taps=taps), numbers


def _composed(inner: Branch, outer: Branch) -> Taps:
    """The taps of both in a row: those of the one that is not pointwise."""
    windows = []
    for first, second, stride in zip(inner.taps.windows, outer.taps.windows, inner.strides, strict=True):
        windows.append(first if outer.taps.is_pointwise else replace(second, step=second.step * stride))
    groups = math.gcd(inner.taps.groups, outer.taps.groups)
    return Taps(tuple(windows), groups, inner.taps.channels_in, outer.taps.channels_out)


def _product(inner: Branch, outer: Branch, taps: Taps) -> tuple[Float64, Float64]:
    """Weight and bias of both in a row, by one matrix product per group: ``B A`` and ``B a + b``."""
    (first, shift), (second, bias) = inner.numbers(), outer.numbers()
    groups = taps.groups
    first = inner.taps.spread(first, replace(inner.taps, groups=groups))
    second = outer.taps.spread(second, replace(outer.taps, groups=groups))
    # left [groups, out, taps of B, middle]; right [groups, middle, in * taps of A], one of which has a single tap.
    left = second.reshape(groups, -1, second.shape[1], math.prod(second.shape[2:])).swapaxes(2, 3)
    right = first.reshape(groups, first.shape[0] // groups, -1)
    product = left.reshape(groups, -1, left.shape[3]) @ right  # [groups, out * taps of B, in * taps of A]
    per_group, inputs = taps.channels_out // groups, first.shape[1]
    ordered = product.reshape(groups, per_group, left.shape[2], inputs, -1).swapaxes(2, 3)
    weight = ordered.reshape(taps.channels_out, inputs, *(span.count for span in taps.windows))
    constant = left.sum(axis=2) @ shift.reshape(groups, -1, 1)
    return weight, bias + constant.reshape(-1)
