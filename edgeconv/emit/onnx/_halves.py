"""Weights and computation in float16, inputs and outputs in float32."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.core.precision import to_float16
from edgeconv.emit.half_precision import float32_region
from edgeconv.graph.edit import WRITTEN_OUT
from edgeconv.graph.names import unique_name

# Operands that ONNX wants in float32 whatever the data is.
_FLOAT32_OPERANDS = {"Resize": (1, 2)}
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def in_halves(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of the graph that computes in float16, but for what float16 cannot compute; with notes on that.

    Inputs, outputs and what stays float32 are cast where they meet the rest.
    """
    model = model.clone()
    region = float32_region(model.graph)
    work = _Halves(model.graph, frozenset(region))
    work.run()
    why = [f"{node.op_type} {node.outputs[0].name!r} ({reason})" for node, reason in region.items() if reason]
    if not why:
        return model, ()
    more = f" and {len(why) - 1} more" if len(why) > 1 else ""
    return model, (f"{len(region)} operators are computed in float32, around {why[0]}{more}",)


def marks_of(graph: ir.Graph) -> dict[str, str]:
    """The operations that operators write out, by the names of what these give; in files there are no marks."""
    marked = {node: node.metadata_props[WRITTEN_OUT] for node in graph if WRITTEN_OUT in node.metadata_props}
    return {value.name: operation for node, operation in marked.items() for value in node.outputs if value.name}


def mark(graph: ir.Graph, marks: Mapping[str, str]) -> None:
    """Marks the operators again that give values of these names, which the graph kept while it was simplified."""
    for node in graph:
        for name in [value.name for value in node.outputs if value.name]:
            if name in marks:
                node.metadata_props[WRITTEN_OUT] = marks[name]


class _Halves:
    """Gives every value its type, and casts where a reader wants another."""

    def __init__(self, graph: ir.Graph, region: frozenset[ir.Node]) -> None:
        self.graph, self.region = graph, region
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.floats = {value for value in (*graph.inputs, *graph.initializers.values()) if value.dtype == _FLOAT}
        self.floats |= {value for node in graph for value in node.outputs if value.dtype == _FLOAT}

    def run(self) -> None:
        """Gives float16 to every float outside of the region, and casts where the two types meet."""
        nodes = list(self.graph)
        # 1. Each value's type: float16, unless an operator of the region makes it or a caller feeds it.
        self._halve_constants()
        for node in nodes:
            if node not in self.region:
                self._halve_attributes(node)
                for result in self.floats.intersection(node.outputs):
                    result.type = ir.TensorType(_HALF)  # a new one: clones share theirs
        # 2. A cast wherever a reader needs the other type.
        for node in nodes:
            float32_operands = _FLOAT32_OPERANDS.get(node.op_type, ())
            for index, value in enumerate(node.inputs):
                if value is not None and value in self.floats:
                    dtype = _FLOAT if node in self.region or index in float32_operands else _HALF
                    node.replace_input_with(index, self._in_dtype(value, dtype))
        self._cast_outputs()
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _halve_constants(self) -> None:
        """Rounds the constants that nothing reads in float32."""
        for value in self.graph.initializers.values():
            stored = value.const_value
            if stored is None or value not in self.floats or value.is_graph_input() or self._is_read_in_float(value):
                continue
            value.const_value = ir.tensor(to_float16(stored.numpy()), name=value.name)
            value.type = ir.TensorType(_HALF)

    def _cast_outputs(self) -> None:
        for index, value in enumerate(list(self.graph.outputs)):
            producer = value.producer()
            if value.dtype != _HALF or producer is None:
                continue
            result = ir.Value(name=value.name, type=ir.TensorType(_FLOAT), shape=value.shape)
            # The float32 result of the cast is what callers know under the name.
            value.name = unique_name(self.graph, f"{value.name}.half")
            result.metadata_props.update(value.metadata_props)
            self.graph.insert_after(producer, _cast(value, result, _FLOAT))
            self.graph.outputs[index] = result

    def _is_read_in_float(self, value: ir.Value) -> bool:
        readers = [(use.node, use.idx) for use in value.uses()]
        has_float_reader = any(
            node in self.region or at in _FLOAT32_OPERANDS.get(node.op_type, ()) for node, at in readers
        )
        return has_float_reader or value.is_graph_output()

    def _in_dtype(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in this type: itself, another constant, or a cast of it."""
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self.casts:
            suffix = "half" if dtype == _HALF else "float"
            copy = ir.Value(
                name=unique_name(self.graph, f"{value.name}.{suffix}"), type=ir.TensorType(dtype), shape=value.shape
            )
            if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
                copy.const_value = ir.tensor(to_float16(value.const_value.numpy()), name=copy.name)
                self.graph.register_initializer(copy)
            elif (producer := value.producer()) is not None:
                self.graph.insert_after(producer, _cast(value, copy, dtype))
            else:
                self.graph.insert_before(self.graph[0], _cast(value, copy, dtype))
            self.casts[key] = copy
        return self.casts[key]

    def _halve_attributes(self, node: ir.Node) -> None:
        # A Cast to float32 becomes one to float16; other targets (integers, booleans) stay.
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", _HALF)
        stored = node.attributes.get("value")
        if node.op_type in ("Constant", "ConstantOfShape") and stored is not None:
            tensor = stored.as_tensor()
            if tensor.dtype == _FLOAT:
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(to_float16(tensor.numpy())))


def _cast(value: ir.Value, result: ir.Value, dtype: ir.DataType) -> ir.Node:
    return ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[result])
