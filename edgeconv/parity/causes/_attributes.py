"""Attributes and single numbers: conventions of resizes, axes, orders, modes; slopes, epsilons and factors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.causes._fit import fitted
from edgeconv.parity.causes._piece import Evidence, Hypothesis, Layer, Piece

_CONVENTIONS = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
# ONNX's defaults of FLOAT attributes, for nodes that leave them out.
_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "BatchNormalization": {"epsilon": 1e-5},
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "Gemm": {"alpha": 1.0, "beta": 1.0},
    "GroupNormalization": {"epsilon": 1e-5},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "InstanceNormalization": {"epsilon": 1e-5},
    "LRN": {"alpha": 1e-4, "beta": 0.75, "bias": 1.0},
    "LayerNormalization": {"epsilon": 1e-5},
    "LeakyRelu": {"alpha": 0.01},
    "RMSNormalization": {"epsilon": 1e-5},
    "ThresholdedRelu": {"alpha": 1.0},
}
_CALLED = {"epsilon": "eps", "alpha": "slope"}  # torch's words; `alpha` of `_SLOPES` alone
_AXES = ("Softmax", "LogSoftmax", "LayerNormalization", "Concat", "CumSum", "Hardmax", "Gather", "Split")
_SLOPES = ("LeakyRelu", "HardSigmoid")
# What frameworks and papers state for it: one far below the variances, as 1e-12 of BERT, cannot be estimated, either.
_USUAL = {"epsilon": (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
_FACTORS = (0.0, 10.0, 0.1, 100.0, 0.01)  # usual mistakes of an epsilon; too small a change to be estimated


def choices(piece: Piece) -> Iterator[Hypothesis]:
    """Other values of attributes that have only a few."""
    for at, layer in enumerate(piece.layers):
        for words, attributes in _choices_of(layer):
            yield Hypothesis(f"{layer.name} {words}", partial(piece.again, at, attributes=attributes))


def _choices_of(layer: Layer) -> Iterator[tuple[str, dict[str, Any]]]:
    if layer.operator == "Resize":
        yield from _resizes(layer)
    if layer.operator == "Gelu":
        now = layer.attribute("approximate", "none")
        other = "tanh" if now == "none" else "none"
        yield f"has the approximation {other} instead of {now}", {"approximate": other}
    if layer.operator == "DepthToSpace":
        now = layer.attribute("mode", "DCR")
        yield (
            f"takes channels for depth in the order {'CRD' if now == 'DCR' else 'DCR'} instead of {now}",
            {"mode": "CRD" if now == "DCR" else "DCR"},
        )
    if layer.operator == "GRU":
        flag = layer.attribute("linear_before_reset", 0)
        sides = ("behind", "in front of") if flag else ("in front of", "behind")
        words = f"applies its reset gate {sides[1]} the product instead of {sides[0]} it"
        yield words, {"linear_before_reset": 1 - flag}
    if layer.operator == "Transpose":
        stated = layer.attribute("perm", list(range(layer.data.ndim))[::-1])
        # 120 orders of five axes; six would have 720.
        for order in itertools.permutations(range(layer.data.ndim)) if layer.data.ndim <= 5 else ():
            if list(order) != stated:
                yield f"has the permutation {list(order)} instead of {stated}", {"perm": list(order)}
    if layer.operator in _AXES:
        rank = layer.data.ndim
        default = {"Concat": 0, "Gather": 0, "Split": 0, "CumSum": 0}.get(layer.operator, -1)
        own = layer.attribute("axis", default) % max(rank, 1)
        for axis in (axis for axis in range(rank) if axis != own):
            yield f"is along axis {axis} instead of {own}", {"axis": axis}


def _resizes(layer: Layer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Other modes, coordinate conventions and rules for the nearest cell, and their combinations.

    The stated value of each comes first, so that what changes a single one is tried before what changes two.
    """
    now = (
        layer.attribute("mode", "nearest"),
        layer.attribute("coordinate_transformation_mode", "half_pixel"),
        layer.attribute("nearest_mode", "round_prefer_floor"),
    )
    modes = (now[0], *(mode for mode in ("linear", "nearest", "cubic") if mode != now[0]))
    conventions = (now[1], *(item for item in _CONVENTIONS if item != now[1]))
    for mode, convention in itertools.product(modes, conventions):
        nearest = (now[2], *(item for item in _NEAREST if item != now[2])) if mode == "nearest" else (now[2],)
        for rounding in nearest:
            if (mode, convention, rounding) == now:
                continue
            pairs = zip(now, (mode, convention, rounding), strict=True)
            names = ("the mode", "the resize convention", "the rounding")
            changes = [
                f"{name} {other} instead of {own}"
                for name, (own, other) in zip(names, pairs, strict=True)
                if own != other
            ]
            stated = {"mode": mode, "coordinate_transformation_mode": convention, "nearest_mode": rounding}
            yield f"has {' and '.join(changes)}", stated
    # PyTorch and ONNX have -0.75, TensorFlow and Pillow -0.5.
    if now[0] == "cubic":
        other = -0.5 if abs(layer.attribute("cubic_coeff_a", -0.75) + 0.75) < 0.1 else -0.75
        yield f"has the cubic coefficient {other}", {"cubic_coeff_a": other}


