"""Constants and nodes that are there twice; names survive."""

from __future__ import annotations

import numpy as np
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

from edgeconv.rewrite.merge_common import MergeCommonPass

INPUT = {"input": (2, 4, 6, 6)}


def test_equal_nodes_and_constants_are_merged():
    nodes = [
        node("Clip", ["input", "low1", "high1"], "first"),
        node("Clip", ["input", "low2", "high2"], "second"),
        node("Add", ["first", "second"], "output"),
    ]
    constants = {"low1": np.array(0.0), "low2": np.array(0.0), "high1": np.array(6.0), "high2": np.array(6.0)}
    model = graph(nodes, INPUT, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Clip", "Add"]
    assert set(model.graph.initializers) == {"low1", "high1"}


def test_twins_that_are_graph_outputs_keep_their_names():
    nodes = [node("Relu", ["input"], "first"), node("Relu", ["input"], "second"), node("Neg", ["first"], "third")]
    model = graph(nodes, INPUT, ["second", "third"], {})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu", "Neg"]
    assert model.graph.outputs[0].metadata_props["edgeconv.module"] == "first"
    both = graph(nodes[:2], INPUT, ["first", "second"], {})
    assert_rewritten_exactly(both)
    assert operators(both) == ["Relu", "Identity"]


def test_a_layer_that_is_called_twice_on_one_value_is_computed_once():
    """Its normalization is folded into each call's weight; these are equal, however large they are."""
    rng = np.random.default_rng(0)
    weight, other = rng.standard_normal((2, 40, 4, 3, 3))
    other[-1, -1, -1, -1] = weight[-1, -1, -1, -1]
    almost = weight.copy()
    almost[1, 2, 0, 1] += 1e-12
    nodes = [
        node("Conv", ["input", "w1"], "first"),
        node("Conv", ["input", "w2"], "second"),
        node("Conv", ["input", "w3"], "third"),
        node("Conv", ["input", "w4"], "fourth"),
        node("Concat", ["first", "second", "third", "fourth"], "output", axis=1),
    ]
    model = graph(nodes, INPUT, ["output"], {"w1": weight, "w2": weight.copy(), "w3": other, "w4": almost})
    MergeCommonPass()(model)
    assert operators(model) == ["Conv", "Conv", "Conv", "Concat"]
    assert set(model.graph.initializers) == {"w1", "w3", "w4"}, "w4 would only round to the same float32"
