"""Judges the links of the proof that need no device: rewrites (1), rounding (2), writing (3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from edgeconv.core import Array, Artifact, Sample
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.errors import EdgeconvError, EmitError, RewriteError
from edgeconv.flow.precision import layer_of_framework
from edgeconv.flow.rewriting import Rewriting
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import is_quantized
from edgeconv.parity import Golden
from edgeconv.parity.derived import derived_sample
from edgeconv.progress import Progress
from edgeconv.reference import tflite
from edgeconv.rewrite import REWRITES, optimize

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeconv.parity.writing import File, Graph, Matching

_BEYOND = ("times 64", "times -64")  # a clamp at 6, or a slope on either side of zero, is within reach of both


def with_links(
    artifacts: Sequence[Artifact],
    variants: Sequence[Variant],
    golden: Golden,
    progress: Progress,
    rewriting: Rewriting | None = None,
) -> tuple[Artifact, ...]:
    """The artifacts with their links; one whose variant is not among these keeps those that it has.

    One sample is enough for links 1 and 3: constants are compared number by number, and every part on operands in
    which no error adds up, so that what differs at all differs by far more than float64 rounds.

    Args:
        artifacts: their files exist.
        variants: the graphs that they were written from.
        golden: the samples of the proof, and what the module makes of them in float64.
        progress: notified of each step.
        rewriting: the captured and the rewritten graph, for link 1; without it, the artifacts keep the link they have.
    """
    if not variants:
        return tuple(artifacts)
    links: list[LinkResult] = []
    if rewriting is not None:
        with progress.stage("rewrites, in float64"):
            links.append(_rewrites(rewriting, golden))
    judged: dict[str, list[LinkResult]] = {}
    changed: dict[tuple[int, ...], LinkResult | None] = {}
    for variant in variants:
        own, samples = [artifact for artifact in artifacts if artifact.variant == variant.name], golden.of(variant.name)
        if own and samples.samples:
            numbers = _quantizing(variant, samples, changed, progress) or _keeping(
                variant, samples, rewriting, progress
            )
            of_files = _of_variant(variant, own, samples, numbers, progress)
            judged |= {name: [*links, *own_links] for name, own_links in of_files}
    return tuple(
        replace(artifact, links=_put(artifact.links, judged.get(artifact.path.name, []))) for artifact in artifacts
    )


def _rewrites(rewriting: Rewriting, golden: Golden) -> LinkResult:
    """Link 1; one that breaks names the rewrite without which it holds, if there is one."""
    # Many draws of signs, each an evaluation in float64: the smallest sample is the cheapest.
    index = golden.samples.index(golden.smallest)
    inputs, outputs = golden.samples[index].inputs, golden.reference.outputs[index]
    larger = cache(partial(_beyond, rewriting, golden.samples[index], list(outputs)))

    def judged(rewritten: ir.Model) -> LinkResult:
        from edgeconv.parity.rewriting import rewriting as judge

        return judge(rewriting.captured, rewritten, inputs, outputs, larger)

    try:
        wrong = _capturing(rewriting, inputs)
        link = wrong or judged(rewriting.rewritten)
    except RewriteError as error:
        return not_judged(Link.REWRITES, error)
    if link.verdict is not Verdict.FAIL:
        return link
    told = ""
    if wrong is None and (name := _broken_by(rewriting, judged)):
        told = f"without the rewrite {name} the link holds"
    elif rewriting.source is not None and (layer := layer_of_framework(rewriting.source, golden.samples[index])):
        told = f"{layer}: a fault of the capture, or of torch's own operator"
    return replace(link, reason=f"{link.reason}; {told}") if told else link


def _capturing(rewriting: Rewriting, inputs: Mapping[str, Array]) -> LinkResult | None:
    """A link that one of torch's calls breaks, whose capture is wrong; None where there is none, or no such calls."""
    from edgeconv.devices import ProgramRun
    from edgeconv.parity.rewriting import capturing

    calls = rewriting.calls
    if calls is None or calls.graph is None:
        return None
    shapes = {value.name or "": value.shape or () for value in calls.graph.graph.inputs}
    sizes = {name: tuple(size for size in shape if isinstance(size, int)) for name, shape in shapes.items()}
    fitted = {name: _of_batch(inputs[name], sizes[name]) for name in sizes}
    return capturing(calls.graph, ProgramRun(calls.program), calls.values, fitted)


def _of_batch(array: Array, shape: tuple[int, ...]) -> Array:
    """An array with its rows repeated, as many as a shape has."""
    if array.shape == shape or not array.ndim:
        return array
    return np.resize(array, (shape[0], *array.shape[1:]))


