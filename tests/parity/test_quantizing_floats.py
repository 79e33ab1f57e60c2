"""Link 2 of what stays float: by the plan, as the graph tells emitters, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core import Array
from edgeconv.core.search_target import Target
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.graph.edit import KEEP_FLOAT
from edgeconv.parity.quantizing import Origin, quantizing
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class Partly(nn.Module):
    """Layers and operators of integers before and behind two that stay float; at the end a normalization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.kept, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.tokens, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.register_buffer("factors", torch.linspace(-0.5, 0.2, 8).reshape(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.maximum(self.first(x), self.factors)
        y = nn.functional.gelu(y + torch.sigmoid(self.kept(y)))
        return self.norm(self.tokens(self.last(y).flatten(2).transpose(1, 2)))


KEPT = ("kept", "Sigmoid")


@cache
def _variant(**options: Any) -> Variant:
    graph = optimize(capture(Partly().eval(), (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))
    settings = Quantization(batches=_data, rounding="nearest", equalize=False, pair_safe=False, **options)
    name = "int8-mixed" if "target" in options else "int8"
    (variant,) = variants_of(graph, (name,), settings, Silent())
    return variant


def _data() -> list[dict[str, Array]]:
    draw = np.random.default_rng(0)
    return [{"x": draw.standard_normal((1, 3, 8, 8), np.float32)} for _ in range(3)]


def _origin(variant: Variant) -> Origin:
    assert variant.origin is not None
    return variant.origin


@pytest.mark.parametrize("sqnr_db", [25.0, 45.0, 70.0])
def test_layers_that_a_target_asks_for_stay_float_up_to_the_output(sqnr_db: float) -> None:
    variant = _variant(target=Target(sqnr_db=sqnr_db), judged=_data)
    link = quantizing(_origin(variant), variant.model)
    assert link is None, link.reason


def test_a_plan_that_somebody_stated_holds_without_the_operators_that_no_integers_compute() -> None:
    document = json.loads(_origin(_variant(keep_float=KEPT)).plan)
    stated = document["kept_float"]
    for kept in (stated, {name: why for name, why in stated.items() if name != "y"}):
        variant = _variant(plan=json.dumps({**document, "kept_float": kept}))
        link = quantizing(_origin(variant), variant.model)
        assert link is None, link.reason


class Centered(nn.Module):
    """A super-resolution network's mean, which is taken off and added again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.last(torch.relu(self.body(x - self.mean))), 2) + self.mean


@pytest.mark.parametrize("name", ["int8", "int16x8"])
def test_a_constant_of_two_readers_is_of_integers_for_both(name: str) -> None:
    graph = optimize(capture(Centered().eval(), (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))
    (variant,) = variants_of(graph, (name,), Quantization(batches=_data), Silent())
    link = quantizing(_origin(variant), variant.model)
    assert link is None, link.reason
    operands = [node.inputs[1] for node in variant.model.graph if node.op_type in ("Sub", "Add")]
    assert len(operands) == 2
    assert {value.producer().op_type for value in operands} == {"DequantizeLinear"}  # type: ignore[union-attr]


def _node(model: ir.Model, name: str) -> ir.Node:
    """By its result, which a rounding may have taken the name of."""
    nodes = {node.outputs[0].name: node for node in model.graph}
    return nodes.get(f"{name}.float") or nodes[name]


def _before(value: ir.Value | None) -> ir.Value:
    """What a value was before it was rounded."""
    assert value is not None
    quantized = value.producer().inputs[0].producer()  # type: ignore[union-attr]
    return quantized.inputs[0]  # type: ignore[return-value,union-attr]


def _unrounded(name: str, index: int) -> Callable[[ir.Model], None]:
    def plant(model: ir.Model) -> None:
        node = _node(model, name)
        node.replace_input_with(index, _before(node.inputs[index]))

    return plant


def _of_floats(name: str, index: int) -> Callable[[ir.Model], None]:
    """A constant of integers as the very floats."""

    def plant(model: ir.Model) -> None:
        node, before = _node(model, name), _node(_origin(_variant(keep_float=KEPT)).rounded, name)
        value = ir.Value(name="planted", const_value=before.inputs[index].const_value)  # type: ignore[union-attr]
        model.graph.register_initializer(value)
        node.replace_input_with(index, value)

    return plant


def _rounded_weight(model: ir.Model) -> None:
    """The layer that stays float has a weight of integers."""
    node, layer = _node(model, "kept"), _node(model, "first").inputs[1].producer()  # type: ignore[union-attr]
    weight = node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
    assert layer is not None
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    stored = [("w", np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)), ("s", scale.astype(np.float32))]
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in stored]
    for value in values:
        model.graph.register_initializer(value)
    dequantize = ir.Node("", "DequantizeLinear", [*values, layer.inputs[2]], [ir.AttrInt64("axis", 0)], num_outputs=1)
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(1, dequantize.outputs[0])


def _rounded_between(model: ir.Model) -> None:
    """A rounding between the layer and the sigmoid, which both stay float."""
    sigmoid, pair = _node(model, "sigmoid"), _node(model, "first").inputs[0].producer()  # type: ignore[union-attr]
    assert pair is not None
    parameters = pair.inputs[1:]
    quantize = ir.Node("", "QuantizeLinear", [sigmoid.inputs[0], *parameters], num_outputs=1)
    dequantize = ir.Node("", "DequantizeLinear", [quantize.outputs[0], *parameters], num_outputs=1)
    model.graph.insert_before(sigmoid, [quantize, dequantize])
    sigmoid.replace_input_with(0, dequantize.outputs[0])


def _marked(name: str) -> Callable[[ir.Model], None]:
    def plant(model: ir.Model) -> None:
        _node(model, name).metadata_props[KEEP_FLOAT] = "planted"

    return plant


def _unmarked(model: ir.Model) -> None:
    del _node(model, "sigmoid").metadata_props[KEEP_FLOAT]


@pytest.mark.parametrize(
    ("plant", "told"),
    {
        "operand": (_unrounded("last", 0), "last reads gelu as floats, and the plan has integers of it"),
        "weight": (_of_floats("last", 1), "the weight of last is of floats, and last does not stay float"),
        "bias": (_of_floats("last", 2), "the bias of last is of floats, and last does not stay float"),
        "constant": (_of_floats("maximum", 1), "of maximum is of floats, and maximum does not stay float"),
        "layer in integers": (_rounded_weight, "the weight of kept is of integers, and kept stays float"),
        "rounded between": (_rounded_between, "kept is rounded, and the plan has no parameters of it"),
        "marked": (_marked("first"), "first is computed in floats, and the plan does not say"),
        "not marked": (_unmarked, "sigmoid stays float by the plan, and may be computed in integers"),
    }.values(),
)
def test_a_planted_fault_is_named(plant: Callable[[ir.Model], None], told: str) -> None:
    variant = _variant(keep_float=KEPT)
    assert quantizing(_origin(variant), variant.model) is None
    wrong = variant.model.clone()
    plant(wrong)
    link = quantizing(_origin(variant), wrong)
    assert link is not None
    assert told in link.reason


@pytest.mark.parametrize(("part", "name"), [("tensors", "maximum"), ("kept_float", "kept"), ("kept_float", "sigmoid")])
def test_a_plan_that_says_less_than_the_graph_has_is_told(part: str, name: str) -> None:
    variant = _variant(keep_float=KEPT)
    document = json.loads(_origin(variant).plan)
    del document[part][name]
    link = quantizing(replace(_origin(variant), plan=json.dumps(document)), variant.model)
    assert link is not None
    assert name in link.reason
