"""What every stage needs: the values that pass between stages, and what they are checked, computed and read with.

The values are imported from here, on first use: whoever only asks for the version waits for no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.core.artifacts import (
        DATA_SUFFIX,
        DTYPES,
        FORMATS,
        NCHW,
        NHWC,
        Artifact,
        Emitted,
        Format,
        GraphSummary,
        IntegerTensor,
        NodeSummary,
        TensorSpec,
    )
    from edgeconv.core.exchanged import (
        Comparison,
        ErrorPicture,
        Fidelity,
        LayerSteps,
        Metrics,
        Parts,
        Run,
        Sample,
        SampleResult,
        Tolerance,
    )
    from edgeconv.core.precision import Array
    from edgeconv.core.verdicts import Verdict

__all__ = [
    "Array",
    "Artifact",
    "Comparison",
    "DATA_SUFFIX",
    "DTYPES",
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

_PLACES = {
    "artifacts": (
        "Artifact",
        "DATA_SUFFIX",
        "DTYPES",
        "Emitted",
        "FORMATS",
        "Format",
        "GraphSummary",
        "IntegerTensor",
        "NCHW",
        "NHWC",
        "NodeSummary",
        "TensorSpec",
    ),
    "exchanged": (
        "Comparison",
        "ErrorPicture",
        "Fidelity",
        "LayerSteps",
        "Metrics",
        "Parts",
        "Run",
        "Sample",
        "SampleResult",
        "Tolerance",
    ),
    "precision": ("Array",),
    "verdicts": ("Verdict",),
}
__getattr__ = on_first_use(__name__, _PLACES)
