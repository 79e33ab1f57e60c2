"""As many of the worst layers in float as a target needs, and no more."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir
import pytest
from crossed import slow_but
from quantize_graphs import Graph, data, mobile, outputs, sqnr_db

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.core.search_target import Target
from edgeconv.errors import QuantizeError, TargetError
from edgeconv.quantize import (
    Plan,
    Search,
    Step,
    apply,
    calibrate,
    keep_in_float,
    make_plan,
    round_weights,
    search,
)
from edgeconv.reference import evaluate


def _searched(model, target: Target, coarse: tuple[str, ...] = (), **options: object) -> Search:
    """With weights of about three bits in some layers, and then activations of sixteen."""
    batches = data(model, 12)
    scheme = "int16x8" if coarse else "int8"
    plan = make_plan(
        model, calibrate(model, data(model, 100), options=QuantizationOptions(observer="min-max")), scheme=scheme
    )
    scales = {name: tuple(24 * scale for scale in plan.weights[name].scales) for name in coarse}
    weights = {name: dataclasses.replace(plan.weights[name], scales=scales[name]) for name in coarse}
    plan = dataclasses.replace(plan, weights={**plan.weights, **weights})
    return search(
        model,
        plan,
        target,
        batches=lambda: batches,
        judged=lambda: data(model, 12),  # a range that calibration did not see is no layer's doing
        **{"tuned": lambda one: round_weights(model, one, batches), **options},
    )


@pytest.mark.parametrize("act", slow_but(["Clip"], ["Clip", "LeakyRelu"]))
def test_the_worst_layers_stay_float_and_no_more(act: str) -> None:
    model, coarse = mobile(seed=2, act=act, blocks=3), ("fc", "0.dw", "2.pw")
    plain = _searched(model, Target(sqnr_db=1.0), coarse)
    assert plain.best is plain.steps[0]
    assert plain.best.kept == ()
    wanted_db = plain.best.measured.sqnr_db + 0.5
    found = _searched(model, Target(sqnr_db=wanted_db), coarse)
    assert {item.layer for item in found.layers[:3]} == set(coarse)
    assert 0 < len(found.best.kept) < len(found.layers)
    judged = data(model, 12)
    again = apply(round_weights(model, found.best.plan, data(model, 12)), found.best.plan)  # the plan, fed back
    assert sqnr_db(outputs(evaluate, model, judged), outputs(evaluate, again, judged)) >= wanted_db - 0.01
    fewer = [step for step in found.steps if len(step.kept) < len(found.best.kept)]
    assert fewer
    assert all(step.measured.sqnr_db < wanted_db for step in fewer)


@pytest.mark.parametrize("least", slow_but([0, 8], range(9)))
def test_no_step_below_the_best_reaches_the_target(least: int) -> None:
    """What the graph says and what kernels make of it are two things: here these ask for more."""
    model, asked = mobile(seed=2, blocks=3), []

    def confirmed(step: Step) -> bool:
        asked.append(len(step.kept))
        return len(step.kept) >= least

    # Weights as they are: the order of the questions is not the rounding's doing, which takes most of the time.
    found = _searched(model, Target(sqnr_db=1.0), confirmed=confirmed, tuned=lambda plan: model)
    assert len(found.layers) == 8
    assert len(found.best.kept) == least
    assert len(asked) == len(set(asked))  # rounding is dear


def test_a_step_that_is_reached_when_rounded_for_itself_is_found_from_above() -> None:
    """The bisection's weights are rounded for all layers in integers, so it may stop at one too many."""
    model, batches = mobile(seed=2, blocks=3), data(mobile(), 12)
    plan = make_plan(model, calibrate(model, data(model, 100), options=QuantizationOptions(observer="min-max")))
    made = []

    def tuned(one: Plan) -> ir.Model:
        made.append(one)
        return round_weights(model, one, batches) if len(made) > 1 else _shifted(model)

    target = Target(sqnr_db=20.0)
    found = search(model, plan, target, tuned=tuned, batches=lambda: batches, judged=lambda: data(model, 12))
    assert [item.layer for item in found.layers].index("stem") > 0
    assert found.best.kept == (found.layers[0].layer,)  # and not all down to the stem


