"""`edgeconv parity`: repeat the proof of files that were exported before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._streams import results_only, say
from edgeconv.cli._verdicts import show_report, tell_failures
from edgeconv.errors import ParityError
from edgeconv.prove import JSON, repeat

if TYPE_CHECKING:
    from edgeconv.source import Source


def command(
    directory: Annotated[Path, typer.Argument(help="An export's folder, or a folder of such folders.", metavar="DIR")],
    device: Annotated[
        list[str] | None, typer.Option(help="Run on this device instead of the report's; may be repeated.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Build the module (or read the .onnx file) again, to run it too and check the golden values."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the new reports to OUT/<folder's name>/ and leave DIR as it is.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> int:
    """Run exported files on their devices again and compare with the golden values stored beside them.

    Needs no torch module: the folder can be taken to another machine. Exits with 1 when a comparison fails.
    """
    from edgeconv.report import to_json

    folders = (
        [directory] if (directory / JSON).exists() else sorted(path.parent for path in directory.glob(f"*/{JSON}"))
    )
    if not folders:
        raise ParityError(f"no {JSON} here", where=str(directory), mend="give the folder of an export with a report")
    silent = quiet or as_json
    with results_only(when=silent):
        source = _source_of(recipe)
    progress = progress_for(silent=silent)
    reports = []
    for folder in folders:
        with results_only(when=silent):
            where = out / folder.resolve().name if out else folder
            report = repeat(folder, devices=device, source=source, progress=progress, out=where)
        reports.append(report)
        if silent:
            tell_failures(report)
        else:
            show_report(report, where)
    if as_json:
        say(json.dumps([json.loads(to_json(report)) for report in reports], indent=2))
    return 1 if any(report.verdict.value != "pass" for report in reports) else 0


def _source_of(recipe_path: Path | None) -> Source | None:
    """What the recipe exports, to be run on the golden samples."""
    if recipe_path is None:
        return None
    from edgeconv.job import job_of
    from edgeconv.recipe import load_recipe, onnx_recipe

    read = onnx_recipe if recipe_path.suffix == ".onnx" else load_recipe
    return job_of(read(recipe_path), prove=False).source
