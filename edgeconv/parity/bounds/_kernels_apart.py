"""How far two of TFLite's own kernels of one operator of integers are apart, in steps, beyond one."""

from __future__ import annotations

import math

from edgeconv.graph.resize_kernels import integer_steps, linear_weights
from edgeconv.reference.tflite._call import Call

_FIXED_POINT = {("TANH", 2.0**-12): 12, ("TANH", 2.0**-11): 12, ("LOGISTIC", 2.0**-12): 7}
"""The largest distance over all 65,536 numbers of 16 bits, with the reader's own kernel, which is the reference one.

Where the scale of 16 bits is a power of two that fixed-point arithmetic has (TanhPrepare and SigmoidPrepare of
kernels/activations.cc: 2^-12, and for TANH 2^-11), the optimized kernels compute exp in fixed point and divide by
Newton's method (gemmlowp, fixedpoint.h); the reference kernels, and all with other scales, draw lines in a table.
"""


def kernels_apart(call: Call) -> int:
    """The steps, 0 for most."""
    name = call.operator.name
    if name == "RESIZE_BILINEAR":
        return math.floor(_places_off(call))
    if call.result.dtype != "int16" or name not in ("TANH", "LOGISTIC"):
        return 0
    return max(0, _FIXED_POINT.get((name, float(call.scale(0))), 1) - 1)


def _places_off(call: Call) -> float:
    """The steps between TFLite's own kernels, whose places are in 1024ths of an element, and XNNPACK's exact ones."""
    modes = call.flag("align_corners"), call.flag("half_pixel_centers")
    sizes = zip(call.source(0).shape[1:3], call.result.shape[1:3], strict=True)
    return integer_steps([linear_weights(*pair, *modes) for pair in sizes], *modes, call.result.dtype)
