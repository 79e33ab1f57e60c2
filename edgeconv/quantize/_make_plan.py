"""Makes the plan: scale and zero point of every tensor, scales of every weight, and which operators stay float.

In this order: operators that no kernel computes in integers, those that 8 or 16 bits would spoil on the calibration
data, and then the numbers for all that is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import WEIGHT_LIMITS, asymmetric, normal, symmetric
from edgeconv.core.observed import Observed
from edgeconv.core.quantization_options import Override, QuantizationOptions
from edgeconv.core.values import one_of
from edgeconv.errors import QuantizeError
from edgeconv.graph.argument import checked_model
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.integer_rules import FIXED, KNOWN_RANGES, LAYERS, LOWEST_LOG, WITHOUT_INT16
from edgeconv.graph.traits import Trait, having_any
from edgeconv.quantize._apart import joins_of_uneven_parts, uneven_channels, uneven_inputs
from edgeconv.quantize._calibrate import Calibration
from edgeconv.quantize._fixed_scales import coarse_results
from edgeconv.quantize._graph import name_of, named
from edgeconv.quantize._pairs import partners, safe_growth
from edgeconv.quantize._patterns import overrides_of, unknown
from edgeconv.quantize._plan import RANGES, REQUESTED, SCHEMES, Plan, TensorParameters, WeightParameters
from edgeconv.quantize._steep import spread_results, steep_operands
from edgeconv.quantize._structure import Layer, Structure, layer_of, structure_of

_Floats = npt.NDArray[np.float64]

_MOST_BIAS = 2.0**30  # steps: half of what int32 holds, so that a correction of the bias still fits
_FINEST = 2.0**-31  # of input scale · weight scale / output scale: XNNPACK takes none below 2**-32
_AVERAGES = having_any([Trait.AVERAGES])
_SCORES_RANK = 2  # (N, classes); what has more axes is an image or a sequence, which a few clipped elements hurt less
_DEFAULT = QuantizationOptions()
_FEWEST = 1024  # elements of a weight below which storing it in 8 bits saves nothing

# Of the range of what is averaged, in the range of the average. Where nothing but rounding is left (the mean of what
# was normalized), XNNPACK's MEAN adds zero point · count · scale in float32, and is 22 steps off.
_LEAST_LEFT = 2.0**-12

# A weight's scale is at least this share of the layer's largest: the multipliers of kernels are int32 with a shift, and
# one for a channel 2**40 times weaker would be zero.
_WEAKEST = 2.0**-40


def make_plan(
    model: ir.Model,
    calibration: Calibration | None,
    *,
    scheme: str = "int8",
    options: QuantizationOptions = _DEFAULT,
    in_float: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Chooses the numbers of every tensor.

    Args:
        model: the graph that was calibrated, or one with the same values (whose weights were corrected).
        calibration: what was seen of its activations; not needed for ``"int8-weights"``.
        scheme: ``"int8"`` (all integer), ``"int8-weights"`` (weights only) or ``"int16x8"`` (activations of 16 bits).
        options: of these `per_channel` (also of `override`), `pair_safe` (of ``"int8"`` alone, since kernels whose
            sums overflow take 8-bit activations) and `keep_float`.
        in_float: further operators that stay float, by the name of their first output, and why.

    Raises:
        QuantizeError: the scheme or an operator to keep in float is unknown, the calibration is missing or is one of
            another graph, or a weight is NaN or infinite.
    """
    checked_model(model, QuantizeError)
    one_of(scheme, "scheme", SCHEMES, QuantizeError)
    requested = dict.fromkeys(options.keep_float, REQUESTED)
    check_names(model, requested, "keep_float")
    options = replace(options, pair_safe=options.pair_safe and scheme == "int8")
    overrides = overrides_of(model.graph, options.override)
    if scheme == "int8-weights":
        return _weights_only(model, options, overrides, requested)
    if calibration is None:
        raise QuantizeError(f"{scheme} needs calibration", where="plan", hint="calibrate the graph first")
    # 1. As if all were integers but what was asked for: how much would be lost, and where?
    structure = structure_of(model, requested)
    dtype = "int16" if scheme == "int16x8" else "int8"
    tensors = _tensors(structure, calibration, dtype)
    # 16 bits hold parts of different ranges side by side.
    uneven = (joins_of_uneven_parts, uneven_channels, uneven_inputs) if scheme == "int8" else ()
    imprecise = (steep_operands, spread_results, coarse_results)
    # An operator's first reason stays, so those that tell more come first: that logarithms end at -16 tells more than
    # that their steps are coarse.
    float_reasons: dict[str, str] = {}
    for name, reason in chain(
        *(rule(model, structure, calibration) for rule in uneven),
        _without_kernels(model, structure, calibration, scheme),
        in_float.items(),
        *(rule(model.graph, structure, calibration, tensors, dtype) for rule in imprecise),
    ):
        float_reasons.setdefault(name, reason)
    # 2. Once more with these in float: groups of values that share parameters have changed with them.
    structure = structure_of(model, {**float_reasons, **requested}) if float_reasons else structure
    tensors = _tensors(structure, calibration, dtype)
    weights = {
        name: weight_parameters(
            layer, _of_layer(name, options, overrides), tensors[named(layer.input)], tensors[named(layer.output)]
        )
        for name, layer in structure.layers.items()
    }
    return Plan(scheme, tensors, weights, structure.kept_float, options.pair_safe)


