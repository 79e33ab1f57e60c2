"""Outputs of parts with ranges of their own, such as boxes in pixels beside scores of 0 to 1.

At one scale for both a step of the boxes is wider than all that the scores vary. Where an output, or what takes one
part out again, is reached without a sum over channels (`edgeconv.quantize._parts`), the join stays float, and so does
what comes behind it as long as the parts' ranges differ: each part keeps a scale of its own.

Where one layer makes both, as channels of one tensor, it stays float, and what reads its parts has scales of their own.
Two layers in its place would stay integers, too. A head of 85 channels behind two convolutions of 64 and 128 channels
(40x40 and 20x20; ms in all, LiteRT and onnxruntime; dB of boxes and scores):

==================  ============  ============  =============
one scale           0.43 and 0.52 0.34 and 0.39 37.7 and 0.1
the layer in float  0.53 and 0.70 0.40 and 0.45 39.3 and 43.2
two layers          0.48 and 0.58 0.34 and 0.38 38.8 and 39.5
==================  ============  ============  =============

Float costs a fifth of such a stub, and a hundredth or two of a whole detector; two layers would cost the layer's name.
Ranges that are alike may hide the same: of a logarithm of -3 ± 0.02 beside a mean of 2 ± 1.5 a joint step leaves
4 dB. So channels count by what they vary, wherever they lie (`lost_channels`).

What reads an input of unlike features stays float, too: a temperature beside a pressure (`uneven_inputs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.edit import constant
from edgeconv.graph.integer_rules import FIXED, MOVING, SHARED
from edgeconv.graph.traits import Trait, having_any
from edgeconv.quantize._calibrate import Calibration
from edgeconv.quantize._channels import Channels, readers_of_input, tail_of
from edgeconv.quantize._graph import name_of, named
from edgeconv.quantize._parts import Tail
from edgeconv.quantize._structure import Structure

_MOST_LOST = 20.0  # decibels that a part may lose by the scale of another; a tenth of its steps is left
_LEAST_DB = 20.0  # of a channel's variation over the error of its scale
_LEAST_SHARE = 1 / 20  # of the channels: one of a hundred is a feature that no input shows, and no part
_LEAST_NUMBERS = 32  # of a channel, before what it varies says anything
_LEVELS = 256  # of 8 bits
_ROUNDED = 1e-6  # of a number: what varies less is float32's own rounding
_JOINS, _OR_APART = "it joins", "; outputs of their own would be integers"


def joins_of_uneven_parts(model: ir.Model, structure: Structure, calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Operators that stay float so that parts of an output keep their own scales: their names, and why."""
    # In graph order, so that a node behind a join in float finds the join's reason and stays float with it.
    tail = Tail(model.graph)
    reasons: dict[ir.Node, str] = {}  # of the nodes that stay float
    uneven: dict[ir.Value, str] = {}  # of the values of uneven parts: what reads them stays float, too
    for node in tail.nodes:
        before = next((uneven[value] for value in node.inputs if value in uneven), None)
        for value in node.outputs:
            reason = _uneven_parts(node, value, calibration)
            if reason is None and before is not None and _hides_parts(node, value, tail):
                reason = before
            if reason is not None:
                uneven[value] = reason
        reason = before or next((uneven[value] for value in node.outputs if value in uneven), None)
        if reason is not None:
            reasons[node] = reason
    for node, reason in reasons.items():
        if name_of(node) not in structure.kept_float:
            yield name_of(node), reason


