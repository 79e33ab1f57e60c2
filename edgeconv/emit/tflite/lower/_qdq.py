"""QuantizeLinear and DequantizeLinear nodes -> a float graph and the parameters that they stand for.

1. A constant behind DequantizeLinear becomes a float constant, and its scales are noted.
2. A pair DequantizeLinear(QuantizeLinear(x)) vanishes; its parameters are noted as those of x.
3. A pair with other parameters than x has already becomes one ``Requantize`` node; so does each of several pairs of
   one float value that differ, and one beside which the float value is read as it is.

Inputs and outputs of integers are floats by then (`_integer_borders`), whose integers the file takes and gives.
uint8 parameters are those of int8, moved by 128. The names of the file's tensors are those that the pairs give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.lower._integer_borders import Border, float_borders, successor_of, written_out
from edgeconv.emit.tflite.lower._parameters import parameters_of, refused, signed
from edgeconv.graph.edit import constant, is_taken, producer_of
from edgeconv.graph.gelus import stored_as_integers
from edgeconv.graph.traits import Trait, having

REQUANTIZE = "Requantize"
_ACTIVATIONS = ("int8", "int16")


@dataclass(frozen=True)
class Quantized:
    """A float graph and what its values are quantized by.

    Attributes:
        model: without QuantizeLinear and DequantizeLinear.
        activations: quantization of computed values and inputs, by the value's name in the float graph.
        constants: of initializers that were stored as integers, by name; the axis is torch's.
        integers: the results of QuantizeLinear, by name, whose place a value of the float graph has taken.
        borders: element type of each input and output that is of integers, by name.
    """

    model: ir.Model
    activations: dict[str, Quantization] = field(default_factory=dict)
    constants: dict[str, Quantization] = field(default_factory=dict)
    integers: dict[ir.Value, list[str]] = field(default_factory=dict)
    borders: dict[str, str] = field(default_factory=dict)


def strip(model: ir.Model) -> Quantized:
    """Takes the pairs out of a copy of the graph; a graph without any is returned as it is.

    Raises:
        EmitError: integers are used otherwise than in such pairs, or parameters are no constants.
    """
    if not any(node.op_type in having(Trait.SCALED) for node in model.graph):
        return Quantized(model)
    model = model.clone()
    borders = float_borders(model.graph)
    work = _Strip(model.graph, borders)
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            work.quantize(node)
        elif node.op_type == "DequantizeLinear":
            work.dequantize(node)
    for node in reversed(list(model.graph)):
        if node.op_type in having(Trait.SCALED) and not any(map(is_taken, node.outputs)):
            model.graph.remove(node, safe=True)
    types = {name: border.dtype for name, border in borders.items()}
    return Quantized(model, work.activations, work.constants, work.held, types)


class _Strip:
    def __init__(self, graph: ir.Graph, borders: Mapping[str, Border]) -> None:
        self.graph = graph
        inputs = {value.name for value in graph.inputs}
        self.activations = {name: border.parameters for name, border in borders.items() if name in inputs}
        self.constants: dict[str, Quantization] = {}
        self.integers: dict[ir.Value, Array] = {}
        self.held: dict[ir.Value, list[str]] = {}
        # Float values that are read as one and the same integers by all readers.
        self.whole = {value for node in graph for value in node.inputs if value is not None and _is_whole(value)}

    def quantize(self, node: ir.Node) -> None:
        """Quantizes a constant at once; a node of a pair waits for its DequantizeLinear."""
        array = constant(node.inputs[0])
        if array is not None:
            parameters = parameters_of(node, array.ndim)
            self.integers[node.outputs[0]] = parameters.quantized(array)
        elif node.inputs[0] in self.whole:
            self.whole.update(node.outputs)

    def dequantize(self, node: ir.Node) -> None:
        """Turns integers behind it into a float constant, or takes the pair out and notes its parameters.

        Raises:
            EmitError: what TFLite has no form for (`strip`).
        """
        source, result = node.inputs[0], node.outputs[0]
        integers = constant(source) if source not in self.integers else self.integers[source]
        if integers is not None:
            self._constant(node, integers)
            return
        pair = producer_of(source)
        if pair is None or pair.op_type != "QuantizeLinear" or pair.inputs[0] is None:
            written_out(self.graph, node)
            return
        if parameters_of(pair, 0) != parameters_of(node, 0):
            raise refused(node, "its QuantizeLinear has another scale or zero point", "give both the same")
        # Of the two, the QuantizeLinear is named: at an output of integers the other one is not the file's.
        value, parameters = pair.inputs[0], signed(parameters_of(pair, 0))
        if parameters.dtype not in _ACTIVATIONS or parameters.per_channel:
            raise refused(pair, "an activation has one scale and is int8, uint8 or int16", "quantize it so")
        if parameters.dtype == "int16" and any(parameters.zero_point):
            why = "TFLite's 16-bit activations have zero point 0 (of uint16: 32768)"
            raise refused(pair, why, "quantize symmetrically (onnxruntime: ActivationSymmetric), or to 8 bits")
        # All that reads the float value reads its integers, so the value itself may have them (rule 2).
        if source in self.whole:
            self.activations.setdefault(_named(value), parameters)
        recorded = self.activations.get(_named(value))
        name = _named(pair.outputs[0])
        if recorded == parameters:
            if name not in self.held.setdefault(value, []):
                self.held[value].append(name)
            self._merge(result, value)
            return
        requantize = ir.Node("", REQUANTIZE, [value], outputs=[successor_of(result)])
        requantize.metadata_props.update(node.metadata_props)
        self.graph.insert_after(node, requantize)
        _take_over(result, requantize.outputs[0])
        self.activations[_named(requantize.outputs[0])] = parameters
        self.held[requantize.outputs[0]] = [name]

    def _merge(self, result: ir.Value, value: ir.Value) -> None:
        """Puts the value in the place of what came out of its pair, whose name it takes where it is free to."""
        name, own = result.name, _named(value)
        is_output = result.is_graph_output()
        if is_output and (value.is_graph_input() or value.is_graph_output()):
            producer = result.producer()
            copy = ir.Node("", "Identity", [value], outputs=[successor_of(result)])
            self.graph.insert_after(producer, copy)  # type: ignore[arg-type]
            _take_over(result, copy.outputs[0])
            self.activations[_named(copy.outputs[0])] = self.activations[own]
            return
        _take_over(result, value)
        suffixed = own.startswith(name or "\0")  # `x.float` before the pair, `x` after it
        if value.is_graph_input() or (value.is_graph_output() and not is_output) or not (is_output or suffixed):
            return
        result.name, value.name = own, name
        self.activations[_named(value)] = self.activations.pop(own)

    def _constant(self, node: ir.Node, integers: Array) -> None:
        result = node.outputs[0]
        parameters = parameters_of(node, integers.ndim)
        moved = signed(parameters)
        shift = parameters.zero_point[0] - moved.zero_point[0]
        integers = (integers.astype(np.int64) - shift).astype(moved.dtype)
        array = moved.dequantized(integers).astype(np.float32)  # rounded once
        real = ir.Value(name=result.name, const_value=ir.tensor(array, name=result.name), type=result.type)
        real.shape = ir.Shape(array.shape)
        stored_as_integers(real)
        result.name = f"{result.name}/dequantized"
        _take_over(result, real)
        self.graph.initializers[_named(real)] = real
        # A bias (int32) takes the scale of its layer's input times that of its weights, whatever it was stored with.
        if moved.dtype not in ("int16", "int32") or (moved.dtype == "int16" and _is_operand(real, moved)):
            self.constants[_named(real)] = moved


def _is_operand(value: ir.Value, parameters: Quantization) -> bool:
    """Whether kernels read the constant as 16 bits. Weights have 8: a layer of others stays float."""
    is_weight = any(use.idx == 1 and use.node.op_type in having(Trait.LAYER) for use in value.uses())
    return not is_weight and not any(parameters.zero_point)


def _is_whole(value: ir.Value) -> bool:
    """Whether all that is read of a value are its integers, by one and the same QuantizeLinear or equal ones."""
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or any(node.op_type != "QuantizeLinear" for node in readers):
        return False
    return len({parameters_of(node, 0) for node in readers}) == 1


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Every reader of the one, and the graph's outputs, read the other."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.shape = old.shape if new.shape is None else new.shape
    new.type = old.type if new.type is None else new.type


def _named(value: ir.Value) -> str:
    return value.name or ""
