"""The plan as a file that people edit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from quantize_graphs import Graph, data, mobile

from edgeconv.errors import QuantizeError
from edgeconv.graph.edit import KEEP_FLOAT
from edgeconv.quantize import Plan, apply, calibrate, make_plan


@pytest.fixture(scope="module")
def planned():
    model = mobile()
    return model, make_plan(model, calibrate(model, data(model, 2)))


@pytest.mark.parametrize("scheme", ["int8", "int16x8", "int8-weights"])
def test_json_and_back(scheme: str) -> None:
    model = mobile()
    plan = make_plan(model, calibrate(model, data(model, 2)), scheme=scheme)
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text


def test_an_edit_is_obeyed(planned) -> None:
    model, plan = planned
    document = json.loads(plan.to_json())
    document["tensors"]["stem.act"] |= {"scale": 0.5, "zero_point": -128}
    quantized = apply(model, Plan.from_json(json.dumps(document)))
    node = next(value.producer() for n in quantized.graph for value in n.outputs if value.name == "stem.act")
    assert float(node.inputs[1].const_value.numpy()) == 0.5


def _set(*path: str, to: object):
    def edit(document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return edit


def _drop(*path: str):
    def edit(document) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_set("tensors", "stem.act", "scale", to=0), "tensors, stem.act: scale is 0"),
        (_set("tensors", "stem.act", "scale", to=float("inf")), "scale is inf"),
        (_set("tensors", "stem.act", "scale", to="1"), "scale is '1'"),
        (_set("tensors", "stem.act", "zero_point", to=200), "zero_point is 200"),
        (_set("tensors", "stem.act", "zero_point", to=True), "zero_point is True"),
        (_set("tensors", "stem.act", "dtype", to="int4"), "dtype is 'int4'"),
        (_set("tensors", "stem.act", "dtype", to=["int8"]), "give a string"),
        (_set("tensors", "stem.act", "dtype", to="int16"), "symmetric|int16 in a plan of int8"),
        (_set("tensors", "stem.akt", to={"dtype": "int8", "scale": 1.0, "zero_point": 0}), "no tensor 'stem.akt'"),
        (_drop("tensors", "stem.act"), "lacks the tensor 'stem.act'"),
        (_drop("tensors", "stem.act", "scale"), "has no scale"),
        (_set("tensors", "stem.act", "zeropoint", to=1), "'zeropoint' is not known"),
        (_set("tensors", to=[]), "an object whose members are named"),
        (_set("weights", "stem", "scales", to=[1.0]), "there are 1 scales"),
        (_set("weights", "stem", "scales", to=1.0), "scales is no list"),
        (_set("weights", "stem", "axis", to=1), "axis is 1"),
        (_drop("weights", "stem"), "lacks the weight of 'stem'"),
        (_set("weights", "stem.act", to={"axis": 0, "scales": [1.0]}), "has no weight|no quantised"),
        (_set("kept_float", "nothing", to="why"), "no operator makes 'nothing'"),
        (_set("kept_float", "stem", to=None), "give a string"),
        (_set("schema", to=2), "only schema 1 is read"),
        (_set("schema", to=True), "schema is True; only schema 1 is read"),
        (_set("schema", to=1.0), "schema is 1.0; only schema 1 is read"),
        (_set("tensors", "stem.act", "scale", to=10**400), "tensors, stem.act: scale is 1000.*; give a positive"),
        (_set("weights", "stem", "scales", to=[10**400] * 8), "weights, stem: scale is 1000.*; give a positive"),
        (_set("scheme", to="int3"), "scheme is 'int3'"),
        (_set("pool", to=1), "'pool' is not known"),
        (_set("tensors", "pool", "scale", to=0.125), "'flat' and 'pool' differ"),
    ],
)
def test_a_bad_edit_is_refused_with_its_place(planned, edit, says: str) -> None:
    model, plan = planned
    document = json.loads(plan.to_json())
    edit(document)
    with pytest.raises(QuantizeError, match=says) as caught:
        apply(model, Plan.from_json(json.dumps(document), where="plan.json"))
    assert caught.value.where


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"schema": ' + "1" * 5000 + "}"])
def test_no_json_is_refused(text: str) -> None:
    with pytest.raises(QuantizeError, match=r"a\.json: it is no JSON") as caught:
        Plan.from_json(text, where="a.json")
    assert len(str(caught.value)) < 400


def test_a_member_that_stands_twice_is_refused(planned) -> None:
    text = planned[1].to_json().replace('"stem.act": {', '"stem.act": {}, "stem.act": {', 1)
    with pytest.raises(QuantizeError, match=r"a\.json: 'stem\.act' stands twice in an object"):
        Plan.from_json(text, where="a.json")


def test_what_is_kept_in_float_without_a_reason_stays_float(planned) -> None:
    model, plan = planned
    kept = {**plan.kept_float, "fc": ""}
    edited = Plan.from_json(json.dumps(json.loads(plan.to_json()) | {"kept_float": kept}))
    (node,) = (node for node in apply(model, edited).graph if node.op_type == "Gemm")
    assert node.inputs[1].producer() is None  # no DequantizeLinear: the weight is float
    assert node.metadata_props[KEEP_FLOAT]


def test_a_scheme_of_any_size_is_told_briefly(planned) -> None:
    plain = json.loads(planned[1].to_json()) | {"scheme": "[" * 20_000}
    with pytest.raises(QuantizeError, match=r"scheme is .*choose of int8") as caught:
        Plan.from_json(json.dumps(plain))
    assert len(str(caught.value)) < 400


def test_an_average_has_a_range_beside_that_of_what_is_averaged() -> None:
    """The mean of what was normalized is rounding alone: with its own range XNNPACK's MEAN was 22 steps off."""
    g = Graph(0, input=(1, 8, 6, 6))
    constants = {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}
    g.constants |= constants
    g.add("InstanceNormalization", ["input", *constants], "n")
    g.add("GlobalAveragePool", ["n"], "m")
    model = g.model("m")
    tensors = make_plan(model, calibrate(model, data(model, 2))).tensors
    assert tensors["n"].scale / 2**13 < tensors["m"].scale < tensors["n"].scale / 2**11
