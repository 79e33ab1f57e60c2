"""Faults in the structure and the options of `.tflite` files; each changes a file in place and says where."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from array_faults import rolled
from planted import NoPlaceError, drawn
from tflite_edit import TfliteEdit
from tflite_wiring_faults import WIRING_FAULTS

TfliteFault = Callable[[TfliteEdit, random.Random], str]
_SAME, _VALID = schema.Padding.SAME, schema.Padding.VALID
_NONE, _RELU, _RELU6 = (
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU6,
)
_WINDOWS = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D")
_POOLS = _WINDOWS[2:]
_CONVOLUTIONS = _WINDOWS[:2]
_ACTIVATIONS = ("RELU", "RELU6", "LEAKY_RELU", "PRELU", "LOGISTIC", "TANH", "HARD_SWISH", "GELU")


def _extent(edit: TfliteEdit, operator: Any) -> tuple[tuple[int, int], ...]:
    """(dilated kernel size, stride) along height and width."""
    options = operator.builtinOptions
    if edit.code(operator) in _POOLS:
        return (options.filterHeight, options.strideH), (options.filterWidth, options.strideW)
    height, width = edit.shape(operator.inputs[1])[1:3]
    dilated = (height - 1) * options.dilationHFactor + 1, (width - 1) * options.dilationWFactor + 1
    return (dilated[0], options.strideH), (dilated[1], options.strideW)


def _same_pads(edit: TfliteEdit, operator: Any) -> list[tuple[int, int]]:
    """Padding before and after along height and width, where it is SAME."""
    sizes = edit.shape(operator.inputs[0])[1:3]
    pads = []
    for size, (kernel, stride) in zip(sizes, _extent(edit, operator), strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _pad_before(edit: TfliteEdit, operator: Any, pads: Sequence[tuple[int, int]], value: float | None = None) -> None:
    """Writes the padding out in front of a window, which becomes VALID."""
    data = int(operator.inputs[0])
    batch, height, width, channels = edit.shape(data)
    shape = (batch, height + sum(pads[0]), width + sum(pads[1]), channels)
    inputs = [data, edit.add_constant(np.array([(0, 0), *pads, (0, 0)], np.int32))]
    if value is not None:
        inputs.append(edit.add_constant(np.array([value], np.float32)))
    padded = edit.insert(operator, "PAD" if value is None else "PADV2", inputs, shape)
    operator.inputs = [padded, *operator.inputs[1:]]
    operator.builtinOptions.padding = _VALID


def _shifted_window(*, strided: bool) -> TfliteFault:
    """One cell of padding moves to the other side: of SAME, or of a PAD in front."""

    def plant(edit: TfliteEdit, rng: random.Random) -> str:
        places: list[Callable[[], str]] = []
        for operator in edit.operators(*_CONVOLUTIONS):
            extent = _extent(edit, operator)
            if operator.builtinOptions.padding == _SAME:
                for axis, ((_, stride), pads) in enumerate(zip(extent, _same_pads(edit, operator), strict=True)):
                    if (stride > 1) == strided and sum(pads) > 0:
                        places.append(lambda operator=operator, axis=axis: _shift_same(edit, operator, axis))
            before = edit.producer(operator.inputs[0])
            if before is not None and edit.code(before) == "PAD" and (extent[0][1] > 1) == strided:
                places.append(lambda before=before: _shift_pad(edit, before, rng))
        return drawn(rng, places)()

    return plant


def _shift_same(edit: TfliteEdit, operator: Any, axis: int) -> str:
    pads = _same_pads(edit, operator)
    begin, end = pads[axis]
    pads[axis] = (begin + 1, end - 1) if end > 0 else (begin - 1, end + 1)
    _pad_before(edit, operator, pads)
    return edit.name(operator)


def _shift_pad(edit: TfliteEdit, operator: Any, rng: random.Random) -> str:
    constant = edit.stored(operator.inputs[1])
    if constant is None:
        raise NoPlaceError
    pads = constant.values.copy()
    axis = drawn(rng, [axis for axis in range(len(pads)) if pads[axis].sum() > 0])
    pads[axis] += (1, -1) if pads[axis][1] > 0 else (-1, 1)
    operator.inputs = [operator.inputs[0], edit.add_constant(pads.astype(np.int32))]
    return edit.name(operator)


def _padded_with(value: float | None) -> TfliteFault:
    """SAME's zeros become ones, or the mirrored image."""

    def plant(edit: TfliteEdit, rng: random.Random) -> str:
        places = []
        for operator in edit.operators(*_CONVOLUTIONS):
            floating = edit.dtype(operator.inputs[0]).kind == "f"
            if operator.builtinOptions.padding == _SAME and floating and sum(map(sum, _same_pads(edit, operator))):
                places.append(operator)
        operator = drawn(rng, places)
        pads = _same_pads(edit, operator)
        _pad_before(edit, operator, pads, value)
        if value is None:
            before = edit.producer(operator.inputs[0])
            options = schema.MirrorPadOptionsT()
            options.mode = schema.MirrorPadMode.SYMMETRIC
            edit.set_code(before, "MIRROR_PAD")
            before.builtinOptions, before.builtinOptionsType = options, schema.BuiltinOptions.MirrorPadOptions
        return edit.name(operator)

    return plant


