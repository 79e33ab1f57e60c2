"""The quantized numbers in the form that onnxruntime computes with, and at the file's inputs and outputs.

1. int8 activations are written as uint8, every integer and zero point 128 higher: the same real numbers. Integers that
   are inputs or outputs of the graph itself, or are moved as integers, stay what they are. onnxruntime 1.32 computes an
   operator in floats when an int8 value that it reads or writes has several readers. Of EfficientNet-Lite0's 49
   convolutions and 9 sums it fused 35 and none so, and as uint8 all: 25.3 ms became 15.3 (one thread, AVX-512 with
   VNNI). Without VNNI its kernels of uint8 by int8 add pairs of products in 16 bits, which can saturate where weights
   use all of their 8 bits.
2. A clamp between an operator and its QuantizeLinear goes where saturation does the same, unless it is all that stands
   between two pairs of which the second reaches further. onnxruntime 1.32 makes one of such pairs, with the scale of
   what both hold (its pass DoubleQDQPairsRemover), while the biases of the layers behind them keep the old one. Such
   a layer computes in float, or, where the scales are alike but for a few percent, with a bias that is as far off: by
   4 % in the head of a detector behind GroupNorm and ReLU, whose class scores of 40 dB were 20.
3. A layer that stays float between integers reads a DequantizeLinear of its own, with the one scale once per channel.
   onnxruntime 1.32 (its pass WeightBiasQuantization) otherwise takes the layer for one whose weights somebody forgot,
   and gives them 8 bits, one scale for all: a depthwise layer kept for the sake of its weights became a QLinearConv
   again, and the network's 17.4 dB were 16.6. It leaves layers alone whose input has several scales.
4. Every int8 constant that a DequantizeLinear reads, its zero point too, has that one reader. With its option
   ``session.x64quantprecision`` onnxruntime rewrites them as uint8, reader by reader, and refuses a file in which it
   meets one of them twice ("Attempt to replace the existing tensor").
5. An AveragePool with ``ceil_mode`` and ``count_include_pad`` states its windows: the padding that counts as a Pad, and
   what the last window lacks as padding that does not.
   onnxruntime 1.32's QLinearAveragePool divides the sums of such last windows by too little: up to 67 steps for 2x2
   and a stride of 2. 108 other forms of 33 operators that it fuses are within one step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import limits_of, quantized
from edgeconv.graph.constants import clip_bounds, new_constant
from edgeconv.graph.edit import constant, input_of, producer_of
from edgeconv.graph.names import take_name, unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import stated_pads, strides_of

_SHIFT = 128  # from int8 to uint8, whose operators onnxruntime fuses best
_MADE = "edgeconv.emit.made"
"""Graph.meta key: the constants that `_initializer` has added, by name."""
_SAME_RANGE = 1e-6  # of a range: what float32 scales are apart
_PER_AXIS_RANK = 2  # there has to be an axis of channels, and its size known


def unsigned_activations(graph: ir.Graph) -> None:
    """Writes int8 activations as uint8."""
    moved: dict[ir.Value, ir.Value] = {}
    for node in graph:
        value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
        if node.op_type not in having(Trait.SCALED) or len(node.inputs) < 3 or value is None:
            continue
        point = node.inputs[2]
        zero = constant(point)
        if point is None or zero is None or zero.dtype != np.int8 or zero.size != 1 or constant(value) is not None:
            continue
        if value.is_graph_input() or value.is_graph_output() or _are_moved(value):
            continue
        if point not in moved:
            moved[point] = _initializer(
                graph, f"{point.name}.unsigned", (zero.astype(np.int16) + _SHIFT).astype(np.uint8)
            )
        node.replace_input_with(2, moved[point])
        value.type = ir.TensorType(ir.DataType.UINT8)  # a new one: clones share theirs


def _are_moved(integers: ir.Value) -> bool:
    """Whether something else than DequantizeLinear reads integers, or QuantizeLinear has not made them."""
    maker = producer_of(integers)
    is_other = any(use.node.op_type != "DequantizeLinear" for use in integers.uses())
    return is_other or maker is None or maker.op_type != "QuantizeLinear"


def drop_clamps(graph: ir.Graph) -> None:
    """Takes out each Relu or Clip that only QuantizeLinear reads and that changes none of its integers."""
    for node in list(graph):
        bounds = clip_bounds(node)
        uses = list(node.outputs[0].uses())
        if bounds is None or not uses or node.outputs[0].is_graph_output() or node.inputs[0] is None:
            continue
        if any(_reaches_further(use.node, node.inputs[0]) for use in uses):
            continue
        if all(use.node.op_type == "QuantizeLinear" and _saturates(use.node, *bounds) for use in uses):
            for use in uses:
                use.node.replace_input_with(0, node.inputs[0])
            graph.remove(node, safe=True)


def float_layers(graph: ir.Graph) -> None:
    """Gives each layer of float weights between integers an input that onnxruntime does not take for a mistake."""
    for node in list(graph):
        source = (
            node.inputs[0].producer() if node.op_type in having(Trait.LAYER) and node.inputs[0] is not None else None
        )
        weight = constant(node.inputs[1]) if node.op_type in having(Trait.LAYER) else None
        if source is None or source.op_type != "DequantizeLinear" or weight is None or weight.dtype != np.float32:
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        # onnxruntime's pass looks past an activation for the QuantizeLinear.
        readers += [use.node for reader in readers for value in reader.outputs for use in value.uses()]
        if not any(reader.op_type == "QuantizeLinear" for reader in readers):
            continue  # onnxruntime leaves it alone
        by_channel = _by_channel(graph, source)
        if by_channel is not None:
            graph.insert_before(node, by_channel)
            node.replace_input_with(0, by_channel.outputs[0])


def _by_channel(graph: ir.Graph, source: ir.Node) -> ir.Node | None:
    """The same DequantizeLinear with its scale and zero point once per channel; None where it has none to repeat."""
    real, (integer, *numbers) = source.outputs[0], source.inputs
    arrays = [constant(value) for value in numbers]
    shape = real.shape
    if shape is None or len(shape) < _PER_AXIS_RANK or any(array is None or array.size != 1 for array in arrays):
        return None
    channels = shape[1]
    if not isinstance(channels, int) or integer is None:
        return None
    repeated = [
        _initializer(graph, f"{value.name}.times_{channels}", np.resize(array, channels))
        for value, array in zip(numbers, arrays, strict=True)
        if value is not None and array is not None
    ]
    result = ir.Value(name=unique_name(graph, f"{real.name}.by_channel"), type=real.type, shape=real.shape)
    return ir.Node("", "DequantizeLinear", [integer, *repeated], [ir.AttrInt64("axis", 1)], outputs=[result])


def stated_windows(graph: ir.Graph) -> None:
    """Writes each quantized AveragePool of `ceil_mode` and `count_include_pad` without either."""
    for node in list(graph):
        attributes = node.attributes
        if node.op_type != "AveragePool" or not attributes.get_int("ceil_mode", 0):
            continue
        source, result = node.inputs[0], node.outputs[0]
        pair = producer_of(source)
        if not attributes.get_int("count_include_pad", 0) or source is None or pair is None:
            continue
        sizes, counts = (_sizes(value) for value in (source, result))
        if pair.op_type != "DequantizeLinear" or sizes is None or counts is None:
            continue
        kernel = attributes.get_ints("kernel_shape")
        strides = strides_of(node, len(kernel))
        pads = stated_pads(node, len(kernel))
        padded = [size + before + after for size, before, after in zip(sizes, pads, pads[len(kernel) :], strict=False)]
        if any(pads):
            source = _padded(graph, node, pair, pads, padded)
        # What the last windows of each axis lack, which does not count in an average.
        lacking = _lacking(counts, strides, kernel, padded)
        node.replace_input_with(0, source)
        for name in ("ceil_mode", "count_include_pad"):
            attributes[name] = ir.AttrInt64(name, 0)
        attributes["pads"] = ir.AttrInt64s("pads", [0] * len(kernel) + lacking)


def _lacking(counts: Sequence[int], strides: Sequence[int], kernel: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """How far the last window of each axis reaches behind the elements."""
    windows = zip(counts, strides, kernel, sizes, strict=True)
    return [max(0, (count - 1) * stride + window - size) for count, stride, window, size in windows]


def _sizes(value: ir.Value) -> list[int] | None:
    """The lengths behind batch and channels; None where one is open."""
    lengths = list(value.shape)[2:] if value.shape is not None else []
    static = [length for length in lengths if isinstance(length, int)]
    return static if static and len(static) == len(lengths) else None


def _padded(graph: ir.Graph, node: ir.Node, pair: ir.Node, pads: Sequence[int], sizes: Sequence[int]) -> ir.Value:
    """A node's data with zeros around it, quantized with the same parameters; `sizes` are those with the padding."""
    source = pair.outputs[0]
    name, count = f"{node.outputs[0].name}.padded", len(pads) // 2
    amounts = np.array([0, 0, *pads[:count], 0, 0, *pads[count:]], np.int64)
    grown = [*list(source.shape or ())[:2], *sizes]
    integer = pair.inputs[0].type if pair.inputs[0] is not None else None
    values = {
        part: ir.Value(name=f"{name}{part}", type=kind, shape=ir.Shape(grown))
        for part, kind in ((".float", source.type), (".quantized", integer), ("", source.type))
    }
    numbers = pair.inputs[1:]
    nodes = [
        ir.Node("", "Pad", [source, _initializer(graph, f"{name}.pads", amounts)], outputs=[values[".float"]]),
        ir.Node("", "QuantizeLinear", [values[".float"], *numbers], outputs=[values[".quantized"]]),
        ir.Node("", "DequantizeLinear", [values[".quantized"], *numbers], outputs=[values[""]]),
    ]
    graph.insert_before(node, nodes)
    return values[""]


