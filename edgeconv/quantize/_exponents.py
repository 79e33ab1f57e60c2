"""Which factors of cross-layer equalization serve a pair of layers, by what their channels hold on data.

With a scale per output channel, what the first layer's channels are multiplied by costs its weights nothing. What it
changes is the step of the value between, one for all channels, and the step of the second layer's weights, one for all
inputs of an output. Nagel et al. (arXiv 1906.04721, section 4.1) even the ranges of the weights, as if activations had
them too; a channel of tiny weights and a real bias is then stretched over all others. Here the noise of both steps is
estimated for several ways to even out, none among them, and the least is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.quantize._calibrate import run_float
from edgeconv.quantize._equalize import Pair, between, by_input, in_ranges, out_ranges, pairs_of, weight_of
from edgeconv.quantize._graph import named
from edgeconv.quantize._structure import Layer
from edgeconv.quantize._targets import channel_axis

_Floats = npt.NDArray[np.float64]

_MOST = 24  # exponent of the largest factor
_DEVIATIONS = 5.0  # a few images hold no channel's largest number; evened by what they hold, all channels clip others
_WORTH = 0.95  # of the noise without: what gains less than this is left as it is
_WORTH_AN_OPERATOR = 0.5
"""The same across a SiLU, which takes an operator more (`edgeconv.quantize._equalize`): 3 dB of the value between.

