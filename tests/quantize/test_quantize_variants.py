"""Variants as they are asked for: a plan that is fed back, and what is refused or told."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import onnx_ir as ir
import pytest
from quantize_graphs import Graph, data

from edgeconv.core.search_target import Target
from edgeconv.errors import QuantizeError
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent


def _made(model: ir.Model, name: str, **asked: object) -> Variant:
    (variant,) = variants_of(model, (name,), Quantization(**asked), Silent())  # type: ignore[arg-type]
    return variant


def _wide() -> ir.Model:
    """Two convolutions whose weights are worth storing in 8 bits."""
    g = Graph(0, input=(1, 16, 4, 4))
    g.conv(g.add("Relu", [g.conv("input", "a", (16, 16, 3, 3))], "b"), "c", (80, 16, 1, 1))
    return g.model("c")


def _dequantized(variant: Variant) -> dict[str, np.ndarray]:
    """The scales of the weights that are stored as integers, by the weight's name."""
    nodes = [node for node in variant.model.graph if node.op_type == "DequantizeLinear"]
    return {node.outputs[0].name: node.inputs[1].const_value.numpy() for node in nodes}


def test_an_edited_plan_of_weights_is_obeyed() -> None:
    model = _wide()
    plan = _made(model, "int8-weights").plan
    twice = dataclasses.replace(plan.weights["c"], scales=tuple(2 * one for one in plan.weights["c"].scales))
    edited = dataclasses.replace(plan, weights={**plan.weights, "c": twice}, kept_float={"a": "as it was edited"})
    made = _made(model, "int8-weights", plan=edited.to_json())
    assert made.plan == edited
    scales = _dequantized(made)
    assert list(scales) == ["c.weight"]  # `a` has a scale in the plan, and stays float
    np.testing.assert_array_equal(scales["c.weight"], np.float32(twice.scales))


@pytest.mark.parametrize("equalize", [True, False])
def test_an_activation_can_stay_float_while_the_layer_before_it_does_not(equalize: bool) -> None:
    model = _wide()
    made = _made(model, "int8", batches=lambda: data(model, 2), keep_float=("b",), equalize=equalize)
    assert list(made.plan.kept_float.values()) == ["it was asked for"]
    (relu,) = (node for node in made.model.graph if node.op_type == "Relu")
    assert relu.inputs[0].producer().op_type == "DequantizeLinear"  # what the convolution makes is quantized by itself
    first = "a.equalized" if equalize else "a.reordered"  # whose channels the second layer reads in pairs
    assert list(made.plan.weights) == [first, "c"]


def test_an_equalized_layer_stays_float_by_the_name_of_its_module() -> None:
    model = _wide()
    made = _made(model, "int8", batches=lambda: data(model, 2), keep_float=("a",))
    assert list(made.plan.weights) == ["c"]


@pytest.mark.parametrize(
    "asked",
    [
        {"plan": "{}"},
        {"observer": "min-max"},
        {"target": Target(sqnr_db=30.0)},
        {"rounding": "learned"},
        {"equalize": False},
    ],
)
def test_a_graph_that_is_quantized_already_refuses_choices(asked: dict[str, object]) -> None:
    model = _wide()
    quantized = _made(model, "int8", batches=lambda: data(model, 2)).model
    assert _made(quantized, "int8", batches=lambda: data(model, 2), io="int8").io == "int8"
    with pytest.raises(QuantizeError, match=f"{next(iter(asked))}: the model is quantized already"):
        _made(quantized, "int8", **asked)


def test_a_plan_without_data_rounds_to_nearest_and_says_so() -> None:
    model = _wide()
    plan = _made(model, "int8", batches=lambda: data(model, 4)).plan
    text = plan.to_json()
    told, nearest = _made(model, "int8", plan=text), _made(model, "int8", plan=text, rounding="nearest")
    assert told.notes == ("int8: weights are rounded to nearest: rounding with feedback needs data",)
    assert nearest.notes == ()
    assert _serialized(told) == _serialized(nearest)
    with_data = _made(model, "int8", plan=text, batches=lambda: data(model, 4))
    assert with_data.notes == ()
    assert _serialized(with_data) != _serialized(nearest)


