"""Recurrent layers of torch in both formats, beside torch.

Kinds thought of: LSTM, GRU, RNN with tanh and with relu; one layer and several, one direction and both, batch first and
second, with and without biases and initial states, unbatched inputs, dropout between layers out of training, a single
step, cells, projected states (`proj_size`); as part of a network that is quantized, and in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import NOTE, capture
from edgeconv.core import Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.rewrite import optimize

X, FIRST, FLAT = (4, 2, 5), (2, 4, 5), (2, 5)
CASES: dict[str, tuple[Callable[[], nn.Module], Sequence[tuple[int, ...]]]] = {
    "lstm": (lambda: nn.LSTM(5, 4), [X]),
    "lstm-deep-both-ways": (
        lambda: nn.LSTM(5, 4, 2, bidirectional=True, batch_first=True, dropout=0.5), [FIRST, (4, 2, 4), (4, 2, 4)],
    ),
    "lstm-unbatched": (lambda: nn.LSTM(5, 4, bias=False), [(4, 5)]),
    "lstm-projected": (lambda: nn.LSTM(5, 6, proj_size=3), [X]),
    "lstm-projected-deep-both-ways": (
        lambda: nn.LSTM(5, 6, 2, proj_size=3, bidirectional=True, batch_first=True), [FIRST, (4, 2, 3), (4, 2, 6)],
    ),
    "lstm-projected-without-biases": (lambda: nn.LSTM(5, 6, proj_size=1, bias=False), [X, (1, 2, 1), (1, 2, 6)]),
    "lstm-projected-unbatched": (lambda: nn.LSTM(5, 6, proj_size=5, bidirectional=True), [(4, 5)]),
    "lstm-projected-of-one-step": (lambda: nn.LSTM(5, 6, proj_size=2), [(1, 2, 5), (1, 2, 2), (1, 2, 6)]),
    "gru": (lambda: nn.GRU(5, 4, bidirectional=True), [X, (2, 2, 4)]),
    "gru-deep": (lambda: nn.GRU(5, 4, 3, batch_first=True), [FIRST]),
    "gru-without-biases": (lambda: nn.GRU(5, 4, bias=False), [X]),
    "gru-of-one-step": (lambda: nn.GRU(5, 4, bidirectional=True), [(1, 2, 5)]),
    "rnn": (lambda: nn.RNN(5, 4, 2, bidirectional=True), [X, (4, 2, 4)]),
    "rnn-relu": (lambda: nn.RNN(5, 4, nonlinearity="relu", batch_first=True), [FIRST]),
    "lstm-cell": (lambda: nn.LSTMCell(5, 4), [FLAT, (2, 4), (2, 4)]),
    "gru-cell": (lambda: nn.GRUCell(5, 4), [FLAT, (2, 4)]),
    "rnn-cell": (lambda: nn.RNNCell(5, 4, nonlinearity="relu"), [FLAT]),
}  # fmt: skip


class Fed(nn.Module):
    """A layer whose states are inputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *states: Tensor) -> list[Tensor]:
        given = () if not states else (states[0] if len(states) == 1 else states,)
        results: list[Tensor] = []
        result = self.layer(x, *given)
        for each in [result] if isinstance(result, Tensor) else result:
            results += [each] if isinstance(each, Tensor) else each
        return results


def _inputs(shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator) for shape in shapes)


def _run(emitted: Emitted, args: Sequence[Tensor], *, is_onnx: bool) -> list[np.ndarray]:
    feeds = {spec.name: value.numpy() for spec, value in zip(emitted.inputs, args, strict=True)}
    if is_onnx:
        return list(onnxruntime.InferenceSession(emitted.data, providers=["CPUExecutionProvider"]).run(None, feeds))
    runner = Interpreter(model_content=emitted.data, num_threads=1).get_signature_runner()
    results = [runner(**feeds) for _ in range(2)][1]  # the second call: no state may be left of the first
    return [results[spec.name] for spec in emitted.outputs]


@pytest.mark.parametrize("name", CASES)
def test_computes_what_torch_computes(name: str) -> None:
    make, shapes = CASES[name]
    torch.manual_seed(0)
    module, args = Fed(make()).eval(), _inputs(shapes)
    expected = [each.detach().numpy() for each in module(*args)]
    names = [f"input_{index}" for index in range(len(args))]
    graph = capture(module, args, input_names=names, output_names=[f"result_{i}" for i in range(len(expected))])
    assert graph.metadata_props[NOTE] == "fast"
    graph = optimize(graph)
    for weights, atol in (("float32", 2e-6), ("float16", 4e-3)):
        for emitted in (to_onnx(graph, metadata={}, weights=weights), to_tflite(graph, metadata={}, weights=weights)):
            results = _run(emitted, args, is_onnx=emitted.data[4:8] != b"TFL3")
            for result, other in zip(results, expected, strict=True):
                np.testing.assert_allclose(result, other, atol=atol)


class Reader(nn.Module):
    """Reads lines of text: convolutions, then an LSTM along the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.lines = nn.LSTM(16, 4, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 3, 1, 2).flatten(2)
        return self.head(self.lines(x)[0])


def test_a_network_of_convolutions_and_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = _inputs([(1, 1, 8, 8)])
    data = edgeconv.Quantization(batches=lambda: [{"x": each.numpy()} for each in _inputs([(1, 1, 8, 8)] * 4)])
    result = edgeconv.export(
        Reader().eval(), args, tmp_path, name="reader", variants=("fp32", "int8"), input_names=["x"],
        quantization=data, devices=("onnxruntime", "litert"),
    )  # fmt: skip
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    said = [note for note in result.notes if "lines" in note]
    assert any("LSTM has no integer form" in note for note in said)
    assert len(said) <= 6  # not one for each of its hundreds of operators
    sizes = {row.artifact: row.metrics.sqnr_db for row in result.report.comparisons if row.metrics is not None}
    assert sizes["reader.fp32.tflite"] > 120
    assert sizes["reader.int8.tflite"] > 25


class Layers(nn.Module):
    """One layer after another, in both directions, and the last state of one more, given its first."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.lines = getattr(nn, kind)(5, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.GRU(8, 3, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, last = self.last(self.lines(x)[0], state.permute(1, 0, 2))
        return y, last.permute(1, 0, 2)


@pytest.mark.parametrize("kind", ["LSTM", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("GRU", "RNN"))])
def test_an_open_batch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, args = Layers(kind).eval(), (torch.randn(1, 3, 5), torch.randn(1, 1, 3))
    result = edgeconv.export(
        module, args, tmp_path, name="r", input_names=["x", "state"], output_names=["y", "last"], dynamic_batch=True,
        devices=("onnxruntime", "litert"),
    )  # fmt: skip
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    batch = {"x": torch.randn(3, 3, 5), "state": torch.randn(3, 1, 3)}
    interpreter = Interpreter(str(tmp_path / "r.fp32.tflite"), num_threads=1)
    runner = interpreter.get_signature_runner()
    outputs = runner(**{name: x.numpy() for name, x in batch.items()})
    with torch.no_grad():
        expected = dict(zip(("y", "last"), module(*batch.values()), strict=True))
    for name, array in outputs.items():
        np.testing.assert_allclose(array, expected[name].numpy(), atol=1e-5)
