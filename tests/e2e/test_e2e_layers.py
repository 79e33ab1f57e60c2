"""A layer of integers that computes something else is found where it is, and fails the row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from edgeconv.capture import capture
from edgeconv.core import (
    Array,
    Artifact,
    Comparison,
    Fidelity,
    IntegerTensor,
    LayerSteps,
    Run,
    Sample,
    SampleResult,
    Verdict,
)
from edgeconv.emit.tflite import to_tflite
from edgeconv.flow.layers import carried_over, judged_by_layer
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.parity import Golden
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

_SHAPE = (1, 3, 12, 12)
_FILE = "net.int8.tflite"


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.LeakyReLU(0.1)
        self.second, self.fc = torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(self.second(self.act(self.conv(x))).mean((2, 3)))
        return y


def _batches() -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal(_SHAPE).astype(np.float32)} for _ in range(6)]


_SAMPLES = tuple(Sample(str(at), batch) for at, batch in enumerate(_batches()))
_GOLDEN = Golden(_SAMPLES, Run("torch-float64", "", ({},) * len(_SAMPLES)))
_RESULTS = tuple(SampleResult(sample.name, None, 0.5, Verdict.PASS) for sample in _SAMPLES)
_ROWS = tuple(
    Comparison(_FILE, device, output, None, Fidelity(), Verdict.PASS, samples=_RESULTS)
    for device in ("litert", "litert-reference")
    for output in ("output", "output_1")
)


@pytest.fixture(scope="module")
def variant() -> Variant:
    graph = optimize(capture(_Net().eval(), (torch.zeros(_SHAPE),), input_names=["x"], output_names=[]))
    (made,) = variants_of(graph, ["int8"], Quantization(batches=_batches), Silent())
    return made


def _artifact(variant: Variant, folder: Path, change: Callable[[schema.ModelT], None]) -> Artifact:
    """A file of the variant with one thing changed in it."""
    emitted = to_tflite(variant.model, metadata={})
    model = schema.ModelT.InitFromPackedBuf(emitted.data, 0)
    change(model)
    builder = flatbuffers.Builder(len(emitted.data))
    builder.Finish(model.Pack(builder), b"TFL3")
    path = folder / _FILE
    path.write_bytes(bytes(builder.Output()))
    return Artifact(
        path, "tflite", "int8", "nhwc", "", emitted.inputs, emitted.outputs, intermediates=emitted.intermediates
    )


def _judged(artifact: Artifact, variant: Variant, rows: tuple[Comparison, ...] = _ROWS) -> tuple[Comparison, ...]:
    return judged_by_layer(rows, [artifact], [variant], _GOLDEN, 60.0, Silent())


def _nothing(model: schema.ModelT) -> None:
    pass


def _bias_of_the_first(model: schema.ModelT) -> None:
    """Three steps of its output in one channel, which the whole network's output does not show."""
    graph = model.subgraphs[0]
    conv = next(operator for operator in graph.operators if len(operator.inputs) == 3)
    scales = [graph.tensors[at].quantization.scale for at in (*conv.inputs[:2], conv.outputs[0])]
    values = np.frombuffer(bytes(model.buffers[graph.tensors[conv.inputs[2]].buffer].data), np.int32).copy()
    values[5] += round(3 * scales[2][0] / (scales[0][0] * scales[1][5]))
    model.buffers[graph.tensors[conv.inputs[2]].buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def test_all_layers_of_a_sound_file_pass_and_stand_in_the_row_of_its_first_output(
    variant: Variant, tmp_path: Path
) -> None:
    rows = _judged(_artifact(variant, tmp_path, _nothing), variant)
    assert [bool(row.layers) for row in rows] == [False, False, True, False]
    assert {row.verdict for row in rows} == {Verdict.PASS}
    assert [layer.operators for layer in rows[2].layers] == [
        (),
        ("Conv",),
        ("LeakyRelu",),
        ("Conv",),
        ("ReduceMean",),
        ("Gemm",),
    ]
    assert sum(rows[2].layers[0].lsb.values()) == 4 * 3 * 12 * 12  # of four samples


def test_a_layer_that_is_off_is_named_and_those_behind_it_are_not(variant: Variant, tmp_path: Path) -> None:
    row = _judged(_artifact(variant, tmp_path, _bias_of_the_first), variant)[2]
    assert row.verdict is Verdict.FAIL
    assert row.reason.startswith("layer conv.reordered (Conv) is ")  # its channels are read in pairs
    assert row.reason.endswith(" steps from what the graph makes of its operands, at most 1 are allowed")
    assert [layer.name for layer in row.layers if layer.largest > 1] == ["conv.reordered"]


def test_a_device_that_does_not_tell_fails_and_one_that_did_not_run_is_left(variant: Variant, tmp_path: Path) -> None:
    artifact = _artifact(variant, tmp_path, _nothing)
    unknown = IntegerTensor("nothing", (1,), "int8", (0,), 1.0, 0, artifact.intermediates[0].values)
    row = _judged(replace(artifact, intermediates=(unknown,)), variant)[2]
    assert row.verdict is Verdict.FAIL
    assert row.reason.startswith("its layers cannot be judged: cannot load the file: KeyError")
    skipped = tuple(replace(each, verdict=Verdict.SKIPPED, samples=()) for each in _ROWS)
    assert _judged(artifact, variant, skipped) == skipped


def test_a_repeated_run_keeps_the_layers_while_the_device_is_the_same() -> None:
    layers = (LayerSteps("conv", ("Conv",), {0: 8, 2: 1}),)
    old = [replace(row, layers=layers if row.device == "litert-reference" else ()) for row in _ROWS[::2]]
    device = {"device litert-reference": {"version": "2.3"}}
    kept = carried_over(_ROWS, old, device, device)
    assert [row.layers for row in kept] == [(), (), layers, ()]
    assert [row.verdict for row in kept] == [Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.PASS]
    assert carried_over(_ROWS, old, device, {"device litert-reference": {"version": "2.2"}}) == _ROWS
