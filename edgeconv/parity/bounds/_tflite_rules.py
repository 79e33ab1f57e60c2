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

_TANH = 4  # of ActivationFunctionType


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
    return _in_time(site, lambda x, state: recurrent.lstm(cell, x, state), (site.x(18), site.x(19)))


def _rnn(site: Site) -> Bounded:
    """Of real weights: a plain layer, with a bias and the fused activation."""
    if not all(site.call.source(index).floating for index in (1, 2)):
        raise ParityError("no error bound is known for this RNN", where=site.call.result.name, hint="judge its outputs")
    if site.arithmetic.runtime == "xnnpack":  # which leaves it to the built-in kernel
        site = replace(site, arithmetic=replace(site.arithmetic, runtime="tflite"))
    tanh = site.call.integer("fused_activation_function") == _TANH
    function = recurrent.FUNCTIONS["tanh"] if tanh else site.activated
    cell = recurrent.Cell((site.x(1),), (site.x(2),), ((site.x(3),),), (function,))
    return _in_time(site, lambda x, state: recurrent.rnn(cell, x, state), (site.x(4),))


def _in_time(
    site: Site, step: Callable[[Bounded, tuple[Bounded, ...]], tuple[Bounded, ...]], state: tuple[Bounded, ...]
) -> Bounded:
    """The first state of a recurrent layer at every place of its sequence."""
    x = site.x() if site.call.flag("time_major") else site.x().move(lambda array: np.swapaxes(array, 0, 1))
    outputs = []
    for place in range(x.value.shape[0]):
        state = step(x.move(lambda array, at=place: array[at]), state)  # type: ignore[misc]
        outputs.append(state[0])
    return stacked(outputs, 0 if site.call.flag("time_major") else 1)


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


def _floored_quotient(site: Site) -> Bounded:
    """FLOOR_DIV, of which TFLite takes the quotient in float64 (FloorDiv of kernels/internal/reference/floor_div.h)."""
    doubled = site.arithmetic.runtime in ("tflite", "xnnpack")  # which leaves it to the built-in kernel
    return formulas.floored_quotient(site.x(), site.x(1), site.results[0], doubled=doubled)


def _floored_rest(site: Site) -> Bounded:
    """FLOOR_MOD: fmod, which is exact, and where its sign is not the divisor's, one sum with that (kernels/internal/
    reference/floor_mod.h). It jumps where an operand is read as 0."""
    a, b = site.x(), site.x(1)
    if site.errors:
        raise ParityError("no error is carried through FLOOR_MOD", where=site.call.result.name)
    result = a.rounded(site.results[0], (np.zeros(()), np.zeros(())))
    read = [np.where(item.worst > 0, 0.0, item.value) for item in (a, b)]
    jump = np.abs(np.where(read[1] == 0, np.inf, np.mod(*read)) - site.results[0])
    unsure = np.broadcast_to(a.worst + b.worst > 0, jump.shape)
    return result.widened(np.where(unsure, jump, 0.0))


def _root_mean_square(site: Site) -> Bounded:
    """L2_POOL_2D: the root of a mean of squares (L2Pool of kernels/internal/reference/reference_ops.h): terms of one
    sign, so that the mean is off by gamma of itself; errors of operands add up as lengths do (Minkowski)."""
    x, plain = site.x(), site.plain([0])
    count = site.call.integer("filter_height") * site.call.integer("filter_width")
    root, ones = plain([x.value]), np.zeros(())
    ratio = (count + 3) * x.arithmetic.unit  # squares, sums, and a quotient, or a product by its rounded reciprocal
    square = np.square(root)
    error = np.where(square * count < x.arithmetic.largest, ratio / (1 - ratio) * square + x.arithmetic.least, np.inf)
    mean = Bounded(square, error, error, x.arithmetic)
    spread = [plain([np.broadcast_to(part, x.value.shape)]) if part.any() else ones for part in (x.worst, x.likely)]
    taken = mean.root()
    return taken.within(root, taken.worst + spread[0], taken.likely + spread[1])


def _range(site: Site) -> Bounded:
    return formulas.steps_from(site.x().reshape(), site.x(2).reshape(), site.results[0])


def _scattered(site: Site) -> Bounded:
    """SCATTER_ND: into zeros; updates of one place are added up."""
    updates, plain = site.x(1), site.plain([1])
    spread, magnitude, count = (
        plain([np.broadcast_to(array, updates.value.shape)])
        for array in (updates.worst, np.abs(updates.value), np.ones(()))
    )
    return formulas.added_up(site.results[0], magnitude, spread, count, updates)


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
    "FLOOR_DIV": _floored_quotient,
    "FLOOR_MOD": _floored_rest,
    "DIV": lambda site: site.x() / site.x(1),
    "MUL": lambda site: site.x() * site.x(1),
    "POW": _power,
    "RANGE": _range,
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
    "L2_POOL_2D": _root_mean_square,
    "SCATTER_ND": _scattered,
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
    "UNIDIRECTIONAL_SEQUENCE_RNN": _rnn,
}
"""Of float results; quantized ones are counted in steps, and those of which nothing is rounded have no row."""
