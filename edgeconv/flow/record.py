"""Reads a folder's report as the record of its files, and decides which of them a new export removes.

The report is untrusted, since whoever can write the folder can write it: it names files by plain names, each with its
checksum, and nothing else of the folder is read or removed. Only a file with the stated checksum is removed, under a
name that an export of that model gives, or a generated text with a valid seal (`edgeconv.core.seal.is_sealed`); links
are never followed, be it the report's own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.core import Artifact
from edgeconv.core.named_files import read_named, sha256_of
from edgeconv.core.seal import is_sealed
from edgeconv.emit.c_array import c_files_of
from edgeconv.errors import ParityError
from edgeconv.flow.file_names import HTML, JSON, JUNIT, artifact_name, golden_name
from edgeconv.flow.output import Staging, settle

if TYPE_CHECKING:
    from edgeconv.report import Report

_NOT_MADE = "it is not made any more"
_JUDGED = "judged file"
_MOST_BYTES = 2**26  # the report of a network of 600 operators on every device has 2 MB; a sample in a row takes 400


def read_report(folder: Path) -> Report:
    """Reads ``parity.json`` and makes sure that every file it speaks of is still the one it judged.

    Raises:
        ParityError: there is none, it cannot be read, is no report, or a file is missing, changed or a link.
    """
    settle(folder)
    return _checked_report(folder)


def require_unchanged(folder: Path, report: Report) -> None:
    """Makes sure that the report of a folder is still the one that was read, and its files those that it judged.

    Raises:
        ParityError: another command wrote there meanwhile.
    """
    from edgeconv.report import to_json

    try:
        is_same = to_json(_checked_report(folder)) == to_json(report)
    except ParityError:
        is_same = False
    if not is_same:
        what = "another command wrote into this folder while its files ran on the devices"
        raise ParityError(what, where=str(folder), hint="run parity again, once the other has ended")


def no_report(folder: Path) -> ParityError:
    """The refusal of a folder, or of anything else, in which no report lies."""
    return ParityError(f"no {JSON} here", where=str(folder), hint="give the folder of an export with a report")


def _checked_report(folder: Path) -> Report:
    """Reads the report of a folder and checks every file that it names against its checksum."""
    if not os.path.lexists(folder / JSON):
        raise no_report(folder)
    report = _read(folder)
    for name, sha256 in _recorded(report).items():
        file = folder / name
        _refuse_link(file)
        if not file.is_file():
            raise ParityError("the report speaks of this file, and it is missing", where=str(file), hint="export again")
        if sha256_of(file, kind=_JUDGED, error=ParityError) != sha256:
            what = f"changed since its report was written (sha256 was {sha256[:12]}…)"
            raise ParityError(what, where=str(file), hint="export again, or put the judged file back")
    return report


def write_report(staging: Staging, report: Report) -> None:
    """Writes the three forms of the report; the JSON last, as it is what a release check reads."""
    from edgeconv.report import to_html, to_json, to_junit

    staging.write(HTML, to_html(report).encode())
    staging.write(JUNIT, to_junit(report).encode())
    staging.write(JSON, to_json(report).encode())


@dataclass(frozen=True)
class Removal:
    """Notes for the user about files of an earlier export that are removed.

    Attributes:
        notes: of what lies there before the devices run: the report has them.
        late: of what another export put there after that; known once the commit is done.
    """

    notes: tuple[str, ...]
    late: list[str] = field(default_factory=list)


def discard_outdated(staging: Staging, out: Path, artifacts: Sequence[Artifact]) -> Removal:
    """Has the earlier report of a folder removed, and the files that it alone names: left there, they would mislead.

    Which those are is decided at the commit, as another export may write the folder before. Files that changed since
    their report was written are not ours any more, and stay.

    Args:
        staging: of the new export.
        out: the folder.
        artifacts: of the new export.
    """
    written = {name for artifact in artifacts for name in artifact.checksums}

    def missed(names: Sequence[str]) -> list[str]:
        """Those of the names that somebody may miss: not the forms of a report, nor the values that only it names."""
        forms = (JSON, HTML, JUNIT)
        return [x for x in names if x not in forms and not x.endswith(".safetensors") and not staging.writes(x)]

    earlier = missed(_outdated(out, written))
    removal = Removal(tuple(f"{name} of the earlier export is removed: {_NOT_MADE}" for name in earlier))

    def discard() -> None:
        # Once more, under the folder's lock: since the devices began, another export may have written here.
        outdated = _outdated(out, written)
        for name in outdated:
            staging.discard(name)
        for name in missed(outdated):
            if name not in earlier:
                removal.late.append(f"{name}, which another export wrote here meanwhile, is removed: {_NOT_MADE}")

    staging.before_commit(discard)
    return removal


def _outdated(out: Path, written: Collection[str]) -> list[str]:
    """Names of the files to remove: the earlier report first, then files that only it names."""
    try:
        _read(out)
        names = [JSON]
    except ParityError:
        names = []  # it is no report of ours, and stays until the new one takes its name
    stale = _stale(out, written)
    names += [name for name in (HTML, JUNIT) if is_sealed(out / name)] + stale
    # C source speaks of its .tflite file's bytes: neither a new file nor a removed one has it any more.
    return names + [source for name in (*written, *stale) for source in c_files_of(out / name)]


def _stale(out: Path, written: Collection[str]) -> list[str]:
    """Names of the earlier report's own files that are unchanged and that the new export does not write."""
    try:
        report = _read(out)
    except ParityError:
        return []
    own = _own_names(report)
    recorded = {name: sha256 for name, sha256 in _recorded(report).items() if name in own and name not in written}
    return [name for name, sha256 in recorded.items() if _has_checksum(out / name, sha256)]


def _own_names(report: Report) -> set[str]:
    """The names that an export of the report's model gives; a user's file that a report names does not become ours."""
    from edgeconv.core.variants import VARIANTS

    exported = {
        name
        for item in report.artifacts
        if item.variant in VARIANTS
        and item.path.name == artifact_name(report.model, item.variant, item.format, item.layout)
        for name in item.checksums
    }
    return {*exported, golden_name(report.model)}


def _read(folder: Path) -> Report:
    path = folder / JSON
    _refuse_link(path)
    data = read_named(path, kind=JSON, error=ParityError, most=_MOST_BYTES)
    from edgeconv.report import from_json

    try:
        return from_json(data.decode())
    except UnicodeDecodeError as error:
        what = f"is no report: it is not UTF-8 at byte {error.start}"
        raise ParityError(what, where=str(path), hint="export again") from error
    except ParityError as error:
        raise ParityError(error.what, where=str(path), hint=error.hint) from error


def _refuse_link(file: Path) -> None:
    if file.is_symlink():
        hint = "put a copy of the file itself in its place"
        raise ParityError("is a symbolic link, and could lead out of the folder", where=str(file), hint=hint)


def _recorded(report: Report) -> dict[str, str]:
    """The SHA-256 of every file that the report names."""
    from edgeconv.report import GOLDEN_SHA256

    checksums = {name: sha256 for item in report.artifacts for name, sha256 in item.checksums.items()}
    if report.golden:
        checksums[report.golden] = str(report.environment.get(GOLDEN_SHA256, ""))
    return checksums


def _has_checksum(path: Path, sha256: str) -> bool:
    """Whether a regular file, no link, has that checksum."""
    return not path.is_symlink() and path.is_file() and sha256_of(path, kind=_JUDGED, error=ParityError) == sha256
