"""Compare every engine with the checkpoint, and measure what it costs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

from lpx.arguments import check_at_least, check_choice, check_number, several
from lpx.artefacts.bench_reference import (
    ReferenceKind,
    open_reference,
    record_reference,
    torch_package,
)
from lpx.artefacts.model import (
    ExportedModel,
    look_up,
    open_faces,
    read_exported,
    versions,
)
from lpx.artefacts.select_engine import Survey, choose_engines, runnable
from lpx.bench.parity.parity import MARGIN
from lpx.bench.parity.pixels import PixelPlan
from lpx.bench.parity.pixels import digests as pixel_digests
from lpx.bench.parity.recording import RecordedScores
from lpx.bench.parity.run import BenchResult, StagePlan, Watch
from lpx.bench.parity.run import bench as measure
from lpx.bench.parity.score import BATCH, Failure, Scored, in_one_line
from lpx.bench.parity.score_store import FOLDER, ScoreStore
from lpx.bench.parity.stage_names import STAGES, ChosenStages, choose_stages
from lpx.bench.parity.stages import MODEL, Graphs, graph_of
from lpx.bench.performance.costs import DEFAULT_COSTS, CostPlan, energy_seconds
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
from lpx.healing.pick import Healer, HealingOptions
from lpx.machine.energy_sources import Device, EnergySource, Unavailable, open_source
from lpx.machine.machine import read_machine
from lpx.machine.process_memory import read_memory
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, check_writable, write_bytes, write_json

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

# Faces of a class below which an interval of AUC is not to be relied on.
FEW_FACES = 30
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


class OpenSource(Protocol):
    """Opens the energy source of a device."""

    def __call__(self, device: Device, /) -> EnergySource | Unavailable:
        """Return the source, or the reason why there is none."""
        ...


class LoadEngine(Protocol):
    """Loads an engine from its folder, as `lpx.load`."""

    def __call__(
        self,
        folder: Path,
        /,
        *,
        allow_host_code: bool = False,
        cuda_graph: bool = False,
        shares_cores: bool = False,
    ) -> Engine:
        """Return the engine."""
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
    plan, chosen_stages = options.costs, choose_stages(options.stages)
    for note in chosen_stages.notes:
        reporter.say(note)
    trtexec = [read_trtexec(Path(path), name) for path, name in options.costs.trtexec_times]
    model = read_exported(workspace)
    faces = open_faces(
        workspace, dataset, "test", places=workspace.places, card=model.card, reporter=reporter
    )
    methods = None if options.methods is None else several("methods", options.methods)
    if methods is not None:
        faces = faces.select(methods=methods)
    faces = faces.first(options.limit)
    healing = HealingOptions(workspace.rebuild, workspace.allow_host_code)
    healer = Healer(workspace, model, healing, reporter)
    healer.prepare(options.candidates and several("candidates", options.candidates))
    chosen = choose_engines(workspace, host.runnable(workspace, model), options.candidates)
    manifests = chosen.fit
    look_up(faces, reporter)
    if not options.allow_overlap:
        _check_disjoint(manifests, faces)
    check_writable(workspace.root, "report.json", "report.html", "report.md")
    with workspace.lock(), ExitStack() as stack:
        reference = open_reference(
            workspace,
            model,
            faces,
            options.reference,
            stack,
            reporter,
            allow_factory=workspace.allow_factory,
        )
        loader = _Loader(workspace.engines, host.load, workspace.allow_host_code, healer.problem)
        loaded, broken = loader.load_all(manifests, stack)
        stages = StagePlan(
            _graphs(workspace, model, manifests, chosen_stages, stack), chosen_stages.pipelines
        )
        store = _store(workspace, model, faces, manifests, stages, reference, reporter)
        if store.folder.is_dir():
            reporter.say(f"resuming interrupted bench ({store.folder})")
        watch = Watch(
            reporter.progress(f"scoring {faces.name}"),
            reporter.progress("timing"),
            reporter.progress("measuring energy"),
        )
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
            stages=stages,
            store=store,
            watch=watch,
        )
        faces.check_unchanged("the bench")
        result = replace(result, failed=(*broken, *result.failed))
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
            not_run=chosen.reasons,
            warnings=[*_warnings(manifests, faces, result.scored), *_notes(loaded)],
            methods=methods,
            trtexec=trtexec,
        )
        report = replace(report, json_file=workspace.root / "report.json")
        _write(report, result)
        if isinstance(reference, Engine):
            record_reference(workspace, model, faces, result.scored, reference, reporter.warn)
        store.remove()
    return report


@dataclass(frozen=True)
class _Loader:
    """Loads the engines of a workspace."""

    folder: Path
    load: LoadEngine
    allow_host_code: bool
    problem: Callable[[EngineManifest, Engine], str]

    def load_all(
        self, manifests: list[EngineManifest], stack: ExitStack
    ) -> tuple[dict[str, LoadedEngine], list[Failure]]:
        """Load engines; if one fails while it is loaded, the others are measured without it.

        Raises:
            LpxError: An engine is altered, or lacks what it needs.
        """
        loaded: dict[str, LoadedEngine] = {}
        broken: list[Failure] = []
        for manifest in manifests:
            folder = self.folder / manifest.name
            try:
                engine = self.load(folder, allow_host_code=self.allow_host_code)
            except LpxError:
                raise
            except Exception as error:
                broken.append(Failure(manifest.name, "loading", in_one_line(error)))
                continue
            stack.enter_context(closing(engine))
            if problem := self.problem(manifest, engine):
                broken.append(Failure(manifest.name, "loading", problem))
                continue
            if manifest.target == "onnxruntime":
                loaded[manifest.name] = LoadedEngine(
                    manifest,
                    engine,
                    # ONNX Runtime's engine on the CPU serves several threads.
                    open=partial(_shared, engine),
                    graph=read_graph(folder, manifest),
                    scoring=partial(self._sharing_cores, folder),
                )
            else:
                another = partial(self._another, folder)
                loaded[manifest.name] = LoadedEngine(manifest, engine, another)
        return loaded, broken

    def _another(self, folder: Path, *, cuda_graph: bool) -> AbstractContextManager[Engine]:
        engine = self.load(folder, allow_host_code=self.allow_host_code, cuda_graph=cuda_graph)
        return closing(engine)

    def _sharing_cores(self, folder: Path) -> AbstractContextManager[Engine]:
        # Its threads do not spin while faces are decoded on the same cores.
        return closing(self.load(folder, shares_cores=True))


def _shared(engine: Engine, *, cuda_graph: bool) -> AbstractContextManager[Engine]:
    return nullcontext(engine)


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


def _graphs(
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


def _store(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    faces: FaceSet,
    manifests: list[EngineManifest],
    stages: StagePlan,
    reference: Engine | RecordedScores,
    reporter: Reporter,
) -> ScoreStore:
    """Open the store of scores, with those that an interrupted bench of these faces left."""
    inputs = {
        "faces": faces.digest(),
        "count": len(faces.faces),
        "size": model.card.input_size,
        "batch": BATCH,
        "versions": versions("onnxruntime", "numpy", *torch_package(reference)),
    }
    engines = {m.name: m.engine_sha256 for m in manifests}
    between = dict(stages.graphs.digests) if stages.graphs else {}
    pixels = pixel_digests(PixelPlan(stages.pipelines, tuple(engines)), engines)
    digests = {REFERENCE: model.sha256} | engines | between | pixels
    return ScoreStore(workspace.root / FOLDER, inputs, digests, reporter.say)


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
            f"{reals} real and {fakes} fake faces are few: intervals of AUC assume large samples,"
            f" and are too narrow with fewer than about {FEW_FACES} faces of each class"
        )
    return warnings + [
        f"{name} was calibrated on {overlap}; its AUC on other faces may be lower"
        for name, overlap in _overlaps(manifests, faces).items()
    ]


def _notes(loaded: Mapping[str, LoadedEngine]) -> list[str]:
    """Return the engines' notes on how they ran."""
    return [f"{name}: {note}" for name, c in loaded.items() for note in notes_of(c.engine)]


