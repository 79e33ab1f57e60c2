"""Every operator against the test vectors of the ONNX project itself."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeconv.reference import OPERATORS, evaluate

# Operators of which onnx has no vectors; the other files of this folder test them.
WITHOUT = {
    "ConcatFromSequence",
    "GlobalLpPool",
    "QLinearConv",
    "Scatter",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceLength",
    "SplitToSequence",
}

LEFT_OUT = {
    "test_training_dropout_default": "random",
    "test_training_dropout_default_mask": "random",
    "test_training_dropout": "random",
    "test_training_dropout_mask": "random",
    "test_dynamicquantizelinear": "a tie that float32's division rounds the other way",
    "test_dynamicquantizelinear_expanded": "a tie that float32's division rounds the other way",
    "test_identity_sequence": "takes a sequence",
    "test_identity_opt": "takes an optional",
}
ROUNDED = {"test_averagepool_2d_ceil_last_window_starts_on_pad", "test_gridsample_bicubic"}  # vectors of 4 digits


# Volumes of 32 elements along each axis, which onnx pools in loops of Python, for seconds; smaller ones of these
# operators remain, and `make test-all` has all.
LARGE = {"export_averagepool_3d_default", "export_maxpool_3d_default"}


@pytest.fixture(scope="module")
def vectors(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    """onnx's test cases by operator; what is slow of them only where slow tests run."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        if "not slow" in request.config.getoption("-m"):
            _leave_out_large(patch)
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    by_operator: dict[str, list[Any]] = defaultdict(list)
    for case in cases:
        used = {node.op_type for node in case.model.graph.node}
        if len(used) == 1 and _is_dense(case.model) and case.name not in LEFT_OUT:
            by_operator[used.pop()].append(case)
    return by_operator


def _leave_out_large(patch: pytest.MonkeyPatch) -> None:
    """onnx computes a case as the class is made that holds it."""
    from onnx.backend.test.case import base

    every_case = base._Exporter.__init__

    def without_large(cls: Any, name: str, bases: Any, content: dict[str, Any]) -> None:
        every_case(cls, name, bases, {key: value for key, value in content.items() if key not in LARGE})

    patch.setattr(base._Exporter, "__init__", without_large)


def _is_dense(model: onnx.ModelProto) -> bool:
    """Whether inputs and outputs are tensors of numbers that the reference computes with: no strings, no sequences.

    Floats of 8 bits and less quantize, which the reference does not imitate, as outputs.
    """
    types = [value.type for value in (*model.graph.input, *model.graph.output)]
    is_known = all(item.HasField("tensor_type") and item.tensor_type.elem_type not in (8, 14, 15) for item in types)
    results = [ir.DataType(value.type.tensor_type.elem_type) for value in model.graph.output]
    return is_known and not any(item.is_floating_point() and item.bitwidth < 16 for item in results)


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - WITHOUT))
def test_computes_what_onnx_says(operator: str, vectors: dict[str, list[Any]]) -> None:
    assert vectors[operator], f"onnx has no test vector of {operator}"
    for case in vectors[operator]:
        model = ir.serde.deserialize_model(case.model)
        for inputs, outputs in case.data_sets:
            names = [value.name or "" for value in model.graph.inputs]
            values = evaluate(model, dict(zip(names, map(_array, inputs), strict=True)))
            for value, expected in zip(model.graph.outputs, map(_array, outputs), strict=True):
                _assert_close(case.name, values[value.name or ""], expected)


def _array(item: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else np.asarray(item)


def _assert_close(case: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape, case
    if ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs.astype(ours.dtype), err_msg=case)
        return
    precise = theirs.dtype.name in ("float32", "float64") and case not in ROUNDED
    rtol, atol = (1e-5, 1e-6) if precise else (1e-2, 1e-2)
    np.testing.assert_allclose(ours, theirs.astype(np.float64), rtol=rtol, atol=atol, err_msg=case)