def _beyond(
    rewriting: Rewriting, sample: Sample, outputs: Sequence[str]
) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """Inputs that pass the clamps which the sample does not reach, and what the source computes of them in float64.

    A source that does not run them is judged on the sample alone.
    """
    if rewriting.source is None:
        return []
    samples = [derived_sample(kind, sample) for kind in _BEYOND]
    run = rewriting.source.run(samples, outputs, "float64")
    if run.verdict is not Verdict.PASS:
        return []
    return [(more.inputs, values) for more, values in zip(samples, run.outputs, strict=True)]


def _broken_by(rewriting: Rewriting, judged: Callable[[ir.Model], LinkResult]) -> str:
    """The first rewrite without which all others compute what the captured graph does; empty where there is none."""
    captured = rewriting.captured
    # The rewrites read a graph of static shapes; an open batch is freed after them.
    if captured is None or any(not value.shape or not value.shape.is_static() for value in captured.graph.inputs):
        return ""

    def holds(*skip: str) -> bool:
        try:
            others = optimize(captured.clone(), skip=(*rewriting.skip, *skip), keep_exact=True)
            return judged(others).verdict is Verdict.PASS
        except RewriteError:
            return False

    # Where all of them hold, run anew, none is to blame.
    names = [rewrite.name for rewrite in REWRITES if rewrite.name not in rewriting.skip]
    return "" if holds() else next(filter(holds, names), "")


def _of_variant(
    variant: Variant,
    artifacts: Sequence[Artifact],
    golden: Golden,
    numbers: LinkResult | None,
    progress: Progress,
) -> Iterator[tuple[str, list[LinkResult]]]:
    """Links 2 and 3 of a variant's files, by their name; link 2 breaks as `numbers` says, where that is something."""
    from edgeconv.parity.writing import (  # torch, which proving again does not need
        Graph,
        OperandCache,
        border_scales,
        interface_faults,
        matched,
        real_inputs,
        with_faults,
        with_real_borders,
    )

    whole = Graph(variant.model)
    real_model = with_real_borders(variant.model)
    graph = whole if real_model is variant.model else Graph(real_model)
    if len(artifacts) - sum(artifact.format == "onnx" for artifact in artifacts) > 1:
        graph.shared = OperandCache()  # two layouts; what an `.onnx` file is judged on depends on the nodes that it has
    sample = golden.samples[0]
    row = one_row(graph, real_inputs(sample.inputs, variant.model.graph))
    stored: dict[str, Array] = {}
    costs: dict[frozenset[str], LinkResult] = {}
    for artifact in artifacts:
        with progress.stage(f"{artifact.path.name} read back"):
            try:
                file = opened(artifact, graph, halves=variant.weights == "float16")
            except (EmitError, RewriteError) as error:  # the latter of constants that it states no numbers for
                name, reason = artifact.path.name, f"it cannot be read: {error}"
                yield name, [LinkResult(Link.WRITING, Verdict.FAIL, where=name, reason=reason)]
                continue
            matching = matched(graph, file)
            # Evaluations are told by their arrays: those that another file has with the same bits are its.
            rounded = {
                name: _same_array(array, stored.setdefault(name, array)) for name, array in matching.rounded.items()
            }
            matching = replace(matching, rounded=rounded)
            # Files of a variant usually round the same constants, and then link 2 is the same for all of them.
            key = frozenset(matching.rounded)
            if key not in costs:
                cost = _rounding(whole, matching.rounded, golden, variant.name)
                costs[key] = cost if numbers is None else replace(numbers, sqnr_db=cost.sqnr_db)
            inputs, outputs = (_names(side) for side in (variant.model.graph.inputs, variant.model.graph.outputs))
            faults = interface_faults(artifact, inputs, outputs, border_scales(variant.model.graph))
            # Values of another output than is said, of another rank perhaps, cannot be compared.
            written = LinkResult(Link.WRITING, Verdict.FAIL)
            written = written if faults else _writing(graph, file, row, sample.name, matching)
            yield artifact.path.name, [costs[key], with_faults(written, faults)]


