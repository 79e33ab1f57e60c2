"""Where inputs come from: seeded noise, image files with their preprocessing, rows of arrays."""

from __future__ import annotations

import json
from typing import Annotated, Self

from pydantic import Field, model_validator

from edgeconv.recipe.fields import (
    ClassIndex,
    Count,
    FileName,
    PerChannel,
    Positive,
    PositivePerChannel,
    Seed,
    Sides,
    VariantNames,
    one_of,
    refusal,
    written_as,
)
from edgeconv.recipe.section import Section

# Pillow's filters (`Image.Resampling`), and channels by colour.
INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
COLOURS = {"rgb": 3, "bgr": 3, "gray": 1}


class RandomInputs(Section):
    """Seeded noise: standard normal times ``scale``; integers that their readers take, booleans fair.

    A ``scale`` beyond 2 also bounds integers that no reader bounds: from 0 to below it (`edgeconv.recipe.samples`).
    ``variants`` are those that are judged on it; all by default.
    """

    seed: Seed = 0
    scale: Positive = 1.0
    count: Count = 1
    variants: VariantNames = ()


class ImageInputs(Section):
    """Image files that pass through the recipe's preprocessing; ``labels`` are class indices, one per file.

    ``variants`` are those that are judged on them; all by default.
    """

    files: Annotated[tuple[FileName, ...], Field(min_length=1)]
    labels: tuple[ClassIndex, ...] | None = None
    variants: VariantNames = ()

    @model_validator(mode="after")
    def _as_many_labels(self) -> Self:
        if self.labels is not None and len(self.labels) != len(self.files):
            raise refusal(f"{len(self.labels)} labels for {len(self.files)} files", "give one label per file")
        return self


class ArrayInputs(Section):
    """Rows of a ``.npy`` or ``.npz`` file, as the module takes them (no preprocessing).

    Attributes:
        file: its name.
        key: the array of an ``.npz``; by default each input takes the array of its own name.
        labels: the array of the same ``.npz`` that holds a class index per row.
        scale: the magnitude that float error grows with, as in `edgeconv.core.Sample`.
        variants: those that are judged on them; all by default.
    """

    file: Annotated[str, written_as(r".+\.np[yz]", "name a .npy or .npz file", most=4096)]
    key: str | None = None
    labels: str | None = None
    scale: Positive = 1.0
    variants: VariantNames = ()

    @model_validator(mode="after")
    def _keys_need_npz(self) -> Self:
        if self.file.endswith(".npy") and (self.key or self.labels):
            raise refusal("a .npy file has no keys", "save an .npz with named arrays")
        return self


class Preprocessing(Section):
    """An image file becomes the input: ``(pixel * rescale - mean) / std``, pixels 0..255, per channel of ``colour``.

    Attributes:
        resize: an int is the length of the shorter side, a pair (height, width) is exact.
        center_crop: an int is both sides, or a pair (height, width).
        interpolation: Pillow's filter for ``resize``.
        colour: ``rgb``, ``bgr`` or ``gray`` (ITU-R 601 luma).
        rescale: factor before mean and std.
        mean: one number, or one per channel.
        std: one number, or one per channel.
    """

    resize: Sides | None = None
    center_crop: Sides | None = None
    interpolation: Annotated[str, one_of(INTERPOLATIONS, "interpolation")] = "bilinear"
    colour: Annotated[str, one_of(COLOURS, "colour")] = "rgb"
    rescale: Positive = 1 / 255
    mean: PerChannel = 0.0
    std: PositivePerChannel = 1.0

    @model_validator(mode="after")
    def _as_many_as_channels(self) -> Self:
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != COLOURS[self.colour]:
                what = f"{name} has {len(value)} values and colour {self.colour!r} {COLOURS[self.colour]} channels"
                raise refusal(what, "give one value per channel, or a single number")
        return self

    @property
    def pixel_range(self) -> tuple[float, float] | None:
        """What pixels of 0 and 255 become; None where that differs by channel."""
        means, deviations = ({*value} if isinstance(value, tuple) else {value} for value in (self.mean, self.std))
        if len(means) > 1 or len(deviations) > 1:
            return None
        (mean,), (deviation,) = means, deviations
        return -mean / deviation, (255 * self.rescale - mean) / deviation

    def to_json(self) -> str:
        """One line of JSON with sorted keys, for the artifacts' metadata."""
        return json.dumps(self.model_dump(), sort_keys=True)
