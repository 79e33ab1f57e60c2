"""Small layers before a LeakyReLU or an output, which onnxruntime computes faster in floats than in integers.

It convolves integers with the channels last: a depthwise convolution of few channels leaves vectors empty, and sums of
few products are all rounding and writing. A LeakyReLU is a look-up by itself, which a convolution of floats has inside.
Weights stay int8, and a convolution whose weights are dequantized stays with the channels first, as the output is.

onnxruntime 1.32, one thread, AVX-512 VNNI, whole small networks in ms: float, integers, integers but for the layer:

    depthwise 3x3, LeakyReLU, 112x112:  4 channels 0.31 0.91 0.53;  8: 0.36 0.68 0.64;  16: 0.32 0.70 0.87
    1x1 to 64, LeakyReLU, 112x112:      3 terms    0.59 1.11 0.94;  8: 0.82 0.70 0.83;  16: 0.70 0.69 0.92
    the same, and it is the output:     3 terms    0.39 1.09 0.64;  8: 0.65 0.71 0.55;  16: 0.51 0.71 0.63
                                        32 terms, 56x56    0.20 0.22 0.28

The block of 3 to 64 channels at 224x224 takes 1.37 ms (5.94 in integers, 2.54 in float). What is left out is a
rounding: all that is computed comes nearer to the float network.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeconv.graph.edit import constant, dims, only_reader, producer_of

_MOST_CHANNELS = 8  # of a depthwise convolution
_MOST_TERMS, _MOST_TERMS_OF_OUTPUT = 4, 16  # of any other
_FEWEST_RESULTS = 2**15  # of either: less takes microseconds in any form, and stays all integer
_APART = ("LeakyRelu",)  # activations that integers compute by themselves, and floats in the convolution


def small_layers_in_float(graph: ir.Graph, *, whole_outputs: bool) -> tuple[str, ...]:
    """Leaves out the rounding of what small layers make.

    Args:
        graph: a quantized one; changed in place.
        whole_outputs: whether the outputs are integers and stay rounded.

    Returns:
        What is computed in float, one line per layer.
    """
    # All that is small and rounded now; what is not rounded any more at the end goes into the notes.
    before = [value for node in graph if _is_small(node, _MOST_TERMS_OF_OUTPUT) for value in node.outputs]
    before = [value for value in before if _pair_behind(value) is not None]
    if not whole_outputs:
        for index in range(len(graph.outputs)):
            _unround_output(graph, index)
    for node in list(graph):
        pair = _pair_behind(node.outputs[0]) if _is_small(node, _MOST_TERMS) else None
        reader = None if pair is None else only_reader(pair[1].outputs[0])
        if pair is not None and reader is not None and reader.op_type in _APART:
            _leave_out(graph, pair, node.outputs[0])
    unrounded = [value.name for value in before if _pair_behind(value) is None]
    return tuple(f"Conv {name!r} is computed in float: it is small, and onnxruntime faster so" for name in unrounded)


def _unround_output(graph: ir.Graph, index: int) -> None:
    """Makes an output of what a small layer, and the activation behind it, computes before it is rounded."""
    result = graph.outputs[index]
    pair = _pair_before(result)
    if pair is None or result.uses() or list(graph.outputs).count(result) > 1:
        return
    real = pair[0].inputs[0]
    maker = producer_of(real)
    if real is None or maker is None or len(real.uses()) != 1:
        return
    # The activation may have a pair of its own before it, which then goes as well.
    between = None
    if maker.op_type in _APART and maker.inputs[0] is not None:
        between = _pair_before(maker.inputs[0])
        if between is None or between[0].inputs[0] is None or len(maker.inputs[0].uses()) != 1:
            return
        maker = between[0].inputs[0].producer()
    if maker is None or not _is_small(maker, _MOST_TERMS_OF_OUTPUT) or len(maker.outputs[0].uses()) != 1:
        return
    if between is not None:
        _leave_out(graph, between, maker.outputs[0])
    graph.outputs[index] = real
    graph.remove([pair[1], pair[0]], safe=True)
    # What was rounded becomes the output, under the output's name.
    name = result.name
    result.name, real.name = f"{name}.rounded", name
    real.metadata_props.update(result.metadata_props)


def _is_small(node: ir.Node, most_terms: int) -> bool:
    """Whether it is a convolution of integers by an int8 weight, and so small."""
    if node.op_type != "Conv" or node.domain != "" or len(node.inputs) < 2:
        return False
    makers = [producer_of(value) for value in node.inputs[:2]]
    source, stored = (maker.inputs[0] if maker is not None and maker.op_type == _BACK else None for maker in makers)
    weight = constant(stored)
    if source is None or weight is None or constant(source) is not None:
        return False
    shape = dims(node.outputs[0])
    if shape is None or math.prod(shape[1:]) < _FEWEST_RESULTS:
        return False
    if node.attributes.get_int("group", 1) > 1:
        return bool(weight.shape[1] == 1 and len(weight) <= _MOST_CHANNELS)
    return bool(weight[0].size <= most_terms)


_THERE, _BACK = "QuantizeLinear", "DequantizeLinear"
_Pair = tuple[ir.Node, ir.Node]


def _pair_behind(value: ir.Value) -> _Pair | None:
    """The two operators that round a value, where nothing else reads it or its integers."""
    quantize = only_reader(value)
    if quantize is None or quantize.op_type != _THERE:
        return None
    dequantize = only_reader(quantize.outputs[0])
    return (quantize, dequantize) if dequantize is not None and dequantize.op_type == _BACK else None


def _pair_before(value: ir.Value) -> _Pair | None:
    """The two operators whose result this value is, where nothing else reads the integers between."""
    dequantize = value.producer()
    integer = dequantize.inputs[0] if dequantize is not None and dequantize.op_type == _BACK else None
    quantize = producer_of(integer)
    if dequantize is None or integer is None or quantize is None or quantize.op_type != _THERE:
        return None
    return (quantize, dequantize) if len(integer.uses()) == 1 and not integer.is_graph_output() else None


def _leave_out(graph: ir.Graph, pair: _Pair, value: ir.Value) -> None:
    """Lets what reads the rounded value read the value itself."""
    ir.convenience.replace_all_uses_with(pair[1].outputs[0], value)
    graph.remove([pair[1], pair[0]], safe=True)