def _shifted(model: ir.Model) -> ir.Model:
    """The model with another bias in its first layer, which is made up for where that layer stays float."""
    model = model.clone()
    bias = model.graph.initializers["stem.bias"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(5), name=bias.name)
    return model


def test_the_steps_end_with_the_float_graph() -> None:
    model = mobile(seed=2)
    found = _searched(model, Target(sqnr_db=90.0))
    last = found.steps[-1]
    assert found.best is last
    assert last.measured.sqnr_db > 100
    assert not any(node.op_type == "QuantizeLinear" for node in last.model.graph)
    assert Plan.from_json(last.plan.to_json()) == last.plan


def test_a_target_beyond_the_float_graph_is_not_reached() -> None:
    """The graph that is quantized need not compute what the target compares with, as where ReLU6 became ReLU."""
    model, other = mobile(seed=2), mobile(seed=3)
    with pytest.raises(TargetError, match=r"an SQNR of 20 dB cannot be reached: with every layer in float it is -?\d"):
        _searched(model, Target(sqnr_db=20.0), reference=other)


def test_a_target_that_devices_miss_with_everything_in_float_is_not_searched_for() -> None:
    model, asked = mobile(seed=2, blocks=3), []

    def confirmed(step: Step) -> bool:
        asked.append(len(step.kept))
        return False

    with pytest.raises(TargetError, match="with every layer in float the files miss it on the devices"):
        _searched(model, Target(sqnr_db=1.0), confirmed=confirmed, tuned=lambda plan: model)
    assert asked == [0, 8]


def test_devices_are_asked_of_float_where_the_graph_needs_all_of_it() -> None:
    model, asked = mobile(seed=2), []

    def confirmed(step: Step) -> bool:
        asked.append(step.kept)
        return False

    with pytest.raises(TargetError, match="with every layer in float the files miss it on the devices"):
        _searched(model, Target(sqnr_db=90.0), confirmed=confirmed, tuned=lambda plan: model)
    assert len(asked) == 1


def test_classes_that_agree() -> None:
    model = mobile(seed=2)
    found = _searched(model, Target(agreement=1.0))
    assert found.best.measured.agreement == 1.0


def test_what_reads_a_float_layer_alone_is_float_with_it() -> None:
    model = mobile(act="LeakyRelu")
    plan = make_plan(model, calibrate(model, data(model, 4)))
    mixed = keep_in_float(model, plan, ["0.dw"], "the worst")
    assert {"0.dw", "0.dw.act"} <= set(mixed.kept_float)
    assert "stem.act" not in mixed.kept_float
    both = keep_in_float(model, plan, ["0.pw", "1.pw"], "the worst").kept_float
    assert "1.sum" in both  # a sum of two that are float
    assert "1.sum" not in keep_in_float(model, plan, ["1.pw"], "the worst").kept_float


def test_what_reads_operators_that_were_float_before_is_as_it_was() -> None:
    """Of another layer in float nothing follows for a sum of two that the plan rounds, though both are float."""
    model = mobile(act="LeakyRelu")
    plan = make_plan(model, calibrate(model, data(model, 4)))
    both = keep_in_float(model, plan, ["0.pw", "1.pw"], "by choice")
    rounded = {name: why for name, why in both.kept_float.items() if name != "1.sum"}
    further = keep_in_float(model, dataclasses.replace(both, kept_float=rounded), ["stem"], "the worst").kept_float
    assert further.keys() - rounded.keys() == {"stem", "stem.act"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "0 targets"),
        ({"sqnr_db": 20.0, "agreement": 0.9}, "2 targets"),
        ({"sqnr_db": 0.0}, "sqnr_db: it is 0; give one above 0 and at most 100"),
        ({"sqnr_db": math.nan}, "sqnr_db: it is nan"),
        ({"sqnr_db": 20.0, "confidence": 0.5}, "confidence: it is 0.5; give one above 0.5 and below 1"),
        ({"agreement": 99.0}, "agreement: it is 99; give one above 0 and at most 1"),
    ],
)
def test_targets_that_make_no_sense(given: dict[str, float], says: str) -> None:
    with pytest.raises(QuantizeError, match=says):
        Target(**given)


