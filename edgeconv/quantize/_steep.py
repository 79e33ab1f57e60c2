"""What steep functions read stays float: a logarithm, a reciprocal or a power of what 8 bits round to zero.

``log(softmax(x))``, ``log(exp(x).sum())`` and ``1 / sqrt(x² + 1e-4)`` tell numbers apart that one scale for the largest
of them rounds to the same integer, or to zero; ``acosh(1 + |x|)`` is NaN of a one that is rounded down. How much that
costs is measured, on the histogram of the operand. Where it is too much, the function stays float, and so does what
makes its operand: back to a function that spreads small numbers out itself (softmax, sigmoid, exp: integers are fit for
its operand), to a sum of many, or through a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import decibels, dequantized, quantized
from edgeconv.graph.constants import scalar
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._calibrate import Calibration
from edgeconv.quantize._channels import tail_of
from edgeconv.quantize._divisors import GUARDS, NORMS, SUMS
from edgeconv.quantize._graph import is_activation, name_of, named
from edgeconv.quantize._histogram import Histogram
from edgeconv.quantize._plan import TensorParameters
from edgeconv.quantize._structure import Structure, layer_of

_Floats = npt.NDArray[np.float64]
_Function = Callable[[_Floats], _Floats]

LEAST_DB = {"int8": 25.0, "int16": 35.0}
"""Of a function's results, less their mean: 5 above what files are held to."""
_SMALLER_HALF_DB = 15.0  # sizes of boxes: below it the smaller half of the boxes would have no size of its own
_SEGMENTS, _TABLES = 512, {"Exp", "Log"}
"""LiteRT computes these of int16 by straight lines between the entries of a table over all integers."""
_SHARES = (0.5, 0.9, 0.99, 1.0)  # of the numbers, from the largest on
ENDS = frozenset({"Exp", "LogSoftmax", "Sigmoid", "Softmax", "Softplus"})
"""Their results span many orders of magnitude (their logarithms are what counts), so their operands fit integers."""
_CLAMPS = having(Trait.CLAMPS)  # a layer before one is one operator with it
_PASSED = GUARDS | NORMS | having(Trait.MOVES) | _CLAMPS | {"LeakyRelu", "Log", "Neg", "Reciprocal", "Sub"}
_STEEP: dict[str, _Function] = {  # those whose domain ends are not defined of what is rounded across that end
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Atanh": np.arctanh,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
    "ReduceLogSum": np.log,
    "Sqrt": np.sqrt,
}
_UNARY: dict[str, _Function] = {
    **dict.fromkeys(having(Trait.REARRANGES), np.positive),
    "Abs": np.abs,
    "Neg": np.negative,
    "Relu": lambda numbers: np.maximum(numbers, 0.0),
}
_BINARY: dict[str, Callable[[_Floats, float], _Floats]] = {
    "Add": np.add,
    "Clip": np.maximum,
    "Div": np.divide,
    "Max": np.maximum,
    "Mul": np.multiply,
    "Pow": np.power,
    "Sub": np.subtract,
}


def steep_operands(
    graph: ir.Graph, structure: Structure, calibration: Calibration, tensors: Mapping[str, TensorParameters], dtype: str
) -> Iterator[tuple[str, str]]:
    """Operators that stay float because a steep function reads what they make: their names, and why.

    Args:
        graph: float32, NCHW.
        structure: of the graph.
        calibration: of the graph.
        tensors: the parameters that the values would have.
        dtype: of their integers, ``"int8"`` or ``"int16"``.
    """
    reasons: dict[ir.Node, str] = {}
    for node in graph:
        value = input_of(node, _steep_index(node))
        if value is None or node in structure.spelled or not (_is_steep(node) or _divides(node)):
            continue
        tabulates = dtype == "int16" and node.op_type in _TABLES
        losses = [
            _decibels(function, calibration.histograms[name], tensors[name], table=tabulates and operand is value)
            for operand, function in _operands(node)
            if (name := named(operand)) in calibration.histograms and name in tensors
        ]
        if min(losses, default=np.inf) < LEAST_DB[dtype]:
            reasons |= dict.fromkeys((node, *_makers(value)), reason_of(node, dtype))
    for node, reason in reasons.items():
        if name_of(node) not in structure.kept_float:
            yield name_of(node), reason


