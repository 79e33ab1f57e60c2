"""Pairs of weights whose products a processor may add in 16 bits, and weights that no such sum overflows with.

onnxruntime's kernels (MLAS) take uint8 activations and int8 weights. Where the processor has no instruction that adds
four products in 32 bits, they use one that adds two in 16 bits and saturates: 255 · |w1 + w2| leaves int16 where both
weights have one sign and |w1| + |w2| is above 128. Two weights of different signs never do. What each kernel does (MLAS
of onnxruntime 1.32, the files of onnxruntime/core/mlas/lib):

=========================  ==========================================================================================
x86 without VNNI           AVX2, and AVX-512 BW without VNNI: ``vpmaddubsw``, pairs in int16, saturating (the kernels
                           QgemmU8S8, QgemvU8S8 and ConvSym of Avx2 and Avx512Core). SSE4.1, in builds by MSVC: the
                           same. SSE2, and AVX before AVX2: widened to int16 first and added in int32, exact.
x86 with VNNI or AMX       ``vpdpbusd(s)``, ``tdpbusd``: four products in int32, exact.
uint8 weights              widened to int16 first (``vpmaddwd``), exact, several times slower.
ARM64                      ``udot``, ``sdot``, ``smmla``, ``ummla``: exact. Plain NEON: activations less 128, two
                           products eight apart in int16: at most 2 · 128 · 127 = 32512, exact for weights to ±127.
WebAssembly                widened to int16, exact; the relaxed dot product is only used where a test of the engine, at
                           start, shows that it neither saturates nor takes bytes for signed.
depthwise                  one channel in and one out per group: products in int32 or widened, exact on all.
=========================  ==========================================================================================

The order in which they reduce: of a Conv kernel positions (row by row), and within each the input channels of the
group; of a Gemm or MatMul the rows of the matrix. A pair is (0, 1), (2, 3), … of that order: blocks along it have
multiples of 4 taps, an odd tail is filled up with zeros, and channels of a group never meet those of another. A grouped
convolution with several channels in or out per group runs as one product per group. ConvTranspose has no integer kernel
there.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import WEIGHT_LIMITS, saturated
from edgeconv.graph.edit import constant, input_of, producer_of
from edgeconv.quantize._graph import layer_name, name_of, static_shape
from edgeconv.quantize._structure import Layer, weight_axis

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]
_Real = TypeVar("_Real", np.float32, np.float64)

LARGEST_SUM = 128
"""The largest sum of the magnitudes of two weights of one sign: 255 · 128 = 32640 fits int16, 255 · 129 does not."""
_HIGHEST = WEIGHT_LIMITS[1]
_ALONE = -1  # no place: the partner of a tap that has none


def partners(layer: Layer) -> _Indices | None:
    """For each tap of an output channel the one that it is added to in 16 bits, -1 for one that is added to none.

    Args:
        layer: its taps are numbered as `edgeconv.quantize._columns.taps` lays them out.

    Returns:
        An array of the taps' length; None for layers whose kernels add no pairs.
    """
    return _partners(layer.node, static_shape(layer.weight), layer.axis)


def _partners(node: ir.Node, shape: tuple[int, ...], axis: int) -> _Indices | None:
    operator = node.op_type
    if operator == "Conv":
        groups = node.attributes.get_int("group", 1)
        if shape[1] == 1 and shape[0] == groups:
            return None
        # Taps are numbered (channel, position); kernels take them (position, channel), so partners are neighboring
        # channels.
        order = np.arange(int(np.prod(shape[1:]))).reshape(shape[1], -1).T.reshape(-1)
    elif operator in ("Gemm", "MatMul"):
        order = np.arange(int(np.prod(shape)) // shape[axis])
    else:
        return None
    partner = np.full(len(order), _ALONE)
    first, second = order[:-1:2], order[1::2]
    partner[first], partner[second] = second, first
    return partner


def pairs_of(partner: _Indices) -> tuple[_Indices, _Indices]:
    """The first taps of all pairs, and the second ones."""
    first = np.flatnonzero(partner > np.arange(len(partner)))
    return first, partner[first]


def nearest_safe(steps: npt.NDArray[_Real], partner: _Indices | None) -> npt.NDArray[_Real]:
    """Rounds to the nearest integers from -127 to 127 of which no pair overflows.

    Args:
        steps: real multiples of the scale, (..., taps).
        partner: of `partners`; None leaves every weight by itself.

    Returns:
        Integers as floats, of the same shape. Of a pair that would overflow these are the nearest two that add up to
        128: the plane of the constraint lies between them and what they are for.
    """
    rounded = saturated(steps, WEIGHT_LIMITS)
    if partner is None:
        return rounded
    first, second = pairs_of(partner)
    left, right = rounded[..., first], rounded[..., second]
    over = (left * right > 0) & (np.abs(left) + np.abs(right) > LARGEST_SUM)
    size, other_size = (np.minimum(np.abs(steps[..., taps][over]), _HIGHEST) for taps in (first, second))
    part = np.clip(np.rint((size - other_size + LARGEST_SUM) / 2), 1, _HIGHEST)
    left[over], right[over] = np.sign(left[over]) * part, np.sign(right[over]) * (LARGEST_SUM - part)
    rounded[..., first], rounded[..., second] = left, right
    return rounded


def within_pairs(steps: npt.NDArray[_Real], partner: _Indices | None) -> npt.NDArray[_Real]:
    """The nearest real numbers of which no pair (..., taps) overflows: both give up half of what is too much."""
    if partner is None:
        return steps
    first, second = pairs_of(partner)
    bounded = np.clip(steps, *WEIGHT_LIMITS)
    left, right = bounded[..., first], bounded[..., second]
    excess = np.where(left * right > 0, np.maximum(np.abs(left + right) - LARGEST_SUM, 0), 0) / 2
    bounded[..., first] = left - np.sign(left) * excess
    bounded[..., second] = right - np.sign(right) * excess
    return bounded


def unsafe_pairs(integers: npt.NDArray[np.generic], partner: _Indices) -> int:
    """How many pairs of integers (..., taps) may overflow."""
    left, right = (integers[..., taps].astype(np.int64) for taps in pairs_of(partner))
    return int(np.count_nonzero((left * right > 0) & (np.abs(left + right) > LARGEST_SUM)))


def overflowing(model: ir.Model) -> tuple[str, ...]:
    """The layers of a graph with QuantizeLinear and DequantizeLinear that have pairs which may overflow.

    Args:
        model: anybody's: its weights are what counts, whoever rounded them.

    Returns:
        The names of their outputs, in graph order.
    """
    return tuple(layer_name(node) or name_of(node) for node in model.graph if _overflows(node))


def _overflows(node: ir.Node) -> bool:
    source, weight = (_dequantized(node, index) for index in (0, 1))
    integers = constant(weight)
    if source is None or constant(source) is not None or integers is None or integers.dtype != np.int8:
        return False
    axis = weight_axis(node, integers.ndim)
    partner = None if axis is None else _partners(node, integers.shape, axis)
    if axis is None or partner is None:
        return False
    rows = integers if node.op_type == "Conv" else np.moveaxis(integers, axis, 0)
    return unsafe_pairs(rows.reshape(rows.shape[0], -1), partner) > 0


def _dequantized(node: ir.Node, index: int) -> ir.Value | None:
    """The integers whose DequantizeLinear a node reads."""
    value = input_of(node, index)
    producer = producer_of(value)
    return producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None


def safe_growth(channels: _Floats, scales: _Floats, partner: _Indices) -> _Floats:
    """The factor of each channel's scale with which weights that overflow in no pair are nearest to the real ones.

    With the scale as it is some weights have to be cut; with one large enough for the largest pair none, and all are
    rounded more coarsely. The least square error of the weights lies at one of the ends or between. EfficientNet-Lite0,
    rounded with feedback, 1000 photographs: 24.4 dB with any pairs, 24.0 dB with these scales, 16.3 dB with half of
    their growth and 23.9 dB with 1.4 times as much.

    Args:
        channels: real weights, (channels, taps).
        scales: one per channel, with which the largest weight of each is about 127.
        partner: of `partners`.

    Returns:
        (channels,), 1 or more.
    """
    left, right = (channels[:, taps] for taps in pairs_of(partner))
    sums = np.where(left * right > 0, np.abs(left + right), 0.0).max(axis=1, initial=0.0)
    limits = scales * LARGEST_SUM  # 0 for a channel of zeros
    largest = np.maximum(1.0, np.divide(sums, limits, out=np.zeros_like(sums), where=limits > 0))
    # Behind a layer whose channels could be reordered there are none, or few, that need to grow at all.
    growing = np.flatnonzero(largest > 1.0)
    channels, scales, largest = channels[growing], scales[growing], largest[growing]
    best, least = np.ones(len(growing)), np.full(len(growing), np.inf)
    for share in np.linspace(0.0, 1.0, _GROWTHS):
        growth = 1.0 + share * (largest - 1.0)
        grown = (scales * growth)[:, None]
        error = np.square(channels - nearest_safe(channels / grown, partner) * grown).sum(axis=1)
        best, least = np.where(error < least, growth, best), np.minimum(error, least)
    factors = np.ones(len(sums))
    factors[growing] = best
    return factors


_GROWTHS = 9  # that are tried
