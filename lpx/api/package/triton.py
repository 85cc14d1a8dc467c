"""A model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.api.package.content import DemoFaces, demo_faces, demo_tests, warn_if_weak
from lpx.api.package.triton_engines import (
    ChosenEngine,
    ModelGroup,
    capability_of,
    choose_engines,
    latency_of,
    plan_profiles,
)
from lpx.api.workspace.arguments import StrPath
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import as_path, check_choice, several
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.bundle.expected import score_each
from lpx.deploy.cpp_project import SelfTest, check_free, new_folder
from lpx.deploy.triton.batching import (
    Batching,
    Coverage,
    covered,
    default_batching,
    measured_batching,
)
from lpx.deploy.triton.config import DEFAULT_PLAN, TritonConfig
from lpx.deploy.triton.readme import readme_of
from lpx.deploy.triton.repository import (
    REPOSITORY,
    RepositoryContent,
    ServedModel,
    ServedPlan,
    card_bytes,
    engine_digests,
    write_repository,
)
from lpx.engines.load import read_engine, read_graph
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import InvalidArgumentError, LpxError
from lpx.graph.qdq.unsigned_weights import with_unsigned_weights
from lpx.plain import plain
from lpx.reporter import Reporter
from lpx.workspace import check_writable

DEFAULT_NAME = "detector"
"""First part of the models' names."""
# Triton refuses names with slashes; others, such as "a b", work in some of its addresses only. The
# longest is a folder's, less what is put behind it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
# Number of faces for perf_analyzer.
_PERF_FACES = 8
_UNSIGNED = (
    "Its weights are uint8 with a zero point of 128 in place of int8. Triton's ONNX Runtime cannot "
    "be told to use exact kernels, and those for int8 weights saturate on x86-64 processors "
    "without VNNI. Its scores are the engine's on every processor; it takes about as long as FP32. "
    "If all servers have VNNI, `lpx package --vnni` keeps int8, which is faster there."
)
_VNNI_ONLY = (
    "Its scores are wrong on x86-64 processors without VNNI (`grep vnni /proc/cpuinfo`), as "
    "`--vnni` was asked for: ONNX Runtime's kernels for int8 weights saturate there, and Triton "
    "cannot choose others. serve.sh refuses to start there."
)


@dataclass(frozen=True)
class TritonOptions:
    """What is asked of a package for Triton: arguments of `lpx.Workspace.package`.

    Attributes:
        engines: Names of engines; None for all that Triton can serve.
        also: Workspaces with plans for other GPUs.
        name: First part of the models' names.
        vnni: Every server's processor has VNNI.
    """

    engines: tuple[str, ...] | None = None
    also: tuple[OpenedWorkspace, ...] = ()
    name: str = DEFAULT_NAME
    vnni: bool = False


