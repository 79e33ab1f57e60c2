"""The schema of a recipe: model, inputs and outputs, the files to make, and how they are proven."""

from __future__ import annotations

import math
from pathlib import Path, PurePath
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from edgeconv.core import DTYPES, FORMATS, NCHW, NHWC, Fidelity, Tolerance
from edgeconv.core.defaults import DEVICE_TIMEOUT_S, OPSETS, TOLERANCE
from edgeconv.core.variants import DEFAULT_FIDELITY, MIXED
from edgeconv.recipe.fields import (
    MAX_NAME,
    MAX_RANK,
    CallableName,
    Count,
    Dimension,
    FileName,
    FlagOrNumber,
    NotNegative,
    Positive,
    Seconds,
    Seed,
    TensorName,
    VariantNames,
    one_of,
    refusal,
    shown,
    unique,
    written_as,
)
from edgeconv.recipe.inputs import ArrayInputs, ImageInputs, Preprocessing, RandomInputs
from edgeconv.recipe.quantization import FidelitySection, Quantize
from edgeconv.recipe.section import Section

LAYOUTS = (NHWC, NCHW)

MAX_INPUT_BYTES = 2**30  # of one set of inputs
MAX_NOISE_BYTES = 2**31  # of all seeded inputs together, which are held at once


class Warmup(Section):
    """Draws non-trivial BatchNorm statistics: with identity statistics a wrong fold would go unnoticed.

    BatchNorm weights and biases are drawn anew (uniform in [0.5, 1) and normal of deviation 0.1), then standard
    normal batches pass through the module in training mode and the running statistics become their averages.

    Attributes:
        batches: forward passes.
        batch_size: replaces the first dimension of every input.
        seed: of all that is drawn.
    """

    batches: Count = 2
    batch_size: Annotated[int, Field(ge=2, le=10_000)] = 2
    seed: Seed = 0


class Model(Section):
    """Where the module comes from; or the ``.onnx`` file that is exported in place of one.

    Attributes:
        onnx: an ``.onnx`` file; excludes all else here.
        factory: ``"package.module:callable"``; the callable may be an attribute path (``"pkg:Net.from_name"``).
        args: keyword arguments of the factory; TOML arrays are passed as tuples.
        seed: of torch, numpy and ``random`` while the factory runs.
        weights: ``.safetensors``, or a ``.pt``/``.pth``/``.bin`` checkpoint, loaded with ``weights_only=True``.
        key: where in the checkpoint the state dict is (``"state_dict"``, dotted for deeper ones).
        prefix: what every key of the state dict begins with and the module's own do not (``"module."``).
        fixed: arguments of forward, or inputs of the file, that are these numbers for good and no inputs of what is
            exported: branches on them dissolve.
        warmup: see `Warmup`; excludes ``weights``, whose statistics it would spoil.
    """

    factory: CallableName | None = None
    onnx: FileName | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    seed: Seed = 0
    weights: FileName | None = None
    key: str | None = None
    prefix: str = ""
    fixed: dict[TensorName, FlagOrNumber] = Field(default_factory=dict)
    warmup: Warmup | None = None

    @model_validator(mode="after")
    def _module_or_file(self) -> Self:
        if self.factory is None and self.onnx is None:
            raise refusal("neither factory nor onnx is given", "add factory, or name an .onnx file")
        # All other keys are about a module.
        others = self.model_fields_set - {"onnx", "fixed"}
        if self.onnx is not None and others:
            raise refusal(f"onnx and {'factory' if self.factory else min(others)} exclude each other", "remove one")
        return self

    @model_validator(mode="after")
    def _weights_or_warmup(self) -> Self:
        if self.weights and self.warmup:
            raise refusal("weights and warmup exclude each other", "trained weights need no warm-up")
        if not self.weights and (self.key or self.prefix):
            raise refusal("key and prefix need weights", "name the weights file")
        return self


