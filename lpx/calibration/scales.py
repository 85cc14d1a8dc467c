"""Calibrated ranges, every method side by side, and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lpx.calibration.methods import DEFAULT_METHOD, METHODS
from lpx.errors import LpxError
from lpx.graph.qdq.insert_qdq import Range
from lpx.schema import CHECKSUM, SchemaError, read_record, sealed
from lpx.workspace import read_sealed, write_sealed

FORMAT = "lpx-scales/2"
_REMAKE = (
    "run `lpx calibrate` again, with the same --faces; or remove the file, and "
    "`lpx build --int8 --faces DIR` makes another"
)
IMPORTED = "imported"
"""The method of ranges that were read from a calibration cache."""


@dataclass(frozen=True)
class TensorScale:
    """Statistics of one activation.

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
        count: Values seen.
        peaks: Largest magnitude to represent, per method of `METHODS`; where it was imported, of
            `IMPORTED` alone.
        means: Mean of each channel; empty where it was imported.
    """

    low: float
    high: float
    count: int
    peaks: dict[str, float]
    means: tuple[float, ...]


@dataclass(frozen=True)
class Scales:
    """All tensors' statistics.

    Attributes:
        model_sha256: The ONNX model that was observed.
        faces: Name of the face set.
        split: Its split.
        face_count: Faces used.
        faces_digest: SHA-256 of what they are, see `lpx.data.face_sets.face_set.FaceSet.digest`.
        identities: Whose faces, sorted; empty where the set does not say.
        videos: Which videos they are frames of, sorted.
        warning: What must be said of this calibration, such as faces left out; "" where nothing.
        seconds: Wall time of the pass, decoding included.
        pass_seconds: Time for the forward pass and for observing it.
        tensors: Per tensor name.
        set_digest: Digest of the whole set that `lpx calibrate` chose from; "" where all of the
            faces named were taken.
        method: The method to use where none is named.
        candidates: What was measured of each method on held-out faces.
        weights: What was done to weights when the candidates were measured, as plain values;
            empty where nothing was measured.
        contents: The first 16 digits of the SHA-256 of each face's content, sorted: what tells
            faces under other names.
    """

    model_sha256: str
    faces: str
    split: str
    face_count: int
    faces_digest: str
    identities: tuple[str, ...]
    videos: tuple[str, ...]
    warning: str
    seconds: float
    pass_seconds: float
    tensors: dict[str, TensorScale]
    set_digest: str = ""
    method: str = DEFAULT_METHOD
    candidates: tuple[dict[str, Any], ...] = ()
    weights: dict[str, Any] = field(default_factory=dict)
    contents: tuple[str, ...] = ()

    def ranges(self, method: str) -> dict[str, Range]:
        """The range of each tensor by one method.

        Raises:
            LpxError: Unknown method.
        """
        known = (IMPORTED,) if self.method == IMPORTED else METHODS
        if method not in known:
            raise LpxError(
                f"unknown calibration method {method!r}"
                + " of ranges that were imported" * (self.method == IMPORTED),
                f"known methods: {', '.join(known)}",
                "name one of these with --method, or calibrate on --faces",
            )
        return {
            name: Range(max(t.low, -t.peaks[method]), min(t.high, t.peaks[method]), t.means)
            for name, t in self.tensors.items()
        }

    def summary(self) -> dict[str, Any]:
        """What an engine's manifest keeps of its calibration."""
        values = asdict(self)
        # The method is for the manifest to say: another one may have been asked for.
        del values["method"]
        ranges = sealed({"tensors": values.pop("tensors")})
        return {**values, "ranges_sha256": ranges[CHECKSUM]}


def imported_scales(
    model_sha256: str, source: str, peaks: Mapping[str, float], warning: str
) -> Scales:
    """Scales of ranges that another tool calibrated.

    Args:
        model_sha256: The ONNX model that they are of.
        source: The file that they were read from.
        peaks: Largest magnitude to represent, per tensor.
        warning: What must be said of them.
    """
    return Scales(
        model_sha256=model_sha256,
        faces=source,
        split="",
        face_count=0,
        faces_digest="",
        identities=(),
        videos=(),
        warning=warning,
        seconds=0.0,
        pass_seconds=0.0,
        tensors={n: TensorScale(-p, p, 0, {IMPORTED: p}, ()) for n, p in peaks.items()},
        method=IMPORTED,
    )


def save_scales(path: Path, scales: Scales) -> None:
    """Write scales atomically."""
    write_sealed(path, {"format": FORMAT, **asdict(scales)})


def load_scales(path: Path, model_sha256: str) -> Scales:
    """Read scales, and check that they belong to a model.

    Raises:
        LpxError: Missing, damaged, of another format, or made from another model.
    """
    scales = read_scales(path)
    if scales.model_sha256 != model_sha256:
        raise LpxError(
            f"{path} was calibrated on another model",
            f"it names {scales.model_sha256[:12]}, the model is {model_sha256[:12]}",
            _REMAKE,
        )
    return scales


def read_scales(path: Path) -> Scales:
    """Read scales, of whatever model.

    Raises:
        LpxError: Missing, damaged, or of another format.
    """
    try:
        values = read_sealed(path, "lpx calibrate")
    except LpxError as error:
        raise LpxError(error.what, error.why, _REMAKE) from error
    if (found := values.pop("format", None)) != FORMAT:
        raise LpxError(
            f"{path} is of another format", f"expected {FORMAT}, found {found!a:.60}", _REMAKE
        )
    try:
        scales = read_record(Scales, values)
        _check_values(scales)
    except SchemaError as error:
        raise LpxError(f"{path} is damaged", str(error), _REMAKE) from error
    return scales


def _check_values(scales: Scales) -> None:
    """Refuse values of the right type that no calibration gives.

    Raises:
        SchemaError: The tensor or field, and what is wrong.
    """
    methods = {IMPORTED} if scales.method == IMPORTED else set(METHODS)
    if scales.method not in methods:
        raise SchemaError(f"method: {scales.method[:60]!a} is unknown")
    if scales.face_count < 0 or scales.seconds < 0 or scales.pass_seconds < 0:
        raise SchemaError("face_count, seconds and pass_seconds are at least 0")
    for name, tensor in scales.tensors.items():
        where = f"tensors.{name[:100]}"
        if tensor.low > tensor.high or tensor.count < 0:
            raise SchemaError(f"{where}: low is above high, or count below 0")
        if tensor.peaks.keys() != methods or any(peak < 0 for peak in tensor.peaks.values()):
            raise SchemaError(f"{where}: peaks are not one of at least 0 for each method")
