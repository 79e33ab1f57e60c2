"""One tiny model in every format, made without any code of edgeconv: two outputs, left - right and right - left.

Subtraction tells inputs apart, and the second output tells outputs apart. The TFLite one is channels-last, and its
signature names tensors otherwise than the tensors themselves are named, in another order.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from edgeconv.core import NCHW, NHWC, Artifact, Sample, TensorSpec

SHAPE = (1, 3, 4, 5)  # NCHW, every dimension another
NHWC_SHAPE = (1, 4, 5, 3)


def onnx_bytes(shape: tuple[int, ...] = SHAPE) -> bytes:
    """The model as ONNX."""
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("left", "right", "ab", "ba")
    }
    nodes = [helper.make_node("Sub", ["left", "right"], ["ab"]), helper.make_node("Sub", ["right", "left"], ["ba"])]
    graph = helper.make_graph(nodes, "tiny", [values["left"], values["right"]], [values["ab"], values["ba"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def tflite_bytes(shape: tuple[int, ...] = NHWC_SHAPE) -> bytes:
    """The model as TFLite."""
    model = schema.ModelT()
    model.version = 3
    model.description = "tiny"
    model.buffers = [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SUB
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(f"t{index}", shape) for index in range(4)]
    graph.inputs, graph.outputs = [0, 1], [2, 3]
    graph.operators = [_sub([0, 1], [2]), _sub([1, 0], [3])]
    model.subgraphs = [graph]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [_named("right", 1), _named("left", 0)]
    signature.outputs = [_named("ba", 3), _named("ab", 2)]
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


MAKERS = {"onnx": (onnx_bytes, NCHW, SHAPE), "tflite": (tflite_bytes, NHWC, NHWC_SHAPE)}


def write_artifact(folder: Path, format: str) -> Artifact:  # noqa: A002
    """Writes the model into a folder and describes it as it is."""
    make, layout, shape = MAKERS[format]
    path = folder / f"tiny.fp32.{format}"
    path.write_bytes(make())
    left, right, ab, ba = (TensorSpec(name, shape, "float32", layout) for name in ("left", "right", "ab", "ba"))
    return Artifact(
        path, format, "fp32", layout, hashlib.sha256(path.read_bytes()).hexdigest(), (left, right), (ab, ba)
    )


def make_samples(count: int = 2) -> tuple[Sample, ...]:
    """Samples in torch's layout; they are named in the other order than the model's inputs."""
    random = np.random.default_rng(7)
    arrays = [random.standard_normal((2, *SHAPE)).astype(np.float32) for _ in range(count)]
    return tuple(Sample(f"s{index}", {"right": b, "left": a}) for index, (a, b) in enumerate(arrays))


def _tensor(name: str, shape: tuple[int, ...]) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
    return tensor


def _sub(inputs: list[int], outputs: list[int]) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, outputs
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.SubOptions, schema.SubOptionsT()
    return operator


def _named(name: str, index: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