def uneven_channels(model: ir.Model, structure: Structure, calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Operators that stay float so that channels of one tensor keep their own scales: their names, and why."""
    # A node that moves integers can only stay float with all of its group; one that makes them, for itself.
    groups: dict[str, list[Channels]] = {}
    makers: dict[str, str] = {}
    inputs = {named(value) for value in model.graph.inputs}  # these are for `uneven_inputs`
    for name, channels in calibration.channels.items():
        if name in structure.groups and name not in inputs:
            groups.setdefault(structure.groups[name], []).append(channels)
            if (reason := lost_channels([channels])) is not None:
                makers[name] = reason
    movers = {group: reason for group, seen in groups.items() if (reason := lost_channels(seen)) is not None}
    movers |= {structure.groups[name]: reason for name, reason in makers.items()}
    tail = tail_of(model.graph)
    for node in model.graph:
        name = name_of(node)
        moves = node in tail and node.op_type in SHARED
        layer = structure.layers.get(name)  # whose clamp has its numbers
        made = name if layer is None else named(layer.output)
        reason = movers.get(structure.groups.get(name, "")) if moves else makers.get(made)
        if reason is not None and name not in structure.kept_float:
            yield name, reason


def uneven_inputs(model: ir.Model, structure: Structure, calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Operators that stay float so that features of an input keep what they vary: their names, and why.

    Columns of a table, series of sensors and a distance beside colors are of unlike units: at the scale of the widest
    the others are rounded to nothing before the first layer sees them. Where the calibration data show that, of one
    input or of what is joined with it, the operators from there to the first layer, or to a division by constants that
    makes its features alike, compute in float.
    """
    seen = {source: calibration.channels.get(named(source)) for source in model.graph.inputs}
    for source, channels in seen.items():
        reason = lost_channels([channels], f"{named(source)} has features with") if channels is not None else None
        if reason is not None:
            yield from _in_float(readers_of_input(source), structure, reason)
    joins = {node: None for source in seen for node in readers_of_input(source) if node.op_type == "Concat"}
    for join in joins:
        if (reason := _lost_by_a_join(join, calibration)) is not None:
            yield from _in_float([join, *readers_of_input(join.outputs[0])], structure, reason)


def _in_float(nodes: Iterable[ir.Node], structure: Structure, reason: str) -> Iterator[tuple[str, str]]:
    for node in nodes:
        layer = structure.layers.get(name_of(node))
        # With a layer stays what is computed with it: a clamp or the bias behind a product.
        for name in dict.fromkeys([name_of(node), named(layer.output) if layer is not None else name_of(node)]):
            if name not in structure.kept_float:
                yield name, reason


def _lost_by_a_join(concat: ir.Node, calibration: Calibration) -> str | None:
    """One line on what a joint scale takes from an input, or from what is joined with it; None where that is little."""
    parts = [(width, value) for value in _parts(concat) if (width := _width(value, calibration)) > 0]
    if not parts:
        return None
    widest = max(width for width, _ in parts)
    for width, value in sorted(parts, key=lambda part: part[0]):
        seen = calibration.histograms.get(named(value))
        if seen is None or _lost_decibels(width, widest) <= _MOST_LOST:
            continue
        centers, counts = np.append(seen.centers(), 0.0), np.append(seen.counts, seen.zeros)
        mean = np.average(centers, weights=counts)
        variance = float(np.average(np.square(centers - mean), weights=counts))
        if 0 < variance < 10 ** (_LEAST_DB / 10) * _error_of(widest):
            return _reason(_JOINS, width, widest)
    return None


def lost_channels(seen: Sequence[Channels], what: str = "its channels have", sizes: Sequence[int] = ()) -> str | None:
    """One line on what the narrowest channels lose by a scale for all; None where that is little.

    Args:
        seen: what was seen of them, of one value or of several that share a scale.
        what: the beginning of the line.
        sizes: of the parts that one value is joined of: a part that is narrow as a whole counts, however small.
    """
    seen = [channels for channels in seen if channels.count >= _LEAST_NUMBERS]
    if not seen:
        return None
    # Narrow is a channel whose numbers lie within a tenth of what the widest one takes, that varies that much less,
    # too, and whose variation is less than _LEAST_DB above the error of a step (a uniform error has variance
    # step² / 12). Where the numbers lie does not matter: a logarithm of -3 ± 0.02 beside a mean of 2 ± 1.5.
    widths, spans, variances, sizes_squared = (
        np.concatenate([getattr(channels, of) for channels in seen])
        for of in ("widths", "spans", "variances", "mean_squares")
    )
    widest = float(widths.max(initial=0.0))
    narrow = variances > _ROUNDED**2 * sizes_squared
    narrow &= spans < widest * 10 ** (-_MOST_LOST / 20)
    narrow &= variances < 10 ** (-_MOST_LOST / 10) * variances.max(initial=0.0)  # not constants of many sizes
    narrow &= variances < 10 ** (_LEAST_DB / 10) * _error_of(widest)
    ends = np.cumsum(sizes, dtype=int)
    whole_part = any(narrow[end - size : end].all() for end, size in zip(ends, sizes, strict=True))
    if not narrow.any() or not (whole_part or narrow.sum() >= _LEAST_SHARE * len(widths)):
        return None
    least = float(widths[narrow].min())
    if _lost_decibels(least, widest) > _MOST_LOST:
        return _reason(what, least, widest)
    at = np.flatnonzero(narrow)[variances[narrow].argmin()]
    left = 10 * math.log10(variances[at] / _error_of(widest))
    return (
        f"{what} deviations of {math.sqrt(variances[at]):.2g} in a range of {widest:.3g}: "
        f"at one scale {left:.0f} dB of the smallest would be left"
    )


def _error_of(width: float) -> float:
    """The mean square error of rounding to the steps of a range."""
    return (width / (_LEVELS - 1)) ** 2 / 12


def _uneven_parts(node: ir.Node, value: ir.Value, calibration: Calibration) -> str | None:
    """One line on what a value's narrowest part would lose by the scale of the widest; None where that is little."""
    joined = calibration.parts.get(named(value), {})
    if node.op_type == "Concat":
        reason = _uneven(node, calibration)
    else:
        reason = next(filter(None, (_unlike_widths(of_axis.widths) for of_axis in joined.values())), None)
    if reason is not None:
        return reason
    for of_axis in joined.values():
        lost = lost_channels([of_axis.channels], _JOINS, of_axis.sizes) if of_axis.holds_channels else None
        if lost is not None:
            return f"{lost}{_OR_APART}"
    return None


def _unlike_widths(widths: npt.NDArray[np.float64]) -> str | None:
    seen = widths[widths > 0]
    if not seen.size or _lost_decibels(float(seen.min()), float(seen.max())) <= _MOST_LOST:
        return None
    return _reason_of_join(float(seen.min()), float(seen.max()))


def _hides_parts(node: ir.Node, value: ir.Value, tail: Tail) -> bool:
    """Whether elements of parts were moved, or chosen by value, so that nothing says where each part is now."""
    return node.op_type in having_any((Trait.MOVES, Trait.PICKS)) and not tail.divisions[value]


def _uneven(concat: ir.Node, calibration: Calibration) -> str | None:
    """One line on what a Concat's narrowest part would lose by the scale of its widest; None where that is little."""
    widths = [width for value in _parts(concat) if (width := _width(value, calibration)) > 0]
    if not widths:
        return None
    narrowest, widest = min(widths), max(widths)
    if _lost_decibels(narrowest, widest) <= _MOST_LOST:
        return None
    return _reason_of_join(narrowest, widest)


def _reason_of_join(narrowest: float, widest: float) -> str:
    return f"{_reason(_JOINS, narrowest, widest)}{_OR_APART}"


def _reason(what: str, narrowest: float, widest: float) -> str:
    lost = _lost_decibels(narrowest, widest)
    return f"{what} ranges of {narrowest:.3g} and {widest:.3g}: at one scale the smaller would lose {lost:.0f} dB"


def _lost_decibels(narrowest: float, widest: float) -> float:
    return 20 * math.log10(widest / narrowest)


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
