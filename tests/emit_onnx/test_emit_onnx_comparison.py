"""A rewritten graph is held to what the graph computes, and to its roundings: a moved last bit is no fault.

Members thought of: no roundings, roundings behind a moved last bit, another scale, another zero point, a pair that is
gone, one of two equal pairs that is gone, a changed function between roundings, integers that only move, as outputs.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.emit.onnx._comparison import computes_the_same

_ELEMENTS = 1 << 19  # one number in some 50,000 lies next to the border between two integers


def _graph(nodes: list[onnx.NodeProto], output_type: int = TensorProto.FLOAT, **constants: object) -> onnx.ModelProto:
    numbers = {"scale": np.float32(0.0131), "point": np.uint8(3), "a": np.float32(1 / np.log(10)), "b": np.float32(10)}
    numbers |= {"ab": np.float32(np.float64(numbers["a"]) * 10)} | constants
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "rounded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, _ELEMENTS])],
        [helper.make_tensor_value_info("y", output_type, [1, _ELEMENTS])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in numbers.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _pair(source: str, result: str, scale: str = "scale", point: str = "point") -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, point], [f"{result}.q"]),
        helper.make_node("DequantizeLinear", [f"{result}.q", scale, point], [result]),
    ]


def _products(*factors: str, result: str = "p") -> list[onnx.NodeProto]:
    names = ["x", *(f"p{index}" for index in range(len(factors) - 1)), result]
    return [helper.make_node("Mul", [names[index], factor], [names[index + 1]]) for index, factor in enumerate(factors)]


def _negated(source: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Neg", [source], ["y"])]


_BEFORE = _graph([*_products("a", "b"), *_pair("p", "r"), *_negated("r")])


def test_a_step_behind_a_moved_last_bit_is_no_fault() -> None:
    after = _graph([*_products("ab"), *_pair("p", "r"), *_negated("r")])
    assert computes_the_same(after, _BEFORE)


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("scale", _graph([*_products("ab"), *_pair("p", "r"), *_negated("r")], scale=np.float32(0.0132))),
        ("zero point", _graph([*_products("ab"), *_pair("p", "r"), *_negated("r")], point=np.uint8(4))),
        ("a pair that is gone", _graph([*_products("ab"), *_negated("p")])),
        ("another function", _graph([*_products("a"), *_pair("p", "r"), *_negated("r")])),
        ("behind the roundings", _graph([*_products("ab"), *_pair("p", "r"), helper.make_node("Abs", ["r"], ["y"])])),
    ],
)
def test_what_computes_something_else_is_told(what: str, after: onnx.ModelProto) -> None:
    assert not computes_the_same(after, _BEFORE), what


def test_without_roundings_a_step_is_a_fault() -> None:
    before = _graph([helper.make_node("Floor", ["x"], ["y"])])
    after = _graph([helper.make_node("Ceil", ["x"], ["y"])])
    assert not computes_the_same(after, before)


def test_of_two_equal_pairs_one_may_be_kept() -> None:
    total = [helper.make_node("Add", ["r", "s"], ["y"])]
    before = _graph([*_products("a", "b"), *_pair("p", "r"), *_pair("p", "s"), *total])
    after = _graph([*_products("ab"), *_pair("p", "r"), helper.make_node("Add", ["r", "r"], ["y"])])
    assert computes_the_same(after, before)


def test_integers_that_only_move_to_an_output_are_compared() -> None:
    moved = [
        helper.make_node("QuantizeLinear", ["p", "scale", "point"], ["q"]),
        helper.make_node("Flatten", ["q"], ["y"]),
    ]
    before = _graph([*_products("a", "b"), *moved], TensorProto.UINT8)
    assert computes_the_same(_graph([*_products("ab"), *moved], TensorProto.UINT8), before)
    assert not computes_the_same(_graph([*_products("b"), *moved], TensorProto.UINT8), before)
