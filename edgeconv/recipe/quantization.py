"""What a recipe says of approximations: how they are quantized, on which data, and their acceptance thresholds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from edgeconv.core import Fidelity
from edgeconv.core.quantization_options import (
    CHOICES,
    LEAST,
    LEAST_PERCENTILE,
    MOST,
    OBSERVERS,
    Override,
    QuantizationOptions,
)
from edgeconv.errors import QuantizeError
from edgeconv.recipe.fields import CallableName, FileName, Finite, NotNegative, Seed, one_of, refusal, unique
from edgeconv.recipe.inputs import ArrayInputs, RandomInputs
from edgeconv.recipe.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CalibrationImages(Section):
    """Photographs that pass through the recipe's preprocessing, and random parts of them.

    Attributes:
        files: image files, as in ``parity.images``.
        folder: all images of this folder, beside or instead of ``files``.
        crops: random parts of each, resized to the input; 0 takes each image as parity does, and nothing else.
        seed: of the parts.
    """

    files: tuple[FileName, ...] = ()
    folder: FileName | None = None
    crops: Annotated[int, Field(ge=0, le=10_000)] = 0
    seed: Seed = 0

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.files and self.folder is None:
            raise refusal("there are neither files nor a folder", "name one")
        return self


_OPTIONS = [option for option in dataclasses.fields(QuantizationOptions) if option.name != "override"]
"""The options that are one key each; `override` is a list of tables."""


def _key(option: dataclasses.Field[Any]) -> tuple[Any, Any]:
    """What a recipe may write for an option, and its default."""
    rule, default = option.metadata, option.default
    if CHOICES in rule:
        return Annotated[str, one_of(rule[CHOICES], option.name)], default
    if MOST in rule and isinstance(default, float):
        return Annotated[float, Field(ge=rule[LEAST], le=rule[MOST])], default
    if MOST in rule:
        return Annotated[int, Field(ge=rule[LEAST], le=rule[MOST])], default
    return (bool if isinstance(default, bool) else Annotated[tuple[str, ...], AfterValidator(unique)]), default


# A pydantic model with a field per option, so that keys and defaults are stated once, in `QuantizationOptions`.
if TYPE_CHECKING:
    _Options = Section
else:
    _Options = create_model(
        "_Options",
        __base__=Section,
        **{option.name: _key(option) for option in _OPTIONS},
    )


class OverrideSection(Section):
    """What is chosen otherwise for some operators, as `edgeconv.core.quantization_options.Override`."""

    operators: Annotated[tuple[str, ...], AfterValidator(unique), Field(min_length=1)]
    observer: Annotated[str, one_of(OBSERVERS, "observer")] | None = None
    percentile: Annotated[float, Field(ge=LEAST_PERCENTILE, le=100.0)] | None = None
    range: tuple[Finite, Finite] | None = None
    per_channel: bool | None = None


class Quantize(_Options):
    """How variants of integers are made: the options of `QuantizationOptions`, and the data to choose numbers by.

    Attributes:
        override: see `OverrideSection`.
        plan: a plan as an earlier export wrote it, perhaps edited, instead of calibration.
        images: see `CalibrationImages`.
        arrays: rows of a file, as in ``parity.arrays``.
        random: seeded noise, as in ``parity.random``; the only thing there is where the recipe names no data.
        generator: ``"package.module:callable"``, called without arguments; yields arrays, or mappings from input names.
    """

    override: tuple[OverrideSection, ...] = ()
    plan: FileName | None = None
    images: tuple[CalibrationImages, ...] = ()
    arrays: tuple[ArrayInputs, ...] = ()
    random: tuple[RandomInputs, ...] = ()
    generator: CallableName | None = None

    @property
    def options(self) -> QuantizationOptions:
        """What the table says of them."""
        stated = {option.name: getattr(self, option.name) for option in _OPTIONS}
        overrides = tuple(Override(**table.model_dump()) for table in self.override)
        return QuantizationOptions(**stated, override=overrides)

    @model_validator(mode="after")
    def _heeded(self) -> Self:
        try:
            self.options  # noqa: B018  (it refuses what does not go together)
        except QuantizeError as error:
            raise refusal(f"{error.where}: {error.what}", error.hint) from error
        return self


class FidelitySection(Section):
    """The acceptance thresholds of an approximation on all parity inputs together, as `edgeconv.core.Fidelity`."""

    sqnr_db: float | None = None
    cosine: Share | None = None
    agreement: Share | None = None
    accuracy_drop: NotNegative | None = None
    lsb: Annotated[int, Field(ge=0, le=255)] | None = None
    layer_lsb: Annotated[int, Field(ge=0, le=255)] = 1
    lost_parts: Annotated[int, Field(ge=0)] = 0
    index_agreement: Share | None = None

    def over(self, default: Fidelity) -> Fidelity:
        """The bound: what is written here, and `default` for the rest."""
        written: dict[str, Any] = self.model_dump(exclude_unset=True)
        return Fidelity(**{**vars(default), **written})
