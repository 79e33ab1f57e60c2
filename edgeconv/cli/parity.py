"""`edgeconv parity`: repeat the proof of files that were exported before."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._limits import TimeLimit
from edgeconv.cli._shapes import stated_shapes, stated_values
from edgeconv.cli._streams import printable, results_only, say
from edgeconv.cli._supervisor import limit, writes_to
from edgeconv.cli._verdicts import show_report, tell_failures
from edgeconv.cli.exit_codes import FAILED, OK
from edgeconv.errors import EmitError, ParityError, RecipeError
from edgeconv.flow.output import settle
from edgeconv.named_files import is_onnx, subfolder, subfolders

if TYPE_CHECKING:
    from edgeconv.flow.judge import Proof
    from edgeconv.flow.prove import MakeProof, Rebuild
    from edgeconv.flow.source import Source
    from edgeconv.progress import Progress


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
    fixed: Annotated[
        list[str] | None,
        typer.Option("--set", help="As the export with this recipe was told; may be repeated.", metavar="NAME=NUMBER"),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Of an input that this .onnx file leaves open; may be repeated.", metavar="NAME=1,3,224,224"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the new reports to OUT/<folder's name>/ and leave DIR as it is.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    timeout: TimeLimit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> int:
    """Run exported files on their devices again and compare with the golden values stored beside them.

    Needs no torch module: the folder can be taken to another machine. Exits with 1 when a comparison fails.
    """
    limit(timeout)
    from edgeconv.flow.file_names import JSON
    from edgeconv.flow.prove import JUDGED_BY, repeat
    from edgeconv.report import to_json

    settle(directory)
    folders = _folders_of_reports(directory, JSON)
    silent = quiet or as_json
    if shape and not (recipe is not None and is_onnx(recipe)):
        raise RecipeError("it is about an .onnx file", where="--shape", hint="name the file with --recipe")
    if fixed and recipe is None:
        raise RecipeError("it is about what was exported", where="--set", hint="name that with --recipe")
    progress = progress_for(silent=silent)
    with results_only(when=silent):
        named: _FromRecipe = {} if recipe is None else _from_recipe(recipe, shape or [], fixed or [], progress)
    reports = []
    for folder in folders:
        with results_only(when=silent):
            where = subfolder(out, folder.resolve().name, error=EmitError) if out else folder
            writes_to(where)
            report = repeat(folder, devices=device, progress=progress, out=where, **named)
        reports.append(report)
        if silent:
            tell_failures(report)
        else:
            show_report(report, where)
            say(printable(f"judged by {report.environment[JUDGED_BY]}"))
    if as_json:
        say(json.dumps([json.loads(to_json(report)) for report in reports], indent=2))
    return FAILED if any(report.verdict.value != "pass" for report in reports) else OK


def _folders_of_reports(directory: Path, report_name: str) -> list[Path]:
    """The folder itself where it has a report, else those of its subfolders that have one.

    Raises:
        ParityError: there is none, or one is a link: a proof of the others alone would pass for one of all.
    """
    if os.path.lexists(directory / report_name):
        return [directory]
    folders = subfolders(directory, holding=report_name, linked=ParityError)
    if not folders:
        hint = "give the folder of an export with a report"
        raise ParityError(f"no {report_name} here", where=str(directory), hint=hint)
    return folders


class _FromRecipe(TypedDict, total=False):
    """The arguments of `repeat` that a recipe gives."""

    source: Source
    make_proof: MakeProof
    rebuild: Rebuild


def _from_recipe(recipe_path: Path, shapes: list[str], fixed: list[str], progress: Progress) -> _FromRecipe:
    """The recipe's source and proof, and the graphs that it quantizes, as arguments of `repeat`.

    An .onnx file in a recipe's place does not say which inputs it was proven on: the stored ones are used. Nor does it
    say how the variants were quantized, unless it is quantized itself.
    """
    from edgeconv.flow.job import job_of, proof_of
    from edgeconv.flow.pipeline import rebuilt_variants
    from edgeconv.recipe import load_recipe, onnx_recipe, with_fixed

    of_file = is_onnx(recipe_path)
    read = onnx_recipe(recipe_path, shapes=stated_shapes(shapes)) if of_file else load_recipe(recipe_path)
    values = stated_values(fixed)
    read = with_fixed(read, values) if values else read
    source = job_of(read, prove=False).source

    def make_proof(variants: tuple[str, ...]) -> Proof:
        proof = proof_of(read, source, variants)
        return dataclasses.replace(proof, samples=()) if of_file else proof

    named: _FromRecipe = {"source": source, "make_proof": make_proof}
    if not of_file or source.variant:
        named["rebuild"] = lambda artifacts, report: rebuilt_variants(read, artifacts, report, progress)
    return named
