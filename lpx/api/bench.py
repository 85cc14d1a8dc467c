"""bench(): every engine against the checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx.arguments import check_at_least, several
from lpx.artefacts.model import (
    ExportedModel,
    look_up,
    open_faces,
    read_exported,
    versions,
)
from lpx.artefacts.reference import read_reference
from lpx.artefacts.select_engine import runnable
from lpx.bench.parity.parity import MARGIN
from lpx.bench.parity.run import BenchResult, Watch
from lpx.bench.parity.run import bench as measure
from lpx.bench.parity.score import BATCH, Failure, Scored, said
from lpx.bench.parity.score_store import FOLDER, ScoreStore
from lpx.bench.parity.stages import MODEL, Graphs, graph_of
from lpx.bench.performance.candidate import REFERENCE, Candidate
from lpx.bench.performance.costs import DEFAULT_COSTS, CostPlan
from lpx.bench.performance.costs import energy_seconds as energy_seconds_of
from lpx.bench.performance.trtexec_metrics import read_trtexec
from lpx.bench.report.document import to_report
from lpx.bench.report.html import render_html
from lpx.bench.report.markdown import render_markdown
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.wording import counted
from lpx.engines.base import ON_THE_CPU, Engine, notes_of
from lpx.engines.load import load, read_graph
from lpx.engines.manifest import EngineManifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.torch import TorchEngine
from lpx.errors import LpxError
from lpx.machine.energy_sources import Device, EnergySource, Unavailable, open_source
from lpx.machine.machine import read_machine
from lpx.machine.process_memory import read_memory
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, check_writable, write_bytes, write_json

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace

FEW_FACES = 30
"""Faces of a class below which an interval of AUC is not to be relied on."""


@dataclass(frozen=True)
class Benched:
    """What `bench` found, and where it wrote it."""

    report: dict[str, Any]
    json_path: Path
    html_path: Path
    markdown_path: Path


def bench(
    workspace: Workspace,
    dataset: str,
    *,
    limit: int | None = None,
    methods: str | Sequence[str] | None = None,
    candidates: str | Sequence[str] | None = None,
    margin: float = MARGIN,
    costs: CostPlan = DEFAULT_COSTS,
    trtexec_times: Sequence[tuple[Path, str | None]] = (),
    stages: bool = True,
    allow_overlap: bool = False,
    reporter: Reporter = SILENT,
) -> Benched:
    """Implement `lpx.Workspace.bench`, which documents arguments and errors.

    Scores are kept in `bench.partial/` of the workspace as they come, until the report is written.
    """
    plan = costs
    _check_options(limit, margin, plan)
    trtexec = [read_trtexec(path, name) for path, name in trtexec_times]
    model = read_exported(workspace)
    faces = open_faces(
        workspace, dataset, "test", places=workspace.places, card=model.card, reporter=reporter
    )
    if methods is not None:
        methods = several("methods", methods)
        faces = faces.select(methods=methods)
    faces = faces.first(limit)
    manifests, not_run = _chosen(*runnable(workspace, model), candidates)
    look_up(faces, reporter)
    if not allow_overlap:
        _check_disjoint(manifests, faces)
    check_writable(workspace.root, "report.json", "report.html", "report.md")
    with workspace.lock(), ExitStack() as stack:
        detector = read_reference(workspace, model, allow_factory=workspace.allow_factory)
        reference = stack.enter_context(closing(TorchEngine(detector)))
        loaded, broken = _load(workspace, manifests, stack, workspace.allow_host_code)
        graphs = _graphs(workspace, model, manifests, stack) if stages else None
        store = _store(workspace, model, faces, manifests, graphs, reporter)
        if store.folder.is_dir():
            reporter.say(f"going on with the bench that was stopped ({store.folder})")
        watch = Watch(
            reporter.progress(f"scoring {faces.name}"),
            reporter.progress("timing"),
            reporter.progress("measuring energy"),
        )
        engines = {REFERENCE: reference, **{name: c.engine for name, c in loaded.items()}}
        # Whatever ends this, scores are kept: the next bench of these faces goes on with them.
        result = measure(
            reference,
            loaded,
            faces,
            model.card,
            margin=margin,
            plan=plan,
            sources=_sources(engines, plan, stack, reporter),
            graphs=graphs,
            store=store,
            watch=watch,
        )
        _check_unchanged(faces)
        result = replace(result, failed=(*broken, *result.failed))
        values = to_report(
            result,
            faces,
            model.card,
            margin=margin,
            environment={
                "machine": asdict(read_machine()),
                "versions": versions("torch", "onnx", "onnxruntime", "numpy"),
            },
            not_run=not_run,
            warnings=[*_warnings(manifests, faces, result.scored), *_noted(loaded)],
            memory=read_memory(),
            methods=methods,
            trtexec=trtexec,
        )
        done = _write(workspace, values, result)
        store.remove()
    return done


def _load(
    workspace: WorkspaceFolder,
    manifests: list[EngineManifest],
    stack: ExitStack,
    allow_host_code: bool,
) -> tuple[dict[str, Candidate], list[Failure]]:
    """Load engines; those that break while they are loaded take no other with them.

    Raises:
        LpxError: An engine is altered, or lacks what it needs.
    """
    loaded: dict[str, Candidate] = {}
    broken: list[Failure] = []
    for manifest in manifests:
        folder = workspace.engines / manifest.name
        try:
            engine = load(folder, allow_host_code=allow_host_code)
        except LpxError:
            raise
        except Exception as error:
            broken.append(Failure(manifest.name, "loading", said(error)))
            continue
        stack.enter_context(closing(engine))
        opened = partial(_opened, manifest, engine, folder, allow_host_code)
        graph, scoring = None, None
        if manifest.target == "onnxruntime":
            graph = read_graph(folder, manifest)
            scoring = partial(_sharing_cores, folder)
        loaded[manifest.name] = Candidate(manifest, engine, opened, graph, scoring)
    return loaded, broken


def _opened(
    manifest: EngineManifest, engine: Engine, folder: Path, allow_host_code: bool, cuda_graph: bool
) -> AbstractContextManager[Engine]:
    """ONNX Runtime's engine on the CPU serves several threads; another is loaded for each."""
    if manifest.target == "onnxruntime":
        return nullcontext(engine)
    return closing(load(folder, allow_host_code=allow_host_code, cuda_graph=cuda_graph))