def own_integers(graph: onnx.GraphProto) -> None:
    """Gives each reader of dequantized constants a DequantizeLinear, and each of these int8 constants of its own.

    After onnxsim, which makes one of equal ones. onnxruntime takes shared ones apart, and their constants stay shared.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    taken = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    taken |= {value.name for value in graph.input}
    _one_each(graph, constants, taken)
    read: set[str] = {value.name for value in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name not in constants:
                continue
            if name in read and node.op_type == "DequantizeLinear":
                copied = onnx.TensorProto()
                copied.CopyFrom(constants[name])
                copied.name = take_name(f"{node.output[0]}.{'zero_point' if index else 'quantized'}", taken)
                graph.initializer.append(copied)
                node.input[index] = copied.name
            read.add(name)


def _one_each(graph: onnx.GraphProto, constants: Collection[str], taken: set[str]) -> None:
    """Repeats the DequantizeLinear of an int8 constant for all of its readers but the first."""
    uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            uses.setdefault(name, []).append((node, index))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        for reader, index in uses.get(node.output[0], [])[1:]:
            repeated = onnx.NodeProto()
            repeated.CopyFrom(node)
            repeated.output[0] = reader.input[index] = take_name(node.output[0], taken)
            nodes.append(repeated)
    replace_nodes(graph, nodes)


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Gives a graph other nodes, those that it had among them, where there are more."""
    if len(nodes) > len(graph.node):
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(ordered)


