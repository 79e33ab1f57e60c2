"""Each row of the traits is true: shown by evaluating the operator wherever numbers can show it.

Thought of: results that are bool or integers, several operands, parameters behind the data, several results, negative
zeros, attributes that are not the defaults, casts that wrap, reductions over no axes, operands read for their type,
operators whose domain is a part of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeconv.core import Array
from edgeconv.graph.traits import TRAITS, Trait, having, having_any
from edgeconv.reference import OPERATORS, evaluate_node

_OPSET = 24
_GENERATOR = np.random.default_rng(7)
_DATA = _GENERATOR.normal(size=(2, 4, 6, 6)) * 3
_SEQUENCES = {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SplitToSequence"}


@dataclass(frozen=True)
class _Example:
    """One use of an operator: what stands behind the data, and attributes.

    Attributes:
        parameters: the operands behind the data.
        attributes: of the node.
        results: how many.
        data: what a value of the data's distribution becomes before it is read.
    """

    parameters: tuple[Array | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    results: int = 1
    data: Callable[[Array], Array] = np.asarray


def _ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def _bytes(x: Array) -> Array:
    """Large unsigned integers, which a cast to int8 makes negative."""
    return (np.abs(np.round(x)) + 127).astype(np.uint8)


_UNIT = _Example(data=lambda x: np.tanh(x) * 0.99)
_ABOVE_ONE = _Example(data=lambda x: 1 + np.abs(x))
_WHOLE = _Example(data=lambda x: np.round(x).astype(np.int64))
_TRUTH = _Example(data=lambda x: x > 0)
_KEPT = _Example(attributes={"noop_with_empty_axes": 1})
_SIGNS = (Trait.NEVER_NEGATIVE, Trait.KEEPS_SIGN)
_POOL = {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 0, 0, 1]}
_AXES = (_ints(1, 3),)

_EXAMPLES: dict[str, tuple[_Example, ...]] = {
    "Acos": (_UNIT,), "Asin": (_UNIT,), "Atanh": (_UNIT,), "Acosh": (_ABOVE_ONE,),
    "Log": (_Example(data=np.abs),), "Sqrt": (_Example(data=np.abs),),
    "BitwiseNot": (_WHOLE,), "Not": (_TRUTH,),
    "Cast": (_Example(attributes={"to": 7}), _Example(attributes={"to": 1}),
             _Example(attributes={"to": 3}, data=_bytes)),
    "CastLike": (_Example((np.zeros(1, np.float32),)), _Example((np.zeros((2, 1), np.int8),), data=_bytes)),
    "Clip": (_Example((np.array(-1.0), np.array(2.0))), _Example(), _Example((None, np.array(1.0)))),
    "Elu": (_Example(), _Example(attributes={"alpha": 0.3})),
    "Celu": (_Example(), _Example(attributes={"alpha": 2.0})),
    "LeakyRelu": (_Example(), _Example(attributes={"alpha": -0.5})),
    "HardSigmoid": (_Example(), _Example(attributes={"alpha": -0.3, "beta": 0.1})),
    "Gelu": (_Example(), _Example(attributes={"approximate": "tanh"})),
    "Swish": (_Example(), _Example(attributes={"alpha": -1.5})),
    "Shrink": (_Example(), _Example(attributes={"lambd": 0.2, "bias": 0.7})),
    "ThresholdedRelu": (_Example(), _Example(attributes={"alpha": -2.0})),
    "AveragePool": (_Example(attributes=_POOL), _Example(attributes={**_POOL, "count_include_pad": 1})),
    "LpPool": (_Example(attributes=_POOL), _Example(attributes={**_POOL, "p": 1})),
    "MaxPool": (_Example(attributes=_POOL), _Example(attributes={**_POOL, "dilations": [2, 1]})),
    "GlobalLpPool": (_Example(), _Example(attributes={"p": 3})),
    "PRelu": (_Example((np.linspace(-1, 2, 4).reshape(4, 1, 1),)),),
    "Pow": (_Example((np.array(3.0),)),),
    "Compress": (_Example((np.array([True, False, True]),), {"axis": 2}), _Example((np.arange(9) % 2 == 0,))),
    "Concat": (_Example((_DATA[:, :2],), {"axis": 1}),),
    "DepthToSpace": (_Example(attributes={"blocksize": 2}), _Example(attributes={"blocksize": 2, "mode": "CRD"})),
    "SpaceToDepth": (_Example(attributes={"blocksize": 3}),),
    "Expand": (_Example((_ints(3, 1, 4, 1, 1),)),),
    "Gather": (_Example((_ints(0, -1, 1),), {"axis": 1}),),
    "GatherElements": (_Example((_GENERATOR.integers(0, 4, (2, 4, 6, 6)),), {"axis": 1}),),
    "GatherND": (_Example((np.array([[1, 2], [0, 3]]),)),),
    "Reshape": (_Example((_ints(4, -1),)),),
    "ReverseSequence": (_Example((_ints(2, 1, 3, 6),), {"batch_axis": 1, "time_axis": 2}),),
    "Slice": (_Example((_ints(3), _ints(0), _ints(1), _ints(-1))),),
    "Split": (_Example((_ints(1, 3),), {"axis": 1}, results=2),),
    "Squeeze": (_Example(data=lambda x: x[:1]),),
    "Unsqueeze": (_Example((_ints(0, 2),)),),
    "Tile": (_Example((_ints(1, 2, 1, 3),)),),
    "Transpose": (_Example(), _Example(attributes={"perm": [2, 0, 3, 1]})),
    "TopK": (_Example((_ints(3),), results=2), _Example((_ints(2),), {"largest": 0, "axis": 1}, results=2)),
    "Trilu": (_Example(), _Example(attributes={"upper": 0})),
    "CumSum": (_Example((np.array(1),)),),
    "MaxUnpool": (_Example((np.arange(288).reshape(2, 4, 6, 6),), {"kernel_shape": [1, 1]}),),
    "LRN": (_Example(attributes={"size": 3}),),
    "ReduceSum": (_Example(_AXES), _Example(attributes={"keepdims": 0})),
}  # fmt: skip
_TWO = {"BitShift": (_Example(attributes={"direction": "LEFT"}, data=lambda x: np.abs(np.round(x)).astype(np.uint8)),)}
_INTEGERS = {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
_BOOLS = {"And", "Or", "Xor"}


def _examples(operator: str) -> tuple[_Example, ...]:
    if operator in having(Trait.REDUCES) and operator not in ("ArgMax", "ArgMin"):
        return _Example(_AXES), _Example(attributes={"keepdims": 0})
    if operator in _INTEGERS:
        return (_WHOLE,)
    return _EXAMPLES.get(operator) or _TWO.get(operator) or ((_TRUTH,) if operator in _BOOLS else (_Example(),))


def _evaluated(operator: str, example: _Example, *data: Array) -> tuple[Array, ...]:
    operands = [*(example.data(array) for array in data), *example.parameters]
    inputs = [None if array is None else ir.Value(name=f"i{at}") for at, array in enumerate(operands)]
    attributes = ir.convenience.convert_attributes(example.attributes)
    node = ir.Node("", operator, inputs, attributes, num_outputs=example.results)
    with np.errstate(all="ignore"):
        return evaluate_node(node, operands, opset=_OPSET)


def _data(operator: str, example: _Example, *, positive: bool = False) -> list[Array]:
    """The data's operands: one, or three that broadcast."""
    arrays = [_DATA]
    if operator in having(Trait.BROADCASTS) and not example.parameters:
        arrays = [_DATA, _GENERATOR.normal(size=(4, 1, 6)) * 2]
        arrays = [_DATA > 0, *arrays] if operator == "Where" else arrays
    return [np.abs(array) if positive and array.dtype != np.bool_ else array for array in arrays]