def reason_of(node: ir.Node, dtype: str) -> str:
    """Why a steep function stays float, and what makes its operand."""
    return f"{node.op_type} tells apart what {8 if dtype == 'int8' else 16} bits would not"


def amplifies(node: ir.Node) -> bool:
    """Whether errors of its operand may be larger in its result.

    Not of an exponential, which integers suffice for; a quotient's divisor is for `edgeconv.quantize._divisors`.

    With quotients of computed numbers as well, 23 of 25 heads and fronts that divide (norms, standardizations, gains,
    averages by masks) and all but one block of the zoo had the same plan. Where it changed, nothing had been lost:
    basic_pitch 34.1 to 35.7 dB, a cosine 36 to 52, a linear attention 35.6 to 38.2, for which its two products of
    matrices would be float.
    """
    return node.op_type not in ENDS and _is_steep(node)


def spread_results(
    graph: ir.Graph, structure: Structure, calibration: Calibration, tensors: Mapping[str, TensorParameters], dtype: str
) -> Iterator[tuple[str, str]]:
    """Exponentials that the graph ends in, and what is behind them, that stay float: their names, and why.

    Sizes of boxes are exp(x) times an anchor: a few are large, and one scale for all of them rounds the others to
    nothing or cuts the large ones off. Behind them is no layer that would be slower in float. The parameters are as of
    `steep_operands`.
    """
    tail, behind = tail_of(graph), set[ir.Node]()
    for node in graph:
        name = name_of(node)
        if node not in tail or layer_of(node) is not None or name in structure.kept_float:
            continue
        is_lost = node.op_type == "Exp" and name in calibration.histograms and name in tensors
        is_lost = is_lost and _smaller_half_decibels(calibration.histograms[name], tensors[name]) < _SMALLER_HALF_DB
        if is_lost or any(value is not None and value.producer() in behind for value in node.inputs):
            behind.add(node)
            yield name, f"what Exp makes is further spread than {8 if dtype == 'int8' else 16} bits hold"


def leads_to_steep(node: ir.Node, index: int) -> bool:
    """Whether a steep function, or a division by it, reads what an operator makes of its operand ``index``."""
    visited: set[ir.Node] = set()
    waiting = [(node, index)]
    while waiting:
        node, index = waiting.pop()
        if (_is_steep(node) or _divides(node)) and index == _steep_index(node):
            return True
        if node in visited or node.op_type not in _PASSED | having(Trait.LAYER):
            continue
        visited.add(node)
        waiting += [(use.node, use.idx) for value in node.outputs for use in value.uses()]
    return False


def _divides(node: ir.Node) -> bool:
    """Whether it divides by computed numbers."""
    return node.op_type == "Div" and node.domain == "" and is_activation(input_of(node, 1))


def _steep_index(node: ir.Node) -> int:
    """The operand that a steep function is of."""
    return 1 if _divides(node) else 0


def _is_steep(node: ir.Node) -> bool:
    """Whether an operator's results for small numbers differ much."""
    if node.op_type != "Pow":
        return node.op_type in _STEEP
    exponent = scalar(input_of(node, 1), 1.0)
    return exponent is not None and exponent < 1


def _operands(node: ir.Node) -> Iterator[tuple[ir.Value, _Function]]:
    """The values that an operator's result is a function of, number by number, and that function: nearest first."""
    outer: list[_Function] = []
    while True:
        value, function = input_of(node, _steep_index(node)), _function(node)
        if value is None or function is None or not is_activation(value):
            return
        outer.append(function)
        functions = tuple(reversed(outer))

        def composed(numbers: _Floats, functions: tuple[_Function, ...] = functions) -> _Floats:
            return reduce(lambda computed, following: following(computed), functions, numbers)

        yield value, composed
        maker = value.producer()
        if maker is None:
            return
        node = maker


def _function(node: ir.Node) -> _Function | None:
    """The function that an operator applies to each number of its first operand; None for other operators."""
    if node.domain != "":
        return None
    if _divides(node):
        return np.reciprocal
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return np.square
    if node.op_type in _STEEP | _UNARY:
        return (_STEEP | _UNARY)[node.op_type]
    number = scalar(input_of(node, 1), np.nan) if node.op_type in _BINARY else None
    if number is None or not np.isfinite(number):
        return None
    function = _BINARY[node.op_type]
    return lambda numbers: function(numbers, number)