def integer_borders(graph: ir.Graph) -> None:
    """Makes integers of the inputs that are only quantized, and of the outputs that come dequantized."""
    for index, value in enumerate(list(graph.inputs)):
        readers = [use.node for use in value.uses()]
        quantized = {_numbers(node): node.outputs[0] for node in readers if node.op_type == "QuantizeLinear"}
        if len(quantized) != 1 or len(readers) != len([node for node in readers if node.op_type == "QuantizeLinear"]):
            continue
        integer = ir.Value(name=value.name, type=readers[0].outputs[0].type, shape=value.shape)
        value.name = unique_name(graph, f"{value.name}.float")
        graph.inputs[index] = integer
        for node in readers:
            ir.convenience.replace_all_uses_with(node.outputs[0], integer, replace_graph_outputs=True)
            graph.remove(node, safe=True)
    for index, value in enumerate(list(graph.outputs)):
        maker = value.producer()
        if maker is None or maker.op_type != "DequantizeLinear" or maker.inputs[0] is None:
            continue
        integer, name = maker.inputs[0], value.name
        if integer.is_graph_input() or integer.is_graph_output() or integer.producer() is None:
            continue
        graph.outputs[index] = integer
        if value.uses():  # what else reads it, a comparison for one, does so as before
            value.name = unique_name(graph, f"{name}.real")
        else:
            graph.remove(maker, safe=True)
        integer.name = name
        integer.shape = value.shape


