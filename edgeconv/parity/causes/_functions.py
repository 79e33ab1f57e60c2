"""Activations: left out, added, applied twice, other limits, another function of each element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having, having_any
from edgeconv.parity.bounds._functions import erf, sigmoid
from edgeconv.parity.causes._piece import HELD, Evidence, Hypothesis, Layer, Piece
from edgeconv.reference import evaluate_node

Function = Callable[[Array], Array]
_CLAMPS = having(Trait.CLAMPS)
# Operators that the exporters of frameworks compose activations of.
_IN_STEPS = (
    "Add",
    "Mul",
    "Div",
    "Sub",
    "Pow",
    "Erf",
    "Tanh",
    "Sigmoid",
    "HardSigmoid",
    "Softplus",
    "Exp",
    "Clip",
    "Relu",
)
_MOST_LEFT_OUT = 3  # layers behind each other
_INFINITY = math.inf
_LIMITS = ((0.0, _INFINITY), (0.0, 6.0), (-1.0, 1.0), (0.0, 1.0), (-_INFINITY, 6.0), (-_INFINITY, _INFINITY))
# Of one operand, whose attributes have defaults.
FUNCTIONS_OF_ONE = frozenset(
    ("Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Erf", "Softsign", "Celu", "Floor", "Ceil")
) | {"Round", "Sign"}
_UNARY = having_any([Trait.FUNCTION, Trait.CLAMPS]) | {"LeakyRelu", "Gelu", "HardSwish", "Mish", "Erf", "Pow"}


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _erf_tanh(x: Array) -> Array:
    """Of x / sqrt(2): what makes the exact GELU the other one."""
    return np.asarray(np.tanh(2 / math.sqrt(math.pi) * (x + 0.044715 * 2 * x**3)))


def _hard_sigmoid(x: Array, slope: float) -> Array:
    return np.asarray(np.clip(slope * x + 0.5, 0, 1))


# As files hold them: a runtime's number is one of float32.
_SIXTH = float(np.float32(1 / 6))
_FIFTH = float(np.float32(0.2))
# ONNX's defaults (Klambauer et al. 2017, Self-Normalizing Neural Networks).
_SELU, _SELU_ALPHA = (float(np.float32(number)) for number in (1.05070102214813232421875, 1.67326319217681884765625))
FUNCTIONS: dict[str, Function] = {
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "HardSigmoid (slope 1/6)": lambda x: _hard_sigmoid(x, _SIXTH),
    "HardSigmoid (slope 0.2)": lambda x: _hard_sigmoid(x, _FIFTH),
    "HardSwish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Swish": lambda x: x * sigmoid(x),
    "Gelu": _gelu,
    "the tanh approximation of Gelu": _gelu_tanh,
    "Elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "LeakyRelu (slope 0.01)": lambda x: np.where(x > 0, x, float(np.float32(0.01)) * x),
    "Abs": np.abs,
    "its square": np.square,
    "the reciprocal of its square root": lambda x: 1 / np.sqrt(x),
    "Relu": lambda x: np.maximum(x, 0),
    "Selu": lambda x: _SELU * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
}


def functions(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Layers left out or applied twice, other clamps, other functions."""
    for at, layer in enumerate(piece.layers):
        yield from _left_out(piece, at, layer)
        clamps = _clamped(piece, at, layer, evidence)
        yield from (item for item in clamps if layer.operator in _CLAMPS or not item.fitted)
        if layer.operator in _UNARY and layer.data.shape == layer.result.shape:
            for name, function in FUNCTIONS.items():
                words = f"{layer.name} is computed as {name}"
                yield Hypothesis(words, partial(_replaced, piece, at, function, layer.data))
            for operator in sorted(FUNCTIONS_OF_ONE - {layer.operator, *FUNCTIONS}):
                yield Hypothesis(
                    f"{layer.name} is computed as {operator}", partial(_of_one_operand, piece, at, operator)
                )
        if layer.operator == "Erf":
            words = f"{layer.name} is computed by the tanh approximation of Gelu"
            yield Hypothesis(words, partial(_replaced, piece, at, _erf_tanh, layer.data))
    yield from _of_several_layers(piece)
    yield from _several_left_out(piece)


def saturations(piece: Piece, evidence: Evidence) -> Iterator[Hypothesis]:
    """Limits that a result reaches, of layers that have none: integers of another scale saturate at some, too."""
    for at, layer in enumerate(piece.layers):
        if layer.operator not in _CLAMPS:
            yield from (item for item in _clamped(piece, at, layer, evidence) if item.fitted)


def _of_one_operand(piece: Piece, at: int, operator: str) -> Array:
    layer = piece.layers[at]
    return piece.after(at, evaluate_node(ir.node(operator, [ir.Value()]), [layer.data], opset=layer.opset))


def _several_left_out(piece: Piece) -> Iterator[Hypothesis]:
    """Layers behind each other that are one operator in a file (a sum and its activation), left out together."""
    layers = piece.layers
    for first, last in itertools.combinations(range(len(layers)), 2):
        if last - first > _MOST_LEFT_OUT:
            continue
        for index in layers[first].computed_operands:
            operand, value = layers[first].operands[index], layers[first].node.inputs[index]
            if operand is not None and value is not None and operand.shape == layers[last].result.shape:
                read = (value.name or f"operand {index}").removesuffix(HELD)
                words = f"{layers[last].place} is left out from {layers[first].name} on, and {read} read in its place"
                yield Hypothesis(words, partial(piece.after, last, (operand,)))


