"""`edgeconv quantize`: as many of the worst layers in float as a target needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._limits import TimeLimit
from edgeconv.cli._streams import results_only, say, tell
from edgeconv.cli._supervisor import limit, writes_to
from edgeconv.cli._tables import print_table
from edgeconv.cli._verdicts import show_report, tell_failures, tell_warnings
from edgeconv.cli.exit_codes import FAILED, OK
from edgeconv.core.named_files import subfolder
from edgeconv.errors import EmitError, QuantizeError, TargetError, printable

if TYPE_CHECKING:
    from edgeconv.flow.pipeline import ExportResult
    from edgeconv.report import TargetSearch


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.toml) that names calibration data.", metavar="RECIPE")],
    target_sqnr: Annotated[float | None, typer.Option(help="Least SQNR of every output, dB.", metavar="DB")] = None,
    target_agreement: Annotated[
        float | None, typer.Option(help="Least share of inputs of the float model's class, 0 to 1.", metavar="SHARE")
    ] = None,
    variant: Annotated[str, typer.Option(help="What to quantize to: int8 or int16x8.")] = "int8",
    out: Annotated[Path, typer.Option(help="The files go to OUT/<the recipe's name>/.")] = Path("artifacts"),
    device: Annotated[
        list[str] | None, typer.Option(help="Prove on this device instead of the recipe's; may be repeated.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the table only.")] = False,
    timeout: TimeLimit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> int:
    """Quantize a model, with as many of its worst layers in float as a target needs.

    Each layer's share of the error is measured, then the number of the worst that stay in float is bisected: with one
    fewer the target does not hold. The files, the plan and the report, which shows error against latency and size, go
    to OUT.

    Exits with 1 when the target cannot be reached, or a device falls short of it.
    """
    limit(timeout)
    if (target_sqnr is None) == (target_agreement is None):
        many = "both targets are" if target_sqnr is not None else "no target is"
        raise QuantizeError(f"{many} given", hint="give --target-sqnr or --target-agreement")
    from edgeconv.core.search_target import Target
    from edgeconv.flow.target import TARGETED
    from edgeconv.recipe import load_recipe

    target = Target(sqnr_db=target_sqnr, agreement=target_agreement)
    if variant not in TARGETED:
        raise QuantizeError(f"no target is for {variant!r}", where="--variant", hint=f"choose of {', '.join(TARGETED)}")
    loaded = load_recipe(recipe)
    folder, silent = subfolder(out, loaded.name, error=EmitError), quiet or as_json
    writes_to(folder)
    if not silent:
        say(printable(f"{loaded.name} -> {folder}"))

    from edgeconv.flow.pipeline import export_recipe

    try:
        with results_only(when=silent):
            result = export_recipe(
                loaded, folder, devices=device, variants=[variant], target=target, progress=progress_for(silent=silent)
            )
    except TargetError as missed:
        tell(printable(f"edgeconv: failed: {loaded.name}: {missed}"))
        return FAILED
    return _print_result(result, folder, quiet=quiet, as_json=as_json)


def _print_result(result: ExportResult, folder: Path, *, quiet: bool, as_json: bool) -> int:
    from edgeconv.report import to_json

    tell_warnings(result.warnings, folder)
    report = result.report
    assert report is not None  # a recipe's job is proven
    assert report.target_search is not None  # and has a target
    if as_json:
        files: list[dict[str, Any]] = [{"file": item.path.name, "sha256": item.sha256} for item in result.artifacts]
        document = {"recipe": report.model, "directory": str(folder), "artifacts": files}
        say(json.dumps({**document, "report": json.loads(to_json(report))}, indent=2))
    else:
        _print_target_search(report.target_search)
        if not quiet:
            show_report(report, folder)
    if quiet or as_json:
        tell_failures(report)
    return OK if report.verdict.value == "pass" else FAILED


def _print_target_search(search: TargetSearch) -> None:
    formats = list(dict.fromkeys(name for point in search.points for name in point.size_bytes))
    devices = list(dict.fromkeys(name for point in search.points for name in point.latency_ms))
    sizes, times = [f".{name} bytes" for name in formats], [f"{name} ms" for name in devices]
    shares = {
        "agreement": [point.agreement for point in search.points],
        "indices": [point.index_agreement for point in search.points],
    }
    shares = {title: column for title, column in shares.items() if any(share is not None for share in column)}
    titles = ["in float", "SQNR dB", *shares, *sizes, *times, ""]
    rows = []
    for at, point in enumerate(search.points):
        row = [f"{point.kept} of {search.layers}", f"{point.sqnr_db:.2f}"]
        row += ["-" if column[at] is None else f"{column[at]:.2%}" for column in shares.values()]
        row += [f"{point.size_bytes[name]:,}" if name in point.size_bytes else "-" for name in formats]
        row += [f"{point.latency_ms[name]:.3f}" if name in point.latency_ms else "-" for name in devices]
        rows.append([*row, "chosen" if point.chosen else ""])
    styles = ["bold green" if point.chosen else "" for point in search.points]
    print_table(titles, rows, right=titles[:-1], styles=styles)
    chosen = next((point for point in search.points if point.chosen), None)
    target = f"{search.sqnr_db:g} dB" if search.sqnr_db is not None else f"agreement {search.agreement:.4g}"
    if chosen is not None:
        layers = f"in float: {', '.join(chosen.layers)}" if chosen.layers else "every layer in integers"
        say(printable(f"{target} on {search.judged_on}: {layers}"))
