"""Reading and writing TensorRT calibration caches.

The format is that of `IInt8EntropyCalibrator2`: a header line, then a line `tensor: scale` for each
tensor. The float32 scale, peak / 127, is written as the hexadecimal digits of its big-endian bytes.
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
_FIX = "write the cache again, or remove the tensor from it"


def write_cache(peaks: Mapping[str, float], version: str = "8501") -> str:
    """Return the text of a cache.

    Args:
        peaks: Largest magnitude to represent, per tensor.
        version: TensorRT version for the header, as `header_version` writes it. By default,
            TensorRT refuses a cache that another version wrote.

    Raises:
        LpxError: A peak is zero, infinite or NaN, and gives no scale.
    """
    lines = [f"TRT-{version}-EntropyCalibration2"]
    for name, peak in peaks.items():
        bits = struct.pack(">f", _checked(peak / LEVELS, name, "the calibration"))
        lines.append(f"{name}: {bits.hex()}")
    return "\n".join(lines) + "\n"


def header_version(version: tuple[int, ...]) -> str:
    """Return a TensorRT version as in a cache's header: "8601" for (8, 6, 1), "100300" for 10.3.0.

    This is NV_TENSORRT_VERSION of NvInferVersion.h.
    """
    # The macro's factor for the major version changed from 1000 to 10000 with TensorRT 10.
    major, minor, patch = (*version, 0, 0)[:3]
    return str(major * (10_000 if major >= 10 else 1000) + minor * 100 + patch)


def read_cache(text: str, source: str, tensors: Collection[str] | None = None) -> dict[str, float]:
    """Read a cache that lpx or TensorRT wrote.

    Args:
        text: Contents of the cache.
        source: Name of the cache for errors.
        tensors: All tensors of the model; None accepts any.

    Returns:
        Largest magnitude to represent, per tensor.

    Raises:
        LpxError: The header is missing, a line is not an entry, a tensor appears twice, a scale is
            not positive and finite, or the model has no such tensor.
    """
    lines = text.splitlines()
    if not lines or not _HEADER.fullmatch(lines[0].strip()):
        raise LpxError(
            f"{source} is not a calibration cache of TensorRT",
            f"its first line is {lines[0][:60]!r}" if lines else "it is empty",
            "use a file that begins with a line such as TRT-8501-EntropyCalibration2",
            code="damaged",
        )
    peaks: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        entry = _LINE.fullmatch(line.strip())
        if entry is None:
            raise LpxError(
                f"{source}: line {number} is not an entry of a calibration cache",
                f"it is {line[:60]!r}, not `tensor: 8 hexadecimal digits`",
                _FIX,
                code="damaged",
            )
        name = entry["tensor"]
        (scale,) = struct.unpack(">f", bytes.fromhex(entry["bits"]))
        if name in peaks:
            raise LpxError(f"{source}: line {number} names {name} again", "", _FIX, code="damaged")
        # TensorRT also writes tensors that it created itself, which the model does not have:
        # "(Unnamed Layer* 5) [Constant]_output".
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
    # Packed and unpacked, as a float64 above zero may round to zero in the file's float32.
    if math.isfinite(scale) and struct.unpack(">f", struct.pack(">f", scale))[0] > 0:
        return scale
    raise LpxError(
        f"{where} gives {name} the scale {scale:g}",
        "a scale must be positive and finite: otherwise every value of the tensor would be lost",
        _FIX,
    )
