"""Biases as integer kernels have them: whole numbers of the input's step times the weight's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import spread
from edgeconv.graph.constants import exact
from edgeconv.graph.edit import KEEP_FLOAT, constant, input_of, producer_of, rank
from edgeconv.graph.replace import replace_constant
from edgeconv.quantize._reach import real_weight
from edgeconv.quantize._structure import weight_axis

_BIAS = 2  # operand of a layer
_MOST = 2.0**30  # a bias, in units of a layer's sums, beside which 32 bits hold the sums, too
_PLACES = 20  # binary, of the bias of a channel of zeros
_LARGEST = 64  # of a weight that was multiplied: two products by uint8 do not saturate 16 bits
_WHOLE = 1e-3  # from a whole number, a bias is one
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def with_integer_biases(model: ir.Model) -> ir.Model:
    """A copy of a graph whose layers of integers add biases of 32 bits, as both formats' kernels do.

    Layers that stay float, or whose operands are not both rounded, keep theirs.
    """
    model = model.clone()
    for node in tuple(model.graph):
        if node.op_type not in _LAYERS or node.metadata_props.get(KEEP_FLOAT):
            continue
        operand = input_of(node, _BIAS)
        bias = exact(operand)
        step = None if bias is None else _step(node, bias.size)
        if operand is not None and bias is not None and step is not None:
            name = operand.name or "bias"
            rounded = (np.rint(bias.reshape(-1) / step) * step).reshape(bias.shape)
            replace_constant(node, _BIAS, rounded, ir.DataType.FLOAT, name)
    return model


def with_room_for_biases(model: ir.Model) -> ir.Model:
    """Has all biases of layers of integers fit into 32 bits, as both formats' kernels have them.

    A channel whose weights the training made zeros has the least scale there is, in units of which a bias of 5 is
    beyond 2^31: LiteRT's files saturate there, and onnxruntime's kernels go round. Of zeros any scale is exact, so that
    they take a larger one. A layer whose other channels have no room is computed in floats.

    Args:
        model: quantized already; not changed.

    Returns:
        A new model that computes the same numbers, or the same one where all biases fit.
    """
    if not any(_beyond(node).any() for node in model.graph):
        return model
    model = model.clone()
    for node in tuple(model.graph):
        beyond = _beyond(node)
        if beyond.any() and not _rescaled(node, beyond):
            node.metadata_props[KEEP_FLOAT] = "its bias does not fit into 32 bits in units of the scales that it has"
    return model


def with_finer_biases(model: ir.Model) -> ir.Model:
    """Stores weights of few bits as larger integers, in whose units kernels round biases less.

    Integers times a power of two, and the scale divided by it, are the same numbers to the last bit. Of weights from -7
    to 7 a bias is rounded to an eighth of what it was.

    Args:
        model: quantized already; not changed.

    Returns:
        A new model that computes the same numbers, or the same one where no weight has room.
    """
    if all(_multiples(node) is None for node in model.graph):
        return model
    model = model.clone()
    for node in tuple(model.graph):
        factors, weight = _multiples(node), producer_of(input_of(node, 1))
        if factors is not None and weight is not None:
            _multiply(weight, factors)
    return model


def _multiply(weight: ir.Node, factors: npt.NDArray[np.float64]) -> None:
    """Gives a DequantizeLinear so many times the integers, and scales as much smaller."""
    integers, scale, name = constant(weight.inputs[0]), exact(weight.inputs[1]), weight.outputs[0].name
    assert integers is not None  # the caller looked
    assert scale is not None
    along = weight.attributes.get_int("axis", 1) % integers.ndim
    finer = (integers * spread(factors, along, integers.ndim)).astype(np.int8)
    replace_constant(weight, 0, finer, ir.DataType.INT8, f"{name}.x")
    replace_constant(weight, 1, scale / factors.reshape(scale.shape), ir.DataType.FLOAT, f"{name}.scale")


def _multiples(node: ir.Node) -> npt.NDArray[np.float64] | None:
    """The power of two for each scale of a layer's weight; None where there is no room, or no bias to be rounded."""
    is_layer = node.op_type in _LAYERS and not node.metadata_props.get(KEEP_FLOAT)
    bias = exact(input_of(node, _BIAS)) if is_layer else None
    step, weight = None if bias is None else _step(node, bias.size), producer_of(input_of(node, 1))
    integers = None if step is None or weight is None else constant(weight.inputs[0])
    if weight is None or bias is None or step is None or integers is None or integers.dtype != np.int8:
        return None
    scale, zero = exact(weight.inputs[1]), constant(input_of(weight, 2))
    units = bias.reshape(-1) / step
    if scale is None or (zero is not None and zero.any()) or (np.abs(units - np.rint(units)) < _WHOLE).all():
        return None
    along = weight.attributes.get_int("axis", 1) % integers.ndim
    others = None if np.unique(scale).size == 1 else tuple(axis for axis in range(integers.ndim) if axis != along)
    most = np.abs(integers.astype(np.int64)).max(axis=others)
    factors = np.exp2(np.floor(np.log2(_LARGEST / np.clip(most, 1, _LARGEST))))
    factors = np.broadcast_to(np.where(most > 0, factors, 1.0), scale.reshape(-1).shape)
    return factors if (factors > 1).any() else None


def _beyond(node: ir.Node) -> npt.NDArray[np.bool_]:
    """Which channels' biases a kernel does not hold."""
    is_layer = node.op_type in _LAYERS and not node.metadata_props.get(KEEP_FLOAT)
    bias = exact(input_of(node, _BIAS)) if is_layer else None
    step = None if bias is None else _step(node, bias.size)
    if bias is None or step is None:
        return np.zeros(1, np.bool_)
    return np.asarray(np.abs(bias.reshape(-1)) > _MOST * step)


def _rescaled(node: ir.Node, beyond: npt.NDArray[np.bool_]) -> bool:
    """Gives channels of zeros a scale in which the bias fits; False where others are beyond, or share a scale."""
    weight, bias, step = producer_of(input_of(node, 1)), exact(input_of(node, _BIAS)), _step(node, beyond.size)
    real, scale = real_weight(node), None if weight is None else exact(input_of(weight, 1))
    if weight is None or real is None or bias is None or step is None or scale is None or scale.size != beyond.size:
        return False
    axes, along = rank(weight.outputs[0]), weight.attributes.get_int("axis", 1)
    if axes is None or along % axes != weight_axis(node, axes) or real[beyond].any():
        return False
    larger = np.abs(bias.reshape(-1)) / (step / scale.reshape(-1)) / 2.0**_PLACES
    scales = np.where(beyond, larger, scale.reshape(-1)).reshape(scale.shape)
    replace_constant(weight, 1, scales, ir.DataType.FLOAT, f"{weight.outputs[0].name}.scale")
    return True


def _step(node: ir.Node, channels: int) -> npt.NDArray[np.float64] | None:
    """One unit of a layer's sums, by channel; None where it has none."""
    scales = []
    for operand in (input_of(node, 0), input_of(node, 1)):
        producer = producer_of(operand)
        is_rounded = producer is not None and producer.op_type == "DequantizeLinear"
        scale = exact(input_of(producer, 1)) if producer is not None and is_rounded else None
        if scale is None or scale.size not in (1, channels) or not (scale > 0).all():
            return None
        scales.append(scale.reshape(-1))
    factors = {node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}  # of Gemm
    return scales[0] * scales[1] if scales[0].size == 1 and factors == {1.0} else None
