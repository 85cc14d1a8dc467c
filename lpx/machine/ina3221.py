"""Power rails of a Jetson, from the monitors that measure them, as sysfs shows these.

- INA3221, three channels on the module: `in{N}_label`, `in{N}_input` in mV, `curr{N}_input` in mA.
  A channel labelled NC is not connected; channel 7 is the sum of shunt voltages, not a power.
- INA238 and its kin, one channel: `label`, `power1_input` in uW. Jetson Thor's developer kit has
  one at the input of its carrier board (VIN).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lpx.machine.probe import read_number, read_text

_MONITORS = (
    "sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*",
    "sys/bus/i2c/drivers/ina2*/*/hwmon/hwmon*",
)
_BOARD_INPUT = ("VIN",)
"""Rails that carry all power of module and carrier board."""
_MODULE_INPUT = ("VDD_IN", "POM_5V_IN")
"""Rails that carry all power of the module."""
_WITHIN = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
"""Rails fed from another that is measured too, by that other's name: AGX Orin's memory."""
_SUM_OF_SHUNTS = 7
_USUAL_INTERVAL_MS = 5
_LEAST_INTERVAL_MS, _MOST_INTERVAL_MS = 2, 100


@dataclass(frozen=True)
class Rail:
    """One power rail.

    Attributes:
        name: The board's label, as "VDD_IN".
        monitor: The chip that measures it, as "ina3221".
        files: Files whose product is the power in uW: one of uW, or voltage in mV and current in
            mA.
        interval_ms: How often the monitor renews them, in ms.
    """

    name: str
    monitor: str
    files: tuple[Path, ...]
    interval_ms: int


def find_rails(root: Path = Path("/")) -> tuple[tuple[Rail, ...], str]:
    """Find the rails that can be read.

    Args:
        root: Where the file system's tree begins.

    Returns:
        The rails, and why there are none, else "".
    """
    monitors = [monitor for pattern in _MONITORS for monitor in sorted(root.glob(pattern))]
    if not monitors:
        return (), "no power monitor in /sys/bus/i2c/drivers: in a container, mount the host's /sys"
    rails = [rail for monitor in monitors for rail in _rails_of(monitor)]
    if not rails:
        return (), "the power monitors show no channel that is connected and readable"
    return tuple(rails), ""


def total_power(rails: Sequence[Rail]) -> tuple[Rail, ...]:
    """Return the rails whose sum is the most of the machine that is measured, each part once.

    The input of the board where that is measured, else the module's, else the module's rails.
    """
    for inputs in (_BOARD_INPUT, _MODULE_INPUT):
        if found := tuple(rail for rail in rails if rail.name in inputs)[:1]:
            return found
    names = {rail.name for rail in rails}
    return tuple(rail for rail in rails if _WITHIN.get(rail.name) not in names)


def covered(names: Sequence[str]) -> str:
    """Say what part of the machine is in the power of the rails that `total_power` returned.

    Args:
        names: The rails' names.
    """
    if set(names) <= set(_BOARD_INPUT):
        return "the whole board, its carrier included"
    if set(names) <= set(_MODULE_INPUT):
        return "the whole module, without the carrier board"
    return "those rails of the module, without the carrier board"


def _rails_of(monitor: Path) -> list[Rail]:
    channels = {
        label: _channel_files(label)
        for label in sorted(monitor.glob("in*_label"))
        if _number_in(label.name) != _SUM_OF_SHUNTS
    }
    # What has channels has no label of its own.
    channels = channels or {monitor / "label": _single_channel_files(monitor)}
    asked = read_number(monitor / "update_interval") or _USUAL_INTERVAL_MS
    interval = min(max(asked, _LEAST_INTERVAL_MS), _MOST_INTERVAL_MS)
    chip = read_text(monitor / "name") or monitor.parents[2].name
    return [
        Rail(name, chip, files, interval)
        for label, files in channels.items()
        if (name := read_text(label)) not in ("", "NC") and _readable(files)
    ]


def _channel_files(label: Path) -> tuple[Path, ...]:
    channel = _number_in(label.name)
    return label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")


def _single_channel_files(monitor: Path) -> tuple[Path, ...]:
    power = (monitor / "power1_input",)
    # in0 is the shunt's voltage, in1 the rail's.
    return power if _readable(power) else (monitor / "in1_input", monitor / "curr1_input")


def _readable(files: tuple[Path, ...]) -> bool:
    return all(read_number(file) is not None for file in files)


def _number_in(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)
