"""Commands that write one folder at the same time: the whole state of the last one stands, or one line says why not.

Members thought of: another export of other formats, with a report and without, that commits while an export or a parity
run works; a parity run beside a parity run; a judged file that is exchanged; an export that is killed in its commit
while another works, also with a journal that nobody can complete; the same while another starts, or clears up; files of
another that the commit removes, told to Python and on stderr; a parity run that reads one folder and writes another.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.cli import export as export_verb
from edgeconv.cli import run
from edgeconv.errors import ParityError
from edgeconv.flow import journal
from edgeconv.flow.output import clear, staged
from edgeconv.flow.pipeline import ExportResult, export_recipe
from edgeconv.flow.prove import repeat
from edgeconv.progress import Silent
from edgeconv.recipe.load import read_recipe


def _export(room: Path, format_: str, *, prove: bool = True, progress: Silent | None = None) -> ExportResult:
    text = f'name = "net"\nmodel.onnx = "net.onnx"\nexport.formats = ["{format_}"]\nparity.devices = ["onnxruntime"]\n'
    recipe = read_recipe(text, room / "net.toml")
    return export_recipe(recipe, room / "out", prove=prove, progress=progress or Silent())


class _Meanwhile(Silent):
    """Progress of a command in whose middle something else happens, once: after the stage of such a title."""

    def __init__(self, act: Callable[[], object], after: str = "on onnxruntime") -> None:
        self._acts = [act]
        self._after = after

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[str], None]]:
        with super().stage(title) as tell:
            yield tell
        while self._after in title and self._acts:
            self._acts.pop()()


@pytest.fixture
def room(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    return tmp_path


def _state(room: Path) -> set[str]:
    return {path.name for path in (room / "out").iterdir()}


REPORT = {"net.golden.safetensors", "parity.html", "parity.json", "parity.junit.xml"}


@pytest.mark.parametrize(("is_first", "prove"), [(True, True), (False, True), (False, False)])
def test_the_last_export_stands_alone(is_first: bool, prove: bool, room: Path) -> None:
    after = "on onnxruntime" if prove else "emit"
    if not is_first:
        _export(room, "onnx")
    _export(room, "onnx", prove=prove, progress=_Meanwhile(lambda: _export(room, "tflite"), after))
    assert _state(room) == {"net.fp32.onnx", *(REPORT if prove else ())}


def test_no_report_speaks_of_files_that_another_export_has_removed(room: Path) -> None:
    _export(room, "onnx")
    for prove in (True, False):
        with pytest.raises(ParityError, match=r"another command wrote into this folder .*; run parity again"):
            repeat(
                room / "out",
                devices=None,
                progress=_Meanwhile(lambda prove=prove: _export(room, "tflite", prove=prove)),
            )
        assert _state(room) == {"net.fp32.tflite", *(REPORT if prove else ())}
        _export(room, "onnx")


def test_the_rows_of_another_run_are_not_written_over(room: Path) -> None:
    _export(room, "onnx")
    other = _Meanwhile(lambda: repeat(room / "out", devices=["onnxruntime"], progress=Silent()))
    with pytest.raises(ParityError, match="another command wrote into this folder"):
        repeat(room / "out", devices=None, progress=other)
    repeat(room / "out", devices=None, progress=Silent())


def test_a_judged_file_that_is_exchanged_meanwhile(room: Path) -> None:
    _export(room, "onnx")
    before = (room / "out/parity.json").read_bytes()
    exchange = _Meanwhile(lambda: (room / "out/net.fp32.onnx").write_bytes(b"else"))
    with pytest.raises(ParityError, match="another command wrote into this folder"):
        repeat(room / "out", devices=None, progress=exchange)
    assert (room / "out/parity.json").read_bytes() == before


@pytest.mark.parametrize("is_sound", [True, False])
def test_an_export_that_is_killed_in_its_commit_meanwhile(is_sound: bool, room: Path) -> None:
    """What it began is completed before the other commits, so that nothing of it is taken for a stranger's."""

    def killed() -> None:
        staging = room / "out" / ".edgeconv-1-killed"
        staging.mkdir()
        (staging / "other.onnx").write_text("other")
        if is_sound:
            journal.begin(room / "out", staging, {"other.onnx": ""}, ["parity.json"])
        else:
            (room / "out" / journal.JOURNAL).write_text("{")

    _export(room, "onnx")
    _export(room, "onnx", progress=_Meanwhile(killed))
    left = {name for name in _state(room) if not name.startswith(".edgeconv-1-")}
    assert left == {"net.fp32.onnx", *REPORT, *(["other.onnx"] if is_sound else [])}
    repeat(room / "out", devices=None, progress=Silent())


@pytest.mark.parametrize("action", ["start", "clear"])
def test_what_a_commit_needs_is_not_swept_before_it_is_completed(action: str, tmp_path: Path) -> None:
    """Another command comes while a commit is on its way, whose process is then killed."""
    staging = tmp_path / ".edgeconv-999999999-killed"
    staging.mkdir()
    (staging / "other.onnx").write_text("other")

    def start() -> None:
        with staged(tmp_path):
            pass

    other = threading.Thread(target=start if action == "start" else lambda: clear(tmp_path))
    with journal.locked(tmp_path):
        other.start()
        other.join(0.3)
        journal.begin(tmp_path, staging, {"other.onnx": ""}, [])
    other.join(30)
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_what_is_removed_of_another_is_told(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "net.fp32.tflite, which another export wrote here meanwhile, is removed: it is not made any more"
    result = _export(room, "onnx", progress=_Meanwhile(lambda: _export(room, "tflite")))
    assert result.warnings == (words,)
    assert words in result.notes
    assert _export(room, "onnx").warnings == ()

    meanwhile = _Meanwhile(lambda: _export(room, "tflite"))
    monkeypatch.setattr(export_verb, "progress_for", lambda *, silent: meanwhile)
    monkeypatch.chdir(room)
    (room / "out").rename(room / "net")
    (room / "out").symlink_to("net")  # OUT/<the model's name>
    command = ["export", "net.onnx", "--out", ".", "--format", "onnx", "--device", "onnxruntime", "-q"]
    assert run(command) == 0
    assert capsys.readouterr().err == f"edgeconv: warning: net: {words}\n"


def test_the_folder_that_a_run_reads_is_locked_with_the_one_that_it_writes(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _export(room, "onnx")
    seen = []

    def others_wait(folder: Path, report: object) -> None:
        for path in (folder, room / "other"):
            descriptor = os.open(path, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(descriptor)
            seen.append(path)

    monkeypatch.setattr("edgeconv.flow.prove.require_unchanged", others_wait)
    repeat(room / "out", devices=None, progress=Silent(), out=room / "other")
    assert len(seen) == 2
    monkeypatch.undo()
    (room / "link").symlink_to("out")
    repeat(room / "out", devices=None, progress=Silent(), out=room / "link")


def test_commands_that_lock_the_same_folders_do_not_wait_for_each_other(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()

    def lock_often(*order: Path) -> None:
        for _ in range(300):
            with journal.locked(*order):
                pass

    threads = [threading.Thread(target=lock_often, args=order, daemon=True) for order in (folders, folders[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
