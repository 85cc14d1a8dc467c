"""The manifest beside every engine: its contents, its origin and its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from lpx.calibration.methods import METHODS
from lpx.card import ModelCard, card_from_dict
from lpx.engines.tensorrt_options import TensorRTOptions, read_tensorrt_options
from lpx.errors import LpxError
from lpx.formats import is_newer
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan, plan_from_dict
from lpx.schema import SchemaError, read_record
from lpx.workspace import read_sealed, write_sealed

FORMAT = "lpx-engine/2"
FILE = "manifest.json"
UNKNOWN = "unknown"
"""Precision of what a runtime does not account for."""

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
    """Properties of an engine, as its manifest.json holds them.

    Attributes:
        name: Name of its folder; by default `<target>-<precision>`, with `-dla<core>` for a DLA
            core.
        target: Runtime of the engine.
        precision: Precision of its convolutions.
        dialect: Dialect of the graph that it was built from.
        file: Name of the engine file, beside the manifest.
        engine_sha256: SHA-256 of that file.
        model_sha256: SHA-256 of the exported ONNX model.
        card: Model card, as plain values.
        calibration: Faces, method and counts; None for float engines.
        placement: For each node, the decision to quantise it, and the reason; empty for float
            engines.
        convolutions: Number of the graph's convolutions per precision, as the runtime reports it;
            "unknown" for those that it does not report, and empty if it reports none.
        multiply_accumulates: Multiply-accumulates of convolutions and matrix products for one face,
            by the precision in which the runtime computes them, or "unknown"; empty for float
            engines, and if the runtime reports no precisions.
        versions: Versions of lpx and of the libraries that built it.
        machine: Machine that built it.
        warnings: Notes for the user of this engine.
        options: Options and results of the build: TensorRT's options under "tensorrt", timing
            cache, layers on the GPU in addition to a DLA core, use of TF32, repeated builds,
            SHA-256 of the graph.
        plan: Precision plan that it was built with, as in plan.json; None for none.
    """

    name: str
    target: Target
    precision: Precision
    dialect: str
    file: str
    engine_sha256: str
    model_sha256: str
    card: dict[str, Any]
    calibration: dict[str, Any] | None = None
    placement: tuple[dict[str, Any], ...] = ()
    convolutions: dict[str, int] = field(default_factory=dict)
    multiply_accumulates: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] | None = None

    @property
    def precision_plan(self) -> PrecisionPlan:
        """Precision plan that it was built with; `NO_PLAN` for none."""
        return NO_PLAN if self.plan is None else plan_from_dict(self.plan, METHODS)

    @property
    def int8_share(self) -> float | None:
        """Share of multiply-accumulates in integers, in [0, 1]; None if unknown."""
        return share_in_integers(self.multiply_accumulates)

    @property
    def tensorrt(self) -> TensorRTOptions:
        """Options of TensorRT's builder; the defaults for a target without it."""
        return read_tensorrt_options(self.options.get("tensorrt", {}), "options.tensorrt")

    @property
    def batches(self) -> tuple[int, ...]:
        """Largest batch of each profile; empty if batches of any size run."""
        # ONNX Runtime's CPU engine has a dynamic batch without a limit.
        if "tensorrt" not in self.options:
            return ()
        return tuple(profile.maximum for profile in self.tensorrt.profiles)

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """GPUs that it was built for on request; empty for the target's own choice."""
        return self.tensorrt.gpus

    def model_card(self) -> ModelCard:
        """Return the model card."""
        return card_from_dict(self.card, f"manifest of {self.name}")


def share_in_integers(counts: Mapping[str, int]) -> float | None:
    """Return the share of multiply-accumulates in INT8, in [0, 1]; None if not known.

    Args:
        counts: As `EngineManifest.multiply_accumulates`.
    """
    total = sum(counts.values())
    # A total of 0 means that nothing was counted, not that nothing is in integers.
    if not total:
        return None
    return counts.get("int8", 0) / total


