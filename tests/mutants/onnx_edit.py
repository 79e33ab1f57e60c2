"""An `.onnx` file that is changed in place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from planted import Constant, Layer, Scale

from edgeconv.core import Array

_ACROSS = ("DequantizeLinear", "Cast", "Identity")  # between a constant and the operator that reads it


class OnnxEdit:
    """A parsed file, with what faults ask of it."""

    def __init__(self, data: bytes) -> None:
        self.model = onnx.load_from_string(data)
        self.graph = self.model.graph

    def data(self) -> bytes:
        """The file as it is now."""
        return self.model.SerializeToString(deterministic=True)

    # -- the graph

    def nodes(self, *types: str) -> list[onnx.NodeProto]:
        """The nodes of these operators, in their order."""
        return [node for node in self.graph.node if node.op_type in types]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value."""
        return next((node for node in self.graph.node if name in node.output), None)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value."""
        return [node for node in self.graph.node if name in node.input]

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [value.name for value in self.graph.input]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in self.graph.output]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value; empty where it is not stated."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return tuple(tensor.dims)
        info = self._info(name)
        return tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) if info is not None else ()

    def dtype(self, name: str) -> np.dtype[Any]:
        """The element type of a value; float32 where it is not stated."""
        info = self._info(name)
        kind = info.type.tensor_type.elem_type if info is not None else onnx.TensorProto.FLOAT
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))

    def _info(self, name: str) -> onnx.ValueInfoProto | None:
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        return next((value for value in values if value.name == name), None)

    def rewire(self, old: str, new: str) -> None:
        """Makes every reader of a value read another; a graph output gets its name from a node of its own."""
        for node in self.graph.node:
            for at, name in enumerate(node.input):
                if name == old:
                    node.input[at] = new
        if old in self.outputs:
            producer = self.producer(old)
            assert producer is not None  # an output is computed
            at = list(self.graph.node).index(producer)
            self.graph.node.remove(producer)
            self.graph.node.insert(at, onnx.helper.make_node("Identity", [new], [old], name=old))

    def insert(self, before: onnx.NodeProto, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A new node in front of another; returns the name of its result."""
        name = f"{before.output[0]}/planted_{len(self.graph.node)}"
        node = onnx.helper.make_node(op_type, list(inputs), [name], name=name, **attributes)
        self.graph.node.insert(list(self.graph.node).index(before), node)
        return name

    def constant(self, values: Array) -> str:
        """A new constant; returns its name."""
        name = f"planted_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    # -- attributes

    @staticmethod
    def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        for item in node.attribute:
            if item.name == name:
                value = onnx.helper.get_attribute_value(item)
                return value.decode() if isinstance(value, bytes) else value
        return default

    @staticmethod
    def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
        """Sets an attribute; None takes it away."""
        left = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend(left)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))

    # -- constants

    def stored(self, name: str) -> Constant | None:
        """The constant that a value is, or is dequantized or cast from."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return self._constant(tensor)
        producer = self.producer(name)
        return self.stored(producer.input[0]) if producer is not None and producer.op_type in _ACROSS else None

    @staticmethod
    def _constant(tensor: onnx.TensorProto) -> Constant:
        def put(values: Array) -> None:
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

        return Constant(tensor.name, numpy_helper.to_array(tensor).copy(), put)

    def layers(self) -> list[Layer]:
        """Convolutions and products with a constant."""
        return list(self._layers())

    def _layers(self) -> Iterator[Layer]:
        for node in self.nodes("Conv", "ConvTranspose", "Gemm", "MatMul"):
            weights = self.stored(node.input[1])
            if weights is None or weights.values.ndim not in (2, 3, 4):
                continue
            bias = self.stored(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            groups = int(self.attribute(node, "group", 1))
            inputs_first = node.op_type in ("ConvTranspose", "MatMul") or (
                node.op_type == "Gemm" and not self.attribute(node, "transB", 0)
            )
            if weights.values.ndim == 3 and node.op_type == "MatMul":
                continue
            axes = (1, 0, 2, 3) if inputs_first else (0, 1, 2, 3)
            reads_input = self._source(node.input[0]) in self.inputs
            yield Layer(node.output[0], weights, axes, bias, groups, self._image(node), reads_input)

    def _source(self, name: str) -> str:
        """The value that another one is quantized, cast or copied from."""
        producer = self.producer(name)
        if producer is None or producer.op_type not in (*_ACROSS, "QuantizeLinear"):
            return name
        return self._source(producer.input[0])

    def _image(self, node: onnx.NodeProto) -> tuple[int, ...]:
        if node.op_type not in ("Gemm", "MatMul"):
            return ()
        producer = self.producer(self._source(node.input[0]))
        if producer is None or producer.op_type not in ("Flatten", "Reshape"):
            return ()
        shape = self.shape(producer.input[0])
        flat = self.shape(producer.output[0])
        is_flat = len(shape) == 4 and flat == (shape[0], math.prod(shape[1:])) and shape[2] * shape[3] > 1
        return shape[1:] if is_flat else ()

    def constants(self) -> list[Constant]:
        """Real constants that are no layer's, and no scales."""
        taken = {layer.weights.name for layer in self.layers()}
        taken |= {layer.bias.name for layer in self.layers() if layer.bias is not None}
        for node in self.nodes("QuantizeLinear", "DequantizeLinear"):
            taken |= set(node.input[1:])
        for node in self.nodes("Resize"):
            taken |= set(node.input[1:])
        read = {name for node in self.graph.node for name in node.input}
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in read - taken]
        return [constant for constant in map(self._constant, tensors) if constant.floating and constant.values.size]

    def activation_scales(self) -> list[Scale]:
        """Of QuantizeLinear; where DequantizeLinear reads the same constants, it is changed with it."""
        final = {self._source(name) for name in self.outputs}
        found = []
        for node in self.nodes("QuantizeLinear"):
            scales, points = self.stored(node.input[1]), self._points(node)
            if scales is not None:
                found.append(Scale(node.output[0], scales, points, node.input[0] in final))
        return found

    def weight_scales(self) -> list[Scale]:
        """Of DequantizeLinear on a constant."""
        found = []
        for node in self.nodes("DequantizeLinear"):
            scales = self.stored(node.input[1])
            if self.stored(node.input[0]) is not None and scales is not None:
                found.append(Scale(node.output[0], scales, self._points(node)))
        return found

    def _points(self, node: onnx.NodeProto) -> Constant | None:
        return self.stored(node.input[2]) if len(node.input) > 2 else None