def _floats_by(function: Callable[[Array], Array], example: _Example) -> tuple[Array | None, ...]:
    """The parameters, with those that are data too changed."""
    return tuple(
        function(array) if array is not None and array.dtype == np.float64 else array for array in example.parameters
    )


def _cases(trait: Trait) -> list[Any]:
    return [
        pytest.param(operator, example, id=f"{operator}-{number}")
        for operator in sorted(having(trait) - _SEQUENCES)
        for number, example in enumerate(
            (*_examples(operator), *([_KEPT] if trait in _SIGNS and operator in having(Trait.REDUCES) else []))
        )
    ]


def test_every_operator_of_the_reference_has_a_row() -> None:
    assert set(OPERATORS) <= set(TRAITS), "add a row to edgeconv/graph/traits.py"


def test_every_row_is_an_operator_of_the_specification() -> None:
    assert set(TRAITS) <= {schema.name for schema in onnx.defs.get_all_schemas_with_history()}


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.FUNCTION))
def test_a_function_does_the_same_to_every_element(operator: str, example: _Example) -> None:
    order = _GENERATOR.permutation(_DATA.size)
    (mixed,) = _evaluated(operator, example, _DATA.reshape(-1)[order])
    (whole,) = _evaluated(operator, example, _DATA)
    assert whole.shape == _DATA.shape
    np.testing.assert_allclose(mixed, whole.reshape(-1)[order], rtol=1e-14)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.FUNCTION))
