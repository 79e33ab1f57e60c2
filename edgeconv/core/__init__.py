"""What every stage needs: the values that pass between stages, and what they are checked, computed and read with.

The values are imported from here, on first use: whoever only asks for the version waits for no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.core.exchanged import (
        DATA_SUFFIX,
        FORMATS,
        NCHW,
        NHWC,
        Array,
        Artifact,
        Comparison,
        Emitted,
        ErrorPicture,
        Fidelity,
        Format,
        GraphSummary,
        IntegerTensor,
        LayerSteps,
        Metrics,
        NodeSummary,
        Parts,
        Run,
        Sample,
        SampleResult,
        TensorSpec,
        Tolerance,
    )
    from edgeconv.core.verdicts import Verdict

__all__ = [
    "Array",
    "Artifact",
    "Comparison",
    "DATA_SUFFIX",
    "Emitted",
    "ErrorPicture",
    "FORMATS",
    "Fidelity",
    "Format",
    "GraphSummary",
    "IntegerTensor",
    "LayerSteps",
    "Metrics",
    "NCHW",
    "NHWC",
    "NodeSummary",
    "Parts",
    "Run",
    "Sample",
    "SampleResult",
    "TensorSpec",
    "Tolerance",
    "Verdict",
]

__getattr__ = on_first_use(
    __name__,
    {name: f"edgeconv.core.{'verdicts' if name == 'Verdict' else 'exchanged'}" for name in __all__},
)
