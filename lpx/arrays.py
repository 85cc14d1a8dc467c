"""Read NumPy archives, after checking the sizes that their headers claim."""

from __future__ import annotations

import errno
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

# Default limit for the arrays of a file, bytes.
MAX_ARRAY_BYTES = 4 << 30


class _Header(NamedTuple):
    """Header of an array: its shape, its type, and the place where its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int


def read_arrays(path: Path, limit: int = MAX_ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Read the arrays of a `.npz` file.

    Args:
        path: The file.
        limit: Largest size of all arrays together, bytes.

    Returns:
        The arrays by name.

    Args:
        path: The file.
        limit: Maximum size of all arrays in memory, bytes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not an archive, holds something other than arrays of plain values, has a
            header that does not fit the bytes behind it, or is larger than the limit.
    """
    # Opening a pipe would wait for its other end forever.
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # Sizes after decompression, which a small file can make as large as it likes.
            size = sum(entry.file_size for entry in entries)
            if size > limit:
                raise ValueError(f"its arrays have {size} bytes; the limit is {limit}")
            # NumPy allocates the size in a header before it reads any values.
            for entry in entries:
                with archive.open(entry) as stream:
                    _check_header(entry, stream)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError: encrypted, or compressed in a way that is not supported.
        raise ValueError(str(error) or "it is truncated") from error


def _check_header(entry: zipfile.ZipInfo, stream: Any) -> None:
    name = ascii(entry.filename[:60])
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{name} is not an array")
    shape, dtype, start = _header(stream)
    if dtype.hasobject:
        raise ValueError(f"array {name} holds Python objects")
    # With Python's integers: NumPy's would overflow.
    size = math.prod(int(length) for length in shape) * dtype.itemsize
    if start + size != entry.file_size:
        raise ValueError(
            f"array {name} is {dtype} {list(shape)}, {size} bytes, but has "
            f"{entry.file_size - start}"
        )


def _header(stream: BinaryIO) -> _Header:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its arrays have format {version}, which lpx does not read")
    return _Header(shape, dtype, stream.tell())
