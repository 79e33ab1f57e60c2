"""Reads the files that a user names: whole, or for a checksum, and without waiting for the other side of a pipe.

A folder that the user names may be a link, or lie behind one: whoever made it meant it. A link to a folder inside
of it may be another's, and could lead anywhere: nothing is read or written through it (`subfolder`, `subfolders`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from edgeconv.errors import EdgeconvError

MOST_BYTES = 2**31
"""The most bytes of a file that is read whole: neither format holds more in one."""
_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS keeps elsewhere. Source: github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""
MOST_HASHED = 2**32
"""The most bytes of a file of weights: hashing a GiB takes a slow processor 2.5 s, and a sparse file has any size."""


def is_onnx(path: Path) -> bool:
    """Whether a file is an ``.onnx`` file by its name; where both may be named, any other is a recipe."""
    return path.suffix.lower() == ".onnx"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors about what a file holds name the file, for readers that get its bytes.

    Raises:
        EdgeconvError: the same, with the path in front of its place.
    """
    try:
        yield
    except EdgeconvError as error:
        where = str(path)
        if error.where.startswith(where):
            raise
        raise type(error)(error.what, where=f"{where}: {error.where}".removesuffix(": "), hint=error.hint) from error


def read_named(path: Path, *, kind: str, error: type[EdgeconvError], most: int = MOST_BYTES) -> bytes:
    """Reads a file that the user names; pipes are refused, since reading one could wait for ever.

    Args:
        path: of the file.
        kind: what is expected there, for the message: ``".toml"``.
        error: raised where it cannot be read.
        most: bytes at the most; a larger file is refused before any of it is read.

    Raises:
        EdgeconvError: an `error`.
    """
    where, hint, too_large = str(path), f"give a {kind} file", f"is larger than {most / 2**20:g} MiB"
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise error(too_large, where=where, hint=hint)
            data = file.read(most + 1)
    except FileNotFoundError as cause:
        raise error("there is no such file", where=where, hint=f"give the path of a {kind} file") from cause
    except IsADirectoryError as cause:
        raise error("is a folder", where=where, hint=f"give the {kind} file in it") from cause
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the name
        reason = getattr(cause, "strerror", None) or str(cause)
        raise error(f"cannot be read: {reason}", where=where, hint=f"give a {kind} file that can be") from cause
    if data.startswith(_POINTER):
        raise _is_pointer("", where, error)
    if len(data) > most:  # it grew meanwhile, or is of a system that tells no sizes (/proc)
        raise error(too_large, where=where, hint=hint)
    return data


def refuse_pointer(path: Path, name: str, *, where: str, error: type[EdgeconvError]) -> None:
    """Refuses a file that only says which other one git would put in its place; readers would call it damaged.

    Args:
        path: of a file that another reader opens.
        name: as the user writes it.
        where: what names the file, for the message.
        error: raised for a pointer, or where the file cannot be read.

    Raises:
        EdgeconvError: an `error`.
    """
    try:
        with open_regular(path) as file:
            head = file.read(len(_POINTER))
    except OSError as cause:
        what = f"{name!r} cannot be read: {cause.strerror or cause}"
        raise error(what, where=where, hint="give a readable file") from cause
    if head == _POINTER:
        raise _is_pointer(f"{name!r} ", where, error)


def _is_pointer(subject: str, where: str, error: type[EdgeconvError]) -> EdgeconvError:
    return error(f"{subject}is a pointer of Git LFS, not the file itself", where=where, hint="fetch it: git lfs pull")


def open_regular(path: Path) -> BufferedReader:
    """Opens a file to read it, without ever waiting for the other side of a pipe.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a socket.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):  # /dev/null does not wait, and /dev/zero is cut off
            raise OSError(errno.EINVAL, "it is a pipe or a socket", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:  # a signal, too: nobody else knows the descriptor, and it goes on
        os.close(descriptor)
        raise


def sha256_of(path: Path, *, kind: str = "file", error: type[EdgeconvError]) -> str:
    """SHA-256 of a file, hexadecimal; the file may be larger than memory.

    Args:
        path: of the file.
        kind: what is expected there, for the message: ``"judged file"``.
        error: raised where it cannot be opened or read, is no plain file, or larger than `MOST_HASHED`.

    Raises:
        EdgeconvError: an `error`.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):  # /dev/zero has no end
                raise OSError(errno.EINVAL, "it is a device", str(path))
            if status.st_size > MOST_HASHED:
                raise OSError(errno.EFBIG, f"it is larger than {MOST_HASHED // 2**30} GiB", str(path))
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        what = f"cannot be read: {cause.strerror or cause}"
        raise error(what, where=str(path), hint=f"give a {kind} that can be") from cause


def subfolders(folder: Path, *, holding: str, linked: type[EdgeconvError] | None = None) -> list[Path]:
    """The folders in a folder that hold a file of such a name, sorted, without those that are links.

    Args:
        folder: that the user names.
        holding: the file's name, or a pattern of names.
        linked: raised where one is a link, by those who must not be silent on what they pass over.

    Raises:
        EdgeconvError: a `linked`.
    """
    holders = sorted({path.parent for path in folder.glob(f"*/{holding}")})
    if linked is not None:
        for path in holders:
            subfolder(folder, path.name, error=linked)
    return [path for path in holders if not path.is_symlink()]


def subfolder(folder: Path, name: str, *, error: type[EdgeconvError]) -> Path:
    """The path of such a folder in a folder that the user names, be it there or not.

    Raises:
        EdgeconvError: an `error`: there is a link in its place.
    """
    path = folder / name
    if os.path.islink(path):  # noqa: PTH114 (Path.is_symlink fails for names that are too long, which are no links)
        what = "is a symbolic link, and could lead out of the folder"
        raise error(what, where=str(path), hint="name the folder itself that it leads to, or remove it")
    return path
