"""The order in which layers are worth leaving in float, and what of the roundings goes with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_graphs import Graph, data, mobile

from edgeconv.graph.edit import constant
from edgeconv.quantize import Plan, apply, calibrate, keep_in_float, make_plan, sensitivity
from edgeconv.quantize._endings import Ending, endings_of
from edgeconv.quantize._kept_float import choosable_layers, rounded_with
from edgeconv.quantize._structure import structure_of


def _planned(model: ir.Model) -> Plan:
    return make_plan(model, calibrate(model, data(model, 8)))


def _coarser(plan: Plan, *values: str, factor: float = 16.0) -> Plan:
    """With fewer steps for some values, and the others as they are."""
    coarse = {
        name: dataclasses.replace(item, scale=item.scale * factor, zero_point=round(item.zero_point / factor))
        for name, item in plan.tensors.items()
        if name in values
    }
    return dataclasses.replace(plan, tensors={**plan.tensors, **coarse})


def _rounded(model: ir.Model) -> set[str]:
    """The values that a graph rounds, and the layers whose weights it rounds."""
    weights = {
        node.outputs[0].name or ""
        for node in model.graph
        if node.op_type in {"Conv", "Gemm"} and constant(node.inputs[1]) is None
    }
    producers = {node.inputs[0]: node for node in model.graph if node.op_type == "DequantizeLinear"}
    values = {
        (node.outputs[0].name or "").removesuffix(".dequantized")
        for value, node in producers.items()
        if (producer := value.producer()) is not None and producer.op_type == "QuantizeLinear"
    }
    return {f"weight of {name.removesuffix('.float')}" for name in weights} | values


def _branches(seed: int) -> ir.Model:
    """Layers before and behind a sum, a join and a SiLU."""
    g = Graph(seed, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1))
    g.add("Mul", ["a", g.add("Sigmoid", ["a"], "gate")], "silu")
    g.conv("silu", "b", (4, 4, 3, 3), pads=[1, 1, 1, 1])
    g.add("Add", ["silu", "b"], "sum")
    g.add("Concat", ["sum", g.conv("sum", "c", (4, 4, 1, 1))], "join", axis=1)
    g.add("Relu", [g.conv("join", "d", (4, 8, 1, 1))], "d.act")
    return g.model(g.conv("d.act", "e", (2, 4, 1, 1)), "sum")


@pytest.mark.parametrize("make", [_branches, mobile, lambda seed: mobile(seed, act="LeakyRelu", blocks=3)])
@given(share=st.floats(0, 1), seed=st.integers(0, 2**20))
@settings(max_examples=12, deadline=None)
def test_a_graph_rounds_what_the_layers_in_integers_are_said_to_round(make, share: float, seed: int) -> None:
    model = make(seed)
    plan = _planned(model)
    structure = structure_of(model, plan.kept_float)
    layers, rng = choosable_layers(structure), np.random.default_rng(seed)
    chosen = frozenset(layer for layer in layers if rng.random() < share)
    gone = [item for item in rounded_with(model, plan, structure) if item.needed <= chosen]
    before, after = _rounded(apply(model, plan)), _rounded(apply(model, keep_in_float(model, plan, chosen, "chosen")))
    goes = {f"weight of {name}" for item in gone for name in item.layers}
    assert before - after == goes | {name for item in gone for name in item.values}
    assert after <= before


def test_two_layers_are_chosen_together_for_what_lies_between_them() -> None:
    """Neither takes anything away by itself: the value is rounded as long as one of them is in integers."""
    g = Graph(1, input=(1, 4, 8, 8))
    for number, x in enumerate(["input", "l0", "l1", "l2", "l3"]):
        g.conv(x, f"l{number}", (4, 4, 1, 1))
    model = g.model("l4")
    plan = _coarser(_planned(model), "l2")
    order = sensitivity(model, plan, lambda: data(model, 4))
    assert {item.layer for item in order[:2]} == {"l2", "l3"}
    assert order[0].share < 0.05 < 0.9 < order[1].share
    assert sum(item.share for item in order) == pytest.approx(1)


def test_a_layer_that_costs_more_comes_later() -> None:
    g = Graph(1, input=(1, 4, 8, 8))
    outputs = [g.conv("input", name, (4, 4, 1, 1)) for name in ("a", "b")]
    model = g.model(*outputs)
    plan = _planned(model)
    orders = [
        [item.layer for item in sensitivity(model, plan, lambda: data(model, 2), costs={"a": cost, "b": 1.0})]
        for cost in (1e-3, 1e3)
    ]
    assert orders == [["a", "b"], ["b", "a"]]


def test_outputs_count_by_their_own_signal() -> None:
    """A box of hundreds of pixels does not hide a score of at most one."""
    g = Graph(1, input=(1, 4, 8, 8))
    boxes, scores = (g.conv("input", name, (4, 4, 1, 1), gain=gain) for name, gain in (("box", 500.0), ("score", 0.5)))
    model = g.model(boxes, scores)
    plan = _coarser(_planned(model), "score", factor=8.0)
    assert sensitivity(model, plan, lambda: data(model, 2))[0].layer == "score"


def _classes(moved: bool, axis: int) -> ir.Model:
    g = Graph(2, input=(1, 3, 6, 6))
    g.conv("input", "a", (16, 3, 1, 1))
    g.conv("a", "b", (12, 16, 1, 1), gain=40.0)
    last = g.add("Softmax", ["b"], "classes", axis=axis)
    if moved:
        last = g.add("Transpose", [last], "moved", perm=[0, 2, 3, 1])
    return g.model(last)


@pytest.mark.parametrize(("moved", "axis"), [(False, 1), (True, 1), (False, -1)])
def test_the_noise_of_classes_is_measured_before_the_softmax(moved: bool, axis: int) -> None:
    model = _classes(moved, axis)
    plan = _planned(model)
    (ending,) = endings_of(model.graph, plan)
    assert ending.names == ("b", "classes")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 20, (1, 12, 6, 6)).astype(np.float32)
    function = ending.function
    assert function is not None
    real = {"b": logits, "classes": function(logits)}
    shifted = {"b": logits + np.float32(1.5), "classes": real["classes"]}
    (before, _), (behind, signal) = ending.energies(real, shifted)
    assert before == pytest.approx(0, abs=1e-6), "a Softmax reads differences alone"
    assert behind == pytest.approx(0, abs=1e-9)
    assert signal == pytest.approx(np.square(real["classes"]).sum(), rel=1e-6)
    # Twice the noise is four times the energy, whether classes turn or not.
    noise = rng.normal(0, 1, logits.shape).astype(np.float32)
    energies = [
        ending.energies(real, {"b": logits + size * noise, "classes": real["classes"]})[0][0] for size in (0.01, 8)
    ]
    assert energies[1] / energies[0] == pytest.approx(640_000, rel=0.05)
    rounded = {**real, "classes": np.round(real["classes"] * 256) / 256}
    (before, _), (behind, _) = ending.energies(real, rounded)
    assert before == 0
    assert behind == pytest.approx(np.square(rounded["classes"] - real["classes"]).sum(), rel=1e-3)


def test_what_lies_beyond_a_range_is_no_noise_before_a_sigmoid() -> None:
    """The plan cuts off where the function is flat."""
    g = Graph(2, input=(1, 3, 6, 6))
    g.conv("input", "a", (4, 3, 1, 1), gain=30.0)
    model = g.model(g.add("Sigmoid", ["a"], "mask"))
    plan = _planned(model)
    (ending,) = endings_of(model.graph, plan)
    low, high = plan.tensors["a"].range()
    a = np.array([low - 5, low, 0.3, high, high + 9], np.float32)
    function = ending.function
    assert function is not None
    cut = {"a": np.clip(a, low, high)}
    (noise, _), _ = ending.energies({"a": a}, {**cut, "mask": function(cut["a"])})
    assert noise == pytest.approx(0, abs=1e-9)


def test_an_output_of_classes_is_told_by_the_scores_before() -> None:
    g = Graph(2, input=(1, 3, 6, 6))
    g.conv("input", "a", (4, 3, 1, 1))
    g.add("Relu", ["a"], "scores")
    g.add("ArgMax", ["scores"], "classes", axis=1)
    model = g.model("scores")
    model.graph.outputs[:] = [model.graph[-1].outputs[0]]
    assert endings_of(model.graph, _planned(model)) == [Ending(("scores",))]
