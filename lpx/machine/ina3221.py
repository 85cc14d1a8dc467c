"""Power rails of a Jetson, read from the power monitors in sysfs.

- INA3221, three channels on the module: `in{N}_label`, `in{N}_input` in mV, `curr{N}_input` in mA.
  A channel labelled NC is not connected; channel 7 is the sum of shunt voltages, not a power.
- INA238 and similar chips, one channel: `label`, `power1_input` in uW. Jetson Thor's developer kit
  has one at the input of its carrier board (VIN).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lpx.machine.probe import read_number, read_text

_MONITORS = (
    "sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*",
    "sys/bus/i2c/drivers/ina2*/*/hwmon/hwmon*",
)
# Rails that carry all power of module and carrier board.
_BOARD_INPUT = ("VIN",)
# Rails that carry all power of the module.
_MODULE_INPUT = ("VDD_IN", "POM_5V_IN")
# Rails that are fed from another measured rail, with that rail: AGX Orin's memory. Adding both
# would count its power twice.
_WITHIN = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_SUM_OF_SHUNTS = 7
_USUAL_INTERVAL_MS = 5
_LEAST_INTERVAL_MS, _MOST_INTERVAL_MS = 2, 100


@dataclass(frozen=True)
class Rail:
    """One power rail.

    Attributes:
        name: The board's label, such as "VDD_IN".
        monitor: The chip that measures it, such as "ina3221".
        files: Files whose product is the power in uW: a single file in uW, or voltage in mV and
            current in mA.
        interval_ms: Time between two measurements of the monitor, ms.
    """

    name: str
    monitor: str
    files: tuple[Path, ...]
    interval_ms: int


class RailSearch(NamedTuple):
    """Result of looking for rails.

    Attributes:
        rails: Rails that can be read.
        reason: Reason why there are none; "" if there are.
    """

    rails: tuple[Rail, ...]
    reason: str


def find_rails(root: Path = Path("/")) -> RailSearch:
    """Find the rails that can be read.

    Args:
        root: Root of the file system.
    """
    monitors: list[Path] = []
    for pattern in _MONITORS:
        monitors += sorted(root.glob(pattern))
    if not monitors:
        why = "no power monitor in /sys/bus/i2c/drivers: in a container, mount the host's /sys"
        return RailSearch((), why)
    rails: list[Rail] = []
    for monitor in monitors:
        rails += _rails_of(monitor)
    if not rails:
        return RailSearch((), "the power monitors show no channel that is connected and readable")
    return RailSearch(tuple(rails), "")


def total_power(rails: Sequence[Rail]) -> tuple[Rail, ...]:
    """Return the rails whose sum covers most of the machine, each part once.

    That is the input of the board or, if it is not measured, that of the module, or else the
    module's rails.
    """
    for inputs in (_BOARD_INPUT, _MODULE_INPUT):
        for rail in rails:
            if rail.name in inputs:
                return (rail,)
    names = {rail.name for rail in rails}
    return tuple(rail for rail in rails if _WITHIN.get(rail.name) not in names)


def covered(names: Sequence[str]) -> str:
    """Describe the part of the machine whose power the rails of `total_power` measure.

    Args:
        names: The names of the rails.
    """
    if set(names) <= set(_BOARD_INPUT):
        return "the whole board, its carrier included"
    if set(names) <= set(_MODULE_INPUT):
        return "the whole module, without the carrier board"
    return "those rails of the module, without the carrier board"


def _rails_of(monitor: Path) -> list[Rail]:
    channels: dict[Path, tuple[Path, ...]] = {}
    for label in sorted(monitor.glob("in*_label")):
        if _number_in(label.name) != _SUM_OF_SHUNTS:
            channels[label] = _channel_files(label)
    if not channels:
        # A monitor of a single channel has its label in a file of its own.
        channels[monitor / "label"] = _single_channel_files(monitor)
    # A driver may report 0, or an interval that makes no sense for sampling.
    reported = read_number(monitor / "update_interval") or _USUAL_INTERVAL_MS
    interval = min(max(reported, _LEAST_INTERVAL_MS), _MOST_INTERVAL_MS)
    chip = read_text(monitor / "name") or monitor.parents[2].name
    rails = []
    for label, files in channels.items():
        name = read_text(label)
        if name not in ("", "NC") and _readable(files):
            rails.append(Rail(name, chip, files, interval))
    return rails


def _channel_files(label: Path) -> tuple[Path, ...]:
    channel = _number_in(label.name)
    return label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input")


def _single_channel_files(monitor: Path) -> tuple[Path, ...]:
    power = (monitor / "power1_input",)
    if _readable(power):
        return power
    # in0 is the voltage of the shunt, in1 that of the rail.
    return monitor / "in1_input", monitor / "curr1_input"


def _readable(files: tuple[Path, ...]) -> bool:
    return all(read_number(file) is not None for file in files)


def _number_in(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)
