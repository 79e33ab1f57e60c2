"""Operator versions and the oldest runtime that has them, and that runtimes do run what such files hold.

The facts are those of op_version.cc and runtime_version.cc in TensorFlow's tensorflow/lite/tools/versioning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeconv.emit.tflite as room
from edgeconv.emit.tflite._graph import Operator, Tensor
from edgeconv.emit.tflite.file._integer_versions import SINCE_OF_INTEGERS
from edgeconv.emit.tflite.file._versions import SINCE, minimum_runtime, version_of
from edgeconv.errors import EmitError

_FLOAT, _INT32, _INT64, _BOOL, _HALF = np.float32, np.int32, np.int64, np.bool_, np.float16
_IMAGE, _FIVE, _SIX = (1, 8, 8, 4), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6)

# operator, element type, shapes of its inputs, options, version, first runtime
_FACTS: list[tuple[str, Any, list[tuple[int, ...]], dict[str, Any], int, str]] = [
    ("ABS", _FLOAT, [_IMAGE], {}, 1, "1.13.0"),
    ("ADD", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.5.0"),
    ("ADD", _INT32, [_IMAGE, _IMAGE], {}, 1, "1.5.0"),
    ("ADD", _INT64, [_IMAGE, _IMAGE], {}, 4, "2.6.0"),
    ("ARG_MAX", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.9.0"),
    ("ARG_MIN", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.9.0"),
    ("AVERAGE_POOL_2D", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("BATCH_MATMUL", _FLOAT, [(1, 3, 4), (1, 4, 5)], {}, 1, "2.3.0"),
    ("CAST", _INT64, [_IMAGE], {}, 1, "1.5.0"),
    ("CAST", _HALF, [_IMAGE], {}, 5, "2.12.0"),
    ("CEIL", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("CONCATENATION", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.5.0"),
    ("CONV_2D", _FLOAT, [_IMAGE, (6, 3, 3, 4), (6,)], {}, 1, "1.5.0"),
    ("CONV_2D", _FLOAT, [_IMAGE, (6, 3, 3, 2), (6,)], {}, 6, "2.9.0"),
    ("COS", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("CUMSUM", _FLOAT, [_IMAGE, ()], {}, 1, "2.4.0"),
    ("DEPTHWISE_CONV_2D", _FLOAT, [_IMAGE, (1, 3, 3, 4), (4,)], {}, 1, "1.5.0"),
    ("DEPTHWISE_CONV_2D", _FLOAT, [_IMAGE, (1, 3, 3, 4), (4,)], {"dilationWFactor": 2}, 2, "1.12.0"),
    ("DEPTH_TO_SPACE", _FLOAT, [_IMAGE], {}, 1, "2.1.0"),
    ("DIV", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.6.0"),
    ("DIV", _FLOAT, [_FIVE, _FIVE], {}, 1, "1.6.0"),
    ("DIV", _FLOAT, [_FIVE, (1,)], {}, 2, "2.3.0"),
    ("EQUAL", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.14.0"),
    ("EXP", _FLOAT, [_IMAGE], {}, 1, "1.7.0"),
    ("FLOOR", _FLOAT, [_IMAGE], {}, 1, "1.9.0"),
    ("FLOOR_MOD", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.13.0"),
    ("FULLY_CONNECTED", _FLOAT, [(1, 4), (5, 4), (5,)], {}, 1, "1.5.0"),
    ("FULLY_CONNECTED", _FLOAT, [(1, 2, 4), (5, 4), (5,)], {"keepNumDims": True}, 5, "2.0.0"),
    ("FULLY_CONNECTED", _FLOAT, [(1, 4), (5, 4)], {}, 6, "2.1.0"),
    ("GATHER", _FLOAT, [_IMAGE, (2,)], {}, 1, "1.6.0"),
    ("GATHER", _BOOL, [_IMAGE, (2,)], {}, 3, "1.15.0"),
    ("GATHER", _FLOAT, [(2, 9, 3), (2, 4)], {"batchDims": 1}, 5, "2.5.0"),
    ("GELU", _FLOAT, [_IMAGE], {}, 1, "2.9.0"),
    ("GREATER", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.14.0"),
    ("GREATER_EQUAL", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.14.0"),
    ("HARD_SWISH", _FLOAT, [_IMAGE], {}, 1, "1.15.0"),
    ("LEAKY_RELU", _FLOAT, [_IMAGE], {}, 1, "1.13.1"),
    ("LESS", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.14.0"),
    ("LESS_EQUAL", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.14.0"),
    ("LOG", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("LOGICAL_AND", _BOOL, [_IMAGE, _IMAGE], {}, 1, "1.11.0"),
    ("LOGICAL_NOT", _BOOL, [_IMAGE], {}, 1, "1.11.0"),
    ("LOGICAL_OR", _BOOL, [_IMAGE, _IMAGE], {}, 1, "1.11.0"),
    ("LOGISTIC", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("LOG_SOFTMAX", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("MAXIMUM", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.14.0"),
    ("MAXIMUM", _FLOAT, [_FIVE, (1,)], {}, 3, "2.3.0"),
    ("MAX_POOL_2D", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("MEAN", _FLOAT, [_IMAGE, (2,)], {}, 1, "1.6.0"),
    ("MINIMUM", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.14.0"),
    ("MINIMUM", _FLOAT, [_FIVE, (1,)], {}, 3, "2.3.0"),
    ("MUL", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.5.0"),
    ("MUL", _INT64, [_IMAGE, (1,)], {}, 5, "2.6.0"),
    ("NEG", _INT64, [_IMAGE], {}, 1, "1.9.0"),
    ("NOT_EQUAL", _FLOAT, [_IMAGE, _IMAGE], {}, 1, "1.14.0"),
    ("PAD", _FLOAT, [_IMAGE, (4, 2)], {}, 1, "1.5.0"),
    ("PAD", _FLOAT, [_FIVE, (5, 2)], {}, 4, "2.6.0"),
    ("PADV2", _FLOAT, [_IMAGE, (4, 2), (1,)], {}, 1, "1.9.0"),
    ("PADV2", _FLOAT, [_FIVE, (5, 2), (1,)], {}, 4, "2.6.0"),
    ("POW", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.10.0"),
    ("PRELU", _FLOAT, [_IMAGE, (1, 1, 4)], {}, 1, "1.8.0"),
    ("REDUCE_MAX", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.11.0"),
    ("REDUCE_MIN", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.11.0"),
    ("REDUCE_PROD", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.11.0"),
    ("RELU", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("RELU6", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("RELU_N1_TO_1", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("RESHAPE", _FLOAT, [_IMAGE, (2,)], {}, 1, "1.5.0"),
    ("RESIZE_BILINEAR", _FLOAT, [_IMAGE, (2,)], {"alignCorners": True}, 1, "1.7.0"),
    ("RESIZE_BILINEAR", _FLOAT, [_IMAGE, (2,)], {"halfPixelCenters": True}, 3, "2.2.0"),
    ("RESIZE_NEAREST_NEIGHBOR", _FLOAT, [_IMAGE, (2,)], {}, 1, "1.13.1"),
    ("RESIZE_NEAREST_NEIGHBOR", _FLOAT, [_IMAGE, (2,)], {"alignCorners": True}, 3, "2.3.0"),
    ("ROUND", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("RSQRT", _FLOAT, [_IMAGE], {}, 1, "1.10.0"),
    ("REVERSE_SEQUENCE", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.14.0"),
    ("SCATTER_ND", _FLOAT, [(4, 1), (4,), (1,)], {}, 1, "2.1.0"),
    ("SELECT_V2", _BOOL, [_IMAGE, _IMAGE, _IMAGE], {}, 1, "2.2.0"),
    ("SIN", _FLOAT, [_IMAGE], {}, 1, "1.9.0"),
    ("SLICE", _FLOAT, [_IMAGE, (4,), (4,)], {}, 1, "1.14.0"),
    ("SLICE", _FLOAT, [_FIVE, (5,), (5,)], {}, 5, "2.5.0"),
    ("SOFTMAX", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("SPACE_TO_DEPTH", _FLOAT, [_IMAGE], {}, 1, "1.5.0"),
    ("SPLIT", _FLOAT, [(), _IMAGE], {}, 1, "1.5.0"),
    ("SPLIT", _INT32, [(), _IMAGE], {}, 3, "1.14.0"),
    ("SQRT", _FLOAT, [_IMAGE], {}, 1, "1.10.0"),
    ("SQUARE", _FLOAT, [_IMAGE], {}, 1, "1.12.0"),
    ("STRIDED_SLICE", _FLOAT, [_IMAGE, (4,), (4,), (4,)], {}, 1, "1.6.0"),
    ("STRIDED_SLICE", _BOOL, [_IMAGE, (4,), (4,), (4,)], {}, 3, "2.1.0"),
    ("STRIDED_SLICE", _FLOAT, [_FIVE, (5,), (5,), (5,)], {}, 4, "2.2.0"),
    ("SUB", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.6.0"),
    ("SUB", _FLOAT, [_FIVE, (1,)], {}, 3, "2.3.0"),
    ("SUB", _INT64, [_IMAGE, (1,)], {}, 4, "2.4.0"),
    ("SUB", _INT64, [_FIVE, (1,)], {}, 4, "2.4.0"),
    ("SUM", _FLOAT, [_IMAGE, (1,)], {}, 1, "1.10.0"),
    ("TANH", _FLOAT, [_IMAGE], {}, 1, "1.14.0"),
    ("TOPK_V2", _FLOAT, [_IMAGE, ()], {}, 1, "1.7.0"),
    ("TRANSPOSE", _FLOAT, [_IMAGE, (4,)], {}, 1, "1.6.0"),
    ("TRANSPOSE", _BOOL, [_IMAGE, (4,)], {}, 3, "1.15.0"),
    ("TRANSPOSE", _FLOAT, [_FIVE, (5,)], {}, 4, "2.3.0"),
    ("TRANSPOSE", _FLOAT, [_SIX, (6,)], {}, 6, "2.12.0"),
    ("TRANSPOSE_CONV", _FLOAT, [(4,), (4, 2, 2, 4), _IMAGE], {}, 1, "1.9.0"),
    ("TRANSPOSE_CONV", _FLOAT, [(4,), (4, 2, 2, 4), _IMAGE, (4,)], {}, 3, "2.3.0"),
]


@pytest.mark.parametrize(("code", "dtype", "shapes", "options", "version", "since"), _FACTS)
def test_versions_are_the_official_ones(
    code: str, dtype: Any, shapes: list[tuple[int, ...]], options: dict[str, Any], version: int, since: str
) -> None:
    inputs = [Tensor("x", shape, np.dtype(dtype)) for shape in shapes]
    operator = Operator(code, inputs, [Tensor("y", shapes[0], np.dtype(np.float32))], options)
    assert version_of(operator) == version
    assert minimum_runtime([(code, version)]) == since


def test_the_facts_cover_every_version_of_every_operator_that_is_written() -> None:
    covered = {(code, version) for code, *_, version, _ in _FACTS}
    assert covered == {(code, version) for code, versions in SINCE.items() for version in versions}
    sources = "".join(path.read_text() for path in Path(room.__file__).parent.rglob("*.py"))
    named = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', sources))
    no_operators = {"TABLE", "TFL3", "VALID", "NOTSET", "SAME_UPPER", "SAME_LOWER", "DCR", "CRD"}
    no_operators |= {"RNN", "LSTM", "GRU", "LRN"}  # of ONNX
    no_operators |= {"FAMILIES", "LOWERINGS", "WITHOUT_LOWERING"}  # of this room
    assert named - no_operators == SINCE.keys() | SINCE_OF_INTEGERS.keys()


def test_the_newest_operator_decides() -> None:
    assert minimum_runtime([("CONV_2D", 1), ("TRANSPOSE", 6), ("GELU", 1)]) == "2.12.0"
    assert minimum_runtime([]) == "1.5.0"


_TYPED: dict[str, tuple[Any, Callable[[torch.Tensor], torch.Tensor]]] = {
    "difference of int64": (torch.int64, lambda x: x - torch.arange(4)),
    "sum of int64": (torch.int64, lambda x: x + x * 3),
    "magnitude of int32": (torch.int32, torch.abs),
    "magnitude of int64": (torch.int64, torch.abs),
    "square of int64": (torch.int64, lambda x: x**2),
    "rectified int64": (torch.int64, torch.relu),
    "rectified int32": (torch.int32, torch.relu),
    "halves of int32": (torch.int32, lambda x: x.chunk(2, 1)[1] + 1),
    "permuted bool": (torch.float32, lambda x: (x > 0).permute(0, 2, 3, 1)),
    "gathered bool": (torch.float32, lambda x: (x > 0)[:, [1, 0]]),
    "every other bool": (torch.float32, lambda x: (x > 0)[:, :, ::2]),
    "six axes": (torch.float32, lambda x: x.reshape(1, 2, 1, 3, 2, 2).permute(5, 3, 1, 4, 2, 0) + 1),
    "six full axes": (torch.float32, lambda x: x.repeat(3, 2, 1, 1).view(2, 2, 2, 3, 3, 2).permute(5, 3, 1, 4, 2, 0)),
    "sum of everything, scaled": (torch.float32, lambda x: x.sum() * 0.01),
    "mean of everything, rectified": (torch.float32, lambda x: torch.relu(x.mean() - 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_element_types_and_ranks_run_everywhere(tflite: Any, old_runtime: Any, dtype: torch.dtype) -> None:
    functions = {name: function for name, (kind, function) in _TYPED.items() if kind == dtype}
    image = torch.from_numpy(np.random.default_rng(0).integers(-9, 9, (1, 2, 3, 4))).to(dtype)
    module = tflite.Function(lambda x: tuple(function(x) for function in functions.values()))
    emitted, inputs = tflite.to_tflite(tflite.graph_of(module, image), metadata={}), [image.numpy()]
    runs = [tflite.run(emitted, inputs, resolver).outputs for resolver in ("xnnpack", "reference")]
    for run in [*runs, old_runtime(emitted, inputs)]:
        for (name, function), actual in zip(functions.items(), run, strict=True):
            expected = function(image).numpy()
            assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), name
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_scalar_input_stays_one(tflite: Any, old_runtime: Any) -> None:
    emitted = tflite.to_tflite(tflite.graph_of(tflite.Function(lambda x: x * 2 + 1), torch.tensor(2.5)), metadata={})
    inputs = [np.array(2.5, np.float32)]
    runs = [tflite.run(emitted, inputs, resolver).outputs for resolver in ("xnnpack", "reference")]
    for (actual,) in [*runs, old_runtime(emitted, inputs)]:
        assert actual.shape == ()
        assert actual == 6


def test_constants_that_raise_the_rank_keep_it(tflite: Any) -> None:
    graph = tflite.node_of("Add", {"x": np.zeros(3, np.float32)}, [np.ones((1, 1, 1), np.float32)], (1, 1, 3))
    actual = tflite.run(tflite.to_tflite(graph, metadata={}), [np.arange(3, dtype=np.float32)]).outputs[0]
    np.testing.assert_array_equal(actual, [[[1, 2, 3]]])


def _refusal(tflite: Any, function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> str:
    graph = tflite.graph_of(tflite.Function(function), image)
    for node in graph.graph:
        node.metadata_props["edgeconv.module"] = f"stage.{node.op_type.lower()}"
    with pytest.raises(EmitError) as caught:
        tflite.to_tflite(graph, metadata={})
    return str(caught.value)


def test_refusals_name_operator_module_and_hint(tflite: Any) -> None:
    nine = _refusal(tflite, lambda x: torch.stack([x, -x], 2).relu(), torch.zeros(2, 3, 2, 3, 2, 3, 2, 3))
    inner = _refusal(tflite, lambda x: x.to(torch.uint16) + 0, torch.zeros(2, 3, dtype=torch.int32))
    assert "(made by torch module 'stage." in nine
    assert "9 axes" in nine
    assert "Cast (made by torch module 'stage.cast')" in inner
    assert "UINT16; make it float32" in inner
    assert all('formats="onnx"' in text for text in (nine, inner))
