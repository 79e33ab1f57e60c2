"""Recipes: a TOML file that says what to export and how it is judged.

To read: ``load_recipe`` reads and checks the file without importing torch, ``onnx_recipe`` makes one for an ``.onnx``
file that has none; ``with_inputs`` and ``with_fixed`` state more of it.
What it names, as finished values: ``build_module`` or ``onnx_path``, ``parity_samples``, ``calibration_batches``,
``plan_text``. What may stand in it: ``FORMATS``, ``LAYOUTS``.
Every mistake in the file, or in a file that it names, is a ``RecipeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.core import FORMATS
    from edgeconv.recipe.calibration import calibration_batches, checked_batches, names_data
    from edgeconv.recipe.finished import in_float32, onnx_path, own_imports, plan_text, seeds_of
    from edgeconv.recipe.load import load_recipe, onnx_recipe, with_fixed, with_inputs
    from edgeconv.recipe.modules import build_module
    from edgeconv.recipe.samples import parity_samples
    from edgeconv.recipe.schema import LAYOUTS, Recipe
    from edgeconv.recipe.wording import place_of

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "Recipe",
    "build_module",
    "calibration_batches",
    "checked_batches",
    "in_float32",
    "load_recipe",
    "names_data",
    "onnx_path",
    "onnx_recipe",
    "own_imports",
    "parity_samples",
    "place_of",
    "plan_text",
    "seeds_of",
    "with_fixed",
    "with_inputs",
]

# Each comes on first use: reading a recipe needs pydantic but not torch (2 s), and files are read without either.
_PLACES = {
    "calibration": ("calibration_batches", "checked_batches", "names_data"),
    "finished": ("in_float32", "onnx_path", "own_imports", "plan_text", "seeds_of"),
    "load": ("load_recipe", "onnx_recipe", "with_fixed", "with_inputs"),
    "modules": ("build_module",),
    "samples": ("parity_samples",),
    "schema": ("FORMATS", "LAYOUTS", "Recipe"),
    "wording": ("place_of",),
}
__getattr__ = on_first_use(__name__, _PLACES)
