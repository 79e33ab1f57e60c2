"""Arrays that link 3 computes when they are asked for: each once while it is near, and few in memory at a time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core import Array
from edgeconv.errors import RewriteError
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._on_demand import NotComputedError, OnDemand, held_on_demand
from edgeconv.parity.writing._tensors import Tensors


def test_arrays_that_were_asked_for_last_stay_and_others_are_computed_anew() -> None:
    computed: list[str] = []

    def compute(name: str) -> dict[str, Array]:
        computed.append(name)
        return {name: np.full(4, float(name))}

    arrays = OnDemand(["1", "2", "3"], compute, most=8)
    assert [float(arrays[name][0]) for name in ("1", "2", "1", "3", "2", "1")] == [1, 2, 1, 3, 2, 1]
    assert computed == ["1", "2", "3", "1"]  # with the third, the first is left behind
    assert (list(arrays), len(arrays), "4" in arrays, arrays.get("4")) == (["1", "2", "3"], 3, False, None)


def test_a_graph_is_evaluated_group_by_group_with_the_same_numbers() -> None:
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[2, 1500000] x) => (float[2, 1500000] c)'
    graph = Graph(ir.from_onnx_text(f"{text} {{ a = Neg(x) b = Relu(a) c = Add(b, a) }}"))
    x = np.random.default_rng(0).standard_normal((2, 1_500_000)).astype(np.float32)
    values = graph.values({"x": x}, {}, ["a", "b", "c"])
    arrays = held_on_demand(graph, {"x": x}, values, {}, ["c", "a", "b"])
    assert list(arrays) == ["a", "b", "c"]
    assert all(np.array_equal(arrays[name], values[name]) for name in ("c", "a", "b"))


def test_what_a_graph_does_not_compute_is_told_from_what_a_file_does_not() -> None:
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[2] x, float[2] y) => (float[2] c)'
    graph = Graph(ir.from_onnx_text(f"{text} {{ a = Neg(x) c = Add(a, y) }}"))
    operands = {"x": np.zeros(2), "y": np.zeros(2)}, {"a": np.zeros(3)}
    with pytest.raises(NotComputedError):
        held_on_demand(graph, *operands, {}, ["c"], NotComputedError)["c"]
    with pytest.raises(RewriteError) as told:
        held_on_demand(graph, *operands, {}, ["c"])["c"]
    assert not isinstance(told.value, NotComputedError)


def test_tensors_are_read_from_elsewhere_until_they_are_stored() -> None:
    tensors = Tensors({0: np.zeros(1)})
    tensors.read_from(0, lambda: np.ones(1))
    others = tensors.with_others({1: np.full(1, 2.0)})
    assert (float(tensors[0][0]), 1 in tensors, sorted(others)) == (1.0, False, [0, 1])
    others[0] = np.full(1, 3.0)
    others.drop(1)
    assert (float(others[0][0]), float(tensors[0][0]), len(others)) == (3.0, 1.0, 1)
