"""Link 3 of a file's interface: what a file states of its inputs and outputs is what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from crossed import diagonal
from torch import Tensor, nn

import edgeconv
from edgeconv.core import Artifact
from edgeconv.core.verdicts import Link, Verdict
from edgeconv.parity.writing import interface_faults


class Pair(nn.Module):
    """Two outputs of one shape, and inputs of one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(y)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Artifact]:
    batch = {name: np.ones((1, 3, 8, 8), np.float32) for name in "xy"}
    result = edgeconv.export(
        Pair().eval(),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)),
        tmp_path_factory.mktemp("pair"),
        name="pair",
        input_names=["x", "y"],
        output_names=["p", "q"],
        variants=("fp32", "int8"),
        devices=("onnxruntime",),
        quantization=edgeconv.Quantization(batches=lambda: [batch], io="int8"),
    )
    assert result.report is not None
    assert all(link.verdict is Verdict.PASS for item in result.report.artifacts for link in item.links)
    return {(item.variant, item.format): item for item in result.artifacts}


def _exchanged(items: Any) -> None:
    first, second = list(items)
    kept = type(first)()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)


def _of_onnx(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        change(model.graph)
        return bytes(model.SerializeToString())

    return changed


def _signature_exchanged(data: bytes) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    first, second = model.signatureDefs[0].outputs
    first.name, second.name = second.name, first.name
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensors_exchanged(data: bytes) -> bytes:
    """The names of the tensors that are outputs; the signature names them as before."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = model.subgraphs[0]
    first, second = (graph.tensors[index] for index in graph.outputs)
    first.name, second.name = second.name, first.name
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _half(graph: Any) -> None:
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def _shape(graph: Any) -> None:
    graph.output[1].type.tensor_type.shape.dim[0].dim_value = 2


FAULTS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "outputs in another order": (
        "onnx",
        _of_onnx(lambda graph: _exchanged(graph.output)),
        "p, q; cause: its outputs are in another order",
    ),
    "inputs in another order": ("onnx", _of_onnx(lambda graph: _exchanged(graph.input)), "has the inputs y, x"),
    "the type of an output": ("onnx", _of_onnx(_half), "has the type float16"),
    "the shape of an output": ("onnx", _of_onnx(_shape), "has the shape [2, 4, 6, 6]"),
    "names of a signature": ("tflite", _signature_exchanged, "cause: its outputs are in another order"),
    "names of tensors": ("tflite", _tensors_exchanged, "cause: the names of two outputs are exchanged"),
}


@pytest.mark.parametrize(("name", "variant"), diagonal([*FAULTS], ["fp32", "int8"]))
def test_an_interface_that_is_not_what_is_said_of_the_file_is_told(
    name: str, variant: str, artifacts: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    format_, change, words = FAULTS[name]
    artifact = artifacts[variant, format_]
    assert interface_faults(artifact, ["x", "y"], ["p", "q"]) == []
    path = tmp_path / artifact.path.name
    path.write_bytes(change(artifact.path.read_bytes()))
    faults = interface_faults(replace(artifact, path=path), ["x", "y"], ["p", "q"])
    assert any(words in line for _, line in faults), faults


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_what_is_said_of_a_file_is_held_to_its_graph(format_: str, artifacts: dict[tuple[str, str], Artifact]) -> None:
    artifact = artifacts["fp32", format_]
    said = replace(artifact, outputs=artifact.outputs[::-1])
    ((name, line),) = interface_faults(said, ["x", "y"], ["p", "q"])
    assert name == "p"
    assert "is said to have the outputs q, p" in line
    wrong = replace(artifact, inputs=(replace(artifact.inputs[0], dtype="float16"), artifact.inputs[1]))
    ((name, line),) = interface_faults(wrong, ["x", "y"], ["p", "q"])
    assert (name, "is said to have float16" in line) == ("x", True)


def test_the_writing_link_of_an_export_asks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeconv.flow import links

    """Before values are compared: those of another output may have another rank."""
    right = links.opened
    monkeypatch.setattr(links, "_writing", lambda *_: pytest.fail("values are compared of another output"))

    def planted(artifact: Artifact, graph: Any, **options: Any) -> Any:
        if artifact.format == "onnx":
            artifact.path.write_bytes(_of_onnx(lambda of: _exchanged(of.output))(artifact.path.read_bytes()))
        return right(artifact, graph, **options)

    monkeypatch.setattr(links, "opened", planted)
    args = (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    report = edgeconv.export(Pair().eval(), args, tmp_path, name="pair", formats=("onnx",), devices=("torch",)).report
    (writing,) = (link for link in report.artifacts[0].links if link.link is Link.WRITING)
    assert writing.verdict is Verdict.FAIL
    assert "has the outputs" in writing.reason


class Ranks(nn.Module):
    """Two outputs of other ranks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, y.mean((2, 3))


def test_a_tensor_with_the_name_of_an_output_of_another_rank_breaks_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeconv.flow import links

    right = links.opened

    def planted(artifact: Artifact, graph: Any, **options: Any) -> Any:
        artifact.path.write_bytes(_tensors_exchanged(artifact.path.read_bytes()))
        return right(artifact, graph, **options)

    monkeypatch.setattr(links, "opened", planted)
    batch = torch.zeros(1, 3, 8, 8)
    options = {"name": "ranks", "formats": ("tflite",), "devices": ("torch",)}
    report = edgeconv.export(Ranks().eval(), (batch,), tmp_path, **options).report
    assert report is not None
    (writing,) = (link for link in report.artifacts[0].links if link.link is Link.WRITING)
    assert writing.verdict is Verdict.FAIL
