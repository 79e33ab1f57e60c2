"""Float graph whose tensors know their quantization -> graph of integers.

1. Parameters spread to the tensors that lowering made (`_scales`).
2. Where an operator reads or writes other parameters, the integers are requantized (`_settle`).
3. An operator with an integer kernel whose operands and results all have parameters becomes integer; any other stays
   float between DEQUANTIZE and QUANTIZE, and is reported.
4. Weights, biases and constants become integers; pixels become channels where there are few (`_pixels`); the inputs
   and outputs are what the caller asks for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.core.affine import bias_scales
from edgeconv.core.values import listed
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_type, of_weights
from edgeconv.emit.tflite.integer._forms import integer_form
from edgeconv.emit.tflite.integer._pixels import pack_pixels
from edgeconv.emit.tflite.integer._rules import (
    INEXACT,
    RULES,
    Kind,
    Rule,
    data_of,
    is_integer,
    operand_parameters,
    results_of,
    why_float,
    why_not_exact,
)
from edgeconv.emit.tflite.integer._scales import spread
from edgeconv.emit.tflite.integer._settle import drop_clamps, settle
from edgeconv.emit.tflite.integer._weights import with_nearest_biases
from edgeconv.emit.tflite.lower._recurrent import WHOLE_LAYER

_FLOAT = np.dtype(np.float32)
_NAMED = 3  # operators in the note of an exact graph
# kernels/conv.cc, Prepare: a bias of int32 beside 8 bits; beside 16 bits int64 holds every sum.
_BIAS = {"int8": "int32", "int16": "int64"}


def make_integer(graph: Graph, *, io: str, exact: bool = False) -> tuple[str, ...]:
    """Makes a graph integer in place.

    Args:
        graph: lowered and simplified, its tensors still float; those that the plan knows have their quantization.
        io: of inputs and outputs that have parameters: ``"float32"``, ``"uint8"``, or else the integers of the graph.
        exact: what integers do not compute to the nearest integer is computed in floats between them.

    Returns:
        What stays float and why: one line per operator, or one for all of which integers are not exact.
    """
    spread(graph, exact=exact)
    if exact:
        for operator in graph.operators:
            operator.keeps_float = operator.keeps_float or why_not_exact(operator)
    settle(graph, exact=exact)
    drop_clamps(graph)
    are_integers = io != "float32" or all(tensor.name in graph.border_types for tensor in graph.inputs)
    notes = _Rewrite(graph, exact=exact, only_integers=are_integers).run()
    pack_pixels(graph)
    _other_borders(graph, io)
    return notes


class _Rewrite:
    def __init__(self, graph: Graph, *, exact: bool, only_integers: bool) -> None:
        self.graph = graph
        self.exact, self.only_integers = exact, only_integers
        self.converted: list[Operator] = []
        self.float_operators: list[tuple[str, str]] = []  # the name and the reason of each that is told
        self.integer = {operator for operator in graph.operators if is_integer(operator)}
        used = {tensor for operator in graph.operators for tensor in (*operator.inputs, *operator.outputs)}
        used = {tensor for tensor in used if tensor.data is None and tensor.dtype == _FLOAT}
        self.held = {tensor for tensor in used if tensor.quantization is not None}  # rounded, even between floats
        self.floats: dict[Tensor, Tensor] = {}

    def run(self) -> tuple[str, ...]:
        operators = list(self.graph.operators)
        for operator in operators:
            if operator in self.integer:
                self._to_integers(operator)
                self.converted += integer_form(self.graph, operator, only_integers=self.only_integers)
            elif operator.code == "QUANTIZE" and operator.outputs[0] in self.held:
                self.converted.append(operator)  # of floats: the integers are its own work
            else:
                self._stays_float(operator)
        for tensor in self.held:
            assert tensor.quantization is not None
            tensor.dtype = np.dtype(tensor.quantization.dtype)
        for tensor in {tensor for operator in self.converted for tensor in (*operator.inputs, *operator.outputs)}:
            if tensor.dtype == _FLOAT:
                tensor.quantization = None
        if self.exact:
            self.converted = [part for operator in self.converted for part in _rescaled(operator)]
        self.graph.operators = self.converted
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        """In the file's order; what integers compute, but not exactly, and recurrent layers in one line each."""
        told = set[str]()
        for name, why in self.float_operators:
            if why in told:
                continue
            if why.startswith(WHOLE_LAYER):
                told.add(why)
                yield why
            elif why in INEXACT:
                told.add(why)
                names = [other for other, reason in self.float_operators if reason == why]
                yield f"{listed(names, _NAMED)}: computed in floats between integers: {why}"
            else:
                yield f"{name} stays float: {why}"

    def _stays_float(self, operator: Operator) -> None:
        """Reads floats; what of its results the graph quantizes is quantized, whoever reads it."""
        why = why_float(operator)
        operator.inputs = [self._as_float(tensor) for tensor in operator.inputs]
        self.converted.append(operator)
        for index, tensor in enumerate(operator.outputs):
            if tensor in self.held:
                operator.outputs[index] = inner = self._before_rounding(tensor)
                self.converted.append(Operator("QUANTIZE", [inner], [tensor]))
        # A RESHAPE of floats that are rounded behind it costs no precision and next to no time: nobody can act on it.
        is_told = operator.code != "RESHAPE"
        if is_told and any(tensor.dtype == _FLOAT for tensor in (*operator.inputs, *operator.outputs)):
            named = f"{operator.code} {operator.outputs[0].name!r}"
            self.float_operators.append((named, why))

    def _before_rounding(self, tensor: Tensor) -> Tensor:
        """The floats that are rounded to a tensor, under the name of the graph's value where that is not rounded."""
        if tensor.planned or not tensor.owner:
            return Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
        inner = Tensor(tensor.name, tensor.shape, _FLOAT, owner=tensor.owner)
        tensor.name, tensor.owner = f"{tensor.name}/quantized", ""
        return inner

    def _as_float(self, tensor: Tensor) -> Tensor:
        if tensor not in self.held:
            return tensor
        if tensor not in self.floats:
            self.floats[tensor] = Tensor(f"{tensor.name}/float", tensor.shape, _FLOAT)
            self.converted.append(Operator("DEQUANTIZE", [tensor], [self.floats[tensor]]))
        return self.floats[tensor]

    def _to_integers(self, operator: Operator) -> None:
        rule = RULES[operator.code]
        if rule.kind is Kind.WEIGHTS:
            self._weights(operator, rule)
            return
        results = results_of(operator)
        same = results[0].quantization if rule.kind is Kind.SAME else None
        operands = [tensor for tensor in data_of(operator) if tensor.data is None]  # none of a table
        dtype = next(tensor.quantization.dtype for tensor in (*operands, *results) if tensor.quantization)
        for index, tensor in enumerate(operator.inputs):
            if tensor.data is not None and tensor.dtype == _FLOAT:
                parameters = same or operand_parameters(operator, tensor, dtype)
                operator.inputs[index] = self._constant(tensor, parameters)
        if dtype == "int16" and operator.code in ("ADD", "SUB"):
            operator.options["potScaleInt16"] = False

    def _weights(self, operator: Operator, rule: Rule) -> None:
        data, weight = operator.inputs[rule.data], operator.inputs[1]
        assert data.quantization is not None  # is_integer looked
        assert weight.data is not None
        place = 3 if operator.code == "TRANSPOSE_CONV" else 2
        bias = operator.inputs[place].data if len(operator.inputs) > place else None
        scales = weight.quantization
        if scales is None and bias is not None and rule.axis is not None:
            scales = with_nearest_biases(weight.data, rule.axis, bias, data.quantization.scale[0])
        scales = scales or of_weights(weight.data, rule.axis)
        operator.inputs[1] = self._constant(weight, scales)
        if len(operator.inputs) > place:
            products = bias_scales(data.quantization.scale[0], scales.scale)
            stored = of_type(_BIAS[data.quantization.dtype], products, 0)
            operator.inputs[place] = self._constant(operator.inputs[place], stored)

    def _constant(self, tensor: Tensor, quantization: Quantization) -> Tensor:
        assert tensor.data is not None
        return self.graph.constant(quantization.quantized(tensor.data), tensor.name, quantization)