def ranges_of(model: ir.Model, plan: Plan, calibration: Calibration) -> dict[str, tuple[float, float]]:
    """The range that was chosen of every value with parameters by itself, before those of groups were united.

    Args:
        model: the graph that the plan was made for.
        plan: as it was made.
        calibration: of which it was made.

    Returns:
        By the name of the value; empty for ``"int8-weights"``.
    """
    if not plan.tensors:
        return {}
    low, high = RANGES["int16" if plan.scheme == "int16x8" else "int8"]
    values = structure_of(model, plan.kept_float).activations
    return {named(value): _range(value, calibration, high - low + 1) for value in values}


def keep_operators(model: ir.Model, plan: Plan, names: Collection[str]) -> Plan:
    """A plan with more operators left in float, and the clamps that are fused into them.

    Raises:
        QuantizeError: an operator is unknown.
    """
    check_names(model, dict.fromkeys(names), "keep_float")
    layers = structure_of(model, plan.kept_float).layers if plan.tensors else {}  # activations of which nothing is said
    # A clamp that was fused into the layer has no operator to be fused into any more, and stays float with it.
    clamped = [layers[name].output.name or name for name in names if name in layers]
    return replace(plan, kept_float={**dict.fromkeys([*names, *clamped], REQUESTED), **plan.kept_float})


def check_names(model: ir.Model, names: Mapping[str, object], where: str) -> None:
    """Refuses names that no node of the graph has, which in a plan are those of first outputs alone."""
    known = {name_of(node) for node in model.graph}
    for name in names:
        if name not in known and where != "keep_float":
            raise QuantizeError(f"no operator makes {name!r}", where=where, hint="name an operator's first output")
        if name not in known:
            raise unknown(model.graph, name, where)


def observed_of(model: ir.Model, plan: Plan, calibration: Calibration) -> dict[str, Observed]:
    """What was seen of every value of `ranges_of` whose range its observer alone chose, by name.

    Not of those with a range that is known, stated or widened.
    """
    values = structure_of(model, plan.kept_float).activations if plan.tensors else ()
    seen = {
        named(value): calibration.observed(named(value), observer=_observer_of(value))
        for value in values
        if (producer := value.producer()) is None or producer.op_type not in {*KNOWN_RANGES, *_AVERAGES}
    }
    return {name: item for name, item in seen.items() if item is not None}


