"""graph -> the bytes of an ``.onnx`` file.

Public names: `to_onnx`, and `OPSETS`, the versions that it writes.
"""

from __future__ import annotations

from edgeconv.core.defaults import OPSETS
from edgeconv.emit.onnx._write import to_onnx

__all__ = ["OPSETS", "to_onnx"]
