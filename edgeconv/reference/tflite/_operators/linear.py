"""Products of matrices, in real numbers and in integers.

Specification: FULLY_CONNECTED, BATCH_MATMUL; tensorflow/lite/kernels/fully_connected.cc, batch_matmul.cc.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import factor, multiplied, multiplied_wide
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._requantize import requantized


def _fully_connected(call: Call) -> Array:
    """Weights are (outputs, inputs); the data's axes are kept, or all but the last merged into one."""
    if call.integer("weights_format"):
        raise call.refuse("has shuffled weights, which are not read")
    x, weight = (call.centered(0), call.centered(1)) if call.quantized else (call.real(0), call.real(1))
    if weight.ndim != 2 or not weight.shape[1] or x.size % weight.shape[1]:
        raise call.refuse(f"has weights {list(weight.shape)} for an input {list(x.shape)}")
    keep = call.flag("keep_num_dims")
    if keep and (not x.ndim or x.shape[-1] != weight.shape[1]):
        raise call.refuse(f"keeps the axes of {list(x.shape)}, and has weights {list(weight.shape)}")
    shape = (*x.shape[:-1], weight.shape[0]) if keep else (x.size // weight.shape[1], weight.shape[0])
    terms = call.optional(2)
    if terms is not None and terms.size != weight.shape[0]:  # kernels count its elements, whatever its shape
        raise call.refuse(f"has a bias of shape {list(terms.shape)} for {weight.shape[0]} channels")
    total = (x.reshape(-1, weight.shape[1]) @ weight.T).reshape(call.sized(shape))
    if call.quantized:
        return requantized(call, total, x=0, weight=1, bias=2, dense=True)
    return call.activated(total if terms is None else total + call.real(2).reshape(-1))


def _batched(call: Call) -> Array:
    """All axes but the last two broadcast; either matrix may be adjoined."""
    a, b = (call.centered(0), call.centered(1)) if call.quantized else (call.real(0), call.real(1))
    if min(a.ndim, b.ndim) < 2:
        raise call.refuse("has an operand of less than 2 axes")
    a = np.swapaxes(a, -1, -2) if call.flag("adj_x") else a
    b = np.swapaxes(b, -1, -2) if call.flag("adj_y") else b
    batches = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    call.sized((*batches, a.shape[-2], b.shape[-1]))
    call.sized((math.prod(batches), *a.shape[-2:]))
    call.sized((math.prod(batches), *b.shape[-2:]))
    total: Array = np.matmul(a, b)
    if not call.quantized:
        return total
    if any(held is not None and held.per_channel for held in (call.source(at).quantization for at in (0, 1))):
        # Its kernel takes `params.scale` (kernels/batch_matmul.cc, Prepare), which is 0 where there are several.
        raise call.refuse("has a scale for each channel, of which LiteRT's kernel reads none: it gives zeros")
    by = factor(float(call.scale(0) * call.scale(1)) / float(call.scale(call.result)))
    values = total.astype(np.int64)
    scaled = multiplied_wide(values, by) if call.source(0).dtype == "int16" else multiplied(values, by)
    return call.saturated(scaled + call.zero_point(call.result))


OPERATORS: Mapping[str, Kernel] = {"BATCH_MATMUL": _batched, "FULLY_CONNECTED": _fully_connected}
