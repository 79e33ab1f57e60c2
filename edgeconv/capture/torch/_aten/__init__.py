"""ATen operators as ONNX: one file per family, one table for all.

An entry takes the builder and the operator's arguments by the names of its schema (``self`` and ``input`` are called
``x``), appends nodes, and returns the value of torch's result, or one value per result. Arguments that do not change
values (devices, memory formats) are left out. For a form of the arguments that an entry does not handle it raises
`Unsupported`; the official exporter then captures the module. In-place operators use the entry of their functional
form. To add an operator, write such a function in the file of its family and enter it in that file's table.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeconv.capture.torch._aten import (
    activation,
    arithmetic,
    attention,
    comparison,
    contraction,
    convolution,
    indexing,
    linear,
    lookup,
    losses,
    matrices,
    normalization,
    patches,
    pooling,
    quantization,
    recurrent,
    reduction,
    resizing,
    scans,
    scattering,
    shape,
)
from edgeconv.capture.torch._builder import Entry

FAMILIES: Mapping[str, Mapping[str, Entry]] = {
    "convolution": convolution.TABLE,
    "linear": linear.TABLE,
    "contraction": contraction.TABLE,
    "normalization": normalization.TABLE,
    "activation": activation.TABLE,
    "pooling": pooling.TABLE,
    "patches": patches.TABLE,
    "resizing": resizing.TABLE,
    "shape": shape.TABLE,
    "indexing": indexing.TABLE,
    "lookup": lookup.TABLE,
    "losses": losses.TABLE,
    "scattering": scattering.TABLE,
    "scans": scans.TABLE,
    "matrices": matrices.TABLE,
    "arithmetic": arithmetic.TABLE,
    "comparison": comparison.TABLE,
    "reduction": reduction.TABLE,
    "recurrent": recurrent.TABLE,
    "attention": attention.TABLE,
    "quantization": quantization.TABLE,
}
TABLE: Mapping[str, Entry] = {name: entry for family in FAMILIES.values() for name, entry in family.items()}

__all__ = ["FAMILIES", "TABLE"]
