"""Channels in an order in which pairs of weights cannot overflow.

Members thought of: 1x1 and 3x3 convolutions, depthwise layers, clamps and pools between, of an odd number of channels;
Gemm and MatMul; one scale for a whole weight; and where the order is not free: a value that is read twice or is an
output, PRelu with a slope per channel, a sum of two values, grouped convolutions, pools behind which channels lie last.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from quantize_graphs import Graph, data, mobile

from edgeconv.errors import QuantizeError
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent
from edgeconv.quantize import Plan, orders_of, overflowing, reorder
from edgeconv.quantize._pairs import partners, safe_growth
from edgeconv.quantize._reorder import _order, _total
from edgeconv.quantize._structure import layer_of
from edgeconv.reference import evaluate


def _strong(g: Graph, name: str) -> None:
    """Makes half of a weight's input channels large and positive, so that neighbors overflow."""
    weight = g.constants[f"{name}.weight"]
    weight[:, : weight.shape[1] // 2] = np.abs(weight[:, : weight.shape[1] // 2]) + 1
    g.constants[f"{name}.weight"] = weight


def _convolutions(channels: int = 8, kernel: int = 1, between: str = "Clip", **attributes: object) -> ir.Model:
    """Convolution, depthwise convolution, convolution."""
    g = Graph(3, x=(2, 3, 9, 9))
    value = g.conv("x", "a", (channels, 3, 1, 1))
    if between == "PRelu":
        slope = g.constant("slope", g.rng.uniform(0.1, 0.9, (channels, 1, 1)).astype(np.float32))
        value = g.add("PRelu", [value, slope], "act")
    elif between == "Clip":
        value = g.clip(value, "act")
    elif between == "Add":
        value = g.add("Add", [value, g.conv("x", "other", (channels, 3, 1, 1))], "act")
    else:
        value = g.add(between, [value], "act", **attributes)  # type: ignore[arg-type]
    value = g.add("Relu", [g.conv(value, "d", (channels, 1, 3, 3), group=channels)], "act.d")
    g.conv(value, "b", (4, channels, kernel, kernel))
    _strong(g, "b")
    return g.model("b")


def _products(operator: str, **attributes: object) -> ir.Model:
    g = Graph(4, x=(3, 6))
    weights = [g.rng.normal(size=(6, 8)).astype(np.float32), g.rng.normal(size=(8, 5)).astype(np.float32)]
    weights[1][:4] = np.abs(weights[1][:4]) + 1
    if attributes.get("transB"):
        weights = [np.ascontiguousarray(weight.T) for weight in weights]
    bias = [g.constant("bias", g.rng.normal(size=8).astype(np.float32))] if operator == "Gemm" else []
    g.add(operator, ["x", g.constant("a.weight", weights[0]), *bias], "a", **attributes)
    g.add(operator, [g.add("Relu", ["a"], "act"), g.constant("b.weight", weights[1])], "b", **attributes)
    return g.model("b")


FREE = {
    "1x1": _convolutions,
    "1x1, odd channels": lambda: _convolutions(9),
    "3x3": lambda: _convolutions(kernel=3),
    "pool": lambda: _convolutions(between="MaxPool", kernel_shape=[1, 1]),
    "Gemm": lambda: _products("Gemm"),
    "Gemm, transposed": lambda: _products("Gemm", transB=1),
    "MatMul": lambda: _products("MatMul"),
}


def _growth(model: ir.Model, name: str) -> float:
    """By what the scales of a layer grow on average."""
    (layer,) = (found for node in model.graph if (found := layer_of(node)) is not None and found.name == name)
    array = layer.weight.const_value.numpy().astype(np.float64)  # type: ignore[union-attr]
    channels = np.moveaxis(array, layer.axis, 0).reshape(array.shape[layer.axis], -1)
    partner = partners(layer)
    assert partner is not None
    return float(safe_growth(channels, np.abs(channels).max(axis=1) / 127, partner).mean())


def _int8(model: ir.Model, **asked: object) -> Variant:
    formats = asked.pop("formats", ("onnx", "tflite"))
    quantization = Quantization(batches=lambda: data(model, 2), equalize=False, **asked)  # type: ignore[arg-type]
    (variant,) = variants_of(model, ("int8",), quantization, Silent(), formats=formats)  # type: ignore[arg-type]
    return variant


@pytest.mark.parametrize("form", FREE)
def test_scales_grow_less_and_the_outputs_stay(form: str) -> None:
    model = FREE[form]()
    orders = orders_of(model)
    assert list(orders) == ["a"]
    ordered = reorder(model, orders)
    assert _growth(model, "b") > 1.05
    assert _growth(ordered, "b") < (_growth(model, "b") + 1) / 2
    batch = data(model, 1)[0]
    np.testing.assert_allclose(evaluate(ordered, batch)["b"], evaluate(model, batch)["b"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FREE)
def test_values_in_another_order_say_so_and_the_outputs_keep_their_names(form: str) -> None:
    model = FREE[form]()
    ordered = reorder(model, orders_of(model))
    names = [node.outputs[0].name or "" for node in ordered.graph]
    assert names[-1] == "b"
    assert all(name.endswith(".reordered") for name in names[:-1])


@pytest.mark.parametrize("per_channel", [True, False])
def test_another_order_is_sought_for_one_scale_as_well(per_channel: bool) -> None:
    assert orders_of(_convolutions(), per_channel=per_channel)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: _convolutions(9, kernel=3), id="odd channels at several positions"),
        pytest.param(lambda: _convolutions(between="PRelu"), id="a slope per channel"),
        pytest.param(lambda: _convolutions(between="Add"), id="a sum"),
        pytest.param(lambda: _convolutions(between="Softmax", axis=1), id="channels that are mixed"),
    ],
)
def test_channels_whose_order_is_not_free_keep_it(model: object) -> None:
    assert orders_of(model()) == {}  # type: ignore[operator]


