"""The layers of a file of integers, each on the module's own values in float64.

No error adds up: wherever a tensor is one of the module's values, what reads it reads that value. A layer may then be
off by what rounding its own constants makes of it, and by nothing else, as activations are not rounded here. A number
is off by up to half a step s (a whole one where the converter does not round to the nearest), evenly: its variance is
s^2 / 12 (s^2 / 3). That of a sum of products is what the sum makes of the squares of data and of these variances. What
is computed of that before the next known value is measured: the operators are evaluated again with each quantized
constant moved at random. What independent roundings add up to exceeds 8 of their standard deviations with a probability
of 2 exp(-32) (Hoeffding; Higham and Mary 2019).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgeconv.core import Array, TensorSpec
from edgeconv.core.threads import one_thread
from edgeconv.parity.writing._alike import Alike, Candidates, by_channel, cut_alike
from edgeconv.parity.writing._real_file import Part, RealFile, Values
from edgeconv.parity.writing._steps import Steps

_AGAIN = 8  # evaluations with roundings drawn anew, whose mean square is the variance
_DEVIATIONS = 8.0
_LEAST = 2.0**-12  # of the largest number: a sixteenth of an 8-bit step, which float32 and approximations may take
_NOTHING = 1e-30  # is what is allowed where all is zero
_SIX = 6.0  # where ReLU6 ends
_CLAMPING = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "ADD", "RELU", "RELU6", "RELU_N1_TO_1"}
)


@dataclass(frozen=True, eq=False)
class OnValues:
    """One sample, and what a module makes of it.

    Attributes:
        inputs: of the module, by name, in torch's layout.
        values: of all its graphs, by name, float64.
    """

    inputs: Mapping[str, Array]
    values: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Ends:
    """Inputs and outputs of a file, in its order, by the module's names."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]


