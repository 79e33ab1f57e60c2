"""The order in which layers are worth keeping in float, and the share of the noise that each takes away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import QuantizeError
from edgeconv.graph.divisions import sizes_at_batch_1
from edgeconv.quantize._apply import apply_only
from edgeconv.quantize._calibrate import mapped, session_of
from edgeconv.quantize._endings import Ending, endings_of
from edgeconv.quantize._graph import static_shape
from edgeconv.quantize._kept_float import choosable_layers, rounded_with
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._structure import structure_of

if TYPE_CHECKING:
    import onnxruntime

Batches: TypeAlias = Callable[[], Iterable[Mapping[str, Array]]]
"""Data, read anew at every call: graph inputs by name, for each inference."""
_MOST_HELD = 1 << 28  # bytes of data and of float outputs: 256 MB
_MS_PER_PRODUCT, _MS_PER_NUMBER = 1e-8, 1e-7  # see `float_costs`


@dataclass(frozen=True)
class Sensitivity:
    """What one layer in float takes away of the noise, those before it in float, too.

    Attributes:
        layer: its name in the plan.
        share: of the noise power that the layers' roundings bring to the outputs, each alone, summed; 0 to 1.
    """

    layer: str
    share: float


def sensitivity(
    model: ir.Model,
    plan: Plan,
    batches: Batches,
    *,
    costs: Mapping[str, float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """The layers in the order in which they are worth leaving in float, and what each takes away.

    A value between two layers is rounded until both are in float, a sum until all are that it is made of. So the noise
    of each rounding is measured alone and put down to the layers that it takes together; of all sets that let a
    rounding go, the one that takes away most, for what it costs, is next. The noise of an output is a share of its
    signal, since what is asked for is a ratio of each.

    Of the noise power of PP-OCRv4's recognizer (47 layers) a third lies on values between layers. Ordered by what each
    layer rounds by itself it took 44 layers in float to be sure of 20 dB, and 34 so.

    Args:
        model: the float graph, with the weights that will be quantized.
        plan: for all of its layers.
        batches: data, read anew for each rounding where 256 MB do not hold it; a handful is enough for an order.
        costs: of each layer in float; all alike by default.
        progress: is told how far it is, in one line, before every measurement.

    Returns:
        All layers. Their shares add up to 1: what is rounded whatever stays float is not counted.

    Raises:
        QuantizeError: the plan does not fit the model, or the batches do not.
    """
    structure = structure_of(model, plan.kept_float)
    endings = endings_of(model.graph, plan)
    read = [name for ending in endings for name in ending.names]
    exact = _Exact(session_of(model, read, optimized=False), batches)
    noises = dict[frozenset[str], float]()
    rounded = rounded_with(model, plan, structure)
    for number, (needed, layers, values) in enumerate(rounded, start=1):
        if progress is not None:
            progress(f"sensitivity, {number} of {len(rounded)}")
        alone = apply_only(model, plan, layers, values)
        noises[needed] = _noise(exact, session_of(alone, read, optimized=False), endings)
    total = sum(noises.values()) or 1.0
    order = _ordered(choosable_layers(structure), noises, costs or {})
    return tuple(Sensitivity(layer, noise / total) for layer, noise in order)


def _ordered(
    layers: Sequence[str], noises: Mapping[frozenset[str], float], costs: Mapping[str, float]
) -> list[tuple[str, float]]:
    """Layers and the noise that each takes away, sets of them by that for what they cost, largest first."""
    order = list[tuple[str, float]]()
    left = dict.fromkeys(layers)
    while left:
        around: dict[str, dict[frozenset[str], float]] = {layer: {} for layer in left}
        for needed, noise in noises.items():
            for layer in needed:
                around[layer][needed] = noise
        ratio = partial(_for_its_cost, around=around, costs=costs)
        for layer in sorted(max([*noises, *map(_only, left)], key=ratio), key=lambda layer: -ratio(_only(layer))):
            order.append((layer, noises.get(_only(layer), 0.0)))
            noises = _without(layer, noises)
            del left[layer]
    return order


def _only(layer: str) -> frozenset[str]:
    return frozenset([layer])


def _for_its_cost(
    chosen: frozenset[str], around: Mapping[str, Mapping[frozenset[str], float]], costs: Mapping[str, float]
) -> float:
    """The noise that layers take away together, by what they cost."""
    gone = {needed: noise for layer in chosen for needed, noise in around[layer].items() if needed <= chosen}
    return sum(gone.values()) / sum(costs.get(layer, 1.0) for layer in chosen)


def _without(layer: str, missing: Mapping[frozenset[str], float]) -> dict[frozenset[str], float]:
    """Noises by the layers that they still take, one of them being in float."""
    rest = dict[frozenset[str], float]()
    for needed, noise in missing.items():
        if fewer := needed - {layer}:
            rest[fewer] = rest.get(fewer, 0.0) + noise
    return rest


def float_costs(model: ir.Model, plan: Plan) -> dict[str, float]:
    """Estimates what each layer takes longer in float than in integers, milliseconds of one core.

    Of its multiply-adds, and of the numbers that are converted on either side: last convolutions of 64 to 256 channels
    took 0.07 to 0.11 ms more on LiteRT (AVX2) and 0.06 to 0.18 on onnxruntime, as these two rates say within a half.
    An estimate, and not a measurement, since the order of layers must not differ from run to run.
    """
    costs = {}
    for name, layer in structure_of(model, plan.kept_float).layers.items():
        outputs = _elements(layer.node.outputs[0])
        products = outputs * _elements(layer.weight) / max(1, static_shape(layer.weight)[layer.axis])
        costs[name] = products * _MS_PER_PRODUCT + (outputs + _elements(layer.input)) * _MS_PER_NUMBER
    return costs


def _elements(value: ir.Value) -> int:
    return math.prod(sizes_at_batch_1(value))


class _Exact:
    """Batches with what the float graph makes of them: read and computed once, where both are small enough to be held.

    Together, since a caller's function may give other data at every call.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batches: Batches) -> None:
        self._session, self._batches = session, batches
        self._held: list[tuple[Mapping[str, Array], Mapping[str, Array]]] | None = []
        size = 0
        for batch, outputs in self._computed():
            size += sum(array.nbytes for array in (*batch.values(), *outputs.values()))
            if size > _MOST_HELD:
                self._held = None
                break
            self._held.append((dict(batch), outputs))

    def __iter__(self) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        return iter(self._held) if self._held is not None else self._computed()

    def _computed(self) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        for batch in self._batches():
            yield batch, _outputs(self._session, batch)


def _outputs(session: onnxruntime.InferenceSession, batch: Mapping[str, Array]) -> dict[str, Array]:
    """What a session makes of a batch, by name."""
    with mapped("sensitivity"):
        arrays = session.run(None, dict(batch))
    return dict(zip((output.name for output in session.get_outputs()), arrays, strict=True))


def _noise(exact: _Exact, coarse: onnxruntime.InferenceSession, endings: Sequence[Ending]) -> float:
    """The energy of the difference that two graphs make on data, of each output for its own signal, summed."""
    sums = np.zeros((len(endings), 2, 2))  # before and behind a function; noise and signal
    count = 0
    for batch, real in exact:
        rounded = _outputs(coarse, batch)
        for ending, total in zip(endings, sums, strict=True):
            energies = ending.energies(real, rounded)
            total[: len(energies)] += energies
        count += 1
    if not count:
        raise QuantizeError("there is no data", where="sensitivity", hint="give at least one batch")
    noises, signals = sums[..., 0], sums[..., 1]
    return float(np.divide(noises, signals, out=np.zeros_like(noises), where=signals > 0).sum())
