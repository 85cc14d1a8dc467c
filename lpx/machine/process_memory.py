"""Memory of this process."""

from __future__ import annotations

import re
from pathlib import Path


def read_memory(status: Path = Path("/proc/self/status")) -> dict[str, float | None]:
    """What this process holds now and held at most, MiB; None where the system does not say.

    Args:
        status: The kernel's account of the process.
    """
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return {"process_rss_mib": _mib(text, "VmRSS"), "process_peak_mib": _mib(text, "VmHWM")}


def _mib(text: str, field: str) -> float | None:
    found = re.search(rf"^{field}:\s*(\d+) kB$", text, re.M)
    return int(found[1]) / 1024 if found else None
