"""Layer after layer of the quantized graph: other weights, other biases, and on with what the layer then makes.

Each layer is tuned on what the quantized layers before it give, tuned already, so errors do not add up unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import spread
from edgeconv.errors import QuantizeError
from edgeconv.graph.constants import clip_bounds
from edgeconv.graph.edit import constant, input_of, only_reader
from edgeconv.quantize._apply import apply
from edgeconv.quantize._calibrate import read_in
from edgeconv.quantize._columns import Columns, taps, untaps
from edgeconv.quantize._graph import (
    add_initializer,
    forget_names,
    layer_name,
    named,
    replace_weight,
    static_shape,
)
from edgeconv.quantize._pairs import partners
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._structure import Layer, layer_of
from edgeconv.quantize._targets import Means, Target, channel_axis, targets_of, unit_of
from edgeconv.quantize._walk import Held, Walk, chosen

_Floats = npt.NDArray[np.float64]

CORRECTIONS = "edgeconv.quantize.corrections"
"""Model.meta key (never serialized): what was added to the bias of each layer, float64, by the layer's name."""
_MOST_TAPS = 3072
"""Weights with more taps per channel are rounded to nearest: moments of so many need more positions than there are."""
_MOST_GAIN = 1.25
"""A larger gain than this is no answer to clipping, and would push the largest weights off their grid."""


@dataclass(frozen=True)
class RoundingProblem:
    """A weight that is to be rounded, or some groups of it, and what its layer reads and should give.

    Attributes:
        weight: (groups, channels, taps).
        scales: alike, the steps of its grid.
        seen: the inputs as the quantized layers before give them, float32 (groups, positions, taps).
        mean: float64 (groups, 1, channels), of what the float layer makes.
        bounds: of the clamp that alone reads the layer; infinite where none does.
        shifted: whether the layer's bias will take back what rounding does to its mean.
        partner: which taps may not overflow together, of `edgeconv.quantize._pairs.partners`; None where all may.
    """

    weight: _Floats
    scales: _Floats
    seen: Array
    mean: _Floats
    bounds: tuple[float, float]
    shifted: bool
    partner: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded.

    Attributes:
        round: gives multiples of the scales, (groups, channels, taps); one group does not depend on another.
        positions: how many output positions of each layer it sees.
        positions_per_tap: no more than so many for each tap of a channel.
        part_bytes: of inputs that it sees together: those of a depthwise layer are its taps times its channels.
    """

    round: Callable[[RoundingProblem], _Floats]
    positions: int
    positions_per_tap: int = 1 << 30
    part_bytes: int = 1 << 25


def tune(
    model: ir.Model,
    plan: Plan,
    batches: Iterable[Mapping[str, Array]],
    *,
    title: str,
    rounding: Rounding | None = None,
    progress: Callable[[str], None] | None = None,
) -> ir.Model:
    """Rounds weights as ``rounding`` says, and moves every bias by the mean error of its layer's output.

    Before a weight is rounded it takes back how much weaker its layer's output became.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: says what is quantized.
        batches: calibration data; as many as a `Walk` holds are used.
        title: what progress calls it.
        rounding: None leaves the weights alone.
        progress: is told how far it is, in one line, before every layer.

    Returns:
        A new float model, with `CORRECTIONS`. Weights that were rounded lie on the plan's grid, so the plan stays the
        same.
    """
    # 1. What the float graph makes of the samples, at the places that will be compared.
    original, model = model, model.clone()
    forget_names(model.graph)
    layers = {layer.name: layer for layer in _tunable(model, plan)}
    samples = chosen(model, batches)
    if not all(np.isfinite(array).all() for sample in samples for array in sample.values()):
        raise QuantizeError("it holds NaN or Inf", where="calibration data", hint="give finite numbers")
    reads = read_in(original, samples, layers)
    # Positions are drawn without regard to what a Where drops; such layers are rounded to nearest.
    positions = {
        name: min(rounding.positions, rounding.positions_per_tap * _taps_of(layer))
        for name, layer in layers.items()
        if rounding and _is_rounded(layer) and name not in reads
    }
    targets = targets_of(original, samples, layers.values(), positions, reads)
    # 2. The quantized graph, layer by layer; each change reaches all layers behind it.
    corrections: dict[str, _Floats] = {}
    walk = Walk(apply(model, plan), samples)
    for number, node in enumerate(walk.layers(layers), start=1):
        layer = layers[layer_name(node) or ""]
        target = targets.pop(layer.name)
        if progress is not None:
            progress(f"{title}, layer {number} of {len(layers)}")
        if rounding is not None and layer.name in positions:
            weight = _rounded(layer, plan, rounding, walk.read(node.inputs[0]), target)
            replace_weight(layer.weight, weight)
            walk.write(node.inputs[1], weight.astype(np.float32))
        if _is_corrected(layer):
            means = Means(channel_axis(layer), reads.get(layer.name))
            for array in walk.outputs(node):
                means.add(array)
            with np.errstate(invalid="ignore"):
                shift = target.means.value - means.value
            shift = np.where(np.isfinite(shift), shift, 0.0)  # a clamp may follow sums that float32 does not hold
            add_to_bias(model.graph, layer, shift)
            corrections[layer.name] = shift
            walk.move(shift.astype(np.float32).reshape(means.along))
    model.meta[CORRECTIONS] = corrections
    return model


def corrections_of(model: ir.Model) -> Mapping[str, _Floats]:
    """What `tune` added to the bias of each layer, by its name; empty for a model that it did not make."""
    corrections: Mapping[str, _Floats] = model.meta.get(CORRECTIONS, {})
    return corrections


def add_to_bias(graph: ir.Graph, layer: Layer, shift: _Floats) -> None:
    """Adds to a layer's bias, which is made if there is none; other readers of the constant keep what it was."""
    value = input_of(layer.node, 2)
    old = constant(value)
    bias = (0.0 if old is None else old.astype(np.float64).reshape(-1)) + shift
    if value is not None and old is not None and value.is_initializer() and len(tuple(value.uses())) == 1:
        replace_weight(value, bias.reshape(old.shape))
        return
    name = f"{named(layer.weight).removesuffix('.weight')}.bias"
    layer.node.resize_inputs(3)
    layer.node.replace_input_with(2, add_initializer(graph, name, bias.astype(np.float32)))


