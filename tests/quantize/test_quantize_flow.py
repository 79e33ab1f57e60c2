"""From calibration to QDQ nodes: what the quantized graph computes, and what stands in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from quantize_graphs import Graph, data, mobile, outputs, sqnr_db

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.errors import QuantizeError
from edgeconv.quantize import (
    OBSERVERS,
    Plan,
    adaround,
    apply,
    calibrate,
    correct_biases,
    equalize,
    keep_in_float,
    make_plan,
    round_weights,
    sensitivity,
)
from edgeconv.reference import evaluate


def _planned(model: ir.Model, scheme: str = "int8", **options: object):
    """With the finest scales: what pairs of weights cost is told apart in `test_quantize_pairs`."""
    chosen = QuantizationOptions(**{"pair_safe": False, **options})
    return make_plan(model, calibrate(model, data(model, 8)), scheme=scheme, options=chosen)


def _by_output(model: ir.Model) -> dict[str, ir.Node]:
    return {value.name or "": node for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("act", ["Clip", "Relu", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "Tanh"])
def test_int8_is_close_and_int16_closer(act: str) -> None:
    model = mobile(act=act)
    unseen = data(model, 6, seed=1)
    wanted = outputs(evaluate, model, unseen)
    found = {}
    for scheme in ("int8", "int16x8"):
        found[scheme] = sqnr_db(wanted, outputs(evaluate, apply(model, _planned(model, scheme=scheme)), unseen))
    assert found["int8"] > 22
    assert found["int16x8"] > found["int8"]


@pytest.mark.parametrize("act", ["Clip", "LeakyRelu"])
def test_weights_alone_lose_less_and_small_ones_nothing(act: str) -> None:
    model = mobile(act=act, channels=32)
    unseen = data(model, 6, seed=1)
    wanted = outputs(evaluate, model, unseen)
    plan = make_plan(model, None, scheme="int8-weights")
    assert list(plan.weights) == ["0.pw", "1.pw"]
    assert plan.kept_float["stem"] == "its weight has fewer than 1024 elements"
    quantized = apply(model, plan)
    assert not any(node.op_type == "QuantizeLinear" for node in quantized.graph)
    found = sqnr_db(wanted, outputs(evaluate, quantized, unseen))
    assert sqnr_db(wanted, outputs(evaluate, apply(model, _planned(model)), unseen)) + 6 < found < 60


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_every_observer_gives_a_usable_plan(observer: str) -> None:
    model = mobile()
    plan = make_plan(model, calibrate(model, data(model, 8), options=QuantizationOptions(observer=observer)))
    unseen = data(model, 4, seed=1)
    assert sqnr_db(outputs(evaluate, model, unseen), outputs(evaluate, apply(model, plan), unseen)) > 18


def test_a_weight_that_is_not_stored_in_eight_bits_says_why() -> None:
    g = Graph(0, input=(32, 32))
    g.add("Gemm", ["input", g.constant("weight", g.rng.normal(size=(32, 32)).astype(np.float32))], "a", transA=1)
    plan = make_plan(g.model("a"), None, scheme="int8-weights")
    assert plan.weights == {}
    assert plan.kept_float == {"a": "Gemm with alpha, beta, transA or a bias that is no vector"}


def test_onnxruntime_computes_the_plan() -> None:
    model = mobile()
    plan = _planned(model)
    quantized = apply(model, plan)
    session = onnxruntime.InferenceSession(ir.to_proto(quantized).SerializeToString())
    step = plan.tensors["fc"].scale
    for batch in data(model, 4, seed=1):
        (got,) = session.run(["fc"], batch)
        assert np.abs(got - evaluate(quantized, batch)["fc"]).max() <= 3 * step


def test_names_and_operators_of_the_quantized_graph() -> None:
    model = mobile(blocks=1)
    quantized = apply(model, _planned(model))
    made = _by_output(quantized)
    assert [value.name for value in quantized.graph.inputs] == ["input"]
    assert [value.name for value in quantized.graph.outputs] == ["fc"]
    assert made["stem.act"].op_type == "DequantizeLinear"  # the name of the float value
    assert made["fc"].op_type == "DequantizeLinear"
    assert made["input.quantized"].op_type == "QuantizeLinear"
    clip = made["stem.act.float"]
    assert clip.op_type == "Clip"
    assert clip.inputs[0] is made["stem"].outputs[0]  # nothing between a convolution and what fuses into it
    assert made["stem"].op_type == "Conv"
    bias = made["stem.bias"]
    assert bias.inputs[0].dtype == ir.DataType.INT32
    weight = made["0.dw.weight"]
    assert weight.inputs[0].dtype == ir.DataType.INT8
    assert weight.inputs[1].shape == [8]
    assert np.abs(weight.inputs[0].const_value.numpy()).max() == 127
    scale = made["input.quantized"].inputs[1].const_value.numpy() * made["stem.weight"].inputs[1].const_value.numpy()
    np.testing.assert_array_equal(bias.inputs[1].const_value.numpy(), scale)


def test_the_model_that_is_quantized_stays_as_it_is() -> None:
    model = mobile()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    plan = _planned(model)
    apply(model, plan)
    correct_biases(model, plan, data(model, 2))
    round_weights(model, plan, data(model, 2))
    equalize(model)
    sensitivity(model, plan, lambda: data(model, 1))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def _coarse(model: ir.Model) -> Plan:
    """Weights of about three bits, activations of sixteen: rounding of weights is then all that matters."""
    plan = make_plan(model, calibrate(model, data(model, 16)), scheme="int16x8")
    weights = {
        name: dataclasses.replace(item, scales=tuple(32 * scale for scale in item.scales))
        for name, item in plan.weights.items()
    }
    return dataclasses.replace(plan, weights=weights)


def test_a_shifted_mean_is_corrected() -> None:
    model = mobile(seed=3, channels=16)
    plan, unseen = _coarse(model), data(model, 16, seed=1)
    wanted = np.stack(outputs(evaluate, model, unseen))
    shifts = []
    for one in (model, correct_biases(model, plan, data(model, 16))):
        shifts.append(np.abs(np.mean(np.stack(outputs(evaluate, apply(one, plan), unseen)) - wanted, axis=0)).max())
    assert shifts[1] < shifts[0] / 4


def _smooth(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs whose neighbors are alike, as in images: what one tap does wrong, another can make up for."""
    rng = np.random.default_rng(seed)
    return [{"input": np.kron(rng.normal(size=(1, 3, 4, 4)), np.ones((4, 4))).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("tune", [round_weights, adaround])
def test_tuned_weights_lie_on_the_grid_and_lose_less(tune) -> None:
    g = Graph(0, input=(1, 3, 16, 16))
    g.conv("input", "a", (16, 3, 3, 3))
    g.add("Relu", ["a"], "b")
    g.conv("b", "c", (16, 1, 3, 3), group=16)
    g.conv("c", "d", (16, 16, 3, 3))
    model = g.model("d")
    plan, batches, unseen = _coarse(model), _smooth(24, 0), _smooth(6, 1)
    tuned = tune(model, plan, batches)
    for name, item in plan.weights.items():
        weight = tuned.graph.initializers[f"{name}.weight"].const_value.numpy().astype(np.float64)
        steps = weight / np.reshape(item.scales, [-1] + [1] * (weight.ndim - 1))
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    wanted = outputs(evaluate, model, unseen)
    corrected = outputs(evaluate, apply(correct_biases(model, plan, batches), plan), unseen)
    assert sqnr_db(wanted, outputs(evaluate, apply(tuned, plan), unseen)) > sqnr_db(wanted, corrected) + 2


def test_a_layer_kept_in_float_takes_its_share_of_the_error_away() -> None:
    model = mobile(seed=2)
    plan = _planned(model)
    batches, unseen = data(model, 4), data(model, 8, seed=1)
    found = sensitivity(model, plan, lambda: batches)
    assert sum(item.share for item in found) == pytest.approx(1)
    assert found[0].share > max(item.share for item in found[2:])
    mixed = keep_in_float(model, plan, [item.layer for item in found[:2]], "the worst")
    wanted = outputs(evaluate, model, unseen)
    quantized = apply(model, mixed)
    kept = _by_output(quantized)[found[0].layer]
    assert not any(value.producer() and value.producer().op_type == "DequantizeLinear" for value in kept.inputs[1:])
    before = sqnr_db(wanted, outputs(evaluate, apply(model, plan), unseen))
    assert sqnr_db(wanted, outputs(evaluate, quantized, unseen)) > before + 0.3


def test_what_equalization_added_is_no_layer_to_choose_and_follows_the_one_before() -> None:
    g = Graph(3, input=(1, 3, 8, 8))
    x = g.conv("input", "a", (4, 3, 1, 1))
    x = g.add("Mul", [x, g.add("Sigmoid", [x], "gate")], "silu")
    g.add("Relu", [g.conv(x, "b", (4, 4, 1, 1))], "c")
    g.conv("c", "d", (4, 4, 1, 1))
    model = equalize(g.model("d"), {"a": (0, 3, 1, 0)})
    plan = _planned(model)
    layers = {item.layer for item in sensitivity(model, plan, lambda: data(model, 4))}
    assert (layers, plan.weights.keys()) == ({"a.equalized", "b", "d"}, {*layers, "gate.operand"})
    mixed = keep_in_float(model, plan, ["a.equalized"], "the worst")
    in_float = {"a.equalized", "gate.operand", "gate", "silu.equalized"}
    assert (mixed.kept_float.keys(), mixed.weights.keys()) == (in_float, {"b", "d"})
    assert keep_in_float(model, plan, ["b"], "the worst").weights.keys() == {"a.equalized", "gate.operand", "d"}


def test_shared_parameters_and_prescribed_ones() -> None:
    g = Graph(0, input=(1, 4, 8, 8))
    g.conv("input", "a", (4, 4, 1, 1))
    g.add("Sigmoid", ["a"], "gate")
    g.conv("input", "b", (4, 4, 1, 1), gain=5.0)
    g.add("MaxPool", ["b"], "pooled", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
    g.add("Concat", ["gate", "pooled", "a"], "joined", axis=1)
    g.conv("joined", "last", (2, 12, 1, 1))
    g.add("Softmax", ["last"], "soft", axis=1)
    model = g.model("soft")
    plan = _planned(model)
    assert plan.tensors["b"] == plan.tensors["pooled"] == plan.tensors["joined"] == plan.tensors["a"]
    assert (plan.tensors["gate"].scale, plan.tensors["gate"].zero_point) == (1 / 256, -128)
    assert (plan.tensors["soft"].scale, plan.tensors["soft"].zero_point) == (1 / 256, -128)
    quantized = apply(model, plan)
    concat = _by_output(quantized)["joined.float"]
    scales = {float(value.producer().inputs[1].const_value.numpy()) for value in concat.inputs}
    assert scales == {plan.tensors["joined"].scale}  # what the sigmoid gives is requantized on its way


def test_an_operator_without_integer_form_stays_float_and_says_why() -> None:
    g = Graph(0, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1))
    norm = [g.constant(name, np.ones(4, np.float32)) for name in ("scale", "shift")]
    g.add("InstanceNormalization", ["a", *norm], "norm")
    g.conv("norm", "b", (4, 4, 1, 1))
    model = g.model("b")
    plan = _planned(model)
    assert plan.kept_float == {"norm": "InstanceNormalization has no integer form"}
    assert sqnr_db(outputs(evaluate, model, data(model, 3)), outputs(evaluate, apply(model, plan), data(model, 3))) > 25


def test_a_channel_without_weights_and_a_huge_bias() -> None:
    g = Graph(0, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1))
    g.constants["a.weight"][1] = 0
    g.constants["a.weight"][2] = 1e-12
    g.constants["a.bias"][2] = 3.0
    model = g.model("a")
    quantized = apply(model, _planned(model))
    got, wanted = (outputs(evaluate, one, data(model, 3)) for one in (quantized, model))
    assert sqnr_db(wanted, got) > 30


def test_weights_can_have_one_scale_each() -> None:
    model = mobile()
    one, many = (_planned(model, per_channel=several).weights for several in (False, True))
    assert (one["fc"].axis, len(one["fc"].scales), one["stem"].axis) == (None, 1, None)
    assert (many["fc"].axis, len(many["fc"].scales), len(many["stem"].scales)) == (0, 5, 8)
    assert one["stem"].scales[0] == max(many["stem"].scales)


def test_transposed_convolution_in_groups() -> None:
    g = Graph(0, input=(1, 4, 6, 6))
    weight = g.rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[:, 1] *= 50
    g.constant("up.weight", weight)
    g.constant("up.bias", g.rng.normal(size=6).astype(np.float32))
    g.add("ConvTranspose", ["input", "up.weight", "up.bias"], "up", group=2, strides=[2, 2])
    model = g.model("up")
    quantized = apply(model, _planned(model))
    assert sqnr_db(outputs(evaluate, model, data(model, 2)), outputs(evaluate, quantized, data(model, 2))) > 30


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: calibrate(m, []), "no calibration data"),
        (lambda m: calibrate(m, [{"other": np.zeros((1, 3, 16, 16), np.float32)}]), "arrays named input"),
        (lambda m: calibrate(m, [{"input": np.zeros((1, 3, 8, 8), np.float32)}]), r"shape \(1, 3, 8, 8\)"),
        (lambda m: calibrate(m, [{"input": np.full((1, 3, 16, 16), np.nan, np.float32)}]), "NaN or infinite"),
        (lambda m: calibrate(m, data(m, 1), options=QuantizationOptions(observer="minmax")), "did you mean 'min-max'"),
        (lambda m: make_plan(m, None), "needs calibration"),
        (lambda m: make_plan(m, None, scheme="int4"), "'int4' is not known"),
        (
            lambda m: make_plan(m, calibrate(m, data(m, 1)), options=QuantizationOptions(keep_float=("x",))),
            "no operator makes",
        ),
        (lambda m: adaround(m, _planned(m), data(m, 1), iterations=-1), "-1 is negative"),
        (lambda m: correct_biases(m, _planned(m), []), "no calibration data"),
    ],
)
def test_mistakes_are_named(make, says: str) -> None:
    with pytest.raises(QuantizeError, match=says):
        make(mobile())


def test_rounding_with_feedback_takes_back_how_much_clipping_weakens_a_signal() -> None:
    g = Graph(input=(1, 3, 16, 16))
    g.conv(g.conv("input", "first", (8, 3, 3, 3)), "second", (8, 8, 3, 3))
    model = g.model("second")
    plan = _planned(model)
    tight = dataclasses.replace(plan.tensors["first"], scale=plan.tensors["first"].scale * 0.5)
    plan = dataclasses.replace(plan, tensors={**plan.tensors, "first": tight})
    unseen = data(model, 6, seed=1)
    wanted = np.stack(outputs(evaluate, model, unseen))

    def strength(tuned: ir.Model) -> float:
        found = np.stack(outputs(evaluate, apply(tuned, plan), unseen))
        return float(np.sum(found * wanted) / np.sum(wanted * wanted))

    weak, restored = (strength(tune(model, plan, data(model, 8))) for tune in (correct_biases, round_weights))
    assert weak < 0.95
    assert 1 - restored < (1 - weak) / 2
