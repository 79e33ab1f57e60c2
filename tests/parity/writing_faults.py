"""Faults planted into files after they were written: what a wrong converter, or a flipped bit, leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

Planted = tuple[str, bytes, str]
"""Kind, the file's bytes, and the tensor or layer that is to be named."""
_TFLITE = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
}
_ONNX = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
_ATTRIBUTES = {"epsilon": "eps", "alpha": "slope", "pads": "padding", "strides": "stride"}


def next_number(array: np.ndarray) -> bool:
    """The largest number moves by one unit in the last place, or one step."""
    at = int(np.argmax(np.abs(array.astype(np.float64))))
    if array[at] == 0:
        return False
    array[at] = (
        array[at] - np.sign(array[at]) if array.dtype.kind == "i" else np.nextafter(array[at], array.dtype.type(0))
    )
    return True


def exchanged(array: np.ndarray) -> bool:
    """Two unequal numbers change places."""
    others = np.flatnonzero(array != array[0])
    if array.size < 4 or not others.size:
        return False
    array[0], array[others[0]] = array[others[0]].copy(), array[0].copy()
    return True


def zeroed(array: np.ndarray) -> bool:
    """The smallest number that is not zero becomes zero, as a weight may be elsewhere."""
    others = np.flatnonzero(array)
    if len(others) < 4:
        return False
    array[others[np.argmin(np.abs(array[others].astype(np.float64)))]] = 0
    return True


CONSTANT_FAULTS: dict[str, Callable[[np.ndarray], bool]] = {
    "ulp": next_number,
    "permuted": exchanged,
    "zeroed": zeroed,
}


def planted_in_onnx(data: bytes) -> Iterator[Planted]:
    """Faults of an ``.onnx`` file, one at a time; of each kind of constant fault at most three."""
    graph = onnx.load_model_from_string(data).graph
    parameters = {name for node in graph.node if node.op_type.endswith("quantizeLinear") for name in node.input[1:]}
    parameters |= {name for node in graph.node if node.op_type.endswith("QuantizeLinear") for name in node.input[1:]}
    for kind, fault in CONSTANT_FAULTS.items():
        weights = [at for at, item in enumerate(graph.initializer) if item.data_type in _ONNX]
        for at in [at for at in weights if graph.initializer[at].name not in parameters][:3]:
            model = onnx.load_model_from_string(data)
            tensor = model.graph.initializer[at]
            array = numpy_helper.to_array(tensor).copy()
            if fault(array.reshape(-1)):
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                yield kind, model.SerializeToString(), tensor.name
    for at, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.name in _ATTRIBUTES and node.op_type != "Gemm":
                model = onnx.load_model_from_string(data)
                changed = next(item for item in model.graph.node[at].attribute if item.name == attribute.name)
                if _change(changed):
                    yield _ATTRIBUTES[attribute.name], model.SerializeToString(), node.output[0]
        if node.op_type == "Clip":
            model = onnx.load_model_from_string(data)
            model.graph.node[at].op_type = "Relu"
            del model.graph.node[at].input[1:]
            yield "clamp", model.SerializeToString(), node.output[0]
        if node.op_type == "QuantizeLinear":
            for kind, place in (("scale", 1), ("zero point", 2)):
                model = onnx.load_model_from_string(data)
                tensor = next(item for item in graph.initializer if item.name == node.input[place])
                array = numpy_helper.to_array(tensor).copy().reshape(-1)
                array[0] = np.nextafter(array[0], array.dtype.type(9)) if place == 1 else array[0] ^ 1
                model.graph.initializer.append(numpy_helper.from_array(array.reshape(tensor.dims), "planted"))
                model.graph.node[at].input[place] = "planted"
                yield kind, model.SerializeToString(), node.output[0]
    model = onnx.load_model_from_string(data)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "left over"))
    yield "unused", model.SerializeToString(), "left over"


def _change(attribute: onnx.AttributeProto) -> bool:
    if attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = float(np.nextafter(np.float32(attribute.f), np.float32(9)))
        return True
    if attribute.name == "strides":
        attribute.ints[-1] += 1
        return True
    half = len(attribute.ints) // 2
    if not any(attribute.ints):
        return False
    first = next(at for at, size in enumerate(attribute.ints) if size)
    attribute.ints[first] -= 1
    attribute.ints[(first + half) % len(attribute.ints)] += 1
    return True


