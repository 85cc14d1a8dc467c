"""Memory of this process."""

from __future__ import annotations

import re
from pathlib import Path


def read_memory(status: Path = Path("/proc/self/status")) -> dict[str, float | None]:
    """Return the memory of this process now and at its peak, MiB; None if unreadable.

    Args:
        status: The kernel's status file of the process.
    """
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return {"process_rss_mib": _mib(text, "VmRSS"), "process_peak_mib": _mib(text, "VmHWM")}


def _mib(text: str, field: str) -> float | None:
    line = re.search(rf"^{field}:\s*(\d+) kB$", text, re.M)
    return int(line[1]) / 1024 if line else None
