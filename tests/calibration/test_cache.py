from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration.cache import read_cache, write_cache
from lpx.errors import LpxError

NAMES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)


@given(st.dictionaries(NAMES, st.floats(1e-30, 1e30), max_size=8))
def test_round_trip(peaks):
    text = write_cache(peaks)
    found = read_cache(text, "cache")
    assert found == pytest.approx(peaks, rel=1e-6)
    assert write_cache(found) == text


def test_cache_as_tensorrt_writes_it():
    # 0x3c010a14 is the float32 nearest to 1 / 127.
    text = "TRT-8602-EntropyCalibration2\nfaces: 3c010204\nblock/relu:0: 3f800000\n"
    text += "(Unnamed Layer* 5) [Constant]_output: 00000000\n"
    found = read_cache(text, "cache", {"faces", "block/relu:0"})
    assert found["block/relu:0"] == 127
    assert found["faces"] == pytest.approx(1, rel=1e-6)
    assert set(found) == {"faces", "block/relu:0"}


def test_scale_is_big_endian_float32():
    assert (
        write_cache({"x": 127 * 0.5}, "8501").splitlines()[1]
        == f"x: {struct.pack('>f', 0.5).hex()}"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a calibration cache"),
        ("x: 3f800000\n", "is not a calibration cache"),
        ("TRT-8501-EntropyCalibration2\nx 3f800000\n", "line 2 is not an entry"),
        ("TRT-8501-EntropyCalibration2\nx: 3f8000\n", "line 2 is not an entry"),
        ("TRT-8501-EntropyCalibration2\n\nx: 3g800000\n", "line 3 is not an entry"),
        ("TRT-8501-EntropyCalibration2\nx: 00000000\n", "line 2 gives x the scale 0"),
        ("TRT-8501-EntropyCalibration2\nx: 80000000\n", "line 2 gives x the scale -0"),
        ("TRT-8501-EntropyCalibration2\nx: bf800000\n", "line 2 gives x the scale -1"),
        ("TRT-8501-EntropyCalibration2\nx: 7f800000\n", "line 2 gives x the scale inf"),
        ("TRT-8501-EntropyCalibration2\nx: 7fc00000\n", "line 2 gives x the scale nan"),
        ("TRT-8501-EntropyCalibration2\ny: 3f800000\n", "line 2 names y, which is not a tensor"),
        ("TRT-8501-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", "line 3 names x again"),
    ],
)
def test_bad_caches_are_refused_with_the_line(text, said):
    with pytest.raises(LpxError, match=said) as caught:
        read_cache(text, "model.cache", {"x"})
    assert "model.cache" in caught.value.what


@pytest.mark.parametrize("peak", [0.0, float("inf"), float("nan"), 1e-60])
def test_scale_that_is_none_is_not_written(peak):
    with pytest.raises(LpxError, match="gives relu the scale"):
        write_cache({"relu": peak})
