"""Constants folded, no-ops removed, sequences replaced; names survive it all."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rewrite_graphs import assert_rewritten_exactly, constant, evaluate, graph, node, operators

from edgeconv.rewrite import optimize

INPUT = {"input": (2, 4, 6, 6)}
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def ints(*numbers):
    return np.array(numbers, np.int64)


def between(*nodes, constants=None, inputs=None):
    """The nodes between a Relu and a Tanh, so that neither end is an input or output of the graph."""
    first = node("Relu", ["input"], "before")
    last = node("Tanh", [nodes[-1].output[0]], "output")
    return graph([first, *nodes, last], inputs or INPUT, ["output"], constants or {})


# --- constants


def test_chains_of_constants_are_evaluated_in_float64_and_rounded_once():
    """A weight-standardised convolution: (w - mean(w)) / sqrt(var(w)), as torch's exporter leaves it."""
    rng = np.random.default_rng(1)
    w = rng.normal(3, 1, size=(5, 4, 3, 3)).astype(np.float32)
    nodes = [
        node("ReduceMean", ["w", "axes"], "mean"),
        node("Sub", ["w", "mean"], "centred"),
        node("Mul", ["centred", "centred"], "squares"),
        node("ReduceMean", ["squares", "axes"], "variance"),
        node("Sqrt", ["variance"], "deviation"),
        node("Div", ["centred", "deviation"], "weight"),
        node("Conv", ["input", "weight"], "output"),
    ]
    model = graph(nodes, {"input": (1, 4, 5, 5)}, ["output"], {"w": w, "axes": ints(1, 2, 3)}, FLOAT)
    optimize(model)
    centered = w.astype(np.float64) - w.astype(np.float64).mean((1, 2, 3), keepdims=True)
    expected = centered / np.sqrt((centered**2).mean((1, 2, 3), keepdims=True))
    assert operators(model) == ["Conv"]
    np.testing.assert_array_equal(constant(model, "weight"), expected.astype(np.float32))


def test_a_constant_is_folded_by_the_specification():
    """ONNX's own evaluator leaves out the absolute value of the 1-norm."""
    c = np.random.default_rng(0).standard_normal((1, 7, 3, 3))
    nodes = [node("LpNormalization", ["c"], "n", axis=1, p=1), node("Add", ["x", "n"], "y")]
    model = optimize(graph(nodes, {"x": [1, 7, 3, 3]}, ["y"], {"c": c}))
    assert operators(model) == ["Add"]
    np.testing.assert_allclose(constant(model, "n"), c / np.abs(c).sum(1, keepdims=True), rtol=1e-12)


def test_shapes_and_constant_nodes_become_initializers():
    nodes = [
        node("Shape", ["input"], "shape", start=0, end=1),
        node("Constant", [], "rest", value_ints=[-1]),
        node("Concat", ["shape", "rest"], "target", axis=0),
        node("Reshape", ["input", "target"], "output"),
    ]
    model = graph(nodes, INPUT, ["output"], {})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Reshape"]
    np.testing.assert_array_equal(constant(model, "target"), [2, -1])


def test_a_dynamic_shape_is_not_folded():
    nodes = [
        node("Shape", ["input"], "shape", start=0, end=1),
        node("Concat", ["shape", "rest"], "target", axis=0),
        node("Reshape", ["input", "target"], "output"),
    ]
    model = graph(nodes, {"input": ("batch", 4, 6)}, ["output"], {"rest": ints(-1)})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Shape", "Concat", "Reshape"]


def test_a_cast_of_a_float_constant_to_an_integer_truncates():
    nodes = [
        node("Div", ["seven", "three"], "ratio"),
        node("Cast", ["ratio"], "index", to=INT64),
        node("Gather", ["input", "index"], "output", axis=1),
    ]
    model = graph(nodes, INPUT, ["output"], {"seven": np.array(7.0), "three": np.array(3.0)})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Gather"]


