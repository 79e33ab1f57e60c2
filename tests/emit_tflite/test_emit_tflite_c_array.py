"""The C source of a .tflite file: it compiles, and the program that holds it has the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeconv.core import NHWC, Array, TensorSpec
from edgeconv.emit.c_array import Golden, c_files_of, identifier, to_c
from edgeconv.errors import EmitError

RANDOM = np.random.default_rng(0)
DATA = RANDOM.bytes(1003)
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
COMPILERS = {
    "c++11": ("g++", "-std=c++11", *STRICT),
    "c++20": ("g++", "-std=c++20", *STRICT),
    "c11": ("gcc", "-x", "c", "-std=c11", *STRICT),
}
PROGRAM = """
#include <inttypes.h>
#include <stdio.h>
#include "net.int8.h"
int main(void) {
  uint32_t sum = 0;
  unsigned int i;
  for (i = 0; i < net_int8_model_len; ++i) sum = sum * 31u + net_int8_model[i];
  printf("%u %zu %" PRIu32 " %u\\n", net_int8_model_len, sizeof(net_int8_model), sum,
         (unsigned int)((uintptr_t)net_int8_model % 16u));
  for (i = 0; i < net_int8_input0_len; ++i) printf("%d ", net_int8_input0[i]);
  printf("%.9g %" PRId32 "\\n", (double)net_int8_input0_scale, net_int8_input0_zero_point);
  for (i = 0; i < net_int8_output0_len; ++i) printf("%.9g ", (double)net_int8_output0[i]);
  return 0;
}
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def _golden(values: Array, name: str = "x", scale: float | None = None, zero_point: int = 0) -> Golden:
    layout = NHWC if values.ndim == 4 else "nchw"
    return Golden(TensorSpec(name, values.shape, values.dtype.name, layout, scale, zero_point), values)


def _write(folder: Path, stem: str, data: bytes, inputs: list[Golden], outputs: list[Golden]) -> Path:
    for suffix, text in zip((".h", ".cc"), to_c(f"{stem}.tflite", data, inputs, outputs), strict=True):
        (folder / f"{stem}{suffix}").write_text(text)
    return folder / f"{stem}.cc"


def _compile(compiler: tuple[str, ...], *arguments: str | Path) -> None:
    done = subprocess.run([*compiler, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", COMPILERS)
def test_a_program_finds_the_bytes_and_the_values(language: str, tmp_path: Path) -> None:
    image = RANDOM.integers(-128, 128, (1, 2, 3, 3)).astype(np.int8)
    logits = np.array([[0.1, -1e-7, np.pi, -0.0, 3e38]], np.float32)
    source = _write(tmp_path, "net.int8", DATA, [_golden(image, "image", 1 / 255, -128)], [_golden(logits)])
    (tmp_path / "main.cc").write_text(PROGRAM)
    _compile(COMPILERS[language], source, tmp_path / "main.cc", "-o", tmp_path / "program")
    printed = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True).stdout.splitlines()
    checksum = 0
    for byte in DATA:
        checksum = (checksum * 31 + byte) % 2**32
    assert printed[0] == f"{len(DATA)} {len(DATA)} {checksum} 0"
    *values, scale, zero_point = printed[1].split()
    assert list(map(int, values)) == image.reshape(-1).tolist()
    assert (np.float32(scale), zero_point) == (np.float32(1 / 255), "-128")
    assert np.array_equal(np.array(printed[2].split(), np.float32), logits[0])


@pytest.mark.parametrize("language", ["c++11", "c11"])
def test_every_element_type_and_extreme_compiles(language: str, tmp_path: Path) -> None:
    inputs = [
        _golden(np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind), kind)
        for kind in ("int8", "uint8", "int16", "int32", "int64")
    ]
    outputs = [
        _golden(np.array([np.nan, np.inf, -np.inf, 1e-45, -3.4e38], "float32")),
        _golden(np.array([[5e-324, 1.7e308]])),
        _golden(np.array([True, False])),
        _golden(np.array(1.5, np.float32), "a scalar"),
        _golden(np.zeros((0, 3), np.float32), "nothing */ in it \\"),
    ]
    source = _write(tmp_path, "net.fp32.nchw", DATA, inputs, outputs)
    _compile(COMPILERS[language], "-c", source, "-o", tmp_path / "net.o")


@given(name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
@settings(deadline=None, max_examples=25)
def test_any_name_gives_an_identifier_that_is_not_reserved(name: str) -> None:
    name_in_c = identifier(f"{name}.int8")
    assert name_in_c.isidentifier()
    assert name_in_c.isascii()
    assert not name_in_c.startswith("_")
    assert "__" not in name_in_c


def test_the_same_values_give_the_same_text() -> None:
    golden = _golden(np.arange(6, dtype=np.int8).reshape(1, 6), "x", 0.5, 3)
    assert to_c("a.int8.tflite", DATA, [golden], [golden]) == to_c("a.int8.tflite", DATA, [golden], [golden])


def test_a_type_that_c_has_no_name_for_is_refused() -> None:
    with pytest.raises(EmitError, match="float16 has no type in C"):
        to_c("a.fp16.tflite", DATA, [_golden(np.zeros(2, np.float16))], [])


def test_only_its_own_pair_counts_as_made_of_a_file(tmp_path: Path) -> None:
    _write(tmp_path, "net.int8", DATA, [], [])
    assert c_files_of(tmp_path / "net.int8.tflite") == ["net.int8.h", "net.int8.cc"]
    (tmp_path / "net.int8.h").write_text("int mine;\n")
    assert c_files_of(tmp_path / "net.int8.tflite") == ["net.int8.cc"]
