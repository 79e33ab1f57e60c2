"""What versions of the default ONNX domain name differently."""

from __future__ import annotations

GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}
"""GridSample's modes from opset 20 on, which are named like Resize's, to their names before, which are torch's."""
