"""Weights beside the file: what is too large for one ``.onnx`` file, which protobuf ends at 2 GiB.

While the graph is written and checked, its large constants are inputs of it; then they become initializers whose data
lie in another file. onnxsim, which compares whole files, is left out for such a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.defaults import LARGEST_FILE_BYTES

_SMALL = 2**10  # bytes of a constant that stays in the file: shapes, axes, bounds
_ALIGNED = 2**12  # where a tensor begins, so that runtimes can map the file into memory


def weight_bytes(model: ir.Model) -> int:
    """Bytes that the constants of a graph take."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def is_too_large(model: ir.Model) -> bool:
    """Whether the constants of a graph exceed what one file holds (protobuf: 2 GiB)."""
    return weight_bytes(model) > LARGEST_FILE_BYTES


@dataclass(frozen=True)
class Apart:
    """A graph and its large constants.

    Attributes:
        model: a copy, in which they are inputs.
        weights: by name.
    """

    model: ir.Model
    weights: Mapping[str, ir.TensorProtocol]

    def restored(self, proto: onnx.ModelProto, data_name: str) -> tuple[Array, ...]:
        """Makes them initializers of the written graph again; returns what the file ``data_name`` has to hold.

        Without a name they go into the graph's own file.
        """
        graph = proto.graph
        own_inputs = [value for value in graph.input if value.name not in self.weights]
        del graph.input[:]
        graph.input.extend(own_inputs)
        parts: list[Array] = []
        offset = 0
        for name, tensor in self.weights.items():
            data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
            entry = onnx.TensorProto(name=name, dims=tensor.shape.numpy(), data_type=int(tensor.dtype))
            graph.initializer.append(entry)
            entry = graph.initializer[-1]
            if not data_name:
                entry.raw_data = data.tobytes()
                continue
            entry.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data_name), ("offset", offset), ("length", data.size)):
                entry.external_data.add(key=key, value=str(value))
            # Up to the next multiple of _ALIGNED.
            gap = -data.size % _ALIGNED
            parts += [data, np.zeros(gap, np.uint8)]
            offset += data.size + gap
        return tuple(parts)


def apart(model: ir.Model) -> Apart:
    """Takes the large constants out of a copy of the graph."""
    model = model.clone()
    graph, weights = model.graph, {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _SMALL or value.is_graph_output():
            continue
        weights[name] = tensor
        del graph.initializers[name]
        value.const_value, value.type = None, ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(tensor.shape.numpy())
        graph.inputs.append(value)
    return Apart(model, weights)
