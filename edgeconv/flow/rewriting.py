"""The captured graph -> the rewritten one, and both of them for link 1 of the proof."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeconv.capture import TracedCalls, take_calls
from edgeconv.core import GraphSummary
from edgeconv.errors import CaptureError, RewriteError
from edgeconv.flow.source import Source
from edgeconv.graph.constants import give_exact, take_exact
from edgeconv.graph.summary import summarize
from edgeconv.progress import Progress
from edgeconv.rewrite import optimize


@dataclass(frozen=True)
class Rewriting:
    """The graph before the rewrites and after them.

    Attributes:
        captured: the graph before; None where its batch cannot be left open, and outputs alone can be compared.
        rewritten: the graph after, with what its constants were rounded from.
        skip: the rewrites that were left out.
        source: computes in float64 what the graph was captured of, on more inputs than the proof's own; None where it
            is not at hand.
        calls: those of torch's that the graph was captured of; None of a source that is a file.
    """

    captured: ir.Model | None
    rewritten: ir.Model
    skip: tuple[str, ...] = ()
    source: Source | None = None
    calls: TracedCalls | None = None


def rewritten(
    source: Source, skip: Collection[str], progress: Progress, *, is_proved: bool
) -> tuple[ir.Model, Rewriting | None, tuple[GraphSummary, GraphSummary]]:
    """Captures and rewrites; returns the graph that variants are made of, both graphs for link 1, and their summaries.

    Args:
        source: what is exported.
        skip: rewrites to leave out, by name.
        progress: notified of the stages.
        is_proved: whether link 1 will be judged.

    Raises:
        CaptureError: the source cannot be captured, or an output has no elements.
        RewriteError: the batch cannot be left open.
    """
    with progress.stage("capture"):
        model = source.graph()
        _require_elements(model.graph)
    summary = summarize("captured", model)
    calls = take_calls(model)
    if not is_proved:
        calls = None
    elif calls is not None and calls.graph is None:
        calls = replace(calls, graph=model.clone())
    with progress.stage("rewrite"):
        captured = model.clone() if is_proved else None
        model = optimize(model, skip=skip, keep_exact=is_proved)
        # Variants must not depend on whether the export is proved, so they see no float64 faces of constants.
        faces = take_exact(model)
        if source.batched:
            from edgeconv.rewrite.open_batch import free_batch

            model = free_batch(model, inputs=source.batched, symbol=source.symbol)
            captured = None if captured is None else _freed(source, captured)
        rewriting = None
        if is_proved:
            rewriting = Rewriting(captured, model.clone(), tuple(skip), source, calls)
            give_exact(rewriting.rewritten, faces)
    return model, rewriting, (summary, summarize("folded", model))


def _require_elements(graph: ir.Graph) -> None:
    """Refuses an output that is always empty: no comparison of it could fail."""
    for output in graph.outputs:
        if output.shape is not None and 0 in output.shape:
            what = f"its output {output.name!r} has the shape {list(output.shape)}, which holds no elements"
            raise CaptureError(what, where="the model", hint="leave that output out")


def _freed(source: Source, captured: ir.Model) -> ir.Model | None:
    """A captured graph with its batch open; None where an operator that the rewrites take away cannot carry it."""
    from edgeconv.rewrite.open_batch import free_batch

    try:
        return free_batch(captured, inputs=source.batched, symbol=source.symbol)
    except RewriteError:
        return None
