"""`edgeconv operators`: what can be exported, operator by operator."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli._streams import say
from edgeconv.cli._tables import print_table
from edgeconv.cli.exit_codes import OK
from edgeconv.errors import CaptureError, printable

if TYPE_CHECKING:
    from edgeconv.flow.operators import Row

_COLUMNS = ("operator", ".onnx", ".tflite", "int8", "int16x8", "open batch")
_LEGEND = (
    ".tflite no: refused by name. int8 and int16x8, float: computed in float between integers; parts: written out in "
    "operators of this table; dissolved: reading a file puts others, or constants, in its place. Open batch no: export "
    "with a fixed one. What depends on constants alone is computed at export, whatever its operators."
)


def command(
    names: Annotated[
        list[str] | None, typer.Argument(help="ONNX operators; all without any.", metavar="[OPERATOR...]")
    ] = None,
    torch: Annotated[
        bool, typer.Option("--torch", help="List torch's (ATen) operators that fast capture knows, by family.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--details", help="Say where each table has the operator, or why it has not (Markdown).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> int:
    """List the ONNX operators, and which formats and variants take each.

    A module with a torch operator that --torch does not list is captured by torch's own ONNX exporter.
    """
    from edgeconv.flow.operators import operators, rows

    if torch:
        if names or full:
            what = "it takes no names" if names else "it has no --details"
            raise CaptureError(what, where="--torch", hint="leave out one of them")
        families = dict(operators().aten)
        if as_json:
            say(json.dumps(families, indent=2))
        else:
            print_table(("family", "ATen operators"), [(name, ", ".join(aten)) for name, aten in families.items()])
        return OK
    chosen = _chosen(rows(), names or [])
    if full:
        _say_details({row.operator for row in chosen}, as_json=as_json)
        return OK
    if as_json:
        say(json.dumps([dataclasses.asdict(row) for row in chosen], indent=2))
        return OK
    print_table(_COLUMNS, [_cells(row) for row in chosen])
    say(_LEGEND)
    return OK


def _say_details(chosen: Collection[str], *, as_json: bool) -> None:
    from edgeconv.flow.operator_page import details, to_page

    page = [row for row in details() if row.operator in chosen]
    if as_json:
        say(json.dumps([dataclasses.asdict(row) | {"opsets": list(row.opsets)} for row in page], indent=2))
    else:
        say(to_page(page))


def _chosen(table: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows of these operators, whatever the case of their letters; all where none is named.

    Raises:
        CaptureError: there is no such operator.
    """
    by_name = {row.operator.lower(): row for row in table}
    for name in names:
        if name.lower() not in by_name:
            from edgeconv.core.values import close_to  # numpy, which the table does without

            near = close_to(name, [row.operator for row in table], most=3, likeness=0.6)
            hint = f"the nearest are {', '.join(near)}" if near else "`edgeconv operators` lists all"
            raise CaptureError(f"{printable(name)!r} is no ONNX operator that is exported", hint=hint)
    return [by_name[name.lower()] for name in names] if names else list(table)


def _cells(row: Row) -> tuple[str, ...]:
    tflite, batch = ("yes" if able else "no" for able in (row.tflite, row.batch))
    return (row.operator, "yes", tflite, row.int8, row.int16, batch)