def test_a_finite_function_has_a_number_for_every_number(operator: str, example: _Example) -> None:
    everywhere = _Example(example.parameters, example.attributes)
    data = example.data(_DATA) if operator in ("BitwiseNot", "Not") else np.append(_DATA.reshape(-1), [0.0, -0.0, -1.0])
    (result,) = _evaluated(operator, everywhere, data)
    assert np.isfinite(result).all() == (operator in having(Trait.FINITE))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.BROADCASTS))
def test_an_elementwise_operator_broadcasts_its_operands(operator: str, example: _Example) -> None:
    data = _data(operator, example)
    (whole,) = _evaluated(operator, example, *data)
    spread = [np.broadcast_to(array, _DATA.shape).reshape(-1) for array in data]
    parameters = [np.broadcast_to(a, _DATA.shape).reshape(-1) for a in example.parameters if a is not None]
    flat = _Example(tuple(parameters), example.attributes, data=example.data)
    order = _GENERATOR.permutation(_DATA.size)
    mixed = _Example(tuple(array[order] for array in parameters), example.attributes, data=example.data)
    np.testing.assert_allclose(_evaluated(operator, flat, *spread)[0], whole.reshape(-1), rtol=1e-14)
    (result,) = _evaluated(operator, mixed, *(array[order] for array in spread))
    np.testing.assert_allclose(result, whole.reshape(-1)[order], rtol=1e-14)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.BY_CHANNEL))
def test_a_pool_mixes_no_channels(operator: str, example: _Example) -> None:
    order = [2, 0, 3, 1]
    (whole,) = _evaluated(operator, example, _DATA)
    np.testing.assert_array_equal(_evaluated(operator, example, _DATA[:, order])[0], whole[:, order])
    other = _DATA.copy()
    other[:, 1] += 5
    np.testing.assert_array_equal(_evaluated(operator, example, other)[0][:, [0, 2, 3]], whole[:, [0, 2, 3]])


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.MOVES))
def test_what_moves_elements_chooses_them_by_place(operator: str, example: _Example) -> None:
    other = -np.exp(_DATA)  # another order of sizes: what looks at them would choose others
    numbered = np.arange(float(_DATA.size)).reshape(_DATA.shape)
    below = replace(example, parameters=_floats_by(lambda a: -1 - np.arange(float(a.size)).reshape(a.shape), example))
    places = _evaluated(operator, below, numbered)
    known = dict(enumerate(other.reshape(-1)))
    for array in example.parameters:
        if array is not None and array.dtype == np.float64:
            known |= {-1 - at: number for at, number in enumerate(array.reshape(-1))}
    for result, place in zip(_evaluated(operator, example, other), places, strict=True):
        np.testing.assert_array_equal(result, np.vectorize(known.__getitem__)(place))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.REARRANGES))
