"""Cross-layer equalization: exact where it acts, it does not act across a Clip, and by data it never costs.

Members of channels that data judge otherwise than weights do: tiny weights and a real bias, a bias alone, dead ones,
loud ones; Relu, LeakyRelu, PRelu; dense and depthwise; a scale per channel and per weight.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from crossed import diagonal
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_graphs import Graph, data, mobile, outputs, sqnr_db

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.errors import QuantizeError
from edgeconv.quantize import (
    absorb_biases,
    apply,
    bounds_of,
    calibrate,
    equalize,
    exponents_of,
    make_plan,
    round_weights,
)
from edgeconv.quantize._equalize import pairs_of
from edgeconv.reference import evaluate

_ACTS = ("Relu", "LeakyRelu", "PRelu")


def _array(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def spread(model: ir.Model, factor: float, seed: int = 0) -> ir.Model:
    """Undoes equalization: each channel of a depthwise layer's input and output by a factor up to `factor`."""
    rng = np.random.default_rng(seed)
    model = model.clone()
    names = ["stem", "0.dw", "0.pw", "1.dw"]
    for first, second in zip(names, ["0.dw", "0.pw", None, "1.pw"], strict=True):
        if second is None:
            continue
        size = _array(model, f"{first}.bias").size
        by = np.exp(rng.uniform(-0.5, 0.5, size) * np.log(factor)).astype(np.float32)
        for name, array in (
            (f"{first}.weight", _array(model, f"{first}.weight") * by[:, None, None, None]),
            (f"{first}.bias", _array(model, f"{first}.bias") * by),
            (f"{second}.weight", _over_inputs(_array(model, f"{second}.weight"), 1 / by)),
        ):
            model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    return model


def _over_inputs(weight: np.ndarray, by: np.ndarray) -> np.ndarray:
    return weight * (by[:, None, None, None] if weight.shape[1] == 1 else by[None, :, None, None])


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    act=st.sampled_from(_ACTS),
    channels=st.sampled_from([2, 6, 8]),
    kind=st.sampled_from(["dense", "depthwise", "grouped", "multiplier", "transposed"]),
    bias=st.booleans(),
)
def test_equalized_graphs_compute_the_same(seed: int, act: str, channels: int, kind: str, bias: bool) -> None:
    g = Graph(seed, input=(1, 2, 7, 6))
    g.conv("input", "a", (channels, 2, 3, 3), pads=[1, 1, 1, 1])
    g.constants["a.weight"] *= np.exp(g.rng.uniform(-6, 6, (channels, 1, 1, 1))).astype(np.float32)
    operands = [g.constant("slope", g.rng.uniform(0, 2, (channels, 1, 1)).astype(np.float32))] if act == "PRelu" else []
    g.add(act, ["a", *operands], "b")
    g.add("MaxPool", ["b"], "c", kernel_shape=[2, 2], strides=[1, 1])
    groups = {"depthwise": channels, "multiplier": channels, "grouped": 2}.get(kind, 1)
    wide = 2 * channels if kind == "multiplier" else channels
    if kind == "transposed":
        weight = g.constant("d.weight", g.rng.normal(size=(channels, 3, 2, 2)).astype(np.float32))
        g.add("ConvTranspose", ["c", weight], "d", strides=[2, 2])
    else:
        g.conv("c", "d", (wide, channels // groups, 3, 3), group=groups, pads=[1, 1, 1, 1])
    if not bias:
        del g.constants["a.bias"]
        g.nodes[0].input.pop()
    model = g.model("d")
    equalized = equalize(model)
    (feeds,) = data(model, 1, seed)
    before, after = evaluate(model, feeds)["d"], evaluate(equalized, feeds)["d"]
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12 * np.abs(before).max())
    made = np.abs(_array(equalized, "a.weight")).reshape(channels, -1).max(axis=1)
    assert np.abs(np.log2(made / _met(_array(equalized, "d.weight"), channels, kind))).max() <= 1 + 1e-6


def _met(weight: np.ndarray, channels: int, kind: str) -> np.ndarray:
    """The largest weight of the layer behind that each of the channels meets."""
    if kind == "transposed":
        return np.abs(weight).max(axis=(1, 2, 3))
    groups = {"depthwise": channels, "multiplier": channels, "grouped": 2}.get(kind, 1)
    return np.abs(weight).reshape(groups, -1, *weight.shape[1:]).max(axis=(1, 3, 4)).reshape(-1)


_BEHIND = {
    "matrix": ("MatMul", (6, 6), {}, None),
    "stack": ("MatMul", (2, 6, 6), {}, None),
    "row": ("Gemm", (6, 6), {}, (6,)),
    "column": ("Gemm", (6, 6), {}, (6, 1)),
    "transA": ("Gemm", (6, 6), {"transA": 1}, None),
    "transB": ("Gemm", (6, 6), {"transB": 1}, (1, 6)),
    "alpha": ("Gemm", (6, 6), {"alpha": 0.5, "beta": 2.0}, (6,)),
}


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    act=st.sampled_from(["Relu", "LeakyRelu"]),
    first=st.sampled_from([name for name, (op, *_) in _BEHIND.items() if op == "Gemm"]),
    second=st.sampled_from(sorted(_BEHIND)),
)
def test_equalized_products_compute_the_same(seed: int, act: str, first: str, second: str) -> None:
    g = Graph(seed, input=(6, 6))
    for x, name, kind in (("input", "a", first), ("b", "c", second)):
        op, shape, attributes, bias = _BEHIND[kind]
        spread = np.exp(g.rng.uniform(-4, 4, (1, 6) if "transB" not in attributes else (6, 1)))
        weight = (g.rng.normal(size=shape) * (spread if name == "a" else 1)).astype(np.float32)
        operands = [g.constant(f"{name}.weight", weight)]
        operands += [g.constant(f"{name}.bias", g.rng.normal(size=bias).astype(np.float32))] if bias else []
        g.add(op, [x, *operands], name, **attributes)
        if name == "a":
            g.add(act, ["a"], "b")
    model = g.model("c")
    (feeds,) = data(model, 1, seed)
    before, after = evaluate(model, feeds)["c"], evaluate(equalize(model), feeds)["c"]
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12 * np.abs(before).max())


