"""`edgeconv init`: a commented recipe for a module of the user's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from edgeconv.cli._shapes import stated_shapes
from edgeconv.cli._streams import say
from edgeconv.cli.exit_codes import OK
from edgeconv.errors import RecipeError, printable

_T = TypeVar("_T")


def command(
    factory: Annotated[
        str | None,
        typer.Argument(
            help="A class or function that returns the module; beside the recipe, or installed.",
            metavar="PACKAGE.MODULE:CALLABLE",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="An argument of forward, in their order; may be repeated. x=batch,3,224,224 leaves the batch open.",
            metavar="NAME=1,3,224,224",
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Its weights: .safetensors, or a checkpoint (.pt, .pth).", metavar="FILE")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the exported files; by default the callable's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The recipe; by default NAME.toml.", metavar="FILE.toml")] = None,
) -> int:
    """Write a commented recipe for a module: what to export, and how it is proven.

    Asks for the module and the inputs where they are not stated and a person is there to answer. Nothing is imported or
    overwritten.
    """
    named = factory or _ask("The module (package.module:callable)", str.strip, "name package.module:callable")
    inputs = stated_shapes(shape or [])
    if not inputs:
        inputs = _ask(
            "Its inputs (x=1,3,224,224; several with a blank between)",
            lambda text: stated_shapes(text.split()),
            "state them with --shape NAME=1,3,224,224",
        )
    stem = name or _stem(named)
    path = out or Path(f"{stem}.toml")
    _write(path, named, inputs, stem, weights)
    say(printable(f"{path} is written; next: edgeconv export {path}"))
    return OK


def _ask(question: str, read: Callable[[str], _T], hint: str) -> _T:
    """The answer of the person at the terminal.

    Raises:
        RecipeError: nobody is there, or the answer is empty or cannot be read.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RecipeError(f"it is not stated, and there is no terminal to ask at: {question}", where="init", hint=hint)
    answer = read(input(f"{question}: "))
    if not answer:
        raise RecipeError("the answer is empty", where="init", hint=hint)
    return answer


def _stem(factory: str) -> str:
    """``my.nets:MobileNetV2.small`` -> ``mobilenetv2``: a name for files."""
    callable_name = factory.partition(":")[2] or factory
    return re.sub(r"[^a-z0-9_-]+", "-", callable_name.partition(".")[0].lower()).strip("-") or "model"


def _write(path: Path, factory: str, inputs: dict[str, tuple[int | str, ...]], name: str, weights: str | None) -> None:
    """Writes a recipe that is sound, to a file that is new.

    Raises:
        RecipeError: what was stated makes no recipe, or the file is there already or cannot be written.
    """
    from edgeconv.recipe.load import read_recipe
    from edgeconv.recipe.template import template

    text = template(factory, inputs, name=name, file=printable(path.name), weights=weights)
    if path.suffix.lower() != ".toml":
        raise RecipeError("a recipe's name ends in .toml", where=str(path), hint="name it so with --out")
    read_recipe(text, path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError("it is there already", where=str(path), hint="name another with --out") from error
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise RecipeError(what, where=str(path), hint="name another with --out") from error