def percent(share: float) -> str:
    """Format a share in [0, 1] as whole percent."""
    return f"{100 * share:.0f} %"


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write the manifest atomically; it comes last, so that a folder with one is complete."""
    values = asdict(manifest)
    # Only if there is one: an lpx that knows no plans refuses the engine rather than rebuild it
    # without, and reads all others.
    if manifest.plan is None:
        del values["plan"]
    write_sealed(folder / FILE, {"format": FORMAT, **values})


def read_manifest(folder: Path) -> EngineManifest:
    """Read an engine's manifest.

    Its name is that of the folder: in a copy under another name, it is not that of the original.

    Raises:
        LpxError: Missing, damaged, of another format, or with values that no engine can have.
    """
    path = folder / FILE
    values = read_sealed(path, "lpx build")
    # The format comes first: another one explains unknown and lacking fields better.
    found = values.pop("format", None)
    if found != FORMAT:
        who, fix = "an earlier", "run `lpx build` again"
        if is_newer(found, FORMAT):
            who, fix = "a newer", "update lpx, or run `lpx build` again"
        raise LpxError(
            f"{path} is of another format",
            f"the engine was built by {who} lpx; this one expects {FORMAT}",
            fix,
            code="unsupported",
        )
    known = {f.name for f in fields(EngineManifest)}
    # A field that this lpx does not know may change what the others mean.
    if unknown := values.keys() - known:
        raise LpxError(f"{path} has unknown fields: {', '.join(sorted(unknown))}", "", "update lpx")
    if lacking := known - values.keys() - {"plan"}:
        raise LpxError(
            f"{path} lacks {', '.join(sorted(lacking))}",
            "it was edited or damaged",
            "run `lpx build` again",
            code="damaged",
        )
    try:
        manifest = read_record(EngineManifest, values)
        _check_values(manifest)
    except SchemaError as error:
        raise LpxError(
            f"{path} is damaged", str(error), "run `lpx build` again", code="damaged"
        ) from error
    # Reports name engines by folder: in a copy under another name it is not the original's.
    manifest = replace(manifest, name=_folder_name(folder))
    # Read once here, so that a damaged card fails with the manifest and not in a later step.
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
    """Return whether a text names a file or folder in the current one, and can be printed."""
    # Manifests come from other machines: a name with a slash would reach outside the folder.
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
        # The whole text has to match, as a digest is also printed and compared by its beginning.
        if not re.fullmatch("[0-9a-f]{64}", value := getattr(manifest, name)):
            raise SchemaError(f"{name}: {value[:100]!a} is not a SHA-256")
    for name in ("convolutions", "multiply_accumulates"):
        if any(count < 0 for count in getattr(manifest, name).values()):
            raise SchemaError(f"{name}: a count is below 0")
    if manifest.calibration is not None:
        known = {f.name for f in fields(_Calibration)}
        # Fields beyond these may come from a newer lpx and do no harm, as nobody reads them.
        stated = {name: one for name, one in manifest.calibration.items() if name in known}
        read_record(_Calibration, stated, "calibration")
    if manifest.plan is not None:
        try:
            plan_from_dict(manifest.plan, METHODS)
        except SchemaError as error:
            raise SchemaError(f"plan: {error}") from error
    if "tensorrt" in manifest.options:
        read_tensorrt_options(manifest.options["tensorrt"], "options.tensorrt")
    read_record(
        _Outcome, {n: manifest.options[n] for n in _OUTCOME & manifest.options.keys()}, "options"
    )


@dataclass(frozen=True)
class _Calibration:
    """Fields of `EngineManifest.calibration` that lpx reads."""

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
class _Outcome:
    """Fields of `EngineManifest.options` that lpx reads, without TensorRT's own options."""

    tf32: bool = True
    graph_sha256: str | None = None
    provider: dict[str, str] = field(default_factory=dict)


_OUTCOME = {f.name for f in fields(_Outcome)}
