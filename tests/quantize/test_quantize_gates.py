"""Where gates shut: what lies below an end of `shut_below` may be cut there, whatever spells the gate.

Members: SiLU, Mish and HardSwish as one operator and as several, a Sigmoid times Softplus's operand, GELUs by Erf and
Tanh in either order of operands, SiLUs that equalization has crossed; readers that are no gates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_graphs import Graph

from edgeconv.quantize import equalize
from edgeconv.quantize._gates import COUNTS, gated_by, shut_below
from edgeconv.reference import evaluate


def _mul(g: Graph, a: str, b: str, name: str) -> str:
    return g.add("Mul", [a, b] if g.rng.integers(2) else [b, a], name)


def _number(g: Graph, name: str, value: float) -> str:
    return g.constant(name, np.float32(value))


def _silu(g: Graph, x: str) -> str:
    return _mul(g, x, g.add("Sigmoid", [x], "gate"), "y")


def _mish(g: Graph, x: str) -> str:
    return _mul(g, x, g.add("Tanh", [g.add("Softplus", [x], "softplus")], "gate"), "y")


def _hard(g: Graph, x: str) -> str:
    return _mul(g, x, g.add("HardSigmoid", [x], "gate", alpha=1 / 6, beta=0.5), "y")


def _erf(g: Graph, x: str) -> str:
    erf = g.add("Erf", [g.add("Div", [x, _number(g, "root", np.sqrt(2))], "argument")], "erf")
    return _mul(g, _mul(g, x, g.add("Add", [erf, _number(g, "one", 1)], "sum"), "twice"), _number(g, "half", 0.5), "y")


def _both(g: Graph, x: str) -> str:
    return g.add("Add", [_silu(g, x), g.add("Relu", [_mul(g, x, g.add("HardSigmoid", [x], "h"), "hard")], "r")], "z")


_GATES: dict[str, Callable[[Graph, str], str]] = {
    "silu": _silu,
    "mish": _mish,
    "hard swish": _hard,
    "gelu": _erf,
    "two": _both,
    "HardSwish": lambda g, x: g.add("HardSwish", [x], "y"),
    "Mish": lambda g, x: g.add("Mish", [x], "y"),
}


def _bounds(model: ir.Model) -> dict[str, tuple[float, float]]:
    return dict(shut_below(model.graph, gated_by(model.graph)))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(_GATES)), gain=st.floats(0.1, 30))
def test_what_is_shut_can_be_cut(seed: int, kind: str, gain: float) -> None:
    g = Graph(seed, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1), gain=gain)
    model = g.model(_GATES[kind](g, "a"))
    low, high = _bounds(model)["a"]
    assert high == np.inf
    feeds = {"input": g.rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    _assert_cut(model, feeds, "a", np.array(low), max(1.0, -low))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), exponents=st.lists(st.integers(-6, 6), min_size=4, max_size=4))
def test_what_is_shut_of_an_equalized_silu_can_be_cut(seed: int, exponents: list[int]) -> None:
    g = Graph(seed, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1), gain=10)
    model = equalize(g.model(g.conv(_silu(g, "a"), "c", (2, 4, 1, 1))), {"a": exponents})
    (name,) = (name for name in _bounds(model) if name.startswith("a"))
    low = _bounds(model)[name][0]
    feeds = {"input": g.rng.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    weight = np.abs(model.graph.initializers["c.weight"].const_value.numpy()).sum(axis=(0, 2, 3))
    _assert_cut(model, feeds, name, np.array(low), float(-low * weight.max()) + 1.0)


def _assert_cut(model: ir.Model, feeds: dict[str, np.ndarray], name: str, low: np.ndarray, size: float) -> None:
    """What is computed of the value, cut off at its lower end, is what counts of it."""
    before = evaluate(model, feeds)
    (output,) = (value.name or "" for value in model.graph.outputs)
    (node,) = (node for node in model.graph if node.outputs[0].name == name)
    cut = model.clone()
    node = next(node for node in cut.graph if node.outputs[0].name == name)
    value = node.outputs[0]
    bound = ir.Value(name="low", const_value=ir.tensor(low.astype(np.float32), name="low"))
    cut.graph.register_initializer(bound)
    clip = ir.Node("", "Max", [value, bound], name="cut")
    clip.outputs[0].name, clip.outputs[0].shape, clip.outputs[0].type = "cut", value.shape, value.type
    value.replace_all_uses_with(clip.outputs[0])
    clip.replace_input_with(0, value)
    cut.graph.insert_after(node, clip)
    after = evaluate(cut, feeds)
    assert np.abs(after[output] - before[output]).max() <= 2 * COUNTS * size


@pytest.mark.parametrize("kind", sorted(_GATES))
@pytest.mark.parametrize("elsewhere", ["reader", "output"])
def test_what_others_read_is_not_cut(kind: str, elsewhere: str) -> None:
    g = Graph(0, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1))
    gated = _GATES[kind](g, "a")
    model = g.model(gated, "a" if elsewhere == "output" else g.add("Neg", ["a"], "negative"))
    assert "a" not in _bounds(model)
