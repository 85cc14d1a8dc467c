from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpx import CostPlan, Workspace
from lpx.api import bench as bench_api
from lpx.api.bench import BenchOptions, Host
from lpx.artefacts import select_engine
from lpx.artefacts.model import read_exported
from lpx.artefacts.overlap import FEW_FACES, face_warnings
from lpx.artefacts.select_engine import Survey, UnfitEngine
from lpx.bench.parity.score import Failure, Scored
from lpx.bench.report.document.entries import NotRun
from lpx.bench.report.document.report import read_report
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile
from lpx.data.face_sets.sets import open_set
from lpx.data.images.decode import fit
from lpx.engines import load
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import InvalidArgumentError, LpxError
from lpx.graph.qdq.plan import PrecisionPlan
from lpx.healing.pick import pick_engine
from lpx.metrics import auc
from lpx.reporter import SILENT
from tests.support.costs import QUICK, UNTIMED
from tests.support.reporting import RecordingReporter


def bench(workspace, dataset="demo", *, host=None, reporter=SILENT, **options):
    options = BenchOptions(**{"costs": UNTIMED, **options})
    return bench_api.bench(workspace, dataset, options, reporter, host=host)


def loading(change):
    """A host whose engines are changed after they were loaded; `change` gets engine and folder."""

    def load_changed(folder, **options):
        engine = load(folder, **options)
        return change(engine, folder) or engine

    return Host(load=load_changed)


def running(*names, not_run=None):
    """A function that finds these engines of a workspace, and that others do not run."""

    def find(workspace, model):
        unfit = [
            UnfitEngine(read_manifest(workspace.engines / name), reason)
            for name, reason in (not_run or {}).items()
        ]
        return Survey([read_manifest(workspace.engines / name) for name in names], unfit)

    return find


def test_engines_in_python_give_what_bench_saw(workspace):
    report = bench(workspace, limit=24)
    faces = open_set("demo", "test").first(24)
    pixels = np.stack([fit(face.source.read(), 160) for face in faces.faces])
    int8, fp32 = (
        load(workspace.engines / f"onnxruntime-{p}").infer(pixels).score for p in ("int8", "fp32")
    )
    found = {entry.precision: entry for entry in report.candidates}
    assert found["int8"].auc == auc(faces.labels(), int8)
    assert found["fp32"].auc == auc(faces.labels(), fp32)
    # The FP32 engine is within 1e-4 of PyTorch, which is what bench compares with.
    largest = found["int8"].parity.score_difference.max
    assert largest == pytest.approx(np.abs(int8 - fp32).max(), abs=2e-4)


def test_report_is_what_is_written(workspace):
    report = workspace.bench("demo", limit=8, costs=UNTIMED)
    assert json.loads(report.json_path.read_text()) == report.to_dict()
    assert read_report(workspace.root).to_dict() == report.to_dict()
    assert report.html_path.read_text().lstrip().lower().startswith("<!doctype html>")
    assert report.markdown_path.read_text().startswith("## ")


def test_same_faces_give_the_same_report(workspace):
    first, second = (bench(workspace, limit=8) for _ in range(2))
    assert settled(first) == settled(second)


def settled(report):
    """A report without what differs from process to process."""
    return replace(report, environment=replace(report.environment, memory=None))


def test_calibrating_on_the_faces_that_are_benched_is_reported(workspace, crops):
    workspace.build(("int8",), target="onnxruntime", faces="crops")
    overlap = "onnxruntime-int8 was calibrated on the very faces it is measured on"
    with pytest.raises(LpxError, match=overlap) as caught:
        bench(workspace, "folder:crops")
    assert "`allow_overlap=True`" in caught.value.fix
    allowed = bench(workspace, "folder:crops", allow_overlap=True).warnings
    assert any(text.startswith(overlap) for text in allowed)
    # By another name they are the same faces still.
    absolute = bench(workspace, str(crops), allow_overlap=True)
    assert any(text.startswith(overlap) for text in absolute.warnings)
    assert not any("calibrated" in text for text in bench(workspace, limit=8).warnings)