@pytest.mark.parametrize("rounding", ["corrected", "learned"])
def test_rounding_that_was_asked_for_is_not_left_out(rounding: str) -> None:
    model = _wide()
    plan = _made(model, "int8", batches=lambda: data(model, 4)).plan
    with pytest.raises(QuantizeError, match="there is no calibration data"):
        _made(model, "int8", plan=plan.to_json(), rounding=rounding)


def _serialized(variant: Variant) -> bytes:
    return bytes(ir.to_proto(variant.model).SerializeToString(deterministic=True))


@pytest.mark.parametrize("name", ["int8", "int8-weights"])
def test_what_is_asked_to_stay_float_does_beside_what_a_plan_says(name: str) -> None:
    model = _wide()
    plan = _made(model, name, batches=lambda: data(model, 4)).plan.to_json()
    made = _made(model, name, plan=plan, keep_float=("a",))
    assert "c.weight" in _dequantized(made)
    assert not [value for value in _dequantized(made) if value.startswith("a")]
    assert any("stays float: it was asked for" in note for note in made.notes) or name == "int8-weights"
    with pytest.raises(QuantizeError, match=r"^r\.toml: quantize\.keep_float: no operator makes 'd'"):
        _made(model, name, plan=plan, keep_float=("d",), places={"keep_float": "r.toml: quantize.keep_float"})


@pytest.mark.parametrize("plan", [{}, b"{}", None])
def test_a_plan_that_is_no_text_is_refused(plan: object) -> None:
    with pytest.raises(QuantizeError, match=r"plan: it is (bytes|None|an? [A-Za-z]+); give its text"):
        Quantization(plan=plan)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("tensors", {}), "e.json, tensors: it lacks"),
        (("scheme", "int16x8"), "e.json: it is a plan of"),
        (("pool", 1), "e.json: 'pool'"),
    ],
)
def test_errors_of_a_plan_name_its_file(edit: tuple[str, object], says: str) -> None:
    model = _wide()
    plan = json.loads(_made(model, "int8", batches=lambda: data(model, 4)).plan.to_json())
    text = json.dumps(plan | {"tensors": {}} | dict([edit]))
    with pytest.raises(QuantizeError, match=f"^{says}"):
        _made(model, "int8", plan=text, places={"plan": "e.json"})


def test_data_of_foreign_bytes_is_refused() -> None:
    model = _wide()
    swapped = [{name: array.astype(">f4") for name, array in batch.items()} for batch in data(model, 2)]
    with pytest.raises(QuantizeError, match="calibration data: batch 1 holds a >f4 array; give arrays of numpy"):
        _made(model, "int8", batches=lambda: swapped)


def _ends_the_process():
    yield data(_wide(), 1)[0]
    sys.exit("enough")


def test_data_that_end_the_process_are_refused() -> None:
    with pytest.raises(QuantizeError, match=r"it called sys\.exit\('enough'\) after 1 batches"):
        _made(_wide(), "int8", batches=_ends_the_process)


def test_relu6_as_relu_needs_no_data_where_there_is_a_plan() -> None:
    g = Graph(0, input=(1, 4, 4, 4))
    g.conv(g.clip(g.conv("input", "a", (4, 4, 3, 3)), "b"), "c", (4, 4, 1, 1))
    model = g.model("c")
    plan = _made(model, "int8", batches=lambda: data(model, 4), relu6_as_relu=True).plan
    assert any("not measured" in note for note in _made(model, "int8", plan=plan.to_json(), relu6_as_relu=True).notes)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (
            np.zeros((1, 16, 4, 4)),
            r"batch 1, input 'input': it is float64, and the model takes float32; give array.ast",
        ),
        (np.zeros((1, 16, 4, 4), np.uint8), r"it is uint8, and the model takes float32"),
        (np.zeros((16, 4, 4), np.float32), r"and the model takes \(1, 16, 4, 4\); .* give array\[None\]"),
        (np.zeros((1, 4, 4, 16), np.float32), r"its channels are last: give numpy.moveaxis\(array, -1, 1\)"),
        (np.zeros((2, 16, 4, 4), np.float32), r"it has the shape \(2, 16, 4, 4\)"),
    ],
)
def test_calibration_data_that_do_not_fit_are_named_for_what_they_are(array: np.ndarray, says: str) -> None:
    with pytest.raises(QuantizeError, match=says):
        _made(_wide(), "int8", batches=lambda: [{"input": array}])