def _sharing_cores(folder: Path) -> AbstractContextManager[Engine]:
    return closing(load(folder, shares_cores=True))


def _sources(
    engines: Mapping[str, Engine], plan: CostPlan, stack: ExitStack, reporter: Reporter
) -> dict[str, EnergySource | Unavailable]:
    """What measures each engine's energy; none where energy is left out."""
    if not plan.energy_seconds:
        return {}
    devices: dict[str, Device] = {
        name: "cpu" if engine.device_memory == ON_THE_CPU else "gpu"
        for name, engine in engines.items()
    }
    opened = {device: open_source(device) for device in set(devices.values())}
    for source in opened.values():
        if not isinstance(source, Unavailable):
            stack.enter_context(closing(source))
    found = {name: opened[device] for name, device in devices.items()}
    measured = sum(not isinstance(source, Unavailable) for source in found.values())
    for source in opened.values():
        if isinstance(source, Unavailable):
            reporter.warn(f"energy is {source}")
    if measured:
        seconds = energy_seconds_of(measured, plan.energy_seconds)
        time = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
        reporter.say(f"measuring the energy of {measured} engines will take about {time}")
    return found


def _write(workspace: WorkspaceFolder, values: dict[str, Any], result: BenchResult) -> Benched:
    """Write the report in its three forms."""
    stem = workspace.root / "report"
    done = Benched(values, *(stem.with_suffix(f".{end}") for end in ("json", "html", "md")))
    write_json(done.json_path, values)
    write_bytes(done.html_path, render_html(values, result).encode())
    write_bytes(done.markdown_path, render_markdown(values).encode())
    return done


