"""NVIDIA's management library (NVML): energy, clock, temperature and throttling of one GPU.

Called through ctypes: the driver of every discrete GPU includes libnvidia-ml.so.1, so no package is
needed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_GRAPHICS_CLOCK = 0
_GPU_SENSOR = 0
_NAME_BYTES = 96
# nvmlClocksThrottleReason* in nvml.h: reasons that slow a program down. Idle (1) and clocks set by
# the user (2, 0x100) are not throttling.
_THROTTLE = {
    0x4: "power cap (software)",
    0x8: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class NvmlError(Exception):
    """NVML is missing, or reports an error; the message says which."""


class Nvml:
    """The first GPU that CUDA programs of this process may use.

    Args:
        library: Replacement for the driver's library; None loads it.
        load: Loads a library by its name.

    Attributes:
        name: The GPU's name.

    Raises:
        NvmlError: No driver or no GPU was found.
    """

    def __init__(self, library: Any = None, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        try:
            self._library = library or load(LIBRARY)
        except OSError as error:
            raise NvmlError(f"no NVIDIA driver ({LIBRARY} is not found)") from error
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        # An index or a UUID, which schedulers of clusters use.
        selector = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
        if selector.isdecimal():
            index = ctypes.c_uint(int(selector))
            self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(self._device))
        else:
            uuid = selector.encode()
            self._call("nvmlDeviceGetHandleByUUID", uuid, ctypes.byref(self._device))
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("nvmlDeviceGetName", self._device, name, ctypes.c_uint(_NAME_BYTES))
        self.name = name.value.decode(errors="replace")

    def energy_mj(self) -> int:
        """Return the energy since the driver was loaded, mJ.

        Raises:
            NvmlError: The GPU has no such counter (older than Volta, or integrated).
        """
        energy = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(energy))
        return energy.value

    def clock_mhz(self) -> float | None:
        """Return the clock of the graphics engine, MHz; None if unknown, as on a Jetson."""
        clock = ctypes.c_uint()
        return self._or_none("nvmlDeviceGetClockInfo", ctypes.c_uint(_GRAPHICS_CLOCK), clock)

    def temperature_c(self) -> float | None:
        """Return the temperature of the chip, degrees Celsius; None if unknown."""
        heat = ctypes.c_uint()
        return self._or_none("nvmlDeviceGetTemperature", ctypes.c_uint(_GPU_SENSOR), heat)

    def throttle_reasons(self) -> tuple[str, ...]:
        """Return the reasons why the driver reduces the clock at this moment."""
        mask = ctypes.c_ulonglong()
        try:
            self._call(
                "nvmlDeviceGetCurrentClocksThrottleReasons", self._device, ctypes.byref(mask)
            )
        except NvmlError:
            return ()
        return tuple(name for bit, name in _THROTTLE.items() if mask.value & bit)

    def _or_none(self, function: str, selector: ctypes.c_uint, out: ctypes.c_uint) -> float | None:
        try:
            self._call(function, self._device, selector, ctypes.byref(out))
        except NvmlError:
            return None
        return float(out.value)

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            call = getattr(self._library, function)
        except AttributeError as error:
            # The library of a Jetson or of an old driver has fewer functions.
            raise NvmlError(f"NVML: {function} is missing from {LIBRARY}") from error
        code = call(*arguments)
        if code:
            describe = self._library.nvmlErrorString
            # ctypes would otherwise cut the pointer to 32 bits.
            describe.restype = ctypes.c_char_p
            text = describe(code)
            message = text.decode(errors="replace") if text else f"error {code}"
            raise NvmlError(f"NVML: {message} ({function})")


def open_nvml() -> Nvml | None:
    """Return the GPU's driver, None if there is none."""
    try:
        return Nvml()
    except NvmlError:
        return None