def test_what_rearranges_keeps_every_element_once(operator: str, example: _Example) -> None:
    numbered = np.arange(float(_DATA.size)).reshape(_DATA.shape)
    (result,) = _evaluated(operator, example, numbered)
    np.testing.assert_array_equal(np.sort(result, axis=None), np.sort(example.data(numbered), axis=None))


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.PICKS))
def test_what_picks_makes_no_numbers(operator: str, example: _Example) -> None:
    data = _data(operator, example)
    assert np.isin(_evaluated(operator, example, *data)[0], np.concatenate([a.reshape(-1) for a in data])).all()


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.REDUCES))
def test_a_reduction_leaves_one_number(operator: str, example: _Example) -> None:
    (result,) = _evaluated(operator, example, _DATA)
    assert result.size in (1, 2 * 6, 4 * 6 * 6)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.HOMOGENEOUS))
def test_a_factor_of_a_channel_comes_out_on_it(operator: str, example: _Example) -> None:
    factors = np.array([0.01, 1.0, 3.0, 700.0]).reshape(4, 1, 1)
    (whole,) = _evaluated(operator, example, _DATA)
    np.testing.assert_allclose(_evaluated(operator, example, _DATA * factors)[0], whole * factors, rtol=1e-12)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.IDENTITY_ABOVE_ZERO))
def test_a_constant_passes_what_is_the_identity_above_zero(operator: str, example: _Example) -> None:
    positive = np.abs(_DATA)
    (whole,) = _evaluated(operator, example, positive)
    np.testing.assert_allclose(_evaluated(operator, example, positive + 2)[0], whole + 2, rtol=1e-12)


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.RECTIFIES))
def test_what_rectifies_neither_falls_nor_rises_faster_than_its_operand(operator: str, example: _Example) -> None:
    if operator in ("Elu", "LeakyRelu") and not 0 <= example.attributes.get("alpha", 1.0) <= 1:
        return
    example = replace(example, parameters=_floats_by(lambda slope: np.clip(slope, 0, 1), example))
    (whole,) = _evaluated(operator, example, _DATA)
    for shift in (0.1, 1.0, 5.0):
        change = whole - _evaluated(operator, example, _DATA - shift)[0]
        assert change.min() > -1e-12
        assert change.max() < shift + 1e-12


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.NEVER_NEGATIVE))
def test_no_result_is_negative(operator: str, example: _Example) -> None:
    for result in _evaluated(operator, example, *_data(operator, example)):
        assert (result >= 0).all()


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.KEEPS_SIGN))
def test_no_result_of_operands_that_are_not_negative_is(operator: str, example: _Example) -> None:
    positive = example if operator == "PRelu" else replace(example, parameters=_floats_by(np.abs, example))
    for result in _evaluated(operator, positive, *_data(operator, example, positive=True)):
        assert (result >= 0).all()


@pytest.mark.parametrize(("operator", "example"), _cases(Trait.COMPARES))
def test_a_comparison_is_true_or_false(operator: str, example: _Example) -> None:
    assert _evaluated(operator, example, *_data(operator, example))[0].dtype == np.bool_


def test_windows_are_what_the_specification_gives_a_kernel_shape() -> None:
    written = {schema.name for schema in onnx.defs.get_all_schemas() if "kernel_shape" in schema.attributes}
    assert having(Trait.WINDOWS) == written - {"MaxUnpool", "MaxRoiPool", "DeformConv"}


def test_queries_are_of_all_traits_or_of_any() -> None:
    assert having(Trait.WINDOWS | Trait.LAYER) == {"Conv", "ConvTranspose"}
    assert having_any([Trait.LAYER, Trait.RANDOM]) >= {"Gemm", "Bernoulli"}
