"""plan -> the graph with QuantizeLinear and DequantizeLinear nodes.

The convention:

- An activation ``x`` is followed by ``x.quantized`` = QuantizeLinear and a DequantizeLinear whose result carries the
  name ``x``; the float value before is ``x.float``. A graph input keeps its name, and what follows it is
  ``x.dequantized``.
- A weight is an int8 initializer ``w.quantized`` and a DequantizeLinear along its output channels, named ``w``.
- A bias is an int32 initializer whose scale is that of the input times those of the weight.
- An operator whose operands and result share parameters (Concat, MaxPool, …) gets another QuantizeLinear and
  DequantizeLinear before an operand that has others.
- Between two operators that stay float nothing is rounded: of two readers of ``x``, one in float reads ``x.float``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import bias_scales, quantized, spread
from edgeconv.errors import QuantizeError
from edgeconv.graph.argument import checked_model
from edgeconv.graph.edit import KEEP_FLOAT, MODULE, constant, remove_unread_constants
from edgeconv.graph.integer_rules import CONSTANT_OPERANDS, SHARED
from edgeconv.quantize._columns import taps, untaps
from edgeconv.quantize._graph import (
    LAYER,
    add_initializer,
    forget_names,
    fresh_name,
    is_activation,
    name_of,
    named,
    static_shape,
)
from edgeconv.quantize._make_plan import check_names
from edgeconv.quantize._pairs import nearest_safe, partners
from edgeconv.quantize._plan import Plan, TensorParameters, WeightParameters
from edgeconv.quantize._structure import Layer, Structure, layer_of, structure_of, unquantizable

_INT16_OPSET = 21  # the first in which QuantizeLinear knows int16


def apply(model: ir.Model, plan: Plan) -> ir.Model:
    """Puts a plan into a graph.

    Args:
        model: float32, NCHW; not changed.
        plan: made for it, perhaps edited since.

    Returns:
        A new model. ``int16x8`` raises its opset to 21, where QuantizeLinear knows int16.

    Raises:
        QuantizeError: the plan names something that the graph does not have, lacks a tensor of it, or gives different
            parameters to tensors that an operator wants to be alike.
    """
    checked_model(model, QuantizeError)
    return _applied(model, plan, None)


def apply_only(model: ir.Model, plan: Plan, layers: Collection[str], values: Collection[str]) -> ir.Model:
    """As `apply`, but for these layers (their weights and biases) and these activations alone."""
    return _applied(model, plan, _Only(layers, values))


class _Only(NamedTuple):
    layers: Collection[str]
    values: Collection[str]


def _applied(model: ir.Model, plan: Plan, only: _Only | None) -> ir.Model:
    model = model.clone()
    forget_names(model.graph)
    structure = structure_of(model, plan.kept_float)
    check_plan(model, structure, plan)
    for node in model.graph:
        reason = structure.kept_float.get(name_of(structure.spelled.get(node, node)))
        # Emitters quantize what they can; this keeps them from an operator that could be, but must stay float.
        if reason is not None and (node in structure.spelled or unquantizable(node) is None):
            node.metadata_props[KEEP_FLOAT] = reason or "the plan says so"  # an edited plan need not say why
    floats = {node for node in model.graph if name_of(structure.spelled.get(node, node)) in structure.kept_float}
    work = _Work(model.graph, plan, floats)
    layers = structure.layers
    if plan.scheme == "int8-weights":
        layers = _with_weights(model, plan)
    for name, layer in layers.items():
        if only is not None and name not in only.layers:
            continue
        layer.node.meta[LAYER] = name
        work.weight(layer, plan.weights[name])
        if plan.tensors:
            work.bias(layer, plan.tensors[named(layer.input)], plan.weights[name])
    if plan.tensors:
        if only is None:
            _quantize_operands(model, structure, work)
        for value in structure.activations:
            if only is None or value.name in only.values:
                work.activation(value, plan.tensors[named(value)])
    remove_unread_constants(model.graph)
    # QuantizeLinear has int16 from opset 21 on (onnx/docs/Operators.md).
    if plan.scheme == "int16x8":
        _raise_opset(model.graph)
    return model


_RENAMED_SINCE = 20  # ONNX opset, GridSample
_RENAMED = {"bilinear": "linear", "bicubic": "cubic"}  # modes of GridSample, all that changed its meaning up to 21


def _raise_opset(graph: ir.Graph) -> None:
    """Makes the graph one of the opset in which QuantizeLinear knows int16."""
    before = graph.opset_imports.get("", 1)
    graph.opset_imports[""] = max(_INT16_OPSET, before)
    for node in graph if before < _RENAMED_SINCE else ():
        mode = node.attributes.get_string("mode", "bilinear") if node.op_type == "GridSample" else ""
        if mode in _RENAMED:
            node.attributes["mode"] = ir.AttrString("mode", _RENAMED[mode])


def _quantize_operands(model: ir.Model, structure: Structure, work: _Work) -> None:
    """The constants that operators read, and values that are requantized; before the activations change names."""
    tensors = work.plan.tensors
    biases = {layer.added[0] for layer in structure.layers.values() if layer.added is not None}
    names = {value: name for name, value in structure.operands.items()}  # which it loses to what its integers make
    for node in list(model.graph):
        if name_of(node) in structure.kept_float or node in structure.spelled or layer_of(node) is not None:
            continue
        if node in biases:  # 32 bits already
            continue
        shared = tensors.get(node.outputs[0].name or "") if node.op_type in SHARED else None
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if shared is None and node.op_type in CONSTANT_OPERANDS and value in names:
                work.operand(node, index, tensors[names[value]])
            elif shared is not None and constant(value) is not None and value.dtype == ir.DataType.FLOAT:
                if node.op_type in CONSTANT_OPERANDS:
                    work.operand(node, index, shared)
            elif shared is not None and is_activation(value) and tensors.get(value.name or "", shared) != shared:
                work.requantize(node, index, shared)


def check_plan(model: ir.Model, structure: Structure, plan: Plan) -> None:
    """Refuses a plan that does not fit the graph."""
    values = {value.name for node in model.graph for value in node.outputs} | set(model.graph.initializers)
    values |= {value.name for value in model.graph.inputs}
    for name in plan.tensors:
        if name not in values:
            raise QuantizeError(f"the graph has no tensor {name!r}", where="plan, tensors", hint="remove it")
    check_names(model, plan.kept_float, "plan, kept_float")
    check_names(model, plan.weights, "plan, weights")
    # A layer that stays float may still have an entry: plans are edited by adding names to kept_float alone.
    every = {name_of(node) for node in model.graph if layer_of(node) is not None}
    for name in plan.weights:
        if name not in every:
            raise QuantizeError(f"{name!r} has no weight", where="plan, weights", hint="remove it")
    layers = dict(structure.layers)
    if plan.scheme == "int8-weights":
        layers = _with_weights(model, plan)
    else:
        _check_tensors(structure, plan)
    for name, layer in layers.items():
        if name not in plan.weights:
            raise QuantizeError(f"it lacks the weight of {name!r}", where="plan, weights", hint="add it")
        _check_weight(layer, plan.weights[name])


def _with_weights(model: ir.Model, plan: Plan) -> dict[str, Layer]:
    """The layers of a plan of weights alone: what it does not name, or keeps in float, stays as it is."""
    every = (layer_of(node) for node in model.graph)
    names = plan.weights.keys() - plan.kept_float.keys()
    return {layer.name: layer for layer in every if layer is not None and layer.name in names}


def _check_tensors(structure: Structure, plan: Plan) -> None:
    for name in [*structure.groups, *structure.operands]:
        if name not in plan.tensors:
            hint = "add it, or keep the operators around it in float"
            raise QuantizeError(f"it lacks the tensor {name!r}", where="plan, tensors", hint=hint)
    for group, names in structure.members().items():
        for name in names:
            if plan.tensors[name] != plan.tensors[group]:
                hint = "an operator moves integers from one to the other: give both the same"
                raise QuantizeError(f"{name!r} and {group!r} differ", where="plan, tensors", hint=hint)


def _check_weight(layer: Layer, parameters: WeightParameters) -> None:
    shape = static_shape(layer.weight)
    where = f"plan, weights, {layer.name}"
    if parameters.axis is not None and parameters.axis != layer.axis:
        raise QuantizeError(f"axis is {parameters.axis}", where=where, hint=f"give {layer.axis}, or null and one scale")
    if parameters.axis is not None and len(parameters.scales) != shape[layer.axis]:
        what = f"there are {len(parameters.scales)} scales"
        raise QuantizeError(what, where=where, hint=f"give {shape[layer.axis]}, one per channel")


@dataclass
class _Work:
    """Adds constants and nodes to a graph; equal ones once.

    Attributes:
        graph: changed in place.
        plan: the numbers.
        floats: operators that stay float.
        made: what was added, by what it is.
    """

    graph: ir.Graph
    plan: Plan
    floats: Collection[ir.Node]
    made: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def weight(self, layer: Layer, parameters: WeightParameters) -> None:
        """Replaces a layer's weight by integers."""
        key = (layer.weight.name, parameters)
        if key not in self.made:
            self.made[key] = self._weight(layer, parameters)
        layer.node.replace_input_with(1, self.made[key])

    def bias(self, layer: Layer, source: TensorParameters, weights: WeightParameters) -> None:
        """Replaces a layer's bias by integers of the accumulator's scale."""
        array, node, index = constant(layer.vector), layer.node, 2
        if array is None or layer.vector is None:
            return
        if layer.added is not None:
            node, index = layer.added
        # A ConvTranspose with groups has one scale for the same channel of every group: they repeat along the bias.
        scales = np.resize(bias_scales(source.scale, weights.scales), array.size)  # which groups of channels share
        integers = quantized(array.reshape(-1), scales, 0, "int32")
        name = layer.vector.name or f"{layer.name}.bias"
        zero = self._once(("zero", scales.size), f"{name}.zero_point", np.zeros(scales.size, np.int32))
        real = self._dequantized(node, name, integers, scales, zero, axis=0)
        node.replace_input_with(index, real)

    def operand(self, node: ir.Node, index: int, parameters: TensorParameters) -> None:
        """Replaces a constant operand by integers."""
        value = node.inputs[index]
        array = constant(value)
        if value is None or array is None:
            return
        # One constant may be read with different parameters: by two Concats, say.
        key = ("operand", value, parameters)
        if key not in self.made:
            integers = quantized(array, parameters.scale, parameters.zero_point, parameters.dtype)
            scale, zero = self._parameters(named(value), parameters)
            self.made[key] = self._dequantized(node, named(value), integers, scale, zero)
        node.replace_input_with(index, self.made[key])

    def requantize(self, node: ir.Node, index: int, parameters: TensorParameters) -> None:
        """Another pair between a value and one operator that reads it."""
        value = node.inputs[index]
        assert value is not None
        name = fresh_name(self.graph, f"{value.name}.requantized")
        quantized, result = self._pair(value, name, parameters)
        self.graph.insert_before(node, [quantized, result])
        node.replace_input_with(index, result.outputs[0])

    def activation(self, value: ir.Value, parameters: TensorParameters) -> None:
        """A pair after a value; the name goes to what comes out of it."""
        name, uses, producer = named(value), tuple(value.uses()), value.producer()
        is_input = value.is_graph_input()
        quantized, result = self._pair(value, name, parameters)
        real = result.outputs[0]
        for use in uses:
            # Between two operators that stay float nothing is rounded.
            if producer not in self.floats or use.node not in self.floats:
                use.node.replace_input_with(use.idx, real)
        # A graph's input keeps its name, which callers feed it by.
        if is_input:
            real.name = fresh_name(self.graph, f"{name}.dequantized")
        else:
            real.name, value.name = name, fresh_name(self.graph, f"{name}.float")
            real.metadata_props.update(value.metadata_props)
        # Outputs of the graph are rounded as well, so that both formats give the same numbers.
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = real
        if producer is not None:
            self.graph.insert_after(producer, [quantized, result])
        elif (first := next(iter(self.graph), None)) is not None:
            self.graph.insert_before(first, [quantized, result])

    def _weight(self, layer: Layer, parameters: WeightParameters) -> ir.Value:
        array, name = constant(layer.weight), named(layer.weight)
        assert array is not None  # it is a layer
        partner = partners(layer) if self.plan.pair_safe else None
        integers = quantized_weight(layer, array.astype(np.float64), parameters, partner)
        scales = np.array(parameters.scales, np.float32)
        scales = scales if parameters.axis is not None else scales.reshape(())
        zero = self._once(("zero8", scales.shape), f"{name}.zero_point", np.zeros(scales.shape, np.int8))
        return self._dequantized(layer.node, name, integers, scales, zero, axis=parameters.axis)

    def _dequantized(
        self,
        node: ir.Node,
        name: str,
        integers: npt.NDArray[np.generic],
        scale: npt.NDArray[np.generic] | ir.Value,
        zero: ir.Value,
        *,
        axis: int | None = None,
    ) -> ir.Value:
        """A constant of integers and its DequantizeLinear, which takes over the name."""
        old = self.graph.initializers.pop(name, None)
        if old is not None:  # other readers may keep it, under another name
            old.name = fresh_name(self.graph, f"{name}.float")
            self.graph.initializers[old.name] = old
        stored = add_initializer(self.graph, f"{name}.quantized", integers)
        if not isinstance(scale, ir.Value):
            scale = add_initializer(self.graph, f"{name}.scale", scale)
        result = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(integers.shape))
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        dequantize = ir.Node(
            "", "DequantizeLinear", [stored, scale, zero], attributes, outputs=[result], name=f"{name}.dequantize"
        )
        self.graph.insert_before(node, dequantize)
        return result

    def _pair(self, value: ir.Value, name: str, parameters: TensorParameters) -> tuple[ir.Node, ir.Node]:
        """QuantizeLinear and DequantizeLinear of a value, in no graph yet."""
        scale, zero = self._parameters(name, parameters)
        kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(parameters.dtype)))
        integer = ir.Value(name=fresh_name(self.graph, f"{name}.quantized"), type=kind, shape=value.shape)
        real = ir.Value(name=name, type=value.type, shape=value.shape)
        nodes = (
            ir.Node("", "QuantizeLinear", [value, scale, zero], outputs=[integer], name=integer.name),
            ir.Node("", "DequantizeLinear", [integer, scale, zero], outputs=[real], name=f"{name}.dequantize"),
        )
        producer = value.producer()
        # Reports name the torch module of every node.
        if producer is not None and MODULE in producer.metadata_props:
            for node in nodes:
                node.metadata_props[MODULE] = producer.metadata_props[MODULE]
        return nodes

    def _parameters(self, name: str, parameters: TensorParameters) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point as scalar constants, once for equal ones."""
        dtype = np.dtype(parameters.dtype)
        scale = self._once(("scale", parameters), f"{name}.scale", np.array(parameters.scale, np.float32))
        zero = self._once(("point", parameters), f"{name}.zero_point", np.array(parameters.zero_point, dtype))
        return scale, zero

    def _once(self, key: tuple[object, ...], name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        if key not in self.made:
            self.made[key] = add_initializer(self.graph, name, array)
        return self.made[key]


def quantized_weight(
    layer: Layer,
    array: npt.NDArray[np.float64],
    parameters: WeightParameters,
    partner: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int8]:
    """The integers that stand for a layer's weight, halves to even, from -127 to 127, of which no pair overflows."""
    steps = array / spread(parameters.scales, parameters.axis, array.ndim)
    if partner is None:
        return nearest_safe(steps, None).astype(np.int8)
    return untaps(layer, nearest_safe(taps(layer, steps), partner)).astype(np.int8)
