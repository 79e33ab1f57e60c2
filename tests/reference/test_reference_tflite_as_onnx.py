"""A `.tflite` file, written as ONNX, computes the same: by the reference in float64, and on onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from test_reference_tflite_shapes import MOVES
from tflite_files import Spec, constant, file_of, ints, noise, quantized

from edgeconv.cli import run
from edgeconv.errors import EmitError
from edgeconv.reference import evaluate, tflite
from edgeconv.reference.tflite import TfliteGraph
from edgeconv.reference.tflite.as_onnx import to_onnx

Case = tuple[str, Sequence[Spec | None], int, dict[str, Any]]
X = Spec((2, 9, 7, 4))
RNG = np.random.default_rng(0)
ANY = Spec((1,))
REFUSED = {
    *("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "GATHER_ND", "SCATTER_ND", "REVERSE_SEQUENCE", "ZEROS_LIKE", "FILL"),
    *("CUMSUM", "EMBEDDING_LOOKUP", "DYNAMIC_UPDATE_SLICE"),
}
FORMS = {
    ("MIRROR_PAD", "mode", "1"),
    ("GATHER", "batchDims", "1"),
    ("STRIDED_SLICE", "ellipsisMask", "2"),
    ("STRIDED_SLICE", "newAxisMask", "2"),
}
_ALL = "ABS CEIL COS ELU EXP FLOOR HARD_SWISH LOGISTIC NEG RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 SIGN SIN SQUARE TANH"
_WEIGHTS = constant(RNG.standard_normal((6, 3, 2, 4)))
_BIAS = constant(RNG.standard_normal(6))
_DEPTHWISE = constant(RNG.standard_normal((1, 3, 2, 8)))


_ADJOINT = {"adjX": True, "adjY": True, "table": "BatchMatMulOptions"}
_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
}


def _pairs(name: str, *ends: Spec, **options: Any) -> list[Case]:
    return [(name, ends, 1, options | {"padding": padding, "table": _TABLES[name]}) for padding in (0, 1)]


COMPUTED: list[Case] = [
    *((name, [X], 1, {}) for name in _ALL.split()),
    *((name, [constant(RNG.uniform(0.1, 3, (3, 4))), Spec((3, 4))], 1, {}) for name in ("POW",)),
    *((name, [X, X], 1, {"fusedActivationFunction": 1}) for name in ("ADD", "SUB", "MUL")),
    *((name, [X, constant(RNG.uniform(1, 2, 4))], 1, {"fusedActivationFunction": 3}) for name in ("ADD", "DIV")),
    *((name, [X, X], 1, {"table": "MaximumMinimumOptions"}) for name in ("MAXIMUM", "MINIMUM")),
    *((name, [X, X], 1, {}) for name in ("SQUARED_DIFFERENCE", "LESS", "GREATER_EQUAL", "NOT_EQUAL")),
    ("PRELU", [X, constant(RNG.standard_normal((1, 1, 4)))], 1, {}),
    ("LEAKY_RELU", [X], 1, {"alpha": 0.3}),
    ("GELU", [X], 1, {"approximate": True}),
    ("SOFTMAX", [X], 1, {"beta": 0.5}),
    ("LOG_SOFTMAX", [X], 1, {}),
    ("SELECT_V2", [Spec((4,), "bool"), X, X], 1, {}),
    ("CAST", [Spec((3,), "int32")], 1, {"inDataType": 2}),
    *_pairs("CONV_2D", X, _WEIGHTS, _BIAS, strideH=2, strideW=3, fusedActivationFunction=1),
    *_pairs("CONV_2D", X, _WEIGHTS, strideH=1, strideW=1, dilationHFactor=2, dilationWFactor=3),
    *_pairs("CONV_2D", X, constant(RNG.standard_normal((6, 3, 3, 2))), _BIAS, strideH=1, strideW=1),
    *_pairs("DEPTHWISE_CONV_2D", X, _DEPTHWISE, strideH=2, strideW=2, depthMultiplier=2),
    *_pairs("AVERAGE_POOL_2D", X, filterHeight=3, filterWidth=2, strideH=2, strideW=2),
    *_pairs("MAX_POOL_2D", X, filterHeight=2, filterWidth=3, strideH=1, strideW=2),
    ("FULLY_CONNECTED", [Spec((2, 3, 5)), constant(RNG.standard_normal((4, 5)))], 1, {"keepNumDims": True}),
    ("FULLY_CONNECTED", [Spec((2, 3, 5)), constant(RNG.standard_normal((4, 5))), constant(np.arange(4.0))], 1, {}),
    ("BATCH_MATMUL", [Spec((2, 5, 3)), Spec((2, 4, 5))], 1, _ADJOINT),
    *(
        (name, [X, ints(13, 5)], 1, {"alignCorners": corners, "halfPixelCenters": centers})
        for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for corners, centers in ((False, False), (True, False), (False, True))
    ),
    ("MEAN", [X, ints(1, 2)], 1, {"table": "ReducerOptions"}),
    ("ARG_MAX", [X, ints(-1)], 1, {"outputType": 2}),
]  # fmt: skip


def _title(case: Case) -> str:
    return "-".join(map(str, (case[0], *case[3].values())))


def _graph(case: Case) -> TfliteGraph:
    """The file's graph, whose results have the shapes and types that the operator gives."""
    name, sources, outputs, options = case
    result = Spec((1,), "bool") if name in ("LESS", "GREATER_EQUAL", "NOT_EQUAL") else ANY
    result = Spec((1,), "int32") if name == "ARG_MAX" else result
    graph = tflite.read(file_of(name, sources, [result] * outputs, **options))
    tensors = list(graph.tensors)
    values = tflite.evaluate(graph, _inputs(graph))
    for index in graph.outputs:
        tensors[index] = replace(tensors[index], shape=values[tensors[index].name].shape)
    return replace(graph, tensors=tuple(tensors))


