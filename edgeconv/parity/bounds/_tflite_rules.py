"""TFLite: which rule each operator has. A new operator is one row of `RULES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgeconv.errors import ParityError
from edgeconv.parity.bounds import _formulas as formulas
from edgeconv.parity.bounds import _recurrent as recurrent
from edgeconv.parity.bounds import _resize as resize
from edgeconv.parity.bounds._bounded import Bounded, exact, stacked
from edgeconv.parity.bounds._tflite_site import Rule, Site
from edgeconv.reference.tflite._operators.stablehlo import PRODUCT


def _function(name: str) -> Rule:
    return lambda site: site.x().function(name)


def _windowed(data: int, weight: int, bias: int, *, depthwise: bool = False) -> Rule:
    """A convolution: each result adds up at most all taps of all channels that its weights have."""

    def rule(site: Site) -> Bounded:
        shape = site.call.source(weight).shape
        return site.linear([data, weight, bias], math.prod(shape[1:3] if depthwise else shape[1:]))

    return rule


def _volume(site: Site) -> Bounded:
    return site.linear([0, 1, 2], math.prod(site.call.source(1).shape[:4]))


def _batched(site: Site) -> Bounded:
    axis = -2 if site.call.flag("adj_x") else -1
    return site.linear([0, 1], site.call.source(0).shape[axis])


def _average(site: Site) -> Bounded:
    count = site.call.integer("filter_height") * site.call.integer("filter_width")
    mean = site.linear([0], count)
    return mean.rounded(mean.value, (mean.worst, mean.likely), 2.0)


def _reduced(function: Callable[..., Bounded]) -> Rule:
    return lambda site: function(site.x(), site.axes(), keepdims=site.call.flag("keep_dims"))


def _softmax(site: Site) -> Bounded:
    x, beta = site.x(), site.call.number("beta")
    return formulas.softmax(x, -1, beta)


def _convention_of(site: Site) -> tuple[bool, bool]:
    """``align_corners`` and ``half_pixel_centers``."""
    return site.call.flag("align_corners"), site.call.flag("half_pixel_centers")


def _resized(site: Site) -> list[tuple[int, int, int]]:
    """Height and width: the axis, and its sizes before and after."""
    return [(axis, site.call[0].shape[axis], site.results[0].shape[axis]) for axis in (1, 2)]


def _resize(site: Site) -> Bounded:
    corners, halves = _convention_of(site)
    axes = []
    for axis, size, out in _resized(site):
        # One cell has no corners to align: TFLite takes the quotient of the sizes.
        convention = "align_corners" if corners and out > 1 else "half_pixel" if halves else "asymmetric"
        axes.append(resize.places_of(axis, size, out, out / size, convention))
    return resize.linear(site.x(), axes)


def _nearest(site: Site) -> Bounded:
    """TFLite's own rule, not one of ONNX's: half pixels are not shifted back, and only corners round."""
    corners, halves = _convention_of(site)
    axes = []
    for axis, size, out in _resized(site):
        scale = (size - 1) / (out - 1) if corners and out > 1 else size / out
        places = (np.arange(out) + (0.5 if halves else 0.0)) * scale
        axes.append(resize.ResizedAxis(axis, size, places))
    return resize.nearest(site.x(), axes, "round" if corners else "floor", site.results[0])


def _local_response(site: Site) -> Bounded:
    x, radius = site.x(), site.call.integer("radius")
    channels = np.arange(x.value.shape[-1])
    window = (np.abs(channels[:, None] - channels[None, :]) <= radius).astype(np.float64)
    return formulas.local_response(x, window, *(site.call.number(name) for name in ("alpha", "bias", "beta")))


def _lstm(site: Site) -> Bounded:
    """Of the plain form: no peepholes, projection, normalization or clip; an input gate of its own."""
    call = site.call
    further = [index for index in (*range(9, 12), 16, 17, *range(20, 24)) if call.optional(index) is not None]
    if further or call.optional(1) is None or call.number("cell_clip") or not call.source(1).floating:
        raise ParityError("no error bound is known for this LSTM", where=call.result.name, hint="judge its outputs")
    if site.arithmetic.runtime == "xnnpack":  # which leaves it to the built-in kernel
        site = replace(site, arithmetic=replace(site.arithmetic, runtime="tflite"))
    gates = (0, 3, 1, 2)  # input, output, forget, cell; TFLite has input, forget, cell, output
    cell = recurrent.Cell(
        tuple(site.x(1 + gate) for gate in gates),
        tuple(site.x(5 + gate) for gate in gates),
        tuple((site.x(12 + gate),) for gate in gates),
        tuple(recurrent.FUNCTIONS[name] for name in ("sigmoid", "tanh", "tanh")),
    )
    x = site.x() if call.flag("time_major") else site.x().move(lambda array: np.swapaxes(array, 0, 1))
    state: tuple[Bounded, ...] = (site.x(18), site.x(19))
    outputs = []
    for place in range(x.value.shape[0]):
        state = recurrent.lstm(cell, x.move(lambda array, at=place: array[at]), state)  # type: ignore[misc]
        outputs.append(state[0])
    return stacked(outputs, 0 if call.flag("time_major") else 1)


def _filters(site: Site) -> Bounded:
    if not all(site.call.source(index).floating for index in (0, 4)):
        raise ParityError("no error bound is known for this SVDF", where=site.call.result.name, hint="compare outputs")
    # Integer weights: the data are quantized for each row, the weights of time read as real numbers, and the memory
    # holds real ones (EvalHybridSVDF, kernels/internal/reference/svdf.h).
    units = recurrent.filtered(site.data((0, 1)), site.x(1), site.x(2), site.x(4), site.call.integer("rank"))
    return site.activated(units if site.call.optional(3) is None else units + site.x(3))


def _sum_of_many(site: Site) -> Bounded:
    return stacked([site.x(index) for index in range(len(site.call.values))], 0).sum(0, keepdims=False)


def _power(site: Site) -> Bounded:
    """A function of its own; where the exponent is one whole number, TFLite's kernels square and multiply.

    Measured of LiteRT 2.3, with and without delegates, in units of 2^-24: 1.0 for fractions and negative exponents, 2.9
    for 4, 9.9 for 12, 93 for 127.
    """
    base, exponent = site.x(), site.x(1)
    number = float(exponent.value.reshape(-1)[0]) if exponent.value.size == 1 else -1.0
    return formulas.power(base, exponent, factors=number if number.is_integer() else 1)


def _running_sum(site: Site) -> Bounded:
    """In order, or by halves: at most all elements of the axis."""
    return site.linear([0], site.call[0].shape[site.call.axis(site.call.ints(1)[0], site.call[0].ndim)])


def _reduce_window(site: Site) -> Bounded:
    """Comparisons round nothing; sums and products are those of the window."""
    function = site.call.integer("reduce_function")
    if function > PRODUCT:
        return exact(site.x(), site.results[0])
    if function == PRODUCT or site.call[1].any():
        raise ParityError("no error bound is known for these windows", where=site.call.result.name)
    window = site.call.operator.options["window_dimensions"]
    return site.linear([0], math.prod(window) if isinstance(window, tuple) else 1)


def _cast(site: Site) -> Bounded:
    # From float16 and small integers exact; from large integers rounded once.
    error = np.where(site.results[0] == site.results[0].astype(np.float32), 0.0, 2.0**-24 * np.abs(site.results[0]))
    return Bounded(site.results[0], error, error, site.arithmetic)


def _dequantize(site: Site) -> Bounded:
    """One product, or two, of the integer and of its zero point (LiteRT's optimized kernel); of float16 nothing."""
    value = exact(site.x(), site.results[0])
    source = site.call.source(0)
    if source.floating or source.quantization is None:
        return value
    rounded = value.rounded(value.value, (np.zeros(()), np.zeros(())))
    scales, points = (
        np.asarray(numbers, np.float64) for numbers in (source.quantization.scales, source.quantization.zero_points)
    )
    zero = float(np.max(np.abs(points * scales), initial=0.0))
    return rounded.widened(2 * value.arithmetic.unit * (zero + np.abs(value.value))) if zero else rounded


RULES: Mapping[str, Rule] = {
    # Functions of each element
    **{name: _function(name.lower()) for name in ("COS", "EXP", "LOG", "RSQRT", "SIN", "SQRT", "TANH")},
    "LOGISTIC": _function("sigmoid"),
    "SQUARE": lambda site: site.x() * site.x(),
    # Arithmetic
    "STABLEHLO_ADD": lambda site: site.x() + site.x(1),
    "STABLEHLO_MULTIPLY": lambda site: site.x() * site.x(1),
    "ADD": lambda site: site.x() + site.x(1),
    "ADD_N": _sum_of_many,
    "ATAN2": lambda site: formulas.angle(site.x(), site.x(1)),
    "CAST": _cast,
    "DEQUANTIZE": _dequantize,
    "DIV": lambda site: site.x() / site.x(1),
    "MUL": lambda site: site.x() * site.x(1),
    "POW": _power,
    "SQUARED_DIFFERENCE": lambda site: (site.x() - site.x(1)) * (site.x() - site.x(1)),
    "SUB": lambda site: site.x() - site.x(1),
    # Activations
    "ELU": lambda site: formulas.elu(site.x()),
    "GELU": lambda site: formulas.gelu(site.x(), approximate=site.call.flag("approximate")),
    "HARD_SWISH": lambda site: formulas.hard_swish(site.x()),
    "LEAKY_RELU": lambda site: formulas.leaky(site.x(), site.call.number("alpha")),
    "LOG_SOFTMAX": lambda site: formulas.log_softmax(site.x(), -1),
    "PRELU": lambda site: formulas.leaky(site.x(), site.x(1)),
    "SOFTMAX": _softmax,
    # Sums of products
    "AVERAGE_POOL_2D": _average,
    "BATCH_MATMUL": _batched,
    "CONV_2D": _windowed(0, 1, 2),
    "CONV_3D": _volume,
    "DEPTHWISE_CONV_2D": _windowed(0, 1, 2, depthwise=True),
    "FULLY_CONNECTED": _windowed(0, 1, 2),
    "TRANSPOSE_CONV": _windowed(2, 1, 3),
    # Reductions
    "CUMSUM": _running_sum,
    "L2_NORMALIZATION": lambda site: formulas.unit_length(site.x(), -1, 2, 1e-6),
    "LOCAL_RESPONSE_NORMALIZATION": _local_response,
    "MEAN": _reduced(lambda x, axes, keepdims: x.mean(axes, keepdims=keepdims)),
    "REDUCE_PROD": _reduced(formulas.product),
    "STABLEHLO_REDUCE_WINDOW": _reduce_window,
    "SUM": _reduced(lambda x, axes, keepdims: x.sum(axes, keepdims=keepdims)),
    # Resizing, recurrent layers
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "SVDF": _filters,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
"""Of float results; quantized ones are counted in steps, and those of which nothing is rounded have no row."""
