"""How long a command may take."""

from __future__ import annotations

from typing import Annotated

import typer

TimeLimit = Annotated[
    float | None,
    typer.Option("--timeout", min=0.1, help="End the whole command, the module's own code too, after so many seconds."),
]