def _rescaled(operator: Operator) -> list[Operator]:
    """An operator; a QUANTIZE of integers to other steps as DEQUANTIZE and QUANTIZE, which round once.

    XNNPACK's own multiplies by a factor of eight binary places, and makes one table of the two: 0.012 ms beside 0.006
    ms (56x56x64, LiteRT 2.3, one thread, AVX-512 VNNI).
    """
    source, result = operator.inputs[0], operator.outputs[0]
    before, after = source.quantization, result.quantization
    if operator.code != "QUANTIZE" or source.dtype == _FLOAT or before is None or after is None:
        return [operator]
    if before.scale == after.scale:
        return [operator]
    real = Tensor(f"{result.name}/real", result.shape, _FLOAT)
    return [Operator("DEQUANTIZE", [source], [real]), Operator("QUANTIZE", [real], [result])]


def _other_borders(graph: Graph, io: str) -> None:
    """Floats, or uint8, at the inputs and outputs: QUANTIZE after the ones, DEQUANTIZE or QUANTIZE before the others.

    Those that are integers in the graph have the graph's own type.

    uint8 is what the converters of TFLite give for ``inference_input_type = tf.uint8``: the integers of int8, 128
    higher. Of int16 there is no such form, and they stay.
    """
    first, last = [], []
    for index, tensor in enumerate(graph.inputs):
        if (border := _border(tensor, graph.border_types.get(tensor.name, io))) is not None:
            graph.inputs[index] = border
            first.append(Operator("QUANTIZE", [border], [tensor]))
    for index, tensor in enumerate(graph.outputs):
        if (border := _border(tensor, graph.border_types.get(tensor.name, io))) is not None:
            graph.outputs[index] = border
            code = "DEQUANTIZE" if border.quantization is None else "QUANTIZE"
            last.append(Operator(code, [tensor], [border]))
    graph.operators = [*first, *graph.operators, *last]


def _border(tensor: Tensor, io: str) -> Tensor | None:
    """A tensor of another type that takes the name of a quantized one; None where that stays as it is."""
    own = tensor.quantization
    if own is None or io not in ("float32", "uint8") or (io == "uint8" and own.dtype != "int8"):
        return None
    border = Tensor(tensor.name, tensor.shape, np.dtype(io), owner=tensor.owner)
    if io == "uint8":
        border.quantization = Quantization(io, own.scale, tuple(zero + 128 for zero in own.zero_point))
    tensor.name, tensor.owner = f"{tensor.name}/quantized", ""
    return border
