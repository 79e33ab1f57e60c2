"""Each layer's share of the error of the outputs: the order in which layers are worth keeping in float."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import QuantizeError
from edgeconv.graph.divisions import sizes_at_batch_1
from edgeconv.quantize._apply import apply_only
from edgeconv.quantize._calibrate import mapped, session_of
from edgeconv.quantize._graph import ADDED, is_activation, name_of, static_shape
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._structure import layer_of, structure_of

if TYPE_CHECKING:
    import onnxruntime

Batches: TypeAlias = Callable[[], Iterable[Mapping[str, Array]]]
"""Data, read anew at every call: graph inputs by name, for each inference."""
_MOST_HELD = 1 << 28  # bytes of data and of float outputs: 256 MB
_MS_PER_PRODUCT, _MS_PER_NUMBER = 1e-8, 1e-7  # see `float_costs`


@dataclass(frozen=True)
class Sensitivity:
    """The noise that one layer's integers bring to the outputs.

    Attributes:
        layer: its name in the plan.
        share: of the noise power of all layers alone, summed; 0 to 1.
    """

    layer: str
    share: float


def sensitivity(
    model: ir.Model,
    plan: Plan,
    batches: Batches,
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Quantizes one layer at a time, its weight and its output, and measures the graph's outputs.

    The sum of the shares is a good guess of the whole where errors are small; keeping the first n in float takes about
    their shares away. (The steps of a SiLU behind a layer belong to no share. Counted as the layer's they did not make
    a better order: YOLOX-Nano with a quarter, a third and a half of the layers' float time in float had 15.2, 17.4 and
    21.4 dB so, and 16.0, 18.2 and 21.5 without.)

    Args:
        model: the float graph, with the weights that will be quantized.
        plan: for all of its layers.
        batches: data, read anew for each layer where 256 MB do not hold it; a handful is enough for an order.
        progress: is told how far it is, in one line, before every layer.

    Returns:
        The layers, the worst first.

    Raises:
        QuantizeError: the plan does not fit the model, or the batches do not.
    """
    exact = _Exact(session_of(model, (), optimized=False), batches)
    structure = structure_of(model, plan.kept_float)
    names = [name for name, layer in structure.layers.items() if not layer.node.meta.get(ADDED)]
    noises = {}
    for number, name in enumerate(names, start=1):
        if progress is not None:
            progress(f"sensitivity, layer {number} of {len(names)}")
        # What the layer reads is quantized with whoever makes it.
        alone = apply_only(model, plan, {name, structure.layers[name].output.name or name})
        noises[name] = _noise(exact, session_of(alone, (), optimized=False))
    total = sum(noises.values()) or 1.0
    layers = [Sensitivity(name, noise / total) for name, noise in noises.items()]
    return tuple(sorted(layers, key=lambda item: -item.share))


def float_costs(model: ir.Model, layers: Iterable[str]) -> dict[str, float]:
    """Estimates what each layer takes longer in float than in integers, milliseconds of one core.

    Of its multiply-adds, and of the numbers that are converted on either side: last convolutions of 64 to 256 channels
    took 0.07 to 0.11 ms more on LiteRT (AVX2) and 0.06 to 0.18 on onnxruntime, as these two rates say within a half.
    An estimate, and not a measurement, since the order of layers must not differ from run to run.
    """
    nodes = {name_of(node): node for node in model.graph}
    costs = {}
    for name in layers:
        layer = layer_of(nodes[name])
        assert layer is not None  # of the plan
        outputs = _elements(layer.node.outputs[0])
        products = outputs * _elements(layer.weight) / max(1, static_shape(layer.weight)[layer.axis])
        costs[name] = products * _MS_PER_PRODUCT + (outputs + _elements(layer.input)) * _MS_PER_NUMBER
    return costs


def _elements(value: ir.Value) -> int:
    return math.prod(sizes_at_batch_1(value))


def keep_in_float(model: ir.Model, plan: Plan, layers: Iterable[str], reason: str) -> Plan:
    """The plan with some layers left in float, and what reads them and float alone: operators without weights.

    Otherwise they would quantize a result that was just computed in float. A layer that equalization added between
    another and its SiLU goes with that one.
    """
    structure = structure_of(model, plan.kept_float)
    layer_names = {name for name, layer in structure.layers.items() if not layer.node.meta.get(ADDED)}
    kept_float = dict(plan.kept_float)
    for name in layers:
        if name not in structure.layers:
            raise QuantizeError(f"there is no quantized layer {name!r}", where="keep in float", hint="see the plan")
        kept_float[name] = reason
        kept_float[structure.layers[name].output.name or name] = reason
    added = kept_float.keys() - plan.kept_float.keys()
    for node in model.graph:
        makers = [_name(value.producer()) for value in node.inputs if is_activation(value) and value is not None]
        # What reads nothing but operators that were float before is as it was: integers behind a LayerNormalization.
        alone = not added.isdisjoint(makers) and all(maker in kept_float for maker in makers)
        if alone and name_of(node) not in layer_names and name_of(node) not in kept_float:
            kept_float[name_of(node)] = reason
            added.add(name_of(node))
    weights = {name: item for name, item in plan.weights.items() if name not in kept_float}
    return dataclasses.replace(plan, weights=weights, kept_float=kept_float)


def _name(node: ir.Node | None) -> str:
    return "" if node is None else name_of(node)


class _Exact:
    """Batches with what the float graph makes of them: read and computed once, where both are small enough to be held.

    Together, since a caller's function may give other data at every call.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batches: Batches) -> None:
        self._session, self._batches = session, batches
        self._held: list[tuple[Mapping[str, Array], Sequence[Array]]] | None = []
        size = 0
        for batch, outputs in self._computed():
            size += sum(array.nbytes for array in (*batch.values(), *outputs))
            if size > _MOST_HELD:
                self._held = None
                break
            self._held.append((dict(batch), outputs))

    def __iter__(self) -> Iterator[tuple[Mapping[str, Array], Sequence[Array]]]:
        return iter(self._held) if self._held is not None else self._computed()

    def _computed(self) -> Iterator[tuple[Mapping[str, Array], Sequence[Array]]]:
        for batch in self._batches():
            with mapped("sensitivity"):
                outputs: Sequence[Array] = self._session.run(None, dict(batch))
            yield batch, outputs


def _noise(exact: _Exact, coarse: onnxruntime.InferenceSession) -> float:
    """The energy of the difference that two graphs make on data."""
    noises = []
    for batch, outputs in exact:
        with mapped("sensitivity"):
            pairs = zip(outputs, coarse.run(None, dict(batch)), strict=True)
        noises.append(sum(float(np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2)) for a, b in pairs))
    if not noises:
        raise QuantizeError("there is no data", where="sensitivity", hint="give at least one batch")
    return sum(noises)
