"""The command line: one file per verb.

Exit codes: 0 all good; 1 parity failed, which is a result; 2 the user's mistake, told in one line: what, where, the
mend; 3 a bug of ours, with its traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

import edgeconv
from edgeconv.cli import bench, cost, devices, export, inspect, parity
from edgeconv.errors import EdgeconvError

OK, PARITY_FAILED, USER_ERROR, BUG = 0, 1, 2, 3
INTERRUPTED, CLOSED_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells have it

app = typer.Typer(
    help=edgeconv.__doc__,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("export")(export.command)
app.command("parity")(parity.command)
app.command("devices")(devices.command)
app.command("inspect")(inspect.command)
app.command("cost")(cost.command)
app.command("bench")(bench.command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and exit.")
) -> None:
    if version:
        print(f"edgeconv {edgeconv.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; errors are printed to stderr."""
    try:
        code = app(list(arguments), prog_name="edgeconv", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except EdgeconvError as error:
        return _refuse(str(error))
    except TyperException as error:
        return _refuse(f"{getattr(error, 'format_message', error.__str__)()}; see `edgeconv --help`")
    except (KeyboardInterrupt, typer.Abort):
        print("edgeconv: interrupted; what was finished stays, the rest left nothing behind", file=sys.stderr)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # typer turns a pipe that its reader closed into sys.exit(1), which would say "parity failed".
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush finds a reader
            return CLOSED_PIPE
        return _refuse(f"the module's code called sys.exit({error.code!r}); mend it, it must not end the process")
    except Exception:  # noqa: BLE001  (the border to the user: whatever is left is a bug of ours)
        traceback.print_exc()
        print("edgeconv: this is a bug of edgeconv's: please report it with the traceback above", file=sys.stderr)
        return BUG


def main() -> None:
    """Entry point of the ``edgeconv`` script."""
    sys.exit(run(sys.argv[1:]))


def _refuse(message: str) -> int:
    print(f"edgeconv: error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
