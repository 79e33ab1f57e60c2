"""What the READMEs say is so: their links lead somewhere, their snippets run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import programs
import pytest

import edgeconv
from edgeconv.devices import ENVIRONMENTS
from edgeconv.devices._environments import python_of
from edgeconv.flow.operators import refreshed

ROOT = Path(edgeconv.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"]
PAGES += [path for room in ("edgeconv", "export_scripts", "models", "tests") for path in (ROOT / room).rglob("*.md")]
TEXT = "\n".join(path.read_text() for path in PAGES)
LONGEST = 200
ON_DEVICE = {"run_tflite_runtime.py", "run_litert.py", "run_onnxruntime.py"}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in (link for link in links if not link.startswith("http")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert ROOT in target.parents, link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_is_reached_from_the_first() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#]+)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links if not link.startswith("http")]
    assert set(PAGES) <= reached


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST


def test_every_make_target_of_the_pages_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([a-z-]+)", TEXT, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_list_of_operators_is_that_of_the_tables() -> None:
    page = (ROOT / "edgeconv" / "capture" / "README.md").read_text()
    assert refreshed(page) == page, "run make readme"


def test_the_on_device_snippets_are_the_scripts() -> None:
    snippets = set(_blocks("python"))
    for name in ON_DEVICE:
        assert (ROOT / "export_scripts" / "on_device" / name).read_text() in snippets, name


@pytest.mark.parametrize("name", sorted(ON_DEVICE))
def test_the_on_device_snippets_run(name: str, dsconv_export: Path, tmp_path: Path) -> None:
    shutil.copytree(dsconv_export, tmp_path / "artifacts" / "dsconv_3x64_224")
    code = (ROOT / "export_scripts" / "on_device" / name).read_text()
    python = python_of(ENVIRONMENTS["tflite-runtime"]) if "tflite_runtime" in name else sys.executable
    done = subprocess.run(
        [str(python), "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    shape = "(1, 64, 224, 224)" if "onnx" in name else "(1, 224, 224, 64)"
    assert done.stdout.strip() == shape


@pytest.mark.parametrize(("folder", "files"), [("out", 2), ("quantized", 4), ("trained", 2)])
def test_the_python_examples_run(folder: str, files: int, tmp_path: Path) -> None:
    (code,) = [block for block in _blocks("python") if "edgeconv.export(" in block and f'"{folder}"' in block]
    done = programs.run(code, code=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout
    assert "fail" not in done.stdout
    made = [path for path in (tmp_path / folder).iterdir() if path.suffix in (".onnx", ".tflite")]
    assert len(made) == files


def test_the_quantize_table_is_a_recipes(tmp_path: Path) -> None:
    (table,) = _blocks("toml")
    rest = '[model]\nfactory = "edgeconv.nn:DepthwiseSeparableConv"\n[[inputs]]\nname = "x"\nshape = [1, 3, 8, 8]\n'
    (tmp_path / "block.toml").write_text(f'name = "block"\n{rest}{table}')
    recipe = edgeconv.load_recipe(tmp_path / "block.toml")
    assert recipe.export.variants == ("fp32", "int8")
    stated = set(re.findall(r"^(\w+) = ", table.split("[quantize]")[1].split("[[")[0], re.M))
    defaults = type(recipe.quantize)()
    assert {key: getattr(recipe.quantize, key) for key in stated} == {key: getattr(defaults, key) for key in stated}
