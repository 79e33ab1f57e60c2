"""Places of maxima, the second output of MaxPool: TFLite pools have one output.

What each element of the kernel reads in all windows is one column of a table. The first largest column of a row says
which element of the window it is, and a window's place is known. The padding repeats the elements at the border, which
are in the same window: found there, a maximum is moved to the border. No number is needed that is below all others.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir

from edgeconv.emit.tflite.lower._lowering import refusal
from edgeconv.emit.tflite.lower._windows import Window, windows_of
from edgeconv.errors import ONNX_ONLY
from edgeconv.graph.edit import KEEP_FLOAT, is_taken
from edgeconv.graph.steps import Steps, sizes_of

_REASON = "the places of maxima"


def with_places(model: ir.Model) -> ir.Model:
    """The graph with the places of maxima written out; itself where nobody takes any.

    Raises:
        EmitError: a pool of an open batch.
    """
    if not any(_is_placing(node) for node in model.graph):
        return model
    model = model.clone()
    for node in list(model.graph):
        if _is_placing(node):
            _write_out(model.graph, node)
    return model


def _is_placing(node: ir.Node) -> bool:
    return node.op_type == "MaxPool" and node.domain == "" and len(node.outputs) > 1 and is_taken(node.outputs[1])


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    x, result = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or not x.shape.is_static():
        raise refusal(node, "its batch is open, and its indices, which are used, count over it")
    steps = Steps(graph, node, f"{node.outputs[1].name}/")
    node.metadata_props[KEEP_FLOAT] = f"{_REASON} {node.outputs[1].name!r} are compared in floats"
    sizes = sizes_of(x)
    kernel = list(node.attributes.get_ints("kernel_shape"))
    windows = windows_of(node, kernel, sizes[2:], sizes_of(result)[2:])
    # A dilated window on the padding skips the border's element, so a repeated one would be found where none is read.
    if any(window.dilation > 1 and (window.begin or window.reach) for window in windows):
        hint = f"{ONNX_ONLY}, or pool with a dilation of 1, or without padding"
        raise refusal(node, "its windows have a dilation and padding, and its indices are used", hint)
    table = _read(steps, _framed(steps, x, windows), windows)
    rows = [sizes_of(table)[0]]
    taps = steps.add("within", "ArgMax", [table], rows, {"axis": 1, "keepdims": 0}, ir.DataType.INT64)
    places = _places(
        steps, taps, sizes_of(result), windows, column_major=bool(node.attributes.get_int("storage_order", 0))
    )
    values = _pooled(steps, node) if is_taken(result) else None
    steps.replace({node.outputs[1]: places} | ({} if values is None else {result: values}))


def _pooled(steps: Steps, node: ir.Node) -> ir.Value:
    """The maxima themselves, by a pool of one output."""
    pool = ir.node("MaxPool", [node.inputs[0]], dict(node.attributes))
    steps.insert(pool)
    (value,) = pool.outputs
    steps.name(value, "values")
    value.shape, value.type = node.outputs[0].shape, node.outputs[0].type
    return value


def _framed(steps: Steps, x: ir.Value, windows: list[Window]) -> ir.Value:
    """The input with its padding."""
    before, after = [0, 0, *(window.begin for window in windows)], [0, 0, *(window.reach for window in windows)]
    if not any((*before, *after)):
        return x
    sizes = [size + low + high for size, low, high in zip(sizes_of(x), before, after, strict=True)]
    amounts = steps.constant(np.array([*before, *after], np.int64), "pads")
    return steps.add("framed", "Pad", [x, amounts], sizes, {"mode": "edge"})


def _read(steps: Steps, framed: ir.Value, windows: list[Window]) -> ir.Value:
    """A table of a row per window and a column per element of the kernel, in row-major order."""
    columns = []
    for taps in product(*(range(window.size) for window in windows)):
        part = framed
        for axis, (tap, window) in enumerate(zip(taps, windows, strict=True), start=2):
            part = _every(steps, part, axis, tap * window.dilation, window)
        columns.append(steps.reshape(part, [int(np.prod(sizes_of(part))), 1], "column"))
    return steps.concat(columns, 1, "table") if len(columns) > 1 else columns[0]


def _every(steps: Steps, value: ir.Value, axis: int, start: int, window: Window) -> ir.Value:
    """The elements at ``start`` and each stride after it, one for each window."""
    sizes = sizes_of(value)
    stop = start + (window.count - 1) * window.stride + 1
    sizes[axis] = window.count
    numbers = {"start": start, "stop": stop, "axis": axis, "stride": window.stride}
    bounds = [steps.constant(np.array([number], np.int64), f"tap.{name}") for name, number in numbers.items()]
    return steps.add("tap", "Slice", [value, *bounds], sizes)


def _places(
    steps: Steps, chosen_taps: ir.Value, sizes: list[int], windows: list[Window], *, column_major: bool
) -> ir.Value:
    """Where the element of each window lies that was found there, counted over all planes.

    ONNX counts indices over the whole input, batch and channels included, row by row, or column by column where
    ``storage_order`` says so.
    """
    rank = len(windows)
    units, unit = [0] * rank, 1
    for axis in range(rank) if column_major else reversed(range(rank)):
        units[axis], unit = unit, unit * windows[axis].length
    planes = np.arange(sizes[0] * sizes[1], dtype=np.int64) * unit
    total = steps.constant(planes.reshape(*sizes[:2], *[1] * rank), "planes")
    taps = np.indices([window.size for window in windows], dtype=np.int64).reshape(rank, -1)
    for axis, window in enumerate(windows):
        inside = steps.constant(taps[axis] * window.dilation, "taps")
        place = steps.add("tap", "Gather", [inside, chosen_taps], sizes_of(chosen_taps), dtype=ir.DataType.INT64)
        place = steps.reshape(place, sizes, "tap_of_windows")
        start = np.arange(window.count, dtype=np.int64) * window.stride - window.begin
        starts = steps.constant(start.reshape([-1 if at == 2 + axis else 1 for at in range(2 + rank)]), "starts")
        place = steps.add("place", "Add", [place, starts], sizes)
        for operator, border, is_crossed in (
            ("Max", 0, window.begin > 0), ("Min", window.length - 1, window.reach > 0),
        ):  # fmt: skip
            if is_crossed:
                place = steps.add("inside", operator, [place, steps.constant(np.array(border), "border")], sizes)
        if units[axis] != 1:
            place = steps.add("row", "Mul", [place, steps.constant(np.array(units[axis]), "unit")], sizes)
        total = steps.add("places", "Add", [place, total], sizes)
    return total
