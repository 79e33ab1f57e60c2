"""Names of variants, as a recipe gives them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from edgeconv.core.variants import VARIANTS
from edgeconv.recipe.fields import one_of, unique

VariantName = Annotated[str, one_of(VARIANTS, "variant")]
VariantNames = Annotated[tuple[VariantName, ...], AfterValidator(unique)]
