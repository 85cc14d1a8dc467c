from __future__ import annotations

import json

import numpy as np
import pytest

from lpx.bench.performance.trtexec_times import read_times
from lpx.errors import LpxError

# As trtexec 10 lays it out, values rounded by its stream: the first lies in the warm-up.
NEW = """[
  { "startEnqMs" : 0.0102, "endEnqMs" : 1.2041, "startH2dMs" : 0.0205, "endH2dMs" : 0.0461, \
"startComputeMs" : 0.0461, "endComputeMs" : 2.5113, "startD2hMs" : 2.5113, "endD2hMs" : 2.5266, \
"h2dMs" : 0.0256, "computeMs" : 2.4652, "d2hMs" : 0.0153, "latencyMs" : 2.5061 }
, { "startEnqMs" : 201.01, "endEnqMs" : 201.13, "startH2dMs" : 201.02, "endH2dMs" : 201.04, \
"startComputeMs" : 201.04, "endComputeMs" : 202.29, "startD2hMs" : 202.29, "endD2hMs" : 202.3, \
"h2dMs" : 0.0215, "computeMs" : 1.2505, "d2hMs" : 0.0102, "latencyMs" : 1.2822 }
, { "startEnqMs" : 202.31, "endEnqMs" : 202.39, "startH2dMs" : 202.32, "endH2dMs" : 202.34, \
"startComputeMs" : 202.34, "endComputeMs" : 203.58, "startD2hMs" : 203.58, "endD2hMs" : 203.59, \
"h2dMs" : 0.0205, "computeMs" : 1.2401, "d2hMs" : 0.0092, "latencyMs" : 1.2698 }
]
"""
# As TensorRT 7 did: other names, and no enqueueing.
OLD = """[
  { "startInMs" : 300.1, "endInMs" : 300.2, "startComputeMs" : 300.2, "endComputeMs" : 303.2, \
"startOutMs" : 303.2, "endOutMs" : 303.3, "inMs" : 0.1, "computeMs" : 3, "outMs" : 0.1, \
"latencyMs" : 3.2, "endToEndMs" : 3.2 }
]
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "times.json"
        path.write_text(text)
        return path

    return write


def test_times_without_the_warm_up(file):
    times = read_times(file(NEW))
    np.testing.assert_array_equal(times.latency_ms, [1.2822, 1.2698])
    np.testing.assert_array_equal(times.h2d_ms, [0.0215, 0.0205])
    np.testing.assert_array_equal(times.compute_ms, [1.2505, 1.2401])
    np.testing.assert_array_equal(times.d2h_ms, [0.0102, 0.0092])
    np.testing.assert_allclose(times.enqueue_ms, [0.12, 0.08], atol=1e-9)
    assert len(read_times(file(NEW), warm_up_ms=0).latency_ms) == 3


def test_names_of_tensorrt_7(file):
    times = read_times(file(OLD))
    assert (times.h2d_ms, times.compute_ms, times.d2h_ms, times.latency_ms) == (0.1, 3, 0.1, 3.2)
    assert times.enqueue_ms.size == 0


def test_latency_is_the_sum_of_its_parts(file):
    times = read_times(file(NEW), warm_up_ms=0)
    parts = times.h2d_ms + times.compute_ms + times.d2h_ms
    np.testing.assert_allclose(times.latency_ms, parts, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a file of trtexec --exportTimes"),
        (NEW[: len(NEW) // 2], "is not a file of trtexec --exportTimes"),
        ("{}", "it is not a list of inferences"),
        ("[]", "it is not a list of inferences"),
        ("[1]", "it is not a list of inferences"),
        ('[{"name": "conv1", "timeMs": 1}]', "its first entry has name, timeMs"),
        (NEW.replace('"computeMs" : 1.2401, ', ""), "inference 3 has no computeMs"),
        (NEW.replace('"latencyMs" : 1.2822', '"latencyMs" : null'), "inference 2 has no latencyMs"),
        (NEW.replace('"d2hMs" : 0.0092', '"d2hMs" : -1'), "d2hMs of inference 3 is -1"),
        (NEW.replace('"d2hMs" : 0.0092', '"d2hMs" : NaN'), "NaN is not a number that JSON allows"),
        (json.dumps([json.loads(NEW)[0]]), "all 1 inferences"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, text, said):
    with pytest.raises(LpxError) as caught:
        read_times(file(text))
    assert said in str(caught.value)
    assert "times.json" in caught.value.what


def test_missing_file(tmp_path):
    with pytest.raises(LpxError, match="cannot be read"):
        read_times(tmp_path / "nowhere.json")
