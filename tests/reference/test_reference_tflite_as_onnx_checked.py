"""`inspect --as-onnx` writes what it saw to compute the same: in ONNX, operator by operator, and on LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tflite_files import Spec, constant, file_of, noise, quantized

from edgeconv.cli import run
from edgeconv.flow.inspection.as_onnx import _samples
from edgeconv.flow.inspection.as_onnx_operators import difference
from edgeconv.graph.domains import domains_of
from edgeconv.parity.writing import read_back
from edgeconv.reference import tflite
from edgeconv.reference.tflite import Quantization, TfliteGraph
from edgeconv.reference.tflite.as_onnx import to_onnx
from edgeconv.reference.tflite.as_onnx._convert import RULES

X = Spec((2, 9, 7, 4))
RNG = np.random.default_rng(0)


def _inputs(graph: TfliteGraph) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    tensors = [graph.tensors[index] for index in graph.inputs]
    scales = [tensor.quantization.scales if tensor.quantization else None for tensor in tensors]
    return {t.name: noise(Spec(t.shape, t.dtype, scale), generator) for t, scale in zip(tensors, scales, strict=True)}


def _file(folder: Path, name: str, sources: Sequence[Spec], result: Spec, **options: Any) -> str:
    path = folder / f"{name}.tflite"
    path.write_bytes(file_of(name, sources, [result], **options))
    return str(path)


def test_the_command_checks_against_litert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, bias = constant(RNG.standard_normal((6, 3, 2, 4))), constant(RNG.standard_normal(6))
    out, y, options = tmp_path / "made" / "x.onnx", Spec((2, 9, 7, 6)), {"strideH": 1, "strideW": 1}
    file = _file(tmp_path, "CONV_2D", [X, weights, bias], y, table="Conv2DOptions", **options)
    assert run(["inspect", file, "--as-onnx", str(out)]) == 0
    assert "LiteRT computes the same on noise" in capsys.readouterr().out
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Transpose", "Conv", "Transpose"]


def test_the_command_writes_nothing_that_litert_computes_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = to_onnx(tflite.read(file_of("CEIL", [X], [X])))
    monkeypatch.setattr("edgeconv.reference.tflite.as_onnx.to_onnx", lambda graph: other)
    file = _file(tmp_path, "FLOOR", [replace(X, name="x0")], replace(X, name="y0"))
    assert run(["inspect", file, "--as-onnx", str(tmp_path / "x.onnx")]) == 1
    assert "not written: LiteRT computes something else: SQNR" in capsys.readouterr().out
    assert not (tmp_path / "x.onnx").exists()


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path, "WHERE", [Spec((3, 4), "bool")], Spec((1, 2), "int64"))
    for name, told in (
        (file, "WHERE cannot be written in ONNX: how many"),
        (str(tmp_path / "x.onnx"), "a .tflite file"),
    ):
        assert run(["inspect", name, "--as-onnx", str(tmp_path / "out.onnx")]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert len(said.splitlines()) == 1


def test_an_operator_that_differs_in_onnx_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RULES, "LOGISTIC", RULES["TANH"])
    for name, source in (("float", X), ("whole", quantized(X, "int8", 0.03, 5))):
        x = replace(source, name="x0")
        file = tmp_path / f"{name}.tflite"
        y = replace(source, name="y0", scale=None if name == "float" else 1 / 256, zero=0 if name == "float" else -128)
        file.write_bytes(file_of("LOGISTIC", [x], [y]))
        assert run(["inspect", str(file), "--as-onnx", str(tmp_path / "x.onnx")]) == 1
        assert "not written: the ONNX graph computes something else: LOGISTIC of 'y0'" in capsys.readouterr().out
        assert not (tmp_path / "x.onnx").exists()


def test_a_file_that_litert_cannot_run_is_written_unchecked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Spec((3, 4), "int32")
    file = _file(tmp_path, "FLOOR_DIV", [whole, constant(np.zeros((1, 4)), "int32")], whole)
    assert run(["inspect", file, "--as-onnx", str(tmp_path / "x.onnx")]) == 0
    assert "written, and not checked: LiteRT: cannot run sample" in capsys.readouterr().out
    assert (tmp_path / "x.onnx").exists()


def test_an_input_that_is_a_shape_is_the_one_that_the_file_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [Spec((4,), "int32"), constant(RNG.standard_normal((6, 3, 3, 4))), Spec((1, 4, 5, 4))]
    options = {"table": "TransposeConvOptions", "strideH": 2, "strideW": 2}
    file = _file(tmp_path, "TRANSPOSE_CONV", sources, Spec((1, 8, 10, 6)), **options)
    assert run(["inspect", file, "--as-onnx", str(tmp_path / "x.onnx")]) == 0
    assert "LiteRT computes the same on noise" in capsys.readouterr().out


def test_what_refuses_negative_numbers_is_checked_on_positive_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its int16 kernel draws lines between entries of a table, far from a root of small numbers."""
    x, y = Spec((1, 50), "int16", 0.0002), Spec((1, 50), "int16", 0.002)
    assert run(["inspect", _file(tmp_path, "RSQRT", [x], y), "--as-onnx", str(tmp_path / "x.onnx")]) == 0
    assert "LiteRT computes the same on noise, layer by layer" in capsys.readouterr().out


