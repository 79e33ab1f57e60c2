"""Killed at any system call of the commit, a folder is whole old or whole new as soon as the next command looks at it.

Members thought of: SIGKILL and SIGTERM before and after each call; a kill of the command that completes, at each of its
calls; a reader without a command, who must never see a verdict beside files of another export; new files that somebody
takes away; journals that a stranger planted: with paths, of files that nobody proved, damaged, a link, a pipe, deep,
endless; a folder that cannot be written; parity, bench, inspect and export as the next command.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed_commit
import pytest
from killed_commit import NEW, OLD, old, state

from edgeconv.cli import run
from edgeconv.errors import EmitError
from edgeconv.flow import journal
from edgeconv.flow.output import settle, staged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs ptrace")


def _after_each_kill(room: Path, action: str) -> list[dict[str, Any]]:
    command = [sys.executable, killed_commit.__file__, str(room), action]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 77:
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _no_verdict_for_others(seen: dict[str, str]) -> bool:
    """Whether a report that lies there speaks of the files that lie there."""
    whose = seen.get("parity.json", "")[:3]
    return all(seen[name][:3] == whose for name in ("a.onnx", "b.tflite")) if whose else True


@pytest.mark.parametrize("action", ["SIGKILL", "SIGTERM"])
def test_killed_at_every_system_call(action: str, tmp_path: Path) -> None:
    kills = _after_each_kill(tmp_path, action)
    assert len(kills) > 100
    for kill in kills:
        assert _no_verdict_for_others(kill["seen"]), kill
        assert kill["settled"] in (OLD, NEW), kill
        assert kill["left"] == sorted(kill["settled"]), "nothing else is left behind"
    assert {kill["settled"]["a.onnx"] for kill in kills} == {OLD["a.onnx"], NEW["a.onnx"]}


def test_killed_at_every_system_call_of_the_completion(tmp_path: Path) -> None:
    kills = _after_each_kill(tmp_path, "recover")
    assert len(kills) > 20
    assert [kill for kill in kills if kill["settled"] != NEW] == []


def _journal(folder: Path, **changes: object) -> None:
    (folder / ".edgeconv-1-x").mkdir()
    (folder / ".edgeconv-1-x" / "new.onnx").write_text("new")
    said = {"schema": 1, "staging": ".edgeconv-1-x", "files": {"new.onnx": "0" * 64}, "discarded": {}}
    (folder / journal.JOURNAL).write_text(json.dumps({**said, **changes}))


def _planted(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / journal.JOURNAL).write_text(text) and None


PLANTED: dict[str, Callable[[Path], object]] = {
    "a path as a file": lambda folder: _journal(folder, files={"../victim": "0" * 64}),
    "a path that goes": lambda folder: _journal(folder, discarded={"../victim": _sha256(b"precious")}),
    "an absolute path": lambda folder: _journal(
        folder, discarded={str(folder.parent / "victim"): _sha256(b"precious")}
    ),
    "another folder": lambda folder: _journal(folder, staging="../elsewhere"),
    "a file that is gone": lambda folder: _journal(folder, files={"gone.onnx": "0" * 64}),
    "no text": lambda folder: (folder / journal.JOURNAL).write_bytes(b"\xff\xfe\x00"),
    "a list": _planted("[]"),
    "of numbers": lambda folder: _journal(folder, files=7),
    "deep": _planted("[" * 100_000),
    "endless": lambda folder: (_planted("{")(folder), os.truncate(folder / journal.JOURNAL, 2**30)),
    "a link": lambda folder: (folder / journal.JOURNAL).symlink_to(folder.parent / "victim"),
    "a pipe": lambda folder: os.mkfifo(folder / journal.JOURNAL),
    "a folder": lambda folder: (folder / journal.JOURNAL).mkdir(),
}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_journal_does_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    folder = old(tmp_path / "out")
    PLANTED[name](folder)
    with pytest.raises(EmitError, match="cannot be completed"):
        settle(folder)
    assert {**state(folder), **OLD} == state(folder)
    assert (tmp_path / "victim").read_text() == "precious"
    if name != "a folder":
        with staged(folder) as staging:
            for key, text in NEW.items():
                staging.write(key, text.encode())
        assert {key: text for key, text in state(folder).items() if key in NEW} == NEW
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_a_journal_removes_is_proven(tmp_path: Path) -> None:
    folder = old(tmp_path / "out")
    _journal(folder, discarded={"own.txt": "0" * 64, "stale.tflite": _sha256(b"old stale")})
    settle(folder)
    assert state(folder) == {**{key: OLD[key] for key in OLD if key != "stale.tflite"}, "new.onnx": "new"}


def test_a_journal_removes_only_what_exports_write(tmp_path: Path) -> None:
    folder = old(tmp_path / "out")
    own = ("net.py", "weights.safetensors", "recipe.toml")
    for name in own:
        (folder / name).write_text("precious")
    _journal(folder, discarded=dict.fromkeys(own, _sha256(b"precious")))
    settle(folder)
    assert [(folder / name).read_text() for name in own] == ["precious"] * 3


def test_a_linked_subfolder_is_not_settled(tmp_path: Path) -> None:
    """A journal outside of the folder is not completed; the folder that the caller names may be a link itself."""
    outside, folder = old(tmp_path / "outside"), tmp_path / "out"
    _journal(outside, discarded={"stale.tflite": _sha256(b"old stale")})
    folder.mkdir()
    (folder / "link").symlink_to(outside, target_is_directory=True)
    before = state(outside)
    settle(folder)
    assert state(outside) == before
    assert (outside / journal.JOURNAL).exists()
    settle(folder / "link")
    assert not (outside / journal.JOURNAL).exists()


@pytest.mark.parametrize("verb", ["parity", "bench", "inspect", "export"])
def test_every_command_completes_first(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = old(tmp_path / "out")
    _journal(folder)
    options = {"inspect": [str(folder / "new.onnx")], "export": [str(folder / "a.onnx"), "--out", str(tmp_path)]}
    assert run([verb, *options.get(verb, [str(tmp_path)])]) == 2  # there is nothing sound in there
    assert (folder / "new.onnx").read_text() == "new"
    assert not (folder / journal.JOURNAL).exists()
    assert "Traceback" not in capsys.readouterr().err


def test_new_files_that_are_taken_away(tmp_path: Path) -> None:
    """One line, and the old files stand; a journal that nobody can complete does not stay."""
    folder = old(tmp_path / "out")

    def export() -> None:
        with staged(folder) as staging:
            staging.write("a.onnx", b"new").unlink()
            staging.write("b.tflite", b"new")
            staging.discard("stale.tflite")

    with pytest.raises(EmitError, match=r"out: the new files were taken away .*: a\.onnx is gone; export again"):
        export()
    assert state(folder) == OLD
    assert [path for path in folder.iterdir() if path.is_dir()] == []
