"""A newcomer finds every file by the page of its room, and every fact that is asked for often by the map."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import edgeconv
from edgeconv.cli import exit_codes
from edgeconv.core import defaults
from edgeconv.core.variants import DEFAULT_FIDELITY
from edgeconv.devices import DEVICES, ENVIRONMENTS
from edgeconv.rewrite import REWRITES

ROOT = Path(edgeconv.__file__).parents[1]
PACKAGE = ROOT / "edgeconv"
ROOMS = sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
FAMILIES = {"_aten", "_operators"}
"""Folders with one file per family of operators: their names say it all, and their pages tell how one looks."""
FOLDERS = sorted(
    {path.parent for path in PACKAGE.rglob("*.py")} - {path for name in FAMILIES for path in PACKAGE.rglob(name)}
)
MAP = (PACKAGE / "README.md").read_text()
SEARCHES = re.findall(r"\[((?:`\w+`(?:, )?)+)\]\(([\w/]+\.py)\)", MAP.split("## Where it is decided")[1])


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_room_has_a_page(room: Path) -> None:
    assert (room / "README.md").exists()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_the_page_of_a_room_names_all_of_its_files(folder: Path) -> None:
    page = next(path / "README.md" for path in (folder, *folder.parents) if (path / "README.md").exists())
    words = set(re.findall(r"\w+", page.read_text()))
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert sorted(names - words) == [], f"{page.relative_to(ROOT)} has no line for these files of {folder.name}"


def test_the_map_names_where_things_are_said() -> None:
    assert len(SEARCHES) >= 10
    for names, link in SEARCHES:
        tree = ast.parse((PACKAGE / link).read_text())
        targets = [getattr(item, "targets", [getattr(item, "target", item)]) for item in tree.body]
        stated = {getattr(target, "id", getattr(target, "name", None)) for group in targets for target in group}
        assert set(re.findall(r"\w+", names)) <= stated, link


def test_the_page_of_the_devices_has_a_row_for_each() -> None:
    page = (PACKAGE / "devices" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \|", page, re.M)
    assert rows == list(DEVICES), "edgeconv/devices/README.md, the table of devices"


def test_each_rewrite_has_its_own_tests() -> None:
    files = {rewrite.make().__module__.rpartition(".")[2] for rewrite in REWRITES}
    files -= {"fold_constants", "split_sequences", "remove_no_ops"}  # which capture runs, too: test_rewrite_clean
    tests = {path.stem.removeprefix("test_rewrite_") for path in (ROOT / "tests" / "rewrite").glob("test_*.py")}
    assert sorted(files - tests) == [], "tests/rewrite/test_rewrite_<file>.py"


def test_pages_and_templates_tell_the_numbers_of_the_code() -> None:
    tolerance = f"{defaults.TOLERANCE:.0e}".replace("e-0", "e-")
    assert (
        f"|a - b| <= {tolerance} * max(1, scale) + {tolerance} * |b|" in (PACKAGE / "parity" / "GUIDE.md").read_text()
    )
    template = (PACKAGE / "recipe" / "template.py").read_text()
    assert f"tolerance = {{ atol = {tolerance}, rtol = {tolerance} }}" in template
    least = {name: f"{fidelity.sqnr_db:.0f}" for name, fidelity in DEFAULT_FIDELITY.items()}
    said = f"{least['fp16']} for fp16, {least['int16x8']} for int16x8, {least['int8']} for the others"
    assert said in (PACKAGE / "quantize" / "GUIDE.md").read_text()
    assert least["int8"] == least["int8-weights"]
    codes = re.findall(r"^\| (\d) \|", (PACKAGE / "cli" / "README.md").read_text(), re.M)
    stated = (exit_codes.OK, exit_codes.FAILED, exit_codes.USER_ERROR, exit_codes.BUG)
    assert codes == [str(code) for code in stated]
    (pin,) = [pin for pin in ENVIRONMENTS["tflite-runtime"].packages if pin.startswith("tflite-runtime")]
    assert pin in (ROOT / "export_scripts" / "README.md").read_text()


def test_every_key_of_metadata_is_said_once() -> None:
    """What stages note on graphs, nodes and values has a constant; whoever reads it imports that."""
    files = list(PACKAGE.rglob("*.py"))
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    texts = [text for path in files for text in re.findall(r"\"(edgeconv\.[a-z_.]+)\"", path.read_text())]
    keys = [text for text in texts if text not in modules]
    assert len(keys) > 10
    assert sorted({key for key in keys if keys.count(key) > 1}) == []


def test_constants_are_read_in_one_place() -> None:
    """`edgeconv.graph.edit.tensor_of`: an initializer that is an input, too, is only a default, and no constant."""
    readers = [path for path in PACKAGE.rglob("*.py") if "get_const_tensor" in path.read_text()]
    assert readers == [PACKAGE / "graph" / "edit.py"]


def test_inputs_that_a_node_may_leave_out_are_looked_up_in_one_place() -> None:
    """`edgeconv.graph.edit.input_of`: whether the list is short or holds a None makes no difference."""
    pattern = re.compile(
        r"inputs\[(\d)\]\)? if len\(\w+\.inputs\) > \1|len\(\w+\.inputs\) > (\d) and \w+\.inputs\[\2\]"
    )
    assert [path.name for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())] == []