@pytest.mark.parametrize("kind", sorted(_BEHIND))
def test_products_are_quantized_as_they_are(kind: str) -> None:
    op, shape, attributes, bias = _BEHIND[kind]
    g = Graph(3, input=(6, 6))
    operands = [g.constant("w", g.rng.normal(size=shape).astype(np.float32))]
    operands += [g.constant("b", g.rng.normal(size=bias).astype(np.float32))] if bias else []
    g.add(op, ["input", *operands], "a", **attributes)
    model = g.model("a")
    for scheme in ("int8", "int8-weights"):
        plan = make_plan(model, calibrate(model, data(model, 16)), scheme=scheme)
        unseen = data(model, 4, seed=1)
        quantized = apply(round_weights(model, plan, data(model, 4)), plan)
        assert sqnr_db(outputs(evaluate, model, unseen), outputs(evaluate, quantized, unseen)) > 25


@pytest.mark.parametrize("act", _ACTS)
def test_a_whole_network_is_equalized_bit_for_bit(act: str) -> None:
    model = spread(mobile(act=act), 1000.0)
    equalized = equalize(model)
    for feeds in data(model, 3):
        np.testing.assert_array_equal(evaluate(equalized, feeds)["fc"], evaluate(model, feeds)["fc"])


def test_values_that_changed_lose_their_names() -> None:
    model = mobile(act="Relu")
    names = {value.name for node in equalize(model).graph for value in node.outputs}
    assert "0.dw" not in names
    assert "0.dw.equalized" in names
    assert {"0.sum", "fc", "0.pw.act"} & names


def test_a_clip_ends_the_search() -> None:
    model = spread(mobile(act="Relu"), 10.0)
    clipped = spread(mobile(act="Clip"), 10.0)
    assert not np.array_equal(_array(equalize(model), "0.dw.weight"), _array(model, "0.dw.weight"))
    for name, value in equalize(clipped).graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), _array(clipped, name))


def test_a_value_that_others_read_too_is_left_alone() -> None:
    g = Graph(0, input=(1, 2, 5, 5))
    g.conv("input", "a", (4, 2, 1, 1))
    g.add("Relu", ["a"], "b")
    g.conv("b", "c", (4, 4, 1, 1))
    g.add("Add", ["b", "c"], "d")
    model = g.model("d")
    np.testing.assert_array_equal(_array(equalize(model), "a.weight"), _array(model, "a.weight"))


@pytest.mark.parametrize("act", _ACTS)
def test_ranges_spread_a_thousandfold_come_back(act: str) -> None:
    model = spread(mobile(act=act, channels=32, blocks=2), 1000.0)
    unseen = data(model, 8, seed=1)
    wanted = outputs(evaluate, model, unseen)
    found = []
    for one in (model, equalize(model)):
        plan = make_plan(
            one, calibrate(one, data(one, 8)), options=QuantizationOptions(per_channel=False, pair_safe=False)
        )
        found.append(sqnr_db(wanted, outputs(evaluate, apply(one, plan), unseen)))
    assert found[0] < 10
    assert found[1] > 25


