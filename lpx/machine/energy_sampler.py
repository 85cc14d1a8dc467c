"""Sample power rails, in a process of its own. Standard library only; run by its file's name.

    python energy_sampler.py INTERVAL_S FILE [FILE] [+ FILE [FILE]] ...

The files of a rail are one with its power in uW, or one with its voltage in mV and one with its
current in mA; "+" begins another rail. Writes rows of two float64 to standard output: seconds on
the monotonic clock, which all processes share, and the sum of the rails in watts (NaN if one cannot
be read). Ends when standard input ends, so that it never outlives its parent.
"""

from __future__ import annotations

import math
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
    rails: list[list[int]] = [[]]
    for argument in arguments[1:]:
        if argument == "+":
            rails.append([])
        else:
            rails[-1].append(os.open(argument, os.O_RDONLY))
    due = time.monotonic()
    while True:
        began = time.monotonic()
        watts = _watts(rails)
        # Reading takes time, above all over I2C: the power belongs to the middle of that time.
        row = _ROW.pack((began + time.monotonic()) / 2, watts)
        os.write(sys.stdout.fileno(), row)
        due = max(due + interval_s, time.monotonic())
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            return


def _watts(rails: list[list[int]]) -> float:
    try:
        # Every read from the start of a sysfs file gives a new value. mV times mA are uW.
        microwatts = 0
        for files in rails:
            microwatts += math.prod(int(os.pread(file, 32, 0)) for file in files)
        return microwatts / 1e6
    except (OSError, ValueError):
        return float("nan")


if __name__ == "__main__":
    main(sys.argv[1:])