def _without_kernels(
    model: ir.Model, structure: Structure, calibration: Calibration, scheme: str
) -> Iterator[tuple[str, str]]:
    """Operators with an integer form, but none that computes these numbers: their names, and why.

    Infinities that end in the graph (a mask before a maximum) saturate; those that an output shows do not.
    """
    shown = any(output.name in calibration.infinite for output in model.graph.outputs)
    infinite = calibration.infinite if shown else ()
    for node in model.graph:
        operator, name = structure.operator(node), name_of(node)
        seen = calibration.histograms.get(name)
        if name in structure.kept_float:
            continue
        if name in infinite:
            yield name, "it makes infinities, and no integer stands for one"
        elif scheme == "int16x8" and operator in WITHOUT_INT16:
            yield name, f"TFLite has no {operator} of int16"
        elif operator == "LogSoftmax" and seen is not None and seen.low < LOWEST_LOG:
            yield name, f"it reaches {seen.low:.3g}, and the integers of LogSoftmax end at {LOWEST_LOG:g}"


def _of_layer(name: str, options: QuantizationOptions, overrides: Mapping[str, Override]) -> QuantizationOptions:
    """The options with the choice of an override for a layer's weight."""
    per_channel = overrides[name].per_channel if name in overrides else None
    return options if per_channel is None else replace(options, per_channel=per_channel)


def parameters_of(low: float, high: float, dtype: str) -> TensorParameters:
    """Parameters whose range is [low, high], which holds zero; symmetric for int16."""
    if dtype == "int16":
        return TensorParameters(dtype, float(symmetric(max(-low, high), RANGES[dtype][1])), 0)
    return TensorParameters(dtype, *asymmetric(low, high, dtype))


def weight_parameters(
    layer: Layer,
    options: QuantizationOptions,
    source: TensorParameters | None = None,
    result: TensorParameters | None = None,
) -> WeightParameters:
    """Scales of a layer's weight, no finer than its bias and the runtimes' rescaling can follow.

    A channel's largest weight is representable. Clipping it where the square error of the channel is least changed
    digits_dsc by -0.13 dB rounded to nearest, +0.04 dB corrected and -0.03 dB with feedback, and EfficientNet-Lite0 by
    -0.18 dB to nearest and -0.17 dB corrected.
    """
    weight = _finite(layer.weight).astype(np.float64)
    channels = np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], -1)
    if not options.per_channel:
        channels = channels.reshape(1, -1)
    # 1. The largest weight of a channel becomes 127, or less where a pair of weights would overflow 16 bits.
    scales = np.abs(channels).max(axis=1, initial=0.0) / WEIGHT_LIMITS[1]
    if options.pair_safe and (partner := partners(layer)) is not None:
        scales = scales * safe_growth(channels, scales, partner)
    # 2. Not so fine that a runtime's multiplier is too small, or the bias leaves int32.
    typical = np.max(scales, initial=0.0)
    if not typical and source is not None and result is not None:  # all are zero: the bias alone sets how fine it is
        typical = result.scale / (source.scale * WEIGHT_LIMITS[1])
    floor = np.full(len(scales), typical * _WEAKEST or 1.0)
    if source is not None and result is not None:
        floor = np.maximum(floor, _FINEST * result.scale / source.scale)
        bias = _bias_by_scale(layer, len(scales))
        floor = np.maximum(floor, bias / (source.scale * _MOST_BIAS))
    # a channel without weights takes a scale like its neighbors', which every runtime can rescale
    scales = np.where(scales > 0, scales, typical)
    axis = layer.axis if options.per_channel else None
    return WeightParameters(axis, tuple(normal(np.maximum(scales, floor)).tolist()))


def _bias_by_scale(layer: Layer, count: int) -> _Floats:
    """The largest |bias| of the channels that share a scale."""
    if layer.vector is None:
        return np.zeros(count)
    bias = np.abs(_finite(layer.vector).astype(np.float64)).reshape(-1)
    if count == 1:
        return np.asarray(bias.max(keepdims=True, initial=0.0))
    return np.asarray(bias.reshape(-1, count).max(axis=0))  # the groups of a ConvTranspose share scales