class Input(Section):
    """One argument of the module.

    Attributes:
        name: its name in every artifact.
        shape: in torch's layout (N, C, H, W); a str in front is a batch that stays open in the files.
        dtype: numpy's name of its element type.
    """

    name: TensorName
    shape: Annotated[tuple[Dimension, ...], Field(max_length=MAX_RANK)]
    dtype: Annotated[str, one_of(DTYPES, "dtype")] = "float32"

    @property
    def batch(self) -> str | None:
        """The name of the open batch; None where it is fixed."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], str) else None

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape with 1 for an open batch."""
        return tuple(1 if isinstance(dim, str) else dim for dim in self.shape)

    @property
    def size_bytes(self) -> int:
        """Size of one array of this shape and dtype."""
        return math.prod(self.static_shape) * np.dtype(self.dtype).itemsize


class Outputs(Section):
    """The names of the module's results, in their order; empty: keys of a dict, or ``output``, ``output_1``, …"""

    names: Annotated[tuple[TensorName, ...], AfterValidator(unique)] = ()


class Export(Section):
    """Which files are made.

    Attributes:
        formats: of ``onnx``, ``tflite``.
        variants: of `edgeconv.core.variants.VARIANTS`; ``int16x8`` is TFLite only.
        tflite_layouts: of ``nhwc``, ``nchw``: one file each.
        opset: of the ONNX file.
        c_array: whether each TFLite file is written as C source, too, with the values of a parity input.
    """

    formats: Annotated[
        tuple[Annotated[str, one_of(FORMATS, "format")], ...], Field(min_length=1), AfterValidator(unique)
    ] = FORMATS
    variants: Annotated[VariantNames, Field(min_length=1)] = ("fp32",)
    tflite_layouts: Annotated[
        tuple[Annotated[str, one_of(LAYOUTS, "layout")], ...], Field(min_length=1), AfterValidator(unique)
    ] = (NHWC,)
    opset: Annotated[int, Field(ge=OPSETS[0], le=OPSETS[-1])] = 18
    c_array: bool = False


class ToleranceSection(Section):
    """The bound of a comparison, as in `edgeconv.core.Tolerance`."""

    atol: NotNegative = TOLERANCE
    rtol: NotNegative = TOLERANCE
    max_abs: Positive | None = None


class Parity(Section):
    """How the artifacts are judged; without any inputs, on one sample of standard normal noise.

    Attributes:
        devices: their names; None is "every device that runs here".
        timeout_s: for one artifact on one device, seconds.
        random: see `RandomInputs`.
        images: see `ImageInputs`.
        arrays: see `ArrayInputs`.
        fidelity: acceptance thresholds of each variant but ``fp32``, by its name; see `FidelitySection`.
    """

    devices: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)] | None = None
    timeout_s: Seconds = DEVICE_TIMEOUT_S
    tolerance_section: ToleranceSection = Field(default_factory=ToleranceSection, alias="tolerance")
    fidelity: dict[Annotated[str, one_of(DEFAULT_FIDELITY, "variant")], FidelitySection] = Field(default_factory=dict)
    random: tuple[RandomInputs, ...] = ()
    images: tuple[ImageInputs, ...] = ()
    arrays: tuple[ArrayInputs, ...] = ()

    @property
    def tolerance(self) -> Tolerance:
        """The bound that the recipe sets."""
        return Tolerance(**self.tolerance_section.model_dump())

    @property
    def bounds(self) -> dict[str, Fidelity]:
        """The acceptance thresholds of each approximating variant, by its name."""
        bounds = dict(DEFAULT_FIDELITY)
        for variant in DEFAULT_FIDELITY:
            default = bounds["int8"] if variant == MIXED else bounds[variant]  # int8 comes first
            bounds[variant] = self.fidelity[variant].over(default) if variant in self.fidelity else default
        return bounds