def _check_options(limit: int | None, margin: float, plan: CostPlan) -> None:
    check_at_least("limit", limit, 4, "AUC and its interval need two real and two fake faces")
    if not 0 <= margin <= 1:
        raise LpxError(
            f"--margin {margin:g} does not lie between 0 and 1",
            "it is how much AUC an engine may lose",
            f"give such a number, as --margin {MARGIN:g}",
        )
    if not plan.batches or plan.batches[0] < 1:
        raise LpxError(
            f"--batches {','.join(map(str, plan.batches))} are no batch sizes",
            "they are the numbers of faces per call that latency is measured at",
            "give numbers of at least 1, as --batches 1,8",
        )
    for option, seconds, what in (
        ("--latency-seconds", plan.latency_seconds, "each engine is measured"),
        ("--energy-seconds", plan.energy_seconds, "one of five windows of energy lasts"),
    ):
        if not 0 <= seconds < math.inf:
            raise LpxError(
                f"{option} {seconds:g} is not a duration",
                f"it is for how long {what}",
                "give a number of seconds, or 0 to leave it out",
            )
    check_at_least("in_flight", plan.in_flight, 0, "it is how many batches are at work at a time")
    if not plan.latency_seconds and (plan.in_flight or plan.like):
        raise LpxError(
            f"{'--in-flight' if plan.in_flight else '--like-trtexec'} with --latency-seconds 0",
            "nothing is timed then",
            "leave one of them out",
        )


def _chosen(
    manifests: list[EngineManifest], not_run: dict[str, str], names: str | Sequence[str] | None
) -> tuple[list[EngineManifest], dict[str, str]]:
    """The engines that were named, and which of these do not run here; all where None.

    Raises:
        LpxError: There is no engine of a name, or none of them runs here.
    """
    if names is None:
        return manifests, not_run
    names = several("candidates", names)
    known = [m.name for m in manifests]
    for name in names:
        if name not in known and name not in not_run:
            raise LpxError(
                f"there is no engine {name!r}",
                f"engines of the workspace: {', '.join([*known, *not_run])}",
                "name some of these, by commas, with --candidates",
            )
    chosen = [m for m in manifests if m.name in names]
    left_out = {name: reason for name, reason in not_run.items() if name in names}
    if not chosen:
        raise LpxError(
            f"none of {', '.join(names)} runs here",
            "; ".join(f"{name}: {reason}" for name, reason in left_out.items()),
            f"engines that run here: {', '.join(known)}",
        )
    return chosen, left_out


def _graphs(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    manifests: list[EngineManifest],
    stack: ExitStack,
) -> Graphs:
    """What runs between checkpoint and engine; an engine of ONNX Runtime is its own graph."""

    def opened(data: bytes) -> Engine:
        # ONNX Runtime's optimiser miscomputes some float16 graphs with Q/DQ pairs; and what shall
        # be seen here is the graph, not what ONNX Runtime makes of it.
        engine = OnnxRuntimeEngine(data, model.card.input_size, as_written=True, shares_cores=True)
        return stack.enter_context(closing(engine))

    graphs: dict[str, Engine] = {}
    missing: dict[str, str] = {}
    digests = {MODEL: model.sha256}
    for manifest in manifests:
        if manifest.target == "onnxruntime":
            continue
        try:
            data = read_graph(workspace.engines / manifest.name, manifest)
            graphs[manifest.name] = opened(data)
        except LpxError as error:
            missing[manifest.name] = said(error)
        else:
            digests[graph_of(manifest.name)] = hashlib.sha256(data).hexdigest()
    return Graphs(opened(model.data), graphs, missing, digests)


