"""Link 3 of a file that another converter wrote: its outputs, read back, against those of the module.

Names and layers differ, so that the ends of the comparison are the outputs. The module's constants were rounded once
to float32, whether before or after a normalization was folded into them: each is off by a relative 2^-24 at most,
and independently of the others. What that makes of an output is measured, and not bounded from layer to layer, which
for a deep network would bound nothing: the graph is evaluated with all constants changed by that much, with random
signs, each number by itself and each constant as a whole. The root mean square of what 16 such changes make of an
element is its standard deviation s, but for sqrt(3), as a rounding is uniform; for a sum of independent roundings to
exceed 8 s has a probability of 2 exp(-32) (Hoeffding; Higham and Mary 2019 argue likewise). Where an output has
positions, s is at least that of its channel. One more rounding of the output itself is allowed: constants that the file
alone has (a sixth, in a hard swish) are rounded, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import decibels
from edgeconv.core.threads import one_thread
from edgeconv.core.values import counted
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.parity.writing._ends import HALF_UNIT, UNDERFLOW, errors, magnitude
from edgeconv.parity.writing._held import Graph
from edgeconv.reference import evaluate

_PATTERNS = 16  # of signs, that the constants are moved by
_DEVIATIONS = 8.0  # standard deviations that are allowed, see above
_NEAR = 1e-6  # relative to a constant's largest number: it was folded in float32, and not in float64
DECIDING = frozenset({"Resize", "Upsample", "Range", "Clip"})
"""Operators whose constants are sizes and limits, and exact."""


def rounding_bound(model: ir.Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """By output, how far rounding each constant once to float32 may move each element: float64.

    Args:
        model: the captured graph, before any rewrite.
        inputs: of one sample, by name, in torch's layout.

    Raises:
        RewriteError: it cannot be evaluated.
    """
    names = [value.name or "" for value in model.graph.outputs]
    constants = {
        name: array
        for name, array in Graph(model).constants.items()
        if not any(use.node.op_type in DECIDING for use in model.graph.initializers[name].uses())
    }
    generator = np.random.default_rng(0)
    with one_thread():
        exact = evaluate(model, inputs, keep=names)
        squares = {name: np.zeros(array.shape) for name, array in exact.items()}
        for _ in range(_PATTERNS):
            changed = {name: _changed(array, generator) for name, array in constants.items()}
            moved = evaluate(model, {**inputs, **changed}, keep=names)
            for name in names:
                if moved[name].shape == exact[name].shape:
                    squares[name] += np.square(errors(moved[name], exact[name]))
    return {name: _allowed(squares[name] / _PATTERNS, exact[name]) for name in names}


def outputs_link(
    expected: Mapping[str, Array], computed: Mapping[str, Array], bounds: Mapping[str, Array], remark: str
) -> LinkResult:
    """Judges the outputs of one sample.

    Args:
        expected: of the module, by name, float64.
        computed: of the file, read back, likewise.
        bounds: of `rounding_bound`.
        remark: what else to know of the file.
    """
    worst, shown = -1.0, ("", 0.0, 0.0)
    signal = noise = 0.0
    for name, due in expected.items():
        actual = computed[name]
        if actual.shape != due.shape:
            reason = f"the output {name} has the shape {list(actual.shape)}, and the module's is {list(due.shape)}"
            return LinkResult(Link.WRITING, Verdict.FAIL, where=name, reason=reason)
        distance = errors(actual, due)
        shares = np.where(distance == 0, 0.0, distance / np.maximum(bounds[name], UNDERFLOW))
        at = np.unravel_index(int(np.argmax(shares)), shares.shape)
        if shares[at] > worst:
            worst, shown = float(shares[at]), (name, float(distance[at]), float(bounds[name][at]))
        finite = np.isfinite(distance) & np.isfinite(due)
        signal += float(np.sum(np.square(due[finite], dtype=np.float64)))
        noise += float(np.sum(np.square(distance[finite], dtype=np.float64)))
    where, error, bound = shown
    fault = (
        f"the output {where} is {error:.3g} from the module's, {worst:.3g} times what rounding its constants explains"
    )
    return LinkResult(
        Link.WRITING,
        Verdict.PASS if worst <= 1 else Verdict.FAIL,
        error=error,
        bound=bound,
        used=worst,
        sqnr_db=decibels(signal, noise),
        where=where,
        reason="; ".join(filter(None, [fault if not worst <= 1 else "", remark])),
    )


def with_faults(link: LinkResult, faults: Sequence[tuple[str, str]]) -> LinkResult:
    """The link of a file of integers, failed where something in it is wrong.

    Args:
        link: of its outputs.
        faults: tensor and one line, the first of which is reported first.
    """
    if not faults:
        return link
    told = [text for _, text in faults[:3]] + [link.reason] * bool(link.reason)
    return replace(link, verdict=Verdict.FAIL, where=faults[0][0], reason="; ".join(told))


def told_constants(captured: ir.Model, rewritten: ir.Model, constants: Mapping[str, Array]) -> str:
    """One line on whose numbers a file's constants are: a finding, since converters fold in other ways.

    Args:
        captured: the module's graph.
        rewritten: the same, with normalizations folded in float64.
        constants: of the file, by name.
    """
    ours: dict[int, list[Array]] = {}
    for model in (rewritten, captured):
        for array in Graph(model).real_constants.values():
            ours.setdefault(array.size, []).append(np.sort(array, axis=None).astype(np.float64))
    same = near = 0
    for array in constants.values():
        numbers = np.sort(array, axis=None).astype(np.float64)
        apart = min((_apart(numbers, other) for other in ours.get(array.size, [])), default=np.inf)
        same += apart == 0
        near += 0 < apart <= _NEAR
    if not constants:
        return ""
    told = [f"{same} of its {counted(len(constants), 'constant')} have the module's numbers"]
    others = len(constants) - same - near
    told += [f"{near} are within {_NEAR:.0e} of them"] * (near > 0) + [
        f"{others} {'has' if others == 1 else 'have'} others"
    ] * (others > 0)
    return ", ".join(told)


def _apart(numbers: Array, others: Array) -> float:
    """The largest difference of two sorted constants, relative to their largest number."""
    return float(np.max(errors(numbers, others), initial=0.0)) / (magnitude(others) or 1.0)


def _changed(array: Array, generator: np.random.Generator) -> Array:
    """A constant, each number moved by half a unit up or down, and the whole of it by another."""
    # 2·{0, 1} + 2·{0, 1} - 2: -2, 0 or 2 half units.
    signs = 2 * generator.integers(0, 2, array.shape, np.int8) + 2 * generator.integers(0, 2, dtype=np.int8) - 2
    return np.asarray(array.astype(np.float64) * (1 + HALF_UNIT * signs))


def _allowed(variance: Array, exact: Array) -> Array:
    """The bound of each element of an output, by the variance that was measured; integers may not be off."""
    if exact.dtype.kind != "f":
        return np.zeros(exact.shape)
    square = np.square(np.where(np.isfinite(exact), exact, 0.0))
    if exact.ndim > 2:  # it has positions: an element that happens to be near zero gets its channel's deviation
        axes = (0, *range(2, exact.ndim))
        variance = np.maximum(variance, variance.mean(axes, keepdims=True))
        square = np.maximum(square, square.mean(axes, keepdims=True))
    return np.asarray(_DEVIATIONS * np.sqrt(variance) + HALF_UNIT * np.sqrt(square))
