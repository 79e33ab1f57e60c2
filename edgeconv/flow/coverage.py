"""What of each variant's graph the inputs of the proof reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeconv.core import Artifact, Sample
from edgeconv.core.verdicts import Coverage
from edgeconv.errors import RewriteError
from edgeconv.flow.variants import Variant
from edgeconv.parity import Golden
from edgeconv.parity.coverage import Reach
from edgeconv.progress import Progress


def with_coverage(
    artifacts: Sequence[Artifact],
    variants: Sequence[Variant],
    golden: Golden,
    reached: Mapping[str, Reach],
    progress: Progress,
) -> tuple[Artifact, ...]:
    """The artifacts with what of their graphs was reached; one whose variant is not among these keeps what it has.

    Args:
        artifacts: of the variants.
        variants: the graphs that they were written from.
        golden: the samples of the proof.
        reached: what the exact integers of quantized graphs told already, by variant.
        progress: hears of each graph that is evaluated for it, in float64.
    """
    by_variant: dict[str, Coverage | None] = {name: reach.coverage() for name, reach in reached.items()}
    evaluated: dict[tuple[int, tuple[str, ...]], Coverage | None] = {}
    for variant in variants:
        samples = golden.of(variant.name).samples
        if variant.name not in by_variant and samples:
            key = id(variant.model), tuple(sample.name for sample in samples)
            if key not in evaluated:
                with progress.stage(f"{variant.name} graph, what the inputs reach of it"):
                    evaluated[key] = _evaluated(variant, samples)
            by_variant[variant.name] = evaluated[key]
    return tuple(
        replace(artifact, coverage=by_variant.get(artifact.variant, artifact.coverage)) for artifact in artifacts
    )


def _evaluated(variant: Variant, samples: Sequence[Sample]) -> Coverage | None:
    """What samples reach, until nothing is left; None where the reference lacks an operator."""
    from edgeconv.reference import evaluate_each, one_thread  # torch, which proving again does not need

    reach = Reach(variant.model)
    outputs = [value.name or "" for value in variant.model.graph.outputs]
    feeds = (sample.inputs for sample in samples)
    try:
        with one_thread():
            for _ in evaluate_each(variant.model, feeds, keep=outputs, observe=reach.observer()):
                if reach.is_complete:
                    break
    except RewriteError:
        return None
    return reach.coverage()