@pytest.mark.parametrize("taken", [True, False])
def test_places_of_a_pool_that_are_an_output_keep_their_order(taken: bool) -> None:
    model = _convolutions(between="MaxPool", kernel_shape=[1, 1])
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    places = ir.Value(name="places", type=ir.TensorType(ir.DataType.INT64), shape=pool.outputs[0].shape)
    both = ir.Node("", "MaxPool", pool.inputs, list(pool.attributes.values()), outputs=[ir.Value(name="act"), places])
    both.outputs[0].type, both.outputs[0].shape = pool.outputs[0].type, pool.outputs[0].shape
    model.graph.insert_before(pool, both)
    ir.convenience.replace_all_uses_with(pool.outputs[0], both.outputs[0])
    model.graph.remove(pool, safe=True)
    if taken:
        model.graph.outputs.append(places)
    assert bool(orders_of(model)) != taken


def test_a_value_that_is_read_elsewhere_keeps_its_order() -> None:
    model = _convolutions()
    inner = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "act.d")
    model.graph.outputs.append(inner)
    assert orders_of(model) == {}


def test_weights_that_are_shared_keep_their_order() -> None:
    model = _convolutions()
    first = next(node for node in model.graph if node.outputs[0].name == "a")
    other = ir.Node("", "Identity", [first.inputs[1]], outputs=[ir.Value(name="copy")])
    model.graph.append(other)
    assert orders_of(model) == {}


def test_the_integers_are_those_of_the_order_and_no_pair_overflows() -> None:
    made = _int8(_convolutions())
    assert made.plan is not None
    assert list(made.plan.channel_orders) == ["a"]
    assert overflowing(made.model) == ()


def test_a_plan_brings_the_channels_into_its_order() -> None:
    model = _convolutions()
    made = _int8(model)
    assert made.plan is not None
    assert Plan.from_json(made.plan.to_json()) == made.plan
    again = _int8(model, plan=made.plan.to_json())
    batch = data(model, 1)[0]
    np.testing.assert_array_equal(evaluate(again.model, batch)["b"], evaluate(made.model, batch)["b"])


@pytest.mark.parametrize("asked", [{"pair_safe": False}, {"formats": ("tflite",)}], ids=["pairs", "format"])
def test_nothing_is_reordered_where_pairs_do_not_matter(asked: dict[str, object]) -> None:
    made = _int8(_convolutions(), **asked)
    assert made.plan is not None
    assert made.plan.channel_orders == {}
    assert not any("reordered" in name for name in made.plan.tensors)


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ({"nowhere": (0, 1)}, "no layer of that name"),
        ({"a": (0, 1, 2, 3)}, "no order of the channels"),
        ({"a": (0, 0, 2, 3, 4, 5, 6, 7)}, "no order of the channels"),
        ({"a": (8, 1, 2, 3, 4, 5, 6, 7)}, "no order of the channels"),
    ],
)
def test_orders_of_another_graph_are_refused(orders: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(QuantizeError, match=message):
        reorder(_convolutions(), orders)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_the_matching_is_the_best_there_is_or_close(count: int) -> None:
    rng = np.random.default_rng(count)
    found, least = 0.0, 0.0
    for _ in range(20):
        cost = np.triu(rng.uniform(size=(count, count)) ** 3, 1)
        cost += cost.T
        order = _order(cost)
        assert sorted(order.tolist()) == list(range(count))
        found += _total(cost, order)
        least += min(_total(cost, np.array(other)) for other in itertools.permutations(range(count)))
    assert found <= 1.3 * least


def test_a_network_without_large_neighbors_stays_as_it_is() -> None:
    g = Graph(0, x=(1, 2, 4, 4))
    g.conv(g.conv("x", "a", (2, 2, 1, 1)), "b", (2, 2, 1, 1))
    g.constants["b.weight"][:] = np.float32([[1, -1], [-1, 1]])[:, :, None, None]
    assert orders_of(g.model("b")) == {}


def test_residual_networks_reorder_inside_of_their_blocks_alone() -> None:
    ordered = reorder(mobile(act="Relu", blocks=3), orders_of(mobile(act="Relu", blocks=3)))
    sums = [node.outputs[0].name for node in ordered.graph if node.op_type == "Add"]
    assert sums
    assert not any("reordered" in (name or "") for name in sums)
