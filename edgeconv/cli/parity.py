"""`edgeconv parity`: repeat the proof of files that were exported before."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._limits import TimeLimit
from edgeconv.cli._shapes import recipe_of
from edgeconv.cli._streams import results_only, say
from edgeconv.cli._supervisor import limit, writes_to
from edgeconv.cli._verdicts import show_report, tell_failures
from edgeconv.cli.exit_codes import FAILED, OK
from edgeconv.core.named_files import is_onnx, subfolder, subfolders
from edgeconv.errors import EmitError, ParityError, RecipeError, printable
from edgeconv.flow.output import settle

if TYPE_CHECKING:
    from edgeconv.core import Artifact
    from edgeconv.flow.foreign import Ends
    from edgeconv.flow.proof import Proof
    from edgeconv.flow.prove import MakeProof, Rebuild
    from edgeconv.flow.rebuilt import Rebuilt
    from edgeconv.flow.source import Source
    from edgeconv.progress import Progress
    from edgeconv.report import Report


def command(
    directory: Annotated[
        Path | None, typer.Argument(help="An export's folder, or a folder of such folders.", metavar="DIR")
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            help="Judge this file of any converter, in DIR's place, by --recipe or --against.", metavar="FILE"
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Run on this device instead of the report's; may be repeated.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            "--against",
            help="Build the module (or read the .onnx file) again, to run it too and check the golden values.",
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
    match: Annotated[
        list[str] | None,
        typer.Option(help="An input or output of the --artifact, and of the recipe.", metavar="THEIRS=OURS"),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Of the --artifact's inputs and outputs, where shapes do not tell: nhwc or nchw.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the new reports to OUT/<folder's name>/ and leave DIR as it is; an --artifact's to OUT."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    timeout: TimeLimit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> int:
    """Run exported files on their devices again and compare with the golden values stored beside them.

    Needs no torch module: the folder can be taken to another machine. With --artifact, judge a file that another
    converter wrote. Exits with 1 when a comparison fails.
    """
    limit(timeout)
    if shape and not (recipe is not None and is_onnx(recipe)):
        raise RecipeError("it is about an .onnx file", where="--shape", hint="name the file with --recipe")
    if fixed and recipe is None:
        raise RecipeError("it is about what was exported", where="--set", hint="name that with --recipe")
    silent = quiet or as_json
    progress = progress_for(silent=silent)
    if artifact is not None:
        if directory is not None or recipe is None or out is None:
            hint = "leave DIR out, and give --recipe or --against, and --out"
            raise ParityError("a file is judged alone, by a recipe, into a folder", where="--artifact", hint=hint)
        from edgeconv.flow.foreign import judge_file

        ends = _stated_ends(match or [], layout or "")
        read = recipe_of(recipe, shape or [], fixed or [])
        judge = partial(judge_file, artifact, read, out, devices=device, ends=ends, progress=progress)
        judged: list[tuple[Path, _Judge]] = [(out, judge)]
    elif match or layout or directory is None:
        what = "the folder of an export is missing" if directory is None else "--match and --layout are about a file"
        raise ParityError(what, hint="name a file of another converter with --artifact")
    else:
        judged = _judged_folders(directory, out, device, recipe, shape or [], fixed or [], progress, silent)
    return _judge_and_show(judged, as_json=as_json, silent=silent)


_Judge = Callable[[], "Report"]


def _judge_and_show(judged: Sequence[tuple[Path, _Judge]], *, as_json: bool, silent: bool) -> int:
    """Judges one folder or file after another and shows each report; returns the exit code."""
    from edgeconv.flow.environment import JUDGED_BY
    from edgeconv.report import to_json

    reports = []
    for folder, judge in judged:
        with results_only(when=silent):
            writes_to(folder)
            report = judge()
        reports.append(report)
        if silent:
            tell_failures(report)
        else:
            show_report(report, folder)
            say(printable(f"judged by {report.environment[JUDGED_BY]}"))
    if as_json:
        say(json.dumps([json.loads(to_json(report)) for report in reports], indent=2))
    return FAILED if any(report.verdict.value != "pass" for report in reports) else OK


def _judged_folders(
    directory: Path,
    out: Path | None,
    devices: list[str] | None,
    recipe: Path | None,
    shapes: list[str],
    fixed: list[str],
    progress: Progress,
    silent: bool,
) -> list[tuple[Path, _Judge]]:
    """For each folder with a report: where the new report goes, and the call that makes it."""
    from edgeconv.flow.prove import repeat

    settle(directory)
    folders = _folders_of_reports(directory)
    with results_only(when=silent):
        from_recipe: _FromRecipe = {} if recipe is None else _from_recipe(recipe, shapes, fixed, progress)
    places = [subfolder(out, folder.resolve().name, error=EmitError) if out else folder for folder in folders]
    return [
        (place, partial(repeat, folder, devices=devices, progress=progress, out=place, **from_recipe))
        for folder, place in zip(folders, places, strict=True)
    ]


def _folders_of_reports(directory: Path) -> list[Path]:
    """The folder itself where it has a report, else those of its subfolders that have one.

    Raises:
        ParityError: there is none, or one is a link: a proof of the others alone would pass for one of all.
    """
    from edgeconv.flow.file_names import JSON
    from edgeconv.flow.record import no_report

    if os.path.lexists(directory / JSON):
        return [directory]
    folders = subfolders(directory, holding=JSON, linked=ParityError)
    if not folders:
        raise no_report(directory)
    return folders


class _FromRecipe(TypedDict, total=False):
    """The arguments of `repeat` that a recipe gives."""

    source: Source
    make_proof: MakeProof
    rebuild: Rebuild


def _from_recipe(recipe_path: Path, shapes: list[str], fixed: list[str], progress: Progress) -> _FromRecipe:
    """The recipe's source and proof, and the graphs that it gives, as arguments of `repeat`.

    An .onnx file in a recipe's place does not say which inputs it was proven on: the stored ones are used.
    """
    from edgeconv.flow.job import job_of, proof_of
    from edgeconv.flow.rebuilt import rebuilt

    of_file = is_onnx(recipe_path)
    read = recipe_of(recipe_path, shapes, fixed)
    source = job_of(read, prove=False).source

    def make_proof(variants: tuple[str, ...]) -> Proof:
        proof = proof_of(read, source, variants)
        return dataclasses.replace(proof, samples=()) if of_file else proof

    def rebuild(artifacts: Sequence[Artifact], report: Report) -> Rebuilt:
        return rebuilt(read, artifacts, report, progress)

    return {"source": source, "make_proof": make_proof, "rebuild": rebuild}


def _stated_ends(matches: list[str], layout: str) -> Ends:
    """``--match images_nhwc=images`` and ``--layout nhwc``.

    Raises:
        ParityError: a text names no two, or there is no such layout.
    """
    from edgeconv.core import NCHW, NHWC
    from edgeconv.flow.foreign import Ends

    names: dict[str, str] = {}
    for text in matches:
        theirs, sign, ours = text.rpartition("=")
        if not sign or not theirs or not ours:
            raise ParityError(f"{text!r:.80} names no two", where="--match", hint="write THEIRS=OURS")
        names[theirs] = ours
    if layout and layout not in (NHWC, NCHW):
        raise ParityError(f"{layout!r:.80} is no layout", where="--layout", hint=f"write {NHWC} or {NCHW}")
    return Ends(names, layout)