def _check_disjoint(manifests: list[EngineManifest], faces: FaceSet) -> None:
    """Refuse to measure an engine on the faces that it was calibrated on.

    Raises:
        LpxError: An engine was; the error says what is shared.
    """
    for name, overlap in _overlaps(manifests, faces).items():
        raise LpxError(
            f"{name} was calibrated on {overlap}",
            "its AUC on other faces may be lower than what would be measured",
            "bench on another set or split, build with other `faces`, or accept it with "
            "`allow_overlap=True`",
        )


def _overlaps(manifests: list[EngineManifest], faces: FaceSet) -> dict[str, str]:
    """Return what each engine was calibrated on that is measured too, by the engine's name."""
    digest, contents = faces.digest(), frozenset(faces.short_contents())
    overlaps = {m.name: _overlap(m.calibration or {}, faces, digest, contents) for m in manifests}
    return {name: overlap for name, overlap in overlaps.items() if overlap}


def _overlap(
    calibration: dict[str, Any], faces: FaceSet, digest: str, contents: frozenset[str]
) -> str:
    """Say what calibration and measurement share; "" if nothing is known to be shared."""
    if calibration.get("faces_digest") == digest:
        return "the very faces it is measured on"
    if (calibration.get("faces"), calibration.get("split")) == (faces.name, faces.split):
        count = counted(calibration["face_count"], "face")
        return f"{count} of {faces.name}, the set it is measured on"
    if same := contents.intersection(calibration.get("contents", ())):
        return f"{counted(len(same), 'picture')} that it is measured on (names may differ)"
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
