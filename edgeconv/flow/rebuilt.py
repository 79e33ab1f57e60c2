"""What a recipe says that files were written from, computed again: for the proof of files that exist already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeconv.core import Artifact, Emitted
from edgeconv.core.named_files import is_onnx
from edgeconv.core.package import VERSION
from edgeconv.core.search_target import Target
from edgeconv.core.variants import MIXED
from edgeconv.flow.file_names import artifact_name
from edgeconv.flow.job import Job, job_of
from edgeconv.flow.rewriting import Rewriting, rewritten
from edgeconv.flow.source import failing_as_a_file
from edgeconv.flow.target import variants_of_job, with_target
from edgeconv.flow.variant import Variant
from edgeconv.flow.writing import emit_file, intermediates_of
from edgeconv.progress import Progress
from edgeconv.recipe import FORMATS, Recipe
from edgeconv.report import LEFT_OUT, Report, names_listed

_FLOATS = ("fp32", "fp16")  # that nothing but the source decides
_ALONE = (*_FLOATS, "int8-weights")  # whose numbers are the same whatever else is exported
_SIXTEEN = "int16x8"


@dataclass(frozen=True)
class Rebuilt:
    """Graphs that files were written from.

    Attributes:
        variants: of the files, with the intermediates that these would have if written now.
        rewriting: the captured and the rewritten graph, for link 1; None where there are no variants.
    """

    variants: tuple[Variant, ...] = ()
    rewriting: Rewriting | None = None

    @property
    def names(self) -> frozenset[str]:
        """Of the variants."""
        return frozenset(variant.name for variant in self.variants)


def rebuilt(recipe: Recipe, artifacts: Sequence[Artifact], report: Report, progress: Progress) -> Rebuilt:
    """The graphs that a recipe says files of an earlier export were written from; nothing is written.

    Args:
        recipe: that the files were exported from, by what it states itself. An ``.onnx`` file in its place does not
            say how a variant was quantized, unless it is quantized itself: then there are no variants but fp32 and
            fp16, and none where the files were exported from something else.
        artifacts: the files.
        report: the earlier one; its target, if any, is searched for again, without the rewrites that it left out.
        progress: notified of the stages.

    Raises:
        EdgeconvError: as `export_recipe`.
    """
    variants = tuple(dict.fromkeys(item.variant for item in artifacts))
    formats = tuple(format_ for format_ in FORMATS if any(item.format == format_ for item in artifacts))
    left_out = names_listed(report.environment, LEFT_OUT)
    job = job_of(recipe, formats=formats, variants=variants, skip_rewrites=left_out)
    if is_onnx(recipe.path) and not job.source.variant:
        variants = tuple(name for name in variants if name in _FLOATS and job.metadata == report.source)
        if not variants:
            return Rebuilt()
        job = dataclasses.replace(job, variants=variants)
    target_search = report.target_search
    # The target of int8-mixed follows from the recipe's own thresholds (`with_thresholds`); another was an argument.
    if target_search is not None and target_search.variant != MIXED:
        job = with_target(job, recipe, Target(sqnr_db=target_search.sqnr_db, agreement=target_search.agreement))
    job, of_job, rewriting = _rebuilt(job, progress)
    with_intermediates = (dataclasses.replace(item, intermediates=intermediates_of(job, item)) for item in of_job)
    return Rebuilt(tuple(with_intermediates), rewriting)


@dataclass(frozen=True)
class WrittenAgain:
    """A file as an export of a recipe would write it now, and what of.

    Attributes:
        name: of the file.
        variant: its graph.
        emitted: the file.
        rewriting: for link 1.
    """

    name: str
    variant: Variant
    emitted: Emitted
    rewriting: Rewriting | None


@dataclass(frozen=True)
class Exported:
    """What an export was asked for, as far as the integers of one of its variants depend on it.

    Attributes:
        formats: of all its files: integers suit the kernels of each of them.
        beside: a variant that it made, too: all of them have their channels in one order.
        is_proved: whether parity inputs judged a search for a target.
    """

    formats: tuple[str, ...]
    beside: tuple[str, ...] = ()
    is_proved: bool = True


def exports_with(recipe: Recipe, variant: str, format_: str) -> Iterator[Exported]:
    """The exports of a recipe that may have written a file, the likeliest first.

    Args:
        recipe: as of `rebuilt`.
        variant: of the file.
        format_: of the file.
    """
    for formats in dict.fromkeys(((*recipe.export.formats,), FORMATS, (format_,))):
        if format_ in formats:
            yield Exported(formats)
            if variant == MIXED:
                yield Exported(formats, is_proved=False)
            if variant == _SIXTEEN and "onnx" in formats:
                yield Exported(formats, ("int8",))
        if variant in _ALONE:
            return


def written_again(
    recipe: Recipe, variant: str, format_: str, layout: str, export: Exported, progress: Progress
) -> WrittenAgain:
    """One file, as an export of a recipe would write it now; it is not written.

    Args:
        recipe: as of `rebuilt`.
        variant: its name.
        format_: ``"onnx"`` or ``"tflite"``.
        layout: of the file's inputs and outputs.
        export: that wrote it.
        progress: notified of the stages.

    Raises:
        EdgeconvError: as `export_recipe`.
    """
    variants = (*export.beside, variant)
    job = job_of(recipe, prove=export.is_proved, formats=export.formats, variants=variants)
    job, (*_, of_job), rewriting = _rebuilt(job, progress)
    metadata = {"edgeconv_version": VERSION, "layout": layout, "variant": variant, **job.metadata}
    emitted = emit_file(job, metadata, of_job, format_, layout)
    return WrittenAgain(artifact_name(job.name, variant, format_, layout), of_job, emitted, rewriting)


def _rebuilt(job: Job, progress: Progress) -> tuple[Job, tuple[Variant, ...], Rewriting | None]:
    with failing_as_a_file(job.source):
        model, rewriting, _ = rewritten(job.source, job.skip_rewrites, progress, is_proved=True)
        job, variants = variants_of_job(job, model, progress)
        return job, variants, rewriting
