"""What a rounding of weights did to the float graph before each number became the nearest integer.

``nearest`` changes nothing, ``corrected`` biases alone, by what it states. Whether that is the mean error of the layer
is for the data to say, all of them: it is not asked here. The others multiply the weights of a layer by one gain from 1
to 1.25, and bring them onto the grid of their scales:

- ``feedback`` (GPTQ: Frantar et al., ICLR 2023) rounds tap by tap, and each error is made up for by the taps to come.
  With U the upper Cholesky factor of the inverse of H, the inputs' second moments plus 0.01 of their mean m on the
  diagonal, the residual of a channel is δ = e·U, where tap t was rounded by at most half a step s: |e_t| ≤ s/(2·U_tt),
  and 1/U_tt² ≤ H_tt. So δ·H·δᵀ = Σ e_t² ≤ s²/4 · Σ H_tt = s²/4 · n · 1.01·m, and since no eigenvalue of H is below
  0.01·m, δ·δᵀ/n ≤ s²/4 · 101: the root mean square of a channel's residuals is 5.02 steps at most, whatever the data.
- ``learned`` (AdaRound: Nagel et al., ICML 2020) takes the multiple below or above, less than a step away, or that
  of feedback, where that leaves a channel less error.

Of a weight beyond the largest integer, what was cut off is added to the half step. A layer with a pair near its limit
may have lost any number of steps there, for which other taps make up: it is held to nothing but its grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.core import Array
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.integer_rules import LAYERS
from edgeconv.parity.quantizing import _pairs
from edgeconv.parity.quantizing._alongside import Alongside, Operand, first_name
from edgeconv.parity.quantizing._integers import is_weight, output_axis
from edgeconv.parity.quantizing._origin import Numbers, Origin, WeightNumbers
from edgeconv.parity.quantizing._place import Place, furthest

_MOST_GAIN = 1.25
_NEAR = 2.0**-12  # steps: float32 holds a weight of 127 steps, and a gain times that, to 2**-16
_SPREAD = 101.0  # (1 + 0.01) / 0.01: how much unlike the inputs of two taps may count
_HIGHEST = 127


def rounding_faults(origin: Origin) -> Iterator[Place]:
    """Faults of the rounded graph beside the prepared one, in the graph's order."""
    for operand in Alongside(origin.prepared, origin.rounded).operands():
        if isinstance(operand, Place):
            yield operand
        elif _is_bias(operand) and operand.name in origin.corrections:
            yield from _corrected(operand, origin.corrections[operand.name], origin.numbers)
        elif operand.is_added or operand.is_changed:
            yield from _changed(operand, origin.rounding, origin.numbers)
    if origin.rounding != "nearest":
        yield from _left_out(origin)


def _is_bias(operand: Operand) -> bool:
    return operand.before is not None and operand.before.op_type in LAYERS and operand.index == 2


def _changed(operand: Operand, rounding: str, numbers: Numbers) -> Iterator[Place]:
    """A constant that a rounding has changed, but for a bias that it states to have moved."""
    name = operand.name
    if rounding in ("nearest", "corrected") or not is_weight(operand) or name not in numbers.weights:
        yield Place(name, f"operand {operand.index} of {name} was changed, which {rounding} rounding does not state")
    else:
        yield from _weight(operand, numbers.weights[name], pair_safe=numbers.pair_safe)


def _corrected(operand: Operand, shift: Array, numbers: Numbers) -> Iterator[Place]:
    """A bias is what it was and what was added, rounded once; of a layer that stays float it is what it was."""
    before, stored = None if operand.is_added else constant(operand.value), constant(operand.base)
    assert stored is not None
    if operand.name in numbers.kept_float and not operand.is_added and not operand.is_changed:
        return
    due = np.zeros(stored.size) if before is None else before.astype(np.float64).reshape(-1)
    if due.size != stored.size or shift.size != stored.size:
        yield Place(operand.name, f"the bias of {operand.name} has another number of elements than its correction")
        return
    due = (due + shift.reshape(-1)).astype(stored.dtype)
    wrong = due != stored.reshape(-1)
    if wrong.any():
        at = int(np.argmax(wrong))
        what = f"the bias of {operand.name} [{at}] is {stored.reshape(-1)[at]:.6g} where correction makes {due[at]:.6g}"
        yield Place(operand.name, what)


def _left_out(origin: Origin) -> Iterator[Place]:
    """Layers with a correction that was not added to a bias, as they have none."""
    with_bias = {first_name(node) for node in origin.rounded.graph if input_of(node, 2) is not None}
    for name, shift in origin.corrections.items():
        if name not in with_bias and name not in origin.numbers.kept_float and np.any(shift):
            yield Place(name, f"{name} has no bias, and a correction of it")


def _weight(operand: Operand, grid: WeightNumbers, *, pair_safe: bool) -> Iterator[Place]:
    node, real, rounded = operand.before, constant(operand.value), constant(operand.base)
    assert node is not None
    assert real is not None
    if rounded is None or rounded.shape != real.shape:
        yield Place(operand.name, f"the weight of {operand.name} has another shape than before rounding")
        return
    axis = output_axis(node, real.ndim)
    scales = np.array(grid.scales, np.float64)
    scales = scales.reshape([-1 if index == axis else 1 for index in range(real.ndim)]) if scales.size > 1 else scales
    due, steps = (np.moveaxis(array / scales, axis, 0) for array in (real.astype(np.float64), rounded))
    moved = due.shape
    off = furthest(
        operand.name, f"the weight of {operand.name}, rounded,", np.abs(steps - np.rint(steps)), _NEAR, "its grid"
    )
    if off is not None:
        yield off
        return
    due, steps = (array.reshape(len(array), -1) for array in (due, np.rint(steps)))
    rows = [_pairs.in_rows(node, axis, np.moveaxis(array.reshape(moved), 0, axis)) for array in (due, steps)]
    if pair_safe and rows[0] is not None and rows[1] is not None:
        due, steps = rows[0], rows[1]
    yield from _residuals(operand.name, due, steps, pair_safe=pair_safe and rows[0] is not None)


def _residuals(name: str, due: Array, steps: Array, *, pair_safe: bool) -> Iterator[Place]:
    """Is each channel's residual as small as feedback leaves it?"""
    power = float(np.sum(due * due))
    gain = float(np.clip(np.sum(due * steps) / power, 1.0, _MOST_GAIN)) if power else 1.0
    cut = np.where(np.abs(steps) >= _HIGHEST, np.maximum(gain * np.abs(due) - np.abs(steps), 0.0), 0.0)
    residual = np.sqrt(np.mean(np.square(steps - gain * due), axis=1))
    allowed = np.sqrt(_SPREAD * np.mean(np.square(0.5 + cut), axis=1))
    if pair_safe:  # what a pair lost the other taps make up for, by any number of steps
        close = _pairs.at_the_limit(steps) | _pairs.too_large(_MOST_GAIN * due)
        if close.any():
            return
    what = f"of the weight of {name}, channel"
    place = furthest(name, what, residual, allowed + _NEAR, "the float graph's numbers (root mean square)")
    if place is not None:
        yield place