def test_calibrating_on_some_of_the_faces_that_are_benched_is_reported(workspace, crops):
    """As with a folder of more faces than --limit."""
    workspace.build(("int8",), target="onnxruntime", faces="crops", limit=10)
    said = (
        "onnxruntime-int8 was calibrated on 10 faces of folder:crops, the set it is measured on; "
        "its AUC on other faces may be lower"
    )
    with pytest.raises(LpxError, match="10 faces of folder:crops"):
        bench(workspace, "crops")
    assert said in bench(workspace, "crops", allow_overlap=True).warnings
    assert said in bench(workspace, "crops", limit=8, allow_overlap=True).warnings


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ([("Eve",), ()], []),
        ([("Ada", "Eve")], ["faces of Ada, who is also measured"]),
        ([("Cy",), ("Ada",), ("Cy", "Bo"), ()], ["faces of Ada and 2 more, who are also measured"]),
    ],
)
def test_shared_identities_are_reported(built, measured, said):
    manifest = read_manifest(built.engines / "onnxruntime-int8")
    calibration = manifest.calibration | {"identities": ["Ada", "Bo", "Cy"]}
    faces = FaceSet(
        "own",
        "test",
        "none",
        tuple(
            Face(f"{i}.png", i % 2, "", "", who, ImageFile(Path("none")))
            for i, who in enumerate(measured)
        ),
    )
    labels = np.arange(100) % 2
    found = face_warnings(
        [replace(manifest, calibration=calibration)], faces, Scored(labels, labels, {}, ())
    )
    assert [text.split("calibrated on ")[1].split(";")[0] for text in found] == said


@pytest.mark.parametrize(
    ("used_for", "said"),
    [("search", "was searched on"), ("verification", "was verified on")],
)
def test_faces_that_a_plan_was_found_with_are_refused(workspace, used_for, said):
    faces = open_set("demo", "test").first(8)
    plan = PrecisionPlan(
        {},
        "",
        {
            "faces": [
                {
                    "faces": "elsewhere",
                    "split": "val",
                    "face_count": 8,
                    "faces_digest": "0" * 64,
                    "set_digest": "",
                    "identities": [],
                    "videos": [],
                    "contents": list(faces.short_contents())[:3],
                    "used_for": used_for,
                }
            ]
        },
    )
    name = "onnxruntime-fp32"
    folder = workspace.engines / name
    write_manifest(folder, replace(read_manifest(folder), plan=plan.to_dict()))
    with pytest.raises(LpxError, match=f"the precision plan of {name} {said} 3 pictures that"):
        bench(workspace, limit=8)
    warnings = bench(workspace, limit=8, allow_overlap=True).warnings
    assert any(f"the precision plan of {name} {said} 3 pictures" in text for text in warnings)
    assert bench(workspace, limit=8, candidates=["onnxruntime-int8"]).candidates


def test_few_faces_are_warned_of(workspace):
    (said,) = bench(workspace, limit=8).warnings
    assert said.startswith("4 real and 4 fake faces are few")
    assert f"fewer than about {FEW_FACES} faces of each class" in said
    assert bench(workspace, limit=2 * FEW_FACES).warnings == ()


def test_what_an_engine_notes_is_a_warning(workspace):
    def note(engine, folder):
        engine.notes = ["built on another GPU"]

    report = bench(workspace, limit=8, candidates=["onnxruntime-int8"], host=loading(note))
    assert "onnxruntime-int8: built on another GPU" in report.warnings


def test_engines_that_do_not_run_here_are_named_and_left_out(workspace, monkeypatch):
    def can_run(manifest, machine):
        return manifest.precision == "int8", "no float here"

    monkeypatch.setattr(select_engine, "can_run", can_run)
    report = bench(workspace, limit=8)
    assert [entry.name for entry in report.candidates] == ["onnxruntime-int8"]
    assert report.not_run == (NotRun("onnxruntime-fp32", "no float here"),)


