"""Learned rounding of weights (AdaRound)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from quantize_graphs import Graph, outputs, sqnr_db

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.quantize import Plan, adaround, apply, calibrate, correct_biases, make_plan, round_weights
from edgeconv.quantize._adaround import learned
from edgeconv.quantize._rounding import moments, rounded_with_feedback
from edgeconv.quantize._tune import RoundingProblem
from edgeconv.reference import evaluate


def _images(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Neighbors are alike, as in images."""
    rng = np.random.default_rng(seed)
    return [{"input": np.kron(rng.normal(size=(1, 4, 4, 4)), np.ones((3, 3))).astype(np.float32)} for _ in range(count)]


def _layer(kind: str) -> ir.Model:
    """One layer, and an activation that it fuses with or not."""
    g = Graph(1, input=(1, 4, 12, 12))
    if kind == "depthwise":
        g.conv("input", "a", (4, 1, 3, 3), group=4, gain=3.0)
    else:
        g.conv("input", "a", (16, 4, 3, 3), gain=3.0)
    g.clip("a", "b") if kind == "clamped" else g.add("LeakyRelu", ["a"], "b", alpha=0.125)
    return g.model("b")


def _coarse(model: ir.Model) -> Plan:
    """Weights of about three bits, activations of sixteen: rounding is then all that matters."""
    plan = make_plan(
        model, calibrate(model, _images(16, 0), options=QuantizationOptions(observer="min-max")), scheme="int16x8"
    )
    weights = {
        name: dataclasses.replace(item, scales=tuple(32 * scale for scale in item.scales))
        for name, item in plan.weights.items()
    }
    return dataclasses.replace(plan, weights=weights)


@pytest.mark.parametrize("kind", ["plain", "clamped", "depthwise"])
def test_a_layer_loses_less_than_by_rounding_to_nearest(kind: str) -> None:
    model = _layer(kind)
    plan, seen, unseen = _coarse(model), _images(32, 0), _images(16, 1)
    nearest, learned = correct_biases(model, plan, seen), adaround(model, plan, seen)
    for batches in (seen, unseen):
        wanted = outputs(evaluate, model, batches)
        found = [sqnr_db(wanted, outputs(evaluate, apply(one, plan), batches)) for one in (nearest, learned)]
        assert found[1] > found[0] + 2


@pytest.mark.parametrize("shape", [(1, 6, 12), (5, 1, 9)])
@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, 1.0)])
def test_no_channel_loses_more_than_by_feedback_or_nearest(shape: tuple[int, int, int], bounds) -> None:
    """Of two iterations nothing can be learned yet."""
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=shape), rng.normal(size=(shape[0], 256, shape[2])) @ (np.eye(shape[2]) + 0.3)
    scales = np.full(shape, 0.4)
    inputs = inputs.astype(np.float32)
    given = RoundingProblem(weight, scales, inputs.copy(), np.zeros((shape[0], 1, shape[1])), bounds, shifted=False)

    def error(rounded: np.ndarray) -> np.ndarray:
        made, wanted = (np.clip(inputs @ form.swapaxes(1, 2), *bounds) for form in (rounded, weight))
        return np.square(made - wanted).mean(axis=1)

    found = error(learned(given, 2))
    others = np.rint(weight / scales) * scales, rounded_with_feedback(weight, scales, moments(inputs), 127)
    for other in map(error, others):
        assert (found <= other * 1.0001).all()
    assert (found < error(others[0]) * 0.99).any()


def test_the_same_data_give_the_same_bytes() -> None:
    model = _layer("clamped")
    plan = _coarse(model)
    made = [ir.to_proto(adaround(model, plan, _images(8, 0), iterations=50)) for _ in range(2)]
    assert made[0].SerializeToString(deterministic=True) == made[1].SerializeToString(deterministic=True)


@pytest.mark.parametrize("tune", [adaround, round_weights])
def test_rounding_leaves_other_processors_alone(tune: Callable[..., ir.Model]) -> None:
    """On a busy machine two threads of torch wait for each other at every step, at thirty times the processor time."""
    model, threads, before = _layer("plain"), list[int](), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        few = {"iterations": 2} if tune is adaround else {}
        tune(model, _coarse(model), _images(2, 0), progress=lambda _: threads.append(torch.get_num_threads()), **few)
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_no_iterations_are_rounding_to_nearest() -> None:
    model = _layer("plain")
    plan = _coarse(model)
    step = np.reshape(plan.weights["a"].scales, (-1, 1, 1, 1))
    weight = model.graph.initializers["a.weight"].const_value.numpy()
    made = adaround(model, plan, _images(8, 0), iterations=0).graph.initializers["a.weight"].const_value.numpy()
    assert np.abs(made - weight).max() <= step.max()
    np.testing.assert_array_equal(np.rint(made / step), np.clip(np.rint(weight / step), -127, 127))