def planted_in_tflite(data: bytes) -> Iterator[Planted]:
    """Faults of a ``.tflite`` file, one at a time; of each kind of constant fault at most three."""
    graph = _read(data).subgraphs[0]
    filled = [buffer.data is not None and len(buffer.data) > 0 for buffer in _read(data).buffers]
    constants = [at for at, tensor in enumerate(graph.tensors) if filled[tensor.buffer] and tensor.type in _TFLITE]
    for kind, fault in CONSTANT_FAULTS.items():
        for at in constants[:3]:
            model = _read(data)
            tensor = model.subgraphs[0].tensors[at]
            buffer = model.buffers[tensor.buffer]
            array = np.array(buffer.data, np.uint8).view(_TFLITE[tensor.type]).copy()
            if fault(array):
                buffer.data = np.frombuffer(array.tobytes(), np.uint8)
                yield kind, _packed(model), tensor.name.decode()
    yield from _parameters(data, graph, filled)
    yield from _options(data, graph)
    model = _read(data)
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.ones(4, np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.name, tensor.shape, tensor.type, tensor.buffer = "left over", [4], 0, len(model.buffers) - 1
    model.subgraphs[0].tensors.append(tensor)
    yield "unused", _packed(model), "left over"


def _parameters(data: bytes, graph: schema.SubGraphT, filled: list[bool]) -> Iterator[Planted]:
    """Another scale or zero point of a tensor that is computed."""
    for at, tensor in enumerate(graph.tensors):
        quantization = tensor.quantization
        if filled[tensor.buffer] or quantization is None or quantization.scale is None:
            continue
        for kind in ("scale", "zero point"):
            model = _read(data)
            changed = model.subgraphs[0].tensors[at].quantization
            if kind == "scale":
                changed.scale = np.nextafter(np.array(changed.scale, np.float32), np.float32(9))
            else:
                changed.zeroPoint = np.array(changed.zeroPoint) + 1
            yield kind, _packed(model), tensor.name.decode()


def _options(data: bytes, graph: schema.SubGraphT) -> Iterator[Planted]:
    """Another clamp, stride or slope of an operator."""
    for at, operator in enumerate(graph.operators):
        for field, kind in (("fusedActivationFunction", "clamp"), ("strideW", "stride"), ("alpha", "slope")):
            if not hasattr(operator.builtinOptions, field):
                continue
            model = _read(data)
            options = model.subgraphs[0].operators[at].builtinOptions
            value = getattr(options, field)
            result = graph.tensors[operator.outputs[0]]
            quantized = result.quantization is not None and result.quantization.scale is not None
            if kind == "clamp" and (value not in (1, 3) or quantized):  # integers saturate where the clamp is
                continue
            if kind == "stride" and graph.tensors[operator.inputs[0]].shape[2] == 1:  # one window
                continue
            other = {"clamp": 4 - value, "stride": value + 1, "slope": float(np.nextafter(np.float32(value), 9))}
            setattr(options, field, other[kind])
            yield kind, _packed(model), graph.tensors[operator.outputs[0]].name.decode()


def _read(data: bytes) -> schema.ModelT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def _packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def cut_off_in_tflite(data: bytes) -> Iterator[Planted]:
    """Of each constant of 16 numbers or more of less than 32 bits, every other number one unit nearer to zero."""
    graph = _read(data).subgraphs[0]
    for tensor in graph.tensors:
        model = _read(data)
        buffer = model.buffers[tensor.buffer]
        if tensor.type not in (schema.TensorType.FLOAT16, schema.TensorType.INT8) or buffer.data is None:
            continue
        array = np.array(buffer.data, np.uint8).view(_TFLITE[tensor.type]).copy()
        if array.size < 16 or len(np.unique(array)) < 16:
            continue
        others = array[::2]
        array[::2] = others - np.sign(others) if array.dtype == np.int8 else np.nextafter(others, np.float16(0))
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        yield "cut off", _packed(model), tensor.name.decode()


def moved_terms_in_tflite(data: bytes) -> Iterator[bytes]:
    """Of the first constant of int32 with scales, one number is a step off: each in turn."""
    tensors = _read(data).subgraphs[0].tensors
    integers = [tensor for tensor in tensors if tensor.type == schema.TensorType.INT32 and tensor.quantization]
    tensor = next(item for item in integers if item.quantization.scale is not None)
    for at in range(int(tensor.shape[0])):
        model = _read(data)
        buffer = model.buffers[tensor.buffer]
        array = np.array(buffer.data, np.uint8).view(np.int32).copy()
        array[at] += 1
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        yield _packed(model)
