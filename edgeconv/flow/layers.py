"""Judges each layer of integer files by itself, on the devices that return intermediates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from edgeconv.core import Artifact, Comparison, LayerSteps, Sample
from edgeconv.devices import Device, find, run_intermediates
from edgeconv.errors import DeviceError
from edgeconv.flow.variant import Variant
from edgeconv.parity import Golden, judge_layers, layer_steps, unjudged_layers
from edgeconv.progress import Progress

# A kernel does the same for every sample, and each has many elements: four of EfficientNet-Lite0 have 28 million.
# Those take 1.3 s to run and 1.4 s to evaluate in float64, on one core.
_SAMPLES = 4


def judged_by_layer(
    rows: Sequence[Comparison],
    artifacts: Sequence[Artifact],
    variants: Sequence[Variant],
    golden: Golden,
    timeout_s: float,
    progress: Progress,
) -> tuple[Comparison, ...]:
    """The rows; the first of each artifact and device that returns intermediates gets the artifact's layers.

    Args:
        rows: as `edgeconv.flow.judge.judge` gives them.
        artifacts: freshly made: only these have `intermediates`.
        variants: the graphs that they were written from.
        golden: its samples are run.
        timeout_s: for one artifact on one device, seconds.
        progress: notified of each artifact.
    """
    graphs = {variant.name: variant.model for variant in variants}
    by_name = {
        artifact.path.name: artifact for artifact in artifacts if artifact.intermediates and artifact.variant in graphs
    }
    judged: dict[tuple[str, str], Comparison] = {}
    for row in rows:
        # Layers are the whole file's: the row of its first output on a device has them.
        artifact, place = by_name.get(row.artifact), (row.artifact, row.device)
        if artifact is None or place in judged or not row.samples or not find(row.device).tells_intermediates:
            continue
        with progress.stage(f"{row.artifact} on {row.device}, layer by layer"):
            try:
                layers = _layers(find(row.device), artifact, graphs, golden, timeout_s)
                judged[place] = judge_layers(row, layers)
            except DeviceError as error:
                judged[place] = unjudged_layers(row, str(error))
    return _in_place(rows, judged)


def carried_over(
    rows: Sequence[Comparison],
    old: Sequence[Comparison],
    now: Mapping[str, Mapping[str, str]],
    before: Mapping[str, str | Mapping[str, str]],
) -> tuple[Comparison, ...]:
    """The rows of a repeated run, with the layers that the earlier run measured.

    Layers cannot be measured again, since the graphs are gone; but files and samples have not changed. The layers of a
    device whose environment is another one now are left out.

    Args:
        rows: of the repeated run.
        old: of the earlier one.
        now: what each device says of itself, by ``"device <name>"``.
        before: what it said in the earlier run.
    """
    layers = {(row.artifact, row.device): row.layers for row in old if row.layers}
    judged: dict[tuple[str, str], Comparison] = {}
    for row in rows:
        place, key = (row.artifact, row.device), f"device {row.device}"
        if place in layers and place not in judged and row.samples and now.get(key) == before.get(key):
            judged[place] = judge_layers(row, layers[place])
    return _in_place(rows, judged)


def _layers(
    device: Device, artifact: Artifact, graphs: Mapping[str, ir.Model], golden: Golden, timeout_s: float
) -> tuple[LayerSteps, ...]:
    samples = _few_samples(golden.of(artifact.variant).samples)
    runs = run_intermediates(device, artifact, samples, timeout_s=timeout_s)
    return layer_steps(graphs[artifact.variant], artifact.intermediates, [sample.inputs for sample in samples], runs)


def _few_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The first few samples and the last one, whose batch differs where the batch is open."""
    return [*samples[: _SAMPLES - 1], *samples[_SAMPLES - 1 :][-1:]]


def _in_place(rows: Iterable[Comparison], judged: Mapping[tuple[str, str], Comparison]) -> tuple[Comparison, ...]:
    """The rows, each judged one in place of the first row of its artifact and device."""
    waiting = dict(judged)
    return tuple(waiting.pop((row.artifact, row.device), row) for row in rows)
