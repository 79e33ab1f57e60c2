"""Whether a device computed what torch computes: pure functions over `core.Run`.

To judge: `compare` gives one row per output, `held_to_all` sees to it that nothing asked for goes unjudged, `verdict`
sums rows up, `used_share` judges a row of an approximation again by what it says of itself.
To measure: `metrics` (distance), `check` (dtype, shape, NaN and infinities), `REL_FLOOR_OF_RMS`.
To keep: `Golden` with `golden_bytes` and `load_golden`, samples with their float64 reference as one file.
`Integers`: what a quantized graph says exactly, which is a second reference. `layer_steps`: each layer against it,
given the operands that a runtime has; `judge_layers`, `unjudged_layers`: what that makes of a row.
To explain: `explained_by_fusion`, for rows of which `asks_of_all` is true.
"""

from __future__ import annotations

from edgeconv.parity._check import check
from edgeconv.parity._compare import compare, verdict
from edgeconv.parity._fidelity import Integers, held_to_all, used_share
from edgeconv.parity._fused import asks_of_all, explained_by_fusion
from edgeconv.parity._layers import judge_layers, layer_steps, unjudged_layers
from edgeconv.parity._metrics import REL_FLOOR_OF_RMS, metrics
from edgeconv.parity.golden import Golden, golden_bytes, load_golden

__all__ = [
    "REL_FLOOR_OF_RMS",
    "Golden",
    "Integers",
    "asks_of_all",
    "check",
    "compare",
    "explained_by_fusion",
    "golden_bytes",
    "held_to_all",
    "judge_layers",
    "layer_steps",
    "load_golden",
    "metrics",
    "unjudged_layers",
    "used_share",
    "verdict",
]
