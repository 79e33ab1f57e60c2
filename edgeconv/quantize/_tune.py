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
from edgeconv.graph.edit import constant, input_of, only_reader
from edgeconv.quantize._apply import apply
from edgeconv.quantize._calibrate import read_in
from edgeconv.quantize._columns import Columns, taps, untaps
from edgeconv.quantize._graph import (
    LAYER,
    add_initializer,
    forget_names,
    layer_name,
    named,
    replace_weight,
    static_shape,
)
from edgeconv.quantize._pairs import partners
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._structure import Layer, clip_bounds, layer_of
from edgeconv.quantize._walk import Values, Walk, chosen

_Floats = npt.NDArray[np.float64]

_MOST_TAPS = 3072
"""Weights with more taps per channel are rounded to nearest: moments of so many need more positions than there are."""
_MOST_GAIN = 1.25
"""What moves a layer further than this is no weakened signal; the largest weights could not follow."""


@dataclass(frozen=True)
class Given:
    """A weight that is to be rounded.

    Attributes:
        weight: (groups, channels, taps).
        scales: alike, the steps of its grid.
        seen: what the rounding keeps of the inputs, float32 (groups, positions, taps), as the quantized layers before
            give them; along the first axis the groups.
        mean: float64 (groups, 1, channels), of what the float layer makes at the same positions.
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


_PART_BYTES = 1 << 25
"""Of a layer's inputs that are looked at together: those of a depthwise layer are its taps times its channels."""


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded.

    Attributes:
        round: gives multiples of the scales, (groups, channels, taps).
        positions: how many output positions of each layer it sees.
        kept: what it keeps of the inputs of some groups, (groups, positions, taps) in float32; along the first axis
            the groups.
    """

    round: Callable[[Given], _Floats]
    positions: int
    kept: Callable[[Array], Array]


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
        A new float model. Weights that were rounded lie on the plan's grid, so the plan stays the same.
    """
    original, model = model.clone(), model.clone()
    forget_names(model.graph)
    layers = {layer.name: layer for layer in _tunable(model, plan)}
    for layer in _tunable(original, plan):
        layer.node.meta[LAYER] = layer.name
    samples = chosen(model, list(batches))
    if not all(np.isfinite(array).all() for sample in samples for array in sample.values()):
        raise QuantizeError("it holds NaN or Inf", where="calibration data", hint="give finite numbers")
    walk, floats = Walk(apply(model, plan), samples), Walk(original, samples)
    reads = read_in(original, samples, layers)
    for number, (node, twin) in enumerate(zip(walk.layers(layers), floats.layers(layers), strict=True), start=1):
        layer = layers[layer_name(node) or ""]
        if progress is not None:
            progress(f"{title}, layer {number} of {len(layers)}")
        if rounding is not None and _is_rounded(layer) and layer.name not in reads:
            seen = _Seen(layer, rounding)
            seen.add(walk.read(node.inputs[0]), floats.read(twin.inputs[0]))
            weight = untaps(layer, rounding.round(_given(layer, plan, seen)))
            replace_weight(layer.weight, weight)
            walk.write(node.inputs[1], [weight.astype(np.float32)] * len(samples))
        walk.compute(node)
        floats.compute(twin)
        shift = _shift(layer, walk.read(node.outputs[0]), floats.read(twin.outputs[0]), reads.get(layer.name))
        _correct(model.graph, layer, walk, node.outputs[0], shift)
    return model


def channel_axis(layer: Layer) -> int:
    """The axis of a layer's output along which its channels lie."""
    return -1 if layer.node.op_type in ("Gemm", "MatMul") else 1


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
    if layer.node.op_type == "ConvTranspose" or stored is None or len(tuple(layer.weight.uses())) > 1:
        return False
    form = taps(layer, stored.astype(np.float64))
    return bool(form.shape[2] <= _MOST_TAPS)


def _given(layer: Layer, plan: Plan, seen: _Seen) -> Given:
    """The layer's weight with its gain, and what is known of it."""
    bias, grid, rank = constant(layer.bias), plan.weights[layer.name], len(static_shape(layer.weight))
    scales = np.broadcast_to(spread(grid.scales, grid.axis, rank), static_shape(layer.weight))
    mean = np.concatenate(seen.means)
    if bias is not None:
        mean += bias.reshape(mean.shape)
    after = only_reader(layer.node.outputs[0])
    return Given(
        seen.weight * seen.gain(),
        np.ascontiguousarray(taps(layer, scales)),
        seen.kept[0] if len(seen.kept) == 1 else np.concatenate(seen.kept),
        mean,
        (None if after is None else clip_bounds(after)) or (-np.inf, np.inf),
        _is_corrected(layer),
        partners(layer) if plan.pair_safe else None,
    )


