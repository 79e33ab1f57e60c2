"""Imports the callable that ``package.module:callable`` in a recipe names; that code may do anything meanwhile."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, cast

from edgeconv.errors import RecipeError, raise_if_ending
from edgeconv.recipe.files import missing_package
from edgeconv.recipe.foreign import clause_of, foreign_line, prints_to_stderr, text_of
from edgeconv.recipe.imports import importing_from


def resolved(name: str, directory: Path, *, where: str) -> Callable[..., Any]:
    """The callable that ``package.module:callable`` names; it may lie in `directory` or the working folder.

    Raises:
        RecipeError: it cannot be imported, or is no callable.
    """
    with prints_to_stderr(), importing_from(directory):
        return imported(name, where)


def imported(factory: str, where: str) -> Callable[..., Any]:
    """The callable, found along the present import path; see `resolved`."""
    name, _, attribute = factory.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.partition(".")[0] == error.name:
            raise missing_package(error.name, where=where) from error
        what = f"cannot import {name!r}: {foreign_line(text_of(error))}"
        raise RecipeError(what, where=where, hint="correct the module's name, or install what it needs") from error
    except BaseException as error:  # a module may raise anything while it is imported
        raise_if_ending(error)
        what = f"cannot import {name!r}: it {clause_of(error)}"
        raise RecipeError(what, where=where, hint="fix that module") from error
    try:
        value = reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        raise RecipeError(foreign_line(text_of(error)), where=where, hint="write package.module:callable") from error
    except BaseException as error:  # a module may have a __getattr__, and a class properties
        raise_if_ending(error)
        raise RecipeError(f"{factory} {clause_of(error)}", where=where, hint="fix that module") from error
    if not callable(value):
        raise RecipeError(f"{factory} is no callable", where=where, hint="name a class or a function")
    return cast("Callable[..., Any]", value)
