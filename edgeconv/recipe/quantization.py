"""What a recipe says of approximations: how they are quantised, on which data, and what is asked of them."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from edgeconv.core import Fidelity
from edgeconv.recipe.fields import MAX_NAME, FileName, NotNegative, Seed, one_of, unique, written_as
from edgeconv.recipe.inputs import ArrayInputs, RandomInputs
from edgeconv.recipe.section import Section

OBSERVERS = ("min-max", "percentile", "mse", "entropy")
ROUNDINGS = ("nearest", "corrected", "feedback", "learned")
IO = ("float32", "int8")
MOST_ITERATIONS = 100_000

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
            raise PydanticCustomError("images", "there are neither files nor a folder", {"hint": "name one"})
        return self


class Quantize(Section):
    """How int8 and int16x8 variants are made; the defaults suit most networks.

    Attributes:
        observer: how a range is chosen from what calibration saw of a tensor.
        per_channel: a scale per output channel of a weight rather than one per weight.
        equalize: evens out the ranges of neighbouring layers before (exact; Nagel et al. 2019, arXiv 1906.04721).
        absorb_biases: then what a rectified channel never falls below moves into the next layer's bias (exact on the
            calibration data; the same, section 4.1.3).
        rounding: of weights: ``nearest``; ``corrected``, with biases that take back the mean error (the same, section
            4.2); ``feedback``, where also later weights make up for earlier ones (Frantar et al. 2023, arXiv
            2210.17323); ``learned`` (AdaRound: Nagel et al. 2020, arXiv 2004.10568).
        iterations: of learned rounding, per layer.
        pair_safe: int8 weights of an ``.onnx`` (and of the ``.tflite`` beside it) with which no sum of two products
            overflows on x86 processors without VNNI.
        relu6_as_relu: writes ReLU6 as ReLU, which changes what the float network computes; the report says how much.
        io: element type of the files' inputs and outputs.
        keep_float: operators to leave in float, by the torch module or value that they make.
        plan: a plan as an earlier export wrote it, perhaps edited, instead of calibration.
        images: see `CalibrationImages`.
        arrays: rows of a file, as in ``parity.arrays``.
        random: seeded noise, as in ``parity.random``; the only thing there is where the recipe names no data.
        generator: ``"package.module:callable"``, called without arguments; yields arrays, or mappings from input names.
    """

    observer: Annotated[str, one_of(OBSERVERS, "observer")] = "mse"
    per_channel: bool = True
    equalize: bool = True
    absorb_biases: bool = False
    rounding: Annotated[str, one_of(ROUNDINGS, "rounding")] = "feedback"
    iterations: Annotated[int, Field(ge=1, le=MOST_ITERATIONS)] = 1000
    pair_safe: bool = True
    relu6_as_relu: bool = False
    io: Annotated[str, one_of(IO, "io")] = "float32"
    keep_float: Annotated[tuple[str, ...], AfterValidator(unique)] = ()
    plan: FileName | None = None
    images: tuple[CalibrationImages, ...] = ()
    arrays: tuple[ArrayInputs, ...] = ()
    random: tuple[RandomInputs, ...] = ()
    generator: Annotated[
        str | None,
        written_as(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", "write package.module:callable", most=2 * MAX_NAME),
    ] = None


class FidelitySection(Section):
    """What is asked of an approximation on all parity inputs together, as `edgeconv.core.Fidelity`."""

    sqnr_db: float | None = None
    cosine: Share | None = None
    agreement: Share | None = None
    accuracy_drop: NotNegative | None = None
    lsb: Annotated[int, Field(ge=0, le=255)] | None = None
    layer_lsb: Annotated[int, Field(ge=0, le=255)] = 1

    def over(self, default: Fidelity) -> Fidelity:
        """The bound: what is written here, and `default` for the rest."""
        written: dict[str, Any] = self.model_dump(exclude_unset=True)
        return Fidelity(**{**vars(default), **written})