def _is_rounded(layer: Layer) -> bool:
    """Whether the weight is not left to be rounded to nearest."""
    stored = constant(layer.weight)
    # Its taps are not the columns of `Columns`; and a weight of two layers has two sets of inputs.
    if layer.node.op_type == "ConvTranspose" or stored is None or len(tuple(layer.weight.uses())) > 1:
        return False
    return _taps_of(layer) <= _MOST_TAPS


def _taps_of(layer: Layer) -> int:
    """How many weights a channel has."""
    return math.prod(static_shape(layer.weight)) // static_shape(layer.weight)[layer.axis]


def _rounded(layer: Layer, plan: Plan, rounding: Rounding, inputs: Sequence[Held], target: Target) -> _Floats:
    """The layer's weight with its gain, on its grid."""
    stored, grid, rank = constant(layer.weight), plan.weights[layer.name], len(static_shape(layer.weight))
    assert stored is not None  # it is a layer
    weight = taps(layer, stored.astype(np.float64))
    scales = np.broadcast_to(spread(grid.scales, grid.axis, rank), static_shape(layer.weight))
    scales = np.ascontiguousarray(taps(layer, scales))
    gain, mean = _gain_and_mean(layer, weight, Columns(layer, inputs, target.compared).of(), target)
    # A clamp that alone reads the layer is fused into it: what it cuts off needs no precision.
    after = only_reader(layer.node.outputs[0])
    bounds = (None if after is None else clip_bounds(after)) or (-np.inf, np.inf)
    columns, result = Columns(layer, inputs, target.positions), np.empty_like(weight)
    for part in columns.parts(rounding.part_bytes):
        result[part] = rounding.round(
            RoundingProblem(
                weight[part] * gain,
                scales[part],
                columns.of(part),
                mean[part],
                bounds,
                _is_corrected(layer),
                partners(layer) if plan.pair_safe else None,
            )
        )
    return untaps(layer, result)


def _gain_and_mean(layer: Layer, weight: _Floats, seen: Array, target: Target) -> tuple[float, _Floats]:
    """`_gain`, and the mean of what the float layer makes: (groups, 1, channels).

    Where float32 does not hold that mean, it is the one of quantized inputs.
    """
    unit, groups = unit_of(seen), len(weight)  # float32 does not hold the square of 1e20
    with np.errstate(over="ignore", invalid="ignore"):  # by weights near the end of float32, which stay
        products = np.matmul(seen * unit, np.swapaxes(weight, 1, 2).astype(np.float32))
        right = target.outputs(groups) * unit
        stand_in = products.mean(axis=1, keepdims=True).astype(np.float64) / unit
    if (bias := constant(layer.bias)) is not None:
        stand_in += bias.reshape(stand_in.shape)
    mean = target.means.value.reshape(stand_in.shape)
    return _gain(products, right), np.where(np.isfinite(mean), mean, stand_in)


def _gain(made: Array, right: Array) -> float:
    """Least-squares gain from the quantized to the float output, without the means; within 1 and `_MOST_GAIN`.

    Clipping weakens signals a little in every layer, and the logits of a deep network by 3 to 5 %. One number per
    layer is found from few data; one per channel, or a whole linear map, fits the calibration data rather than
    others. EfficientNet-Lite0, 300 other photographs, three sets of 100 calibration images: 22.0, 23.4 and 24.2 dB
    without it, 25.7, 25.0 and 25.2 dB with it; 24.4 dB with one per channel, 20.0 dB with a linear map. A gain
    below 1 answers to noise, not to clipping: MobileNetV2 with random weights went from 10.8 to 10.6 dB by such.
    """
    if not (np.isfinite(made).all() and np.isfinite(right).all()):
        return 1.0
    scale = unit_of(made, right) / np.float32(2**16)  # so that neither squares nor sums of them leave float32
    made, right = made * scale, right * scale
    made, right = (array - array.mean(axis=1, keepdims=True) for array in (made, right))
    power = float(np.sum(made * made, dtype=np.float64))
    along = float(np.sum(made * right, dtype=np.float64))
    return float(np.clip(along / power, 1.0, _MOST_GAIN)) if power > 0 else 1.0


def _is_corrected(layer: Layer) -> bool:
    """Whether its bias moves; a MatMul has none."""
    return layer.node.op_type != "MatMul"


def _tunable(model: ir.Model, plan: Plan) -> Iterable[Layer]:
    for node in model.graph:
        layer = layer_of(node)
        if layer is not None and layer.name in plan.weights:
            yield layer
