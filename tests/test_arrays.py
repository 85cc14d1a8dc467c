from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lpx.arrays import read_arrays


@given(array=arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0)))
def test_round_trip(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("arrays") / "a.npz"
    np.savez(path, one=array, two=np.arange(3))
    read = read_arrays(path)
    assert list(read) == ["one", "two"]
    assert read["one"].dtype == array.dtype
    assert read["one"].tobytes() == array.tobytes()


def npz(path, shape, data=b"", dtype="<f4", name="points.npy"):
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, stream.getvalue() + data)
    return path


@pytest.mark.parametrize(
    "shape", [(2_000_000_000_000,), (10**9, 10**9, 10**9), (-1,), (2**32, 2**32), (3,)]
)
def test_header_that_does_not_fit_what_is_behind_it(tmp_path, shape):
    with pytest.raises(ValueError, match=r"points\.npy.* bytes, but has 8"):
        read_arrays(npz(tmp_path / "a.npz", shape, bytes(8)))


def test_archive_that_is_too_large_in_memory(tmp_path):
    path = npz(tmp_path / "a.npz", (1 << 20,), bytes(4 << 20))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(ValueError, match="the limit is 1048576"):
        read_arrays(path, limit=1 << 20)


def test_objects_are_not_read(tmp_path):
    with pytest.raises(ValueError, match="Python objects"):
        read_arrays(npz(tmp_path / "a.npz", (1,), bytes(8), dtype="|O"))


@given(data=st.binary())
def test_any_array_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY" + data)
    with pytest.raises(ValueError, match=r"."):
        read_arrays(path)


@given(data=st.binary(), place=st.integers(0, 10**6))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, place):
    path = tmp_path_factory.mktemp("bytes") / "a.npz"
    np.savez_compressed(path, one=np.arange(30.0))
    whole = path.read_bytes()
    at = place % len(whole)
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    try:
        assert read_arrays(path)["one"].nbytes == 240
    except (OSError, ValueError, KeyError):
        return