class _Seen:
    """What a layer reads and makes in the quantized and in the float graph, some of its groups at a time."""

    def __init__(self, layer: Layer, rounding: Rounding) -> None:
        stored = constant(layer.weight)
        assert stored is not None  # it is a layer
        self.weight = taps(layer, stored.astype(np.float64))
        self.kept: list[Array] = []
        self.means: list[_Floats] = []
        self._layer, self._rounding = layer, rounding
        self._across = np.swapaxes(self.weight, 1, 2).astype(np.float32)
        self._power = self._along = 0.0

    def add(self, quantized: Values, floats: Values) -> None:
        """Looks at what the layer reads in the two graphs."""
        columns, groups = Columns(self._layer, quantized, self._rounding.positions), len(self._across)
        count = max(1, _PART_BYTES // (4 * self._rounding.positions * columns.taps))
        for start in range(0, groups, count):
            part = slice(start, start + count)
            inputs, float_inputs = (columns.of(arrays, part) for arrays in (quantized, floats))
            self.kept.append(self._rounding.kept(inputs))
            unit = unit_of(inputs, float_inputs)  # float32 does not hold the square of 1e20
            with np.errstate(over="ignore", invalid="ignore"):  # by weights near the end of float32, which stay
                made, right = (np.matmul(array * unit, self._across[part]) for array in (inputs, float_inputs))
                self.means.append(right.mean(axis=1, keepdims=True).astype(np.float64) / unit)
            self._count(made, right, float(unit))

    def _count(self, made: Array, right: Array, unit: float) -> None:
        """Adds to the products that the gain is of."""
        if not (np.isfinite(made).all() and np.isfinite(right).all()):
            self._power = math.nan
            return
        scale = unit_of(made, right) / np.float32(2**16)  # so that neither squares nor sums of them leave float32
        made, right = (array * scale - (array * scale).mean(axis=1, keepdims=True) for array in (made, right))
        unit *= float(scale)
        self._power += float(np.sum(made * made, dtype=np.float64)) / unit**2
        self._along += float(np.sum(made * right, dtype=np.float64)) / unit**2

    def gain(self) -> float:
        """Least-squares gain from the quantized to the float output, without the means; within 1 and `_MOST_GAIN`.

        Clipping weakens signals a little in every layer, and the logits of a deep network by 3 to 5 %. One number per
        layer is found from few data; one per channel, or a whole linear map, fits the calibration data rather than
        others. EfficientNet-Lite0, 300 other photographs, three sets of 100 calibration images: 22.0, 23.4 and 24.2 dB
        without it, 25.7, 25.0 and 25.2 dB with it; 24.4 dB with one per channel, 20.0 dB with a linear map. A gain
        below 1 answers to noise, not to clipping: MobileNetV2 with random weights went from 10.8 to 10.6 dB by such.
        """
        return float(np.clip(self._along / self._power, 1.0, _MOST_GAIN)) if self._power > 0 else 1.0


def unit_of(*arrays: Array) -> np.float32:
    """The power of two with which the largest number of the arrays is between 1/2 and 1, as far as float32 has it."""
    largest = max(max(-float(array.min(initial=0.0)), float(array.max(initial=0.0))) for array in arrays)
    return np.float32(2.0 ** -min(max(math.frexp(largest)[1], -126), 126))


def _is_corrected(layer: Layer) -> bool:
    """Whether its bias moves; a MatMul has none."""
    return layer.node.op_type != "MatMul"


def _shift(layer: Layer, outputs: Values, targets: Values, read: Sequence[Array] | None) -> _Floats:
    """By how much a layer's output falls short of what it should be, per channel, on average of what is read of it."""
    axis = channel_axis(layer) % outputs[0].ndim
    with np.errstate(invalid="ignore"):
        shift = _mean(targets, axis, read) - _mean(outputs, axis, read)
    return np.where(np.isfinite(shift), shift, 0.0)  # a clamp may follow sums that float32 does not hold


def _correct(graph: ir.Graph, layer: Layer, walk: Walk, output: ir.Value, shift: _Floats) -> None:
    """Bias correction of one layer that was just computed."""
    if not _is_corrected(layer):
        return
    arrays = walk.read(output)
    axis = channel_axis(layer) % arrays[0].ndim
    add_to_bias(graph, layer, shift)
    along = [-1 if index == axis else 1 for index in range(arrays[0].ndim)]
    moved = shift.astype(np.float32).reshape(along)
    for array in {id(array): array for array in arrays}.values():  # in place: all take a quarter of a gigabyte
        array += moved


def _mean(arrays: Values, axis: int, read: Sequence[Array] | None) -> _Floats:
    """Over samples and all axes but one, of the elements that are read; NaN where none is."""
    rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in arrays]
    if read is None:
        return np.asarray(np.mean([row.mean(axis=1, dtype=np.float64) for row in rows], axis=0))
    flags = [np.moveaxis(flag, axis, 0).reshape(flag.shape[axis], -1) for flag in read]
    sums = sum(np.where(flag, row, 0).sum(axis=1, dtype=np.float64) for row, flag in zip(rows, flags, strict=True))
    return np.asarray(sums / sum(flag.sum(axis=1) for flag in flags))


def _tunable(model: ir.Model, plan: Plan) -> Iterable[Layer]:
    for node in model.graph:
        layer = layer_of(node)
        if layer is not None and layer.name in plan.weights:
            yield layer
