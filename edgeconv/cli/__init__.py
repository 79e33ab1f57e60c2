"""The command line: one file per verb.

`exit_codes` lists the exit codes.
"""

from __future__ import annotations

# First of all, since it guards the slow imports that follow.
from edgeconv.cli import _interrupts  # isort: split

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from edgeconv.cli import bench, bisect, completion, cost, devices, export, init, inspect, operators, parity, quantize
from edgeconv.cli._blame import blame, lacking
from edgeconv.cli._deferred import defer_sympy
from edgeconv.cli._streams import OutputError, prepare, say, tell, writing
from edgeconv.cli._supervisor import (
    LATE,
    Interrupted,
    Terminated,
    TimeLimitReached,
    asked_to_end,
    supervised,
    unlimited,
)
from edgeconv.cli.exit_codes import BUG, CLOSED_PIPE, INTERRUPTED, OK, SIGNALLED, USER_ERROR
from edgeconv.core.package import SUMMARY, VERSION, switch_off_telemetry
from edgeconv.errors import Caller, EdgeconvError, printable, telling

# Regular expressions on typer's and pydantic's messages, and what they are replaced by.
_TYPERS_WORDS = (
    (r"Input should be (a valid )?(number|integer|boolean)", r"should be a \2"),
    (r"Input should be", "should be"),
    (r"should be a integer", "should be an integer"),
    (r", unable to (parse|interpret) [^;]*", ""),
    (r"(greater|less) than or equal to", lambda match: "at least" if match[1] == "greater" else "at most"),
    (r"Value error, ", ""),
)
_LONGEST = 3_000  # characters of an error: a shape or a name of a damaged file may be endless

app = typer.Typer(
    help=SUMMARY,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("init")(init.command)
app.command("export")(export.command)
app.command("quantize")(quantize.command)
app.command("parity")(parity.command)
app.command("bisect")(bisect.command)
app.command("devices")(devices.command)
app.command("inspect")(inspect.command)
app.command("cost")(cost.command)
app.command("bench")(bench.command)
app.command("operators")(operators.command)
app.command("completion")(completion.command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and exit.")
) -> None:
    if version:
        say(f"edgeconv {VERSION}")
    elif context.invoked_subcommand is None:
        say(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; errors are printed to stderr."""
    prepare()
    try:
        Path.cwd()
    except OSError as error:
        return _refuse(f"the working folder is gone ({error.strerror}); change into one that is there")
    try:
        with telling(Caller.COMMAND_LINE), _signals_first():
            code = _invoke(arguments)
        with writing():  # flushes what is left in the buffer: a full disk is met now, and not when the interpreter ends
            return code
    except EdgeconvError as error:
        return _refuse(lacking(error) or str(error))
    except TyperException as error:
        return _refuse(f"{_in_our_words(getattr(error, 'format_message', error.__str__)())}; see `edgeconv --help`")
    except OutputError as error:
        if isinstance(error.cause, BrokenPipeError):
            return CLOSED_PIPE
        return _refuse(f"standard output: cannot write: {error.cause.strerror}; make room, or send it elsewhere")
    except OSError as error:
        return _left_by_the_system(error)
    except Exception as error:  # noqa: BLE001  (the border to the user: whatever is left is a bug of ours)
        line = blame(error)
        return _refuse(line) if line else _bug()
    except BaseException as end:  # noqa: BLE001  (a signal, a limit, or what the module's code has made of its own)
        return _answer_to(end)
    finally:
        unlimited()


@contextmanager
def _signals_first() -> Iterator[None]:
    """Reports the signal where libraries fail because a signal is ending the program."""
    try:
        yield
    except Exception:  # whatever the library made of the interruption
        end = asked_to_end()
        if end is None:
            raise
        raise end from None


def main() -> None:
    """Entry point of the ``edgeconv`` script."""
    prepare()  # before the pipe to the child, which would take the place of a closed stream
    switch_off_telemetry()
    defer_sympy()
    if completion.VARIABLE in os.environ:
        sys.exit(completion.answer(_commands()))  # at once: somebody waits for it at a key
    sys.exit(supervised(lambda: run(sys.argv[1:])))


def _invoke(arguments: Sequence[str]) -> int:
    """Parses and runs a command; typer's own `main` would swallow interrupts and closed pipes silently."""
    _refuse_empty(arguments)
    try:
        with _commands().make_context("edgeconv", list(arguments)) as context:
            code = _commands().invoke(context)
    except typer.Exit as end:
        code = end.exit_code
    return code if isinstance(code, int) else OK


def _refuse_empty(arguments: Sequence[str]) -> None:
    """No value may be empty: an unset variable of a shell script would make ``--out`` the working folder.

    Raises:
        EdgeconvError: an argument is empty, or ``--option=`` says nothing.
    """
    for before, argument in pairwise(["", *arguments]):
        option, sign, value = argument.partition("=")
        if not argument:
            where = f"the argument behind {before}" if before else "the first argument"
        elif option.startswith("--") and sign and not value:
            where = option
        else:
            continue
        raise EdgeconvError("is empty (an unset variable?)", where=where, hint="give a value, or leave it out")


@cache
def _commands() -> TyperGroup:
    """The verbs with their options; cached, since typer takes long to read them from annotations."""
    return typer.main.get_group(app)


def _answer_to(end: BaseException) -> int:
    """Exit code and message for signals, time limits, SystemExit and other BaseExceptions."""
    if isinstance(end, Terminated):
        return _ended("terminated", SIGNALLED + end.number)
    if isinstance(end, TimeLimitReached):
        return _refuse(LATE.format(end.seconds))
    if isinstance(end, KeyboardInterrupt):
        # In a program that calls `run` without the supervisor, Python's own handler raises a plain KeyboardInterrupt.
        ours = isinstance(end, Interrupted) or signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            return _ended("interrupted", INTERRUPTED)
    if isinstance(end, SystemExit):
        if isinstance(end.__context__, BrokenPipeError):  # rich's answer to a pipe that its reader closed
            return CLOSED_PIPE
        return _refuse(f"the module's code called sys.exit({end.code!r}); fix it, it must not end the process")
    message = f": {end}" if str(end) else ""
    return _refuse(f"the module's code raised {type(end).__name__}{message}; fix it, it must not end the process")


def _ended(how: str, code: int) -> int:
    tell(f"edgeconv: {how}; what was finished stays, the rest left nothing behind")
    return code


def _refuse(message: str) -> int:
    tell(printable(f"edgeconv: error: {_shortened(' '.join(message.split()))}"))
    return USER_ERROR


def _in_our_words(message: str) -> str:
    """Typer's message on an option's value, without pydantic's wording."""
    for pattern, words in _TYPERS_WORDS:
        message = re.sub(pattern, words, message)
    return message


def _shortened(line: str) -> str:
    """A very long line without its middle: the start says what is wrong, the end holds the hint."""
    if len(line) <= _LONGEST:
        return line
    start, end = line[: 2 * _LONGEST // 3], line[-_LONGEST // 4 :]
    return f"{start} … ({len(line) - len(start) - len(end):,} characters) … {end}"


def _left_by_the_system(error: OSError) -> int:
    """An OSError that no stage mapped: help text into a closed pipe or a full disk, or no room for temporary files."""
    with suppress(OutputError), writing():
        pass  # drops what is left of the output, if it is the output that cannot be written
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    line = blame(error)
    return _refuse(line) if line else _bug()


def _bug() -> int:
    tell(traceback.format_exc().rstrip())
    tell("edgeconv: this is a bug of edgeconv's: please report it with the traceback above")
    return BUG


_interrupts.put_back()
