"""Layer after layer of the quantised graph: other weights, other biases, and on with what the layer then makes.

Each layer is tuned on what the quantised layers before it give, tuned already, so errors do not add up unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.quantize._apply import apply, spread_scales
from edgeconv.quantize._calibrate import run_float
from edgeconv.quantize._columns import columns, taps, untaps
from edgeconv.quantize._graph import add_initializer, constant, forget_names, layer_name, named, replace_weight
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._structure import Layer, layer_of
from edgeconv.quantize._walk import Walk, chosen

_Floats = npt.NDArray[np.float64]
Rounding = Callable[[_Floats, _Floats, Array], _Floats]
"""(weight, scales, inputs) -> multiples of the scales: (groups, channels, taps), alike, (groups, positions, taps)."""

_MOST_TAPS = 3072
"""Weights with more taps per channel are rounded to nearest: moments of so many need more positions than there are."""


def tune(
    model: ir.Model,
    plan: Plan,
    batches: Iterable[Mapping[str, Array]],
    *,
    title: str,
    rounding: Rounding | None = None,
    positions: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ir.Model:
    """Rounds weights where ``rounding`` says how, and moves every bias by the mean error of its layer's output.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: says what is quantised.
        batches: calibration data; as many as a `Walk` holds are used.
        title: what progress calls it.
        rounding: gives a layer's weight; None leaves the weights alone.
        positions: how many output positions ``rounding`` sees of each layer.
        progress: is told how far it is, in one line, before every layer.

    Returns:
        A new float model. Weights that were rounded lie on the plan's grid, so the plan stays the same.
    """
    original, model = model, model.clone()
    forget_names(model.graph)
    layers = {layer.name: layer for layer in _tunable(model, plan)}
    samples = chosen(model, list(batches))
    wanted = channel_means(original, samples, layers)
    walk = Walk(apply(model, plan), samples)
    for number, node in enumerate(walk.layers(layers), start=1):
        layer = layers[layer_name(node) or ""]
        if progress is not None:
            progress(f"{title}, layer {number} of {len(layers)}")
        if rounding is not None and (weight := _rounded(layer, plan, rounding, walk, node, positions)) is not None:
            replace_weight(layer.weight, weight)
            walk.write(node.inputs[1], [weight.astype(np.float32)] * len(samples))
        walk.compute(node)
        _correct(model.graph, layer, walk, node.outputs[0], wanted)
    return model


def channel_means(
    model: ir.Model, samples: Sequence[Mapping[str, Array]], layers: Mapping[str, Layer]
) -> dict[str, _Floats]:
    """The mean of each layer's float output, per channel."""
    sums: dict[str, _Floats] = {}
    for values in run_float(model, samples, layers):
        for name, array in values.items():
            mean = _mean([array], channel_axis(layers[name])) / len(samples)
            sums[name] = sums[name] + mean if name in sums else mean
    return sums


def channel_axis(layer: Layer) -> int:
    """The axis of a layer's output along which its channels lie."""
    return -1 if layer.node.op_type in ("Gemm", "MatMul") else 1


def add_to_bias(graph: ir.Graph, layer: Layer, shift: _Floats) -> None:
    """Adds to a layer's bias, which is made if there is none; other readers of the constant keep what it was."""
    value = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
    old = constant(value)
    bias = (0.0 if old is None else old.astype(np.float64).reshape(-1)) + shift
    if value is not None and old is not None and value.is_initializer() and len(tuple(value.uses())) == 1:
        replace_weight(value, bias.reshape(old.shape))
        return
    wanted = f"{named(layer.weight).removesuffix('.weight')}.bias"
    layer.node.resize_inputs(3)
    layer.node.replace_input_with(2, add_initializer(graph, wanted, bias.astype(np.float32)))


def _rounded(layer: Layer, plan: Plan, rounding: Rounding, walk: Walk, node: ir.Node, positions: int) -> _Floats | None:
    """The layer's weight on the plan's grid; None where it is left to be rounded to nearest."""
    stored = constant(layer.weight)
    if layer.node.op_type == "ConvTranspose" or stored is None or len(tuple(layer.weight.uses())) > 1:
        return None
    form = taps(layer, stored.astype(np.float64))
    if form.shape[2] > _MOST_TAPS:
        return None
    scales = np.broadcast_to(spread_scales(plan.weights[layer.name], stored.ndim), stored.shape)
    inputs = columns(layer, walk.read(node.inputs[0]), positions)
    return untaps(layer, rounding(form, taps(layer, scales), inputs))


def _correct(graph: ir.Graph, layer: Layer, walk: Walk, output: ir.Value, wanted: Mapping[str, _Floats]) -> None:
    """Bias correction of one layer that was just computed."""
    if layer.node.op_type == "MatMul":
        return
    found = walk.read(output)
    axis = channel_axis(layer) % found[0].ndim
    shift = wanted[layer.name] - _mean(found, axis)
    add_to_bias(graph, layer, shift)
    along = [-1 if index == axis else 1 for index in range(found[0].ndim)]
    walk.write(output, [array + shift.astype(np.float32).reshape(along) for array in found])


def _mean(arrays: Sequence[Array], axis: int) -> _Floats:
    """Over samples and all axes but one."""
    rows = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in arrays)
    return np.asarray(np.mean([row.mean(axis=1, dtype=np.float64) for row in rows], axis=0))


def _tunable(model: ir.Model, plan: Plan) -> Iterable[Layer]:
    for node in model.graph:
        layer = layer_of(node)
        if layer is not None and layer.name in plan.weights:
            yield layer
