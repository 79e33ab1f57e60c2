"""Whether a device computed what torch computes: pure functions over `core.Run`.

To judge: `compare` gives one row per output, `held_to_all` fails rows where a threshold could not be judged at all,
`verdict` sums rows up, `used_share` judges a row of an approximation again by its own numbers.
To measure: `metrics` (distance), `check` (dtype, shape, NaN and infinities), `REL_FLOOR_OF_RMS`.
To keep: `Golden` with `golden_bytes` and `load_golden`, samples with their float64 reference as one file.
To know of the source: `float32_errors`, also on `shaken` samples; `OwnScale` is what outputs are held to besides;
`FLOAT32_TIMES`: how much further off than that float32 a runtime may be.
`Integers`: the exact outputs of a quantized graph, a second reference. `layer_steps`: each layer's distance from it in
steps, given the runtime's own operands; `allowance` of a `KernelSite`: the steps that a kernel is specified to be off;
`judge_layers`, `unjudged_layers`: a row's verdict with its layers.
To explain: `explained_by_fusion`, for rows of which `asks_of_all` is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.parity._check import check
    from edgeconv.parity._compare import compare, verdict
    from edgeconv.parity._fidelity import Integers, held_to_all, used_share
    from edgeconv.parity._fused import asks_of_all, explained_by_fusion
    from edgeconv.parity._groups import FLOAT32_TIMES, OwnScale, float32_errors, shaken
    from edgeconv.parity._kernels import KernelSite, allowance
    from edgeconv.parity._layers import judge_layers, layer_steps, unjudged_layers
    from edgeconv.parity._metrics import REL_FLOOR_OF_RMS, metrics
    from edgeconv.parity.golden import Golden, golden_bytes, load_golden

__all__ = [
    "FLOAT32_TIMES",
    "REL_FLOOR_OF_RMS",
    "Golden",
    "Integers",
    "KernelSite",
    "OwnScale",
    "allowance",
    "asks_of_all",
    "check",
    "compare",
    "explained_by_fusion",
    "float32_errors",
    "golden_bytes",
    "held_to_all",
    "judge_layers",
    "layer_steps",
    "load_golden",
    "metrics",
    "shaken",
    "unjudged_layers",
    "used_share",
    "verdict",
]

# Each comes on first use: an export without proof compares nothing.
_PLACES = {
    "_check": ("check",),
    "_compare": ("compare", "verdict"),
    "_fidelity": ("Integers", "held_to_all", "used_share"),
    "_fused": ("asks_of_all", "explained_by_fusion"),
    "_groups": ("FLOAT32_TIMES", "OwnScale", "float32_errors", "shaken"),
    "_kernels": ("KernelSite", "allowance"),
    "_layers": ("judge_layers", "layer_steps", "unjudged_layers"),
    "_metrics": ("REL_FLOOR_OF_RMS", "metrics"),
    "golden": ("Golden", "golden_bytes", "load_golden"),
}
__getattr__ = on_first_use(__name__, _PLACES)