@dataclass(frozen=True)
class TritonModel:
    """A model of the repository.

    Attributes:
        name: Its name in requests.
        backend: "tensorrt" or "onnxruntime".
        precision: Precision of its engines.
        engines: Names of these engines.
        files: Engine files, relative to the repository.
        compute_capabilities: GPUs that have a plan of their own; empty for ONNX Runtime.
        batching: Batch sizes, and how long a face waits for others.
        expected_score: Score of the self-test's face.
        tolerance: Largest accepted |score difference| of the self-test.
        notes: What was chosen, and why, in sentences.
    """

    name: str
    backend: str
    precision: str
    engines: tuple[str, ...]
    files: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    batching: Batching
    expected_score: float
    tolerance: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TritonResult:
    """A package for Triton that was written.

    Attributes:
        folder: Its folder.
        repository: The model repository in it.
        models: The models in the repository.
        flags: Options that tritonserver needs.
        left_out: Why engines of the workspace are not served, by name.
    """

    folder: Path
    repository: Path
    models: tuple[TritonModel, ...]
    flags: tuple[str, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        values = asdict(self)
        values["folder"], values["repository"] = str(self.folder), str(self.repository)
        return values


@dataclass(frozen=True)
class _Tested:
    """A model with the demo faces and the scores that it must give them."""

    model: ServedModel
    tests: Sequence[SelfTest]


def triton_options(
    engines: str | Sequence[str] | None,
    also: StrPath | Sequence[StrPath],
    name: str | None,
    *,
    vnni: bool,
    reporter: Reporter,
) -> TritonOptions:
    """Check the arguments of `lpx.Workspace.package`, and open the other workspaces.

    Raises:
        InvalidArgumentError: A value has another type, or Triton does not take the name.
        LpxError: A bundle cannot be unpacked, or is damaged.
    """
    check_choice("vnni", vnni, (True, False))
    names = None if engines is None else several("engines", engines)
    if names == ():
        raise InvalidArgumentError("engines", "must name one engine at least", engines)
    first = _check_name(DEFAULT_NAME if name is None else name)
    places = [also] if isinstance(also, (str, os.PathLike)) else also
    if not isinstance(places, Sequence):
        raise InvalidArgumentError("also", "must be a path or several paths", also)
    # Every path before the first bundle is unpacked.
    paths = [as_path("also", place) for place in places]
    for path in paths:
        if not path.exists():
            raise LpxError(
                f"{path} does not exist",
                "`also` names workspaces or bundles with plans for other GPUs",
                "check the path",
                code="not-found",
            )
    opened = tuple(OpenedWorkspace(path, reporter=reporter) for path in paths)
    return TritonOptions(names, opened, first, vnni)


def _check_name(name: object) -> str:
    """Check the first part of the models' names.

    Raises:
        InvalidArgumentError: Triton, or its addresses, do not take it.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise InvalidArgumentError(
        "name",
        "must be letters, digits, underscores, hyphens and points, 200 at most, not beginning "
        "with a hyphen or a point",
        name,
        "it is part of the models' names, which are folders and parts of addresses",
    )


def package_triton(
    workspace: OpenedWorkspace, folder: Path, options: TritonOptions, reporter: Reporter
) -> TritonResult:
    """Implement `lpx.Workspace.package` for "triton"; it documents arguments and errors."""
    model = read_exported(workspace)
    check_free(folder)
    check_writable(folder)
    chosen = choose_engines(workspace, model, options.engines, options.also)
    if options.vnni and not any(group.saturates for group in chosen.groups):
        raise InvalidArgumentError(
            "vnni",
            "must be left out",
            True,
            "it is for INT8 engines of ONNX Runtime, and none is packaged",
        )
    for name, reason in chosen.left_out.items():
        reporter.say(f"{name} is left out: {reason}")
    faces = demo_faces(model.card.input_size)
    tested = [_serve(group, model, faces, options, reporter) for group in chosen.groups]
    content = _with_one_face(model, tested)
    with new_folder(folder) as new:
        write_repository(new, content, readme_of(content))
    for served in content.models:
        _warn(served, reporter)
    return TritonResult(
        folder=folder,
        repository=folder / REPOSITORY,
        models=tuple(_result_of(one) for one in content.models),
        flags=content.flags,
        left_out=chosen.left_out,
    )


def _serve(
    group: ModelGroup,
    model: ExportedModel,
    faces: DemoFaces,
    options: TritonOptions,
    reporter: Reporter,
) -> _Tested:
    """Make the model of a group of engines."""
    if group.target == "tensorrt":
        return _serve_plans(group, model, faces, options, reporter)
    return _serve_graph(group, model, faces, options, reporter)


def _serve_graph(
    group: ModelGroup,
    model: ExportedModel,
    faces: DemoFaces,
    options: TritonOptions,
    reporter: Reporter,
) -> _Tested:
    (engine,) = group.engines
    manifest, graph = read_engine(engine.folder)
    notes: list[str] = []
    extra: dict[str, str] = {}
    needs_vnni, altered = False, False
    latency = latency_of(engine, reporter)
    if group.saturates:
        # If this changes nothing, no weights are int8: nothing can saturate, and no note is needed.
        unsigned = with_unsigned_weights(graph, f"engine {manifest.name}")
        needs_vnni = options.vnni and unsigned != graph
        if needs_vnni:
            notes.append(_VNNI_ONLY)
        elif unsigned != graph:
            notes.append(_UNSIGNED)
            # The engine was measured, and not this form of it.
            graph, latency, altered = unsigned, (), True
        extra["lpx.needs_vnni"] = "yes" if needs_vnni else "no"
    tests = demo_tests(graph, faces, group.precision, as_written=False)
    files = {"model.onnx": graph}
    config = TritonConfig(
        name=group.name_after(options.name),
        backend="onnxruntime",
        size=model.card.input_size,
        grid=model.card.grid,
        batching=measured_batching(latency, None),
        parameters=_parameters(model, group, files, ()) | extra,
    )
    served = ServedModel(
        config=config,
        precision=group.precision,
        files=files,
        engines=(manifest.name,),
        plans=(),
        # Only until `_with_one_face` has seen the scores of all models.
        test=tests[0],
        perf_scores=_scores_alone(graph, _spread(tests)),
        altered=altered,
        needs_vnni=needs_vnni,
        notes=tuple(notes),
    )
    return _Tested(served, tests)


def _serve_plans(
    group: ModelGroup,
    model: ExportedModel,
    faces: DemoFaces,
    options: TritonOptions,
    reporter: Reporter,
) -> _Tested:
    first = group.engines[0]
    profiles = plan_profiles(group)
    coverage = covered(profiles)
    files: dict[str, bytes] = {}
    plans: list[ServedPlan] = []
    for engine in group.engines:
        plan = _plan_of(engine)
        plans.append(plan)
        files[plan.file] = read_engine(engine.folder).data
    used: tuple[int, ...] = ()
    if len(profiles) > 1:
        used = coverage.profiles
    config = TritonConfig(
        name=group.name_after(options.name),
        backend="tensorrt",
        size=model.card.input_size,
        grid=model.card.grid,
        batching=_batching_of(group, coverage.largest, reporter),
        parameters=_parameters(model, group, files, plans),
        plans={plan.capability: plan.file for plan in plans if plan.capability},
        default_plan=any(not plan.capability for plan in plans),
        profiles=used,
        dla_core=group.dla_core,
    )
    # All plans of a group have the same graph but for its notation.
    tests = demo_tests(read_graph(first.folder, first.manifest), faces, group.precision)
    served = ServedModel(
        config=config,
        precision=group.precision,
        files=files,
        engines=tuple(engine.manifest.name for engine in group.engines),
        plans=tuple(plans),
        test=tests[0],
        perf_scores=None,
        altered=False,
        needs_vnni=False,
        notes=_notes_on_profiles(profiles, coverage),
    )
    return _Tested(served, tests)


def _batching_of(group: ModelGroup, largest: int, reporter: Reporter) -> Batching:
    """Return the batching of plans, from the first of them that was measured."""
    batching = default_batching(largest)
    for engine in group.engines:
        batching = measured_batching(latency_of(engine, reporter), largest)
        if batching.measured:
            break
    return batching


def _notes_on_profiles(profiles: Sequence[BatchRange], coverage: Coverage) -> tuple[str, ...]:
    notes: list[str] = []
    if coverage.largest < max(profile.maximum for profile in profiles):
        notes.append(
            f"Batches end at {coverage.largest}: the plan has no profile for {coverage.largest + 1}"
            ", and Triton may form a batch of any size up to the largest. A plan with one range, "
            "`lpx build --batch-range 1:8:32`, serves all."
        )
    if len(coverage.profiles) > 1:
        notes.append(
            "Triton records CUDA graphs of every batch size for every profile, and logs an error "
            "for a size that a profile does not take: that is harmless."
        )
    return tuple(notes)


def _plan_of(engine: ChosenEngine) -> ServedPlan:
    manifest = engine.manifest
    capability = capability_of(manifest)
    file = f"model-sm{capability.replace('.', '')}.plan" if capability else DEFAULT_PLAN
    gpus = sorted({str(gpu["name"]) for gpu in manifest.machine.get("gpus", ()) if gpu.get("name")})
    return ServedPlan(
        file=file,
        engine=manifest.name,
        capability=capability,
        tensorrt=plain(manifest.versions.get("tensorrt", "of an unknown release")),
        gpu=plain(" and ".join(gpus)) or "an unknown GPU",
        host_code=manifest.tensorrt.version_compatible,
    )


def _parameters(
    model: ExportedModel,
    group: ModelGroup,
    files: Mapping[str, bytes],
    plans: Sequence[ServedPlan],
) -> dict[str, str]:
    """Return the texts by which a client recognises the model."""
    return {
        "lpx.card_sha256": hashlib.sha256(card_bytes(model.card)).hexdigest(),
        "lpx.model_sha256": model.sha256,
        "lpx.precision": group.precision,
        # The shortest text that gives the same number back.
        "lpx.threshold": repr(model.card.threshold),
        **engine_digests(files, plans),
    }


def _spread(tests: Sequence[SelfTest]) -> Sequence[SelfTest]:
    """Return a few of many, evenly."""
    return tests[:: max(1, len(tests) // _PERF_FACES)][:_PERF_FACES]


def _scores_alone(graph: bytes, tests: Sequence[SelfTest]) -> NDArray[np.float32]:
    """Score faces one by one: the last bits of a score depend on the size of the batch."""
    faces = np.stack([test.face for test in tests])
    with closing(OnnxRuntimeEngine(graph, faces.shape[1])) as engine:
        return score_each(engine, faces)


def _with_one_face(model: ExportedModel, tested: Sequence[_Tested]) -> RepositoryContent:
    """Choose the face that detects faults of the engine best in the model where it is worst."""

    def margin(row: int) -> float:
        return min(one.tests[row].distance - one.tests[row].tolerance for one in tested)

    # All models were tested on the same faces in the same order, so a row is the same face in each.
    best = max(range(len(tested[0].tests)), key=margin)
    models = []
    for one in tested:
        models.append(replace(one.model, test=one.tests[best]))
    # They must be those that `_scores_alone` scored: faces and scores are paired by row.
    faces = np.stack([test.face for test in _spread(tested[0].tests)])
    return RepositoryContent(model.card, tuple(models), faces)


def _warn(served: ServedModel, reporter: Reporter) -> None:
    name = served.config.name
    if served.needs_vnni:
        reporter.warn(
            f"{name}: scores are wrong on x86-64 processors without VNNI, where ONNX Runtime's "
            "INT8 kernels saturate and Triton cannot choose others; serve.sh refuses to start there"
        )
    releases = sorted({plan.tensorrt for plan in served.plans})
    if len(releases) > 1:
        reporter.warn(
            f"{name}: its plans are of TensorRT {' and '.join(releases)}, and a server loads those "
            "of its own release only"
        )
    warn_if_weak(served.test, reporter, f"{name}: ")


def _result_of(served: ServedModel) -> TritonModel:
    config = served.config
    return TritonModel(
        name=config.name,
        backend=config.backend,
        precision=served.precision,
        engines=served.engines,
        files=tuple(f"{config.name}/1/{name}" for name in served.files),
        compute_capabilities=tuple(config.plans),
        batching=config.batching,
        expected_score=served.test.score,
        tolerance=served.test.tolerance,
        notes=served.notes,
    )
