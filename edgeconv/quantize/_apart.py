"""Outputs of parts with ranges of their own, such as boxes in pixels beside scores of 0 to 1.

At one scale for both a step of the boxes is wider than all that the scores vary. Nothing computes with what is joined,
so the join stays float, and so does what only moves its result on to the outputs: each part keeps a scale of its own.

Where one layer makes both, as channels of one tensor, it stays float, and what reads its parts has scales of their own.
Two layers in its place would stay integers, too. A head of 85 channels behind two convolutions of 64 and 128 channels
(40x40 and 20x20; ms in all, LiteRT and onnxruntime; dB of boxes and scores):

==================  ============  ============  =============
one scale           0.43 and 0.52 0.34 and 0.39 37.7 and 0.1
the layer in float  0.53 and 0.70 0.40 and 0.45 39.3 and 43.2
two layers          0.48 and 0.58 0.34 and 0.38 38.8 and 39.5
==================  ============  ============  =============

Float costs a fifth of such a stub, and a hundredth or two of a whole detector; two layers would cost the layer's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import constant
from edgeconv.graph.integer_rules import FIXED, MOVING, SHARED
from edgeconv.quantize._calibrate import Calibration
from edgeconv.quantize._channels import Channels, tail_of
from edgeconv.quantize._graph import name_of, named
from edgeconv.quantize._structure import Structure

_MOST_LOST = 20.0  # decibels that a part may lose by the scale of another; a tenth of its steps is left
_LEAST_DB = 20.0  # of a channel's variation over the error of its scale
_LEAST_SHARE = 1 / 20  # of the channels: one of a hundred is a feature that no input shows, and no part
_LEAST_NUMBERS = 32  # of a channel, before what it varies says anything
_LEVELS = 256  # of 8 bits


def joins_of_uneven_parts(model: ir.Model, structure: Structure, calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Operators that stay float so that parts of an output keep their own scales: their names, and why.

    Args:
        model: float32, NCHW.
        structure: of the model.
        calibration: of the model.
    """
    # In graph order, so that a node behind a join in float finds the join's reason and stays float with it.
    reasons: dict[ir.Node, str] = {}
    for node in model.graph:
        if node.op_type not in MOVING or not _ends_in_an_output(node):
            continue
        before = (value.producer() for value in node.inputs if value is not None)
        reason = next((reasons[one] for one in before if one in reasons), None)
        if reason is None and node.op_type == "Concat":
            reason = _uneven(node, calibration)
        if reason is not None:
            reasons[node] = reason
    for node, reason in reasons.items():
        if name_of(node) not in structure.kept_float:
            yield name_of(node), reason


def uneven_channels(model: ir.Model, structure: Structure, calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Operators that stay float so that channels of one tensor keep their own scales: their names, and why.

    Args:
        model: float32, NCHW.
        structure: of the model.
        calibration: of the model.
    """
    # A node that moves integers can only stay float with all of its group; one that makes them, for itself.
    groups: dict[str, list[Channels]] = {}
    makers: dict[str, str] = {}
    for name, channels in calibration.channels.items():
        if name in structure.groups:
            groups.setdefault(structure.groups[name], []).append(channels)
            if (reason := _lost_channels([channels])) is not None:
                makers[name] = reason
    movers = {group: reason for group, seen in groups.items() if (reason := _lost_channels(seen)) is not None}
    movers |= {structure.groups[name]: reason for name, reason in makers.items()}
    tail = tail_of(model.graph)
    for node in model.graph:
        name = name_of(node)
        moves = node in tail and node.op_type in SHARED
        reason = movers.get(structure.groups.get(name, "")) if moves else makers.get(name)
        if reason is not None and name not in structure.kept_float:
            yield name, reason


def _lost_channels(parts: Sequence[Channels]) -> str | None:
    """One line on what the narrowest channels lose by the scale of the widest; None where that is little."""
    parts = [part for part in parts if part.count >= _LEAST_NUMBERS]
    if not parts:
        return None
    # Narrow is a channel that would lose _MOST_LOST by the widest one's scale, varies that much less, too, and whose
    # variation is less than _LEAST_DB above the error of a step (a uniform error has variance step² / 12).
    widths, variances = (np.concatenate([getattr(part, of) for part in parts]) for of in ("widths", "variances"))
    widest = float(widths.max(initial=0.0))
    narrow = (variances > 0) & (widths < widest * 10 ** (-_MOST_LOST / 20))
    narrow &= variances < 10 ** (-_MOST_LOST / 10) * variances.max(initial=0.0)  # not constants of many sizes
    narrow &= variances < 10 ** (_LEAST_DB / 10) * (widest / (_LEVELS - 1)) ** 2 / 12
    if not narrow.any() or narrow.sum() < _LEAST_SHARE * len(widths):
        return None
    return _reason("its channels have", float(widths[narrow].min()), widest)


def _ends_in_an_output(node: ir.Node) -> bool:
    """Whether an output of the graph is the result, moved or as it is."""
    waiting = list(node.outputs)
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return True
        waiting += [result for use in value.uses() if use.node.op_type in MOVING for result in use.node.outputs]
    return False


def _uneven(concat: ir.Node, calibration: Calibration) -> str | None:
    """One line on what a Concat's narrowest part would lose by the scale of its widest; None where that is little."""
    widths = [width for value in _parts(concat) if (width := _width(value, calibration)) > 0]
    if not widths:
        return None
    narrowest, widest = min(widths), max(widths)
    lost = 20 * math.log10(widest / narrowest)
    if lost <= _MOST_LOST:
        return None
    return f"{_reason('it joins', narrowest, widest)}; outputs of their own would be integers"


def _reason(what: str, narrowest: float, widest: float) -> str:
    lost = 20 * math.log10(widest / narrowest)
    return f"{what} ranges of {narrowest:.3g} and {widest:.3g}: at one scale the smaller would lose {lost:.0f} dB"


def _parts(concat: ir.Node) -> Iterator[ir.Value]:
    """The computed values that are joined, before what only moves them."""
    waiting = [value for value in concat.inputs if value is not None]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is not None and node.op_type in MOVING:
            sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            waiting += [source for source in sources if source is not None]
        elif constant(value) is None:
            yield value


def _width(value: ir.Value, calibration: Calibration) -> float:
    """The width of the range of a value's own scale; 0 where only zeros were seen, or nothing at all."""
    producer = value.producer()
    if producer is not None and producer.op_type in FIXED:
        return FIXED[producer.op_type].scale * _LEVELS
    if named(value) not in calibration.histograms:
        return 0.0
    low, high = calibration.range_of(named(value), _LEVELS)
    return high - low
