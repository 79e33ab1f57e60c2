"""Judges the links of the proof that no device takes part in: rewrites, rounding, writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeconv.core import Array, Artifact, Sample
from edgeconv.errors import EmitError, RewriteError
from edgeconv.flow.variants import Variant
from edgeconv.progress import Progress
from edgeconv.reference import tflite
from edgeconv.verdicts import Link, LinkResult, Verdict

if TYPE_CHECKING:
    from edgeconv.parity.writing import File, Graph


def with_links(
    artifacts: Sequence[Artifact], variants: Sequence[Variant], samples: Sequence[Sample], progress: Progress
) -> tuple[Artifact, ...]:
    """The artifacts with their links; one whose variant is not among these keeps those that it has.

    One sample is enough for link 3: constants are compared number by number, and every part of the file on operands in
    which no error adds up, so that what differs at all differs by far more than float64 rounds.

    Args:
        artifacts: their files exist.
        variants: the graphs that they were written from.
        samples: of the proof.
        progress: hears of each file.
    """
    if not variants:
        return tuple(artifacts)
    from edgeconv.parity.writing import Graph  # torch, which proving again does not need

    judged: dict[str, LinkResult] = {}
    for variant in variants:
        sample = next((sample for sample in samples if sample.is_for(variant.name)), None)
        own = [artifact for artifact in artifacts if artifact.variant == variant.name]
        if sample is None or not own:
            continue
        graph = Graph(variant.model)
        for artifact in own:
            with progress.stage(f"{artifact.path.name} read back"):
                judged[artifact.path.name] = _writing(graph, artifact, sample)
    return tuple(
        replace(artifact, links=_put(artifact.links, judged[artifact.path.name]))
        if artifact.path.name in judged
        else artifact
        for artifact in artifacts
    )


def _put(links: Sequence[LinkResult], link: LinkResult) -> tuple[LinkResult, ...]:
    """The links with one of them judged anew, in the order of the chain."""
    others = [other for other in links if other.link is not link.link]
    return tuple(sorted((*others, link), key=lambda item: item.link.number))


def _writing(graph: Graph, artifact: Artifact, sample: Sample) -> LinkResult:
    """Link 3 of an artifact; skipped where the reference lacks an operator of it."""
    from edgeconv.parity.writing import writing

    try:
        file = opened(artifact, graph)
    except EmitError as error:
        return LinkResult(Link.WRITING, Verdict.FAIL, where=artifact.path.name, reason=f"it cannot be read: {error}")
    if file.unknown:
        reason = f"not judged: the reference does not compute {', '.join(file.unknown)}"
        return LinkResult(Link.WRITING, Verdict.SKIPPED, reason=reason)
    try:
        return writing(graph, file, one_row(graph, sample.inputs), sample.name)
    except RewriteError as error:
        return LinkResult(Link.WRITING, Verdict.SKIPPED, reason=f"not judged: {error}")


def opened(artifact: Artifact, graph: Graph) -> File:
    """The file, read back beside the graph that it was written from.

    Raises:
        EmitError: it cannot be read.
    """
    from edgeconv.parity.writing import OnnxFile, TfliteFile

    if artifact.format == "onnx":
        return OnnxFile(artifact.path, graph)
    return TfliteFile(tflite.read(artifact.path), graph, artifact.inputs, artifact.outputs, artifact.intermediates)


def one_row(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The first row of inputs whose batch is open: a `.tflite` file states a batch of one."""
    open_batch = {
        value.name for value in graph.model.graph.inputs if value.shape and not isinstance(value.shape[0], int)
    }
    return {name: array[:1] if name in open_batch else array for name, array in inputs.items()}
