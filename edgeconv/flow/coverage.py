"""Measures how much of each variant's graph the inputs of the proof exercise: branches, bounds, ends of ranges."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from edgeconv.core import Artifact, Sample
from edgeconv.core.threads import one_thread
from edgeconv.core.verdicts import Coverage
from edgeconv.errors import RewriteError
from edgeconv.flow.variant import Variant
from edgeconv.parity import Golden
from edgeconv.parity.coverage import Reach
from edgeconv.parity.derived import chosen_kinds
from edgeconv.progress import Progress


def with_coverage(
    artifacts: Sequence[Artifact],
    variants: Sequence[Variant],
    golden: Golden,
    reached: Mapping[str, Reach],
    progress: Progress,
) -> tuple[tuple[Artifact, ...], dict[str, tuple[str, ...]]]:
    """The artifacts with what of their graphs was reached; one whose variant is not among these keeps what it has.

    Args:
        artifacts: of the variants.
        variants: the graphs that they were written from.
        golden: the samples of the proof.
        reached: what the evaluation of a quantized graph's exact integers has reached already, by variant.
        progress: notified of each graph that is evaluated for it, in float64.

    Returns:
        The artifacts, and the kinds of derived inputs that each variant is probed with, by its name.
    """
    by_variant: dict[str, Reached] = {}
    by_graph: dict[Hashable, Reached] = {}
    for variant in variants:
        own = golden.of(variant.name)
        if own.samples:
            names = tuple(sample.name for sample in own.samples)
            # fp32 and fp16 share a graph, and are evaluated once; fp16's derived inputs stay within its range.
            key = variant.name if variant.name in reached else (id(variant.model), names, variant.name == "fp16")
            if key not in by_graph:
                with progress.stage(f"{variant.name} graph, what the inputs reach of it"):
                    by_graph[key] = coverage_of(variant.model, own, variant.name, reached.get(variant.name))
            by_variant[variant.name] = by_graph[key]
    covered = tuple(
        replace(artifact, coverage=by_variant[artifact.variant][0]) if artifact.variant in by_variant else artifact
        for artifact in artifacts
    )
    return covered, {name: kinds for name, (_, kinds) in by_variant.items() if kinds}


Reached = tuple[Coverage | None, tuple[str, ...]]
"""The coverage, and the kinds of derived inputs that added to it."""


def coverage_of(model: ir.Model, golden: Golden, variant: str, reach: Reach | None = None) -> Reached:
    """What the proof's own inputs reach of a graph, with what derived ones reach besides, and the kinds of these.

    Args:
        model: the graph.
        golden: the samples for it.
        variant: whose it is.
        reach: what the samples reached, where that is known already.
    """
    reach = reach or _evaluated(model, golden.samples)
    if reach is None:
        return None, ()
    own = reach.coverage()
    try:
        kinds = chosen_kinds(model, golden.smallest, reach, variant)
    except RewriteError:
        return own, ()
    return reach.with_derived(own), kinds


def _evaluated(model: ir.Model, samples: Sequence[Sample]) -> Reach | None:
    """Runs samples until every part is reached, or all have run; None where the reference lacks an operator."""
    from edgeconv.reference import evaluate_each  # torch, which proving again does not need

    reach = Reach(model)
    outputs = [value.name or "" for value in model.graph.outputs]
    feeds = (sample.inputs for sample in samples)
    try:
        with one_thread():
            for _ in evaluate_each(model, feeds, keep=outputs, observe=reach.observer()):
                if reach.is_complete:
                    break
    except RewriteError:
        return None
    return reach
