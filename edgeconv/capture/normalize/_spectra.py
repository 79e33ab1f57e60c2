"""Fourier transforms of a constant length, written out: no runtime of .tflite files has the operators.

1. HannWindow, HammingWindow, BlackmanWindow and MelWeightMatrix of constants are constants.
2. DFT along an axis is a MatMul with the matrix of the transform: ``e^(-2 pi i k n / N)``, real and imaginary parts
   side by side. A signal longer than the transform is cut, a shorter one continued with zeros: rows that are not there.
3. STFT is a Conv whose kernels are these columns, each times the window, and whose stride is the step of the frames.

Exact in real arithmetic. Matrices are computed in float64 and rounded once. Those of more than `_MOST_ELEMENTS`
elements are not written out, nor are lengths, axes or windows that only the inputs tell: the operator stays, in .onnx
files.

Source: the operators' pages of the ONNX specification, opsets 17 and 20 (which made DFT's axis an input).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.core import Array
from edgeconv.graph.constants import add_constant, integers, is_float, unrounded
from edgeconv.graph.edit import dims, input_of, is_taken
from edgeconv.graph.names import unique_name
from edgeconv.graph.steps import Steps

_MOST_ELEMENTS = 2**23  # of one matrix, 32 MiB: a spectrum of 2,048 real samples has half as many
_AXIS_IS_INPUT = 20  # the opset


def settle_spectra(graph: ir.Graph) -> bool:
    """Replaces all of these operators whose sizes are known, in place; returns whether there was one.

    Raises:
        CaptureError: an attribute or a size is none that the operator can have; names the node.
    """
    modified = False
    for node in list(graph):
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        if rule is not None and is_taken(node.outputs[0]):
            steps = Steps(graph, node)
            result = rule(graph, node, steps)
            if result is not None:
                steps.replace({node.outputs[0]: result})
                modified = True
    return modified


def _matrix(graph: ir.Graph, node: ir.Node, array: Array, dtype: ir.DataType | None, name: str) -> ir.Value:
    """A constant of the operand's floating-point type, rounded once."""
    stem = node.outputs[0].name or node.op_type
    return add_constant(graph, unique_name(graph, f"{stem}.{name}"), array, dtype or ir.DataType.FLOAT)


def _window(graph: ir.Graph, node: ir.Node, steps: Steps) -> ir.Value | None:
    """Cosine sums over 0 to 2 pi, which the last element of a window that is not periodic reaches."""
    size = integers(input_of(node, 0))
    dtype = ir.DataType(node.attributes.get_int("output_datatype", 1))
    if size is None or not is_float(dtype):
        return None
    if len(size) != 1 or not 0 < size[0] <= _MOST_ELEMENTS:
        raise refused(node, f"its size is {size}", "give one positive number")
    period = size[0] if node.attributes.get_int("periodic", 1) else size[0] - 1
    angles = 2 * np.pi * np.arange(size[0]) / max(period, 1)
    array = sum(factor * np.cos(order * angles) for order, factor in enumerate(_COSINES[node.op_type]))
    return _matrix(graph, node, np.asarray(array, np.float64), dtype, "window")


_COSINES: Mapping[str, tuple[float, ...]] = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def _mel(graph: ir.Graph, node: ir.Node, steps: Steps) -> ir.Value | None:
    """Triangles over the bins of a spectrum, whose corners lie evenly on the mel scale."""
    operands = [unrounded(input_of(node, at)) for at in range(5)]
    dtype = ir.DataType(node.attributes.get_int("output_datatype", 1))
    if any(operand is None for operand in operands) or not is_float(dtype):
        return None
    bands, length, rate, low, high = (float(np.ravel(operand)[0]) for operand in operands if operand is not None)
    bins = int(length) // 2 + 1
    if not (bands >= 1 and length >= 1 and rate > 0 and 0 <= low < high and bins * bands <= _MOST_ELEMENTS):
        raise refused(node, f"it has {bands:g} bands from {low:g} to {high:g} Hz at {rate:g} Hz", "correct its inputs")
    first, last = (2595 * np.log10(1 + hertz / 700) for hertz in (low, high))
    mels = first + np.arange(int(bands) + 2) * (last - first) / (bands + 2)
    corners = np.floor((length + 1) * 700 * (10 ** (mels / 2595) - 1) / rate)
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    at = np.arange(bins)[:, None]
    rising = np.where(left == center, at == center, (at - left) / np.maximum(center - left, 1))
    falling = np.where(at < center, 0, (right - at) / np.maximum(right - center, 1))
    rises, falls = (left <= at) & (at <= center), (center <= at) & (at < right)
    return _matrix(graph, node, np.where(falls, falling, np.where(rises, rising, 0.0)), dtype, "weights")