def numbers(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Single numbers, read from the result: attributes, constants of one number, a factor of the operand."""
    for at, layer in enumerate(piece.layers):
        for name, number in _numbers_of(layer).items():
            called = f"the {_called(layer, name)} of {layer.name}"
            compute = partial(_with_number, piece, at, name)
            yield from _others(called, number, compute, evidence, usual=_USUAL.get(name, ()))
        for index in layer.constants():
            array = layer.operands[index]
            if array is not None and array.size == 1 and np.isfinite(array).all():
                called = f"the number of {layer.name}"
                yield from _others(
                    called, float(array.reshape(-1)[0]), partial(_with_operand, piece, at, index), evidence
                )


def _others(
    called: str, number: float, compute: Any, evidence: Evidence, usual: Sequence[float] = ()
) -> Iterator[Hypothesis]:
    exact = [*(number * factor for factor in _FACTORS), *(other for other in usual if other != number)]
    # As a file stores them, and as a runtime computes them in double.
    for other in dict.fromkeys((*(float(np.float32(item)) for item in exact), *exact)):
        yield Hypothesis(f"{called} is {other:.6g} instead of {number:.6g}", partial(compute, other))
    for other in fitted(compute, number, evidence.actual):
        yield Hypothesis(f"{called} is {other:.9g} instead of {number:.9g}", partial(compute, other), fitted=1)


def _called(layer: Layer, name: str) -> str:
    return name if name == "alpha" and layer.operator not in _SLOPES else _CALLED.get(name, name)


def _numbers_of(layer: Layer) -> dict[str, float]:
    numbers = dict(_DEFAULTS.get(layer.operator, {}))
    for name, attribute in layer.node.attributes.items():
        if isinstance(attribute.value, float):
            numbers[name] = attribute.value
    return numbers


def _with_number(piece: Piece, at: int, name: str, number: float) -> Array:
    return piece.again(at, attributes={name: float(number)})


def _with_operand(piece: Piece, at: int, index: int, number: float) -> Array:
    array = piece.layers[at].operands[index]
    assert array is not None  # the caller looked
    return piece.again(at, {index: np.full(array.shape, number)})


def factors(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """A factor of an operand, or of the result; a term of the result."""
    for at, layer in enumerate(piece.layers):
        for index in layer.computed_operands:
            for factor in fitted(partial(_scaled, piece, at, index), 1.0, evidence.actual):
                words = f"the operand of {layer.name} is scaled by {factor:.6g}"
                yield Hypothesis(words, partial(_scaled, piece, at, index, factor), fitted=1)
    expected = piece.expected
    for factor in fitted(lambda number: number * expected, 1.0, evidence.actual):
        words = f"the result is scaled by {factor:.6g}"
        yield Hypothesis(words, partial(np.multiply, factor, expected), fitted=1)
    yield from _at_some_places(piece, evidence)
    for term in fitted(lambda number: number + expected, 0.0, evidence.actual):
        yield Hypothesis(f"the result is shifted by {term:.6g}", partial(np.add, term, expected), fitted=1)


def _at_some_places(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """One factor for exactly the elements that differ: some numbers of a constant that the graph does not have.

    The element of the largest magnitude gives the factor, since rounding disturbs it least. It counts as two numbers:
    the factor, and the choice of elements.
    """
    expected, actual = piece.expected, evidence.actual
    if expected.shape != actual.shape:
        return
    tolerance = evidence.tolerance(expected)
    wrong = (np.abs(actual - expected) > tolerance) & (np.abs(expected) > tolerance)
    if not wrong.any() or wrong.all():
        return
    at = np.unravel_index(int(np.argmax(np.abs(np.where(wrong, expected, 0.0)))), expected.shape)
    factor = float(actual[at] / expected[at])
    words = f"the result is scaled by {factor:.6g} at {int(np.count_nonzero(wrong))} of {wrong.size} places"
    yield Hypothesis(words, lambda: np.where(wrong, factor * expected, expected), fitted=2)


def _scaled(piece: Piece, at: int, index: int, factor: float) -> Array:
    array = piece.layers[at].operands[index]
    assert array is not None  # the caller looked
    return piece.again(at, {index: array * factor})