def _smaller_half_decibels(seen: Histogram, parameters: TensorParameters) -> float:
    """Signal (about its mean) over error of the smaller half of quantized numbers, by how often each was seen."""
    numbers = seen.centers()
    order = np.argsort(np.abs(numbers), kind="stable")
    cumulated = np.cumsum(seen.counts[order])
    half = order[: 1 + int(np.searchsorted(cumulated, cumulated[-1] / 2))]
    grid = parameters.scale, parameters.zero_point
    rounded = dequantized(quantized(numbers[half], *grid, parameters.dtype), *grid)
    return _ratio_db(numbers[half], rounded, seen.counts[half] / max(1, seen.counts[half].sum()))


def _decibels(function: _Function, seen: Histogram, parameters: TensorParameters, *, table: bool = False) -> float:
    """Signal (about its mean) over error of a function of quantized numbers, by how often each was seen.

    The least of it with and without the numbers next to zero: integers hold zero itself exactly, so a reciprocal of
    many zeros is a large signal without an error, and hides how far the others are off in samples that have none.
    With `table` the function is interpolated as the kernels of int16 do.
    """
    numbers, counts = np.append(seen.centers(), 0.0), np.append(seen.counts, seen.zeros)
    grid = parameters.scale, parameters.zero_point
    represented = dequantized(quantized(numbers, *grid, parameters.dtype), *grid)
    with np.errstate(all="ignore"):
        exact, rounded = function(numbers), function(represented)
    defined = (counts > 0) & np.isfinite(exact)
    if not defined.any():
        return np.inf
    if table:
        # 512 segments of 128 integers each from -32768 to 32768 (kernels/internal/common.h, `LUTPopulate` of int16).
        ends = _SEGMENTS * 64 * parameters.scale
        entries = np.linspace(-ends, ends, _SEGMENTS + 1)
        with np.errstate(all="ignore"):
            results = function(entries)
        # Where the function is not defined, the table holds its lowest result.
        lowest = exact[defined].min()
        rounded = np.interp(represented, entries, np.where(np.isfinite(results), results, lowest))
    exact, rounded, weights = exact[defined], rounded[defined], counts[defined] / counts[defined].sum()
    # A number that the function is defined for is rounded to one that it is not: log(0), acosh(0.99).
    if not np.isfinite(rounded).all():
        return -np.inf
    order = np.argsort(-np.abs(numbers[defined]), kind="stable")
    exact, rounded, weights = exact[order], rounded[order], weights[order]
    return min(_ratio_db(*(array[:end] for array in (exact, rounded, weights))) for end in _ends(weights))


def _ends(weights: _Floats) -> Iterator[int]:
    """How many of the numbers, sorted by the size of their results, make up each of the shares."""
    reached = np.cumsum(weights)
    for share in _SHARES:
        yield max(1, int(np.searchsorted(reached, share * reached[-1], side="right")))


def _ratio_db(exact: _Floats, rounded: _Floats, weights: _Floats) -> float:
    weights = weights / weights.sum()
    error = float((weights * np.square(rounded - exact)).sum())
    signal = float((weights * np.square(exact - (weights * exact).sum())).sum())
    return decibels(signal, error)


def _makers(operand: ir.Value) -> set[ir.Node]:
    """The operators between a steep function and what is fit for integers."""
    makers: set[ir.Node] = set()
    waiting = [(operand, False)]
    while waiting:
        value, summed = waiting.pop()
        node = value.producer()
        # Behind a sum of many numbers errors average out, so what makes its terms may be integers.
        passed = _PASSED - _CLAMPS if summed else _PASSED | having(Trait.LAYER)
        if node is None or node in makers or not is_activation(value) or node.op_type not in passed | ENDS:
            continue
        makers.add(node)
        if node.op_type not in ENDS | having(Trait.LAYER):
            inner = summed or node.op_type in SUMS
            waiting += [(source, inner) for source in node.inputs if source is not None and constant(source) is None]
    return makers