class Recipe(Section):
    """A whole recipe.

    Attributes:
        name: of the artifacts.
        description: a sentence for the report.
        path: the TOML file itself.
        model: see `Model`.
        inputs: see `Input`; a recipe of an ``.onnx`` file needs to state only what the file leaves open.
        export: see `Export`.
        parity: see `Parity`.
        preprocessing: see `Preprocessing`; None where no images are given.
        quantize: see `edgeconv.recipe.quantization.Quantize`.
    """

    name: Annotated[
        str,
        written_as(
            r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "use letters, digits, _ . - only: files get this name", most=MAX_NAME
        ),
    ]
    description: str = ""
    path: Path
    model: Model
    inputs: tuple[Input, ...] = ()
    outputs_section: Outputs = Field(default_factory=Outputs, alias="outputs")
    export: Export = Field(default_factory=Export)
    parity: Parity = Field(default_factory=Parity)
    preprocessing: Preprocessing | None = None
    quantize: Quantize = Field(default_factory=Quantize)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        """What the tables must say together; each by itself is checked by its own class."""
        unique(tuple(item.name for item in self.inputs) + self.outputs + tuple(self.model.fixed))
        if not self.inputs and self.model.onnx is None:
            if self.model.fixed:
                raise refusal("all of its inputs are fixed", "leave one of them open")
            raise refusal("inputs: is required", "add an [[inputs]] table")
        if self.outputs and self.model.onnx is not None:
            raise refusal("the outputs of an .onnx file have names", "remove [outputs]")
        self._one_batch()
        self._fits_in_memory()
        if self.parity.images and self.preprocessing is None:
            raise refusal("parity.images need a [preprocessing] table", "declare how images are read")
        if self.parity.images and len(self.inputs) > 1:
            raise refusal("parity.images need a module of one input", "use parity.arrays for several inputs")
        return self

    def _one_batch(self) -> None:
        """The batch may stay open, under one name for all inputs: a graph is captured at two sizes of one number."""
        inner = [dim for item in self.inputs for dim in item.shape[1:] if isinstance(dim, str)]
        if inner:
            what = f"symbolic dimension {shown(inner[0])}: only the first one, the batch, can stay open"
            raise refusal(what, "give a number")
        names = sorted({item.batch for item in self.inputs if item.batch is not None})
        if len(names) > 1:
            what = f"the batches have two names, {shown(names[0])} and {shown(names[1])}"
            raise refusal(what, "all inputs have one batch: use one")

    def _fits_in_memory(self) -> None:
        """Refuses sizes that a slip of the keyboard makes, before any array of that size is asked for."""
        sample_bytes = sum(item.size_bytes for item in self.inputs)
        noise = sample_bytes * sum(item.count for item in self.parity.random)
        # The warm-up runs in float64.
        rows = sum(math.prod(item.static_shape[1:]) for item in self.inputs)
        warmup = rows * 8 * self.model.warmup.batch_size if self.model.warmup else 0
        for what, size, most, hint in (
            ("the inputs", sample_bytes, MAX_INPUT_BYTES, "use smaller shapes"),
            ("the samples of parity.random", noise, MAX_NOISE_BYTES, "lower their counts"),
            ("a batch of model.warmup", warmup, MAX_NOISE_BYTES, "lower its batch_size"),
        ):
            if size > most:
                raise refusal(f"{what} would take {size / 2**20:.4g} MiB", f"{hint}: at most {most // 2**20} MiB")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output names that the recipe gives; may be empty."""
        return self.outputs_section.names

    @property
    def opset(self) -> int | None:
        """The opset of the ONNX file; None where that of an ``.onnx`` source is kept, as the recipe states none."""
        own = self.model.onnx is not None and "opset" not in self.export.model_fields_set
        return None if own else self.export.opset

    @property
    def directory(self) -> Path:
        """The folder of the TOML file, which relative file names start from."""
        return self.path.parent

    @property
    def source(self) -> str:
        """Where the module comes from, one line without absolute paths: for the artifacts' metadata."""
        model = self.model
        args = ", ".join(f"{key}={value!r}" for key, value in model.args.items())
        parts = [f"{model.factory}({args})", f"seed {model.seed}"]
        parts += [f"{name} fixed to {value}" for name, value in sorted(model.fixed.items())]
        if model.weights:
            weights = PurePath(model.weights).name if PurePath(model.weights).is_absolute() else model.weights
            parts.append(f"weights {weights}")
        if model.warmup:
            parts.append(f"warm-up {model.warmup.batches}x{model.warmup.batch_size} seed {model.warmup.seed}")
        return ", ".join(parts)
