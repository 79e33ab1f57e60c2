"""`edgeconv export`: recipes to artifacts and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._limits import TimeLimit
from edgeconv.cli._shapes import stated_shapes, stated_values
from edgeconv.cli._streams import results_only, say
from edgeconv.cli._supervisor import limit, writes_to
from edgeconv.cli._verdicts import show_report, tell_failures, tell_warnings
from edgeconv.cli.exit_codes import FAILED, OK
from edgeconv.core.named_files import is_onnx, subfolder
from edgeconv.errors import EmitError, RecipeError, printable
from edgeconv.flow.output import settle

if TYPE_CHECKING:
    from edgeconv.recipe import Recipe


def command(
    inputs: Annotated[list[Path], typer.Argument(help="Recipes (.toml) or models (.onnx).", metavar="FILE...")],
    out: Annotated[Path, typer.Option(help="The files of each go to OUT/<its name>/.")] = Path("artifacts"),
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Of an input that the .onnx file leaves open; may be repeated.", metavar="NAME=1,3,224,224"),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Fix an input to a number; branches on it dissolve. May be repeated.", metavar="NAME=NUMBER"
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Parity inputs of the .onnx file: an .npz with an array per input.", metavar="FILE.npz"),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Make this variant instead of the recipe's: fp32, fp16, int8, …; may be repeated."),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Make this format only: onnx or tflite; may be repeated."),
    ] = None,
    c_array: Annotated[
        bool, typer.Option("--c-array", help="Write each .tflite file as C source, too, with an input and its output.")
    ] = False,
    device: Annotated[
        list[str] | None, typer.Option(help="Prove on this device instead of the recipe's; may be repeated.")
    ] = None,
    parity: Annotated[bool, typer.Option(help="Run the files on devices and write the report.")] = True,
    no_rewrite: Annotated[list[str] | None, typer.Option(help="Leave out this rewrite; may be repeated.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    timeout: TimeLimit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> int:
    """Export recipes and .onnx files to .onnx and .tflite files and prove them against their source.

    A dimension in front may have a name (--shape x=batch,3,224,224): it stays open in the files.

    Exits with 1 when a comparison fails; the report says which.
    """
    limit(timeout)
    # All are read first, so that a mistake in the last one is reported before the first one's work.
    loaded = _recipes(inputs, shape or [], samples, fixed or [])
    twice = {recipe.name for recipe in loaded if [other.name for other in loaded].count(recipe.name) > 1}
    if twice:
        what = f"two recipes are named {min(twice)!r}"
        raise RecipeError(what, hint="their files would overwrite each other; rename one")

    from edgeconv.flow.pipeline import export_recipe

    silent = quiet or as_json
    progress = progress_for(silent=silent)
    results: list[dict[str, Any]] = []
    failed = False
    for recipe in loaded:
        folder = subfolder(out, recipe.name, error=EmitError)
        writes_to(folder)
        if not silent:
            say(printable(f"{recipe.name} -> {folder}"))
        with results_only(when=silent):
            result = export_recipe(
                recipe,
                folder,
                devices=device,
                prove=parity,
                formats=formats,
                variants=variant,
                c_array=c_array or None,
                skip_rewrites=tuple(no_rewrite or ()),
                progress=progress,
            )
        tell_warnings(result.warnings, folder)
        if result.report is not None:
            failed |= result.report.verdict.value != "pass"
            if silent:
                tell_failures(result.report)
            else:
                show_report(result.report, folder)
        if as_json:
            results.append(_summary(recipe.name, folder, result))
    if as_json:
        say(json.dumps(results, indent=2))
    return FAILED if failed else OK


def _recipes(paths: list[Path], shapes: list[str], samples: Path | None, fixed: list[str]) -> list[Recipe]:
    from edgeconv.recipe import load_recipe, onnx_recipe, with_fixed

    if (shapes or samples is not None) and not (len(paths) == 1 and is_onnx(paths[0])):
        what = "these are about one .onnx file"
        hint = "export it alone, or state them in its recipe: [model] onnx, [[inputs]], [[parity.arrays]]"
        raise RecipeError(what, where="--shape" if shapes else "--samples", hint=hint)
    stated = stated_shapes(shapes)
    for path in filter(is_onnx, paths):  # an earlier export's, perhaps
        settle(path.parent)
    values = stated_values(fixed)
    if values and len(paths) != 1:
        raise RecipeError("it is about one file", where="--set", hint="export it alone, or state [model] fixed there")
    read = [onnx_recipe(path, shapes=stated, arrays=samples) if is_onnx(path) else load_recipe(path) for path in paths]
    return [with_fixed(recipe, values) for recipe in read] if values else read


def _summary(name: str, folder: Path, result: Any) -> dict[str, Any]:
    from edgeconv.report import to_json

    return {
        "recipe": name,
        "directory": str(folder),
        "artifacts": [{"file": item.path.name, "sha256": item.sha256} for item in result.artifacts],
        "report": None if result.report is None else json.loads(to_json(result.report)),
    }
