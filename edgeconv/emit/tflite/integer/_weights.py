"""The weights of a quantized graph as TFLite has them: int8, zero for zero, scales along the output channels."""

from __future__ import annotations

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import limits_of
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
