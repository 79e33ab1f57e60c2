"""Runs a command as if this x86-64 processor had fewer instructions: the runtimes choose their kernels for those.

``python tests/processors/hidden.py avx2 COMMAND ...``. Which integer kernels ONNX Runtime (MLAS) and LiteRT (XNNPACK)
run depends on what CPUID says, and no option of theirs overrides it. So their libraries are copied, each CPUID in the
copies becomes UD2 (both are two bytes long), and ``cpuid.c`` answers in its place. Kernels, files and Python stay the
real ones and run at native speed, as in no emulator: results are those of such a processor, and times, too, but for
its clock and caches.

Linux on x86-64 with a C compiler and objdump (binutils).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PROCESSORS = {"vnni": 0, "avx512": 1, "avx2": 2, "avx": 3, "sse": 4}
"""The best that is left, to the level of ``cpuid.c``: VNNI without AMX (Ice Lake, Zen 4), AVX-512 without VNNI
(Skylake-X), AVX2 (Haswell, Zen 3), AVX without FMA (Sandy Bridge), SSE4.2 (Atom)."""
LIBRARIES = {"onnxruntime": "capi/onnxruntime_pybind11_state*.so", "ai_edge_litert": "libpywrap_litert_common.so"}
"""Installed packages, to the library of each that holds the kernels which Python runs."""
_CPUID, _UD2 = b"\x0f\xa2", b"\x0f\x0b"
_CODE = re.compile(r"LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+) 0x\w+ R?W? ?E")
_BEFORE = 4096  # bytes of code that are disassembled to reach an instruction; all of a library is a gigabyte of text
_LONGEST = 16  # bytes: one that is cut off would be read as several


def missing() -> str:
    """Why commands cannot be run so here, or nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "instructions are hidden on x86-64 Linux only"
    tools = [tool for tool in ("cc", "objdump", "readelf") if shutil.which(tool) is None]
    return f"{' and '.join(tools)} not found (Debian: gcc)" if tools else ""


def environment_of(processor: str, folder: Path) -> Mapping[str, str]:
    """Makes the copies in `folder` and returns the variables with which Python runs on `processor`.

    Args:
        processor: a key of `PROCESSORS`.
        folder: new, or made by an earlier call, which is used again; 200 MB.

    Raises:
        subprocess.CalledProcessError: the compiler, objdump or readelf failed.
    """
    folder = folder.resolve()
    library = folder / "cpuid.so"
    if not library.exists():
        for package, pattern in LIBRARIES.items():
            _copy_without_cpuid(package, pattern, folder)
        source = Path(__file__).with_name("cpuid.c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"LD_PRELOAD": str(library), "PYTHONPATH": path, "HIDDEN_LEVEL": str(PROCESSORS[processor])}


def _copy_without_cpuid(package: str, pattern: str, folder: Path) -> None:
    """A copy of an installed package whose library raises SIGILL where it asked for the processor's instructions."""
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    copy = shutil.copytree(Path(spec.origin).parent, folder / package, dirs_exist_ok=True)
    (library,) = copy.glob(pattern)
    data = bytearray(library.read_bytes())
    for offset in _offsets_of_cpuid(library):
        assert data[offset : offset + 2] == _CPUID
        data[offset : offset + 2] = _UD2
    library.write_bytes(data)


def _offsets_of_cpuid(library: Path) -> list[int]:
    """Where the instruction stands in the file; the same two bytes inside of other instructions are not among them."""
    headers = subprocess.run(["readelf", "--program-headers", "--wide", library], check=True, capture_output=True)
    segments = [[int(number, 16) for number in match.groups()] for match in _CODE.finditer(headers.stdout.decode())]
    data, offsets = library.read_bytes(), []
    for start, address, size in segments:
        at = data.find(_CPUID, start, start + size)
        while at != -1:
            if _is_cpuid(library, address + at - start, address):
                offsets.append(at)
            at = data.find(_CPUID, at + 1, start + size)
    return offsets


def _is_cpuid(library: Path, address: int, lowest: int) -> bool:
    """Whether an instruction begins at these bytes: disassembly that begins anywhere soon meets their true bounds."""
    window = [f"--start-address={max(lowest, address - _BEFORE):#x}", f"--stop-address={address + _LONGEST:#x}"]
    command = ["objdump", "-d", "--no-show-raw-insn", *window, library]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return any(line.split() == [f"{address:x}:", "cpuid"] for line in lines)


def main() -> int:
    processor, *command = sys.argv[1:] or [""]
    if processor not in PROCESSORS or not command:
        print(f"usage: hidden.py {{{','.join(PROCESSORS)}}} COMMAND ...", file=sys.stderr)
        return 2
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            command, env={**os.environ, **environment_of(processor, Path(folder))}, check=False
        ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
