from __future__ import annotations

from lpx.machine.process_memory import read_memory


def test_what_the_kernel_says(tmp_path):
    status = tmp_path / "status"
    status.write_text(
        "Name:\tpython\nVmPeak:\t 9999 kB\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n"
    )
    assert read_memory(status) == {"process_rss_mib": 2.0, "process_peak_mib": 4.0}


def test_what_it_does_not_say_is_none(tmp_path):
    assert set(read_memory(tmp_path / "absent").values()) == {None}


def test_this_process_holds_something():
    found = read_memory()
    assert 1 < found["process_rss_mib"] <= found["process_peak_mib"]
