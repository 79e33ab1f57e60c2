"""The commit of an export: several files change place, and after any kill the whole old or the whole new state stands.

Before the first change, what is to happen is written into the folder (`JOURNAL`), through to the disk. Without that
file nothing has happened; with it, everything will have: whoever comes next (`settled`) completes what it says. Each
step may be repeated. The journal is a file like any other and may be a stranger's: it names plain names in one folder,
and what is to go is proven by its checksum.
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

from edgeconv.flow.owner import lock

JOURNAL = ".edgeconv-commit"
STAGING_PREFIX = ".edgeconv-"
_STAGING = re.compile(r"\.edgeconv-[0-9]+-[A-Za-z0-9_]+")
_MOST_BYTES = 2**20
_MOST_HASHED = 2**33


class JournalError(Exception):
    """What a journal says cannot be completed: it is damaged, or what it speaks of is gone."""


@dataclass(frozen=True)
class Commit:
    """What is to happen to a folder.

    Attributes:
        staging: the folder inside it where the new files lie.
        files: their names with their checksums, in the order in which they appear.
        discarded: files that go before, likewise.
    """

    staging: str
    files: Mapping[str, str]
    discarded: Mapping[str, str]


def begin(target: Path, staging: Path, files: Mapping[str, str], discarded: Collection[str]) -> Commit:
    """Writes the journal: from here on, the new state is the one that will stand.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
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
    """Does what the journal says, as far as it is not done, and removes it.

    Raises:
        JournalError: a new file is gone.
        OSError: the folder cannot be written; the journal stays.
    """
    staging = target / commit.staging
    is_there = staging.is_dir() and not staging.is_symlink()
    waiting = [name for name in commit.files if is_there and _is_regular(staging / name)]
    lost = [name for name, sha256 in commit.files.items() if name not in waiting and not _is(target / name, sha256)]
    if lost:
        raise JournalError(f"{lost[0]} is gone")
    for name, sha256 in commit.discarded.items():
        pending = name not in commit.files or name in waiting  # else the new one lies there already
        if pending and _is(target / name, sha256):
            (target / name).unlink()
    for name in waiting:
        (staging / name).replace(target / name)
    _sync(target)
    (target / JOURNAL).unlink(missing_ok=True)
    _sync(target)
    if is_there:
        shutil.rmtree(staging, ignore_errors=True)


def settled(target: Path) -> None:
    """Completes the commit that somebody was killed in, if there is one; waits for one that is going on.

    Raises:
        JournalError: it cannot be completed.
        OSError: the folder cannot be written.
    """
    if not os.path.lexists(target / JOURNAL):
        return
    with locked(target):
        finish(target)


def finish(target: Path) -> None:
    """`settled`, for those who hold the lock."""
    commit = _read(target)
    if commit is not None:
        complete(target, commit)


def dropped(target: Path) -> None:
    """Removes a journal that cannot be completed, before everything that it speaks of is made anew."""
    with suppress(IsADirectoryError):
        (target / JOURNAL).unlink(missing_ok=True)


@contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Keeps other exports out of folders; one that two paths lead to is locked once.

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
    """Whether it tells checksums of files in a folder."""
    return isinstance(value, dict) and all(map(_is_plain, value)) and all(isinstance(x, str) for x in value.values())


def _is_plain(name: object) -> bool:
    """Whether it names a file in a folder, and no other place."""
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", name))


def _is_regular(path: Path) -> bool:
    """Whether it is a file itself, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _is(path: Path, sha256: str) -> bool:
    return _is_regular(path) and _sha256_of(path) == sha256


def _sha256_of(path: Path) -> str:
    """Of a file's bytes; nothing of one that no export of ours writes so large."""
    if path.stat().st_size > _MOST_HASHED:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
