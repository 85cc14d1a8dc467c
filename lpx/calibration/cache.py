"""TensorRT's calibration cache: one header line, then `tensor: scale`, the scale's bits in hex.

The format is that of `IInt8EntropyCalibrator2`: the float32 scale, of which 127 steps reach the
largest magnitude, is written as the hexadecimal digits of its big-endian bytes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Mapping

from lpx.calibration.methods import LEVELS
from lpx.errors import LpxError

_HEADER = re.compile(r"TRT-(\d+)-(\w+Calibration2?)")
_LINE = re.compile(r"(?P<tensor>.+): (?P<bits>[0-9a-fA-F]{8})")
_FIX = "write the cache again, or leave the tensor out of it"


def write_cache(peaks: Mapping[str, float], version: str = "8501") -> str:
    """The text of a cache.

    Args:
        peaks: Largest magnitude to represent, per tensor.
        version: TensorRT's version for the header, without points. TensorRT refuses a cache that
            another version wrote, unless told otherwise.

    Raises:
        LpxError: A peak that gives no scale: zero, infinite or NaN.
    """
    lines = [f"TRT-{version}-EntropyCalibration2"]
    for name, peak in peaks.items():
        bits = struct.pack(">f", _checked(peak / LEVELS, name, "the calibration"))
        lines.append(f"{name}: {bits.hex()}")
    return "\n".join(lines) + "\n"


def header_version(version: tuple[int, ...]) -> str:
    """A TensorRT version as its caches' header has it: (8, 6, 1) is "8601", (10, 3, 0) "100300".

    It is NvInferVersion.h's NV_TENSORRT_VERSION, whose major counts 10000 from 10 on.
    """
    major, minor, patch = (*version, 0, 0)[:3]
    return str(major * (10_000 if major >= 10 else 1000) + minor * 100 + patch)


def read_cache(text: str, source: str, tensors: Collection[str] | None = None) -> dict[str, float]:
    """Largest magnitude to represent, per tensor, from a cache that lpx or TensorRT wrote.

    Args:
        text: The cache.
        source: Its name, for messages.
        tensors: All tensors of the model; None where any will do. TensorRT names some tensors of
            its own making, "(Unnamed Layer* 5) [Constant]_output"; these are left out.

    Raises:
        LpxError: No such header, a line that is not an entry, a tensor twice, a scale that is not
            positive and finite, or a tensor that the model does not have.
    """
    lines = text.splitlines()
    if not lines or not _HEADER.fullmatch(lines[0].strip()):
        raise LpxError(
            f"{source} is not a calibration cache of TensorRT",
            f"its first line is {lines[0][:60]!r}" if lines else "it is empty",
            "name a file that begins with a line such as TRT-8501-EntropyCalibration2",
        )
    peaks: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise LpxError(
                f"{source}: line {number} is not an entry of a calibration cache",
                f"it is {line[:60]!r}, not `tensor: 8 hexadecimal digits`",
                _FIX,
            )
        name = found["tensor"]
        (scale,) = struct.unpack(">f", bytes.fromhex(found["bits"]))
        if name in peaks:
            raise LpxError(f"{source}: line {number} names {name} again", "", _FIX)
        if name.startswith("(Unnamed Layer"):
            continue
        if tensors is not None and name not in tensors:
            raise LpxError(
                f"{source}: line {number} names {name}, which is not a tensor of the model",
                "the cache was made for another model, or for another export of it",
                "export the model that the cache was made for, or calibrate again",
            )
        peaks[name] = _checked(scale, name, f"{source}: line {number}") * LEVELS
    return peaks


def _checked(scale: float, name: str, where: str) -> float:
    if math.isfinite(scale) and struct.unpack(">f", struct.pack(">f", scale))[0] > 0:
        return scale
    raise LpxError(
        f"{where} gives {name} the scale {scale:g}",
        "a scale is a positive number: every value of the tensor would be lost",
        _FIX,
    )
