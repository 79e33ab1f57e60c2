"""What helps where int8 falls short of its acceptance threshold: layers in float, or activations of 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import accumulate, islice, pairwise

import onnx_ir as ir

from edgeconv.core.search_target import Measured, Target
from edgeconv.quantize._apply import apply
from edgeconv.quantize._meter import Meter
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._search import ORDERED_BY, first
from edgeconv.quantize._sensitivity import Batches, sensitivity

_NAMED = 4  # layers in a note
_LEAST_GAIN_DB = 0.1  # less is no advice
_MOST_JUDGED = 16  # inputs, evenly taken: the devices judge all


def advice(
    model: ir.Model,
    plan: Plan,
    quantized: ir.Model,
    *,
    batches: Batches,
    judged: Batches,
    target: Target,
    reference: ir.Model,
    of_16_bits: Callable[[], Plan] | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """One sentence on what would reach a threshold, and the command for it; empty where the graph reaches it.

    Args:
        model: the float graph that the plan was made for.
        plan: of int8.
        quantized: the graph with the plan in it, its weights rounded.
        batches: calibration data; the first few tell the layers apart.
        judged: data that the threshold is about; some of them are looked at, one by one.
        target: the thresholds; an SQNR, and what else they ask for.
        reference: the float graph that the threshold is about.
        of_16_bits: makes the plan of int16x8; None where no file can hold that.
        progress: is told how far it is, in one line.
    """
    count = sum(1 for _ in judged())
    if not count:
        return ""
    stride = max(1, count // _MOST_JUDGED)
    meter = Meter(reference, lambda: islice(judged(), 0, None, stride), target)
    measured = meter.measure(quantized)
    if target.holds(measured):
        return ""
    order = sensitivity(model, plan, first(batches, ORDERED_BY), progress=progress)[:_NAMED]
    # With a part of the noise power gone the ratio rises by -10·log10 of what is left.
    left = [max(1.0 - gone, 1e-10) for gone in accumulate((item.share for item in order), initial=0.0)]
    gains = [
        (item.layer, 10 * math.log10(before / after))
        for item, (before, after) in zip(order, pairwise(left), strict=True)
    ]
    layers = ", ".join(f"{layer} {gain:.1f} dB" for layer, gain in gains if gain >= _LEAST_GAIN_DB)
    words = list(_missed(target, measured, -(-count // stride)))
    if layers:
        words.append(f"in float, each with those before it, these layers would give back: {layers}")
    words.append("`edgeconv export … --variant int8-mixed` keeps as few layers in float as it takes")
    if of_16_bits is not None:
        of_16 = meter.measure(apply(model, of_16_bits())).sqnr_db
        words.append(f"`--variant int16x8` (.tflite) has {of_16:.1f} dB")
    return "; ".join(words)


def _missed(target: Target, measured: Measured, count: int) -> Iterator[str]:
    """What misses a threshold, the SQNR in any case."""
    if measured.sqnr_db < math.inf and target.sqnr_db is not None:
        yield f"{measured.sqnr_db:.1f} dB on {count} of the parity inputs, and {target.sqnr_db:g} are asked for"
    if target.lost_parts is not None and measured.lost_parts > target.lost_parts:
        yield f"{measured.lost_parts} parts or channels of an output say nothing there"
    equal = measured.index_agreement
    if equal is not None and target.index_agreement is not None and equal < target.index_agreement:
        yield f"{equal:.1%} of an output's indices agree there, and {target.index_agreement:.1%} are asked for"