def _dilation(edit: TfliteEdit, rng: random.Random) -> str:
    places = []
    for operator in edit.operators(*_CONVOLUTIONS):
        options, kernel = operator.builtinOptions, edit.shape(operator.inputs[1])[1:3]
        if options.padding == _SAME and max(kernel) > 1 and options.strideH == options.strideW == 1:
            places.append(operator)
    operator = drawn(rng, places)
    options = operator.builtinOptions
    factor = 1 if options.dilationHFactor > 1 else 2
    options.dilationHFactor = options.dilationWFactor = factor
    if edit.code(operator) == "DEPTHWISE_CONV_2D" and edit.dtype(operator.inputs[0]).kind == "f":
        code = edit.model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, 2)
    return edit.name(operator)


def _option(names: Sequence[str], field: str, choices: Callable[[Any], Sequence[Any]], **where: Any) -> TfliteFault:
    """Another value of an option; ``choices`` are told the old one."""

    def plant(edit: TfliteEdit, rng: random.Random) -> str:
        places = [
            operator
            for operator in edit.operators(*names)
            if hasattr(operator.builtinOptions, field)
            and all(getattr(operator.builtinOptions, key) == value for key, value in where.items())
        ]
        operator = drawn(rng, places)
        setattr(operator.builtinOptions, field, drawn(rng, choices(getattr(operator.builtinOptions, field))))
        return edit.name(operator)

    return plant


def _slopes(old: float) -> list[float]:
    return [value for value in (0.01, 0.1, 0.2) if abs(value - old) > 1e-6]


def _next_slopes(old: float) -> list[float]:
    return [float(np.nextafter(np.float32(old), np.float32(side))) for side in (-1, 1)]


def _prelu(edit: TfliteEdit, rng: random.Random) -> str:
    slopes = [(operator, edit.stored(operator.inputs[1])) for operator in edit.operators("PRELU")]
    operator, constant = drawn(rng, [(operator, slope) for operator, slope in slopes if slope is not None])
    constant.store(rolled(constant.values, rng))
    return edit.name(operator)


def _activation(old: Sequence[int], new: int, *operators: tuple[str, str | None]) -> TfliteFault:
    """A fused activation becomes another, or an operator another one (None leaves it out)."""

    def plant(edit: TfliteEdit, rng: random.Random) -> str:
        fused = [
            operator
            for operator in edit.operators()
            if getattr(operator.builtinOptions, "fusedActivationFunction", None) in old
        ]
        alone = [operator for operator in edit.operators() if edit.code(operator) in dict(operators)]
        operator = drawn(rng, [*fused, *alone])
        if getattr(operator.builtinOptions, "fusedActivationFunction", None) in old:
            operator.builtinOptions.fusedActivationFunction = new
        elif (code := dict(operators)[edit.code(operator)]) is None:
            edit.rewire(operator, int(operator.inputs[0]))
        else:
            edit.set_code(operator, code)
        return edit.name(operator)

    return plant


def _clamp(edit: TfliteEdit, rng: random.Random) -> str:
    bounds = []
    for operator in edit.operators("MINIMUM", "MAXIMUM", "RELU_0_TO_1"):
        for index in operator.inputs:
            constant = edit.stored(index)
            if constant is not None and constant.values.size == 1 and constant.values.item() != 0:
                bounds.append((operator, constant))
    operator, constant = drawn(rng, bounds)
    constant.store(constant.values.astype(np.float64) * 0.98)
    return edit.name(operator)


def _code(old: str, new: str, options: type | None = None) -> TfliteFault:
    """An operator becomes another one."""

    def plant(edit: TfliteEdit, rng: random.Random) -> str:
        operator = drawn(rng, edit.operators(old))
        edit.set_code(operator, new)
        if options is not None:
            operator.builtinOptions = options()
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options.__name__[:-1])
        return edit.name(operator)

    return plant


