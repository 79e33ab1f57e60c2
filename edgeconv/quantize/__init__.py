"""float graph -> the graph with QuantizeLinear and DequantizeLinear nodes: int8, int16x8, or int8 weights.

Calibration
    `calibrate`: what range every activation has on the user's data. `Calibration`, `OBSERVERS`.
The plan
    `make_plan`: which numbers quantise which tensor, as `Options` say. `Plan`: a frozen value, JSON and back.
    `apply`: the plan as nodes in a new graph.
"""

from __future__ import annotations

from edgeconv.quantize._apply import apply
from edgeconv.quantize._calibrate import Calibration, calibrate
from edgeconv.quantize._make_plan import Options, make_plan
from edgeconv.quantize._observers import OBSERVERS
from edgeconv.quantize._plan import SCHEMES, Plan, TensorParameters, WeightParameters

__all__ = [
    # Calibration
    "calibrate",
    "Calibration",
    "OBSERVERS",
    # The plan
    "make_plan",
    "apply",
    "Options",
    "Plan",
    "SCHEMES",
    "TensorParameters",
    "WeightParameters",
]
