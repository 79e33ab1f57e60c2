"""Reads .npy and .npz files; the hint of an error never advises to allow pickles, as NumPy's own messages do."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from edgeconv.core import Array
from edgeconv.core.values import listed
from edgeconv.errors import RecipeError, is_own_fault
from edgeconv.recipe.foreign import foreign_line

MAX_FILE_BYTES = 2**31
"""Largest total size of the arrays of a file: megabytes of zip may hold terabytes of zeros, and holes cost nothing."""
_MOST_ARRAYS = 4096
"""Most arrays in an ``.npz``: each takes the time of opening a file, however small it is."""
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}


def read_arrays(path: Path, *, where: str = "") -> Mapping[str, Array]:
    """The arrays of a file by key; a ``.npy`` has the one key ``""``.

    Raises:
        RecipeError: the file is damaged, of another kind, too large, or holds Python objects, which are not read.
    """
    try:
        with path.open("rb") as file:
            # np.load would take a file that begins otherwise for a pickle.
            head = file.read(6)
        if not head.startswith(_MAGIC[path.suffix]):
            raise _refused(path, f"is no readable NumPy file: it does not begin like a {path.suffix}", where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers of old or odd kinds, which are read or refused
            return _npy_array(path, where) if path.suffix == ".npy" else _npz_arrays(path, where)
    except RecipeError:
        raise
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror or foreign_line(str(error))}", where) from error
    except Exception as error:  # of a damaged file: ValueError, BadZipFile, TokenError, zlib.error, …
        if is_own_fault(error):
            raise
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise _refused(path, "holds Python objects, which are not read", where) from error
        raise _refused(path, f"is no readable NumPy file: {foreign_line(str(error))}", where) from error


def names_of(arrays: Mapping[str, Array]) -> str:
    """The first eight keys, as an error lists them."""
    return listed([foreign_line(key) for key in arrays], 8)


def _npy_array(path: Path, where: str) -> Mapping[str, Array]:
    with path.open("rb") as file:
        _check_dtype(file, path, where)
    # Mapped first: a header that declares more than the file holds is found before memory is asked for.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.nbytes > MAX_FILE_BYTES:
        raise _too_large(path, where)
    return {"": np.load(path, allow_pickle=False)}  # not as a copy of the map, which would take the memory twice


def _npz_arrays(path: Path, where: str) -> Mapping[str, Array]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_ARRAYS:
            what = f"holds {len(entries)} arrays, more than {_MOST_ARRAYS}"
            raise _refused(path, what, where, hint="join those of one input along their first axis")
        if sum(entry.file_size for entry in entries) > MAX_FILE_BYTES:
            raise _too_large(path, where)
        for entry in entries:
            with archive.open(entry) as file:
                if file.read(6) == _MAGIC[".npy"]:
                    file.seek(0)
                    _check_dtype(file, path, where)
    with np.load(path, allow_pickle=False) as loaded:
        entries_by_key = {key: loaded[key] for key in loaded.files}
    # Entries that are no arrays come as bytes.
    return {key: value for key, value in entries_by_key.items() if isinstance(value, np.ndarray)}


def _check_dtype(file: IO[bytes], path: Path, where: str) -> None:
    """Refuses dtypes of item size 0: a header of a few bytes may declare 10^12 such elements, and numpy visits each.

    Raises:
        RecipeError: the header declares such elements.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read(file)
    if dtype.itemsize == 0:
        raise _refused(path, f"holds elements of no size ({dtype.str})", where)


def _too_large(path: Path, where: str) -> RecipeError:
    return _refused(path, f"holds more than {MAX_FILE_BYTES // 2**30} GiB", where, hint="save fewer samples")


def _refused(
    path: Path, what: str, where: str, hint: str = "save arrays of numbers with numpy.save or savez"
) -> RecipeError:
    return RecipeError(f"{path.name} {what}", where=where, hint=hint)
