"""ONNX: elements that are added up or multiplied at stated places, images that are sampled there, and the places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeconv.graph.versions import GRID_MODES
from edgeconv.parity.bounds import _formulas as formulas
from edgeconv.parity.bounds import _sampling as sampling
from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._site import Rule, Site

_FORMS = {"bilinear": sampling.LINEAR, "bicubic": sampling.CUBIC}


def _wide(error: Array, like: Bounded) -> Array:
    return np.broadcast_to(error, like.value.shape)


# Sums and products


def _running_sum(site: Site) -> Bounded:
    """A running sum in order, or by halves: at most all elements of the axis."""
    x = site.x()
    axis = int(site[1].reshape(-1)[0]) % x.value.ndim
    # The node itself, run on magnitudes and on errors, sums these the way it is set to (`exclusive`, `reverse`).
    magnitude = site.again([np.abs(x.value)])
    count, spread = x.value.shape[axis], site.again([np.broadcast_to(x.worst, x.value.shape)])
    worst, likely = x.arithmetic.summed(site.results[0], magnitude, count, spread)
    return x.within(site.results[0], worst + spread, likely + spread)


def _running_product(site: Site) -> Bounded:
    """A running product in order, or by halves: of parts of the same elements."""
    x, adding = site.x(), _like(site, "CumSum")
    count = adding.again([np.ones(x.value.shape)])
    return formulas.product_of(x, site.results[0], count, lambda array: adding.again([array]))


def _columns(site: Site) -> Bounded:
    """Col2Im: each result adds up the elements of all windows that reach it."""
    x = site.x()
    magnitude, spread, count = (
        site.again([array]) for array in (np.abs(x.value), _wide(x.worst, x), np.ones(x.value.shape))
    )
    return formulas.added_up(site.results[0], magnitude, spread, count, x)


def _scattered(site: Site) -> Bounded:
    """Updates that replace, or are compared with, added to, or multiplied by what is there."""
    x, updates, reduction = site.x(), site.x(2), site.text("reduction", "none")

    def merged(site: Site, data: Array, moved: Array) -> Array:
        return site.again([data, site[1], moved])

    errors = _wide(x.worst, x), _wide(updates.worst, updates)
    if reduction == "add":
        sizes = np.abs(x.value), np.abs(updates.value)
        count = merged(site, np.ones(x.value.shape), np.ones(updates.value.shape))
        return formulas.added_up(site.results[0], merged(site, *sizes), merged(site, *errors), count, x)
    if reduction == "mul":
        adding = _like(site, site.node.op_type, reduction="add")
        count = merged(adding, np.ones(x.value.shape), np.ones(updates.value.shape))
        # All factors in a row: those of the data, and behind them the updates.
        value, worst = (
            np.concatenate([first.reshape(-1), second.reshape(-1)])
            for first, second in ((x.value, updates.value), errors)
        )

        def added(array: Array) -> Array:
            data, moved = np.split(array, [x.value.size])
            return merged(adding, data.reshape(x.value.shape), moved.reshape(updates.value.shape))

        return formulas.product_of(Bounded(value, worst, worst, x.arithmetic), site.results[0], count, added)
    # Between what it makes of both ends of the errors.
    ends = [merged(site, x.value + end * errors[0], updates.value + end * errors[1]) for end in (-1, 1)]
    worst = np.maximum(*(np.abs(array - site.results[0]) for array in ends))
    return Bounded(site.results[0], worst, worst, x.arithmetic)


def _like(site: Site, op_type: str, **attributes: str) -> Site:
    """The same operands under another operator, or with other attributes."""
    values = [None if value is None else ir.Value(name=value.name, type=value.type) for value in site.node.inputs]
    stated = [item for name, item in site.node.attributes.items() if name not in attributes]
    own = [ir.AttrString(name, text) for name, text in attributes.items()]
    return replace(site, node=ir.Node("", op_type, values, [*stated, *own]))


def _range(site: Site) -> Bounded:
    return formulas.steps_from(site.x().reshape(), site.x(2).reshape(), site.results[0])


def _rotary(site: Site) -> Bounded:
    """A pair of numbers, turned: two products each, one of them negative; what is not turned rounds nothing."""
    x, cosine, sine = (site.x(index) for index in range(3))
    result = site.results[0]

    def turned(first: Array, second: Array, third: Array) -> Array:
        return np.abs(site.again([first, second, third]))

    nothing = np.zeros(cosine.value.shape), np.zeros(sine.value.shape)
    is_kept = turned(np.ones(x.value.shape), *nothing) > 0
    size = [np.abs(item.value) for item in (x, cosine, sine)]
    wide = [array + _wide(item.worst, item) for array, item in zip(size, (x, cosine, sine), strict=True)]
    magnitude, wider = (
        turned(first, second, nothing[1]) + turned(first, nothing[0], third) for first, second, third in (size, wide)
    )
    pairs = x.sum_of_products(result, magnitude, 2, (wider - magnitude, wider - magnitude))
    kept = turned(_wide(x.worst, x), *nothing)
    worst, likely = (np.where(is_kept, kept, error) for error in (pairs.worst, pairs.likely))
    return Bounded(result, worst, likely, x.arithmetic)


# Images


def _grid_sample(site: Site) -> Bounded:
    image, grid, mode = site.x(), site.x(1), site.text("mode", "bilinear")
    padding, corners = site.text("padding_mode", "zeros"), bool(site.attribute("align_corners", 0))
    sizes = image.value.shape[2:]
    # The last coordinate of a place is that of the first spatial axis.
    axes = [
        sampling.axis_of(grid.move(lambda array, at=at: array[..., -1 - at]), size, padding=padding, corners=corners)  # type: ignore[misc]
        for at, size in enumerate(sizes)
    ]
    mode = GRID_MODES.get(mode, mode)
    if mode == "nearest":
        return sampling.nearest(image, axes, site.results[0])
    return sampling.interpolated(image, axes, _FORMS[mode], site.results[0])


def _affine_grid(site: Site) -> Bounded:
    sizes = [int(number) for number in site[1].reshape(-1)[2:]]
    return sampling.affine_places(site.x(), sizes, site.results[0], corners=bool(site.attribute("align_corners", 0)))


RULES: Mapping[str, Rule] = {
    "AffineGrid": _affine_grid,
    "Col2Im": _columns,
    "CumProd": _running_product,
    "CumSum": _running_sum,
    "GridSample": _grid_sample,
    "Range": _range,
    "RotaryEmbedding": _rotary,
    "ScatterElements": _scattered,
    "ScatterND": _scattered,
}
