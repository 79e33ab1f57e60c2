"""`edgeconv cost`: what a network costs, layer by layer, beside ordinary convolutions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli._limits import TimeLimit
from edgeconv.cli._streams import results_only, say
from edgeconv.cli._supervisor import limit
from edgeconv.cli._tables import print_table
from edgeconv.cli.exit_codes import OK
from edgeconv.core.named_files import is_onnx
from edgeconv.errors import RecipeError

if TYPE_CHECKING:
    from edgeconv.flow.cost import Amounts, Cost

_COLUMNS = ("layer", "kind", "output", "parameters", "MACs", "out KiB")
_ORDINARY = ("parameters", "MACs", "out KiB")


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (.toml).", metavar="RECIPE")],
    timeout: TimeLimit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> int:
    """Parameters, multiply-adds and activation memory per layer and in total, beside ordinary convolutions."""
    limit(timeout)
    from edgeconv.recipe import load_recipe

    if is_onnx(recipe):
        what = "cost counts the layers of a module, and this is an .onnx file"
        raise RecipeError(what, where=str(recipe), hint="give the recipe of a module")
    loaded = load_recipe(recipe)

    from edgeconv.flow.cost import cost
    from edgeconv.flow.job import job_of
    from edgeconv.flow.source import TorchSource

    with results_only(when=as_json):
        source = job_of(loaded, prove=False).source
        if not isinstance(source, TorchSource):
            what = "cost counts the layers of a module, and this recipe names an .onnx file"
            raise RecipeError(what, where=str(recipe), hint="give the recipe of a module")
        result = cost(source.module, source.args)
    if as_json:
        say(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        _print_layers(result)
        say(_summary(result))
    return OK


def _print_layers(result: Cost) -> None:
    titles = (*_COLUMNS, *(f"ordinary {title}" for title in _ORDINARY))
    rows = [
        (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            *_amounts(layer.own),
            *_amounts(layer.ordinary),
        )
        for layer in result.layers
    ]
    footer = ("total", "", "", *_amounts(result.own), *_amounts(result.ordinary))
    print_table(titles, rows, right=titles[3:], footer=footer)


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
