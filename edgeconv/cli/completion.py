"""`edgeconv completion`: the shell completes verbs and options. Scripts and answers are typer's."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer
from typer.core import TyperGroup

from edgeconv.cli._streams import say
from edgeconv.cli.exit_codes import OK

VARIABLE = "_EDGECONV_COMPLETE"
"""Set by the script when the shell asks what can stand next."""


class Shell(StrEnum):
    """The shells that have a completion script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def command(shell: Annotated[Shell, typer.Argument(help="The shell that is to complete.")]) -> int:
    """Print the script that completes edgeconv's verbs and options.

    Its place is the shell's start-up file: eval "$(edgeconv completion bash)" in ~/.bashrc, the same with zsh behind
    compinit in ~/.zshrc; for fish, edgeconv completion fish > ~/.config/fish/completions/edgeconv.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # public by its name alone

    say(get_completion_script(prog_name="edgeconv", complete_var=VARIABLE, shell=shell.value))
    return OK


def answer(commands: TyperGroup) -> int:
    """Tells the shell what can stand next, as the script asks in the environment; returns the exit code."""
    from typer.completion import completion_init, shell_complete  # type: ignore[attr-defined]

    completion_init()
    return shell_complete(commands, {}, "edgeconv", VARIABLE, os.environ[VARIABLE])