@dataclass(frozen=True, eq=False)
class LayerOff:
    """A tensor of a file beside a value of the module.

    Attributes:
        tensor: its key.
        part: the operator that computes it.
        alike: which value it holds; None where it is none of the module's.
        error: the largest distance that uses most of its bound.
        bound: there.
        used: error / bound.
        direct: whether all that it is computed from is the module's.
        array: what the file computes, of one that is not within its bound.
        shape: of the tensor.
    """

    tensor: Hashable
    part: Part
    alike: Alike | None
    error: float = 0.0
    bound: float = 0.0
    used: float = 0.0
    direct: bool = True
    array: Array | None = None
    shape: tuple[int, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it is that value, within its bound; what reads it then reads the module's own."""
        return self.alike is not None and self.used <= 1


class Walk:
    """A file on the values of a module.

    Args:
        file: on real numbers.
        reach: of the roundings of its constants, in steps.
        factors: whether its channels may have factors, and another order.
        least: what a result may be off by in any case, of its largest number.
        corrected: whether biases may make up for the mean of what rounded weights make of a channel (Nagel et al. 2019,
            section 4.2): where all data is zero, nothing else is off, and a channel may be zero throughout.
    """

    def __init__(
        self, file: RealFile, *, reach: float, factors: bool, least: float = _LEAST, corrected: bool = False
    ) -> None:
        self._corrected = corrected
        self._file, self._reach, self._factors, self._least = file, reach, factors, least
        self.alike: dict[Hashable, Alike] = {}
        generator = np.random.default_rng(0)
        self._moved = [
            {key: self._moved_constant(key, generator) for key in file.steps if key in file.constants}
            for _ in range(_AGAIN)
        ]

    def _moved_constant(self, key: Hashable, generator: np.random.Generator) -> Array:
        array = self._file.constants[key]
        drawn = generator.uniform(-self._reach, self._reach, array.shape)
        return np.asarray(array + drawn * self._file.steps[key])

    def layers_of_sample(self, sample: OnValues, ends: Ends) -> list[LayerOff]:
        """`layers` on one sample of the module's, whose inputs and outputs the file has as `ends` says."""
        outputs = {key: Alike(spec.name, spec.axes) for key, spec in zip(self._file.outputs, ends.outputs, strict=True)}
        inputs = {
            key: np.asarray(sample.inputs[spec.name].astype(np.float64).transpose(spec.axes))
            for key, spec in zip(self._file.inputs, ends.inputs, strict=True)
        }
        return self.layers(inputs, sample.values, outputs)

    def layers(
        self, inputs: Mapping[Hashable, Array], values: Mapping[str, Array], outputs: Mapping[Hashable, Alike]
    ) -> list[LayerOff]:
        """Each result of the file, in its order; those that were found on an earlier sample are what they were.

        Args:
            inputs: of the file, real numbers, by key.
            values: of the module, float64, by name.
            outputs: what those of the file have to be.

        Raises:
            EmitError: an operator cannot be evaluated.
            RewriteError: likewise.
        """
        with one_thread():
            return self._layers(inputs, Candidates(values), values, outputs)

    def _layers(
        self,
        inputs: Mapping[Hashable, Array],
        candidates: Candidates,
        values: Mapping[str, Array],
        outputs: Mapping[Hashable, Alike],
    ) -> list[LayerOff]:
        known: dict[Hashable, Array] = {**self._file.constants, **inputs}
        noisy: list[dict[Hashable, Array]] = [{} for _ in range(_AGAIN)]
        last = {key: part for part in self._file.parts for key in part.inputs}
        varying: set[Hashable] = set(inputs)
        judged: list[LayerOff] = []
        loose: set[Hashable] = set()
        for part in self._file.parts:
            # 1. The results, of the module's values where those before were found to be these; and how far the file's
            # rounded constants may move them.
            results = part.compute(known)
            if not varying.isdisjoint(part.inputs):
                varying.update(part.outputs)
            again = self._again(part, known, noisy)
            for at, key in enumerate(part.outputs[: len(results)]):
                array, steps = results[at], self._file.ranges.get(key)
                known[key] = array
                if array.dtype.kind != "f":
                    continue
                around = [others[at] for others in again]
                deviation = self._deviation(part, array, around, known, loose)
                # 2. Which value of the module each result is, and whether it is within its bound.
                judge = partial(self._best, key, part, deviation=deviation, among=(candidates, values, outputs))
                layer, due = judge(array)
                if layer.alike is not None and not layer.holds:
                    readings = (judge(part.compute(operands)[at]) for operands in self._saturated(part, known, loose))
                    layer, due = next((other for other in readings if other[0].holds), (layer, due))
                if not layer.holds and varying.isdisjoint(part.inputs):
                    layer = LayerOff(key, part, None)  # made of constants alone: like a value by chance, if at all
                off = None if layer.holds else array
                layer = replace(layer, direct=loose.isdisjoint(part.inputs), array=off, shape=array.shape)
                judged.append(layer)
                # 3. What reads it reads the module's value; else its own, with the errors that it may have.
                if layer.holds and layer.alike is not None and layer.alike.plain:
                    known[key] = due
                    continue  # a factor is as good as the numbers that it was found from, and goes on with their errors
                loose.add(key)
                known[key] = _as_clamped(array, steps)
                for other, others in zip(noisy, again, strict=False):
                    other[key] = _as_clamped(others[at], steps)
            for key in part.inputs:
                if last[key] is part and key not in self._file.constants:
                    known.pop(key, None)
                    for other in noisy:
                        other.pop(key, None)
        return judged

    def _saturated(self, part: Part, known: Values, loose: AbstractSet[Hashable]) -> Iterator[Values]:
        """What an operator reads, saturated: what is none of the values of the module, or a single operand, or all.

        The end of a range may be a clamp of the module's: the ADD of x + 3 that ends at 0 and 6, in a HardSwish. Other
        ends cut off what is rare, which the module's values go on with.
        """
        ranges = {key: self._file.ranges[key] for key in part.inputs if key in self._file.ranges and key in known}
        cut = {key: np.clip(known[key], steps.least, steps.greatest) for key, steps in ranges.items()}
        cut = {key: array for key, array in cut.items() if not np.array_equal(array, known[key], equal_nan=True)}
        chosen = [[key for key in cut if key in loose], *([key] for key in cut), list(cut)]
        for keys in dict.fromkeys(map(tuple, filter(None, chosen))):
            yield {**known, **{key: cut[key] for key in keys}}

    def _best(
        self,
        key: Hashable,
        part: Part,
        array: Array,
        deviation: Array | float,
        among: tuple[Candidates, Mapping[str, Array], Mapping[Hashable, Alike]],
    ) -> tuple[LayerOff, Array]:
        """The value that a tensor was found to be before, or, where it is not that here, the one that it is near to.

        Values before and after a clamp are the same where no number reaches it.
        """
        candidates, values, outputs = among
        steps = self._file.ranges.get(key)
        earlier = outputs.get(key) or self.alike.get(key)
        best: tuple[LayerOff, Array] = LayerOff(key, part, None), array
        if earlier is not None and values[earlier.value].size == array.size:
            due = earlier.arranged(values[earlier.value], array.shape)
            best = _judged(key, part, earlier, (array, due), (deviation, self._least), steps), due
        clamped = steps is not None and bool(((array < steps.least) | (array > steps.greatest)).any())
        if key in outputs or (best[0].holds and not clamped):
            return best
        orders = [of.order for at in part.inputs if (of := self.alike.get(at)) is not None and of.order is not None]
        nearest = candidates.find(array, steps, factors=self._factors, orders=orders)
        if nearest is not None:
            due = nearest.arranged(values[nearest.value], array.shape)
            layer = _judged(key, part, nearest, (array, due), (deviation, self._least), steps)
            self.alike.setdefault(key, nearest)
            if layer.holds or best[0].alike is None:
                return layer, due  # of two that a range makes one, the one that it makes nothing of
        return best

    def _deviation(
        self,
        part: Part,
        array: Array,
        around: list[Array],
        known: Mapping[Hashable, Array],
        loose: AbstractSet[Hashable],
    ) -> Array | float:
        """The standard deviation of what rounding constants makes of a result."""
        if part.added_up is not None and loose.isdisjoint(part.inputs):
            moved = {key: self._file.steps.get(key, np.zeros(1)) for key in part.factors[1:]}
            squares = {key: np.square(np.broadcast_to(step, known[key].shape)) for key, step in moved.items()}
            squares[part.factors[0]] = np.square(known[part.factors[0]])
            (variance, *_) = part.added_up({**known, **squares})
            if self._corrected:
                variance = _not_below_means(variance)
            return np.asarray(self._reach * np.sqrt(variance / 3))
        if not around:
            return 0.0
        variance = np.mean([np.square(moved - array) for moved in around], axis=0)
        return np.asarray(np.sqrt(_not_below_means(variance)))

    def _again(
        self, part: Part, known: Mapping[Hashable, Array], noisy: list[dict[Hashable, Array]]
    ) -> list[list[Array]]:
        """The results with other roundings; none where nothing that is read is rounded."""
        if not any(key in self._moved[0] or key in noisy[0] for key in part.inputs):
            return []
        return [
            list(part.compute({**known, **moved, **other})) for moved, other in zip(self._moved, noisy, strict=True)
        ]


def _not_below_means(variance: Array) -> Array:
    """Each element's variance, at least the mean of its channel, on the last axis, and that of all."""
    channels = by_channel(variance)
    channel = np.broadcast_to(channels.mean(0), channels.shape).reshape(variance.shape)
    return np.asarray(np.maximum(np.maximum(variance, channel), variance.mean()))


def _as_clamped(array: Array, steps: Steps | None) -> Array:
    """Where a range is that of a ReLU or ReLU6, it may stand in its place; all others cut off what is rare."""
    if steps is None or array.dtype.kind != "f" or steps.least != 0:
        return array
    return np.clip(array, 0, steps.greatest if abs(steps.greatest - _SIX) <= steps.scale else None)


def _judged(
    key: Hashable,
    part: Part,
    alike: Alike,
    sides: tuple[Array, Array],
    allowed: tuple[Array | float, float],
    steps: Steps | None,
) -> LayerOff:
    """The element that uses most of its bound; what saturates is alike.

    Args:
        key: of the tensor.
        part: that computes it.
        alike: which value it is.
        sides: what the file computes, and the module's value in its layout.
        allowed: the standard deviation of each element, and what is allowed of the largest number besides.
        steps: that it is saturated by.
    """
    held, expected = cut_alike(*sides, steps)
    deviation, least = allowed
    off = np.abs(held - expected)
    bound = _DEVIATIONS * deviation + (least * float(np.abs(expected).max(initial=0.0)) or _NOTHING)
    if not np.isfinite(off).all():
        return LayerOff(key, part, alike, float("inf"), 0.0, float("inf"))
    bound = np.broadcast_to(bound, off.shape)
    at = np.unravel_index(int(np.argmax(off / bound)), off.shape)
    return LayerOff(key, part, alike, float(off[at]), float(bound[at]), float(off[at] / bound[at]))


def first_wrong(layers: Sequence[LayerOff], outputs: Collection[Hashable]) -> LayerOff | None:
    """The first layer of a file that is none of the module's.

    A tensor that is near to a value of the module, but beyond its bound, is wrong where no other tensor is that value:
    else it is a step on the way there. One that is near to none is a step, too, where what is computed of it is a value
    again; where an output is wrong, the first that leads to none is where it begins.

    Args:
        layers: of `Walk.layers`.
        outputs: keys of the file's outputs.
    """
    near = _near(layers)
    lost = any(layer.tensor in outputs and not layer.holds for layer in layers)
    leading: set[Hashable] = set()
    for layer in reversed(layers):
        if layer.holds or layer.tensor in leading:
            leading.update(layer.part.inputs)
    wrong = (layer for layer in layers if layer in near or (lost and not layer.holds and layer.tensor not in leading))
    return next(wrong, None)


def first_wrong_enlarged(layers: Sequence[LayerOff], before: Sequence[LayerOff]) -> LayerOff | None:
    """The same on operands that no range was chosen for: of layers with a clamp, which they reach.

    What saturates in between is no fault there, so that only layers count that read nothing but the module's values.

    Args:
        layers: of `Walk.layers`.
        before: those on operands that ranges were chosen for.
    """
    held = {layer.tensor for layer in before if layer.holds}
    wrong = (layer for layer in _near(layers) if layer.direct and layer.tensor in held)
    return next((layer for layer in wrong if layer.part.operator in _CLAMPING), None)


def _near(layers: Sequence[LayerOff]) -> list[LayerOff]:
    """Those beyond the bound of a value that no tensor is."""
    claimed = {layer.alike.value for layer in layers if layer.alike is not None and layer.holds}
    near = [layer for layer in layers if layer.alike is not None and not layer.holds]
    return [layer for layer in near if layer.alike is not None and layer.alike.value not in claimed]