@pytest.mark.parametrize("act", _ACTS)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_absorbed_biases_leave_the_outputs_and_shrink_the_range(act: str, groups: int) -> None:
    g = Graph(5, input=(1, 2, 6, 6))
    g.conv("input", "a", (8, 2, 1, 1), gain=0.1)
    g.constants["a.bias"] += np.float32(5)
    operands = [g.constant("slope", np.full((8, 1, 1), 0.2, np.float32))] if act == "PRelu" else []
    g.add(act, ["a", *operands], "b")
    g.conv("b", "c", (8, 8 // groups, 3, 3), group=groups)
    model = g.model("c")
    batches = data(model, 4)
    absorbed = absorb_biases(model, batches)
    for feeds in batches:
        before, after = evaluate(model, feeds)["c"], evaluate(absorbed, feeds)
        np.testing.assert_allclose(after["c"], before, rtol=0, atol=1e-5 * np.abs(before).max())
        assert after["b.absorbed"].max() < 2.5
        assert evaluate(model, feeds)["b"].max() > 5


@pytest.mark.parametrize(
    ("act", "slope", "absorbs"),
    [
        ("Abs", 0.0, False),
        ("LeakyRelu", -0.5, False),
        ("LeakyRelu", 3.0, False),
        ("LeakyRelu", 0.5, True),
        ("PRelu", -0.5, False),
        ("PRelu", 0.5, True),
    ],
)
def test_biases_are_absorbed_where_it_is_no_worse_than_a_cut(act: str, slope: float, absorbs: bool) -> None:
    g = Graph(5, input=(1, 2, 6, 6))
    g.conv("input", "a", (8, 2, 1, 1), gain=0.1)
    g.constants["a.bias"] += np.float32(5)
    operands = [g.constant("slope", np.full((8, 1, 1), slope, np.float32))] if act == "PRelu" else []
    g.add(act, ["a", *operands], "b", **({"alpha": slope} if act == "LeakyRelu" else {}))
    g.conv("b", "c", (8, 8, 3, 3))
    model = g.model("c")
    absorbed = absorb_biases(model, data(model, 4))
    assert absorbs == (_array(absorbed, "a.bias").max() < 4)
    unseen = {"input": np.full((1, 2, 6, 6), -40, np.float32)}
    before, after = evaluate(model, unseen), evaluate(absorbed, unseen)
    if absorbs:  # below the constant that moved, it is off by that constant at most
        shift = (_array(model, "a.bias") - _array(absorbed, "a.bias"))[:, None, None]
        made = after["b.absorbed"] + shift
        assert (np.abs(made - before["b"]) <= shift + 1e-6).all()
    else:
        np.testing.assert_allclose(after["c"], before["c"], rtol=1e-6)


def test_biases_are_not_absorbed_into_padding() -> None:
    model = mobile(act="Relu")
    model.graph.initializers["stem.bias"].const_value = ir.tensor(np.full(8, 50, np.float32), name="stem.bias")
    absorbed = absorb_biases(model, data(model, 2))
    np.testing.assert_array_equal(_array(absorbed, "stem.bias"), _array(model, "stem.bias"))


def _between(g: Graph, kind: str, act: str) -> None:
    operands = [g.constant("slope", np.full((8, 1, 1), 0.2, np.float32))] if act == "PRelu" else []
    g.conv("input", "a", (8, 3, 3, 3))
    g.add(act, ["a", *operands], "b")
    g.conv("b", "c", (8, 1 if kind == "depthwise" else 8, 3, 3), group=8 if kind == "depthwise" else 1)
    g.add(act, ["c", *operands], "d")
    g.conv("d", "e", (4, 8, 1, 1))


_TINY = {
    "tiny weights and a real bias": {"a": (2, 1e-3, 1.0), "c": (5, 1e-4, -0.5)},
    "a bias alone": {"a": (2, 0.0, 2.0), "c": (1, 0.0, 1.0)},
    "dead channels": {"a": (2, 0.0, -1.0), "c": (3, 1e-6, -3.0)},
    "loud channels": {"a": (2, 30.0, 0.0), "c": (3, 0.05, 0.0)},
}


@pytest.mark.parametrize(("case", "act", "kind"), diagonal([*_TINY], [*_ACTS], ["dense", "depthwise"]))
def test_equalizing_by_data_costs_nothing(case: str, act: str, kind: str) -> None:
    g = Graph(1, input=(1, 3, 12, 12))
    _between(g, kind, act)
    for name, (channel, factor, bias) in _TINY[case].items():
        g.constants[f"{name}.weight"][channel] *= np.float32(factor)
        g.constants[f"{name}.bias"][channel] = bias
    model = g.model("e")
    batches, unseen = data(model, 8), data(model, 8, seed=1)
    wanted = outputs(evaluate, model, unseen)
    found = []
    for one in (model, equalize(model, exponents_of(model, batches))):
        plan = make_plan(one, calibrate(one, batches))
        found.append(sqnr_db(wanted, outputs(evaluate, apply(one, plan), unseen)))
    assert found[1] > found[0] - 1.5


@pytest.mark.parametrize(("act", "per_channel"), diagonal([*_ACTS], [False, True]))
def test_ranges_spread_a_thousandfold_come_back_by_data(act: str, per_channel: bool) -> None:
    model = spread(mobile(act=act, channels=32, blocks=2), 1000.0)
    batches, unseen = data(model, 8), data(model, 8, seed=1)
    wanted = outputs(evaluate, model, unseen)
    found = []
    for one in (model, equalize(model, exponents_of(model, batches, per_channel=per_channel))):
        plan = make_plan(one, calibrate(one, batches), options=QuantizationOptions(per_channel=per_channel))
        found.append(sqnr_db(wanted, outputs(evaluate, apply(one, plan), unseen)))
    assert found[1] > found[0] + 10
    assert found[1] > 20


def test_equalizing_by_data_is_exact_too() -> None:
    model = spread(mobile(act="LeakyRelu"), 1000.0)
    equalized = equalize(model, exponents_of(model, data(model, 3)))
    for feeds in data(model, 3, seed=1):
        np.testing.assert_array_equal(evaluate(equalized, feeds)["fc"], evaluate(model, feeds)["fc"])


def _gated(kind: str, spread: int) -> ir.Model:
    """Two layers with a SiLU between, whose channels reach from 1 to 2**spread."""
    g = Graph(2, input=(1, 3, 12, 12))
    shape, more = ((8, 8, 1, 1), {}) if kind == "dense" else ((8, 1, 3, 3), {"group": 8, "pads": [1, 1, 1, 1]})
    x = g.conv("input", "a", (8, 3, 3, 3))
    x = g.add("Mul", [g.add("Sigmoid", [x], "gate"), x], "silu")
    x = g.conv(x, "c", shape, **more)
    factors = (2.0 ** np.linspace(0, spread, 8)).astype(np.float32)
    for end in ("weight", "bias"):
        g.constants[f"a.{end}"] *= factors.reshape(-1, *[1] * (g.constants[f"a.{end}"].ndim - 1))
    g.constants["c.weight"] /= factors.reshape((1, -1, 1, 1) if kind == "dense" else (-1, 1, 1, 1))
    return g.model(x)


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_a_silu_is_crossed_by_data_bit_for_bit(kind: str) -> None:
    model = _gated(kind, spread=8)
    batches, unseen = data(model, 8), data(model, 8, seed=1)
    wanted = outputs(evaluate, model, unseen)
    equalized = equalize(model, exponents_of(model, batches))
    np.testing.assert_array_equal(outputs(evaluate, equalized, unseen), wanted)
    found = []
    for one in (model, equalized):
        plan = make_plan(one, calibrate(one, batches, bounds=bounds_of(one, lambda: batches)))
        found.append(sqnr_db(wanted, outputs(evaluate, apply(one, plan), unseen)))
    assert found[1] > found[0] + 6
    # What a SiLU costs is an operator more: where channels are alike it stays as it is, and so without data.
    alike = _gated(kind, spread=0)
    assert exponents_of(alike, data(alike, 8)) == {}
    assert [node.op_type for node in equalize(model).graph] == [node.op_type for node in model.graph]


_FIRST = ("dense", "depthwise", "transposed", "transposed groups")
_SECOND = ("dense", "grouped", "multiplier", "transposed")
_ACTIVATIONS = ("silu", "relu", "silu twice", "silu, relu", "silu, pool", "leaky, silu")
_READ_ELSEWHERE = ("", "a", "gate", "between", "output")


def _activated(g: Graph, x: str, kinds: str) -> str:
    """Activations between two layers, the operands of the Mul of a SiLU in either order."""
    for index, kind in enumerate(("silu, silu" if kinds == "silu twice" else kinds).split(", ")):
        name = f"{kind}.{index}"
        if kind == "silu":
            gate = g.add("Sigmoid", [x], "gate" if "gate" not in {node.name for node in g.nodes} else f"gate.{index}")
            x = g.add("Mul", [x, gate] if g.rng.integers(2) else [gate, x], name)
        elif kind == "pool":
            x = g.add("MaxPool", [x], name, kernel_shape=[2, 2])
        else:
            x = g.add({"relu": "Relu", "leaky": "LeakyRelu"}[kind], [x], name)
    return x


def _layer(g: Graph, x: str, name: str, kind: str, channels: int) -> str:
    """A layer that reads and makes so many channels; twice as many with a multiplier."""
    groups = {"depthwise": channels, "multiplier": channels, "grouped": 2, "transposed groups": 2}.get(kind, 1)
    if kind.startswith("transposed"):
        weight = g.rng.normal(size=(channels, channels // groups, 2, 2)).astype(np.float32)
        operands = [g.constant(f"{name}.weight", weight), g.constant(f"{name}.bias", weight.reshape(-1)[:channels])]
        return g.add("ConvTranspose", [x, *operands], name, group=groups)
    wide = 2 * channels if kind == "multiplier" else channels
    return g.conv(x, name, (wide, channels // groups, 1, 1), group=groups)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    first=st.sampled_from(_FIRST),
    between=st.sampled_from(_ACTIVATIONS),
    second=st.sampled_from(_SECOND),
    elsewhere=st.sampled_from(_READ_ELSEWHERE),
    batch=st.sampled_from([2, "n"]),
)
def test_gated_graphs_compute_the_same_bits(
    seed: int, first: str, between: str, second: str, elsewhere: str, batch: int | str
) -> None:
    channels = 4
    g = Graph(seed, input=(batch, channels, 6, 5))  # type: ignore[arg-type]  # a name leaves the batch open
    x = _activated(g, _layer(g, "input", "a", first, channels), between)
    y = _layer(g, x, "c", second, channels)
    outputs = [y]
    if elsewhere:
        read = {"a": "a", "gate": "gate", "between": x, "output": x}[elsewhere]
        if read in {node.output[0] for node in g.nodes}:
            outputs.append(read if elsewhere == "output" else g.add("Neg", [read], "elsewhere"))
    model = g.model(*outputs)
    pairs = {pair.first.name: pair for pair in pairs_of(model, gated=True)}
    assert ("a" in pairs) == (len(outputs) == 1)  # what others read must not be scaled
    exponents = {name: g.rng.integers(-12, 13, channels).tolist() for name in pairs}
    equalized = equalize(model, exponents)
    feeds = {"input": g.rng.normal(size=(2, channels, 6, 5)).astype(np.float32)}
    before, after = evaluate(model, feeds), evaluate(equalized, feeds)
    for old, new in zip(model.graph.outputs, equalized.graph.outputs, strict=True):
        np.testing.assert_array_equal(after[str(new.name)], before[str(old.name)])
    # A value that goes by its name still is what it was; others say that they are something else.
    for name in {value.name for node in equalized.graph for value in node.outputs} & before.keys():
        np.testing.assert_array_equal(after[name], before[name])


def test_integers_are_for_what_shows_of_a_silu() -> None:
    model = _gated("dense", spread=0)
    model.graph.initializers["a.bias"].const_value = ir.tensor(np.full(8, -60, np.float32), name="a.bias")
    low = bounds_of(model, lambda: data(model, 2))["a"][0]
    assert low == pytest.approx(-12 * np.log(2))
    exponents = {"a": (0, 1, 2, 3, 0, 0, 0, 0)}
    equalized = equalize(model, exponents)
    bounds = bounds_of(equalized, lambda: data(model, 2))
    assert bounds == {"a.equalized": (pytest.approx(8 * low), np.inf), "gate.operand": (low, -low)}


@pytest.mark.parametrize(
    ("exponents", "text"), [({"a": (1, 2)}, "there are 2 exponents"), ({"nowhere": (1,)}, "no layer of that name")]
)
def test_exponents_of_another_graph_are_refused(exponents: dict[str, tuple[int, ...]], text: str) -> None:
    g = Graph(1, input=(1, 3, 12, 12))
    _between(g, "dense", "Relu")
    with pytest.raises(QuantizeError, match=text):
        equalize(g.model("e"), exponents)
