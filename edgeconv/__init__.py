"""edgeconv: PyTorch CNNs (and .onnx files) to verified .onnx and .tflite files for mobile and edge devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import VERSION, on_first_use
from edgeconv.errors import (
    BundleError,
    CaptureError,
    DeviceError,
    EdgeconvError,
    EmitError,
    ParityError,
    QuantizeError,
    RecipeError,
    RewriteError,
)

if TYPE_CHECKING:
    from edgeconv.core import Artifact, Fidelity, Sample, TensorSpec, Tolerance, Verdict
    from edgeconv.core.quantization_options import Override
    from edgeconv.flow.pipeline import ExportResult, export, export_onnx, export_recipe
    from edgeconv.flow.variants import Quantization
    from edgeconv.recipe import Recipe, load_recipe

__version__ = VERSION

__all__ = [
    # Export
    "ExportResult",
    "export",
    "export_onnx",
    "export_recipe",
    "Quantization",
    "Override",
    # Recipes
    "Recipe",
    "load_recipe",
    # What comes out
    "Artifact",
    "Fidelity",
    "Sample",
    "TensorSpec",
    "Tolerance",
    "Verdict",
    # Errors
    "BundleError",
    "CaptureError",
    "DeviceError",
    "EdgeconvError",
    "EmitError",
    "ParityError",
    "QuantizeError",
    "RecipeError",
    "RewriteError",
    "__version__",
]

# Names that need numpy, pydantic or onnx_ir come on first use: `edgeconv --help`, which imports this, waits for none.
_PLACES = {
    "core": ("Artifact", "Fidelity", "Sample", "TensorSpec", "Tolerance", "Verdict"),
    "core.quantization_options": ("Override",),
    "flow.pipeline": ("ExportResult", "export", "export_onnx", "export_recipe"),
    "flow.variants": ("Quantization",),
    "recipe": ("Recipe", "load_recipe"),
}
__getattr__ = on_first_use(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted(__all__)
