"""`edgeconv completion`: a shell that has read the script completes verbs and options.

Shells thought of: bash, which is run; zsh and fish, whose questions are put as their scripts put them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeconv.cli import run

PROGRAM = Path(sys.executable).with_name("edgeconv")


def _answer(shell: str, **asked: str) -> str:
    environment = {**os.environ, "_EDGECONV_COMPLETE": f"complete_{shell}", **asked}
    return subprocess.run([PROGRAM], env=environment, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_edgeconv(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"_EDGECONV_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "completed"), [("edgeconv in", "init inspect"), ("edgeconv export --no-p", "--no-parity")]
)
def test_bash_completes_verbs_and_options(line: str, completed: str) -> None:
    words = line.split()
    code = f"""
        eval "$(edgeconv completion bash)"
        COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
        _edgeconv_completion edgeconv
        echo "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    bash = ["bash", "--norc", "-c", code]
    done = subprocess.run(bash, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == completed.split()


def test_zsh_and_fish_are_answered() -> None:
    assert '"bench":' in _answer("zsh", _TYPER_COMPLETE_ARGS="edgeconv be")
    fish = _answer("fish", _TYPER_COMPLETE_ARGS="edgeconv be", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert fish.startswith("bench")
