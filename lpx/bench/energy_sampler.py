"""The process that samples power rails: standard library only, run by its file's name.

    python energy_sampler.py INTERVAL_S MILLIVOLT MILLIAMP [MILLIVOLT MILLIAMP ...]

Writes rows of two float64 to standard output: seconds on the monotonic clock, which all processes
share, and the sum of the rails in watts (NaN where one cannot be read). Ends when standard input
does, so that it never outlives its parent.
"""

from __future__ import annotations

import os
import select
import struct
import sys
import time

_ROW = struct.Struct("=dd")
ROW_BYTES = _ROW.size


def main(arguments: list[str]) -> None:
    """Sample until standard input ends."""
    interval_s = float(arguments[0])
    files = [os.open(path, os.O_RDONLY) for path in arguments[1:]]
    pairs = list(zip(files[::2], files[1::2], strict=True))
    due = time.monotonic()
    while True:
        began = time.monotonic()
        watts = _watts(pairs)
        # Reading takes time of its own, over I2C most of all: the middle is when power was that.
        row = _ROW.pack((began + time.monotonic()) / 2, watts)
        os.write(sys.stdout.fileno(), row)
        due = max(due + interval_s, time.monotonic())
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            return


def _watts(pairs: list[tuple[int, int]]) -> float:
    try:
        # A file of sysfs is made anew by each read from its start.
        return (
            sum(int(os.pread(volt, 32, 0)) * int(os.pread(amp, 32, 0)) for volt, amp in pairs) / 1e6
        )
    except (OSError, ValueError):
        return float("nan")


if __name__ == "__main__":
    main(sys.argv[1:])
