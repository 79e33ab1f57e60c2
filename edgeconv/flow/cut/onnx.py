"""Layers of `.onnx` files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import external_data_helper, helper, inliner, shape_inference

from edgeconv.core import DATA_SUFFIX, Array
from edgeconv.core.threads import one_thread
from edgeconv.errors import ParityError
from edgeconv.flow.cut.integers import as_integers
from edgeconv.graph.quantized_operators import PARAMETERS
from edgeconv.parity.bounds import FLOAT32
from edgeconv.reference import evaluate


class OnnxLayers:
    """See `Layers`.

    Raises:
        ParityError: its weights lie in another's file.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        from edgeconv.parity.running import open_probed

        model = onnx.load_model_from_string(data)
        _require_own_weights(model, path)
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        if model.functions:
            model = inliner.inline_local_functions(model)
        self._model = shape_inference.infer_shapes(model)
        graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._types = {
            info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output, *graph.input)
        }
        self.inputs: Sequence[str] = [info.name for info in graph.input if info.name not in self._constants]
        self.outputs: Sequence[str] = [info.name for info in graph.output]
        self.results: Sequence[str] = list(self._makers)
        groups = open_probed(path, data, FLOAT32).groups
        self.returned: Collection[str] = {name for group in groups for name in group}

    def operands(self, layer: str, borders: Collection[str]) -> list[str]:
        """See `Layers`."""
        return self._way_back(layer, {*borders, *self.inputs})[1]

    def _way_back(self, layer: str, borders: Collection[str]) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes of a layer in the file's order, and what they read."""
        waiting, outputs, read = [layer], set(), list[str]()
        while waiting:
            node = self._makers.get(waiting.pop())
            if node is None or node.output[0] in outputs:
                continue
            outputs.add(node.output[0])
            # A subgraph reads values of the graph around it by name, without listing them as inputs.
            if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
                what = f"{node.op_type} has subgraphs, and is not cut"
                raise ParityError(what, where=layer, hint="name another layer")
            read += [name for name in node.input if name in borders]
            waiting += [name for name in node.input if name not in borders]
        nodes = [node for node in self._model.graph.node if node.output[0] in outputs]
        return nodes, list(dict.fromkeys(read))

    def values(self, inputs: Sequence[Array], names: Collection[str]) -> dict[str, Array]:
        """See `Layers`."""
        feeds = dict(zip(self.inputs, inputs, strict=True))
        own = {name: feeds[name] for name in names if name in feeds}
        with one_thread():
            return own | evaluate(ir.from_proto(self._model), feeds, keep=[name for name in names if name not in own])

    def is_real(self, name: str) -> bool:
        """See `Layers`."""
        return self._dtype(name).kind == "f" or self._parameters(name) is not None

    def stored(self, name: str, array: Array) -> Array:
        """See `Layers`."""
        dtype, parameters = self._dtype(name), self._parameters(name)
        if dtype.kind in "iu" and array.dtype.kind == "f" and parameters is not None:
            return as_integers(array, *parameters, dtype)
        return array.astype(dtype)

    def _dtype(self, name: str) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self._types.get(name, onnx.TensorProto.FLOAT))

    def _parameters(self, name: str) -> tuple[float, int] | None:
        """The scale and zero point that a value is quantized with, where it is; a left out zero point is 0.

        Raises:
            ParityError: they are computed, or not one for all.
        """
        node = self._makers.get(name)
        places = None if node is None else PARAMETERS.get(node.op_type)
        if node is None or places is None:
            return None
        named = [node.input[at] for at in places if at < len(node.input) and node.input[at]]
        stored = [onnx.numpy_helper.to_array(self._constants[item]) for item in named if item in self._constants]
        if not named:
            return None  # a QGemm whose result stays real
        if len(stored) != len(named) or any(array.size != 1 for array in stored):
            raise ParityError("its scale or zero point is no stored number", where=name, hint="name another layer")
        scale, zero = (*(array.reshape(-1)[0] for array in stored), 0)[:2]
        return float(scale), int(zero)

    def reads(self, name: str) -> Sequence[str]:
        """See `Layers`."""
        node = self._makers.get(name)
        return () if node is None else [item for item in node.input if item]

    def cut(self, layer: str, operands: Mapping[str, Array]) -> bytes:
        """See `Layers`."""
        nodes, _ = self._way_back(layer, operands)
        names = {name for node in nodes for name in node.input}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in operands.items()
        ]
        # The output has no shape: the runtime infers it from the operands.
        output = onnx.ValueInfoProto(name=layer)
        output.type.tensor_type.elem_type = self._types.get(layer, onnx.TensorProto.FLOAT)
        constants = [tensor for name, tensor in self._constants.items() if name in names]
        graph = helper.make_graph(nodes, "layer", inputs, [output], constants)
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def graph(self, layer: str, operands: Mapping[str, Array]) -> ir.Graph:
        """See `Layers`."""
        return ir.from_proto(onnx.load_model_from_string(self.cut(layer, operands))).graph


def _require_own_weights(model: onnx.ModelProto, path: Path) -> None:
    """Refuses weights in other files than the one beside it: a path of the file's choice could lead anywhere.

    Raises:
        ParityError: there are such.
    """
    for tensor in model.graph.initializer:
        places = {entry.key: entry.value for entry in tensor.external_data}
        if external_data_helper.uses_external_data(tensor) and places.get("location") != path.name + DATA_SUFFIX:
            what = f"the constant {tensor.name!r} lies in a file that is not its own"
            raise ParityError(what, where=str(path), hint="export it again")
