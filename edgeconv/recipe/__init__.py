"""Recipes: a TOML file that says what to export and how it is judged.

``load_recipe`` reads and checks the file without importing torch, ``onnx_recipe`` makes one for an ``.onnx`` file that
has none; ``build_module`` makes its module and ``parity_samples`` its inputs. Every mistake in the file, or in a file
that it names, is a ``RecipeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeconv.recipe.load import load_recipe, onnx_recipe
from edgeconv.recipe.samples import parity_samples
from edgeconv.recipe.schema import Recipe

if TYPE_CHECKING:
    from edgeconv.recipe.modules import build_module

__all__ = ["Recipe", "build_module", "load_recipe", "onnx_recipe", "parity_samples"]


def __getattr__(name: str) -> Any:
    """Imports ``build_module`` on first use: it needs torch (2 s), which reading a recipe does not."""
    if name == "build_module":
        from edgeconv.recipe.modules import build_module

        return build_module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
