"""Compare every engine with the checkpoint, and measure what it costs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, get_args

from lpx.arguments import check_at_least, check_choice, check_number, several
from lpx.artefacts.bench_reference import (
    ReferenceKind,
    open_reference,
    record_reference,
    torch_package,
)
from lpx.artefacts.load_engines import EngineLoader, LoadEngine
from lpx.artefacts.model import (
    ExportedModel,
    look_up,
    open_faces,
    read_exported,
    versions,
)
from lpx.artefacts.overlap import check_disjoint, face_warnings
from lpx.artefacts.select_engine import Survey, choose_engines, runnable
from lpx.bench.parity.parity import MARGIN
from lpx.bench.parity.recording import RecordedScores
from lpx.bench.parity.run import BenchResult, StagePlan, Watch
from lpx.bench.parity.run import bench as measure
from lpx.bench.parity.score import Failure, in_one_line
from lpx.bench.parity.score_store import FOLDER, ScoreStore
from lpx.bench.parity.stage_names import STAGES, ChosenStages, choose_stages
from lpx.bench.parity.stages import MODEL, Graphs, graph_of
from lpx.bench.performance.cost_plan import DEFAULT_COSTS, CostPlan, energy_seconds
from lpx.bench.performance.loaded_engine import REFERENCE, LoadedEngine
from lpx.bench.performance.trtexec_metrics import read_trtexec
from lpx.bench.report.document.assemble import assemble
from lpx.bench.report.document.entries import Environment, ProcessMemory
from lpx.bench.report.document.report import Report
from lpx.bench.report.html import render_html
from lpx.bench.report.markdown import render_markdown
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.wording import counted
from lpx.engines.base import ON_THE_CPU, Engine, notes_of
from lpx.engines.load import load, read_graph
from lpx.engines.manifest import EngineManifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.healing import Rebuild
from lpx.healing.pick import Healer, HealingOptions
from lpx.machine.energy_sources import Device, EnergySource, Unavailable, open_source
from lpx.machine.machine import read_machine
from lpx.machine.process_memory import read_memory
from lpx.reporter import SILENT, Reporter
from lpx.shards.bench import read_joined, score_digests, score_inputs
from lpx.workspace import WorkspaceFolder, check_writable, write_bytes, write_json

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

_VERSIONS = ("onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class BenchOptions:
    """Options of a bench; `lpx.Workspace.bench` documents them.

    Raises:
        InvalidArgumentError: `limit`, `margin` or `stages` has a value that it cannot have.
    """

    limit: int | None = None
    methods: str | Sequence[str] | None = None
    candidates: str | Sequence[str] | None = None
    margin: float = MARGIN
    costs: CostPlan = DEFAULT_COSTS
    stages: str | Sequence[str] = STAGES
    allow_overlap: bool = False
    reference: ReferenceKind = "auto"

    def __post_init__(self) -> None:
        check_choice("reference", self.reference, get_args(ReferenceKind))
        check_at_least(
            "limit", self.limit, 4, "AUC and its interval need two real and two fake faces"
        )
        check_number(
            "margin", self.margin, least=0, most=1, why="it is the AUC that an engine may lose"
        )
        choose_stages(self.stages)

    def chosen_methods(self) -> tuple[str, ...] | None:
        """Return the manipulation methods that were asked for; None for all."""
        return None if self.methods is None else several("methods", self.methods)


class OpenSource(Protocol):
    """Opens the energy source of a device."""

    def __call__(self, device: Device, /) -> EnergySource | Unavailable:
        """Return the source, or the reason why there is none."""
        ...


@dataclass(frozen=True)
class Host:
    """Access to what depends on the machine.

    Attributes:
        runnable: Finds the engines of a workspace that run here.
        load: Loads an engine.
        open_source: Opens an energy source.
    """

    runnable: Callable[[WorkspaceFolder, ExportedModel], Survey] = field(default=runnable)
    load: LoadEngine = field(default=load)
    open_source: OpenSource = field(default=open_source)


THIS_HOST = Host()


def bench(
    workspace: OpenedWorkspace,
    dataset: str,
    options: BenchOptions = BenchOptions(),
    reporter: Reporter = SILENT,
    *,
    host: Host | None = None,
) -> Report:
    """Implement `lpx.Workspace.bench`, which documents arguments and errors.

    Scores are kept in `bench.partial/` of the workspace until the report is written.
    """
    host = host or THIS_HOST
    plan = options.costs
    # Read first: a wrong file must not show after hours of scoring.
    trtexec = [read_trtexec(Path(path), name) for path, name in options.costs.trtexec_times]
    subject = open_subject(workspace, dataset, options, reporter, host=host)
    model, faces, manifests = subject.model, subject.faces, subject.chosen.fit
    look_up(faces, reporter)
    if not options.allow_overlap:
        check_disjoint(manifests, faces)
    check_writable(workspace.root, "report.json", "report.html", "report.md")
    with workspace.lock(), ExitStack() as stack:
        opened = open_engines(workspace, subject, faces, options, stack, reporter, host=host)
        reference, loaded = opened.reference, opened.loaded
        store = ScoreStore(
            workspace.root / FOLDER,
            score_inputs(model, faces, torch_package(reference)),
            score_digests(model, manifests, opened.stages),
            reporter.say,
        )
        if store.folder.is_dir():
            reporter.say(f"resuming interrupted bench ({store.folder})")
        scoring = reporter.progress(f"scoring {faces.name}")
        watch = Watch(
            scoring,
            reporter.progress("timing"),
            reporter.progress("measuring energy"),
        )
        if workspace.ray is not None:
            from lpx.api.bench_on_cluster import score_on_cluster

            score_on_cluster(workspace, subject, opened, options, store, scoring, reporter)
        joined = read_joined(store.folder)
        engines = {name: candidate.engine for name, candidate in loaded.items()}
        if isinstance(reference, Engine):
            engines[REFERENCE] = reference
        # However this ends, scores are kept: the next bench of these faces resumes with them.
        result = measure(
            reference,
            loaded,
            faces,
            model.card,
            margin=options.margin,
            plan=plan,
            sources=_sources(engines, plan, stack, reporter, host.open_source),
            stages=opened.stages,
            store=store,
            watch=watch,
        )
        faces.check_unchanged("the bench")
        result = replace(result, failed=(*opened.broken, *result.failed))
        report = assemble(
            result,
            faces,
            model.card,
            margin=options.margin,
            environment=Environment(
                machine=asdict(read_machine()),
                versions=versions(*_VERSIONS, *torch_package(reference)),
                memory=ProcessMemory(**read_memory()),
            ),
            not_run=subject.chosen.reasons,
            warnings=[
                *face_warnings(manifests, faces, result.scored),
                *_notes(loaded),
                *joined.notes,
            ],
            methods=options.chosen_methods(),
            trtexec=trtexec,
        )
        report = replace(report, json_file=workspace.root / "report.json")
        _write(report, result)
        if isinstance(reference, Engine):
            record_reference(
                workspace,
                model,
                faces,
                result.scored,
                reference,
                reporter.warn,
                machine=joined.machine,
            )
        # Last: if the report or the recording cannot be written, no face has to be scored again.
        store.remove()
    return report


@dataclass(frozen=True)
class BenchSubject:
    """What a bench is about, before anything is loaded.

    Attributes:
        model: The exported model.
        faces: The faces to score.
        chosen: Engines that were chosen; those in `fit` run here.
        healer: Checks engines of a bundle.
    """

    model: ExportedModel
    faces: FaceSet
    chosen: Survey
    healer: Healer


def open_subject(
    workspace: OpenedWorkspace,
    dataset: str,
    options: BenchOptions,
    reporter: Reporter,
    *,
    host: Host,
    rebuild: Rebuild | None = None,
) -> BenchSubject:
    """Read the model, open the faces and choose the engines.

    Args:
        workspace: The workspace.
        dataset: Face set.
        options: Options of the bench.
        reporter: Receives notes and warnings.
        host: Access to the machine.
        rebuild: Whether an engine may be rebuilt; None for what the workspace says.

    Raises:
        LpxError: As for `lpx.Workspace.bench`.
    """
    model = read_exported(workspace)
    faces = faces_of_bench(workspace, dataset, options, model, reporter)
    healing = HealingOptions(rebuild or workspace.rebuild, workspace.allow_host_code)
    healer = Healer(workspace, model, healing, reporter)
    # Before the choice, so that an engine that is rebuilt counts among those that run here.
    healer.prepare(options.candidates and several("candidates", options.candidates))
    chosen = choose_engines(workspace, host.runnable(workspace, model), options.candidates)
    return BenchSubject(model, faces, chosen, healer)


def faces_of_bench(
    workspace: OpenedWorkspace,
    dataset: str,
    options: BenchOptions,
    model: ExportedModel,
    reporter: Reporter,
) -> FaceSet:
    """Open the faces of a bench.

    Raises:
        LpxError: The set does not exist, lacks a method, or is cropped in another way.
    """
    faces = open_faces(
        workspace, dataset, "test", places=workspace.places, card=model.card, reporter=reporter
    )
    methods = options.chosen_methods()
    if methods is not None:
        faces = faces.select(methods=methods)
    return faces.first(options.limit)


@dataclass(frozen=True)
class OpenedBench:
    """Everything that scores faces.

    Attributes:
        reference: The checkpoint, or its recorded scores.
        loaded: Engines by name.
        broken: Engines that failed while they were loaded.
        stages: What is scored besides the engines.
    """

    reference: Engine | RecordedScores
    loaded: dict[str, LoadedEngine]
    broken: list[Failure]
    stages: StagePlan


def open_engines(
    workspace: OpenedWorkspace,
    subject: BenchSubject,
    faces: FaceSet,
    options: BenchOptions,
    stack: ExitStack,
    reporter: Reporter,
    *,
    host: Host,
) -> OpenedBench:
    """Open the reference, the engines and the graphs between them.

    Args:
        workspace: The workspace.
        subject: What the bench is about.
        faces: The faces that will be scored now: all of the subject's, or a shard's.
        options: Options of the bench.
        stack: Closes what was opened.
        reporter: Receives notes.
        host: Access to the machine.

    Raises:
        LpxError: As for `lpx.Workspace.bench`.
    """
    reference = open_reference(
        workspace,
        subject.model,
        faces,
        options.reference,
        stack,
        reporter,
        allow_factory=workspace.allow_factory,
    )
    manifests, problem = subject.chosen.fit, subject.healer.problem
    loader = EngineLoader(workspace.engines, host.load, workspace.allow_host_code, problem)
    loaded, broken = loader.load_all(manifests, stack)
    chosen = choose_stages(options.stages)
    for note in chosen.notes:
        reporter.say(note)
    graphs = open_graphs(workspace, subject.model, manifests, chosen, stack)
    return OpenedBench(reference, loaded, broken, StagePlan(graphs, chosen.pipelines))


def _sources(
    engines: Mapping[str, Engine],
    plan: CostPlan,
    stack: ExitStack,
    reporter: Reporter,
    open_source: OpenSource,
) -> dict[str, EnergySource | Unavailable]:
    """Open the energy source of each engine; none if energy is left out."""
    if not plan.energy_seconds:
        return {}
    devices: dict[str, Device] = {
        name: "cpu" if engine.device_memory == ON_THE_CPU else "gpu"
        for name, engine in engines.items()
    }
    # Once per device, which its engines share, so that a source that is missing is reported once.
    opened = {device: open_source(device) for device in set(devices.values())}
    for source in opened.values():
        if not isinstance(source, Unavailable):
            stack.enter_context(closing(source))
    sources = {name: opened[device] for name, device in devices.items()}
    measured = sum(not isinstance(source, Unavailable) for source in sources.values())
    for source in opened.values():
        if isinstance(source, Unavailable):
            reporter.warn(f"energy is {source}")
    if measured:
        seconds = energy_seconds(measured, plan)
        time = counted(round(seconds), "second")
        if seconds >= 120:
            time = f"{seconds / 60:.0f} minutes"
        count = counted(measured, "engine")
        reporter.say(f"measuring the energy of {count} will take about {time}")
    return sources


def _write(report: Report, result: BenchResult) -> None:
    """Write the report in its three forms."""
    write_json(report.json_path, report.to_dict())
    write_bytes(report.html_path, render_html(report, result).encode())
    write_bytes(report.markdown_path, render_markdown(report).encode())


def open_graphs(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    manifests: list[EngineManifest],
    chosen: ChosenStages,
    stack: ExitStack,
) -> Graphs | None:
    """Open the graphs between checkpoint and engine; an engine of ONNX Runtime is its graph."""
    if not (chosen.onnx or chosen.graph):
        return None

    def open_graph(data: bytes) -> Engine:
        # ONNX Runtime's optimiser miscomputes some float16 graphs with Q/DQ pairs; and this stage
        # is the graph itself, not what ONNX Runtime makes of it.
        engine = OnnxRuntimeEngine(data, model.card.input_size, as_written=True, shares_cores=True)
        return stack.enter_context(closing(engine))

    graphs: dict[str, Engine] = {}
    missing: dict[str, str] = {}
    digests: dict[str, str] = {}
    exported = None
    if chosen.onnx:
        exported = open_graph(model.data)
        digests[MODEL] = model.sha256
    for manifest in manifests if chosen.graph else ():
        if manifest.target == "onnxruntime":
            continue
        try:
            data = read_graph(workspace.engines / manifest.name, manifest)
            graphs[manifest.name] = open_graph(data)
        except LpxError as error:
            missing[manifest.name] = in_one_line(error)
        else:
            digests[graph_of(manifest.name)] = hashlib.sha256(data).hexdigest()
    return Graphs(exported, graphs, missing, digests)


def _notes(loaded: Mapping[str, LoadedEngine]) -> list[str]:
    """Return the engines' notes on how they ran."""
    return [f"{name}: {note}" for name, c in loaded.items() for note in notes_of(c.engine)]
