"""Golden values: samples and their float64 reference in one file, so that another machine need not compute them.

One safetensors file: no pickle, the same bytes for the same values. Tensors are named ``<sample index>/in/<name>``
and ``<sample index>/out/<name>``; the metadata key ``edgeconv.golden`` holds a JSON object with ``schema``,
``samples`` (name, scale and label, in order), ``inputs`` and ``outputs`` (names, in order).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.core import Array, Run, Sample, Verdict
from edgeconv.errors import ParityError

SCHEMA = 1
_KEY = "edgeconv.golden"
_REFERENCE = "torch-float64"


def golden_bytes(samples: Sequence[Sample], reference: Run) -> bytes:
    """The golden file of these samples and what the float64 reference made of them.

    Raises:
        ParityError: the reference failed, or does not belong to the samples.
    """
    from safetensors.numpy import save

    if reference.verdict is not Verdict.PASS or not samples or len(reference.outputs) != len(samples):
        raise ParityError(f"the reference has {len(reference.outputs)} results for {len(samples)} samples")
    tensors: dict[str, Array] = {}
    for index, (sample, outputs) in enumerate(zip(samples, reference.outputs, strict=True)):
        if set(sample.inputs) != set(samples[0].inputs) or set(outputs) != set(reference.outputs[0]):
            raise ParityError("inputs or outputs have other names than those of the first", where=sample.name)
        for side, arrays in (("in", sample.inputs), ("out", outputs)):
            for name, array in arrays.items():
                tensors[f"{index}/{side}/{name}"] = np.asarray(array, order="C")  # keeps scalars scalar
    described = {
        "schema": SCHEMA,
        "samples": [{"name": one.name, "scale": one.scale, "label": one.label} for one in samples],
        "inputs": list(samples[0].inputs),
        "outputs": list(reference.outputs[0]),
    }
    # One key only: the library writes several in no fixed order.
    return bytes(save(tensors, metadata={_KEY: json.dumps(described, sort_keys=True)}))


def load_golden(path: Path) -> tuple[tuple[Sample, ...], Run]:
    """Reads what `golden_bytes` made; every array comes back bit for bit.

    Raises:
        ParityError: the file cannot be read, or is not a whole golden file.
    """
    metadata, tensors = _read(path)
    try:
        described = json.loads(metadata[_KEY])
        schema = described["schema"]
        if schema != SCHEMA:
            raise ParityError(f"has schema {schema}, this version reads {SCHEMA}", where=str(path))
        samples, outputs = [], []
        for index, one in enumerate(described["samples"]):
            inputs = {name: tensors.pop(f"{index}/in/{name}") for name in described["inputs"]}
            label = None if one["label"] is None else int(one["label"])
            samples.append(Sample(str(one["name"]), inputs, float(one["scale"]), label))
            outputs.append({name: tensors.pop(f"{index}/out/{name}") for name in described["outputs"]})
    except (KeyError, TypeError, ValueError) as error:
        what = f"is not a golden file ({type(error).__name__}: {error})"
        raise ParityError(what, where=str(path), mend="export again") from error
    if tensors:
        raise ParityError(f"holds {len(tensors)} tensors that belong to no sample", where=str(path))
    return tuple(samples), Run(_REFERENCE, "", tuple(outputs))


def _read(path: Path) -> tuple[Mapping[str, str], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ParityError(f"cannot be read ({error})", where=str(path), mend="export again") from error
