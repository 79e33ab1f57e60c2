"""A file that says edgeconv wrote it, held to what edgeconv writes of a recipe.

A converter's choices are its own, and those of edgeconv are known: with the recipe at hand, its graph is computed
again, and link 3 compares every number of the file, every scale of an activation and each name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.core import Artifact
from edgeconv.core.variants import VARIANTS
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.errors import EdgeconvError
from edgeconv.flow.file_names import data_name
from edgeconv.flow.links import with_links
from edgeconv.parity import Golden
from edgeconv.progress import Progress

if TYPE_CHECKING:
    from edgeconv.flow.rebuilt import WrittenAgain
    from edgeconv.parity.writing import Changes, ReadBack
    from edgeconv.recipe import Recipe

_LAYOUTS = {"onnx": ("nchw",), "tflite": ("nhwc", "nchw")}


@dataclass(frozen=True)
class OwnFile:
    """What is known of a file as one of edgeconv's.

    Attributes:
        links: 1 to 3, beside the graph that the recipe gives; none of a file that was written of something else.
        remark: a few words on that.
    """

    links: tuple[LinkResult, ...] = ()
    remark: str = ""

    @property
    def writing(self) -> LinkResult | None:
        """Link 3, where it was judged."""
        judged = (link for link in self.links if link.link is Link.WRITING and link.verdict is not Verdict.SKIPPED)
        return next(judged, None)


def beside_recipe(artifact: Artifact, file: ReadBack, recipe: Recipe, golden: Golden, progress: Progress) -> OwnFile:
    """Judges a file that says edgeconv wrote it, if it was written of this recipe.

    It was not where most of its numbers are others: of other weights, of other calibration data, by another version,
    or with options of the command line. Then it is judged as any converter's.

    Args:
        artifact: the file.
        file: the same, read back.
        recipe: of the network that it should be.
        golden: samples, and what the module computes of them.
        progress: notified of the stages.
    """
    from edgeconv.flow.rebuilt import exports_with, written_again

    variant, layout = file.writer.get("variant", ""), file.writer.get("layout", "")
    if variant not in VARIANTS or layout not in _LAYOUTS[artifact.format]:
        return OwnFile()
    nearest: tuple[Changes, WrittenAgain] | None = None
    for export in exports_with(recipe, variant, artifact.format):
        try:
            again = written_again(recipe, variant, artifact.format, layout, export, progress)
            changes = _changes(file, again)
        except EdgeconvError as error:
            return OwnFile(remark=f"edgeconv wrote it, and cannot write it of this recipe: {error}")
        if nearest is None or changes.count < nearest[0].count:
            nearest = changes, again
        if not changes.count:
            break
    if nearest is None or nearest[0].unlike:
        why = "" if nearest is None else f": {nearest[0].unlike}"
        return OwnFile(remark=f"edgeconv wrote it, and of something else than this recipe says{why}")
    links = _links(artifact, layout, nearest[1], golden, progress)
    return OwnFile(links, "it is what edgeconv writes of this recipe")


def _links(
    artifact: Artifact, layout: str, again: WrittenAgain, golden: Golden, progress: Progress
) -> tuple[LinkResult, ...]:
    emitted = again.emitted
    stated = replace(
        artifact,
        variant=again.variant.name,
        layout=layout,
        inputs=emitted.inputs,
        outputs=emitted.outputs,
        intermediates=emitted.intermediates,
        links=(),
    )
    (judged,) = with_links([stated], [again.variant], golden, progress, again.rewriting)
    return judged.links


def _changes(file: ReadBack, again: WrittenAgain) -> Changes:
    """What a file has otherwise than the one that would be written."""
    from edgeconv.parity.writing import read_back

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / again.name
        path.write_bytes(again.emitted.data)
        if again.emitted.external:
            with path.with_name(data_name(path.name)).open("wb") as beside:
                for part in again.emitted.external:
                    beside.write(part.tobytes())
        return file.contents.beside(read_back(path).contents)


def with_own(link: LinkResult, own: OwnFile) -> Sequence[LinkResult]:
    """The links of a file: link 3 as any converter's and as edgeconv's own, and those before it, where they are known.

    Args:
        link: link 3 of its outputs, layers and constants, as any converter's.
        own: of `beside_recipe`.
    """
    from edgeconv.parity.writing import with_faults

    judged = own.writing
    if judged is not None and judged.verdict is Verdict.FAIL:
        link = with_faults(link, [(judged.where, judged.reason)])
    elif judged is not None and link.verdict is Verdict.SKIPPED:
        link = judged
    elif own.remark:
        link = replace(link, reason="; ".join(filter(None, [link.reason, own.remark])))
    return [*(before for before in own.links if before.link is not Link.WRITING), link]
