"""Products with vectors: what numpy makes of them, exactly, and what onnxruntime and TFLite make of the files."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, cast, constant, graph, node, operators

from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.rewrite import optimize

STACKS = [(), (1,), (3,), (2, 3)]


@settings(deadline=None, max_examples=25)
@given(
    stack=st.sampled_from(STACKS), rows=st.integers(1, 5), summed=st.integers(1, 6), constant_vector=st.booleans(),
    left=st.booleans(),
)  # fmt: skip
def test_products_with_vectors_become_products_of_matrices_exactly(stack, rows, summed, constant_vector, left):
    vector, matrix = (summed,), (*stack, rows, summed)
    matrix = (*stack, summed, rows) if left else matrix
    inputs = {"matrix": matrix} if constant_vector else {"matrix": matrix, "vector": vector}
    constants = {"vector": np.random.default_rng(0).normal(size=vector)} if constant_vector else {}
    sides = ["vector", "matrix"] if left else ["matrix", "vector"]
    model = graph([node("MatMul", sides, "output")], inputs, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model).count("MatMul") == 1
    assert all(len(value.shape) > 1 for each in model.graph if each.op_type == "MatMul" for value in each.inputs)


def test_a_product_of_two_vectors_stays_exact():
    model = graph([node("MatMul", ["a", "b"], "output")], {"a": (7,), "b": (7,)}, ["output"], {})
    assert_rewritten_exactly(model)


def test_a_vector_with_two_readers_keeps_its_shape_for_the_other():
    nodes = [node("MatMul", ["matrix", "vector"], "product"), node("Add", ["matrix", "vector"], "sum")]
    vector = np.random.default_rng(0).normal(size=6)
    model = graph(nodes, {"matrix": (2, 5, 6)}, ["product", "sum"], {"vector": vector})
    assert_rewritten_exactly(model)
    assert constant(model, "vector").shape == (6,)


@pytest.mark.parametrize("skip", [(), ("multiply-matrices",)])
def test_onnxruntime_computes_the_product_of_a_transposed_matrix(skip):
    """Without the rewrite onnxruntime 1.32 is wrong here: when that ends, so may the rewrite."""
    rng = np.random.default_rng(0)
    nodes = [node("Transpose", ["x"], "t", perm=[0, 2, 1]), node("MatMul", ["t", "v"], "y")]
    vector = rng.normal(size=32).astype(np.float32)
    model = cast(graph(nodes, {"x": (1, 32, 32)}, ["y"], {"v": vector.astype(np.float64)}), onnx.TensorProto.FLOAT)
    x = rng.normal(size=(1, 32, 32)).astype(np.float32)
    file = to_onnx(optimize(model, skip=skip), metadata={}).data
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    error = np.abs(session.run(["y"], {"x": x})[0] - x.transpose(0, 2, 1).astype(np.float64) @ vector).max()
    assert (error < 1e-4) == (not skip)


def test_tflite_takes_it():
    nodes = [node("MatMul", ["x", "v"], "y")]
    model = cast(graph(nodes, {"x": (2, 5, 8)}, ["y"], {"v": np.ones(8)}), onnx.TensorProto.FLOAT)
    assert to_tflite(optimize(model), metadata={}).outputs[0].shape == (2, 5)
