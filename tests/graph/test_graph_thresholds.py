"""Thresholds that a comparison and a Where spell out."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgeconv.graph.thresholds import inside, is_compared, threshold_of


def _graph(body: str, x: str = "float[2, 3] x", y: str = "float[2, 3] y") -> ir.Graph:
    text = f"""<ir_version: 9, opset_import: ["": 20]> g ({x}) => ({y})
        <float limit = {{0.5}}, float other = {{-0.75}}, float[3] limits = {{0.0, 1.0, 2.0}}> {{ {body} }}"""
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph


@pytest.mark.parametrize(
    ("body", "of_magnitude"),
    [
        ("c = LessOrEqual(x, limit) y = Where(c, other, x)", False),
        ("c = Greater(x, limit) y = Where(c, x, other)", False),
        ("b = Abs(x) c = LessOrEqual(b, limit) y = Where(c, other, x)", True),
    ],
)
def test_a_number_above_a_limit_else_a_constant(body: str, of_magnitude: bool) -> None:
    graph = _graph(body)
    threshold = threshold_of(graph[-1])
    assert threshold is not None
    assert (threshold.x.name, threshold.limit, threshold.value) == ("x", 0.5, -0.75)
    assert (threshold.magnitude is not None) is of_magnitude
    assert {*inside(graph[-1], threshold)} == {*graph} - {graph[-1]}


@pytest.mark.parametrize(
    "body",
    [
        "c = Less(x, limit) y = Where(c, other, x)",  # at the limit it is x
        "c = GreaterOrEqual(x, limit) y = Where(c, x, other)",
        "c = LessOrEqual(x, limit) y = Where(c, x, other)",  # below it, x
        "c = Greater(x, limit) y = Where(c, other, x)",
        "c = LessOrEqual(limit, x) y = Where(c, other, x)",
        "c = LessOrEqual(x, limits) y = Where(c, other, x)",
        "b = Neg(x) c = LessOrEqual(b, limit) y = Where(c, other, x)",
        "b = Neg(x) c = LessOrEqual(x, limit) y = Where(c, b, x)",
    ],
)
def test_another_choice_is_none(body: str) -> None:
    graph = _graph(body)
    assert [threshold_of(node) for node in graph] == [None] * len(graph)


def test_what_is_broadcast_is_none() -> None:
    graph = _graph("c = LessOrEqual(x, limits) y = Where(c, other, x)", x="float[2, 1] x")
    assert threshold_of(graph[-1]) is None


def test_what_others_read_is_to_be_computed() -> None:
    graph = _graph("c = LessOrEqual(x, limit) y = Where(c, other, x)", y="float[2, 3] y, bool[2, 3] c")
    threshold = threshold_of(graph[-1])
    assert threshold is not None
    assert [*inside(graph[-1], threshold)] == []


def test_a_magnitude_that_others_read_is_to_be_computed() -> None:
    graph = _graph("b = Abs(x) c = LessOrEqual(b, limit) y = Where(c, other, x) d = Neg(b)")
    threshold = threshold_of(graph[2])
    assert threshold is not None
    assert [node.op_type for node in inside(graph[2], threshold)] == ["LessOrEqual"]


@pytest.mark.parametrize(("body", "compared"), [("c = Less(b, limit)", True), ("c = Less(b, limit) d = Neg(b)", False)])
def test_what_is_compared_only(body: str, compared: bool) -> None:
    graph = _graph(f"b = Abs(x) {body}", y="bool[2, 3] c")
    assert is_compared(graph[0]) is compared


def test_an_output_is_not_compared_only() -> None:
    assert not is_compared(_graph("y = Abs(x) c = Less(y, limit)", y="float[2, 3] y, bool[2, 3] c")[0])
