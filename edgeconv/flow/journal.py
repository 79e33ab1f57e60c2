"""The commit of an export: all files change place or none, even if the process is killed in between.

Before the first change, the planned changes are written into the folder (`JOURNAL`) and synced to the disk. Without
that file nothing has happened; with it, the next command on the folder (`settled`) completes them. Each step may be
repeated. The journal is untrusted like any file: it may name only plain names in its own folder, and a file is deleted
only if it has the stated checksum and a name that exports give.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from edgeconv.core.named_files import MOST_HASHED
from edgeconv.flow.owner import lock

JOURNAL = ".edgeconv-commit"
STAGING_PREFIX = ".edgeconv-"
_STAGING = re.compile(r"\.edgeconv-[0-9]+-[A-Za-z0-9_]+")
# What exports write and later ones remove, once more: `file_names` needs numpy, and the command line starts without it.
_EXPORTED = re.compile(r"parity\.(json|html|junit\.xml)|.+\.(onnx|onnx\.data|tflite|h|cc|golden\.safetensors)")
_MOST_BYTES = 2**20  # of a journal: a folder of thousands of files needs less


class JournalError(Exception):
    """A journal cannot be completed: it is damaged, or files that it names are gone."""


@dataclass(frozen=True)
class Commit:
    """The planned changes of a folder.

    Attributes:
        staging: the folder inside it where the new files lie.
        files: their names with their checksums, in the order in which they appear.
        discarded: files to delete first, with their checksums.
    """

    staging: str
    files: Mapping[str, str]
    discarded: Mapping[str, str]


def begin(target: Path, staging: Path, files: Mapping[str, str], discarded: Collection[str]) -> Commit:
    """Writes the journal: from here on, the new state is the one that will stand.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    # With their checksums: a later export may have put other files under these names before the journal is completed.
    gone = {name: _sha256_of(target / name) for name in discarded if _is_regular(target / name)}
    commit = Commit(staging.name, files, gone)
    draft = staging / "journal"  # not its name yet: half a journal must not be taken for one
    with draft.open("wb") as file:
        file.write(json.dumps({"schema": 1, **vars(commit)}).encode())
        file.flush()
        os.fsync(file.fileno())
    _sync(staging)
    draft.replace(target / JOURNAL)
    _sync(target)
    return commit


def complete(target: Path, commit: Commit) -> None:
    """Makes the changes that are not made yet, then removes the journal.

    Raises:
        JournalError: a new file is gone.
        OSError: the folder cannot be written; the journal stays.
    """
    staging = target / commit.staging
    is_there = staging.is_dir() and not staging.is_symlink()
    waiting = [name for name in commit.files if is_there and _is_regular(staging / name)]
    lost = [
        name
        for name, sha256 in commit.files.items()
        if name not in waiting and not _has_checksum(target / name, sha256)
    ]
    if lost:
        raise JournalError(f"{lost[0]} is gone")
    for name, sha256 in commit.discarded.items():
        # Repeated after a crash, the rename may have happened already: what lies there is the new file, and is kept.
        pending = name not in commit.files or name in waiting  # else the new one lies there already
        if pending and _EXPORTED.fullmatch(name) and _has_checksum(target / name, sha256):
            (target / name).unlink()
    for name in waiting:
        (staging / name).replace(target / name)
    _sync(target)
    (target / JOURNAL).unlink(missing_ok=True)
    _sync(target)
    if is_there:
        shutil.rmtree(staging, ignore_errors=True)


def settled(target: Path) -> None:
    """Completes the commit of a killed process, if there is one; waits for a commit that is still going on.

    Raises:
        JournalError: it cannot be completed.
        OSError: the folder cannot be written.
    """
    if not os.path.lexists(target / JOURNAL):
        return
    with locked(target):
        finish(target)


def finish(target: Path) -> None:
    """Completes the commit of a killed process, as `settled` does, for callers that hold the lock."""
    commit = _read(target)
    if commit is not None:
        complete(target, commit)


def dropped(target: Path) -> None:
    """Removes a journal that cannot be completed; its files are about to be made anew."""
    with suppress(IsADirectoryError):
        (target / JOURNAL).unlink(missing_ok=True)


@contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Locks folders against other exports; a folder that two paths lead to is locked once.

    All who lock several do it in the same order, that of the file system's own numbers: none waits for another that
    waits for it. A file system without locks on folders keeps nobody out; the journal alone protects a commit there.
    """
    opened: dict[tuple[int, int], int] = {}
    try:
        for folder in folders:
            descriptor = os.open(folder, os.O_RDONLY)
            status = os.fstat(descriptor)
            if opened.setdefault((status.st_dev, status.st_ino), descriptor) != descriptor:
                os.close(descriptor)
        for _, descriptor in sorted(opened.items()):
            lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _read(target: Path) -> Commit | None:
    path = target / JOURNAL
    try:
        if not os.path.lexists(path):  # never begun, or completed by another while we waited
            return None
        if not _is_regular(path) or path.stat().st_size > _MOST_BYTES:
            raise JournalError(f"{JOURNAL} is no journal")
        plain = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{JOURNAL} is no journal") from error
    fields = plain if isinstance(plain, dict) else {}
    staging, files, discarded = (fields.get(name) for name in ("staging", "files", "discarded"))
    if fields.get("schema") != 1 or not isinstance(staging, str) or not _STAGING.fullmatch(staging):
        raise JournalError(f"{JOURNAL} is no journal")
    if not _are_files(files) or not _are_files(discarded):
        raise JournalError(f"{JOURNAL} is no journal")
    return Commit(staging, files, discarded)


def _are_files(value: object) -> TypeGuard[dict[str, str]]:
    """Whether it maps plain file names to checksums."""
    return isinstance(value, dict) and all(map(_is_plain, value)) and all(isinstance(x, str) for x in value.values())


def _is_plain(name: object) -> bool:
    """Whether it is a plain file name, without any folder."""
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", name))


def _is_regular(path: Path) -> bool:
    """Whether it is a regular file, and no link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _has_checksum(path: Path, sha256: str) -> bool:
    return _is_regular(path) and _sha256_of(path) == sha256


def _sha256_of(path: Path) -> str:
    """SHA-256 of a file; empty for one larger than any that an export writes."""
    if path.stat().st_size > MOST_HASHED:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