def test_a_scale_per_channel_that_the_kernel_does_not_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = Spec((4, 3), "int16", 0.001), Spec((4, 2), "int16", 0.001)
    weights = constant(RNG.integers(-99, 99, (3, 2)), "int8", scale=[0.01, 0.02], zero=[0, 0], axis=1)
    file = _file(tmp_path, "BATCH_MATMUL", [x, weights], y, table="BatchMatMulOptions")
    assert run(["inspect", file, "--as-onnx", str(tmp_path / "x.onnx")]) == 0
    said = capsys.readouterr().out
    assert "written, and not checked" in said
    assert "of which LiteRT's kernel reads none: it gives zeros" in said


@pytest.mark.parametrize("kind", ["int8", "int16"])
@pytest.mark.parametrize(
    "name", ["TANH", "LOGISTIC", "EXP", "LOG", "SOFTMAX", "HARD_SWISH", "ELU", "GELU", "LEAKY_RELU"]
)
def test_functions_of_integers_are_the_kernels_within_what_these_may_be_off(name: str, kind: str) -> None:
    if kind == "int16" and name in ("HARD_SWISH", "ELU", "GELU"):
        pytest.skip("TFLite has no kernel of 16 bits")
    options = {"SOFTMAX": {"beta": 1.0}, "LEAKY_RELU": {"alpha": 0.3}, "GELU": {"approximate": False}}.get(name, {})
    x = Spec((4, 9), kind, 0.03 if kind == "int8" else 0.0002)
    fixed = {"LOGISTIC": 1 / 256, "TANH": 1 / 128, "SOFTMAX": 1 / 256}.get(name, 0.2)
    scale = fixed if kind == "int8" else 1 / 32768 if name in ("LOGISTIC", "TANH", "SOFTMAX") else 0.02
    zero = -128 if kind == "int8" and name in ("LOGISTIC", "SOFTMAX") else 0
    graph = tflite.read(file_of(name, [x], [Spec((4, 9), kind, scale, zero)], **options))
    assert difference(graph, tflite.evaluate(graph, _inputs(graph))) == ""


def test_what_wraps_in_32_bits_before_it_saturates_is_no_difference() -> None:
    """A file of somebody's has such a scale: what its kernel gives depends on bits that no result was meant to have."""
    x = Spec((4, 300), "int16", 0.01)
    weights = constant(np.full((300, 2), 30000), "int16", scale=0.01)
    data = file_of("BATCH_MATMUL", [x, weights], [Spec((4, 2), "int16", 3e-9)], table="BatchMatMulOptions")
    graph = tflite.read(data)
    values = tflite.evaluate(graph, _inputs(graph))
    (name,) = [graph.tensors[index].name for index in graph.outputs]
    assert difference(graph, values) == ""
    narrow = replace(graph.tensors[graph.outputs[0]], quantization=Quantization((0.5,), (0,), 0))
    tensors = tuple(narrow if tensor.name == name else tensor for tensor in graph.tensors)
    assert difference(replace(graph, tensors=tensors), values) != ""


def test_filters_of_rank_one_in_integers_round_what_they_remember() -> None:
    sizes = ((8, 5), "int8", 0.01), ((8, 4), "int16", 1e-2)
    weights, time = (constant(RNG.integers(-99, 99, shape), kind, scale=scale) for shape, kind, scale in sizes)
    bias = constant(RNG.integers(-99999, 99999, 4), "int32", scale=1e-3 * 1e-2)
    x, y = Spec((3, 5), "int8", 0.1, 7), Spec((3, 4), "int8", 0.05, -3)
    state = Spec((3, 32), "int16", 1e-3, variable=True, name="memory")
    graph = tflite.read(
        file_of("SVDF", [x, weights, time, bias, state], [y], table="SVDFOptions", rank=2, fusedActivationFunction=1)
    )
    values = tflite.evaluate(graph, _inputs(graph))
    assert len(np.unique(values["y0"])) > 5
    assert difference(graph, values) == ""


def test_inputs_of_integers_are_what_their_readers_take(tmp_path: Path) -> None:
    """Every row of a table, not the first two; no divisor of 0."""
    table, rows = constant(RNG.standard_normal((7, 3))), Spec((40,), "int32")
    whole = Spec((40,), "int32")
    files = {
        "GATHER": file_of("GATHER", [table, rows], [Spec((40, 3))], table="GatherOptions", axis=0),
        "FLOOR_DIV": file_of("FLOOR_DIV", [whole, whole], [whole]),
    }
    drawn = {}
    for name, data in files.items():
        (tmp_path / f"{name}.tflite").write_bytes(data)
        specs, model = read_back(tmp_path / f"{name}.tflite").inputs, to_onnx(tflite.read(data))
        sample = next(_samples(specs, {}, domains_of(model, negative=())))
        drawn[name] = sample.inputs[specs[-1].name]
    assert set(drawn["GATHER"].tolist()) == set(range(7))
    assert 0 not in drawn["FLOOR_DIV"]
    assert len(set(drawn["FLOOR_DIV"].tolist())) > 2
