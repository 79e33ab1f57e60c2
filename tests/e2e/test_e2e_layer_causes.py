"""Link 4: a runtime that computes a layer wrongly is told with the cause, in both formats, and whose fault it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.core import Array, Artifact, Comparison, Metrics, Sample, SampleResult, Tolerance
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.devices import file_inputs
from edgeconv.flow.cut import open_layers
from edgeconv.flow.layer_causes import cause_on_runtime
from edgeconv.parity.bounds import FLOAT32
from edgeconv.parity.chain import held_to_links
from edgeconv.parity.running import Judged, open_probed, running_link, told_as_precision, told_as_runtimes_own

Export = tuple[tuple[Artifact, ...], dict[str, Array]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Sigmoid()]
    x = torch.randn(1, 3, 12, 12)
    result = edgeconv.export(nn.Sequential(*layers).eval(), (x,), tmp_path_factory.mktemp("net"), name="net")
    return result.artifacts, {"input": x.numpy()}


def judged(artifact: Artifact, inputs: dict[str, Array], layer: str, change: Callable[[Array], Array]) -> LinkResult:
    """Link 4 where a runtime computes everything right but for a layer, whose result is changed."""
    data = artifact.path.read_bytes()
    arrays = [array for _, array in file_inputs(artifact, Sample("x", inputs))]
    file = open_layers(artifact.path, data)
    right = file.values(arrays, file.results)
    (at,) = [at for at, name in enumerate(file.results) if name == layer]
    known = {name: np.asarray(array, np.float32) for name, array in right.items() if name in file.results[: at + 1]}
    told = {name: array for name, array in known.items() if name in file.returned}
    told[layer] = np.asarray(change(told[layer]), np.float32)
    probed = open_probed(artifact.path, data, FLOAT32)
    outputs = [np.asarray(right[name], np.float32) for name in file.outputs]
    walk = probed.judge(arrays, outputs, told)
    walk = Judged(tuple(item for item in walk.layers if item.name == layer), {})
    cause = cause_on_runtime(artifact.path, data, walk.layers[0], arrays, outputs, told)
    return running_link({"x": walk}, cause)


def test_a_clamp_of_the_runtimes_is_told(exported: Export) -> None:
    artifacts, inputs = exported
    for artifact in artifacts:
        link = judged(artifact, inputs, "1", lambda array: np.maximum(array, 0))
        assert link.verdict is Verdict.FAIL
        assert link.reason.startswith("layer 1 (")
        assert "input x" in link.reason
        assert "; cause: " in link.reason
        assert "clamped to [0, inf]" in link.reason or "slope" in link.reason


def test_noise_has_no_cause(exported: Export) -> None:
    artifacts, inputs = exported
    noise = np.random.default_rng(0)
    for artifact in artifacts:
        link = judged(artifact, inputs, "1", lambda array: array + noise.normal(size=array.shape))
        assert link.verdict is Verdict.FAIL
        assert "cause" not in link.reason


def row(device: str, running: Verdict, artifact: str = "net.fp32.onnx") -> Comparison:
    link = LinkResult(Link.RUNNING, running, where="1", reason="layer 1, input x, is beyond")
    return Comparison(artifact, device, "output", None, Tolerance(), Verdict.PASS, links=(link,))


@pytest.mark.parametrize("writing", [Verdict.PASS, Verdict.FAIL, Verdict.SKIPPED])
def test_a_fault_is_the_runtimes_own_where_the_file_is_right(exported: Export, writing: Verdict) -> None:
    (artifact, *_), _ = exported
    artifact = replace(artifact, path=Path("net.fp32.onnx"), links=(LinkResult(Link.WRITING, writing),))
    rows = told_as_runtimes_own(
        [row("a", Verdict.FAIL), row("b", Verdict.PASS), row("c", Verdict.FAIL, "x")], [artifact]
    )
    own = "the fault is a's own: the file says what the graph says, and b computes it"
    assert (own in held_to_links(rows, [artifact])[0].reason) == (writing is Verdict.PASS)
    assert not any("own" in link.reason for item in rows[1:] for link in item.links)


@pytest.mark.parametrize("of_source", [17.0, 0.5])
def test_a_row_that_float32_explains_tells_the_sources_own_figure(of_source: float) -> None:
    """Also where the source was none of the devices; a file that is not beyond its bound does not ask for it."""
    asked = []

    def run_source() -> list[Comparison]:
        asked.append(True)
        return [measured("", "torch", of_source)]

    artifact = Artifact(Path("net.fp32.onnx"), "onnx", "fp32", "nchw", "", (), ())
    artifact = replace(artifact, links=(LinkResult(Link.WRITING, Verdict.PASS),))
    within, beyond = measured("net.fp32.onnx", "a", 0.9), measured("net.fp32.onnx", "a", 3.0)
    assert told_as_precision([within], [artifact], run_source) == (within,)
    assert not asked
    (told,) = told_as_precision([beyond], [artifact], run_source)
    assert told.reason.startswith("the file is right; float32 itself is this far off for this network")
    assert told.reason.endswith(f"(torch in float32 uses {of_source:g} of this bound, 100 dB)")
    assert ("another order" in told.reason) == (of_source < 1)


def measured(artifact: str, device: str, excess: float) -> Comparison:
    metrics = Metrics(1e-5, 1e-5, 1e-3, 1.0, 1e-6, 1.0, 100.0)
    samples = (SampleResult("x", metrics, excess, Verdict.PASS if excess <= 1 else Verdict.FAIL),)
    verdict = Verdict.PASS if excess <= 1 else Verdict.FAIL
    links = (LinkResult(Link.RUNNING, Verdict.PASS),)
    return Comparison(artifact, device, "output", metrics, Tolerance(), verdict, samples=samples, links=links)
