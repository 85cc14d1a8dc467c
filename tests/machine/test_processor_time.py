from __future__ import annotations

import os

import pytest

from lpx.machine.processor_time import busy_seconds


def test_work_without_idle_time(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 9000 500 6 7 8 50 0\ncpu0 1 2 3\n")
    assert busy_seconds(stat) == (100 + 20 + 30 + 6 + 7 + 8) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("text", ["", "cpu0 1 2\n", "cpu a b\n", "intr 5\n"])
def test_other_kernels(tmp_path, text):
    stat = tmp_path / "stat"
    stat.write_text(text)
    assert busy_seconds(stat) is None
    assert busy_seconds(tmp_path / "absent") is None


def test_this_machine_works_on():
    before = busy_seconds()
    sum(range(10**6))
    assert before is None or busy_seconds() >= before
