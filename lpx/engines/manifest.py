"""What lies beside every engine: what it is, what it was made from, and by what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from lpx.card import ModelCard, card_from_dict
from lpx.errors import LpxError
from lpx.schema import SchemaError, read_record
from lpx.workspace import read_sealed, write_sealed

FORMAT = "lpx-engine/1"
FILE = "manifest.json"
UNKNOWN = "unknown"
"""Precision of what a runtime does not account for."""
MAX_BATCH = 1 << 20
"""Faces in one call."""

Target = Literal[
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx",
    "tensorrt",
    "tensorrt-rtx",
]
Precision = Literal["fp32", "fp16", "int8"]
TARGETS: tuple[Target, ...] = get_args(Target)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class EngineManifest:
    """An engine's identity card.

    Attributes:
        name: Name of its folder; as built, `<target>-<precision>`, and `-dla<core>` where that
            runs it.
        target: What runs it.
        precision: What its convolutions compute in.
        dialect: How precision is written in the graph it was built from.
        file: Name of the engine file, beside the manifest.
        engine_sha256: SHA-256 of that file.
        model_sha256: SHA-256 of the exported ONNX model.
        card: The model card, as plain values.
        batches: Largest batch per profile; empty where any batch runs.
        compute_capabilities: GPUs that the engine was built for, where they were asked for; empty
            for TensorRT for RTX's default set, and for targets that build for the GPU at hand.
        calibration: Faces, method and counts, None for float engines.
        placement: Per node: whether it is quantised, and why; empty for float engines.
        convolutions: Number of the graph's convolutions per precision, as the runtime says it runs
            them, "unknown" where its table of layers does not show them; empty where it has none.
        multiply_accumulates: Multiply-accumulates of convolutions and matrix products for one face,
            by the precision that the runtime computes them in, "unknown" where it does not
            report one; empty for float engines, and where it reports none at all.
        versions: Of lpx and of the libraries that built it.
        machine: Where it was built.
        options: What else was asked of the build, and what came of it: profiles, optimisation
            level, timing cache, DLA core, whether TF32 may be used, repeated builds, SHA-256 of
            the graph.
        warnings: What the user must know of this engine.
    """

    name: str
    target: Target
    precision: Precision
    dialect: str
    file: str
    engine_sha256: str
    model_sha256: str
    card: dict[str, Any]
    batches: tuple[int, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None
    placement: tuple[dict[str, Any], ...] = ()
    convolutions: dict[str, int] = field(default_factory=dict)
    multiply_accumulates: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def int8_share(self) -> float | None:
        """Share of the multiply-accumulates that run in integers, in [0, 1]; None if unknown."""
        return share_in_integers(self.multiply_accumulates)

    def model_card(self) -> ModelCard:
        """The card of the model inside."""
        return card_from_dict(self.card, f"manifest of {self.name}")


def share_in_integers(counts: Mapping[str, int]) -> float | None:
    """Share of multiply-accumulates that are done in INT8, in [0, 1]; None where not known.

    Args:
        counts: As `EngineManifest.multiply_accumulates`.
    """
    total = sum(counts.values())
    return counts.get("int8", 0) / total if total else None


def percent(share: float) -> str:
    """A share in [0, 1] as whole percent."""
    return f"{100 * share:.0f} %"


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write the manifest atomically; it comes last, so that a folder with one is complete."""
    write_sealed(folder / FILE, {"format": FORMAT, **asdict(manifest)})


def read_manifest(folder: Path) -> EngineManifest:
    """Read an engine's manifest.

    Its name is that of the folder: in a copy under another name, it is not that of the original.

    Raises:
        LpxError: Missing, damaged, of another format, or with values that no engine can have.
    """
    path = folder / FILE
    values = read_sealed(path, "lpx build")
    if values.pop("format", None) != FORMAT:
        raise LpxError(
            f"{path} is of another format", f"expected {FORMAT}", "run `lpx build` again"
        )
    known = {f.name for f in fields(EngineManifest)}
    if unknown := values.keys() - known:
        raise LpxError(f"{path} has unknown fields: {', '.join(sorted(unknown))}", "", "update lpx")
    # Engines of before it was counted.
    values.setdefault("multiply_accumulates", {})
    if lacking := known - values.keys():
        raise LpxError(
            f"{path} lacks {', '.join(sorted(lacking))}",
            "it was edited or damaged",
            "run `lpx build` again",
        )
    try:
        manifest = read_record(EngineManifest, values)
        _check_values(manifest)
    except SchemaError as error:
        raise LpxError(f"{path} is damaged", str(error), "run `lpx build` again") from error
    manifest = replace(manifest, name=_folder_name(folder))
    manifest.model_card()
    return manifest


def _folder_name(folder: Path) -> str:
    name = folder.absolute().name
    if not is_plain_name(name):
        raise LpxError(
            f"{str(folder)!a} is not a name that an engine can have",
            "it is printed, and part of other names",
            "rename the folder",
        )
    return name


def is_plain_name(name: str) -> bool:
    """Whether a text names a file or folder in the current one, and can be printed."""
    return (
        name != ""
        and name.isprintable()
        and PurePath(name).name == name
        and not name.startswith(".")
        and "\\" not in name
        and len(name.encode()) <= 255
    )


def _check_values(manifest: EngineManifest) -> None:
    """Refuse values of the right type that no engine can have.

    Raises:
        SchemaError: The field and its value.
    """
    for name in ("name", "file"):
        if not is_plain_name(value := getattr(manifest, name)):
            raise SchemaError(f"{name}: {value[:100]!a} is not the plain name of a file")
    for name in ("engine_sha256", "model_sha256"):
        if not re.fullmatch("[0-9a-f]{64}", value := getattr(manifest, name)):
            raise SchemaError(f"{name}: {value[:100]!a} is not a SHA-256")
    if not all(1 <= batch <= MAX_BATCH for batch in manifest.batches):
        raise SchemaError(f"batches: one is outside 1 to {MAX_BATCH}")
    for name in ("convolutions", "multiply_accumulates"):
        if any(count < 0 for count in getattr(manifest, name).values()):
            raise SchemaError(f"{name}: a count is below 0")
    if manifest.calibration is not None:
        known = {f.name for f in fields(_Calibration)}
        stated = {name: one for name, one in manifest.calibration.items() if name in known}
        read_record(_Calibration, stated, "calibration")
    read_record(
        _Options, {n: manifest.options[n] for n in _OPTIONS & manifest.options.keys()}, "options"
    )


@dataclass(frozen=True)
class _Calibration:
    """The part of `EngineManifest.calibration` that lpx reads."""

    method: str = ""
    faces: str = ""
    split: str = ""
    face_count: int = 0
    faces_digest: str = ""
    set_digest: str = ""
    identities: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    warning: str = ""
    weights: dict[str, Any] = field(default_factory=dict)
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Profile:
    minimum: int
    optimum: int
    maximum: int


@dataclass(frozen=True)
class _Options:
    """The part of `EngineManifest.options` that lpx reads."""

    profiles: tuple[_Profile, ...] = ()
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    tf32: bool = True
    graph_sha256: str | None = None
    provider: dict[str, str] = field(default_factory=dict)


_OPTIONS = {f.name for f in fields(_Options)}
