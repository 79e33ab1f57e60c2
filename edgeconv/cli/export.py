"""`edgeconv export`: recipes to artifacts and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._streams import printable, results_only, say
from edgeconv.cli._verdicts import show_report, tell_failures
from edgeconv.errors import RecipeError


def command(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files (.toml).", metavar="RECIPE...")],
    out: Annotated[Path, typer.Option(help="Each recipe's files go to OUT/<recipe name>/.")] = Path("artifacts"),
    device: Annotated[
        list[str] | None, typer.Option(help="Prove on this device instead of the recipe's; may be repeated.")
    ] = None,
    parity: Annotated[bool, typer.Option(help="Run the files on devices and write the report.")] = True,
    no_rewrite: Annotated[list[str] | None, typer.Option(help="Leave out this rewrite; may be repeated.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> int:
    """Export recipes to .onnx and .tflite files and prove them against torch.

    Exits with 1 when a comparison fails; the report says which.
    """
    from edgeconv.recipe import load_recipe

    loaded = [load_recipe(path) for path in recipes]  # a mistake in the last one is told before the first one's work
    twice = {recipe.name for recipe in loaded if [other.name for other in loaded].count(recipe.name) > 1}
    if twice:
        raise RecipeError(
            f"two recipes are named {min(twice)!r}", mend="their files would overwrite each other; rename one"
        )

    from edgeconv.pipeline import export_recipe

    silent = quiet or as_json
    progress = progress_for(silent=silent)
    results: list[dict[str, Any]] = []
    failed = False
    for recipe in loaded:
        folder = out / recipe.name
        if not silent:
            say(printable(f"{recipe.name} -> {folder}"))
        with results_only(when=silent):
            result = export_recipe(
                recipe,
                folder,
                devices=device,
                prove=parity,
                skip_rewrites=tuple(no_rewrite or ()),
                progress=progress,
            )
        if result.report is not None:
            failed |= result.report.verdict.value != "pass"
            if silent:
                tell_failures(result.report)
            else:
                show_report(result.report, folder)
        results.append(_summary(recipe.name, folder, result))
    if as_json:
        say(json.dumps(results, indent=2))
    return 1 if failed else 0


def _summary(name: str, folder: Path, result: Any) -> dict[str, Any]:
    from edgeconv.report import to_json

    return {
        "recipe": name,
        "directory": str(folder),
        "artifacts": [{"file": item.path.name, "sha256": item.sha256} for item in result.artifacts],
        "report": None if result.report is None else json.loads(to_json(result.report)),
    }
