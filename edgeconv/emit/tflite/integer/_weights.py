"""The weights of a quantized graph as TFLite has them: int8, zero for zero, scales along the output channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.core.affine import WEIGHT_LIMITS, bias_scales, limits_of, normal
from edgeconv.emit.tflite._quantization import Quantization, of_type, of_weights


def weights_of(array: Array, stored: Quantization, axis: int) -> tuple[Quantization, int]:
    """The parameters of a weight that was stored with others.

    A zero point is taken off the integers, which changes no number as long as they stay within int8; channels beyond
    that are rounded again.

    Args:
        array: the numbers, torch's order.
        stored: what their integers were: one scale, or one for each output channel.
        axis: of the output channels.

    Returns:
        Parameters for `Quantization.quantized`, and how many output channels are rounded again.
    """
    integers = of_type("int32", stored.scale, 0, stored.axis).quantized(array)
    least, greatest = limits_of("int8")
    others = tuple(at for at in range(array.ndim) if at != axis)
    fits = (integers.min(axis=others) >= least) & (integers.max(axis=others) <= greatest)
    if fits.all():
        return of_type("int8", stored.scale, 0, stored.axis), 0
    scales = np.where(fits, np.broadcast_to(stored.scale, fits.shape), of_weights(array, axis).scale)
    return of_type("int8", scales, 0, axis), int(np.sum(~fits))


def with_nearest_biases(array: Array, axis: int, bias: Array, source: float) -> Quantization:
    """Parameters of weights that nobody prescribes, with which biases are as near as they can be.

    A kernel's bias is a whole number of the input's step times the weight's. A channel of a single magnitude, as a
    normalization has that became a depthwise convolution, is met exactly by any integer: of 64 to 127 the one is taken
    by which the bias is rounded least. On average that is by 1.5 % of the unit that 127 has, instead of 25 %; a bias
    within 1/127 of as many steps of the input gains nothing.

    Args:
        array: the weights.
        axis: of the output channels.
        bias: a number for each of them.
        source: the scale of what the layer reads.
    """
    finest = of_weights(array, axis)
    others = tuple(at for at in range(array.ndim) if at != axis)
    magnitudes = np.abs(array.astype(np.float64))
    largest = magnitudes.max(axis=others)
    is_single = ((magnitudes == magnitudes.max(axis=others, keepdims=True)) | (array == 0)).all(axis=others)
    if bias.shape != largest.shape or not is_single.any():
        return finest
    # Beside a bias that would not fit, weights are next to nothing: the bias has thirty binary places then, and twenty
    # beside zeros, of which any scale is exact.
    places = np.where(largest > 0, 30, 20)
    least = normal(np.abs(bias.astype(np.float64)) / (source * np.exp2(places)))
    scales = np.where(bias != 0, np.maximum(least, np.where(largest > 0, finest.scale, 0)), finest.scale)
    scales = scales.astype(np.float32)
    errors = _bias_errors(bias, source, scales)
    for integer in range(WEIGHT_LIMITS[1] - 1, WEIGHT_LIMITS[1] // 2, -1):
        coarser = normal(largest / integer)
        coarser_errors = _bias_errors(bias, source, coarser)
        is_nearer = is_single & (coarser > scales) & (coarser_errors < errors)
        scales[is_nearer], errors[is_nearer] = coarser[is_nearer], coarser_errors[is_nearer]
    return of_type("int8", scales, 0, axis)


def _bias_errors(bias: Array, source: float, scales: npt.NDArray[np.float32]) -> Array:
    parameters = of_type("int32", bias_scales(source, scales.tolist()), 0)
    return np.asarray(np.abs(parameters.dequantized(parameters.quantized(bias)) - bias))