def _inputs(graph: TfliteGraph) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    tensors = [graph.tensors[index] for index in graph.inputs]
    scales = [tensor.quantization.scales if tensor.quantization else None for tensor in tensors]
    return {t.name: noise(Spec(t.shape, t.dtype, scale), generator) for t, scale in zip(tensors, scales, strict=True)}


def _check(graph: TfliteGraph) -> None:
    """Holds the ONNX graph against the file's in float64, and what onnxruntime makes of it against that."""
    model, inputs = to_onnx(graph), _inputs(graph)
    names = [graph.tensors[index].name for index in graph.outputs]
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    due, exact = tflite.evaluate(graph, inputs), evaluate(model, inputs, keep=names)
    results = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)
    for name, result in zip(names, results, strict=True):
        np.testing.assert_allclose(exact[name], due[name], rtol=1e-6, atol=1e-7)  # constants of float32 among them
        np.testing.assert_allclose(result, due[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in MOVES if case[0] not in REFUSED], ids=_title)
def test_elements_are_moved_alike(case: Case) -> None:
    if any((case[0], key, str(value)) in FORMS for key, value in case[3].items()):
        with pytest.raises(EmitError, match=case[0]):
            to_onnx(_graph(case))
    else:
        _check(_graph(case))


@pytest.mark.parametrize("case", COMPUTED, ids=_title)
def test_numbers_are_computed_alike(case: Case) -> None:
    _check(_graph(case))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("bias", [(), (6,), (1, 1, 1, 6)])
def test_a_transposed_convolution(padding: int, bias: tuple[int, ...]) -> None:
    size = (1, 8, 9, 6) if padding == 0 else (1, 10, 12, 6)
    sources = [ints(*size), constant(RNG.standard_normal((6, 3, 3, 4))), Spec((1, 4, 5, 4))]
    sources += [constant(RNG.standard_normal(bias))] if bias else []
    options = {"padding": padding, "strideH": 2, "strideW": 2}
    _check(_graph(("TRANSPOSE_CONV", sources, 1, options)))


