"""Recipes: a TOML file that says what to export and how it is judged.

``load_recipe`` reads and checks the file without importing torch, ``onnx_recipe`` makes one for an ``.onnx`` file that
has none; ``build_module`` makes its module and ``parity_samples`` its inputs. Every mistake in the file, or in a file
that it names, is a ``RecipeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.recipe.load import load_recipe, onnx_recipe
    from edgeconv.recipe.modules import build_module
    from edgeconv.recipe.samples import parity_samples
    from edgeconv.recipe.schema import Recipe

__all__ = ["Recipe", "build_module", "load_recipe", "onnx_recipe", "parity_samples"]

# Each comes on first use: reading a recipe needs pydantic but not torch (2 s), and files are read without either.
__getattr__ = on_first_use(
    __name__,
    {
        "Recipe": "edgeconv.recipe.schema",
        "build_module": "edgeconv.recipe.modules",
        "load_recipe": "edgeconv.recipe.load",
        "onnx_recipe": "edgeconv.recipe.load",
        "parity_samples": "edgeconv.recipe.samples",
    },
)