def _of_several_layers(piece: Piece) -> Iterator[Hypothesis]:
    """An activation that several layers compute in steps: replaced by another one, or left out as a whole."""
    last = len(piece.layers) - 1
    place = piece.layers[last].place
    starts = [at for at, layer in enumerate(piece.layers[:last]) if layer.data.shape == piece.layers[last].result.shape]
    for at in starts:
        data = piece.layers[at].data
        if data.dtype.kind == "f":
            yield Hypothesis(f"{place} is left out", partial(piece.after, last, (data,)))
        if data.dtype.kind == "f" and all(layer.operator in _IN_STEPS for layer in piece.layers[at:]):
            for name, function in FUNCTIONS.items():
                words = f"{place} is computed as {name}"
                yield Hypothesis(words, partial(_replaced, piece, last, function, data))


def _replaced(piece: Piece, at: int, function: Function, data: Array) -> Array:
    # Of booleans functions have no values in numpy.
    return piece.after(at, (np.asarray(function(data.astype(np.float64)), np.float64),))


def _left_out(piece: Piece, at: int, layer: Layer) -> Iterator[Hypothesis]:
    for index in layer.computed_operands:
        operand = layer.operands[index]
        if operand is not None and operand.shape == layer.result.shape:
            rest = f": its result is operand {index}" if len(layer.computed_operands) > 1 else ""
            yield Hypothesis(f"{layer.name} is left out{rest}", partial(piece.after, at, (operand,)))
    repeatable = layer.operands[1:] or layer.operator in _UNARY
    if layer.data.shape == layer.result.shape and repeatable and layer.operator not in _CLAMPS:
        words = f"{layer.name} is applied twice"
        yield Hypothesis(words, lambda: piece.again(at, {0: layer.result}))
    if layer.operator == "BatchNormalization":
        for places, what in (((3,), "the mean"), ((2,), "the shift"), ((2, 3), "the bias, both mean and shift,")):
            changed = {index: np.zeros_like(array) for index in places if (array := layer.operands[index]) is not None}
            words = f"{what} of {layer.name} is left out"
            yield Hypothesis(words, lambda changed=changed: piece.again(at, changed))  # type: ignore[misc]


def _clamped(piece: Piece, at: int, layer: Layer, evidence: Evidence) -> Iterator[Hypothesis]:
    """Other limits of a clamp; of other layers, a clamp that should not be there."""
    if layer.result.dtype.kind != "f" or not layer.results:
        return
    clamps = layer.operator in _CLAMPS
    data = layer.data if clamps else layer.result
    own = _limits_of(layer) if clamps else (-_INFINITY, _INFINITY)
    finite = np.asarray(evidence.actual[np.isfinite(evidence.actual)], np.float64)  # of integers, too: ArgMax
    # Limits that the actual result reaches may be the runtime's; each that is read there is a free number.
    seen = (float(finite.min(initial=_INFINITY)), float(finite.max(initial=-_INFINITY)))
    read = [(own[0], seen[1]), (seen[0], own[1]), seen] if at == len(piece.layers) - 1 and finite.size else []
    open_ended = [(own[0], _INFINITY), (-_INFINITY, own[1])]
    for low, high in dict.fromkeys((*_LIMITS, *open_ended, *read)):
        if (low, high) == own or low > high:
            continue
        count = sum(limit in seen and limit not in (0.0, 1.0, 6.0, -1.0) for limit in {low, high} - set(own))
        stated = "is left out" if (low, high) == _LIMITS[-1] else f"holds {_range(low, high)} instead of {_range(*own)}"
        words = f"the clamp of {layer.name} {stated}" if clamps else f"{layer.name} is clamped to {_range(low, high)}"
        yield Hypothesis(words, partial(_clip, piece, at, data, (low, high)), fitted=count)


def clamped_operands(piece: Piece) -> Iterator[Hypothesis]:
    """A clamp of a layer's operand that the graph does not have."""
    for at, layer in enumerate(piece.layers):
        places = [] if layer.operator in _CLAMPS else layer.computed_operands
        for index, limits in itertools.product(places, _LIMITS[:-1]):
            array = layer.operands[index]
            if array is not None and not np.array_equal(clamped := np.clip(array, *limits), array):
                value = layer.node.inputs[index]
                operand = (value.name if value is not None else None) or f"operand {index}"
                words = f"{operand.removesuffix(HELD)} is clamped to {_range(*limits)} in front of {layer.name}"
                yield Hypothesis(words, partial(piece.again, at, {index: clamped}))


def _range(low: float, high: float) -> str:
    return f"[{low:.6g}, {high:.6g}]"


def _clip(piece: Piece, at: int, data: Array, limits: tuple[float, float]) -> Array:
    return piece.after(at, (np.clip(data, *limits), *piece.layers[at].results[1:]))


def _limits_of(layer: Layer) -> tuple[float, float]:
    if layer.operator == "Relu":
        return 0.0, _INFINITY
    low, high = (layer.operands[at] if len(layer.operands) > at else None for at in (1, 2))
    return (
        layer.attribute("min", -_INFINITY) if low is None else float(low),
        layer.attribute("max", _INFINITY) if high is None else float(high),
    )
