"""A `.tflite` file that is changed in place, by the objects of the schema's own module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from planted import Constant, Layer, NoPlaceError, Scale

from edgeconv.core import Array

_CODES = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
_DTYPES = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.FLOAT16: "<f2",
    schema.TensorType.INT8: "|i1",
    schema.TensorType.INT16: "<i2",
    schema.TensorType.INT32: "<i4",
    schema.TensorType.INT64: "<i8",
}
# Operator -> input that holds weights, and the axes of these: output and input channels, height, width.
_LAYERS = {
    "CONV_2D": (0, 1, 2, (0, 3, 1, 2)),
    "DEPTHWISE_CONV_2D": (0, 1, 2, (3, 0, 1, 2)),
    "TRANSPOSE_CONV": (2, 1, 3, (0, 3, 1, 2)),
    "FULLY_CONNECTED": (0, 1, 2, (0, 1, 2, 3)),
}
_VERSIONS = {"PAD": (1, 2, 3), "PADV2": (1, 2, 3), "TRANSPOSE": (1, 2, 5), "SUM": (1, 2, 2)} | {
    "REDUCE_MAX": (1, 2, 3),
    **dict.fromkeys(("TANH", "LOGISTIC", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RELU", "RELU6", "SOFTMAX"), (1, 2, 3)),
    **dict.fromkeys(("ADD", "CONV_2D"), (1, 2, 3)),
    **dict.fromkeys(("MUL", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (3, 2, 4)),
    "SUB": (1, 2, 5),
    "RESHAPE": (1, 1, 1),
}


class TfliteEdit:
    """A parsed file, with what faults ask of it."""

    def __init__(self, data: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(data, 0)
        self.graph = self.model.subgraphs[0]

    def data(self) -> bytes:
        """The file as it is now."""
        builder = Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    # -- the graph

    def code(self, operator: Any) -> str:
        """The name of an operator."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return _CODES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def operators(self, *names: str) -> list[Any]:
        """The operators of these names, in their order; all without names."""
        return [operator for operator in self.graph.operators if not names or self.code(operator) in names]

    def set_code(self, operator: Any, name: str, index: int = 0) -> None:
        """Makes it another operator, of the version that its input ``index`` asks for."""
        dtype = self.dtype(operator.inputs[index])
        version = _VERSIONS.get(name, (1, 1, 1))[{"int8": 1, "int16": 2}.get(dtype.name, 0)]
        number = getattr(schema.BuiltinOperator, name)
        for at, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version == version:
                operator.opcodeIndex = at
                return
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1

    def tensor(self, index: int) -> Any:
        """A tensor by its index."""
        return self.graph.tensors[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor."""
        shape = self.tensor(index).shape
        return () if shape is None else tuple(int(size) for size in shape)

    def dtype(self, index: int) -> np.dtype[Any]:
        """The element type of a tensor."""
        return np.dtype(_DTYPES.get(self.tensor(index).type, "|i1"))

    def name(self, operator: Any) -> str:
        """An operator by its first output's name."""
        return self.tensor_name(operator.outputs[0])

    def tensor_name(self, index: int) -> str:
        """The name of a tensor."""
        name = self.tensor(index).name
        return name.decode() if isinstance(name, bytes) else str(name)

    def readers(self, index: int) -> list[Any]:
        """The operators that read a tensor."""
        return [operator for operator in self.graph.operators if index in list(operator.inputs)]

    def producer(self, index: int) -> Any | None:
        """The operator that writes a tensor."""
        return next((operator for operator in self.graph.operators if index in list(operator.outputs)), None)

    def rewire(self, operator: Any, new: int) -> None:
        """Leaves an operator with one output out: its readers read another tensor.

        Raises:
            NoPlaceError: its result is an output of the graph, or the other tensor holds other numbers.
        """
        old = operator.outputs[0]
        if old in list(self.graph.outputs) or not self.readers(old) or not self._alike(old, new):
            raise NoPlaceError
        for reader in self.readers(old):
            reader.inputs = [new if index == old else index for index in reader.inputs]
        self.graph.operators.remove(operator)

    def _alike(self, first: int, second: int) -> bool:
        return self.tensor(first).type == self.tensor(second).type and self.shape(first) == self.shape(second)

    def add_tensor(self, like: int, shape: Sequence[int]) -> int:
        """A new activation with the type and the scale of another; returns its index."""
        model, tensor = self.tensor(like), schema.TensorT()
        tensor.name = f"planted_{len(self.graph.tensors)}".encode()
        tensor.shape, tensor.type = np.array(shape, np.int32), model.type
        tensor.quantization, tensor.hasRank = model.quantization, True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_constant(self, values: Array) -> int:
        """A new constant of integers or floats; returns its index."""
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor.name = f"planted_{len(self.graph.tensors)}".encode()
        tensor.shape, tensor.buffer = np.array(values.shape, np.int32), len(self.model.buffers) - 1
        tensor.type = next(kind for kind, dtype in _DTYPES.items() if np.dtype(dtype) == values.dtype)
        tensor.hasRank = True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def insert(self, before: Any, name: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None) -> int:
        """A new operator in front of another; returns the index of its result."""
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = list(inputs), [self.add_tensor(inputs[0], shape)]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        self.set_code(operator, name)
        self.graph.operators.insert(self.graph.operators.index(before), operator)
        return int(operator.outputs[0])

    # -- constants

    def stored(self, index: int) -> Constant | None:
        """The constant that a tensor is, or is dequantized from."""
        if index < 0:
            return None
        tensor = self.tensor(index)
        buffer = self.model.buffers[tensor.buffer]
        if not self._holds(index):
            producer = self.producer(index)
            through = producer is not None and self.code(producer) == "DEQUANTIZE"
            return self.stored(producer.inputs[0]) if producer is not None and through else None
        if tensor.type not in _DTYPES:
            return None

        def put(values: Array) -> None:
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)

        values = np.frombuffer(bytes(bytearray(buffer.data)), _DTYPES[tensor.type]).reshape(self.shape(index))
        return Constant(self.tensor_name(index), values.copy(), put)

    def layers(self) -> list[Layer]:
        """Convolutions and products with constant weights."""
        return list(self._layers())

    def _layers(self) -> Iterator[Layer]:
        inputs = list(self.graph.inputs)
        for operator in self.operators(*_LAYERS):
            data, at, bias_at, axes = _LAYERS[self.code(operator)]
            weights = self.stored(operator.inputs[at])
            if weights is None or weights.values.ndim not in (2, 4):
                continue
            bias = self.stored(operator.inputs[bias_at]) if len(operator.inputs) > bias_at else None
            groups = 1
            if self.code(operator) == "CONV_2D":
                groups = self.shape(operator.inputs[0])[-1] // weights.values.shape[-1]
            elif self.code(operator) == "DEPTHWISE_CONV_2D":
                groups = weights.values.shape[-1]
            reads_input = self._source(operator.inputs[data]) in inputs
            image = self._image(operator) if self.code(operator) == "FULLY_CONNECTED" else ()
            yield Layer(self.name(operator), weights, axes, bias, groups, image, reads_input)

    def _source(self, index: int) -> int:
        producer = self.producer(index)
        if producer is None or self.code(producer) not in ("QUANTIZE", "DEQUANTIZE"):
            return index
        return self._source(producer.inputs[0])

    def _image(self, operator: Any) -> tuple[int, ...]:
        producer = self.producer(operator.inputs[0])
        shape = self.shape(operator.inputs[0])
        if producer is not None and self.code(producer) == "RESHAPE":
            shape = self.shape(producer.inputs[0])
        if len(shape) == 4 and shape[1] * shape[2] > 1 and np.prod(shape[1:]) == self.shape(operator.inputs[1])[1]:
            return shape[1:]
        return ()

    def constants(self) -> list[Constant]:
        """Real constants that are no layer's."""
        taken = {layer.weights.name for layer in self.layers()}
        taken |= {layer.bias.name for layer in self.layers() if layer.bias is not None}
        read = {int(index) for operator in self.graph.operators for index in operator.inputs if index >= 0}
        found = [constant for index in sorted(read) if (constant := self.stored(index)) is not None]
        unique = {constant.name: constant for constant in found if constant.floating and constant.name not in taken}
        return list(unique.values())

    def activation_scales(self) -> list[Scale]:
        """Of the tensors that operators write or the graph reads."""
        final = {self._source(index) for index in self.graph.outputs}
        written = {int(index) for operator in self.graph.operators for index in operator.outputs}
        indices = sorted(written | {int(index) for index in self.graph.inputs})
        return [self._scale(index, index in final) for index in indices if self._has_scale(index)]

    def weight_scales(self) -> list[Scale]:
        """Of the constants of integers that have one."""
        read = {int(index) for operator in self.graph.operators for index in operator.inputs if index >= 0}
        return [self._scale(index, False) for index in sorted(read) if self._holds(index) and self._has_scale(index)]

    def _holds(self, index: int) -> bool:
        data = self.model.buffers[self.tensor(index).buffer].data
        return data is not None and len(data) > 0

    def _has_scale(self, index: int) -> bool:
        quantization = self.tensor(index).quantization
        return quantization is not None and quantization.scale is not None and len(quantization.scale) > 0

    def _scale(self, index: int, final: bool) -> Scale:
        quantization, name = self.tensor(index).quantization, self.tensor_name(index)

        def put_scale(values: Array) -> None:
            quantization.scale = values

        def put_points(values: Array) -> None:
            quantization.zeroPoint = values.astype(np.int64)

        scales = Constant(name, np.array(quantization.scale, np.float32), put_scale)
        points = None
        if quantization.zeroPoint is not None and self.dtype(index) == np.int8:
            points = Constant(name, np.array(quantization.zeroPoint).astype(np.int8), put_points)
        return Scale(name, scales, points, final)
