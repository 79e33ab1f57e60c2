"""Allowances in steps (LSB) for TFLite's integer kernels that are specified to be off by more than one, with the cause.

Every other kernel rounds once, and is within one step. Measured on the reference kernels of LiteRT 2.3, over all 65536
integers or 4 draws of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.resize_kernels import MOST_STEPS, integer_steps, linear_weights

_EXACT = 0, ""


@dataclass(frozen=True)
class KernelSite:
    """An operator, the scales of its operand and its result, and the element type of these integers."""

    node: ir.Node
    source: float
    result: float
    dtype: str


def allowance(site: KernelSite) -> tuple[int, str]:
    """The steps that an operator's kernel may be off, and why; (0, "") where it rounds once."""
    rule = _RULES.get((site.node.op_type, site.dtype)) or _RULES.get((site.node.op_type, ""))
    return _EXACT if rule is None else rule(site)


def _tanh(site: KernelSite) -> tuple[int, str]:
    # The table's steps are 0.0417: straight lines are off by 0.0417² / 8 · 0.0962 · 2 = 1.4 of 32768 parts, its entries
    # and the argument, which is rounded first, by the rest. Measured: 3 for arguments to ±1 and ±4, 2 to ±8 and ±16.
    return 3, "the int16 kernel draws straight lines between 256 entries of a table"


def _softmax(site: KernelSite) -> tuple[int, str]:
    # Measured 2, 14 and 195 for 2, 8 and 100 classes one of which has all; int8, whose kernel is another, is exact.
    shape = site.node.outputs[0].shape
    classes = shape[site.node.attributes.get_int("axis", -1)] if shape is not None else 2
    most = 2 * (classes - 1) if isinstance(classes, int) else 2
    return max(
        2, most
    ), "the int16 kernel counts classes that are more than 10 below the greatest as e^-10: 2 steps each"


def _exp(site: KernelSite) -> tuple[int, str]:
    # With arguments to ±r a line is off by r² / 32 steps of the result, and the last entry lies one integer off: r
    # steps. An entry, what moves it to the middle of its line's error, the line and the result are rounded: half a step
    # each. Measured 2 for r of 0.05 to 1.5, and 3, 5, 9 and 23 for 2, 4, 8 and 16.
    r = 32768 * site.source
    return math.floor(r + r * r / 32 + 2), "the int16 kernel draws straight lines between 512 entries of a table"


def _resize(site: KernelSite) -> tuple[int, str]:
    mode = site.node.attributes.get_string("mode", "nearest")
    if mode == "cubic":
        return 2, "it is a product of matrices for the rows and one for the columns, and each rounds"  # measured 2
    steps = _linear_steps(site) if mode == "linear" else 0.0
    if steps > MOST_STEPS.get(site.dtype, 0.0):
        most = _of_matrices(site) if site.dtype == "int16" else 2
        return most, "it is a product of matrices, whose weights are rounded"
    return (math.floor(steps + 1), "the kernel's places are in 1024ths of an element") if steps >= 1 else _EXACT


def _of_matrices(site: KernelSite) -> int:
    """The steps between one rounding and two products by 16-bit matrices of integers of 16 bits."""
    # Half a step for the product between the two. Each weight is off by half a unit at most, and of what is off that
    # share of the largest integer is added to the result: all of a row's, of both axes.
    weights = [float(np.abs(matrix - _as_int16(matrix)).sum(axis=1).max()) for matrix in _matrices(site)[0]]
    return math.floor(0.5 + 2.0**15 * sum(weights) + 1)


def _as_int16(matrix: Array) -> Array:
    unit = float(np.abs(matrix).max()) / 32767
    return np.asarray(np.round(matrix / unit) * unit)


def _linear_steps(site: KernelSite) -> float:
    """The largest error of the integer RESIZE_BILINEAR kernel, in steps."""
    matrices, modes = _matrices(site)
    return integer_steps(matrices, *modes, site.dtype)


def _matrices(site: KernelSite) -> tuple[list[Array], tuple[bool, bool]]:
    """The (output, input) weights of a linear Resize for each axis; whether it aligns corners, and pixel centers."""
    sizes = [value.shape[2:] if value is not None and value.shape is not None else () for value in _ends(site.node)]
    places = site.node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    modes = places == "align_corners", places not in ("align_corners", "asymmetric")
    pairs = [(a, b) for a, b in zip(*sizes, strict=True) if isinstance(a, int) and isinstance(b, int)]
    return [linear_weights(*pair, *modes) for pair in pairs], modes


def _ends(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    return node.inputs[0], node.outputs[0]


_RULES: Mapping[tuple[str, str], Callable[[KernelSite], tuple[int, str]]] = {
    ("Tanh", "int16"): _tanh,
    ("Softmax", "int16"): _softmax,
    ("Exp", "int16"): _exp,
    ("Resize", ""): _resize,
}
"""By operator and element type, ``""`` for every one."""
