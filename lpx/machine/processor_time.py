"""Processor time of the whole machine."""

from __future__ import annotations

import os
from pathlib import Path

# Columns of the line "cpu" of /proc/stat that are not work: idle, iowait; guests are in user time.
_IDLE = (3, 4)
_COLUMNS = 8


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Return the time that all cores have worked since the start, s; None if unreadable.

    Args:
        stat: The kernel's file.
    """
    try:
        with stat.open(encoding="ascii") as stream:
            words = stream.readline().split()
        if not words or words[0] != "cpu":
            return None
        ticks = [int(word) for word in words[1 : _COLUMNS + 1]]
    except (OSError, ValueError):
        return None
    busy = sum(value for column, value in enumerate(ticks) if column not in _IDLE)
    return busy / os.sysconf("SC_CLK_TCK")
