"""Biases as integer kernels have them: whole numbers of the input's step times the weight's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.constants import exact
from edgeconv.graph.edit import KEEP_FLOAT, input_of, producer_of, rank
from edgeconv.graph.replace import replace_constant
from edgeconv.quantize._reach import real_weight
from edgeconv.quantize._structure import weight_axis

_BIAS = 2  # operand of a layer
_MOST = 2.0**30  # a bias, in units of a layer's sums, beside which 32 bits hold the sums, too
_PLACES = 20  # binary, of the bias of a channel of zeros
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
