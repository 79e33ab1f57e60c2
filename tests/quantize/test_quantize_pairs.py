"""Weights that survive kernels which add two products in 16 bits, saturating.

Members thought of: Conv of kernels 1x1, 3x3 and 1-d, of odd taps and odd channels, dilated, grouped with one channel in
and several out and the other way round, depthwise (which adds no pairs); Gemm of both orders; MatMul; one scale for a
whole weight; all four roundings; weights of one sign; a plan that was made before, or by hand.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantize_graphs import Graph, data

from edgeconv.core import Array
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.emit.onnx import to_onnx
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent
from edgeconv.quantize import Plan, apply, calibrate, make_plan, overflowing
from edgeconv.quantize._columns import taps
from edgeconv.quantize._pairs import LARGEST_SUM, nearest_safe, partners, safe_growth, unsafe_pairs, within_pairs
from edgeconv.quantize._structure import layer_of
from edgeconv.reference import evaluate

ROUNDINGS = ("nearest", "corrected", "feedback", "learned")
_NEIGHBORS = np.array([1, 0, 3, 2, -1])
_EVERY_PAIR = np.stack(np.meshgrid(np.arange(-127, 128), np.arange(-127, 128)), axis=-1).reshape(-1, 2)
_EVERY_SAFE_PAIR = _EVERY_PAIR[(_EVERY_PAIR.prod(axis=1) <= 0) | (np.abs(_EVERY_PAIR.sum(axis=1)) <= 128)]


def _conv(shape: tuple[int, ...], **attributes: object) -> ir.Model:
    """A convolution of strong weights, most of one sign."""
    g = Graph(1, x=(1, shape[1] * int(attributes.get("group", 1)), *[9] * (len(shape) - 2)))  # type: ignore[call-overload]
    name = g.conv("x", "conv", shape, **attributes)
    g.constants["conv.weight"] = np.abs(g.constants["conv.weight"]) - np.float32(0.02)
    return g.model(g.add("Relu", [name], "y"))


def _product(op: str, inputs: int, channels: int, rows: int = 4, **attributes: object) -> ir.Model:
    g = Graph(2, x=(rows, inputs))
    weight = np.abs(g.rng.normal(size=(inputs, channels))).astype(np.float32)
    weight = np.ascontiguousarray(weight.T if attributes.get("transB") else weight)
    return g.model(g.add(op, ["x", g.constant("w", weight)], "y", **attributes))


FORMS = {
    "1x1": lambda: _conv((8, 8, 1, 1)),
    "3x3": lambda: _conv((16, 4, 3, 3)),
    "3x3, odd channels": lambda: _conv((5, 3, 3, 3)),
    "3x3, padded and dilated": lambda: _conv((16, 8, 3, 3), pads=[1, 1, 1, 1], dilations=[2, 2]),
    "1-d": lambda: _conv((6, 5, 3)),
    "several in and out per group": lambda: _conv((8, 3, 3, 3), group=2),
    "one in and several out per group": lambda: _conv((8, 1, 3, 3), group=4),
    "Gemm": lambda: _product("Gemm", 33, 16),
    "Gemm, transposed": lambda: _product("Gemm", 18, 7, transB=1),
    "MatMul": lambda: _product("MatMul", 31, 12),
    "MatMul of one row": lambda: _product("MatMul", 64, 40, rows=1),
}


def _variant(model: ir.Model, *, formats: tuple[str, ...] = ("onnx", "tflite"), **asked: object) -> Variant:
    quantization = Quantization(batches=lambda: data(model, 4), iterations=20, **asked)  # type: ignore[arg-type]
    (made,) = variants_of(model, ("int8",), quantization, Silent(), formats=formats)
    return made


def _extreme(model: ir.Model) -> dict[str, Array]:
    """Inputs that quantize to the largest integer everywhere."""
    (value,) = model.graph.inputs
    assert value.shape is not None
    return {value.name or "": np.full(tuple(value.shape.numpy()), 100.0, np.float32)}


@given(hnp.arrays(np.float64, (3, 5), elements=st.floats(-200, 200, width=32)))
def test_no_pair_overflows_and_every_weight_fits_int8(steps: Array) -> None:
    integers = nearest_safe(steps, _NEIGHBORS)
    assert unsafe_pairs(integers, _NEIGHBORS) == 0
    assert np.abs(integers).max() <= 127
    np.testing.assert_array_equal(integers, np.rint(integers))
    np.testing.assert_array_equal(integers[:, 4], np.clip(np.rint(steps[:, 4]), -127, 127))


@given(hnp.arrays(np.float64, (2,), elements=st.floats(-127, 127, width=32)))
def test_the_nearest_of_all_pairs_that_fit_is_taken(steps: Array) -> None:
    least = np.square(steps - _EVERY_SAFE_PAIR).sum(axis=1).min()
    found = nearest_safe(steps[None], np.array([1, 0]))[0]
    assert np.square(steps - found).sum() == pytest.approx(least, abs=1e-9)


@given(hnp.arrays(np.float64, (3, 5), elements=st.floats(-127, 127, width=32)))
def test_real_weights_within_pairs_round_towards_zero_to_integers_that_fit(steps: Array) -> None:
    assert unsafe_pairs(np.trunc(within_pairs(steps, _NEIGHBORS)), _NEIGHBORS) == 0


def test_a_pair_at_the_bound_is_within_16_bits_and_one_beyond_is_not() -> None:
    assert 255 * LARGEST_SUM <= 32767 < 255 * (LARGEST_SUM + 1)
    assert unsafe_pairs(np.array([[64, 64, -100, -28, 127]]), _NEIGHBORS) == 0
    assert unsafe_pairs(np.array([[64, 65, -100, -29, 127]]), _NEIGHBORS) == 2
    assert unsafe_pairs(np.array([[127, -127, -127, 127, 127]]), _NEIGHBORS) == 0


@pytest.mark.parametrize(
    ("form", "pairs"),
    [
        # (input channel, row, column) by number; a kernel's positions come first, then the channels of each
        ((1, 2, 1, 2), [(0, 2), (1, 3)]),
        ((1, 3, 1, 2), [(0, 2), (4, 1), (3, 5)]),
        ((1, 1, 3, 1), [(0, 1)]),
    ],
)
def test_the_pairs_of_a_convolution_follow_the_kernel_first(
    form: tuple[int, ...], pairs: list[tuple[int, int]]
) -> None:
    (layer,) = (layer for node in _conv((2, *form[1:])).graph if (layer := layer_of(node)) is not None)
    partner = partners(layer)
    assert partner is not None
    assert {frozenset(pair) for pair in pairs} == {frozenset((at, int(to))) for at, to in enumerate(partner) if to >= 0}


def test_a_depthwise_convolution_adds_no_pairs() -> None:
    (layer,) = (layer for node in _conv((6, 1, 3, 3), group=6).graph if (layer := layer_of(node)) is not None)
    assert partners(layer) is None


def test_a_transposed_convolution_has_no_integer_kernel() -> None:
    g = Graph(0, input=(1, 4, 5, 5))
    weight = g.constant("w", g.rng.normal(size=(4, 6, 2, 2)).astype(np.float32))
    model = g.model(g.add("ConvTranspose", ["input", weight], "y"))
    (layer,) = (layer for node in model.graph if (layer := layer_of(node)) is not None)
    assert partners(layer) is None


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_rounding_leaves_no_pair_that_overflows(form: str, rounding: str) -> None:
    made = _variant(FORMS[form](), rounding=rounding)
    assert made.plan is not None
    assert made.plan.pair_safe
    assert overflowing(made.model) == ()
    assert not any("saturate" in note for note in made.notes)


@pytest.mark.parametrize("form", FORMS)
def test_weights_as_they_come_have_such_pairs_and_the_notes_name_the_layer(form: str) -> None:
    made = _variant(FORMS[form](), pair_safe=False, equalize=False)
    assert made.plan is not None
    assert not made.plan.pair_safe
    (layer,) = made.plan.weights
    (note,) = (note for note in made.notes if "saturate" in note)
    assert f"saturate in {layer}: export with Quantization(pair_safe=True)" in note


def test_one_scale_for_a_whole_weight_grows_for_its_worst_pair() -> None:
    model = FORMS["3x3"]()
    made = _variant(model, per_channel=False, rounding="nearest")
    assert overflowing(made.model) == ()
    assert made.plan is not None
    assert [len(one.scales) for one in made.plan.weights.values()] == [1]


@pytest.mark.parametrize("form", FORMS)
def test_the_kernels_of_this_processor_compute_what_the_integers_say(form: str) -> None:
    """Integers of 255 everywhere, the largest sums that there are, and noise."""
    model = FORMS[form]()
    made = _variant(model)
    session = onnxruntime.InferenceSession(to_onnx(made.model, metadata={}).data)
    for inputs in (_extreme(model), *data(model, 3, seed=5)):
        exact = evaluate(made.model, inputs, keep=["y"])["y"]
        (output,) = session.run(["y"], inputs)
        assert made.plan is not None
        assert np.abs(output - exact).max() <= 1.01 * made.plan.tensors["y"].scale


@pytest.mark.parametrize("form", FORMS)
def test_sums_in_16_bits_change_nothing(form: str) -> None:
    """The instruction itself, over every activation that reaches a pair."""
    made = _variant(FORMS[form](), rounding="nearest")
    (node,) = (node for node in made.model.graph if node.op_type in ("Conv", "Gemm", "MatMul"))
    source = next(node for node in FORMS[form]().graph if node.op_type in ("Conv", "Gemm", "MatMul"))
    layer = layer_of(source)
    assert layer is not None
    integers = node.inputs[1].producer().inputs[0].const_value.numpy()  # type: ignore[union-attr]
    rows = taps(layer, integers.astype(np.float64)).astype(np.int64)
    partner = partners(layer)
    assert partner is not None
    first = np.flatnonzero(partner > np.arange(len(partner)))
    for one, other in itertools.product((0, 255), repeat=2):
        sums = one * rows[..., first] + other * rows[..., partner[first]]
        np.testing.assert_array_equal(sums, np.clip(sums, -32768, 32767))


def test_files_without_an_onnx_one_keep_the_finer_scales() -> None:
    model = FORMS["3x3"]()
    both, alone = _variant(model), _variant(model, formats=("tflite",))
    assert alone.plan is not None
    assert both.plan is not None
    assert not alone.plan.pair_safe
    (fine,), (coarse,) = (list(variant.plan.weights.values()) for variant in (alone, both))
    assert np.all(np.array(fine.scales) <= np.array(coarse.scales))
    assert not any("saturate" in note for note in alone.notes)


def test_scales_grow_no_further_than_the_largest_pair_needs() -> None:
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(32, 4))
    scales = np.abs(channels).max(axis=1) / 127
    partner = np.array([1, 0, 3, 2])
    growth = safe_growth(channels, scales, partner)
    same = [
        np.where(channels[:, a] * channels[:, b] > 0, abs(channels[:, a] + channels[:, b]), 0)
        for a, b in ((0, 1), (2, 3))
    ]
    needed = np.maximum(1.0, np.max(same, axis=0) / (128 * scales))
    assert np.all((growth >= 1.0) & (growth <= needed + 1e-12))
    assert np.all(growth[needed == 1.0] == 1.0)
    assert np.any(growth > 1.0)


def test_a_plan_says_so_and_is_read_back() -> None:
    model = FORMS["1x1"]()
    plan = make_plan(model, calibrate(model, data(model, 2)))
    assert plan.pair_safe
    assert Plan.from_json(plan.to_json()) == plan
    older = {key: value for key, value in json.loads(plan.to_json()).items() if key != "pair_safe"}
    assert not Plan.from_json(json.dumps(older)).pair_safe
    assert overflowing(apply(model, Plan.from_json(plan.to_json()))) == ()


def test_a_plan_by_hand_with_finer_scales_is_kept_pair_safe_by_its_weights() -> None:
    model = FORMS["1x1"]()
    fine = make_plan(model, calibrate(model, data(model, 2)), options=QuantizationOptions(pair_safe=False))
    assert overflowing(apply(model, fine)) == ("conv",)
    document = json.loads(fine.to_json()) | {"pair_safe": True}
    assert overflowing(apply(model, Plan.from_json(json.dumps(document)))) == ()


def test_the_file_of_another_quantizer_keeps_its_numbers_and_the_notes_say_what_saturates() -> None:
    model = FORMS["3x3"]()
    foreign = apply(
        model, make_plan(model, calibrate(model, data(model, 2)), options=QuantizationOptions(pair_safe=False))
    )
    (made,) = variants_of(foreign, ("int8",), Quantization(), Silent())
    assert made.model is foreign
    (note,) = made.notes
    assert "saturate in conv: quantize the float model" in note
