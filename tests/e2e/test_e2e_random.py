"""Random networks through every variant and both formats, on the runtimes, against torch.

EDGECONV_RANDOM_NETWORKS says how many (a hundred by default), EDGECONV_RANDOM_FIRST where the seeds begin.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import drawn

import edgeconv
from edgeconv.core import Artifact

_COUNT = int(os.environ.get("EDGECONV_RANDOM_NETWORKS", "100"))
_FIRST = int(os.environ.get("EDGECONV_RANDOM_FIRST", "0"))
_LEAST_DB = {"fp32": 90.0, "fp16": 30.0}
"""Of each output's own power. For int8 no bound holds for every network: its two files must agree with one another."""


def _outputs(artifact: Artifact, x: np.ndarray) -> list[np.ndarray]:
    (spec,) = artifact.inputs
    feed = {spec.name: spec.to_file(x)}
    if artifact.format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        made = onnxruntime.InferenceSession(artifact.path, options).run([one.name for one in artifact.outputs], feed)
    else:
        from ai_edge_litert.interpreter import Interpreter

        by_name = Interpreter(str(artifact.path), num_threads=1).get_signature_runner()(**feed)
        made = [by_name[one.name] for one in artifact.outputs]
    return [one.from_file(array) for one, array in zip(artifact.outputs, made, strict=True)]


def _db(wanted: np.ndarray, found: np.ndarray) -> float:
    error = float(np.square(wanted - found.astype(np.float64)).sum())
    return 10 * np.log10(max(float(np.square(wanted).sum()), 1e-20) / max(error, 1e-30))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _COUNT))
def test_a_random_network_is_computed_by_every_file(seed: int, tmp_path: Path) -> None:
    network, x = drawn(seed)
    with torch.no_grad():
        made = network.double()(x.double())
    network.float()
    wanted = [one.numpy() for one in (made if isinstance(made, tuple) else (made,))]
    data = [torch.randn(*x.shape, generator=torch.Generator().manual_seed(seed + 1 + at)).numpy() for at in range(4)]
    result = edgeconv.export(
        network,
        (x,),
        tmp_path,
        name="net",
        variants=("fp32", "fp16", "int8"),
        input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: [{"x": one} for one in [x.numpy(), *data]]),
    )
    by_variant: dict[str, list[list[np.ndarray]]] = {}
    for artifact in result.artifacts:
        found = _outputs(artifact, x.numpy())
        by_variant.setdefault(artifact.variant, []).append(found)
        for number, (a, b) in enumerate(zip(wanted, found, strict=True)):
            assert a.shape == b.shape, (artifact.path.name, number, network.described)
            least = _LEAST_DB.get(artifact.variant)
            db = _db(a, b)
            assert least is None or db >= least, (artifact.path.name, number, round(db, 1), network.described)
    onnx_made, tflite_made = by_variant["int8"]
    for number, (a, b, real) in enumerate(zip(onnx_made, tflite_made, wanted, strict=True)):
        formats_db, loss_db = _db(a.astype(np.float64), b), min(_db(real, a), _db(real, b))
        assert np.isfinite(a).all(), (number, network.described)
        assert np.isfinite(b).all(), (number, network.described)
        assert formats_db >= min(25.0, loss_db) - 4.0, (
            number,
            round(formats_db, 1),
            round(loss_db, 1),
            network.described,
        )