def _either(*faults: TfliteFault) -> TfliteFault:
    """The first of several that has a place, in a drawn order."""

    def plant(edit: TfliteEdit, rng: random.Random) -> str:
        for fault in rng.sample(faults, len(faults)):
            try:
                return fault(edit, rng)
            except NoPlaceError:
                continue
        raise NoPlaceError

    return plant


def _softmax_axis(edit: TfliteEdit, rng: random.Random) -> str:
    places = []
    for operator in edit.operators("SOFTMAX"):
        shape = edit.shape(operator.inputs[0])
        if len(shape) > 1 and shape[-1] == shape[-2]:
            places.append((operator, shape))
    operator, shape = drawn(rng, places)
    order = edit.add_constant(np.array([*range(len(shape) - 2), len(shape) - 1, len(shape) - 2], np.int32))
    operator.inputs = [edit.insert(operator, "TRANSPOSE", [int(operator.inputs[0]), order], shape)]
    for reader in edit.readers(operator.outputs[0]):
        back = edit.insert(reader, "TRANSPOSE", [int(operator.outputs[0]), order], shape)
        reader.inputs = [back if index == operator.outputs[0] else index for index in reader.inputs]
    return edit.name(operator)


def _pads_counted(edit: TfliteEdit, rng: random.Random) -> str:
    """An average over the window's cells within the image becomes one that counts zeros around it."""
    pools = edit.operators("AVERAGE_POOL_2D")
    same = [pool for pool in pools if pool.builtinOptions.padding == _SAME and sum(map(sum, _same_pads(edit, pool)))]
    pool = drawn(rng, same)
    _pad_before(edit, pool, _same_pads(edit, pool))
    return edit.name(pool)


_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")


def _resize_convention(edit: TfliteEdit, rng: random.Random) -> str:
    operator = drawn(rng, edit.operators(*_RESIZES))
    options = operator.builtinOptions
    now = bool(options.alignCorners), bool(options.halfPixelCenters)
    other = drawn(rng, [pair for pair in ((False, False), (True, False), (False, True)) if pair != now])
    options.alignCorners, options.halfPixelCenters = other
    code = edit.model.operatorCodes[operator.opcodeIndex]
    code.version = max(code.version, 3)
    return edit.name(operator)


def _resize_kind(edit: TfliteEdit, rng: random.Random) -> str:
    operator = drawn(rng, edit.operators(*_RESIZES))
    linear = edit.code(operator) == _RESIZES[0]
    options = (schema.ResizeNearestNeighborOptionsT if linear else schema.ResizeBilinearOptionsT)()
    for field in ("alignCorners", "halfPixelCenters"):
        setattr(options, field, bool(getattr(operator.builtinOptions, field)))
    edit.set_code(operator, _RESIZES[linear])
    operator.builtinOptions = options
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    return edit.name(operator)


TFLITE_FAULTS: dict[str, TfliteFault] = {
    "padding-shifted": _shifted_window(strided=False),
    "stride-phase": _shifted_window(strided=True),
    "padding-of-edges": _padded_with(None),
    "padding-of-ones": _padded_with(1.0),
    "dilation": _dilation,
    "slope": _option(("LEAKY_RELU",), "alpha", _slopes),
    "slope-ulp": _option(("LEAKY_RELU",), "alpha", _next_slopes),
    "prelu-permuted": _prelu,
    "activation-dropped": _activation((_RELU, _RELU6), _NONE, *((name, None) for name in _ACTIVATIONS)),
    "relu-to-relu6": _activation((_RELU,), _RELU6, ("RELU", "RELU6")),
    "relu6-to-relu": _activation((_RELU6,), _RELU, ("RELU6", "RELU")),
    "relu-added": _activation((_NONE,), _RELU),
    "clamp": _either(_clamp, _activation((_RELU6,), schema.ActivationFunctionType.RELU_N1_TO_1)),
    "gelu": _option(("GELU",), "approximate", lambda old: [not old]),
    "sigmoid-tanh": _either(_code("LOGISTIC", "TANH"), _code("TANH", "LOGISTIC")),
    "softmax-axis": _softmax_axis,
    "softmax-sharper": _option(("SOFTMAX",), "beta", lambda old: [old * 1.01]),
    "pads-counted": _pads_counted,
    "pool-exchanged": _either(_code("MAX_POOL_2D", "AVERAGE_POOL_2D"), _code("AVERAGE_POOL_2D", "MAX_POOL_2D")),
    "mean-to-max": _code("MEAN", "REDUCE_MAX"),
    "resize-convention": _resize_convention,
    "resize-kind": _resize_kind,
    **WIRING_FAULTS,
}
