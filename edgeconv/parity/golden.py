"""Golden values: samples and their float64 reference in one file, so that another machine need not compute them.

One safetensors file: no pickle, the same bytes for the same values. Tensors are named ``<sample index>/in/<name>``,
``<sample index>/out/<name>``, and ``<sample index>/<variant>/<name>`` for what a quantized graph says;
``float32/<name>`` is the largest error of each channel of an output in the source's own float32. The metadata key
``edgeconv.golden`` holds a JSON object with ``schema``, ``samples`` (name, scale, label and variants, in order),
``inputs`` and ``outputs`` (names, in order), ``integers`` (variant to the scales of its outputs), ``joints`` (output to
the axes that it is joined along, each with the sizes of its parts), ``derived`` (variant to kinds of inputs) and, where
there are any, ``indices`` (outputs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from edgeconv.core import Array, Parts, Run, Sample, Verdict, values
from edgeconv.core.wording import complaint
from edgeconv.errors import ParityError, printable
from edgeconv.parity._fidelity import Integers
from edgeconv.parity._groups import OwnScale, own_scales
from edgeconv.parity.derived import derived_sample, is_kind

SCHEMA = 1  # of the file's metadata; another one is refused
_KEY = "edgeconv.golden"
_REFERENCE = "torch-float64"
_SHOWN = 300  # characters of a message that quotes the file
_FLOAT32 = "float32/"


@dataclass(frozen=True)
class Golden:
    """Samples with their reference values.

    Attributes:
        samples: the inputs.
        reference: what the source makes of them in float64.
        integers: what the quantized graphs make of them, by variant.
        joints: of what parts outputs are joined, by name.
        float32: how far the source's own float32 is off, by output: see `edgeconv.parity.float32_errors`.
        derived: the kinds of derived inputs that each variant is probed with: see `edgeconv.parity.derived`.
        indices: the outputs that hold indices: see `edgeconv.graph.indices`.
    """

    samples: tuple[Sample, ...]
    reference: Run
    integers: Mapping[str, Integers] = field(default_factory=dict)
    joints: Mapping[str, tuple[Parts, ...]] = field(default_factory=dict)
    float32: Mapping[str, Array] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    indices: frozenset[str] = frozenset()

    def of(self, variant: str) -> Golden:
        """The samples for one variant (all, for the empty name), with their reference values and integers."""
        everyones = (variant == "" or sample.is_for(variant) for sample in self.samples)
        chosen = [index for index, included in enumerate(everyones) if included]
        return Golden(
            tuple(self.samples[index] for index in chosen),
            _selected(self.reference, chosen),
            {
                name: Integers(_selected(graph.run, chosen), graph.scales)
                for name, graph in self.integers.items()
                if name == variant
            },
            self.joints,
            self.float32,
            self.derived,
            self.indices,
        )

    @property
    def smallest(self) -> Sample:
        """The first of the samples with the fewest elements: batches may differ."""
        return min(self.samples, key=lambda sample: sum(array.size for array in sample.inputs.values()))

    def probes(self, variant: str) -> tuple[Sample, ...]:
        """The derived inputs of a variant."""
        base = self.of(variant).smallest
        return tuple(derived_sample(kind, base) for kind in self.derived.get(variant, ()))

    def scales(self) -> dict[str, OwnScale]:
        """The groups of channels of each output, by name."""
        return own_scales(self.reference, self.samples, list(self.reference.outputs[0]), self.joints, self.float32)


def _selected(run: Run, indices: Sequence[int]) -> Run:
    return replace(run, outputs=tuple(run.outputs[index] for index in indices))


def golden_bytes(golden: Golden) -> bytes:
    """The golden file.

    Raises:
        ParityError: the reference failed, or does not belong to the samples.
    """
    from safetensors.numpy import save

    samples, reference = golden.samples, golden.reference
    if reference.verdict is not Verdict.PASS or not samples or len(reference.outputs) != len(samples):
        raise ParityError(f"the reference has {len(reference.outputs)} results for {len(samples)} samples")
    tensors: dict[str, Array] = {}
    for index, (sample, outputs) in enumerate(zip(samples, reference.outputs, strict=True)):
        if set(sample.inputs) != set(samples[0].inputs) or set(outputs) != set(reference.outputs[0]):
            raise ParityError("inputs or outputs have other names than those of the first", where=sample.name)
        integers = [(variant, graph.run.outputs[index]) for variant, graph in golden.integers.items()]
        for side, arrays in (("in", sample.inputs), ("out", outputs), *integers):
            for name, array in arrays.items():
                tensors[f"{index}/{side}/{name}"] = np.asarray(array, order="C")  # keeps scalars scalar
    tensors |= {f"{_FLOAT32}{name}": errors for name, errors in golden.float32.items()}
    described = {
        "schema": SCHEMA,
        "samples": [
            {"name": sample.name, "scale": sample.scale, "label": sample.label, "variants": list(sample.variants)}
            for sample in samples
        ],
        "inputs": list(samples[0].inputs),
        "outputs": list(reference.outputs[0]),
        "integers": {variant: dict(graph.scales) for variant, graph in golden.integers.items()},
        "joints": {
            name: [[joint.axis, list(joint.sizes)] for joint in joints] for name, joints in golden.joints.items()
        },
        **({"indices": sorted(golden.indices)} if golden.indices else {}),
        "derived": {variant: list(kinds) for variant, kinds in golden.derived.items()},
    }
    # One key only: the library writes several in no fixed order.
    return bytes(save(tensors, metadata={_KEY: json.dumps(described, sort_keys=True)}))


def load_golden(path: Path) -> Golden:
    """Reads what `golden_bytes` made; every array comes back bit for bit.

    Raises:
        ParityError: the file cannot be read, or is not a whole golden file.
    """
    path = values.path(path, "path", ParityError, hint="give the path of a golden file")
    metadata, tensors = _read(path)
    if _KEY not in metadata:
        what = f"is not a golden file (it lacks the description {_KEY!r})"
        raise ParityError(what, where=str(path), hint="export again")
    try:
        described = _Described.model_validate_json(metadata[_KEY], strict=True)
        if described.schema_version != SCHEMA:
            what = f"has schema {described.schema_version}, this version reads {SCHEMA}"
            raise ParityError(what, where=str(path), hint="export again")
        golden = _golden_from(described, tensors)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        what = f"is not a golden file ({place or 'its description'}: {complaint(first, table='an object')})"
        raise ParityError(printable(what[:_SHOWN]), where=str(path), hint="export again") from error
    except ValueError as error:
        what = f"is not a golden file ({error})"
        raise ParityError(printable(what[:_SHOWN]), where=str(path), hint="export again") from error
    if tensors:  # `_golden_from` takes out what it knows: what is left was put there by somebody else
        raise ParityError(f"holds {len(tensors)} tensors that belong to no sample", where=str(path))
    return golden


class _SampleNode(BaseModel):
    name: str
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    label: Annotated[int, Field(ge=0, lt=2**63)] | None
    variants: tuple[str, ...] = ()


_Size = Annotated[int, Field(gt=0, lt=2**31)]
_Joint = tuple[Annotated[int, Field(ge=0, lt=8)], Annotated[tuple[_Size, ...], Field(min_length=1)]]


def _known(kind: str) -> str:
    if not is_kind(kind):
        raise ValueError("it is no kind of derived input")
    return kind


_Kind = Annotated[str, AfterValidator(_known)]


class _Described(BaseModel):
    """The metadata of a golden file."""

    schema_version: int = Field(alias="schema")
    samples: tuple[_SampleNode, ...] = Field(min_length=1)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = Field(min_length=1)
    integers: dict[str, dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]] = {}
    joints: dict[str, tuple[_Joint, ...]] = {}
    indices: tuple[str, ...] = ()
    derived: dict[str, Annotated[tuple[_Kind, ...], Field(max_length=8)]] = {}


def _golden_from(described: _Described, tensors: dict[str, Array]) -> Golden:
    """Takes the tensors that the description names, and leaves the others.

    Raises:
        ValueError: one is missing, or the description contradicts itself.
    """
    names = [sample.name for sample in described.samples]
    if any(len(set(several)) < len(several) for several in (names, described.inputs, described.outputs)):
        raise ValueError("it names a sample, an input or an output twice")

    def take(key: str) -> Array:
        if key not in tensors:
            raise ValueError(f"it lacks the tensor {key!r}")
        return tensors.pop(key)

    samples = []
    sides: dict[str, list[Mapping[str, Array]]] = {side: [] for side in ("out", *described.integers)}
    for index, sample in enumerate(described.samples):
        inputs = {name: take(f"{index}/in/{name}") for name in described.inputs}
        samples.append(Sample(sample.name, inputs, sample.scale, sample.label, sample.variants))
        for side, outputs in sides.items():
            outputs.append({name: take(f"{index}/{side}/{name}") for name in described.outputs})
    integers = {
        variant: Integers(Run(f"graph-{variant}", "", tuple(sides[variant])), scales)
        for variant, scales in described.integers.items()
    }
    joints = {name: tuple(Parts(*joint) for joint in of_output) for name, of_output in described.joints.items()}
    float32 = {name: take(_FLOAT32 + name) for name in described.outputs if _FLOAT32 + name in tensors}
    for name, errors in float32.items():
        if errors.dtype != np.float64 or errors.ndim != 1 or not errors.size or not (errors >= 0).all():
            raise ValueError(f"the tensor {_FLOAT32 + name!r} holds no errors")
    reference = Run(_REFERENCE, "", tuple(sides["out"]))
    indices = frozenset(described.indices)
    return Golden(tuple(samples), reference, integers, joints, float32, described.derived, indices)


def _read(path: Path) -> tuple[Mapping[str, str], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, MemoryError) as error:
        # numpy lacks some of the format's element types, and says so in many ways
        raise ParityError(
            printable(f"cannot be read ({error})"[:_SHOWN]), where=str(path), hint="export again"
        ) from error
