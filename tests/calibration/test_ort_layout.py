from __future__ import annotations

import numpy as np
import pytest

from lpx.calibration.ort_layout import measure_block_size, remove_reorders


class Memory:
    """A session that gives 64 channels of two pixels in blocks of some size."""

    def __init__(self, size):
        self.size = size

    def run(self, names, inputs):
        x = inputs["x"]
        shape = (64 // self.size, self.size, 2)
        return [np.ascontiguousarray(x.reshape(shape).transpose(0, 2, 1)).reshape(x.shape)]


@pytest.mark.parametrize(("size", "found"), [(1, 1), (4, 4), (8, 8), (16, 16), (32, 1), (64, 1)])
def test_block_size_is_measured_from_memory(size, found):
    measured = measure_block_size(opener=lambda *_, **__: Memory(size), remover=lambda *_: ["y"])
    assert measured == found


def test_without_a_layout_of_its_own():
    assert measure_block_size(remover=lambda *_: []) == 1


def test_blocks_of_the_real_runtime_are_measured_if_there_are_any():
    removed = []

    def remover(graph, names):
        removed.extend(remove_reorders(graph, names))
        return removed

    assert (measure_block_size(remover=remover) > 1) == (removed == ["y"])
