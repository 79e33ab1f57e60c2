"""Layers of `.tflite` files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np

from edgeconv.core import Array
from edgeconv.flow.cut.integers import as_integers
from edgeconv.parity.bounds import FLOAT32
from edgeconv.reference.tflite import evaluate, read

if TYPE_CHECKING:
    import onnx_ir as ir

_IDENTIFIER = b"TFL3"


class TfliteLayers:
    """See `Layers`.

    Raises:
        EmitError: it cannot be read.
    """

    def __init__(self, data: bytes) -> None:
        from edgeconv.parity.running._tflite import TfliteFile

        self._data, self._graph = data, read(data)  # verified: the schema's own objects may be trusted below
        tensors = self._graph.tensors
        self._places = {tensor.name: at for at, tensor in enumerate(tensors)}
        self._makers = {at: number for number, item in enumerate(self._graph.operators) for at in item.outputs}
        self.inputs: Sequence[str] = [tensors[at].name for at in self._graph.inputs]
        self.outputs: Sequence[str] = [tensors[at].name for at in self._graph.outputs]
        self.results: Sequence[str] = [tensors[at].name for at in self._makers]
        self.returned: Collection[str] = {name for group in TfliteFile(data, FLOAT32).groups for name in group}

    def operands(self, layer: str, borders: Collection[str]) -> list[str]:
        """See `Layers`."""
        places = {self._places[name] for name in (*borders, *self.inputs) if name in self._places}
        return [self._graph.tensors[at].name for at in self._way_back(layer, places)[1]]

    def _way_back(self, layer: str, borders: Collection[int]) -> tuple[list[int], list[int]]:
        """The operators of a layer in the file's order, and the tensors that they read."""
        waiting, numbers, operands = [self._places[layer]], set[int](), list[int]()
        while waiting:
            number = self._makers.get(waiting.pop())
            if number is not None and number not in numbers:
                numbers.add(number)
                inputs = self._graph.operators[number].inputs
                operands += [at for at in inputs if at in borders]
                waiting += [at for at in inputs if at not in borders]
        return sorted(numbers), list(dict.fromkeys(operands))

    def values(self, inputs: Sequence[Array], names: Collection[str]) -> dict[str, Array]:
        """See `Layers`."""
        computed = evaluate(self._graph, dict(zip(self.inputs, inputs, strict=True)))
        return {name: computed[name] for name in names}

    def reads(self, name: str) -> Sequence[str]:
        """See `Layers`."""
        number = self._makers.get(self._places[name])
        inputs = () if number is None else self._graph.operators[number].inputs
        return [self._graph.tensors[at].name for at in inputs if at >= 0]

    def is_real(self, name: str) -> bool:
        """See `Layers`."""
        tensor = self._graph.tensors[self._places[name]]
        return tensor.floating or (tensor.quantization is not None and not tensor.quantization.per_channel)

    def stored(self, name: str, array: Array) -> Array:
        """See `Layers`."""
        tensor = self._graph.tensors[self._places[name]]
        dtype = np.dtype({"int4": "int8", "bfloat16": "float32"}.get(tensor.dtype, tensor.dtype))
        if tensor.quantization is not None and not tensor.floating and array.dtype.kind == "f":
            return as_integers(array, tensor.quantization.scales[0], tensor.quantization.zero_points[0], dtype)
        return array.astype(dtype)

    def cut(self, layer: str, operands: Mapping[str, Array]) -> bytes:
        """See `Layers`."""
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromPackedBuf(self._data, 0)
        graph = model.subgraphs[0]
        inputs = [self._places[name] for name in operands]
        numbers, _ = self._way_back(layer, inputs)
        graph.operators = [graph.operators[number] for number in numbers]
        used = [*inputs, *(int(at) for item in graph.operators for at in (*item.inputs, *item.outputs) if at >= 0)]
        # Tensors are numbered anew; -1 stands for an operand that is left out.
        order = list(dict.fromkeys(used))
        places = {at: new for new, at in enumerate(order)} | {-1: -1}
        graph.tensors = [graph.tensors[at] for at in order]
        for item in graph.operators:
            item.inputs, item.outputs = ([places[int(at)] for at in side] for side in (item.inputs, item.outputs))
        graph.inputs = [places[at] for at in inputs]
        graph.outputs = [places[self._places[layer]]]
        # Signatures and metadata speak of the whole file.
        model.subgraphs, model.signatureDefs, model.metadata, model.metadataBuffer = [graph], None, None, None
        _without_unused(model)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    def graph(self, layer: str, operands: Mapping[str, Array]) -> ir.Graph:
        """See `Layers`."""
        from edgeconv.reference.tflite.as_onnx import to_onnx

        return to_onnx(read(self.cut(layer, operands))).graph


def _without_unused(model: Any) -> None:
    """Leaves the buffers and operator codes out that nothing names; buffer 0 is empty by convention."""
    (graph,) = model.subgraphs
    buffers = list(dict.fromkeys([0, *(tensor.buffer for tensor in graph.tensors)]))
    for tensor in graph.tensors:
        tensor.buffer = buffers.index(tensor.buffer)
    model.buffers = [model.buffers[at] for at in buffers]
    codes = list(dict.fromkeys(item.opcodeIndex for item in graph.operators))
    for item in graph.operators:
        item.opcodeIndex = codes.index(item.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[at] for at in codes]
