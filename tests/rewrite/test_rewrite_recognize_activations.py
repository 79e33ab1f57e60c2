"""Activations that are written out become the operator that they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, evaluate, graph, node, operators

from edgeconv.rewrite import optimize

CONSTANTS = {"three": np.array(3.0), "zero": np.array(0.0), "six": np.array([6.0]), "sixth": np.array(1 / 6)}
GATE = [node("Add", ["x", "three"], "shifted"), node("Clip", ["shifted", "zero", "bound"], "gate")]
FORMS = {
    "(x * gate) / 6": [node("Mul", ["x", "gate"], "product"), node("Div", ["product", "six"], "swish")],
    "(gate * x) * (1 / 6)": [node("Mul", ["gate", "x"], "product"), node("Mul", ["sixth", "product"], "swish")],
    "x * (gate / 6)": [node("Div", ["gate", "six"], "scaled"), node("Mul", ["x", "scaled"], "swish")],
}


def network(form, outputs=("output",), **changes):
    """A convolution on either side, into which the constants would be folded."""
    rng = np.random.default_rng(1)
    constants = {**CONSTANTS, "bound": np.array(6.0), **changes}
    constants |= {"first": rng.normal(size=(4, 3, 1, 1)) * 4, "last": rng.normal(size=(2, 4, 1, 1))}
    convolutions = node("Conv", ["input", "first"], "x"), node("Conv", ["swish", "last"], "output")
    nodes = [convolutions[0], *GATE, *form, convolutions[1]]
    return graph(nodes, {"input": (2, 3, 5, 5)}, outputs, constants)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_hard_swish_is_one_operator(name):
    model = network(FORMS[name])
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", "HardSwish", "Conv"]
    assert "swish" in {value.name for item in model.graph for value in item.outputs}


def test_hard_swish_by_hard_sigmoid():
    form = [node("HardSigmoid", ["x"], "sigmoid", alpha=1 / 6, beta=0.5), node("Mul", ["x", "sigmoid"], "swish")]
    model = network(form)
    assert_rewritten_exactly(model, rtol=1e-7)  # its slope is 1/6 rounded to float32
    assert operators(model) == ["Conv", "HardSwish", "Conv"]


@pytest.mark.parametrize(
    ("form", "changes", "outputs"),
    [
        (FORMS["(x * gate) / 6"], {"three": np.array(2.0)}, ("output",)),
        (FORMS["(x * gate) / 6"], {"six": np.array(5.0)}, ("output",)),
        (FORMS["(x * gate) / 6"], {"bound": np.array(7.0)}, ("output",)),
        (FORMS["x * (gate / 6)"], {"zero": np.array(-1.0)}, ("output",)),
        (FORMS["(x * gate) / 6"], {}, ("output", "gate")),
        ([node("Mul", ["gate", "gate"], "square"), node("Div", ["square", "six"], "swish")], {}, ("output",)),
    ],
    ids=["shift", "divisor", "bound", "lower bound", "gate is an output", "square"],
)
def test_what_is_no_hard_swish(form, changes, outputs):
    model = network(form, outputs, **changes)
    assert_rewritten_exactly(model)
    assert "HardSwish" not in operators(model)


BOUNDS = st.tuples(st.integers(-4, 4), st.integers(-4, 4)).map(sorted)


@settings(deadline=None, max_examples=40)
@given(pairs=st.lists(st.one_of(st.just(None), st.just((-math.inf, 1)), BOUNDS), min_size=2, max_size=4))
def test_clamps_in_a_row_become_one(pairs):
    nodes, constants, value = [], {}, "input"
    for index, pair in enumerate(pairs):
        names = [value]
        for what, bound in zip(("min", "max"), pair or (), strict=False):
            names.append("" if math.isinf(bound) else f"{what}{index}")
            constants |= {} if math.isinf(bound) else {names[-1]: np.array(float(bound))}
        value = f"value{index}"
        nodes.append(node("Clip" if pair else "Relu", names, value))
    model = graph(nodes, {"input": (3, 50)}, [value], constants)
    feeds = {"input": np.linspace(-6, 6, 150).reshape(3, 50)}
    before = evaluate(model, feeds)[value]
    assert_rewritten_exactly(model)
    assert len(operators(model)) == 1
    np.testing.assert_array_equal(evaluate(model, feeds)[value], before)


def test_relu_then_relu6_is_relu6():
    nodes = [node("Relu", ["input"], "relu"), node("Clip", ["relu", "zero", "bound"], "output")]
    model = optimize(graph(nodes, {"input": (1, 4)}, ["output"], {"zero": np.array(0.0), "bound": np.array(6.0)}))
    assert operators(model) == ["Clip"]