def test_no_engine_that_runs_here_is_an_error_with_the_reasons(workspace, monkeypatch):
    monkeypatch.setattr(select_engine, "can_run", lambda manifest, machine: (False, "no GPU"))
    with pytest.raises(LpxError, match="has no engine that runs here") as caught:
        bench(workspace, limit=8)
    assert caught.value.why == "onnxruntime-fp32: no GPU; onnxruntime-int8: no GPU"
    assert "--target onnxruntime" in caught.value.fix


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margin": 2}, "margin must be between 0 and 1 (got 2)"),
        ({"margin": "0"}, "margin must be a finite number (got '0')"),
        ({"limit": 3}, "limit must be >= 4 (got 3)"),
        (
            {"reference": "torch"},
            "reference must be one of auto, checkpoint, recorded (got 'torch')",
        ),
    ],
)
def test_options_are_refused_by_name(workspace, options, said):
    with pytest.raises(InvalidArgumentError) as caught:
        workspace.bench("demo", **options)
    assert caught.value.what == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batches": ()}, "batches must name at least one batch size (got [])"),
        ({"batches": (8, 0)}, "batches must be >= 1 (got 0)"),
        ({"latency_seconds": -1}, "latency_seconds must be >= 0 (got -1)"),
        ({"energy_seconds": float("inf")}, "energy_seconds must be a finite number (got inf)"),
        ({"in_flight": -1}, "in_flight must be >= 0 (got -1)"),
        ({"like": 9}, "like must be one of 10, 11 (got 9)"),
        (
            {"in_flight": 2, "latency_seconds": 0},
            "in_flight cannot be combined with `latency_seconds=0` (got 2)",
        ),
        (
            {"like": 10, "latency_seconds": 0},
            "like cannot be combined with `latency_seconds=0` (got 10)",
        ),
    ],
)
def test_costs_are_refused_by_name(options, said):
    with pytest.raises(InvalidArgumentError) as caught:
        CostPlan(**options)
    assert caught.value.what == said


def test_limit_spreads_over_the_set_and_keeps_both_classes(workspace):
    report = bench(workspace, limit=5)
    assert report.dataset.faces == 5
    assert min(report.dataset.real, report.dataset.fake) >= 2


def test_stages_of_an_engine_that_is_its_own_graph(workspace):
    report = bench(workspace, limit=24)
    for candidate in report.candidates:
        assert [stage.kind for stage in candidate.stages] == ["onnx", "engine"]
        onnx, engine = candidate.stages
        # The exported model is within 1e-4 of PyTorch; INT8 is not.
        assert onnx.against_torch.score_difference.max < 1e-4
        assert engine.against_torch.score_difference == candidate.parity.score_difference
    assert all(c.stages == () for c in bench(workspace, limit=8, stages=()).candidates)


def test_the_graph_of_a_tensorrt_engine_is_a_stage(workspace):
    """Stood in for by the engines of ONNX Runtime: the INT8 graph, and an engine in FP32."""
    source = workspace.engines / "onnxruntime-int8"
    for name in ("tensorrt-int8", "tensorrt-fp32"):
        folder = workspace.engines / name
        folder.mkdir()
        shutil.copy(workspace.engines / "onnxruntime-fp32" / "engine.onnx", folder)
        manifest = read_manifest(workspace.engines / "onnxruntime-fp32")
        write_manifest(folder, replace(manifest, name=name, target="tensorrt"))
    shutil.copy(source / "engine.onnx", workspace.engines / "tensorrt-int8" / "graph.onnx")

    def opened(folder, **options):
        return load(workspace.engines / folder.name.replace("tensorrt", "onnxruntime"), **options)

    host = Host(runnable=running("tensorrt-int8", "tensorrt-fp32"), load=opened)
    found = {c.name: c for c in bench(workspace, limit=24, host=host).candidates}
    onnx, graph, engine = found["tensorrt-int8"].stages
    assert [s.kind for s in (onnx, graph, engine)] == ["onnx", "graph", "engine"]
    assert graph.against_torch.score_difference.max > 1e-4
    # Both compute the same graph, one as ONNX Runtime optimises it, and one as it is written.
    assert engine.against_previous.score_difference.mean < 5e-3
    _, missing, _ = found["tensorrt-fp32"].stages
    assert missing.reason.startswith(
        str(workspace.engines / "tensorrt-fp32/graph.onnx") + " does not exist"
    )
    assert missing.against_torch is None


def test_candidates_are_chosen_by_name(workspace):
    report = bench(workspace, limit=8, candidates=["onnxruntime-int8"])
    assert [c.name for c in report.candidates] == ["onnxruntime-int8"]
    with pytest.raises(LpxError, match="engine int8 does not exist") as caught:
        bench(workspace, limit=8, candidates=["int8"])
    assert caught.value.why.endswith("onnxruntime-fp32, onnxruntime-int8")
    assert caught.value.code == "not-found"
    only = Host(runnable=running("onnxruntime-int8", not_run={"onnxruntime-fp32": "no float"}))
    with pytest.raises(LpxError, match="none of onnxruntime-fp32 runs here") as caught:
        bench(workspace, limit=8, candidates=["onnxruntime-fp32"], host=only)
    assert caught.value.why == "onnxruntime-fp32: no float"


