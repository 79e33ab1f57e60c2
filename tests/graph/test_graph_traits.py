"""Each row of the traits is true: shown by evaluating the operator wherever numbers can show it.

Thought of: results that are bool or integers, several operands, parameters behind the data, several results, negative
zeros, attributes that are not the defaults, casts that wrap, reductions over no axes, operands read for their type,
operators whose domain is a part of the numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from trait_examples import DATA, GENERATOR, KEPT, SEQUENCES, Example, evaluated, examples_of, floats_by, operands_of

from edgeconv.graph.traits import TRAITS, Trait, having, having_any
from edgeconv.reference import OPERATORS

_SIGNS = (Trait.NEVER_NEGATIVE, Trait.KEEPS_SIGN)


def _cases(trait: Trait) -> list[Any]:
    return [
        pytest.param(operator, example, id=f"{operator}-{number}")
        for operator in sorted(having(trait) - SEQUENCES)
        for number, example in enumerate(
            (*examples_of(operator), *([KEPT] if trait in _SIGNS and operator in having(Trait.REDUCES) else []))
        )
    ]


def test_every_operator_of_the_reference_has_a_row() -> None:
    assert set(OPERATORS) <= set(TRAITS), "add a row to edgeconv/graph/traits.py"


def test_every_row_is_an_operator_of_the_specification() -> None:
    assert set(TRAITS) <= {schema.name for schema in onnx.defs.get_all_schemas_with_history()}


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.FUNCTION))
def test_a_function_does_the_same_to_every_element(operator: str, example: Example) -> None:
    order = GENERATOR.permutation(DATA.size)
    (mixed,) = evaluated(operator, example, DATA.reshape(-1)[order])
    (whole,) = evaluated(operator, example, DATA)
    assert whole.shape == DATA.shape
    np.testing.assert_allclose(mixed, whole.reshape(-1)[order], rtol=1e-14)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.FUNCTION))
def test_a_finite_function_has_a_number_for_every_number(operator: str, example: Example) -> None:
    everywhere = Example(example.parameters, example.attributes)
    data = example.data(DATA) if operator in ("BitwiseNot", "Not") else np.append(DATA.reshape(-1), [0.0, -0.0, -1.0])
    (result,) = evaluated(operator, everywhere, data)
    assert np.isfinite(result).all() == (operator in having(Trait.FINITE))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.BROADCASTS))
def test_an_elementwise_operator_broadcasts_its_operands(operator: str, example: Example) -> None:
    data = operands_of(operator, example)
    (whole,) = evaluated(operator, example, *data)
    spread = [np.broadcast_to(array, DATA.shape).reshape(-1) for array in data]
    parameters = [np.broadcast_to(a, DATA.shape).reshape(-1) for a in example.parameters if a is not None]
    flat = Example(tuple(parameters), example.attributes, data=example.data)
    order = GENERATOR.permutation(DATA.size)
    mixed = Example(tuple(array[order] for array in parameters), example.attributes, data=example.data)
    np.testing.assert_allclose(evaluated(operator, flat, *spread)[0], whole.reshape(-1), rtol=1e-14)
    (result,) = evaluated(operator, mixed, *(array[order] for array in spread))
    np.testing.assert_allclose(result, whole.reshape(-1)[order], rtol=1e-14)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.BY_CHANNEL))
def test_a_pool_mixes_no_channels(operator: str, example: Example) -> None:
    order = [2, 0, 3, 1]
    (whole,) = evaluated(operator, example, DATA)
    np.testing.assert_array_equal(evaluated(operator, example, DATA[:, order])[0], whole[:, order])
    other = DATA.copy()
    other[:, 1] += 5
    np.testing.assert_array_equal(evaluated(operator, example, other)[0][:, [0, 2, 3]], whole[:, [0, 2, 3]])


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.MOVES))
def test_what_moves_elements_chooses_them_by_place(operator: str, example: Example) -> None:
    other = -np.exp(DATA)  # another order of sizes: what looks at them would choose others
    numbered = np.arange(float(DATA.size)).reshape(DATA.shape)
    below = replace(example, parameters=floats_by(lambda a: -1 - np.arange(float(a.size)).reshape(a.shape), example))
    places = evaluated(operator, below, numbered)
    known = dict(enumerate(other.reshape(-1)))
    for array in example.parameters:
        if array is not None and array.dtype == np.float64:
            known |= {-1 - at: number for at, number in enumerate(array.reshape(-1))}
    for result, place in zip(evaluated(operator, example, other), places, strict=True):
        np.testing.assert_array_equal(result, np.vectorize(known.__getitem__)(place))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.REARRANGES))
def test_what_rearranges_keeps_every_element_once(operator: str, example: Example) -> None:
    numbered = np.arange(float(DATA.size)).reshape(DATA.shape)
    (result,) = evaluated(operator, example, numbered)
    np.testing.assert_array_equal(np.sort(result, axis=None), np.sort(example.data(numbered), axis=None))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.REARRANGES))
def test_what_keeps_the_order_changes_the_shape_alone(operator: str, example: Example) -> None:
    numbered = np.arange(float(DATA.size)).reshape(DATA.shape)
    (result,) = evaluated(operator, example, numbered)
    is_in_order = np.array_equal(result.reshape(-1), example.data(numbered).reshape(-1))
    assert is_in_order == (operator in having(Trait.KEEPS_ORDER))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.PICKS))
def test_what_picks_makes_no_numbers(operator: str, example: Example) -> None:
    data = operands_of(operator, example)
    assert np.isin(evaluated(operator, example, *data)[0], np.concatenate([a.reshape(-1) for a in data])).all()


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.REDUCES))
def test_a_reduction_leaves_one_number(operator: str, example: Example) -> None:
    (result,) = evaluated(operator, example, DATA)
    assert result.size in (1, 2 * 6, 4 * 6 * 6)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.HOMOGENEOUS))
def test_a_factor_of_a_channel_comes_out_on_it(operator: str, example: Example) -> None:
    factors = np.array([0.01, 1.0, 3.0, 700.0]).reshape(4, 1, 1)
    (whole,) = evaluated(operator, example, DATA)
    np.testing.assert_allclose(evaluated(operator, example, DATA * factors)[0], whole * factors, rtol=1e-12)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.IDENTITY_ABOVE_ZERO))
def test_a_constant_passes_what_is_the_identity_above_zero(operator: str, example: Example) -> None:
    positive = np.abs(DATA)
    (whole,) = evaluated(operator, example, positive)
    np.testing.assert_allclose(evaluated(operator, example, positive + 2)[0], whole + 2, rtol=1e-12)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.RECTIFIES))
def test_what_rectifies_neither_falls_nor_rises_faster_than_its_operand(operator: str, example: Example) -> None:
    if operator in ("Elu", "LeakyRelu") and not 0 <= example.attributes.get("alpha", 1.0) <= 1:
        return
    example = replace(example, parameters=floats_by(lambda slope: np.clip(slope, 0, 1), example))
    (whole,) = evaluated(operator, example, DATA)
    for shift in (0.1, 1.0, 5.0):
        change = whole - evaluated(operator, example, DATA - shift)[0]
        assert change.min() > -1e-12
        assert change.max() < shift + 1e-12


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.NEVER_NEGATIVE))
def test_no_result_is_negative(operator: str, example: Example) -> None:
    for result in evaluated(operator, example, *operands_of(operator, example)):
        assert (result >= 0).all()


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.KEEPS_SIGN))
def test_no_result_of_operands_that_are_not_negative_is(operator: str, example: Example) -> None:
    positive = example if operator == "PRelu" else replace(example, parameters=floats_by(np.abs, example))
    for result in evaluated(operator, positive, *operands_of(operator, example, positive=True)):
        assert (result >= 0).all()


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.COMPARES))
def test_a_comparison_is_true_or_false(operator: str, example: Example) -> None:
    assert evaluated(operator, example, *operands_of(operator, example))[0].dtype == np.bool_


def test_windows_are_what_the_specification_gives_a_kernel_shape() -> None:
    written = {schema.name for schema in onnx.defs.get_all_schemas() if "kernel_shape" in schema.attributes}
    assert having(Trait.WINDOWS) == written - {"MaxUnpool", "MaxRoiPool", "DeformConv"}


def test_queries_are_of_all_traits_or_of_any() -> None:
    assert having(Trait.WINDOWS | Trait.LAYER) == {"Conv", "ConvTranspose"}
    assert having_any([Trait.LAYER, Trait.RANDOM]) >= {"Gemm", "Bernoulli"}