def _dft(graph: ir.Graph, node: ir.Node, steps: Steps) -> ir.Value | None:
    """The signal's axis and its real and imaginary part become one, which a matrix multiplies."""
    x, axis = input_of(node, 0), _axis_of(graph, node)
    sizes = None if x is None else dims(x)
    if x is None or sizes is None or axis is None or not is_float(x.dtype):
        return None
    last = len(sizes) - 1
    axis = axis + len(sizes) if axis < 0 else axis
    if not 0 <= axis < last or sizes[last] not in (1, 2):
        what = f"it transforms axis {axis} of the shape {list(sizes)}"
        raise refused(node, what, "correct the axis; the last one holds real, or real and imaginary parts")
    waves = _waves_of(node, sizes[axis], sizes[last])
    if waves is None:
        return None
    bins, parts = waves.shape[2:]
    matrix = _matrix(graph, node, waves.reshape(sizes[axis] * sizes[last], bins * parts), x.dtype, "waves")
    inner_last = [*(at for at in range(last) if at != axis), axis, last]
    if axis != last - 1:
        x = steps.transpose(x, inner_last, "signals")
    outer = [sizes[at] for at in inner_last[:-2]]
    y = steps.reshape(x, [*outer, sizes[axis] * sizes[last]], "samples")
    y = steps.add("spectrum", "MatMul", [y, matrix], [*outer, bins * parts])
    y = steps.reshape(y, [*outer, bins, parts], "parts")
    return y if axis == last - 1 else steps.transpose(y, [int(at) for at in np.argsort(inner_last)], "spectra")


def _waves_of(node: ir.Node, samples: int, parts: int) -> Array | None:
    """The matrix of a DFT of so many samples, each of one part or two; None where it stays an operator."""
    inverse, onesided = (bool(node.attributes.get_int(name, 0)) for name in ("inverse", "onesided"))
    stated, to_real = input_of(node, 1), inverse and onesided
    length = integers(stated) if stated is not None else [2 * (samples - 1) if to_real else samples]
    if length is None or len(length) != 1 or length[0] < 1 or (onesided and parts != (2 if inverse else 1)):
        return None
    bins = length[0] // 2 + 1 if onesided and not inverse else length[0]
    if 2 * bins * parts * samples > _MOST_ELEMENTS:
        return None
    if to_real:
        return _real_waves(length[0], samples)
    return _waves(length[0], bins, samples, parts, inverse=inverse)


def _axis_of(graph: ir.Graph, node: ir.Node) -> int | None:
    """The axis that a DFT transforms; None where the inputs tell it."""
    if graph.opset_imports.get("", _AXIS_IS_INPUT) < _AXIS_IS_INPUT:
        return node.attributes.get_int("axis", 1)
    if input_of(node, 2) is None:
        return -2
    axis = integers(input_of(node, 2))
    return axis[0] if axis is not None and len(axis) == 1 else None


def _waves(length: int, bins: int, samples: int, parts: int, *, inverse: bool) -> Array:
    """What each sample adds to each bin, (samples, its parts, bins, the bins' parts): float64."""
    cosine, sine = _turned(length, samples, bins)
    sine = sine if inverse else 0.0 - sine  # 0 stays 0: a phase of -0 is another one
    of_real, of_imaginary = np.stack([cosine, sine], -1), np.stack([0.0 - sine, cosine], -1)
    waves = np.stack([of_real, of_imaginary][:parts], 1) / (length if inverse else 1)
    waves[length:] = 0.0
    return waves


