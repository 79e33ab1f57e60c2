"""Which operators a plan makes integer, and by which numbers: as the TFLite file then does."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from quantize_graphs import Graph, data, outputs, sqnr_db

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.emit.tflite import to_tflite
from edgeconv.quantize import Plan, apply, calibrate, keep_in_float, make_plan
from edgeconv.reference import evaluate


def _planned(model: ir.Model, scheme: str = "int8", keep_float: tuple[str, ...] = ()) -> Plan:
    options = QuantizationOptions(keep_float=keep_float)
    return make_plan(model, calibrate(model, data(model, 8)), scheme=scheme, options=options)


def _of_one(op: str, **attributes: object) -> ir.Model:
    """A convolution, the operator, and a convolution."""
    g = Graph(0, input=(1, 3, 8, 8))
    x = g.conv("input", "a", (4, 3, 1, 1))
    if op in ("Log", "Sqrt", "Reciprocal"):
        x = g.add("Add", [g.add("Abs", [x], "abs"), g.constant("one", np.float32(1.0))], "above")
    before, after = _OPERANDS.get(op, ((), ()))
    names = [
        [g.constant(f"{op}.{at}.{i}", np.array(one)) for i, one in enumerate(side)]
        for at, side in (("before", before), ("after", after))
    ]
    g.add(op, [*names[0], x, *names[1]], "b", **attributes)
    g.conv("b", "c", (4, 4, 1, 1))
    return g.model("c")


_ONES = np.ones(4, np.float32)
_OPERANDS = {
    "BatchNormalization": ((), (_ONES, _ONES, _ONES, _ONES)),
    "Div": ((), (7.0 * _ONES[:, None, None],)),
    "InstanceNormalization": ((), (_ONES, _ONES)),
    "Mul": ((), (np.float32(0.3),)),
    "PRelu": ((), (0.2 * _ONES[:, None, None],)),
    "Pow": ((), (np.float32(3.0),)),
    "ReduceL1": ((), (np.array([2, 3]),)),
    "ReduceSum": ((), (np.array([2, 3]),)),
    "Sum": ((), (0.1 * _ONES[:, None, None],)),
    "Where": ((np.arange(8) % 2 == 0,), (np.float32(0.5),)),
}
"""Constants before and after the activation."""

_SIMPLE = ("Abs", "Celu", "Cos", "Elu", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Log")
_SIMPLE += ("LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign")
_SIMPLE += ("Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh", "Trilu", *sorted(_OPERANDS))


@pytest.mark.parametrize("op", _SIMPLE)
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_the_plan_says_what_the_file_does(op: str, scheme: str) -> None:
    model = _of_one(op, **({"axis": 1} if op.endswith("Softmax") else {}))
    plan = _planned(model, scheme=scheme)
    notes = to_tflite(apply(model, plan), metadata={}).notes
    assert bool(notes) == bool(plan.kept_float), (notes, plan.kept_float)
    assert (op in ("Floor", "InstanceNormalization", "Pow", "Round", "Sign")) <= bool(plan.kept_float)


@pytest.mark.parametrize("op", ["Elu", "Selu", "Celu"])
def test_what_the_tables_of_int16_would_blur_is_kept_in_float_there(op: str) -> None:
    g = Graph(0, input=(1, 4, 12, 12))
    g.add(op, ["input"], "a", **({} if op == "Selu" else {"alpha": 0.2}))
    g.conv("a", "b", (4, 4, 1, 1))
    model = g.model("b")
    batches = [{name: 16 * array for name, array in batch.items()} for batch in data(model, 2)]
    calibration = calibrate(model, batches)
    assert make_plan(model, calibration).kept_float == {}
    plan = make_plan(model, calibration, scheme="int16x8")
    assert plan.kept_float == {"a": f"TFLite has no {op} of int16"}
    emitted = to_tflite(apply(model, plan), metadata={})
    assert any(note.startswith("EXP ") and "stays float" in note for note in emitted.notes)


@pytest.mark.parametrize("computed", [True, False])
def test_a_quotient_that_no_product_replaces_stays_float(computed: bool) -> None:
    g = Graph(0, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1))
    g.add("Div", ["a", g.add("Exp", ["a"], "e")] if computed else [g.constant("one", np.float32(1.0)), "a"], "b")
    model = g.model("b")
    kept = _planned(model).kept_float
    assert kept["b"] == "Div by zero or by what is computed has no integer form"
    if computed:
        assert kept["e"] == "it makes a divisor, which 8 bits would round to zero"
    else:
        assert kept["a"] == "Div tells apart what 8 bits would not"


def test_the_lowest_logarithms_of_classes_are_kept() -> None:
    g = Graph(0, input=(1, 3, 8, 8))
    g.conv("input", "a", (4, 3, 1, 1), gain=10.0)
    g.add("LogSoftmax", ["a"], "scores", axis=1)
    model = g.model("scores")
    plan = _planned(model)
    assert list(plan.kept_float) == ["scores"]
    assert plan.kept_float["scores"].endswith("and the integers of LogSoftmax end at -16")
    unseen = data(model, 4, seed=1)
    assert sqnr_db(outputs(evaluate, model, unseen), outputs(evaluate, apply(model, plan), unseen)) > 30
    mild = _of_one("LogSoftmax", axis=1)
    assert _planned(mild).kept_float == {}
    assert _planned(mild).tensors["b"].range() == (-15.9375, 0.0)


@pytest.mark.parametrize("dtype", ["int8", "int16x8"])
def test_a_saturated_gate_is_exactly_open_or_shut(dtype: str) -> None:
    model = _of_one("HardSigmoid")
    plan = _planned(model, scheme=dtype)
    low, high = plan.tensors["b"].range()
    assert high == pytest.approx(1.0, rel=1e-7)
    assert low == 0.0 or dtype == "int16x8"


def _gelu(tanh: bool, *, second_reader: bool = False, clamped: bool = False) -> ir.Model:
    g = Graph(0, input=(1, 3, 8, 8))
    x = g.conv("input", "a", (4, 3, 1, 1), gain=2.0)
    number = {name: g.constant(name, np.float32(value)) for name, value in _NUMBERS.items()}
    if tanh:
        g.add("Mul", [g.add("Pow", [x, number["three"]], "cube"), number["part"]], "small")
        gate = g.add("Tanh", [g.add("Mul", [g.add("Add", [x, "small"], "sum"), number["slope"]], "inner")], "gate")
    else:
        gate = g.add("Erf", [g.add("Div", [x, number["root"]], "inner")], "gate")
    g.add("Mul", [x, g.add("Add", [gate, number["one"]], "above")], "product")
    g.add("Mul", ["product", number["half"]], "gelu")
    result = g.add("Relu", ["gelu"], "relu") if clamped else "gelu"
    g.add("Add", [g.conv(result, "b", (4, 4, 1, 1)), "inner" if second_reader else result], "last")
    return g.model("last")


_NUMBERS = {
    "three": 3.0,
    "part": 0.044715,
    "slope": math.sqrt(2 / math.pi),
    "root": math.sqrt(2),
    "one": 1.0,
    "half": 0.5,
}


@pytest.mark.parametrize("tanh", [False, True])
def test_a_gelu_of_several_nodes_is_one_operator(tanh: bool) -> None:
    model = _gelu(tanh)
    plan = _planned(model)
    assert plan.kept_float == {}
    assert set(plan.tensors) == {"input", "a", "gelu", "b", "last"}
    quantized = apply(model, plan)
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph) == 5
    assert to_tflite(quantized, metadata={}).notes == ()
    unseen = data(model, 4, seed=1)
    assert sqnr_db(outputs(evaluate, model, unseen), outputs(evaluate, quantized, unseen)) > 28


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_a_clamp_behind_a_gelu_rounds_by_itself_where_the_gelu_is_float(scheme: str) -> None:
    """Of 16 bits each is, which is found out after calibration."""
    model = _gelu(tanh=False, clamped=True)
    plan = make_plan(model, calibrate(model, data(model, 8)), scheme=scheme)
    quantized, unseen = apply(model, plan), data(model, 4, seed=1)
    assert ("gelu" in plan.kept_float) is (scheme == "int16x8")
    assert sqnr_db(outputs(evaluate, model, unseen), outputs(evaluate, quantized, unseen)) > 28


@pytest.mark.parametrize("name", ["gelu", "gate"])
def test_a_gelu_stays_float_as_a_whole(name: str) -> None:
    model = _gelu(tanh=False)
    plan = _planned(model, keep_float=(name,))
    assert plan.kept_float == {"gelu": "it was asked for"}
    assert set(plan.tensors) == {"input", "a", "gelu", "b", "last"}
    assert "gelu" in keep_in_float(model, _planned(model), ["a"], "the worst").kept_float


def test_a_gelu_whose_inside_is_read_is_its_nodes() -> None:
    model = _gelu(tanh=False, second_reader=True)
    plan = _planned(model)
    assert {"inner", "product"} <= set(plan.tensors)
    assert plan.kept_float == {"gate": "Erf has no integer form"}


def test_what_stays_float_is_told_to_whoever_reads_the_graph() -> None:
    model = _of_one("Exp")
    plan = _planned(model, keep_float=("b",))
    told = {
        node.op_type: node.metadata_props["edgeconv.keep_float"]
        for node in apply(model, plan).graph
        if "edgeconv.keep_float" in node.metadata_props
    }
    assert told == {"Exp": "it was asked for"}
    assert not any("edgeconv.keep_float" in node.metadata_props for node in model.graph)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_magnitude_that_is_only_compared_is_not_rounded(is_read: bool) -> None:
    """Rounded, numbers next to the limit would lie on its other side; what is read besides has integers for that."""
    g = Graph(0, input=(1, 3, 8, 8))
    x = g.conv("input", "a", (4, 3, 1, 1))
    size = g.add("Abs", [x], "size")
    inside = g.add("LessOrEqual", [size, g.constant("limit", np.float32(0.5))], "inside")
    y = g.add("Where", [inside, g.constant("zero", np.float32(0.0)), x], "b")
    g.conv(g.add("Add", [y, size], "sum") if is_read else y, "c", (4, 4, 1, 1))
    plan = _planned(g.model("c"))
    assert ("size" in plan.tensors) is is_read
    assert ("size" in plan.kept_float) is not is_read


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_a_layer_whose_weights_are_all_zero_makes_its_bias(scheme: str, per_channel: bool) -> None:
    bias = np.array([-0.17, 0.14, 0.154, -0.021], np.float32)
    g = Graph(0, input=(1, 3, 8, 8))
    g.constant("weight", np.zeros((4, 3, 3, 3), np.float32))
    g.add("Conv", ["input", "weight", g.constant("bias", bias)], "a")
    model = g.model("a")
    options = QuantizationOptions(per_channel=per_channel)
    plan = make_plan(model, calibrate(model, data(model, 2)), scheme=scheme, options=options)
    (made,) = outputs(evaluate, apply(model, plan), data(model, 1))
    np.testing.assert_allclose(made, np.broadcast_to(bias[:, None, None], made.shape), atol=plan.tensors["a"].scale)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_operand_of_a_join_that_holds_no_elements_is_no_part(at: int) -> None:
    g = Graph(0, input=(1, 4, 8, 8))
    empty = g.constant("empty", np.zeros((1, 0, 8, 8), np.float32))
    boxes = g.add("Mul", ["input", g.constant("large", np.float32(640.0))], "boxes")
    operands = [boxes, g.add("Sigmoid", ["input"], "scores")]
    g.add("Concat", [*operands[:at], empty, *operands[at:]], "joined", axis=1)
    model = g.model("joined")
    calibration = calibrate(model, data(model, 2))
    assert len(calibration.parts["joined"][1].sizes) == 2
