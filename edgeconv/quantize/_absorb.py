"""Bias absorption: what a rectified channel never falls below moves into the biases of the layer behind.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019, arXiv 1906.04721),
section 4.1.3. Where W₁ x + b₁ ≥ c ≥ 0 always, Relu, LeakyRelu and PRelu are the identity and
W₂ f(W₁ x + b₁) + b₂ = W₂ f(W₁ x + b₁ - c) + (b₂ + W₂ c). The paper takes c from the statistics of a BatchNormalization;
here it is the smallest value that the calibration data gave, so it is exact on these data. Below c it is nowhere worse
than a cut at c, as f(x) - f(x - c) lies between 0 and c: f neither falls nor rises faster than x, wherefore slopes are
of 0 to 1, and Abs is no such f. The range of the value between the layers shrinks by c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import may_pad
from edgeconv.quantize._calibrate import run_float
from edgeconv.quantize._equalize import Pair, between, by_input, pairs_of, weight_of
from edgeconv.quantize._graph import forget_names, fresh_name
from edgeconv.quantize._targets import channel_axis
from edgeconv.quantize._tune import add_to_bias

_Floats = npt.NDArray[np.float64]


def absorb_biases(model: ir.Model, batches: Iterable[Mapping[str, Array]]) -> ir.Model:
    """Moves constant parts of rectified channels over to the next layer's bias.

    Only where the second layer pads nothing: padding is zero before and after, and would have to be -c.

    Args:
        model: float32, NCHW; not changed.
        batches: calibration data.

    Returns:
        A new model with the same outputs on these data. Values between the layers of a pair are shifted.

    Raises:
        QuantizeError: the batches do not fit the model, or there are none that give a value.
    """
    model = model.clone()
    forget_names(model.graph)
    pairs = {pair.first.name: pair for pair in pairs_of(model) if _absorbs(pair)}
    # 1. The smallest number of every channel of the value that the second layer reads, over all batches.
    lowest: dict[str, _Floats] = {}
    for values in run_float(model, batches, pairs):
        for name, array in values.items():
            axis = channel_axis(pairs[name].first)
            least = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).min(axis=1).astype(np.float64)
            lowest[name] = np.minimum(lowest[name], least) if name in lowest else least
    # 2. What is above zero always is the constant part c of the module docstring.
    for name, pair in pairs.items():
        shift = np.maximum(lowest.get(name, np.zeros(1)), 0.0)
        if np.any(shift > 0):
            _absorb(model.graph, pair, shift)
    return model


def _absorb(graph: ir.Graph, pair: Pair, shift: _Floats) -> None:
    second = pair.second
    # b₂ + W₂ c: each input channel's c times the sum of its taps, added up over the input channels of the group.
    sums = by_input(second, weight_of(second)).sum(axis=2)  # (input channels, their output channels)
    moved = (sums * shift[:, None]).reshape(second.groups, -1, sums.shape[1]).sum(axis=1).reshape(-1)
    # The values between are another function now, so their torch names would claim too much.
    names = [node.outputs[0].name for node in between(pair)]
    add_to_bias(graph, pair.first, -shift)
    add_to_bias(graph, second, moved)
    for node, name in zip(between(pair), names, strict=True):
        node.outputs[0].name = fresh_name(graph, f"{name}.absorbed")


def _absorbs(pair: Pair) -> bool:
    """Whether a constant passes through, and the second layer takes it whole at every position."""
    # The first of `between` is the layer itself.
    inner = between(pair)[1:]
    slopes = all(node.op_type in having(Trait.RECTIFIES) and _is_gentle(node) for node in inner)
    unpadded = not any(may_pad(node) for node in [*inner, pair.second.node])
    kind = pair.second.node.op_type in ("Conv", "Gemm")
    return slopes and unpadded and kind and constant(pair.first.weight) is not None


def _is_gentle(node: ir.Node) -> bool:
    """Whether the slopes below zero are of 0 to 1."""
    attributes = node.attributes
    # Defaults of ONNX's operator specification; rectifiers that are not named have slope 0 below zero.
    slopes = {
        "Elu": np.asarray(attributes.get_float("alpha", 1.0)),
        "LeakyRelu": np.asarray(attributes.get_float("alpha", 0.01)),
        "PRelu": constant(input_of(node, 1)),
    }.get(node.op_type, np.zeros(1))
    return slopes is not None and bool(((slopes >= 0) & (slopes <= 1)).all())
