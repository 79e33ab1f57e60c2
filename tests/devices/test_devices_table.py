"""The table of devices, outsiders' devices, the agent's file and the isolated environments."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgeconv.core import DTYPES
from edgeconv.devices import AGENT, DEVICES, ENVIRONMENTS, agent, all_devices, find, install, start
from edgeconv.errors import DeviceError

ALLOWED_IMPORTS = sys.stdlib_module_names | {"ai_edge_litert", "numpy", "onnxruntime", "tflite_micro", "tflite_runtime"}


def test_an_unknown_device_is_told_its_neighbors() -> None:
    assert find("litert") is DEVICES["litert"]
    with pytest.raises(DeviceError, match="unknown device 'litertt'; did you mean litert"):
        find("litertt")
    with pytest.raises(DeviceError, match="unknown device 'zzz'; known are torch, onnxruntime"):
        find("zzz")


def test_importing_devices_imports_no_runtime() -> None:
    runtimes = "{'torch', 'onnxruntime', 'ai_edge_litert', 'uv'}"
    code = f"import sys, edgeconv.devices; print(sorted({runtimes} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_is_probed_without_importing_it() -> None:
    code = (
        "import sys; from edgeconv.devices import find;print(find('torch').probe()['version'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"


def test_torch_cannot_be_started() -> None:
    with pytest.raises(DeviceError, match="device torch: runs modules in this process"):
        start(DEVICES["torch"])


def test_the_agent_needs_python_39_and_numpy_and_one_runtime_only() -> None:
    tree = ast.parse(AGENT.read_text(encoding="utf-8"), feature_version=(3, 9))
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= ALLOWED_IMPORTS


def test_the_agent_carries_the_element_types_that_recipes_and_reports_state() -> None:
    assert agent.DTYPES == DTYPES


def test_the_agent_runs_from_any_folder_under_any_name(tmp_path: Path) -> None:
    copy = tmp_path / "somewhere.py"
    copy.write_bytes(AGENT.read_bytes())
    command = [sys.executable, "-I", str(copy), "onnxruntime"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert done.stdout.startswith(b"ECA1")
    assert b'"runtime": "onnxruntime"' in done.stdout


class TestOutsiders:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        info = tmp_path / "outsider-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[edgeconv.devices]\nboard = outsider_board:BOARD\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "outsider_board", raising=False)
        return tmp_path / "outsider_board.py"

    def test_an_entry_point_adds_a_device(self, package: Path) -> None:
        package.write_text(
            "from edgeconv.devices import Device\nBOARD = Device('board', 'A board', ('onnx',), lambda: ['board'])\n"
        )
        assert find("board").title == "A board"
        assert list(all_devices())[-1] == "board"

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("import nothing_of_this_name", "cannot be loaded"),
            ("BOARD = 3", "names a value of type int, not a Device"),
            ("from edgeconv.devices import Device\nBOARD = Device('litert', '', ())", "the name 'litert' is taken"),
        ],
    )
    def test_a_broken_one_is_named_and_leaves_the_others(self, package: Path, source: str, words: str) -> None:
        package.write_text(source)
        with pytest.raises(DeviceError, match=words) as caught:
            find("board")
        assert "entry point outsider_board:BOARD" in str(caught.value)
        assert find("litert") is DEVICES["litert"]


class TestEnvironments:
    @pytest.fixture(autouse=True)
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        root = tmp_path / "runtimes"
        monkeypatch.setenv("EDGECONV_RUNTIMES", str(root))
        return root

    def test_what_is_not_installed_says_how_to_install_it_and_nothing_is_made(self, root: Path) -> None:
        with pytest.raises(DeviceError, match="run `edgeconv devices --install tflite-runtime`"):
            DEVICES["tflite-runtime"].probe(5)
        assert not root.exists()

    def test_install_makes_it_once_and_repairs_a_broken_one(self, root: Path) -> None:
        assert install("tflite-runtime") is True
        assert install("tflite-runtime") is False
        environment = DEVICES["tflite-runtime"].probe(60)
        assert (environment["version"], environment["numpy"]) == ("2.14.0", "1.26.4")
        (root / ENVIRONMENTS["tflite-runtime"].folder / "edgeconv-ready.json").unlink()  # as a killed install leaves it
        with pytest.raises(DeviceError, match="is not installed"):
            DEVICES["tflite-runtime"].probe(5)
        assert install("tflite-runtime") is True
        assert DEVICES["tflite-runtime"].probe(60)["version"] == "2.14.0"

    def test_a_device_without_an_environment_is_refused(self) -> None:
        with pytest.raises(DeviceError, match="nothing to install for 'litert'; installable: tflite-runtime"):
            install("litert")

    def test_a_failure_of_uv_is_one_line_and_leaves_nothing_that_counts(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UV_OFFLINE", "1")
        monkeypatch.setenv("UV_CACHE_DIR", str(root.parent / "empty-cache"))
        with pytest.raises(DeviceError, match="uv pip failed") as caught:
            install("tflite-runtime")
        assert "\n" not in str(caught.value)
        with pytest.raises(DeviceError, match="is not installed"):
            DEVICES["tflite-runtime"].probe(5)

    def test_a_folder_that_cannot_be_written_is_named(self, root: Path) -> None:
        root.write_text("a file stands where the folder should be")
        with pytest.raises(DeviceError, match=r"runtimes: cannot write: .*EDGECONV_RUNTIMES"):
            install("tflite-runtime")