def test_large_copies_of_small_constants_stay_computed():
    nodes = [node("Expand", ["one", "shape"], "wide"), node("Add", ["input", "wide"], "output")]
    constants = {"one": np.array(0.5), "shape": ints(1, 8, 128, 128)}
    model = graph(nodes, {"input": (1, 8, 128, 128)}, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Expand", "Add"]


def test_quantized_weights_and_random_numbers_stay():
    nodes = [
        node("DequantizeLinear", ["q", "scale"], "weight"),
        node("Conv", ["input", "weight"], "conv"),
        node("RandomNormal", [], "noise", shape=[1], dtype=FLOAT),
        node("Add", ["conv", "noise"], "output"),
    ]
    constants = {"q": np.ones((5, 4, 1, 1), np.int8), "scale": np.array(0.5, np.float32)}
    model = graph(nodes, INPUT, ["output"], constants, FLOAT)
    optimize(model)
    assert operators(model) == ["DequantizeLinear", "Conv", "RandomNormal", "Add"]


# --- no-ops

NO_OPS = {
    "identity": ([node("Identity", ["before"], "same")], {}),
    "dropout": ([node("Dropout", ["before"], "same")], {}),
    "cast": ([node("Cast", ["before"], "same", to=onnx.TensorProto.DOUBLE)], {}),
    "reshape": ([node("Reshape", ["before", "shape"], "same")], {"shape": ints(2, -1, 6, 6)}),
    "expand": ([node("Expand", ["before", "shape"], "same")], {"shape": ints(2, 1, 6, 1)}),
    "transpose": ([node("Transpose", ["before"], "same", perm=[0, 1, 2, 3])], {}),
    "pad": ([node("Pad", ["before", "pads"], "same")], {"pads": ints(*[0] * 8)}),
    "slice": ([node("Slice", ["before", "starts", "ends"], "same")], {"starts": ints(0, 0), "ends": ints(9, 4)}),
    "concat": ([node("Concat", ["before"], "same", axis=1)], {}),
    "add zero": ([node("Add", ["zero", "before"], "same")], {"zero": np.zeros((4, 1, 1))}),
    "times one": ([node("Mul", ["before", "one"], "same")], {"one": np.array([1.0])}),
    "divided by one": ([node("Div", ["before", "one"], "same")], {"one": np.array(1.0)}),
    "pool": ([node("MaxPool", ["before"], "same", kernel_shape=[1, 1])], {}),
    "clip": ([node("Clip", ["before"], "same")], {}),
    "tile": ([node("Tile", ["before", "repeats"], "same")], {"repeats": ints(1, 1, 1, 1)}),
    "join of one with nothing": (
        [node("Concat", ["empty", "before", "empty"], "same", axis=1)],
        {"empty": np.zeros((2, 0, 6, 6))},
    ),
    "two in a row": ([node("Identity", ["before"], "first"), node("Dropout", ["first"], "same")], {}),
}

OPERATIONS = {
    "transpose": ([node("Transpose", ["before"], "other", perm=[0, 1, 3, 2])], {}),
    "reversed slice": (
        [node("Slice", ["before", "starts", "ends", "axes", "steps"], "other")],
        {"starts": ints(5), "ends": ints(-99), "axes": ints(2), "steps": ints(-1)},
    ),
    "widening zero": ([node("Add", ["before", "zero"], "other")], {"zero": np.zeros((3, 2, 4, 6, 6))}),
    "reciprocal": ([node("Sub", ["zero", "before"], "other")], {"zero": np.array(0.0)}),
    "strided pool": ([node("MaxPool", ["before"], "other", kernel_shape=[1, 1], strides=[2, 2])], {}),
    "cast": ([node("Cast", ["before"], "i", to=INT64), node("Cast", ["i"], "other", to=onnx.TensorProto.DOUBLE)], {}),
}


@pytest.mark.parametrize("case", NO_OPS)
def test_what_changes_nothing_goes(case):
    nodes, constants = NO_OPS[case]
    model = between(*nodes, constants=constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu", "Tanh"]
    assert model.graph[0].outputs[0].name == "before"


@pytest.mark.parametrize("case", OPERATIONS)
def test_what_changes_something_stays(case):
    nodes, constants = OPERATIONS[case]
    model = between(*nodes, constants=constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu", *[item.op_type for item in nodes], "Tanh"]


def test_a_reshape_between_unknown_sizes_stays_unless_the_symbols_agree():
    nodes = [node("Flatten", ["before"], "same")]
    model = between(*nodes, inputs={"input": ("batch", 4)})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu", "Tanh"]
    model = between(
        node("Reshape", ["before", "shape"], "same"), constants={"shape": ints(-1)}, inputs={"input": ("n",)}
    )
    model.graph[1].outputs[0].shape = ir.Shape(["m"])
    optimize(model)
    assert operators(model) == ["Relu", "Reshape", "Tanh"]


def test_a_graph_output_keeps_its_name_and_its_value_remembers_the_module():
    nodes = [node("Relu", ["input"], "features.relu"), node("Identity", ["features.relu"], "output")]
    model = graph(nodes, INPUT, ["output"], {})
    assert_rewritten_exactly(model)
    (value,) = model.graph.outputs
    assert operators(model) == ["Relu"]
    assert value.metadata_props["edgeconv.module"] == "features.relu"


def test_a_no_op_between_input_and_output_stays():
    model = graph([node("Identity", ["input"], "output")], INPUT, ["output"], {})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Identity"]


def test_one_value_under_two_output_names_keeps_both():
    nodes = [node("Relu", ["input"], "first"), node("Identity", ["first"], "second")]
    model = graph(nodes, INPUT, ["first", "second"], {})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu", "Identity"]


def test_a_zero_bias_goes():
    constants = {"weight": np.ones((5, 4, 1, 1)), "zeros": np.zeros(5)}
    model = graph([node("Conv", ["input", "weight", "zeros"], "output")], INPUT, ["output"], constants)
    assert_rewritten_exactly(model)
    assert [value.name for value in model.graph[0].inputs if value] == ["input", "weight"]
    assert set(model.graph.initializers) == {"weight"}


# --- sequences


@pytest.mark.parametrize(("sizes", "count"), [(ints(2, 1, 3), 3), (np.array(4, np.int64), 2)])
def test_a_sequence_becomes_a_split(sizes, count):
    nodes = [node("SplitToSequence", ["input", "sizes"], "sequence", axis=-1)]
    positions = {f"at{index}": np.array(index - count if index == 1 else index, np.int64) for index in range(count)}
    nodes += [node("SequenceAt", ["sequence", name], f"part{name}") for name in positions]
    nodes.append(node("Concat", [f"part{name}" for name in reversed(positions)], "output", axis=3))
    model = graph(nodes, INPUT, ["output"], {"sizes": sizes, **positions})
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6))
    bounds = np.cumsum(sizes)[:-1] if sizes.ndim else [4]
    optimize(model)
    assert operators(model) == ["Split", "Concat"]
    assert [value.name for value in model.graph[0].outputs] == [f"part{name}" for name in positions]
    expected = np.concatenate(np.split(x, bounds, axis=3)[::-1], axis=3)
    np.testing.assert_array_equal(evaluate(model, {"input": x})["output"], expected)


def test_an_unbound_sequence_becomes_gathers():
    nodes = [
        node("SplitToSequence", ["input"], "sequence", axis=1, keepdims=0),
        node("SequenceAt", ["sequence", "at"], "output"),
    ]
    model = graph(nodes, INPUT, ["output"], {"at": np.array(-1, np.int64)})
    optimize(model)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6))
    assert operators(model) == ["Gather"]
    np.testing.assert_array_equal(evaluate(model, {"input": x})["output"], x[:, -1])


def test_a_part_that_is_taken_twice_has_both_names():
    nodes = [
        node("SplitToSequence", ["input", "sizes"], "sequence", axis=1),
        node("SequenceAt", ["sequence", "zero"], "first"),
        node("SequenceAt", ["sequence", "zero"], "second"),
    ]
    constants = {"sizes": np.array(2, np.int64), "zero": np.array(0, np.int64)}
    model = graph(nodes, INPUT, ["first", "second"], constants)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6))
    optimize(model)
    values = evaluate(model, {"input": x})
    np.testing.assert_array_equal(values["first"], x[:, :2])
    np.testing.assert_array_equal(values["second"], x[:, :2])


@pytest.mark.parametrize("position", [4, -5, 2**40])
def test_a_part_that_a_sequence_does_not_have_is_left_to_the_runtime(position):
    nodes = [node("SplitToSequence", ["input"], "sequence", axis=1), node("SequenceAt", ["sequence", "at"], "output")]
    model = graph(nodes, INPUT, ["output"], {"at": np.array(position, np.int64)})
    optimize(model)
    assert operators(model) == ["SplitToSequence", "SequenceAt"]