def _real_waves(length: int, bins: int) -> Array:
    """What each bin of half a spectrum adds to each real sample, (bins, their parts, samples, 1): float64."""
    cosine, sine = _turned(length, bins, length)
    half = np.arange(bins)[:, None]
    # All bins but the first and, of an even length, the middle one stand for their conjugates, too.
    weight = np.where((half == 0) | (2 * half == length), 1.0, 2.0) / length
    waves = np.stack([cosine * weight, -sine * weight], 1)[..., None]
    waves[length // 2 + 1 :] = 0.0
    return waves


def _turned(length: int, rows: int, columns: int) -> tuple[Array, Array]:
    """Cosine and sine of ``2 pi row column / length``, (rows, columns): exact at quarters of a turn."""
    # Whole turns are taken off before the angle is computed: it stays small, and its cosine exact to the last bit.
    turns = np.outer(np.arange(rows), np.arange(columns)) % length
    angles, quarter = 2 * np.pi * turns / length, np.where(4 * turns % length == 0, 4 * turns // length, -1)
    cosine, sine = np.cos(angles), np.sin(angles)
    for at, (real, imaginary) in enumerate(((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))):
        cosine[quarter == at], sine[quarter == at] = real, imaginary
    return cosine, sine


def _stft(graph: ir.Graph, node: ir.Node, steps: Steps) -> ir.Value | None:
    """A convolution along the signal, with a kernel per bin and part."""
    x = input_of(node, 0)
    step, frame = integers(input_of(node, 1)), integers(input_of(node, 3))
    window = unrounded(input_of(node, 2))
    sizes = None if x is None else dims(x)
    if x is None or sizes is None or step is None or not is_float(x.dtype):
        return None
    if any(input_of(node, at) is not None and operand is None for at, operand in ((2, window), (3, frame))):
        return None
    length = frame[0] if frame else len(window) if window is not None else 0
    parts = sizes[2] if len(sizes) == 3 else 1
    onesided = bool(node.attributes.get_int("onesided", 1))
    if parts not in (1, 2) or (onesided and parts == 2) or len(step) != 1:
        return None
    if not 0 < length <= sizes[1] or step[0] < 1 or (window is not None and window.shape != (length,)):
        what = f"frames of {length} samples, {step[0]} apart, do not fit the signal of {sizes[1]}, or the window"
        raise refused(node, what, "correct its inputs")
    bins = length // 2 + 1 if onesided else length
    if 2 * bins * parts * length > _MOST_ELEMENTS:
        return None
    waves = _waves(length, bins, length, parts, inverse=False)
    waves = waves if window is None else waves * window[:, None, None, None]
    kernels = waves.transpose(2, 3, 1, 0).reshape(bins * 2, parts, length)  # (bins, their parts; the signal's; samples)
    weight = _matrix(graph, node, np.ascontiguousarray(kernels), x.dtype, "waves")
    signal = (
        steps.transpose(x, [0, 2, 1], "signal") if parts == 2 else steps.reshape(x, [sizes[0], 1, sizes[1]], "signal")
    )
    frames = 1 + (sizes[1] - length) // step[0]
    y = steps.add("spectra", "Conv", [signal, weight], [sizes[0], bins * 2, frames], {"strides": [step[0]]})
    y = steps.transpose(y, [0, 2, 1], "frames")
    return steps.reshape(y, [sizes[0], frames, bins, 2], "parts")


_Rule = Callable[[ir.Graph, ir.Node, Steps], ir.Value | None]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(_COSINES, _window),
    "MelWeightMatrix": _mel,
    "DFT": _dft,
    "STFT": _stft,
}
SPECTRAL = frozenset(_RULES)
"""The operators that are settled here; onnx infers no shape of one whose sizes only the inputs tell."""