@pytest.mark.parametrize("case", [case for case in MOVES if case[0] in REFUSED], ids=_title)
def test_what_has_no_form_is_refused_by_name(case: Case) -> None:
    with pytest.raises(EmitError, match=f"{case[0]} cannot be written in ONNX"):
        to_onnx(_graph(case))


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_integers_go_through_quantize_and_dequantize(kind: str) -> None:
    x, y = quantized(X, kind, 0.03, 5), quantized(ANY, kind, 0.11, -3)
    weights = constant(
        RNG.integers(-127, 128, (6, 3, 2, 4)), "int8", scale=[0.01 * k for k in range(1, 7)], zero=[0] * 6
    )
    wide = "int64" if kind == "int16" else "int32"
    scales = [0.03 * 0.01 * k for k in range(1, 7)]
    bias = constant(RNG.integers(-99, 99, 6), wide, scale=scales, zero=[0] * 6)
    graph = _graph_of_integers(
        file_of("CONV_2D", [x, weights, bias], [y], padding=0, strideH=2, strideW=2, table="Conv2DOptions")
    )
    model, inputs = to_onnx(graph), _inputs(graph)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (name,) = [graph.tensors[index].name for index in graph.outputs]
    due = tflite.evaluate(graph, inputs)[name]
    (onnxs,) = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, inputs)
    for result in (evaluate(model, inputs, keep=[name])[name], onnxs):
        assert result.dtype == due.dtype == np.dtype(kind)
        apart = np.abs(result.astype(np.int64) - due)
        assert apart.max() <= 1
        assert (apart > 0).mean() < (0.01 if kind == "int8" else 0.1)  # multipliers of 16 bits round, too


def _graph_of_integers(data: bytes) -> TfliteGraph:
    graph = tflite.read(data)
    tensors = list(graph.tensors)
    for index in graph.outputs:
        shape = tflite.evaluate(graph, _inputs(graph))[tensors[index].name].shape
        tensors[index] = replace(tensors[index], shape=shape)
    return replace(graph, tensors=tuple(tensors))


def _file(folder: Path, name: str, sources: Sequence[Spec], result: Spec, **options: Any) -> str:
    path = folder / f"{name}.tflite"
    path.write_bytes(file_of(name, sources, [result], **options))
    return str(path)


def test_the_command_checks_against_litert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = constant(RNG.standard_normal((6, 3, 2, 4))), tmp_path / "made" / "x.onnx"
    file = _file(
        tmp_path, "CONV_2D", [X, weights, _BIAS], Spec((2, 9, 7, 6)), strideH=1, strideW=1, table="Conv2DOptions"
    )
    assert run(["inspect", file, "--as-onnx", str(out)]) == 0
    assert "LiteRT computes the same on noise" in capsys.readouterr().out
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Transpose", "Conv", "Transpose"]


def test_the_command_writes_nothing_that_litert_computes_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = to_onnx(_graph(("CEIL", [X], 1, {})))
    monkeypatch.setattr("edgeconv.reference.tflite.as_onnx.to_onnx", lambda graph: other)
    file = _file(tmp_path, "FLOOR", [replace(X, name="x0")], replace(X, name="y0"))
    assert run(["inspect", file, "--as-onnx", str(tmp_path / "x.onnx")]) == 1
    assert "not written: LiteRT computes something else: SQNR" in capsys.readouterr().out
    assert not (tmp_path / "x.onnx").exists()


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, "CUMSUM", [X, ints(2)], X)
    for name, told in ((file, "CUMSUM cannot be written in ONNX"), (str(tmp_path / "x.onnx"), "a .tflite file")):
        assert run(["inspect", name, "--as-onnx", str(tmp_path / "out.onnx")]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert len(said.splitlines()) == 1
