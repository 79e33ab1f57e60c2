"""Link 3 of a file's form: the shapes of its outputs, the order of its nodes, its inputs."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from test_writing import emitted, judged
from torch import nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.errors import ParityError
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.parity.writing import read_back
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

X = np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)


class Classifier(nn.Module):
    """A reshape is the last that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(1)


def made_of(variant: str) -> Variant:
    torch.manual_seed(0)
    model = optimize(capture(Classifier().eval(), (torch.from_numpy(X),), input_names=["x"], output_names=["y"]))
    quantization = Quantization(lambda: [{"x": X}], rounding="nearest")
    (made,) = variants_of(model, (variant,), quantization, Silent())
    return made


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8", "int16x8"])
def test_an_output_of_the_right_numbers_in_another_shape_is_told(variant: str, tmp_path: Path) -> None:
    """A last RESHAPE to [8, 1] in place of [1, 8] leaves every number as it is, and passed."""
    made = made_of(variant)
    contents, path = emitted(made, "tflite"), tmp_path / "net.tflite"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(contents.data, 0))
    graph = model.subgraphs[0]
    shapes = [
        model.buffers[tensor.buffer]
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.INT32 and list(tensor.shape) == [2] and tensor.buffer
    ]
    assert len(shapes) == 1
    assert bytes(bytearray(shapes[0].data)) == np.array([1, 8], np.int32).tobytes()
    shapes[0].data = np.frombuffer(np.array([8, 1], np.int32).tobytes(), np.uint8)
    right = judged(made, {"x": X}, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    wrong = judged(made, {"x": X}, contents, bytes(builder.Output()), path)
    assert wrong.verdict is Verdict.FAIL
    assert "has the shape [8, 1], and the graph's is [1, 8]" in wrong.reason


def test_a_file_whose_nodes_are_not_in_order_is_refused_with_the_node(tmp_path: Path) -> None:
    """A bias of a later layer, read by an earlier one, ended in a traceback."""
    made = made_of("fp32")
    contents, path = emitted(made, "onnx"), tmp_path / "net.onnx"
    model = onnx.load_from_string(contents.data)
    nodes = list(model.graph.node)
    assert len(nodes) > 1
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    wrong = judged(made, {"x": X}, contents, model.SerializeToString(), path)
    assert wrong.verdict is Verdict.FAIL
    assert "it cannot be read: " in wrong.reason
    why = f"{nodes[-1].op_type} y reads {nodes[-2].output[0]}, which a later node computes"
    assert why in wrong.reason
    with pytest.raises(ParityError, match=why):  # as a file of another converter
        read_back(path)


def test_scales_along_an_axis_of_another_size_are_told_of_the_file(tmp_path: Path) -> None:
    made = made_of("int8")
    contents, path = emitted(made, "onnx"), tmp_path / "net.onnx"
    model = onnx.load_from_string(contents.data)
    (weight,) = (node for node in model.graph.node if "conv.weight" in node.output)
    (axis,) = (attribute for attribute in weight.attribute if attribute.name == "axis")
    axis.i = 1 - axis.i
    wrong = judged(made, {"x": X}, contents, model.SerializeToString(), path)
    assert wrong.verdict is Verdict.FAIL
    assert "it cannot be read: conv.weight" in wrong.reason


def test_an_onnx_file_whose_input_is_computed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = onnx.load_from_string(emitted(made_of("fp32"), "onnx").data)
    inner = model.graph.node[0].output[0]
    model.graph.input.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ParityError, match=f"computes '{inner}', which is an input"):
        read_back(path)