def test_agreement_needs_classes() -> None:
    g = Graph(0, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1))
    model = g.model("a")
    assert np.isfinite(_searched(model, Target(sqnr_db=5.0)).steps[0].measured.sqnr_db)
    with pytest.raises(QuantizeError, match="no output is scores of classes"):
        _searched(model, Target(agreement=0.9))


def test_few_judged_inputs_do_not_hide_what_others_lose() -> None:
    """The judged inputs are those that lose least, and the others beside them those that lose most."""
    model, coarse = mobile(seed=2, blocks=3), ("fc", "0.dw", "2.pw")
    batches = data(model, 12)
    plan = make_plan(model, calibrate(model, data(model, 100)))
    scales = {name: tuple(24 * scale for scale in plan.weights[name].scales) for name in coarse}
    weights = {name: dataclasses.replace(plan.weights[name], scales=scales[name]) for name in coarse}
    plan = dataclasses.replace(plan, weights={**plan.weights, **weights})

    by_loss = sorted(data(model, 60), key=lambda batch: _ratio(model, plan, [batch]))
    mild, worst = by_loss[-4:], by_loss[:30]
    target = Target(sqnr_db=(_ratio(model, plan, mild) + _ratio(model, plan, worst)) / 2)

    def kept(judged: list, beside: list | None) -> int:
        data_beside = None if beside is None else lambda: beside
        options = {"judged": lambda: judged, "batches": lambda: batches, "beside": data_beside}
        return len(search(model, plan, target, tuned=lambda one: model, **options).best.kept)

    assert kept(mild, None) == 0
    assert kept(mild, worst) > 0, "few judged inputs, and many others that lose more"
    assert kept(8 * mild, worst) == 0, "thirty judged inputs are enough"


def test_a_target_that_is_sure_of_other_inputs_takes_a_margin_that_follows_from_these() -> None:
    """Alike inputs leave next to none; where a few lose most of it, others may lose more."""
    model = mobile(seed=2, blocks=3)
    plan = make_plan(model, calibrate(model, data(model, 100)))
    by_loss = sorted(data(model, 60), key=lambda batch: _ratio(model, plan, [batch]))

    def best(judged: list, margin_db: float, confidence: float | None = 0.95) -> Step:
        target = Target(sqnr_db=_ratio(model, plan, judged) - margin_db, confidence=confidence)
        return search(model, plan, target, tuned=lambda one: model, batches=lambda: judged, judged=lambda: judged).best

    alike, uneven = by_loss[28:36], [*by_loss[:1], *by_loss[-7:]]
    assert best(alike, 0.5).kept == ()
    assert best(uneven, 0.01, None).kept == ()
    sure = best(uneven, 0.5)
    assert sure.kept != ()
    assert sure.measured.sqnr_bound_db is not None
    assert sure.measured.sqnr_bound_db >= _ratio(model, plan, uneven) - 0.5


def test_a_margin_that_float_misses_is_not_asked_for() -> None:
    """The target compares with a graph of other weights, so that no layer in float helps."""
    model = mobile(seed=2)
    judged, plan = data(model, 4), make_plan(model, calibrate(model, data(model, 100)))
    reference = model.clone()
    weight = reference.graph.initializers["fc.weight"]
    noise = np.random.default_rng(0).standard_normal(weight.const_value.shape).astype(np.float32)
    weight.const_value = ir.tensor(weight.const_value.numpy() * (1 + 0.2 * noise), name=weight.name)
    reached = sqnr_db(outputs(evaluate, reference, judged), outputs(evaluate, model, judged))
    options = {"tuned": lambda one: model, "batches": lambda: judged, "judged": lambda: judged, "reference": reference}
    best = search(model, plan, Target(sqnr_db=reached - 0.05, confidence=0.95), **options).best
    assert best.measured.sqnr_bound_db < reached - 0.05 <= best.measured.sqnr_db


def _ratio(model: ir.Model, plan: Plan, batches: list) -> float:
    return sqnr_db(outputs(evaluate, model, batches), outputs(evaluate, apply(model, plan), batches))
