"""Power rails of a Jetson: the channels of its INA3221 monitors, as sysfs shows them.

Layout (Jetson Linux's hwmon driver): `in{N}_label`, `in{N}_input` in mV, `curr{N}_input` in mA. A
channel labelled NC is not connected; channel 7 is the sum of shunt voltages, no power.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lpx.engines.probe import read_number, read_text

_MONITORS = "sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*"
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
_SUM_OF_SHUNTS = 7
_USUAL_INTERVAL_MS = 5
_LEAST_INTERVAL_MS, _MOST_INTERVAL_MS = 2, 100


@dataclass(frozen=True)
class Rail:
    """One power rail.

    Attributes:
        name: The board's label, as "VDD_IN".
        millivolt: File of its voltage in mV.
        milliamp: File of its current in mA.
        interval_ms: How often the monitor renews both, in ms.
    """

    name: str
    millivolt: Path
    milliamp: Path
    interval_ms: int


def find_rails(root: Path = Path("/")) -> tuple[tuple[Rail, ...], str]:
    """Find the rails that can be read.

    Args:
        root: Where the file system's tree begins.

    Returns:
        The rails, and why there are none, else "".
    """
    monitors = sorted(root.glob(_MONITORS))
    if not monitors:
        return (), "no INA3221 in /sys/bus/i2c/drivers: in a container, mount the host's /sys"
    rails = [rail for monitor in monitors for rail in _rails_of(monitor)]
    if not rails:
        return (), "the INA3221 shows no channel that is connected and readable"
    return tuple(rails), ""


def whole_board(rails: tuple[Rail, ...]) -> tuple[Rail, ...]:
    """Return the rails whose sum is the board's power: its input where measured, else all."""
    return tuple(rail for rail in rails if rail.name in _WHOLE_BOARD)[:1] or rails


def _rails_of(monitor: Path) -> list[Rail]:
    asked = read_number(monitor / "update_interval") or _USUAL_INTERVAL_MS
    interval = min(max(asked, _LEAST_INTERVAL_MS), _MOST_INTERVAL_MS)
    rails = []
    for label in sorted(monitor.glob("in*_label")):
        channel = int(re.sub(r"\D", "", label.name) or 0)
        name = read_text(label)
        files = monitor / f"in{channel}_input", monitor / f"curr{channel}_input"
        readable = all(read_number(file) is not None for file in files)
        if name not in ("", "NC") and channel != _SUM_OF_SHUNTS and readable:
            rails.append(Rail(name, *files, interval))
    return rails
