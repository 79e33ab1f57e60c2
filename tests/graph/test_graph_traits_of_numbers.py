"""The traits that say how large, how smooth and how far apart results are: true of their rows, and of no other.

Each is asked of all operators that could have it, so that a row that lacks a trait fails as well as one that has it by
mistake. Thought of: magnitudes of 1e-37 to 1e38, zeros, infinite and undefined operands, masks, poles, thousands of
elements, several samples, attributes that are not the defaults, weights that are no numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trait_examples import DATA, GENERATOR, Example, evaluated, examples_of, operands_of

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having, having_any

_SIZES = 10.0 ** GENERATOR.uniform(-37, 38, DATA.shape) * np.sign(DATA)
_AT_POLE = np.where(DATA.max() == DATA, 10.5 * np.pi, DATA)  # of the tangent
_LONG = GENERATOR.uniform(-100, 100, (1, 3000, 2, 2))
_LONG[0, 0, 0, 0] = 10.5 * np.pi
_STRANGE = np.where(np.abs(DATA) < 1, 0.0, np.where(DATA > 2, np.inf, np.where(DATA < -3, np.nan, -DATA)))
_INTEGERS = {"BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "And", "Not", "Or", "Xor"}
_FUNCTIONS = having(Trait.FUNCTION) - _INTEGERS
_BROADCASTING = having(Trait.BROADCASTS) - having(Trait.COMPARES) - _INTEGERS - {"Where"}
_REDUCTIONS = having(Trait.REDUCES) - having(Trait.RANKS)
_POOLS = having(Trait.BY_CHANNEL)


def _result(operator: str, example: Example, data: Array) -> Array:
    """Of this data as the first operand of floats, and others where the operator broadcasts several."""
    first, *others = operands_of(operator, example)
    data_operands = (first, data, *others[1:]) if operator == "Where" else (data, *others)
    return evaluated(operator, example, *data_operands)[0]


def _is_bounded(operator: str, example: Example) -> bool:
    results = [_result(operator, example, data) for data in (_SIZES, np.abs(_SIZES), _AT_POLE)]
    return all(np.abs(result[np.isfinite(result)].astype(np.float64)).max(initial=0) <= 128 for result in results)


def _is_no_larger(operator: str, example: Example) -> bool:
    sizes = [np.abs(array).max() for array in operands_of(operator, example)[1:] if array.dtype != np.bool_]
    sizes += [np.abs(array).max() for array in example.parameters if array is not None and array.dtype == np.float64]
    for factor in (1e-3, 1.0, 1e6):
        result = _result(operator, example, DATA * factor).astype(np.float64)
        if np.nanmax(np.abs(result)) > 2 * max(np.abs(DATA).max() * factor, *sizes, 0) + 16:
            return False
    return True


def _is_beyond_float16(operator: str, example: Example) -> bool:
    shape = (2, 2, 60, 50) if operator in _POOLS else (-1, 5, 5) if operator == "Det" else _LONG.shape
    data = _LONG.reshape(shape)
    if operator in having(Trait.WINDOWS):
        example = Example(
            attributes={**example.attributes, "kernel_shape": [60, 50], "dilations": [1, 1], "pads": [0] * 4}
        )
    results = [evaluated(operator, example, numbers)[0] for numbers in (data, np.abs(data))]
    return any(np.nanmax(np.abs(result.astype(np.float64))) > 65504 for result in results)


def _is_scale_invariant(operator: str, example: Example) -> bool:
    whole = _result(operator, example, DATA * 10)
    if whole.dtype != DATA.dtype:
        return False
    for factor in (7.0, 1e3):
        scaled = _result(operator, example, DATA * 10 * factor)
        if not np.allclose(scaled.astype(np.float64), whole.astype(np.float64), rtol=1e-4, atol=1e-6):
            return False
    return True


def _is_piecewise_constant(operator: str, example: Example) -> bool:
    return np.array_equal(_result(operator, example, DATA), _result(operator, example, DATA + 1e-9))


def _saturates(operator: str, example: Example) -> bool:
    result = _result(operator, replace(example, data=np.asarray), np.append(DATA.reshape(-1), [0, np.inf, -np.inf]))
    return bool(np.isfinite(result.astype(np.float64)).all())


def _is_affine(operator: str, example: Example) -> bool:
    low, high, middle = (_result(operator, example, data) for data in (DATA, 3 * DATA + 1, 2 * DATA + 0.5))
    return np.allclose((low + high) / 2, middle, rtol=1e-9, atol=1e-9)


def _is_signed_sum(operator: str, example: Example) -> bool:
    operands = operands_of(operator, example)
    moved = []
    for index in range(len(operands)):
        shifted = [array + (at == index) for at, array in enumerate(operands)]
        moved.append(evaluated(operator, example, *shifted)[0] - evaluated(operator, example, *operands)[0])
    return all(np.allclose(np.abs(change), 1) and np.ptp(change) < 1e-9 for change in moved)


def _clamps(operator: str, example: Example) -> bool:
    result = _result(operator, example, DATA)
    changes = result.dtype == DATA.dtype and not np.array_equal(result, DATA)
    return changes and np.array_equal(result, np.clip(DATA, result.min(), result.max()))


def _picks_only(mark: float) -> Callable[[str, Example], bool]:
    """Whether it gives out a number that is by far the largest (or smallest), and never one that is the other."""

    def property_holds(operator: str, example: Example) -> bool:
        seen = []
        for number in (mark, -mark):
            data = DATA.copy()
            data[1, 2, 3, 3] = number
            seen.append(bool((_result(operator, example, data) == number).any()))
        return seen == [True, False]

    return property_holds


def _adds_up(operator: str, _: Example) -> bool:
    """Whether a function of the result is the sum of those of the parts of an axis."""
    kept = Example(attributes={"keepdims": 0})
    data = np.abs(DATA) / 16
    whole, first, second = (evaluated(operator, kept, part)[0] for part in (data, data[:1], data[1:]))
    halves = {"ReduceMean": 2.0}.get(operator, 1.0)
    functions: list[Callable[[Any], Any]] = [np.asarray, np.square, np.exp]
    with np.errstate(over="ignore"):
        return any(np.allclose(f(whole), (f(first) + f(second)) / halves, rtol=1e-9, atol=0) for f in functions)


def _averages(operator: str, example: Example) -> bool:
    equal, whole, twice = (_result(operator, example, data) for data in (np.full_like(DATA, 7.0), DATA, 2 * DATA))
    return bool((equal > 0).all() and (equal < 7 + 1e-9).all()) and np.allclose(twice, 2 * whole) and (
        not np.isin(whole, DATA).all()
    )  # fmt: skip


def _is_told_by_shape(operator: str, example: Example) -> bool:
    return np.array_equal(_result(operator, example, DATA), _result(operator, example, _STRANGE), equal_nan=True)


_Property = Callable[[str, Example], bool]
_SHOWN: dict[Trait, tuple[_Property, frozenset[str]]] = {
    Trait.BOUNDED: (
        _is_bounded,
        (_FUNCTIONS | having(Trait.BROADCASTS) | _REDUCTIONS | _POOLS | {"Hardmax", "LogSoftmax", "Softmax"})
        - {"Mod"},  # no further from zero than its divisor
    ),
    Trait.NO_LARGER: (
        _is_no_larger,
        (having_any([Trait.FUNCTION, Trait.MOVES, Trait.PICKS, Trait.BROADCASTS, Trait.NO_LARGER]) | _REDUCTIONS)
        - having(Trait.BOUNDED) - _INTEGERS - {"Sum", "ConcatFromSequence", "SequenceAt", "SequenceConstruct"}
        - {"SplitToSequence"},
    ),
    Trait.BEYOND_FLOAT16: (_is_beyond_float16, _FUNCTIONS | _REDUCTIONS | _POOLS | {"CumProd", "CumSum", "Det", "Pow"}),
    Trait.SCALE_INVARIANT: (
        _is_scale_invariant,
        _FUNCTIONS | _REDUCTIONS | _POOLS | having_any([Trait.RANKS, Trait.SCALE_INVARIANT])
        | (having(Trait.BY_SAMPLE) - {"ConvInteger", "QLinearConv"}) | {"Det", "LogSoftmax", "Softmax"},
    ),
    Trait.PIECEWISE_CONSTANT: (_is_piecewise_constant, _FUNCTIONS),
    Trait.SATURATES: (_saturates, _FUNCTIONS),
    Trait.AFFINE: (_is_affine, _BROADCASTING),
    Trait.SIGNED_SUM: (_is_signed_sum, _BROADCASTING - {"PRelu", "Pow"}),
    Trait.CLAMPS: (_clamps, _FUNCTIONS),
    Trait.LARGEST: (_picks_only(1e3), having(Trait.PICKS)),
    Trait.SMALLEST: (_picks_only(-1e3), having(Trait.PICKS)),
    Trait.ADDS_UP: (_adds_up, _REDUCTIONS),
    Trait.AVERAGES: (_averages, _REDUCTIONS | _POOLS),
    Trait.SHAPE_ONLY: (
        _is_told_by_shape,
        _FUNCTIONS | _REDUCTIONS | _POOLS | having_any([Trait.RANKS, Trait.SCALE_INVARIANT, Trait.SHAPE_ONLY]),
    ),
}  # fmt: skip
_AT_ONE_EXAMPLE = {Trait.CLAMPS, Trait.BEYOND_FLOAT16}
"""Traits that a use of the operator may have: without bounds a Clip clamps nothing."""


@pytest.mark.parametrize("trait", _SHOWN, ids=lambda trait: trait.name)
def test_the_rows_that_have_a_trait_are_those_of_which_it_is_true(trait: Trait) -> None:
    property_holds, operators = _SHOWN[trait]
    over = any if trait in _AT_ONE_EXAMPLE else all
    true_of = {
        operator
        for operator in operators
        if over(property_holds(operator, example) for example in examples_of(operator))
    }
    assert true_of == having(trait) & operators


def test_the_rows_of_each_trait_are_among_those_that_are_asked() -> None:
    sequences = {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SplitToSequence"}
    pools = having(Trait.ADDS_UP | Trait.BY_CHANNEL)  # what they add up shows in their average
    for trait, (_, operators) in _SHOWN.items():
        beside = sequences | (_INTEGERS if trait is Trait.BOUNDED else set())
        beside |= pools if trait is Trait.ADDS_UP else set()
        assert having(trait) - beside <= operators


@pytest.mark.parametrize("operator", sorted(having(Trait.BY_SAMPLE)))
def test_no_sample_depends_on_another(operator: str) -> None:
    for example in examples_of(operator):
        whole = evaluated(operator, example, DATA)[0]
        changed = DATA.copy()
        changed[1] = changed[1] * 2 + 1
        np.testing.assert_array_equal(evaluated(operator, example, DATA[::-1])[0], whole[::-1])
        np.testing.assert_array_equal(evaluated(operator, example, changed)[0][0], whole[0])


@pytest.mark.parametrize("operator", sorted(having(Trait.WEIGHTED)))
def test_a_weight_that_is_no_number_leaves_none(operator: str) -> None:
    for example in examples_of(operator):
        for index, weight in enumerate(example.parameters):
            wrong = np.array(weight)
            wrong[(0,) * wrong.ndim] = np.nan
            parameters = (*example.parameters[:index], wrong, *example.parameters[index + 1 :])
            assert np.isnan(evaluated(operator, replace(example, parameters=parameters), DATA)[0]).any()


@pytest.mark.parametrize("operator", sorted(having(Trait.RANKS)))
def test_places_of_what_is_ranked_lead_to_the_largest_or_smallest(operator: str) -> None:
    example = (
        Example((np.array([2]),), {"axis": 1}, results=2) if operator == "TopK" else Example(attributes={"axis": 1})
    )
    places = evaluated(operator, example, DATA)[-1]
    ordered = np.sort(DATA, axis=1)
    wanted = ordered[:, :1] if operator == "ArgMin" else ordered[:, : -1 - places.shape[1] : -1]
    assert places.dtype == np.int64
    np.testing.assert_array_equal(np.take_along_axis(DATA, places, axis=1), wanted)


@pytest.mark.parametrize("operator", sorted(having(Trait.SCALED)))
def test_the_second_operand_is_a_scale_and_the_third_a_zero_point(operator: str) -> None:
    (example,) = examples_of(operator)
    scale, zero_point = example.parameters
    wider, moved = (replace(example, parameters=pair) for pair in ((2 * scale, zero_point), (scale, zero_point + 1)))
    data = DATA * 2
    (whole,) = evaluated(operator, example, data)
    if operator == "QuantizeLinear":
        np.testing.assert_array_equal(evaluated(operator, wider, data * 2)[0], whole)
        inside = np.abs(whole.astype(int)) < 127
        np.testing.assert_array_equal(evaluated(operator, moved, data)[0][inside], whole[inside] + 1)
    else:
        np.testing.assert_allclose(evaluated(operator, wider, data)[0], 2 * whole)
        np.testing.assert_allclose(evaluated(operator, moved, data)[0], whole - scale, rtol=1e-5)