def _same_array(array: Array, other: Array) -> Array:
    """The other array where it has the same bits, else the array."""
    if array is other or (array.dtype, array.shape) != (other.dtype, other.shape):
        return array
    return other if array.tobytes() == other.tobytes() else array


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def _quantizing(
    variant: Variant, golden: Golden, changed: dict[tuple[int, ...], LinkResult | None], progress: Progress
) -> LinkResult | None:
    """Link 2 of a variant whose integers are not what its float graph and its plan say; None where they are.

    Args:
        variant: perhaps of integers.
        golden: its samples.
        changed: what was found of changes of the float graph, which variants share.
        progress: notified of the step.
    """
    from edgeconv.parity.quantizing import changing, quantizing

    origin = variant.origin
    if origin is None:
        return None
    with progress.stage(f"{variant.name} graph, its numbers"):
        key = tuple(map(id, origin.changes))
        if key not in changed:
            try:
                changed[key] = changing(origin, golden.smallest.inputs)
            except RewriteError:  # the reference lacks an operator, which link 1 says
                changed[key] = None
        return changed[key] or quantizing(origin, variant.model)


def _keeping(variant: Variant, golden: Golden, rewriting: Rewriting | None, progress: Progress) -> LinkResult | None:
    """Link 2 of a variant whose roundings are not those that its source states itself; None where they are."""
    from edgeconv.flow.stated import stated_of
    from edgeconv.parity.quantizing import keeping

    if rewriting is None or rewriting.source is None or variant.plan is not None or not is_quantized(variant.model):
        return None
    with progress.stage(f"{variant.name} graph, its source's roundings"):
        try:
            stated = stated_of(rewriting.source, golden.smallest, rewriting.captured)
        except EdgeconvError:  # the source does not run, which its own row says
            return None
        graphs = rewriting.captured, rewriting.rewritten, variant.model
        return keeping(stated, *graphs, golden.smallest.inputs)


def _rounding(graph: Graph, rounded: Mapping[str, Array], golden: Golden, variant: str) -> LinkResult:
    """Link 2 of a variant: on all samples where its integers are known, else on the smallest."""
    from edgeconv.parity.rewriting import rounding

    if variant in golden.integers:
        return rounding(golden.integers[variant].run.outputs, golden.reference.outputs)
    index = golden.samples.index(golden.smallest)
    try:
        values = graph.values(golden.samples[index].inputs, rounded, graph.outputs)
    except RewriteError as error:
        return not_judged(Link.ROUNDING, error)
    return rounding([values], [golden.reference.outputs[index]])


def _put(links: Sequence[LinkResult], judged: Sequence[LinkResult]) -> tuple[LinkResult, ...]:
    """The links with some of them judged anew, in the order of the chain."""
    by_link = {link.link: link for link in (*links, *judged)}
    return tuple(sorted(by_link.values(), key=lambda item: item.link.number))


def _writing(graph: Graph, file: File, inputs: Mapping[str, Array], sample: str, matching: Matching) -> LinkResult:
    """Link 3; skipped where the reference lacks what the graph has, and broken where the file alone has it."""
    from edgeconv.parity.writing import writing

    own = {node.op_type for node in graph.model.graph.all_nodes()}
    if added := [name for name in file.unknown if name not in own]:
        return LinkResult(
            Link.WRITING, Verdict.FAIL, where=added[0], reason=f"the file has {', '.join(added)}, and the graph has not"
        )
    if file.unknown:
        return not_judged(Link.WRITING, f"the reference does not compute {', '.join(file.unknown)}")
    try:
        return writing(graph, file, inputs, sample, matching)
    except RewriteError as error:
        return not_judged(Link.WRITING, error)


def not_judged(link: Link, why: object) -> LinkResult:
    """A link that is skipped, and the reason."""
    return LinkResult(link, Verdict.SKIPPED, reason=f"not judged: {why}")


def opened(artifact: Artifact, graph: Graph, *, halves: bool = False) -> File:
    """The file, read back beside the graph that it was written from.

    Args:
        artifact: the file.
        graph: that it was written from.
        halves: whether an ``.onnx`` file computes in float16.

    Raises:
        EmitError: it cannot be read.
        RewriteError: a constant of it cannot be computed: a scale per channel along an axis of another size, say.
    """
    from edgeconv.parity.writing import OnnxFile, TfliteFile

    if artifact.format == "onnx":
        return OnnxFile(artifact.path, graph, halves=halves)
    return TfliteFile(tflite.read(artifact.path), graph, artifact.inputs, artifact.outputs, artifact.intermediates)


def one_row(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The first row of inputs whose batch is open: a `.tflite` file states a batch of one."""
    open_batch = {
        value.name for value in graph.model.graph.inputs if value.shape and not isinstance(value.shape[0], int)
    }
    return {name: array[:1] if name in open_batch else array for name, array in inputs.items()}
