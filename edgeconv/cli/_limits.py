"""How long a command may take."""

from __future__ import annotations

from typing import Annotated

import typer

LONGEST_S = 1e9  # timers and waits of the system take no more
_SHORTEST_S = 0.1  # in which nothing starts


def seconds(text: str | float) -> float:
    """A time limit as it is typed.

    Raises:
        typer.BadParameter: it is no number of seconds that a timer takes.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not _SHORTEST_S <= value <= LONGEST_S:
        least = f"from {_SHORTEST_S:g} to {LONGEST_S:,.0f}"
        raise typer.BadParameter(f"{str(text)[:80]!r} is no number of seconds {least}; or leave it out")
    return value


TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        parser=seconds,
        metavar="SECONDS",
        help="End the whole command, the module's own code too, after so many seconds.",
    ),
]