@pytest.mark.parametrize("name", ["torch", "onnx", "onnxruntime-fp32:graph"])
def test_engine_is_not_taken_for_what_it_is_compared_with(workspace, name):
    """A copy in a folder `torch` took the checkpoint's place: it agreed with itself."""
    (workspace.engines / "onnxruntime-int8").rename(workspace.engines / name)
    with pytest.raises(LpxError, match=f"engines/{name} is not a name that an engine can have"):
        bench(workspace, limit=8)


def test_methods_are_chosen_by_name(workspace):
    # One, as a text, or several.
    report = bench(workspace, limit=24, methods="sbi", candidates="onnxruntime-fp32")
    assert [c.name for c in report.candidates] == ["onnxruntime-fp32"]
    assert report.dataset.methods == ("sbi",)
    (row,) = report.reference.accuracy.methods
    assert row.method == "sbi"
    with pytest.raises(LpxError, match="demo has no method 'swap'"):
        bench(workspace, methods=["swap"])


@pytest.mark.parametrize("bad", ["raises", "nan"])
def test_an_engine_that_breaks_is_reported_and_the_others_continue(workspace, bad):
    class Breaking:
        def __init__(self, engine):
            self.engine, self.device_memory = engine, engine.device_memory

        def infer(self, faces):
            if bad == "raises":
                raise RuntimeError("CUDA error: out of memory")
            found = self.engine.infer(faces)
            found.score[3] = np.nan
            return found

        def close(self):
            self.engine.close()

    def break_int8(engine, folder):
        return Breaking(engine) if folder.name.endswith("int8") else engine

    report = bench(workspace, limit=24, margin=0.5, host=loading(break_int8))
    assert [c.name for c in report.candidates] == ["onnxruntime-fp32"]
    assert report.candidates[0].parity.concordance.low == 1.0
    (failed,) = report.failed
    assert (failed.name, failed.during) == ("onnxruntime-int8", "scoring")
    said = "CUDA error" if bad == "raises" else "gives the score nan to face "
    assert said in failed.reason
    assert report.verdict == "undecided"


def test_an_engine_that_breaks_while_it_is_loaded_is_reported(workspace):
    def opened(folder, **options):
        if folder.name.endswith("int8"):
            raise RuntimeError("std::bad_alloc")
        return load(folder, **options)

    report = bench(workspace, limit=24, margin=0.5, host=Host(load=opened))
    assert [c.name for c in report.candidates] == ["onnxruntime-fp32"]
    assert report.failed == (
        Failure("onnxruntime-int8", "loading", "RuntimeError: std::bad_alloc"),
    )
    assert report.verdict == "undecided"


def test_a_damaged_engine_is_a_users_error(workspace):
    (workspace.engines / "onnxruntime-int8" / "engine.onnx").write_bytes(b"")
    with pytest.raises(LpxError, match="is not the engine that its manifest describes"):
        bench(workspace, limit=8)


def test_an_altered_graph_is_no_stage(workspace):
    folder = workspace.engines / "onnxruntime-int8"
    data = (folder / "engine.onnx").read_bytes()
    (folder / "graph.onnx").write_bytes(data)
    manifest = read_manifest(folder)
    options = {"graph_sha256": hashlib.sha256(data).hexdigest()}
    write_manifest(folder, replace(manifest, target="tensorrt", options=options))

    def opened(folder, **options):
        return OnnxRuntimeEngine((folder / "engine.onnx").read_bytes(), 160)

    host = Host(runnable=running("onnxruntime-int8"), load=opened)
    (found,) = bench(workspace, limit=8, host=host).candidates
    assert found.stages[1].against_torch is not None
    (folder / "graph.onnx").write_bytes(data + b" ")
    (found,) = bench(workspace, limit=8, host=host).candidates
    assert found.stages[1].against_torch is None
    assert "is not the graph that onnxruntime-int8 was built from" in found.stages[1].reason


class Joules:
    """A source of energy that gives 2 J for every window."""

    name, covers = "fake", "the board"

    def __init__(self, closed):
        self.closed = closed

    def start(self):
        pass

    def stop(self):
        return 2.0

    def close(self):
        self.closed.append(self)


def test_energy_source_is_opened_once_per_device_and_closed(workspace):
    closed, asked = [], []
    host = Host(open_source=lambda device: asked.append(device) or Joules(closed))
    plan = CostPlan(latency_seconds=0, energy_seconds=0.02)
    report = bench(workspace, limit=8, costs=plan, host=host)
    assert asked == ["cpu"]
    assert len(closed) == 1
    for entry in report.entries:
        assert entry.costs.energy.gross_j_per_face.estimate > 0
    page = (workspace.root / "report.html").read_text()
    assert 'id="figure-pareto-energy"' in page
    # Latency was not measured, so nothing can be said of all three together.
    assert "In AUC, latency and energy together" not in page


