"""What helps where int8 falls short of its acceptance threshold: layers in float, or activations of 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import onnx_ir as ir

from edgeconv.core.search_target import Target
from edgeconv.quantize._apply import apply
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._search import ORDERED_BY, Meter, first
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
    least_db: float,
    reference: ir.Model,
    of_16_bits: Callable[[], Plan] | None = None,
) -> str:
    """One sentence on what would reach a threshold, and the command for it; empty where the graph reaches it.

    Args:
        model: the float graph that the plan was made for.
        plan: of int8.
        quantized: the graph with the plan in it, its weights rounded.
        batches: calibration data; the first few tell the layers apart.
        judged: data that the threshold is about; some of them are looked at, one by one.
        least_db: the threshold, decibels.
        reference: the float graph that the threshold is about.
        of_16_bits: makes the plan of int16x8; None where no file can hold that.
    """
    count = sum(1 for _ in judged())
    if not count:
        return ""
    stride = max(1, count // _MOST_JUDGED)
    meter = Meter(reference, lambda: islice(judged(), 0, None, stride), Target(sqnr_db=max(least_db, 1e-3)))
    reached = meter.measure(quantized).sqnr_db
    if reached >= least_db:
        return ""
    # Without a layer's share of the squared error the ratio rises by -10·log10(1 - share) decibels.
    gains = [
        (item.layer, -10 * math.log10(max(1.0 - item.share, 1e-10)))
        for item in sensitivity(model, plan, first(batches, ORDERED_BY))[:_NAMED]
    ]
    layers = ", ".join(f"{layer} {gain:.1f} dB" for layer, gain in gains if gain >= _LEAST_GAIN_DB)
    words = [f"{reached:.1f} dB on {-(-count // stride)} of the parity inputs, and {least_db:g} are asked for"]
    if layers:
        words.append(f"in float these layers would give back: {layers}")
    words.append("`edgeconv export … --variant int8-mixed` keeps as few layers in float as it takes")
    if of_16_bits is not None:
        of_16 = meter.measure(apply(model, of_16_bits())).sqnr_db
        words.append(f"`--variant int16x8` (.tflite) has {of_16:.1f} dB")
    return "; ".join(words)
