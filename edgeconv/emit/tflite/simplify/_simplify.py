"""Rewrites of the finished TFLite graph, to what every runtime computes and then to fewer operators.

Each keeps the graph's outputs as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite.lower._windows import VALID
from edgeconv.emit.tflite.simplify._finite import maybe_infinite
from edgeconv.emit.tflite.simplify._number_types import narrow_places, widen_integers
from edgeconv.emit.tflite.simplify._ranks import IN_COMPANY, lower_ranks

_ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}  # schema.ActivationFunctionType
_FUSE_INTO = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV"}
_FUSE_INTO |= {"AVERAGE_POOL_2D", "MAX_POOL_2D"}
"""Operators whose options table has a fused activation, and whose kernels apply it."""
_MOVES = {"DEPTH_TO_SPACE", "RESHAPE", "SLICE"}


def drop_dead(graph: Graph) -> None:
    """Removes operators whose outputs nobody reads."""
    alive = set(graph.outputs)
    live = []
    for operator in reversed(graph.operators):
        if any(output in alive for output in operator.outputs):
            alive.update(operator.inputs)
            live.append(operator)
    graph.operators = live[::-1]


def share_scales(graph: Graph) -> None:
    """Gives a RESHAPE's operand the scale of its result: what is merged later may leave only one of the two.

    An operand that others read as it is (the state of a recurrent layer's last step) keeps its own numbers: rounded, it
    would be rounded for them, too.
    """
    consumers = graph.consumers()
    for operator in reversed(graph.operators):
        source, scales = operator.inputs[0], operator.outputs[0].quantization
        if operator.code != "RESHAPE" or source.quantization is not None or source in graph.outputs:
            continue
        if all(reader.code == "RESHAPE" and reader.outputs[0].quantization == scales for reader in consumers[source]):
            source.quantization, source.planned = scales, False


def merge_reshapes(graph: Graph) -> None:
    """A RESHAPE reads past any RESHAPE before it, and one that changes nothing vanishes."""
    producers = graph.producers()
    for operator in list(graph.operators):
        if operator.code != "RESHAPE":
            continue
        source, result = operator.inputs[0], operator.outputs[0]
        while (before := producers.get(source)) is not None and before.code == "RESHAPE":
            if not (_is_unrounded(source, before.inputs[0]) or _is_unrounded(source, result)):
                break
            source = operator.inputs[0] = before.inputs[0]
        if source.shape == result.shape and result not in graph.outputs and _is_unrounded(result, source):
            graph.replace(result, source)
    drop_dead(graph)


def fuse_activations(graph: Graph) -> None:
    """RELU, RELU6 and RELU_N1_TO_1 become the fused activation of the operator that alone feeds them.

    Operators between the two that only move elements (those of a transposed convolution) stay behind it. The tensor
    that stays is the activation's; those before it no longer exist in the file, or not under their names.
    """
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        if operator.code not in _ACTIVATIONS:
            continue
        source, moves = operator.inputs[0], list[Operator]()
        before = producers.get(source)
        while before is not None and before.code in _MOVES and _is_alone(graph, source, consumers):
            moves.insert(0, before)
            source = before.inputs[0]
            before = producers.get(source)
        if before is None or not _takes_activation(graph, before, source, consumers):
            continue
        if (operator.keeps_float and not before.keeps_float) or not _is_unrounded(source, operator.outputs[0]):
            continue
        before.options["fusedActivationFunction"] = _ACTIVATIONS[operator.code]
        # Behind the activation now, the tensors in between hold the activation's numbers, with its scale.
        for move in moves:
            inner = _like(operator.outputs[0], "moved", source)
            before.outputs, move.inputs[0] = [inner], inner
            producers[inner], consumers[inner] = before, [move]
            before, source = move, move.outputs[0]
        before.outputs = operator.outputs
        producers[operator.outputs[0]] = before
        graph.operators.remove(operator)


def _like(result: Tensor, name: str, shaped: Tensor) -> Tensor:
    """A tensor of the numbers of a result (so with its scale), in the shape of another."""
    return Tensor(f"{result.name}/{name}", shaped.shape, result.dtype, quantization=result.quantization)


def _is_alone(graph: Graph, tensor: Tensor, consumers: dict[Tensor, list[Operator]]) -> bool:
    return len(consumers[tensor]) == 1 and tensor not in graph.outputs


def _is_unrounded(tensor: Tensor, result: Tensor) -> bool:
    """Whether a tensor may go that is on the way to a result: it has no integers of its own, which would saturate."""
    return tensor.quantization is None or tensor.quantization == result.quantization


def _takes_activation(
    graph: Graph, operator: Operator, source: Tensor, consumers: dict[Tensor, list[Operator]]
) -> bool:
    return (
        operator.code in _FUSE_INTO
        and not operator.options.get("fusedActivationFunction")
        and source.dtype == np.float32
        and _is_alone(graph, source, consumers)
    )


def add_bias(graph: Graph) -> None:
    """A constant vector added to a fully connected layer without bias becomes its bias.

    So does one behind the 1x1 convolution that such a layer of int8 weights is, past a RESHAPE of its result.
    """
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        if operator.code != "ADD" or operator.options.get("fusedActivationFunction"):
            continue
        result = operator.outputs[0]
        for source, bias in (operator.inputs, operator.inputs[::-1]):
            last = producers.get(source)
            if last is None or bias.data is None or result.shape != source.shape:
                continue
            if not (bias.data.size,) == source.shape[-1:] == bias.shape[-1:]:
                continue
            layer, product = last, source
            if last.code == "RESHAPE" and last.inputs[0].shape[-1:] == source.shape[-1:]:
                product = last.inputs[0]
                layer = producers.get(product, last)
            # A layer with an activation adds its bias before that, and one with a bias has it already.
            if not _takes_bias(layer) or operator.keeps_float != layer.keeps_float:
                continue
            alone = all(_is_alone(graph, tensor, consumers) for tensor in {product, source})
            if alone and product.dtype == np.float32 and all(_is_unrounded(t, result) for t in (product, source)):
                layer.inputs[2] = graph.constant(bias.data.reshape(-1), bias.name)
                if product is not source:  # with the bias it is another value than the product of its name
                    product = _like(result, "flat", product)
                    graph.note_reshaped(product, result)
                    layer.outputs, last.inputs[0] = [product], product
                    producers[product], consumers[product] = layer, [last]
                last.outputs = operator.outputs
                producers[result] = last
                graph.operators.remove(operator)
                break


def _takes_bias(layer: Operator) -> bool:
    """Whether it is a layer of a matrix without a bias or an activation of its own."""
    is_matrix = layer.code == "FULLY_CONNECTED" or (
        layer.code == "CONV_2D" and layer.inputs[1].quantization is not None and layer.inputs[1].shape[1:3] == (1, 1)
    )
    return is_matrix and not layer.options.get("fusedActivationFunction") and not np.any(layer.inputs[2].data)


_UNARY = {"RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "GELU"}
_UNARY |= {"ABS", "NEG", "SQUARE", "SQRT", "RSQRT", "EXP", "LOG", "FLOOR", "CEIL", "ROUND"}


def sink_reshapes(graph: Graph) -> None:
    """A unary operator moves before the RESHAPE that alone feeds it, where it can be fused and reshapes can meet."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in graph.operators:
        source = operator.inputs[0]
        before = producers.get(source)
        if operator.code not in _UNARY or before is None or before.code != "RESHAPE":
            continue
        if len(consumers[source]) != 1 or source in graph.outputs:
            continue
        value, result = before.inputs[0], operator.outputs[0]
        # Of more axes, the operator would end the process of some runtimes, see `IN_COMPANY`.
        if len(value.shape) > IN_COMPANY:
            continue
        inner = _like(result, "flat", value)
        graph.note_reshaped(inner, result)  # which is gone where the reader of the result moves, too
        # The two change places: the operator's object becomes the RESHAPE, so that the loop goes on undisturbed.
        position = graph.operators.index(before)
        moved = Operator(operator.code, [value], [inner], operator.options, operator.keeps_float, operator.places)
        operator.code, operator.inputs, operator.options = before.code, [inner, *before.inputs[1:]], before.options
        operator.keeps_float, operator.places = "", False
        graph.operators[position] = moved
        producers[inner], producers[result] = moved, operator
        consumers[inner] = [operator]


def keep_fewer_axes(graph: Graph) -> None:
    """A RESHAPE that only drops the axes which a reduction left at size 1 is done by the reduction itself."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        before = producers.get(operator.inputs[0])
        if operator.code != "RESHAPE" or before is None or not before.options.get("keepDims"):
            continue
        reduced = before.inputs[1].data
        source, result = before.inputs[0], operator.outputs[0]
        if reduced is None or len(consumers[operator.inputs[0]]) != 1 or operator.inputs[0] in graph.outputs:
            continue
        if not _is_unrounded(operator.inputs[0], result):
            continue
        if tuple(size for axis, size in enumerate(source.shape) if axis not in reduced.tolist()) == result.shape:
            before.options["keepDims"] = False
            before.outputs = operator.outputs
            producers[result] = before
            graph.operators.remove(operator)


def flatten_in_fully_connected(graph: Graph) -> None:
    """FULLY_CONNECTED without keepNumDims flattens its input itself."""
    producers = graph.producers()
    for operator in graph.operators:
        before = producers.get(operator.inputs[0])
        if operator.code != "FULLY_CONNECTED" or operator.options.get("keepNumDims"):
            continue
        if before is None or before.code != "RESHAPE" or not _is_unrounded(operator.inputs[0], before.inputs[0]):
            continue
        if len(before.inputs[0].shape) > 1:
            operator.inputs[0] = before.inputs[0]
    drop_dead(graph)


def merge_slices(graph: Graph) -> None:
    """A SLICE or STRIDED_SLICE of a SLICE reads what that one reads."""
    producers = graph.producers()
    for operator in graph.operators:
        # SLICE of a SLICE: ranges compose as Python's do.
        while operator.code in _SLICES and (before := producers.get(operator.inputs[0])) and before.code in _SLICES:
            inner, outer = _ranges(before), _ranges(operator)
            composed = [whole[part.start : part.stop : part.step] for whole, part in zip(inner, outer, strict=True)]
            _set_ranges(graph, operator, before.inputs[0], composed)
    drop_dead(graph)


_SLICES = {"SLICE", "STRIDED_SLICE"}


def _ranges(operator: Operator) -> list[range]:
    bounds = [tensor.data.tolist() for tensor in operator.inputs[1:] if tensor.data is not None]
    if operator.code == "SLICE":
        return [range(start, start + size) for start, size in zip(*bounds, strict=True)]
    return [range(*bound) for bound in zip(*bounds, strict=True)]


def _set_ranges(graph: Graph, operator: Operator, source: Tensor, parts: list[range]) -> None:
    plain = all(part.step == 1 for part in parts)
    starts = [part.start for part in parts]
    if plain:
        operator.code, fields = "SLICE", [starts, [len(part) for part in parts]]
    else:
        operator.code = "STRIDED_SLICE"
        fields = [starts, [part.stop for part in parts], [part.step for part in parts]]
    operator.inputs = [source, *(graph.constant(np.array(field, np.int32), "integers") for field in fields)]


def subsample_by_convolution(graph: Graph) -> None:
    """A strided slice of rows and columns becomes a plain slice and a 1x1 depthwise convolution by ones.

    XNNPACK takes no strided slices; on LiteRT 2.3 the convolution took 0.3 to 0.7 of the time. It computes a window of
    one element as one of several with weights of zero, which makes infinite elements not a number: those are sliced.
    """
    infinite = maybe_infinite(graph)
    for operator in list(graph.operators):
        source = operator.inputs[0]
        if operator.code != "STRIDED_SLICE" or len(source.shape) != 4 or source.dtype != np.float32:
            continue
        if source in infinite:
            continue
        # Rows and columns that are read with a stride; whatever else the slice cuts off goes before, without one.
        batch, rows, columns, channels = _ranges(operator)
        if batch.step != 1 or channels.step != 1:
            continue
        block = [batch, range(rows.start, rows[-1] + 1), range(columns.start, columns[-1] + 1), channels]
        shape = tuple(len(part) for part in block)
        position = graph.operators.index(operator)
        if shape != source.shape:
            cut = Operator("SLICE", [], [Tensor(f"{operator.outputs[0].name}/block", shape, source.dtype)])
            _set_ranges(graph, cut, source, block)
            graph.operators.insert(position, cut)
            source = cut.outputs[0]
        count = len(channels)
        constants = [np.ones((1, 1, 1, count), np.float32), np.zeros(count, np.float32)]
        operator.inputs = [source, *(graph.constant(array, "subsample") for array in constants)]
        operator.code = "DEPTHWISE_CONV_2D"
        operator.options = {"padding": VALID, "strideH": rows.step, "strideW": columns.step, "depthMultiplier": 1}


def scale_and_shift(graph: Graph) -> None:
    """A product with and then a sum with one constant per channel become a 1x1 depthwise convolution.

    XNNPACK has a kernel of its own for it that reads and writes once. LiteRT 2.3, with the activation behind it:
    0.52 of the time at 56x56x256, 0.46 at 28x28x512, 0.72 at 7x7x1024; 62 times in DenseNet-121.
    """
    producers, consumers, infinite = graph.producers(), graph.consumers(), maybe_infinite(graph)
    for operator in list(graph.operators):
        source, shift = operator.inputs[0], operator.inputs[-1]
        before = producers.get(source)
        if operator.code != "ADD" or before is None or before.code != "MUL" or operator.outputs[0] in infinite:
            continue
        x, scale = before.inputs
        if not (_takes_activation(graph, before, source, consumers) and _per_channel(x, scale, shift)):
            continue
        # Both in float or both in integers, and nothing rounded between them: else they are no single map.
        if operator.keeps_float != before.keeps_float or not _is_unrounded(source, operator.outputs[0]):
            continue
        if scale.data is None or shift.data is None or operator.outputs[0].shape != x.shape:
            continue
        weights = graph.constant(scale.data.reshape(1, 1, 1, -1), scale.name)
        operator.code, operator.inputs = "DEPTHWISE_CONV_2D", [x, weights, graph.constant(shift.data, shift.name)]
        operator.options |= {"padding": VALID, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
        graph.operators.remove(before)


def _per_channel(x: Tensor, *constants: Tensor) -> bool:
    return len(x.shape) == 4 and x.data is None and all(constant.shape == x.shape[3:] for constant in constants)


SIMPLIFICATIONS: tuple[Callable[[Graph], None], ...] = (
    drop_dead,
    # To what every runtime computes.
    narrow_places,
    widen_integers,
    lower_ranks,
    # To fewer operators. Reshapes meet only after unary operators have moved before them, hence twice.
    share_scales,
    merge_slices,
    subsample_by_convolution,
    merge_reshapes,
    sink_reshapes,
    merge_reshapes,
    flatten_in_fully_connected,
    keep_fewer_axes,
    add_bias,
    # Activations last: what has one already takes no bias and is no part of a scale and shift.
    scale_and_shift,
    fuse_activations,
)


def simplify(graph: Graph) -> dict[Tensor, list[Tensor]]:
    """Runs the simplifications in their order; returns what held the elements of a tensor in another shape."""
    for step in SIMPLIFICATIONS:
        for operator in graph.operators:
            if operator.code == "RESHAPE":
                graph.note_reshaped(operator.inputs[0], operator.outputs[0])
        step(graph)
    return graph.reshaped
