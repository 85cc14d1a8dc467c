"""What each group of layers costs in INT8: table, figure and stored shifts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx import __version__
from lpx.api.ranges import scales_for
from lpx.api.search.faces import open_search_faces
from lpx.arguments import check_at_least, check_choice, check_fields
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.calibration.methods import METHODS
from lpx.calibration.scales import IMPORTED
from lpx.data.face_sets.face_set import FaceSet, Skipped
from lpx.engines.manifest import TARGETS, Target
from lpx.engines.onnxruntime.gpu import check_int8
from lpx.engines.request import BuildRequest
from lpx.engines.targets import INSTALLED, resolve_target
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.machine.machine import read_machine
from lpx.reporter import SILENT, Reporter
from lpx.search.figure import draw_sensitivities
from lpx.search.predict import Predictor
from lpx.search.sensitivity import GroupSensitivity, sensitivities
from lpx.search.subject import Subject, open_subject
from lpx.search.survey import ShiftStore, Survey, survey
from lpx.workspace import write_bytes, write_json

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

FOLDER = "sensitivity"
# Targets whose graphs have integer weights, for ONNX Runtime's kernels.
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-cuda")


@dataclass(frozen=True)
class SensitivityOptions:
    """Arguments of `lpx.Workspace.sensitivity`, which documents them.

    Raises:
        InvalidArgumentError: A value that an argument cannot have.
    """

    search_faces: str | None = None
    search_limit: int = 1024
    target: str = "auto"
    faces: str | None = None
    limit: int = 512
    method: str | None = None
    weights: WeightOptions = DEFAULT_WEIGHTS
    blocks: bool = False
    complete: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least("search_limit", self.search_limit, 4)
        check_at_least("limit", self.limit, 1)
        check_choice("target", self.target, ("auto", *TARGETS))
        if self.method is not None:
            check_choice("method", self.method, (*METHODS, IMPORTED))


@dataclass(frozen=True)
class SensitivityResult:
    """Result of `lpx.Workspace.sensitivity`.

    Attributes:
        groups: Effect of each group in INT8 alone, the largest loss of AUC first.
        target: Target whose rules and rounding were used.
        faces: Name of the face set.
        count: Number of faces.
        measured: Number of faces that every group was measured on; shifts of the others by groups
            with small effects are matched.
        skipped: Faces that could not be read.
        seconds: Time of all graphs, s; without what was stored before.
        table: Path of `sensitivity.json`.
        picture: Path of `sensitivity.png`.
    """

    groups: tuple[GroupSensitivity, ...]
    target: str
    faces: str
    count: int
    measured: int
    skipped: tuple[Skipped, ...]
    seconds: float
    table: Path
    picture: Path

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `sensitivity.json` holds them."""
        return {
            "target": self.target,
            "faces": self.faces,
            "count": self.count,
            "measured": self.measured,
            "skipped": [{"name": one.name, "reason": one.reason} for one in self.skipped],
            "seconds": round(self.seconds, 3),
            "groups": [one.to_dict() for one in self.groups],
        }


@dataclass(frozen=True)
class Prepared:
    """A model, taken apart, with its ranges."""

    model: ExportedModel
    subject: Subject


def prepare_subject(
    workspace: OpenedWorkspace, options: SensitivityOptions, reporter: Reporter
) -> Prepared:
    """Read the model, find its ranges, and take its INT8 graph apart.

    Raises:
        NotAsAskedError: The rules leave every layer in float.
        LpxError: No exported model, an unknown target, or faces that cannot be read.
    """
    model = read_exported(workspace)
    target = _target(options.target)
    check_int8(target)
    dialect = "onnxruntime" if target in _ONNXRUNTIME else "strongly-typed"
    scales = scales_for(workspace, model, options.faces, options.limit, options.weights, reporter)
    request = BuildRequest(target, "int8", scales, options.method or scales.method, options.weights)
    return Prepared(model, open_subject(model.data, request, dialect, blocks=options.blocks))


def _target(asked: str) -> Target:
    """Return a target, which need not be installed: pieces of its graphs run in ONNX Runtime."""
    for target in TARGETS:
        if target == asked:
            return target
    return resolve_target(asked, read_machine(), INSTALLED).name


def runtime_versions() -> dict[str, str]:
    """Return the versions of what computes scores."""
    import onnxruntime

    # The distribution may be onnxruntime, onnxruntime-gpu or a vendor's.
    return {"lpx": __version__, "onnxruntime": str(onnxruntime.__version__)}


def shift_store(folder: Path, faces: FaceSet, size: int, reporter: Reporter) -> ShiftStore:
    """Return the store of shifts of these faces."""
    inputs: Mapping[str, Any] = {
        "faces": faces.digest(),
        "size": size,
        "versions": runtime_versions(),
    }
    return ShiftStore(folder, inputs, reporter.say)


def sensitivity(
    workspace: OpenedWorkspace, options: SensitivityOptions, reporter: Reporter = SILENT
) -> SensitivityResult:
    """Implement `lpx.Workspace.sensitivity`, which documents arguments and errors."""
    folder = workspace.root / FOLDER
    with workspace.lock():
        prepared = prepare_subject(workspace, options, reporter)
        subject, size = prepared.subject, prepared.model.card.input_size
        scales = subject.request.scales
        assert scales is not None
        faces = open_search_faces(
            workspace, prepared.model, scales, options.search_faces, options.search_limit, reporter
        )
        store = shift_store(folder / "shifts", faces, size, reporter)
        found = survey(subject, faces, size, store, reporter, complete=options.complete)
        faces.check_unchanged("sensitivity")
        result = _result(subject, faces, found, folder)
        write_bytes(result.picture, draw_sensitivities(result.groups, _title(result)))
        write_json(result.table, result.to_dict())
    return result


def _result(subject: Subject, faces: FaceSet, found: Survey, folder: Path) -> SensitivityResult:
    shifts = found.shifts
    return SensitivityResult(
        groups=sensitivities(subject, shifts, Predictor(subject, shifts)),
        target=subject.request.target,
        faces=faces.name,
        count=len(shifts.indices),
        measured=found.measured_faces,
        skipped=shifts.skipped,
        seconds=shifts.seconds,
        table=folder / "sensitivity.json",
        picture=folder / "sensitivity.png",
    )


def _title(result: SensitivityResult) -> str:
    return f"AUC lost by each layer alone in INT8, {result.count} faces of {result.faces}"