def border_parameters(graph: ir.Graph) -> dict[str, tuple[float, int]]:
    """Scale and zero point of the integers that cross the graph's border, by name; before `integer_borders`."""
    parameters = {}
    for value in graph.inputs:
        nodes = [use.node for use in value.uses() if use.node.op_type == "QuantizeLinear"]
        if nodes:
            parameters[value.name or ""] = _numbers(nodes[0])
    for value in graph.outputs:
        node = value.producer()
        if node is not None and node.op_type == "DequantizeLinear":
            parameters[value.name or ""] = _numbers(node)
    return parameters


def _numbers(node: ir.Node) -> tuple[float, int]:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear of one scale."""
    scale, zero = (constant(value) for value in (*node.inputs[1:3], *[None] * (3 - len(node.inputs))))
    return (
        1.0 if scale is None else float(scale.reshape(-1)[0]),
        0 if zero is None else int(zero.reshape(-1)[0]),
    )


def _reaches_further(node: ir.Node, source: ir.Value) -> bool:
    """Whether a QuantizeLinear holds more than the DequantizeLinear in front of a clamp that is its only reader."""
    pair = producer_of(source)
    if pair is None or (node.op_type, pair.op_type) != ("QuantizeLinear", "DequantizeLinear"):
        return False
    if len(source.uses()) > 1:  # onnxruntime leaves such pairs apart
        return False
    before, behind = _held(pair), _held(node)
    if before is None or behind is None:
        return False
    slack = _SAME_RANGE * (before[1] - before[0])
    return behind[0] < before[0] - slack or behind[1] > before[1] + slack


def _held(node: ir.Node) -> tuple[float, float] | None:
    """The least and the largest number of one pair's scale; None where it has several."""
    scale, point = (constant(value) for value in node.inputs[1:3]) if len(node.inputs) > 2 else (None, None)
    if scale is None or point is None or scale.size != 1 or point.size != 1:
        return None
    low, high = limits_of(point.dtype)
    zero, step = int(point.reshape(-1)[0]), float(scale.reshape(-1)[0])
    return (low - zero) * step, (high - zero) * step


def _saturates(node: ir.Node, low: float, high: float) -> bool:
    """Whether the bounds have the least and the greatest integer, so that what is beyond them has too."""
    scale, zero = (constant(input_of(node, index)) for index in (1, 2))
    if scale is None or zero is None or scale.size != 1:
        return False
    ends = quantized(np.array([low, high]), scale.reshape(()), zero.reshape(()), zero.dtype)
    return tuple(ends.tolist()) == limits_of(zero.dtype)


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A constant; the one that was made under that name before, which is always of the same numbers."""
    by_name: dict[str, ir.Value] = graph.meta.setdefault(_MADE, {})
    if name in by_name and by_name[name].graph is graph:
        return by_name[name]
    by_name[name] = new_constant(graph, name, array)
    return by_name[name]
