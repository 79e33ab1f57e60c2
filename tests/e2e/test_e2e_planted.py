"""A folder that somebody tampered with: nothing outside of it is touched, and no wrong file passes beside its recipe.

Members thought of: the golden file and the artifacts by "..", by an absolute path, by a link to a file and to a folder
outside, by a pipe; a user's own file of the name of one of ours; pages and C source that were edited; a wrong artifact
with its checksum beside a loosened tolerance, changed golden outputs, changed golden inputs, an exchanged bound, a
missing output, and rows that are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted_stages import with_other_numbers

from edgeconv.bench import find_files
from edgeconv.cli import run
from edgeconv.core import Array
from edgeconv.flow.record import read_report
from edgeconv.parity import Golden, golden_bytes, load_golden

RECIPE = """
name = "block"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
[model.warmup]
[[inputs]]
name = "input"
shape = [1, 3, 16, 16]
[export]
formats = ["onnx"]
[parity]
devices = ["onnxruntime"]
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "block.toml").write_text(RECIPE)
    assert run(["export", str(folder / "block.toml"), "--out", str(folder / "out"), "-q"]) == 0
    return folder


@pytest.fixture
def room(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "room"))


def _report(room: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((room / "out/block/parity.json").read_text())
    return plain


def _plant(room: Path, plain: dict[str, Any]) -> None:
    (room / "out/block/parity.json").write_text(json.dumps(plain))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("command", ["export", "parity", "bench"])
@pytest.mark.parametrize("field", ["golden", "artifact"])
@pytest.mark.parametrize("name", ["../../victim.onnx", "{}/victim.onnx", "../../victim.safetensors"])
def test_a_path_is_no_name(command: str, field: str, name: str, room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("onnx", "safetensors"):
        (room / f"victim.{suffix}").write_text("precious")
    plain = _report(room)
    checksum = _sha256(room / "victim.onnx")
    if field == "golden":
        plain["golden"], plain["environment"]["golden sha256"] = name.format(room), checksum
    else:
        plain["artifacts"][0] |= {"file": name.format(room), "sha256": checksum}
    _plant(room, plain)
    options = {
        "export": [str(room / "block.toml"), "--out", str(room / "out"), "--no-parity"],
        "parity": [str(room / "out")],
        "bench": [str(room / "out"), "--rounds", "1", "--runs", "1", "--device", "onnxruntime"],
    }[command]
    assert run([command, *options, "-q"]) == (2 if command == "parity" else 0)
    assert (room / "victim.onnx").read_text() == "precious"
    assert (room / "victim.safetensors").read_text() == "precious"
    assert len(capsys.readouterr().err.splitlines()) == (command == "parity")


def _link(victim: Path, place: Path) -> None:
    place.symlink_to(victim)


def _link_to_folder(victim: Path, place: Path) -> None:
    place.symlink_to(victim.parent, target_is_directory=True)


def _pipe(victim: Path, place: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("make", [_link, _link_to_folder, _pipe])
def test_links_are_not_followed(
    make: Callable[[Path, Path], None], room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the checksum is that of what the link leads to."""
    place, victim = room / "out/block/block.golden.safetensors", room / "victim"
    shutil.move(place, victim)
    before = victim.read_bytes()
    make(victim, place)
    assert run(["parity", str(room / "out"), "-q"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run(["export", str(room / "block.toml"), "--out", str(room / "out"), "--no-parity", "-q"]) == 0
    assert os.path.lexists(place), "what is no file of ours stays"
    assert victim.read_bytes() == before


def test_a_link_in_the_reports_place_is_refused(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, outside = room / "out/block/parity.json", room / "elsewhere.json"
    shutil.move(report, outside)
    report.symlink_to(outside)
    before = outside.read_bytes()
    for folder in ("out", "out/block"):
        assert run(["parity", str(room / folder), "-q"]) == 2
        assert "is a symbolic link" in capsys.readouterr().err
    assert run(["export", str(room / "block.toml"), "--out", str(room / "out"), "-q"]) == 0
    assert outside.read_bytes() == before
    assert not report.is_symlink()


def test_linked_subfolders_are_not_followed(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parity says so, since a proof of the other folders alone would pass for one of all."""
    (room / "reports").mkdir()
    shutil.copytree(room / "out/block", room / "reports/own")
    (room / "reports/link").symlink_to(room / "out/block", target_is_directory=True)
    before = (room / "out/block/parity.json").read_bytes()
    assert run(["parity", str(room / "reports"), "-q"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "reports/link: is a symbolic link" in told
    assert (room / "out/block/parity.json").read_bytes() == before
    assert [file.name for file in find_files(room / "reports")] == ["own/block.fp32.onnx"]
    assert [file.name for file in find_files(room / "reports/link")] == ["block.fp32.onnx"]


@pytest.mark.parametrize("command", ["export", "quantize", "parity"])
def test_nothing_is_written_through_a_link_in_the_folder(
    command: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OUT/<name> lies in the folder that the user names, and who made a link of it is not known; OUT may be one."""
    victim = room / "victim"
    victim.mkdir()
    (victim / "block.fp32.onnx").write_text("precious")
    (room / "other").mkdir()
    (room / "other/block").symlink_to(victim, target_is_directory=True)
    source = str(room / ("out/block" if command == "parity" else "block.toml"))
    options = {"export": ["--no-parity"], "quantize": ["--target-sqnr", "20"], "parity": []}[command]
    assert run([command, source, "--out", str(room / "other"), "-q", *options]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "other/block: is a symbolic link, and could lead out of the folder" in told
    assert [path.name for path in victim.iterdir()] == ["block.fp32.onnx"]
    assert (victim / "block.fp32.onnx").read_text() == "precious"
    (room / "linked").symlink_to(victim, target_is_directory=True)
    if command == "export":
        assert run([command, source, "--out", str(room / "linked"), "-q", *options]) == 0
        assert (victim / "block/block.fp32.onnx").exists()


@pytest.mark.parametrize("field", ["golden", "artifact", "another variant"])
def test_a_users_own_file_does_not_become_ours(field: str, room: Path) -> None:
    """A report names it, with its true checksum; only names that exports give are removed."""
    name = {"golden": "my_weights.safetensors", "artifact": "trained.onnx", "another variant": "block.v2.onnx"}[field]
    victim = room / "out/block" / name
    victim.write_text("precious")
    plain = _report(room)
    if field == "golden":
        plain["golden"], plain["environment"]["golden sha256"] = name, _sha256(victim)
    else:
        variant = "fp32" if field == "artifact" else "v2"
        plain["artifacts"].append(
            {**plain["artifacts"][0], "file": name, "sha256": _sha256(victim), "variant": variant}
        )
        plain["comparisons"].append({**plain["comparisons"][-1], "artifact": name})
    _plant(room, plain)
    assert read_report(room / "out/block").model == "block", "the planted report is sound in itself"
    assert run(["export", str(room / "block.toml"), "--out", str(room / "out"), "--no-parity", "-q"]) == 0
    assert victim.read_text() == "precious"
    assert not (room / "out/block/parity.json").exists()


def test_what_was_edited_is_somebodys_own(room: Path) -> None:
    folder = room / "out/block"
    (folder / "parity.html").write_text((folder / "parity.html").read_text() + "<p>my remarks</p>\n")
    assert run(["export", str(room / "block.toml"), "--out", str(room / "out"), "--no-parity", "-q"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["block.fp32.onnx", "parity.html"]


def _wrong_artifact(room: Path) -> None:
    def moved(array: Array) -> None:
        array += 0.25

    path = room / "out/block/block.fp32.onnx"
    path.write_bytes(with_other_numbers(path.read_bytes(), [8], moved))
    plain = _report(room)
    plain["artifacts"][0]["sha256"] = _sha256(path)
    _plant(room, plain)


def _golden(room: Path, change: Callable[[Golden], Golden]) -> None:
    path = room / "out/block/block.golden.safetensors"
    path.write_bytes(golden_bytes(change(load_golden(path))))
    plain = _report(room)
    plain["environment"]["golden sha256"] = _sha256(path)
    _plant(room, plain)


def _loosen(room: Path) -> None:
    plain = _report(room)
    for row in plain["comparisons"]:
        row["tolerance"] = {"atol": 9.0, "rtol": 9.0, "max_abs": None}
    _plant(room, plain)


def _other_outputs(room: Path) -> None:
    def change(golden: Golden) -> Golden:
        for outputs in golden.reference.outputs:
            outputs["output"][...] += 0.25
        return golden

    _golden(room, change)


def _other_inputs(room: Path) -> None:
    def change(golden: Golden) -> Golden:
        for sample in golden.samples:
            sample.inputs["input"][...] = 0
        return golden

    _golden(room, change)


TAMPERED = {"tolerance": (_loosen, 1), "outputs": (_other_outputs, 2), "inputs": (_other_inputs, 2)}


@pytest.mark.parametrize("name", list(TAMPERED))
def test_with_the_recipe_a_wrong_artifact_never_passes(
    name: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, code = TAMPERED[name]
    _wrong_artifact(room)
    tamper(room)
    assert run(["parity", str(room / "out"), "--recipe", str(room / "block.toml"), "-q"]) == code
    told = capsys.readouterr().err
    assert "Traceback" not in told
    if code == 1:
        rows = _report(room)["comparisons"]
        assert {row["tolerance"]["atol"] for row in rows} == {1e-5}
        assert [row["verdict"] for row in rows if row["artifact"]] == ["fail"]


def test_what_is_kept_was_held_to_the_same(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _loosen(room)
    options = ["--recipe", str(room / "block.toml"), "--device", "litert"]
    assert run(["parity", str(room / "out"), *options, "-q"]) == 2
    assert "another bound than the recipe's" in capsys.readouterr().err


def test_the_report_says_what_it_was_judged_by(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _report(room)["environment"]["judged by"] == "the export's own bounds, and what torch computes"
    assert run(["parity", str(room / "out")]) == 0
    assert "judged by the folder's own bounds and golden values" in capsys.readouterr().out
    assert run(["parity", str(room / "out"), "--recipe", str(room / "block.toml")]) == 0
    words = "the recipe's bounds, and what torch computes anew"
    assert f"judged by {words}" in capsys.readouterr().out
    assert _report(room)["environment"]["judged by"] == words