Noise is not weighed against time, as a search for `int8-mixed` does: the operator passes once over the value, whatever
the layers take, which is a share of the file that hardly changes (22 of them in YOLOX-Nano: 34.6 to 38.5 ms on LiteRT,
8.1 to 12.8 dB), and a layer in float, the other way to get the same, takes more.
"""
_ACTIVATION_STEPS, _WEIGHT_STEPS = 255, 127  # of a range: 8 bits from end to end; symmetric, from zero


@dataclass
class _Channels:
    """Statistics of the channels between two layers: their extremes, zero included, means and mean squares."""

    low: _Floats
    high: _Floats
    mean: _Floats
    power: _Floats
    count: int = 0

    def add(self, array: Array, axis: int) -> None:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
        self.low, self.high = np.minimum(self.low, rows.min(axis=1)), np.maximum(self.high, rows.max(axis=1))
        # Running means: sums of squares over many images would lose digits.
        share = rows.shape[1] / max(1, self.count + rows.shape[1])
        self.mean = self.mean + share * (rows.mean(axis=1) - self.mean)
        self.power = self.power + share * (np.square(rows).mean(axis=1) - self.power)
        self.count += rows.shape[1]

    def reach(self) -> tuple[_Floats, _Floats]:
        """How far down and up the channels may come on other data, which nothing that is evened out may clip."""
        wide = _DEVIATIONS * np.sqrt(np.maximum(self.power - np.square(self.mean), 0.0))
        down, up = np.minimum(self.low, self.mean - wide), np.maximum(self.high, self.mean + wide)
        return np.where(self.low < 0, down, 0.0), np.where(self.high > 0, up, 0.0)


def exponents_of(
    model: ir.Model, batches: Iterable[Mapping[str, Array]], *, per_channel: bool = True
) -> dict[str, tuple[int, ...]]:
    """The powers of two that the output channels of layers are to be multiplied by, by the layers' names.

    Args:
        model: float32, NCHW; not changed.
        batches: calibration data.
        per_channel: whether the weights will have a scale per output channel.

    Returns:
        For `edgeconv.quantize.equalize`; without the layers that are best left as they are.

    Raises:
        QuantizeError: the batches do not fit the model.
    """
    pairs = pairs_of(model, gated=True)
    readers = {pair.first.node: pair.second for pair in pairs}
    seen: dict[str, _Channels] = {}
    inner = {name: pair for pair in pairs for name in _quantized(pair)}
    for values in run_float(model, batches, inner) if inner else ():
        for name, array in values.items():
            pair = inner[name]
            zeros = np.zeros(len(in_ranges(pair.second)))
            seen.setdefault(name, _Channels(zeros, zeros, zeros, zeros)).add(array, channel_axis(pair.second))
    chosen = {}
    for pair in pairs:
        # Values that float32 does not hold say nothing; such pairs stay as they are.
        channels = [seen[name] for name in _quantized(pair) if name in seen and np.isfinite(seen[name].power).all()]
        if len(channels) == len(_quantized(pair)):
            exponents = _Choice(pair, readers.get(pair.second.node), channels, per_channel).best()
            if exponents.any():
                chosen[pair.first.name] = tuple(int(exponent) for exponent in exponents)
    return chosen


def _quantized(pair: Pair) -> list[str]:
    """The values between the layers that have steps of their own: not those that a Relu clamps as they are made."""
    nodes = between(pair)
    fused = len(nodes) > 1 and nodes[1].op_type == "Relu"
    return [named(node.outputs[0]) for node in nodes[fused:]]


def _powers(layer: Layer) -> _Floats:
    """The sum of squares of the weights that each input channel meets."""
    return np.asarray(np.square(by_input(layer, weight_of(layer))).sum(axis=(1, 2)))


class _Choice:
    """Chooses the factors for one pair."""

    def __init__(self, pair: Pair, reader: Layer | None, channels: Sequence[_Channels], per_channel: bool) -> None:
        groups = pair.second.groups
        weight = by_input(pair.second, weight_of(pair.second))
        # Weights as (groups, input channels of a group, their output channels), taps added up or their largest taken.
        shape = (groups, weight.shape[0] // groups, weight.shape[1])
        self.squares = np.square(weight).sum(axis=2).reshape(shape)
        self.largest = np.abs(weight).max(axis=2).reshape(shape)
        self.taps = weight.shape[2]
        self.power, self.per_channel = channels[-1].power, per_channel
        outputs = (groups, self.squares.shape[2])
        self.matters = np.ones(outputs) if reader is None else _powers(reader).reshape(outputs)
        self.reaches = [channel.reach() for channel in channels]
        self.range = np.max([high - low for low, high in self.reaches], axis=0)
        self.worth = _WORTH_AN_OPERATOR if pair.sigmoids else _WORTH
        self.first, self.second = out_ranges(pair.first), in_ranges(pair.second)

    def best(self) -> npt.NDArray[np.int64]:
        """The exponents with the least noise; zeros where none is worth it."""
        none = np.zeros(len(self.range), np.int64)
        tried = [(self.noise(exponents), index, exponents) for index, exponents in enumerate(self._candidates())]
        if not tried:
            return none
        noise, _, exponents = min(tried)
        return exponents if noise < self.worth * self.noise(none) else none

    def noise(self, exponents: npt.NDArray[np.int64]) -> float:
        """Noise power over signal power in the second layer's outputs, with rounding taken for white noise.

        An error of a uniform distribution has the power step² / 12; the signal is multiplied by 12 in its place.
        Each output counts by the weights that the next layer reads it with, or all alike where that is not known.
        """
        # 1. The value between: one step for all channels, which the first layer's factors widen or narrow.
        factors = np.asarray(2.0**exponents, np.float64)
        ranges = [float(np.max(high * factors) - np.min(low * factors)) for low, high in self.reaches]
        spread, power = self._grouped(factors), self._grouped(self.power)
        steps = (self.largest / spread).max(axis=1) / _WEIGHT_STEPS  # of each output's weights
        noise = sum((span / _ACTIVATION_STEPS) ** 2 for span in ranges)
        noise = noise * ((self.squares / spread**2) * (power > 0)).sum(axis=1)
        # 3. With one scale for all of the first layer's weights their rounding changes, too.
        if not self.per_channel:
            steps = np.full_like(steps, steps.max())
            noise = noise + self._of_first(factors) * (self.squares / spread**2).sum(axis=1)
        # 2. The second layer's weights: each output's step follows the largest of its weights over all inputs.
        noise = noise + steps**2 * self.taps * (power * spread**2).sum(axis=1)
        signal = float((self.matters * 12 * (self.squares * power).sum(axis=1)).sum())
        return float((self.matters * noise).sum()) / signal if signal > 0 else 0.0

    def _of_first(self, factors: _Floats) -> float:
        """The noise of the first layer's weights in each channel, where they have one step for all."""
        alive = (self.first > 0) & (self.power > 0)
        if not alive.any():
            return 0.0
        # How strong a channel is per size of its weights, in the middle: a channel of a large bias would say too much.
        gain = float(np.median(self.power[alive] / self.first[alive] ** 2))
        return gain * float(np.max(self.first * factors) / _WEIGHT_STEPS) ** 2

    def _grouped(self, values: _Floats) -> _Floats:
        return values.reshape(self.squares.shape[0], self.squares.shape[1], 1)

    def _candidates(self) -> Iterator[npt.NDArray[np.int64]]:
        """Ways to even out the channels that are alive on both sides."""
        alive = (self.range > 0) & (self.second > 0)
        if not alive.any():
            return
        # Each input's largest weight, relative to the largest of the output channel that it sets the step of.
        relative = (self.largest / np.maximum(self.largest.max(axis=1, keepdims=True), 1e-300)).max(axis=2).reshape(-1)
        for share in (0.25, 0.5, 0.75, 1.0):
            for weights in (np.ones_like(relative), relative, self.second):
                yield self._even(weights, self.range, share, alive)
        weighted = alive & (self.first > 0)  # what comes from a bias alone is no matter of weights
        if weighted.any():
            yield self._even(self.second, self.first, 0.5, weighted)

    def _even(
        self, weights: _Floats, ranges: _Floats, share: float, alive: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        """(weights / ranges) to the power of the share, such that the whole range stays about what it is."""
        logarithms = np.zeros(len(ranges))
        logarithms[alive] = share * np.log2(weights[alive] / ranges[alive])
        # Only ratios between channels matter for the steps; the size stays, so that float16 and float32 hold it.
        whole = np.max(self.range[alive] * 2.0 ** logarithms[alive])
        logarithms[alive] -= np.log2(whole / np.max(self.range))
        # Channels that nothing reads must not widen the range either.
        unread = (self.range > 0) & (self.second == 0)
        logarithms[unread] = np.log2(np.max(self.range[alive]) / self.range[unread]).clip(max=0)
        return np.rint(np.clip(logarithms, -_MOST, _MOST)).astype(np.int64)
