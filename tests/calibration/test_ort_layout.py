from __future__ import annotations

import numpy as np
import pytest

from lpx.calibration import ort_layout


@pytest.fixture(autouse=True)
def _asked_anew():
    ort_layout.block_size.cache_clear()
    yield
    ort_layout.block_size.cache_clear()


class Memory:
    """A session that gives 64 channels of two pixels in blocks of some size."""

    def __init__(self, size):
        self.size = size

    def run(self, names, inputs):
        x = inputs["x"]
        shape = (64 // self.size, self.size, 2)
        return [np.ascontiguousarray(x.reshape(shape).transpose(0, 2, 1)).reshape(x.shape)]


@pytest.mark.parametrize(("size", "found"), [(1, 1), (4, 4), (8, 8), (16, 16), (32, 1), (64, 1)])
def test_size_of_blocks_is_read_off_memory(monkeypatch, size, found):
    real = ort_layout.open_session

    def opened(model, *, optimise=True, **settings):
        return real(model, **settings) if optimise else Memory(size)

    monkeypatch.setattr(ort_layout, "open_session", opened)
    monkeypatch.setattr(ort_layout, "_take_out", lambda *_: ["y"])
    assert ort_layout.block_size() == found


def test_without_a_layout_of_its_own(monkeypatch):
    monkeypatch.setattr(ort_layout, "_take_out", lambda *_: [])
    assert ort_layout.block_size() == 1


def test_blocks_of_the_real_runtime_are_read_where_there_are_any(monkeypatch):
    found = []
    real = ort_layout._take_out
    monkeypatch.setattr(ort_layout, "_take_out", lambda *given: found.extend(real(*given)) or found)
    size = ort_layout.block_size()
    assert (size > 1) == (found == ["y"])
