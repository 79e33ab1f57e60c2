"""Recipes, code, weights and images that a stranger made.

Members thought of: keys of 200,000 dotted parts, plain, quoted, of a table; integers of more than 64 bits in every kind
of place; exceptions that cannot be told; an `eval` that raises or returns nothing; hooks of the interpreter taken away;
floats of 4 and 8 bits, complex numbers, tensors of 10^12 elements by a stride of 0 (in the module's place and beside
it), keys that the module has not; PNG of 16 bits in gray and in colour, PPM of 16 bits; lists of 90,000 tables; NumPy
files of 10^12 elements without a size (void, text and bytes of no length, records without fields), archives of 60,000
arrays; checkpoints that are compressed; integers of 100,000 decimal digits.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeconv.errors import RecipeError
from edgeconv.recipe import build_module, load_recipe
from edgeconv.recipe.arrays import read_arrays
from edgeconv.recipe.checkpoint import read_checkpoint
from edgeconv.recipe.preprocessing import _open
from edgeconv.recipe.weights import load_weights

RECIPE = """
name = "net"
[model]
factory = "untrusted_net:make"
seed = 1
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
"""
VAST_INTEGER = "0x" + "f" * 5000


def _recipe(folder: Path, text: str, code: str = "") -> Path:
    (folder / "net.toml").write_text(text)
    (folder / "untrusted_net.py").write_text(f"from torch import nn\n{code}")
    return folder / "net.toml"


@pytest.mark.parametrize(
    "text", ["a." * 200_000 + "b = 1", '"a,".' * 200_000 + "b = 1", "[" + "a . " * 100_000 + "b]", "'a' . " * 100_000]
)
def test_endless_keys_are_refused_at_once(text: str, tmp_path: Path) -> None:
    started = time.process_time()
    with pytest.raises(RecipeError, match="nested more than 16 deep"):
        load_recipe(_recipe(tmp_path, text))
    assert time.process_time() - started < 5


def test_endless_lists_of_tables_are_refused_at_once(tmp_path: Path) -> None:
    started = time.process_time()
    with pytest.raises(RecipeError, match="inputs: is a list of 90000 tables, more than 1000; give fewer"):
        load_recipe(_recipe(tmp_path, "[[inputs]]\n" * 90_000))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("descr", ["|V0", "<U0", "|S0", []])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_elements_of_no_size_are_refused_at_once(suffix: str, descr: object, tmp_path: Path) -> None:
    header = repr({"descr": descr, "fortran_order": False, "shape": (10**12,)}).encode()
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", data)
    else:
        path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(RecipeError, match="holds elements of no size"):
        read_arrays(path)
    assert time.process_time() - started < 5


def test_a_checkpoint_that_is_larger_than_its_file_is_not_unpacked(tmp_path: Path) -> None:
    """torch reads the pickle of a compressed archive as a whole: 3 GB, and minutes, of a file of 3 MB."""
    torch.save({"weight": torch.ones(3)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert list(read_checkpoint(tmp_path / "plain.pt")) == ["weight"]
    with pytest.raises(RecipeError, match=r"w\.pt is no readable checkpoint"):
        read_checkpoint(tmp_path / "w.pt")


def test_archives_of_endless_arrays_are_refused_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for at in range(5000):
            archive.writestr(f"{at}.npy", b"")
    with pytest.raises(RecipeError, match="holds 5000 arrays, more than 4096; join"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("old", ["seed = 1", 'name = "x"', "shape = [1, 3, 8, 8]", 'name = "net"'])
def test_integers_are_those_of_toml(old: str, tmp_path: Path) -> None:
    text = RECIPE.replace(old, f"{old.partition(' = ')[0]} = {VAST_INTEGER}")
    with pytest.raises(RecipeError, match="integer of more than 64 bits"):
        load_recipe(_recipe(tmp_path, text))


def test_many_dots_that_are_no_key_are_read(tmp_path: Path) -> None:
    numbers = ", ".join(["0.5"] * 5000)
    text = RECIPE.replace("seed = 1", f"args = {{ a = [{numbers}], b = '{'a.b, ' * 5000}' }} # {'a. ' * 900}")
    assert len(load_recipe(_recipe(tmp_path, text)).model.args["a"]) == 5000


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\ndef make(): raise E",
            "raised E; fix that code",
        ),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "it raised E; fix that module"),
        (
            "class Net(nn.ReLU):\n    def eval(self): raise KeyError('no')\nmake = Net",
            r"the module's eval\(\) raised KeyError: 'no'",
        ),
        ("def __getattr__(name): raise OSError(name)", "raised OSError: "),
    ],
)
def test_code_that_raises_in_odd_places(code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        build_module(load_recipe(_recipe(tmp_path, RECIPE, code)))


def test_an_eval_that_returns_nothing_and_hooks_that_are_gone(tmp_path: Path) -> None:
    code = (
        "import sys, threading\nclass Net(nn.ReLU):\n    def eval(self): sys.excepthook = threading.excepthook = None\n"
    )
    hooks = sys.excepthook, threading.excepthook
    assert isinstance(build_module(load_recipe(_recipe(tmp_path, RECIPE, f"{code}make = Net"))), nn.ReLU)
    assert (sys.excepthook, threading.excepthook) == hooks


PLAIN = {name: value.clone() for name, value in nn.Linear(4, 3).state_dict().items()}
VAST = torch.zeros(1).expand(10**6, 10**6)
FLOAT4 = torch.zeros(3, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": VAST}, "more elements than it holds in weight"),
        ({"extra": VAST}, "more elements than it holds in extra"),
        ({"weight": FLOAT4}, "float4_e2m1fn_x2 in the file"),
        ({"extra": FLOAT4}, "unexpected: extra"),
        ({"weight": PLAIN["weight"].to(torch.float8_e5m2)}, "float8_e5m2 in the file"),
        ({"weight": PLAIN["weight"].to(torch.complex64)}, "complex64 in the file"),
        ({"extra": torch.zeros(3)}, "unexpected: extra"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, torch.Tensor], words: str, tmp_path: Path) -> None:
    torch.save({**PLAIN, **changes}, tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=words):
        load_weights(nn.Linear(4, 3), tmp_path / "w.pt")


def _png(channels: int) -> bytes:
    rows = b"".join(b"\0" + bytes(2 * channels * 8) for _ in range(8))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, {1: 0, 3: 2}[channels], 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("name", "data"),
    [("gray.png", _png(1)), ("colour.png", _png(3)), ("colour.ppm", b"P6 8 8 65535\n" + bytes(8 * 8 * 6))],
)
def test_images_of_16_bits(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecipeError, match="more than 8 bits per channel"):
        _open(tmp_path / name, "")