def _tensors(structure: Structure, calibration: Calibration, dtype: str) -> dict[str, TensorParameters]:
    # 1. The range of every value for itself.
    levels = RANGES[dtype][1] - RANGES[dtype][0] + 1
    ranges = {named(value): _range(value, calibration, levels) for value in structure.activations}
    # 2. What shares parameters takes the union, or what an operator prescribes (a Softmax: 1/256 from -128 on).
    by_group = {}
    for group, names in structure.members().items():
        if group in structure.fixed:
            fixed = FIXED[structure.fixed[group]]
            scale, zero_point = (fixed.scale, fixed.zero_point) if dtype == "int8" else (fixed.scale16, 0)
            by_group[group] = TensorParameters(dtype, scale, zero_point)
        else:
            low, high = min(ranges[name][0] for name in names), max(ranges[name][1] for name in names)
            by_group[group] = parameters_of(low, high, dtype)
    # 3. Constant operands take their own range.
    tensors = {name: by_group[group] for name, group in structure.groups.items()}
    for name, value in structure.operands.items():
        array = np.clip(_numbers(value), *calibration.bounds.get(name, (-np.inf, np.inf)))
        array = array[~np.isinf(array)]  # integers saturate at these
        tensors[name] = parameters_of(float(array.min(initial=0.0)), float(array.max(initial=0.0)), dtype)
    return tensors


def _range(value: ir.Value, calibration: Calibration, levels: int) -> tuple[float, float]:
    """A value's range; scores keep all that was seen, since a clipped logit is the one that decides."""
    producer = value.producer()
    if producer is not None and producer.op_type in KNOWN_RANGES:
        return KNOWN_RANGES[producer.op_type]
    low, high = calibration.range_of(named(value), levels, observer=_observer_of(value))
    source = producer.inputs[0] if producer is not None and producer.op_type in _AVERAGES else None
    averaged = calibration.histograms.get(named(source)) if source is not None else None
    if averaged is not None:
        margin = max(0.0, _LEAST_LEFT * (averaged.high - averaged.low) - (high - low)) / 2
        low, high = low - margin, high + margin
    return low, high


def _observer_of(value: ir.Value) -> str:
    """The observer of scores; empty for the calibration's own."""
    # EfficientNet-Lite0's logits alone: 33.8 dB by "mse", 36.1 dB whole. The block's 64 planes: 0.6 dB more by "mse".
    return "min-max" if value.is_graph_output() and len(value.shape or ()) <= _SCORES_RANK else ""


def _weights_only(
    model: ir.Model, options: QuantizationOptions, overrides: Mapping[str, Override], requested: Mapping[str, str]
) -> Plan:
    """The plan of ``"int8-weights"``: no activations, so no calibration either."""
    weights, kept_float = {}, dict(requested)
    unfit = structure_of(model, requested).kept_float
    for node in model.graph:
        layer = layer_of(node)
        if node.op_type in LAYERS and constant(input_of(node, 1)) is not None and name_of(node) in unfit:
            kept_float[name_of(node)] = unfit[name_of(node)]
            continue
        if layer is None:
            continue
        if layer.weight.const_value is not None and layer.weight.const_value.size < _FEWEST:
            kept_float[layer.name] = f"its weight has fewer than {_FEWEST} elements"
            continue
        weights[layer.name] = weight_parameters(layer, _of_layer(layer.name, options, overrides))
    return Plan("int8-weights", {}, weights, kept_float)


def _numbers(value: ir.Value) -> npt.NDArray[np.generic]:
    """A constant operand, which may hold infinities, as masks and bounds do."""
    array = constant(value)
    if array is None or np.isnan(array.astype(np.float64)).any():
        raise QuantizeError("it has NaN elements", where=f"constant {value.name}", hint="look at the module")
    return array


def _finite(value: ir.Value) -> npt.NDArray[np.generic]:
    array = constant(value)
    if array is None or not np.isfinite(array.astype(np.float64)).all():
        raise QuantizeError("it has NaN or infinite elements", where=f"weight {value.name}", hint="train it again")
    return array
