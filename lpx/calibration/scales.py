"""Calibrated ranges by every method, and a record of the faces and the model behind them."""

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

FORMAT = "lpx-scales/3"
# The format before, which also held the times of the pass; these are not of the ranges.
_EARLIER = "lpx-scales/2"
_TIMES = ("seconds", "pass_seconds")
_REMAKE = (
    "run `lpx calibrate` again with the same `faces`; or remove the file, and "
    "`lpx build --int8 --faces DIR` writes another"
)
# Method of ranges that were imported from a calibration cache.
IMPORTED = "imported"

# Keys of the file for the fields of `CalibrationFaces`: the file is flat, so that files and engine
# manifests of earlier releases read the same.
_FACE_KEYS = {
    "faces": "name",
    "split": "split",
    "face_count": "count",
    "faces_digest": "digest",
    "identities": "identities",
    "videos": "videos",
    "set_digest": "set_digest",
    "contents": "contents",
}


@dataclass(frozen=True)
class TensorScale:
    """Statistics of one activation.

    Attributes:
        low: Smallest value.
        high: Largest value.
        count: Number of values.
        peaks: Largest magnitude to represent, per method of `METHODS`; if it was imported, only for
            `IMPORTED`.
        means: Mean of each channel; empty if it was imported.
    """

    low: float
    high: float
    count: int
    peaks: dict[str, float]
    means: tuple[float, ...]


@dataclass(frozen=True)
class CalibrationFaces:
    """Record of the faces of a calibration.

    Attributes:
        name: Name of the face set; for imported ranges, of the file.
        split: Split of the set.
        count: Number of faces used.
        digest: SHA-256 of the faces, see `lpx.data.face_sets.face_set.FaceSet.digest`.
        identities: Identities in the faces, sorted; empty if the set does not record them.
        videos: Videos of the faces, sorted.
        contents: First 16 digits of the SHA-256 of each face's content, sorted: they identify
            faces that have been renamed.
        set_digest: Digest of the whole set that `lpx calibrate` selected from; "" if all faces of
            the set were used.
    """

    name: str
    split: str
    count: int
    digest: str
    identities: tuple[str, ...]
    videos: tuple[str, ...]
    contents: tuple[str, ...] = ()
    set_digest: str = ""


@dataclass(frozen=True)
class Scales:
    """Calibrated ranges of all tensors.

    Attributes:
        model_sha256: SHA-256 of the ONNX model that was calibrated.
        faces: Faces it was calibrated on.
        warning: Warning about this calibration, such as faces left out; "" if there is none.
        tensors: Statistics by tensor name.
        method: Method to use by default.
        candidates: Measurements of each method on held-out faces.
        weights: Weight options in use when the candidates were measured, as plain values; empty if
            none were measured.
    """

    model_sha256: str
    faces: CalibrationFaces
    warning: str
    tensors: dict[str, TensorScale]
    method: str = DEFAULT_METHOD
    candidates: tuple[dict[str, Any], ...] = ()
    weights: dict[str, Any] = field(default_factory=dict)

    def ranges(self, method: str) -> dict[str, Range]:
        """Return the range of each tensor by one method.

        Raises:
            LpxError: The method is unknown, or another one than that of imported ranges.
        """
        known, which = METHODS, ""
        if self.method == IMPORTED:
            known, which = (IMPORTED,), " for imported ranges"
        if method not in known:
            raise LpxError(
                f"unknown calibration method {method!r}{which}",
                f"known methods: {', '.join(known)}",
                "use one of these as `method`, or calibrate on `faces`",
                code="invalid-argument",
            )
        ranges = {}
        for name, tensor in self.tensors.items():
            peak = tensor.peaks[method]
            ranges[name] = Range(max(tensor.low, -peak), min(tensor.high, peak), tensor.means)
        return ranges

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in scales.json."""
        values = asdict(self)
        faces = values.pop("faces")
        return {**values, **{key: faces[name] for key, name in _FACE_KEYS.items()}}

    def summary(self) -> dict[str, Any]:
        """Return plain values for an engine's manifest, with a digest in place of the tensors."""
        values = self.to_dict()
        # The manifest names the method that was used, which may be another one.
        del values["method"]
        ranges = sealed({"tensors": values.pop("tensors")})
        return {**values, "ranges_sha256": ranges[CHECKSUM]}


def imported_scales(
    model_sha256: str, source: str, peaks: Mapping[str, float], warning: str
) -> Scales:
    """Return scales of ranges that another tool calibrated.

    Args:
        model_sha256: SHA-256 of the ONNX model that they belong to.
        source: Name of the file that they were read from.
        peaks: Largest magnitude to represent, per tensor.
        warning: Warning about them.
    """
    faces = CalibrationFaces(name=source, split="", count=0, digest="", identities=(), videos=())
    tensors = {name: TensorScale(-p, p, 0, {IMPORTED: p}, ()) for name, p in peaks.items()}
    return Scales(
        model_sha256=model_sha256,
        faces=faces,
        warning=warning,
        tensors=tensors,
        method=IMPORTED,
    )


def save_scales(path: Path, scales: Scales) -> None:
    """Write scales atomically."""
    write_sealed(path, {"format": FORMAT, **scales.to_dict()})


def load_scales(path: Path, model_sha256: str) -> Scales:
    """Read scales, and check that they belong to a model.

    Raises:
        LpxError: The file is missing, damaged, of another format, or belongs to another model.
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
    """Read scales of any model.

    Raises:
        LpxError: The file is missing, damaged, or of another format.
    """
    try:
        values = read_sealed(path, "lpx calibrate")
    except LpxError as error:
        raise LpxError(error.what, error.why, _REMAKE, code=error.code) from error
    version = values.pop("format", None)
    if version == _EARLIER:
        for name in _TIMES:
            values.pop(name, None)
    elif version != FORMAT:
        raise LpxError(
            f"{path} has another format",
            f"expected {FORMAT}, found {version!a:.60}",
            _REMAKE,
            code="unsupported",
        )
    try:
        scales = read_record(Scales, _nested(values))
        _check_values(scales)
    except SchemaError as error:
        raise LpxError(f"{path} is damaged", str(error), _REMAKE, code="damaged") from error
    return scales


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the flat file as fields of `Scales`."""
    faces = {name: values[key] for key, name in _FACE_KEYS.items() if key in values}
    others = {key: value for key, value in values.items() if key not in _FACE_KEYS}
    return {**others, "faces": faces}


def _check_values(scales: Scales) -> None:
    """Refuse values of the right type that no calibration gives.

    Raises:
        SchemaError: The tensor or field, and what is wrong.
    """
    methods = {IMPORTED} if scales.method == IMPORTED else set(METHODS)
    if scales.method not in methods:
        raise SchemaError(f"method: {scales.method[:60]!a} is unknown")
    if scales.faces.count < 0:
        raise SchemaError("face_count must be >= 0")
    for name, tensor in scales.tensors.items():
        where = f"tensors.{name[:100]}"
        if tensor.low > tensor.high or tensor.count < 0:
            raise SchemaError(f"{where}: low is above high, or count below 0")
        if tensor.peaks.keys() != methods or any(peak < 0 for peak in tensor.peaks.values()):
            raise SchemaError(f"{where}: peaks must be >= 0, one for each method")