def _store(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    faces: FaceSet,
    manifests: list[EngineManifest],
    graphs: Graphs | None,
    reporter: Reporter,
) -> ScoreStore:
    """The scores of these faces that an earlier bench left, if it was killed."""
    of = {
        "faces": faces.digest(),
        "count": len(faces.faces),
        "size": model.card.input_size,
        "batch": BATCH,
        "versions": versions("torch", "onnxruntime", "numpy"),
    }
    engines = {m.name: m.engine_sha256 for m in manifests}
    between = dict(graphs.digests) if graphs else {}
    told = {REFERENCE: model.sha256} | engines | between
    return ScoreStore(workspace.root / FOLDER, of, told, reporter.say)


def _check_unchanged(faces: FaceSet) -> None:
    """Refuse scores of which some are of other pictures than the digest in the report says.

    Raises:
        LpxError: A file changed since the bench began.
    """
    if faces.has_changed():
        raise LpxError(
            f"faces of {faces.name} changed while they were scored",
            "the scores would be of neither the old faces nor the new",
            "run the bench again when nothing writes to them",
        )


def _warnings(manifests: list[EngineManifest], faces: FaceSet, scored: Scored) -> list[str]:
    warnings = []
    if skipped := scored.skipped:
        names = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
        more = f" and {len(skipped) - 3} more, listed in report.json" * (len(skipped) > 3)
        warnings.append(
            f"{len(skipped)} of {len(faces.faces)} faces could not be read and are left out: "
            f"{names}{more}"
        )
    fakes = int((scored.labels == 1).sum())
    reals = len(scored.labels) - fakes
    if min(reals, fakes) < FEW_FACES:
        warnings.append(
            f"{reals} real and {fakes} fake faces are few: intervals of AUC hold for large samples,"
            f" and are too narrow below some {FEW_FACES} faces of each class"
        )
    return warnings + [
        f"{name} was calibrated on {overlap}; its AUC on other faces may be lower"
        for name, overlap in _overlaps(manifests, faces).items()
    ]


def _noted(loaded: Mapping[str, Candidate]) -> list[str]:
    """What the engines say of how they ran."""
    return [f"{name}: {note}" for name, c in loaded.items() for note in notes_of(c.engine)]


def _check_disjoint(manifests: list[EngineManifest], faces: FaceSet) -> None:
    """Refuse to measure an engine on what it was calibrated on.

    Raises:
        LpxError: The first such engine, and what is shared.
    """
    for name, overlap in _overlaps(manifests, faces).items():
        raise LpxError(
            f"{name} was calibrated on {overlap}",
            "its AUC on other faces may be lower than what would be measured",
            "bench on another set or split, build with other --faces, or measure all the same "
            "with --allow-overlap",
        )


def _overlaps(manifests: list[EngineManifest], faces: FaceSet) -> dict[str, str]:
    """What was calibrated on and is measured too, by the name of the engine."""
    digest, contents = faces.digest(), frozenset(faces.short_contents())
    found = {m.name: _overlap(m.calibration or {}, faces, digest, contents) for m in manifests}
    return {name: overlap for name, overlap in found.items() if overlap}


def _overlap(
    calibration: dict[str, Any], faces: FaceSet, digest: str, contents: frozenset[str]
) -> str:
    """What calibration and measurement share; "" where nothing, as far as is known."""
    if calibration.get("faces_digest") == digest:
        return "the very faces it is measured on"
    if (calibration.get("faces"), calibration.get("split")) == (faces.name, faces.split):
        return f"{calibration['face_count']} faces of {faces.name}, the set it is measured on"
    if same := contents.intersection(calibration.get("contents", ())):
        return f"{counted(len(same), 'picture')} of those it is measured on, under whatever name"
    if calibration.get("faces") == faces.name:
        # Two sets may use one name for different videos; two splits of one set do not.
        videos = set(faces.videos()) & set(calibration.get("videos", ()))
        if videos:
            more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
            return f"frames of video {min(videos)}{more}, which {'are' if more else 'is'} measured"
    shared = sorted(set(faces.identities()) & set(calibration.get("identities", ())))
    if not shared:
        return ""
    more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    return f"faces of {shared[0]}{more}, who {'are' if more else 'is'} also measured"
