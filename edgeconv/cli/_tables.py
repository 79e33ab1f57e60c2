"""Tables on the terminal and in logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgeconv.cli._streams import writing
from edgeconv.errors import printable


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    styles: Sequence[str] = (),
    footer: Sequence[str] = (),
) -> None:
    """Prints a table at its full width: lines that a narrow terminal wraps are better than cells cut off.

    Args:
        titles: of the columns.
        rows: their cells; shown as they are, never read as markup.
        right: titles of the columns that are aligned to the right.
        styles: rich's style of each row, on a terminal.
        footer: a last row.
    """
    from rich.cells import cell_len  # here, and not for `--help` and what prints no table
    from rich.console import Console as RichConsole
    from rich.text import Text

    lines = [titles, *rows, *([footer] if footer else [])]
    cells = [[printable(cell) for cell in line] for line in lines]
    widths = [max(cell_len(line[index]) for line in cells) for index in range(len(titles))]
    row_styles = styles or [""] * len(rows)
    console = RichConsole()
    with writing():
        for line, style in zip(cells, ("bold", *row_styles, *(["bold"] if footer else [])), strict=True):
            columns = zip(line, widths, titles, strict=True)
            padded = (_padded(cell, width - cell_len(cell), right=title in right) for cell, width, title in columns)
            console.print(Text("  ".join(padded).rstrip(), style=style), soft_wrap=True)


def _padded(cell: str, missing: int, *, right: bool) -> str:
    space = " " * missing
    return space + cell if right else cell + space
