"""Reads torch checkpoints safely, and says what is wrong with one that cannot be read.

torch's own messages advise to load the file again with its safeguard off, which is the one thing not to do with a file
that was just refused: nothing of their text is passed on but the name of what the pickle asked for.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from edgeconv.errors import RecipeError, is_own_fault
from edgeconv.recipe.foreign import foreign_line

# Of the unpickler's refusals; its other messages are about damaged files.
_REFUSED = re.compile(r"GLOBAL (?P<name>[A-Za-z_][\w.]*)|Trying to call|Can only (?:create|build)")
_PICKLE_PROTOCOLS = range(2, 6)  # all that begin with an opcode of their own (PROTO, 0x80)
_SAVE = "save only the state dict: torch.save(module.state_dict(), path), or use safetensors"


def read_checkpoint(path: Path, *, where: str = "") -> Any:
    """What a checkpoint of ``torch.save`` holds, read with ``weights_only=True``: no code of it is run.

    Raises:
        RecipeError: the file holds more than tensors and plain containers, is damaged, or is something else.
        OSError: it cannot be opened.
    """
    try:
        _check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they advise, too, and whatever they warn of is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise _unreadable(path, where) from error
        name = f" ({foreign_line(refused['name'])})" if refused["name"] else ""
        what = f"{path.name} holds more than tensors{name}, and its code was not run"
        raise RecipeError(what, where=where, hint=_SAVE) from error
    except Exception as error:  # of a damaged file torch.load raises RuntimeError, KeyError, EOFError, …
        if is_own_fault(error):
            raise
        raise _unreadable(path, where) from error


def _check_stored(path: Path) -> None:
    """Refuses an archive that is larger than its file: a few megabytes may hold a pickle of terabytes.

    Raises:
        BadZipFile: it is damaged, or has compressed entries, of which torch.save writes none.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile


def _unreadable(path: Path, where: str) -> RecipeError:
    """Says what the file is, as far as its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK":
        return _broken_archive(path, where)
    if head[:1] == b"\x80" and head[-1] in _PICKLE_PROTOCOLS:
        what = f"{path.name} is a pickle that torch.save did not write, or a damaged one; its code was not run"
        return RecipeError(what, where=where, hint=_SAVE)
    return RecipeError(f"{path.name} is no readable checkpoint of torch.save", where=where, hint=_SAVE)


def _broken_archive(path: Path, where: str) -> RecipeError:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        names = []
    if any(name.endswith("/constants.pkl") for name in names):
        return RecipeError(f"{path.name} is a TorchScript archive and no state dict", where=where, hint=_SAVE)
    what = f"{path.name} is no readable checkpoint of torch.save: the archive is damaged or of another kind"
    return RecipeError(what, where=where, hint="copy or save it again")
