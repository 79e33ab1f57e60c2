"""`edgeconv bisect`: a broken layer as files that need only a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._limits import TimeLimit
from edgeconv.cli._shapes import recipe_of
from edgeconv.cli._streams import results_only, say
from edgeconv.cli._supervisor import limit, writes_to
from edgeconv.cli.exit_codes import OK
from edgeconv.core.named_files import subfolder
from edgeconv.errors import EmitError, printable
from edgeconv.flow.output import settle

if TYPE_CHECKING:
    from edgeconv.flow.bisect import Rebuild
    from edgeconv.flow.source import Source
    from edgeconv.progress import Progress

_FOLDER = "bisect"


def command(
    directory: Annotated[Path, typer.Argument(help="An export's folder, with its report.", metavar="DIR")],
    layer: Annotated[
        str | None, typer.Option(help="This layer in place of the first broken one: a value's name, or its module's.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="What was exported: the expected output is then what its graph computes, not the file."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option("--set", help="As the export with this recipe was told; may be repeated.", metavar="NAME=NUMBER"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead of DIR/bisect/.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    timeout: TimeLimit = None,
) -> int:
    """Cut the first broken layer out of each file: a model, its arrays, and a script that prints actual and expected.

    The script needs numpy and the runtime (onnxruntime, or ai-edge-litert or tflite-runtime), and nothing of edgeconv.
    """
    limit(timeout)
    from edgeconv.flow.bisect import bisect

    settle(directory)
    where = out if out is not None else subfolder(directory, _FOLDER, error=EmitError)
    writes_to(where)
    with results_only(when=quiet):
        by_recipe: _ByRecipe = {} if recipe is None else _by_recipe(recipe, fixed or [], progress_for(silent=quiet))
        written = bisect(directory, where, layer=layer, **by_recipe)
    for item in () if quiet else written:
        say(printable(f"{item.artifact}: layer {item.layer}" + (f": {item.why}" if item.why else "")))
        say(printable(f"  python {item.script} (what is expected is {item.expected})"))
    return OK


class _ByRecipe(TypedDict, total=False):
    """The arguments of `bisect` that a recipe gives."""

    rebuild: Rebuild
    source: Source


def _by_recipe(path: Path, fixed: list[str], progress: Progress) -> _ByRecipe:
    from edgeconv.flow.job import job_of
    from edgeconv.flow.rebuilt import rebuilt

    recipe = recipe_of(path, [], fixed)
    return {
        "rebuild": lambda artifacts, report: rebuilt(recipe, artifacts, report, progress).variants,
        "source": job_of(recipe, prove=False).source,
    }
