"""`edgeconv cost`: what a network costs, layer by layer, beside ordinary convolutions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edgeconv.cli._console import print_table

if TYPE_CHECKING:
    from edgeconv.nn.cost import Amounts, Cost

_COLUMNS = ("layer", "kind", "output", "parameters", "MACs", "out KiB")
_ORDINARY = ("parameters", "MACs", "out KiB")


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (.toml).", metavar="RECIPE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> int:
    """Parameters, multiply-adds and activation memory per layer and in total, beside ordinary convolutions."""
    from edgeconv.recipe import load_recipe

    loaded = load_recipe(recipe)

    from edgeconv.nn.cost import cost
    from edgeconv.pipeline import job_of

    job = job_of(loaded, prove=False)
    result = cost(job.module, job.args)
    if as_json:
        total = {"own": dataclasses.asdict(result.own), "ordinary": dataclasses.asdict(result.ordinary)}
        print(json.dumps({**dataclasses.asdict(result), "total": total}, indent=2))
    else:
        print_table(_table(result))
        print(_summary(result))
    return 0


def _table(result: Cost) -> Table:
    table = Table(box=None, pad_edge=False, show_footer=True)
    footer = ("total", "", "", *_amounts(result.own), *_amounts(result.ordinary))
    titles = (*_COLUMNS, *(f"ordinary {title}" for title in _ORDINARY))
    for index, (title, foot) in enumerate(zip(titles, footer, strict=True)):
        table.add_column(title, foot, justify="left" if index < 3 else "right", no_wrap=True)
    for layer in result.layers:
        shape = "x".join(str(dim) for dim in layer.output_shape)
        table.add_row(layer.name, layer.kind, shape, *_amounts(layer.own), *_amounts(layer.ordinary))
    return table


def _amounts(amounts: Amounts) -> tuple[str, str, str]:
    return (f"{amounts.parameters:,}", f"{amounts.macs:,}", f"{amounts.activation_bytes / 1024:,.1f}")


def _summary(result: Cost) -> str:
    own, ordinary = result.own, result.ordinary
    if not result.pairs:
        return "no depthwise-pointwise pair found: the ordinary network is the same"
    return (
        f"{result.pairs} depthwise-pointwise pairs: {own.macs / ordinary.macs:.1%} of the multiply-adds and "
        f"{own.parameters / ordinary.parameters:.1%} of the parameters of the same network with ordinary convolutions"
    )
