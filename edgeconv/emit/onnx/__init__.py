"""graph -> the bytes of an ``.onnx`` file.

Public names: `to_onnx`, and `OPSETS`, the versions that it writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.defaults import OPSETS
from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.emit.onnx._write import to_onnx

__all__ = ["OPSETS", "to_onnx"]

# On first use: an export of .tflite files alone does without.
__getattr__ = on_first_use(__name__, {"_write": ("to_onnx",)})
