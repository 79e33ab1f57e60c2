"""The variants of a model that can be asked for, and what each must reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from edgeconv.core import Fidelity
from edgeconv.recipe.fields import one_of, unique

DEFAULT_FIDELITY: Mapping[str, Fidelity] = {
    "fp16": Fidelity(sqnr_db=40.0),
    "int8": Fidelity(sqnr_db=20.0),
    "int8-weights": Fidelity(sqnr_db=20.0),
    "int16x8": Fidelity(sqnr_db=30.0),
}
"""The approximations, and what is asked of each where the recipe asks for nothing: less is a broken file."""

VARIANTS = ("fp32", *DEFAULT_FIDELITY)

VariantName = Annotated[str, one_of(VARIANTS, "variant")]
VariantNames = Annotated[tuple[VariantName, ...], AfterValidator(unique)]