def test_host_code_is_allowed_where_the_user_says_so(workspace):
    seen = []

    def opened(folder, **options):
        if "allow_host_code" in options:  # what scores is ONNX Runtime's, and holds none
            seen.append(options["allow_host_code"])
        return load(folder)

    host = Host(load=opened)
    bench(workspace, limit=8, host=host)
    bench(Workspace(workspace.root, allow_host_code=True), limit=8, host=host)
    assert seen == [False, False, True, True]
    seen.clear()
    model = read_exported(workspace)
    for allow in (False, True):
        pick_engine(workspace, model, None, allow_host_code=allow, load=opened)
    assert seen == [False, True]


def test_what_scores_beside_decoding_shares_the_cores_and_what_is_timed_does_not(workspace):
    calls = []

    def opened(folder, *, shares_cores=False, **options):
        engine = load(folder, shares_cores=shares_cores, **options)
        infer = engine.infer
        engine.infer = lambda faces: calls.append(shares_cores) or infer(faces)
        return engine

    plan = CostPlan((1,), 0.01, limits=QUICK)
    bench(workspace, limit=32, costs=plan, host=Host(load=opened))
    # Two batches of each of two engines.
    assert calls[:4] == [True] * 4
    assert set(calls[4:]) == {False}


def test_an_engine_that_breaks_at_a_batch_size_keeps_its_parity(workspace):
    def limited(engine, folder):
        infer = engine.infer

        def infer_few(faces):
            if len(faces) == 8:
                raise RuntimeError("no kernel for 8")
            return infer(faces)

        if folder.name.endswith("int8"):
            engine.infer = infer_few

    plan = CostPlan(latency_seconds=0.01, limits=QUICK)
    report = bench(workspace, limit=16, costs=plan, host=loading(limited))
    fp32, int8 = report.candidates
    assert [row.batch for row in fp32.costs.latency_by_batch] == [1, 8]
    assert [row.batch for row in int8.costs.latency_by_batch] == [1]
    (failed,) = report.failed
    assert failed.during == "timing"
    assert failed.reason == "RuntimeError: no kernel for 8 (batch 8)"


KILLED = """
import sys, time
from pathlib import Path
from lpx import CostPlan, Workspace
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
infer, calls = OnnxRuntimeEngine.infer, 0
def slowly(self, faces):
    global calls
    calls += 1
    if calls == 8:
        print("stuck", flush=True)
        time.sleep(600)
    return infer(self, faces)
OnnxRuntimeEngine.infer = slowly
Workspace("lpx-out").bench("demo", limit=60, costs=CostPlan(latency_seconds=0))
"""


def test_an_interrupted_bench_resumes_and_says_the_same(workspace, monkeypatch):
    whole = bench(workspace, limit=60)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    finally:
        process.kill()
    kept = workspace.root / "bench.partial"
    assert len(list(kept.glob("*.scores"))) == 4
    from lpx.engines.torch import TorchEngine

    infer, seen = TorchEngine.infer, []
    monkeypatch.setattr(
        TorchEngine, "infer", lambda self, faces: seen.append(len(faces)) or infer(self, faces)
    )
    again = bench(workspace, limit=60)
    # Of four batches the reference had scored three before the kill.
    assert seen == [12]
    assert settled(again) == settled(whole)
    assert not kept.exists()


def test_an_error_keeps_the_scores_of_the_faces_as_they_were(workspace, crops):
    good = {path: path.read_bytes() for path in (crops / "fake").iterdir()}
    for path in good:
        path.write_bytes(b"broken")
    with pytest.raises(LpxError, match="holds real faces only"):
        bench(workspace, "crops")
    assert (workspace.root / "bench.partial").exists()
    for path, data in good.items():
        path.write_bytes(data)
    told = RecordingReporter()
    bench(workspace, "crops", reporter=told)
    assert any("dropped: faces have changed since" in text for text in told.said)
    assert not (workspace.root / "bench.partial").exists()


def test_memory_is_told(workspace):
    report = bench(workspace, limit=8)
    memory = report.environment.memory
    assert 0 < memory.process_rss_mib <= memory.process_peak_mib
    assert report.reference.costs.device_memory.bytes is None
    assert "on the CPU" in report.reference.costs.device_memory.reason
