"""Pass a calibration cache to releases that support one, up to TensorRT 10."""

from __future__ import annotations

from typing import Any


def calibrator_for(trt: Any, cache: bytes) -> Any:
    """Return a calibrator that only reads a cache, so that TensorRT does not calibrate.

    Keep a reference to it during the build, since TensorRT holds none.

    Args:
        trt: A library with the calibrator classes (up to 10).
        cache: Text of an EntropyCalibration2 cache: a header line, then `tensor: hex(scale)`.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, cache: bytes) -> None:
            return None

    return Calibrator()
