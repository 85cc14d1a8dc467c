"""The search for a plan, with real engines and times that are made up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import lpx
from lpx.api.search import finalists
from lpx.api.search.context import Stopwatch
from lpx.api.search.options import SearchOptions
from lpx.api.search.search import search
from lpx.artefacts.plan_file import read_plan
from lpx.bench.performance.latency import Samples, TimingLimits
from lpx.engines.manifest import read_manifest
from lpx.errors import InvalidArgumentError, LpxError
from lpx.search.timing.measure_latency import TimingPlan, measure_costs
from lpx.search.timing.work_model import WorkModel
from lpx.workspace import sha256
from tests.support.outlier import BEFORE, BEHIND, write_outlier
from tests.support.reporting import RecordingReporter

FACES = 192


def stopwatch(speedup):
    """Layers take their share of the work; an engine in INT8 is `speedup` times as fast."""

    def engines(named, pixels, seconds):
        samples = {}
        for name in named:
            time = 10.0 if name == "float" else 10.0 / speedup
            rounds = np.repeat(np.arange(10), 4)
            noise = 1 + 0.001 * np.sin(np.arange(len(rounds)))
            samples[name] = Samples(time * noise, rounds)
        return samples

    return Stopwatch(lambda subject, pixels, timing: WorkModel(subject), engines)


@pytest.fixture(scope="module")
def outlier(tmp_path_factory):
    """A workspace with a detector that INT8 breaks, and its ranges."""
    root = tmp_path_factory.mktemp("outlier")
    work = lpx.Workspace(root / "lpx-out")
    work.export(write_outlier(root / "ckpt.pt"))
    work.calibrate("demo", limit=32, method="max")
    return work


def options(**given):
    return SearchOptions(target="onnxruntime", search_faces="demo", search_limit=FACES, **given)


@pytest.fixture(scope="module")
def found(outlier):
    """A finished search, and what it said."""
    reporter = RecordingReporter()
    return search(outlier, options(margin=0.05), reporter, stopwatch=stopwatch(2.0)), reporter


def test_layers_that_int8_breaks_stay_in_float_and_the_engine_holds(outlier, found):
    result, _ = found
    assert result.outcome == "plan"
    assert result.exit_code == 0
    assert result.chosen.trial.verdict == "holds"
    assert result.chosen.trial.measured.low > -0.05
    plan = read_plan(result.files.plan)
    floats = {name for name, layer in plan.layers.items() if layer.precision == "float"}
    assert any(BEHIND in name for name in floats)
    assert any(BEFORE in name for name in floats)
    assert len(floats) <= len(plan.layers) // 2
    assert all(plan.layers[name].reason for name in floats)
    assert "2.00 times as fast" in result.sentence


def test_the_chosen_engine_is_built_and_says_which_faces_it_was_found_with(outlier, found):
    manifest = read_manifest(outlier.engine(found[0].engine))
    plan = read_plan(found[0].files.plan)
    assert manifest.precision_plan == plan
    quantised = {d["node"] for d in manifest.placement if d["quantised"] and d["op_type"] == "Conv"}
    assert quantised == {n for n, layer in plan.layers.items() if layer.precision == "int8"}
    assert {faces.used_for for faces in plan.faces} == {"search", "verification"}
    people = [set(faces.identities) for faces in plan.faces]
    assert not people[0] & people[1]
    with pytest.raises(LpxError, match="searched on"):
        outlier.bench("demo", limit=16, candidates=found[0].engine)


def test_files_of_a_search(outlier, found):
    result, _ = found
    values = json.loads((outlier.root / "search" / "search.json").read_text())
    assert values["outcome"] == "plan"
    page = result.files.report.read_text()
    assert result.sentence.split(" (")[0] in page
    assert "<svg" in page
    assert len(result.files.log.read_text().splitlines()) == len(result.trials)
    engines = list((outlier.root / "search" / "engines").iterdir())
    # Those that were judged, and the float engine.
    assert len(engines) == len(result.trials) + 1


def test_a_second_search_measures_nothing_again(outlier, found, monkeypatch):
    def fail(*given, **named):
        raise AssertionError("measured again")

    monkeypatch.setattr("lpx.search.shifts._Run", fail)
    monkeypatch.setattr("lpx.api.search.finalists._judge", fail)
    monkeypatch.setattr("lpx.api.search.finalists.build_engine", fail)
    again = search(outlier, options(margin=0.05), stopwatch=stopwatch(2.0))
    assert again.trials == found[0].trials


def test_int8_that_is_no_faster_does_not_pay(outlier, found):
    result = search(outlier, options(margin=0.05), stopwatch=stopwatch(1.0))
    assert (result.outcome, result.exit_code) == ("no-gain", 5)
    assert "is not shown to be faster than the float engine" in result.sentence
    assert result.files.plan is None


def test_int8_that_is_slower_is_called_slower(outlier, found):
    result = search(outlier, options(margin=0.05), stopwatch=stopwatch(0.8))
    assert result.exit_code == 5
    assert "is slower than the float engine (0.80 times" in result.sentence


def test_the_engine_that_is_kept_is_the_one_that_was_judged(outlier, found):
    """Another build may compute otherwise: TensorRT chooses kernels by timing them."""
    kept = read_manifest(outlier.engine(found[0].engine))
    judged = [read_manifest(p) for p in (outlier.root / "search" / "engines").glob("int8-*")]
    same = [m for m in judged if m.engine_sha256 == kept.engine_sha256]
    assert len(same) == 1
    file = outlier.engine(found[0].engine) / kept.file
    assert sha256(file) == kept.engine_sha256


def test_an_engine_that_differs_from_the_judged_one_is_judged_again(outlier, found, monkeypatch):
    """A trial is of an engine, not only of its plan."""
    judged = []
    real = finalists._judge

    def judge(run, folder):
        judged.append(folder)
        return real(run, folder)

    def other(manifest):
        return replace(manifest, engine_sha256="0" * 64)

    monkeypatch.setattr(finalists, "_judge", judge)
    built = finalists._built
    monkeypatch.setattr(finalists, "_built", lambda *given: other(built(*given)))
    search(outlier, options(margin=0.05), stopwatch=stopwatch(2.0))
    assert len(judged) == len(found[0].trials)


def test_layers_are_timed_once(workspace):
    """Times differ from one measurement to the next, and other times would propose other plans."""
    calls = []
    short = TimingPlan(
        rounds=1,
        calls=1,
        seconds=0.01,
        limits=TimingLimits(
            warm_up_seconds=0.01, warm_up_most_seconds=0.02, min_iterations=1, block_seconds=0.01
        ),
    )

    def layers(subject, pixels, timing):
        calls.append(timing)
        return measure_costs(subject, pixels, short)

    watch = replace(stopwatch(2.0), layers=layers)
    first = search(workspace, options(margin=0.2), stopwatch=watch)
    again = search(workspace, options(margin=0.2), stopwatch=watch)
    assert len(calls) == 1
    assert again.latency == first.latency
    assert len(first.latency.groups) == first.groups + 1
    file = workspace.root / "search" / "latencies.json"
    file.write_bytes(file.read_bytes()[:-20])
    search(workspace, options(margin=0.2), stopwatch=watch)
    assert len(calls) == 2


def test_all_int8_is_kept_where_it_holds(workspace):
    result = search(workspace, options(margin=0.2), stopwatch=stopwatch(2.0))
    assert (result.outcome, result.exit_code) == ("all-int8", 0)
    assert len(result.trials) == 1
    plan = read_plan(result.files.plan)
    assert {layer.precision for layer in plan.layers.values()} == {"int8"}


def test_layers_that_are_slower_in_int8_stay_in_float_even_if_auc_holds(workspace):
    class Uneven(WorkModel):
        def predict(self, int8):
            slow = [name for name in int8 if "conv_dw" in name]
            return super().predict(int8) + 0.1 * len(slow)

    watch = replace(stopwatch(2.0), layers=lambda subject, pixels, timing: Uneven(subject))
    result = search(workspace, options(margin=0.2), stopwatch=watch)
    first = result.trials[0].trial
    assert not [name for name in first.int8 if "conv_dw" in name]
    assert len(first.int8) >= 12
    # The engine with all groups in INT8 is tried as well: predicted times may be wrong.
    assert len(result.trials[-1].trial.int8) == result.groups


def test_a_plan_that_does_not_hold_ends_the_search(outlier, monkeypatch):
    from lpx.bench.parity.parity import compare as real

    def failing(*given, **named):
        return replace(real(*given, **named), verdict="fails")

    monkeypatch.setattr("lpx.api.search.finalists.compare", failing)
    result = search(outlier, options(margin=0.051), stopwatch=stopwatch(2.0))
    assert (result.outcome, result.exit_code) == ("no-plan", 1)
    assert len(result.trials) == 1
    assert result.sentence.startswith("no plan holds AUC; the best has ")


def test_too_few_faces_for_a_margin_say_how_many_are_needed(outlier):
    with pytest.raises(LpxError, match="margin of 1e-05 cannot be shown") as error:
        search(outlier, options(margin=0.00001), stopwatch=stopwatch(2.0))
    assert "faces" in error.value.fix


def test_faces_that_were_calibrated_on_are_refused(workspace, crops):
    workspace.calibrate(crops, limit=8)
    with pytest.raises(LpxError, match="the ranges were calibrated on") as error:
        workspace.sensitivity(crops, faces=crops, target="onnxruntime")
    assert "`search_faces`" in error.value.fix


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"margin": 0}, "margin must be > 0"),
        ({"margin": 0.9}, "margin"),
        ({"confidence": 1.0}, "confidence"),
        ({"budget_minutes": 0}, "budget_minutes"),
        ({"search_limit": 1}, "search_limit"),
        ({"limit": 0}, "limit"),
        ({"target": "gpu"}, "target"),
        ({"method": "best"}, "method"),
        ({"blocks": "yes"}, "blocks"),
    ],
)
def test_options_of_a_search_are_checked(wrong, what, tmp_path):
    with pytest.raises(InvalidArgumentError, match=what):
        lpx.Workspace(tmp_path).search(**wrong)


def test_options_that_the_target_ignores_are_refused(workspace):
    options = lpx.TensorRTOptions(workspace_mib=64)
    with pytest.raises(LpxError, match="workspace_mib"):
        workspace.search("demo", target="onnxruntime", tensorrt=options)


def test_infinite_ends_of_intervals_are_null_in_json(outlier, found):
    result, _ = found
    speed = replace(result.chosen.speed, ratio=replace(result.chosen.speed.ratio, high=np.inf))
    chosen = replace(result.chosen, speed=speed)
    values = replace(result, chosen=chosen).to_dict()
    assert values["chosen"]["speed"]["ratio"]["high"] is None
    json.dumps(values, allow_nan=False)


def test_one_class_is_refused(workspace, crops):
    shutil.rmtree(crops / "fake")
    with pytest.raises(LpxError, match="real faces only"):
        workspace.sensitivity(crops, target="onnxruntime")


def test_sensitivity_is_written_and_resumes(workspace, monkeypatch):
    first = workspace.sensitivity("demo", search_limit=32, target="onnxruntime")
    assert first.picture.read_bytes().startswith(b"\x89PNG")
    table = json.loads(first.table.read_text())
    assert len(table["groups"]) == len(first.groups) == 24

    def fail(*given, **named):
        raise AssertionError("measured again")

    monkeypatch.setattr("lpx.search.shifts._Run", fail)
    again = workspace.sensitivity("demo", search_limit=32, target="onnxruntime")
    assert again.groups == first.groups


def test_sensitivity_serves_targets_that_are_not_installed(workspace):
    result = workspace.sensitivity("demo", search_limit=16, target="tensorrt", blocks=True)
    assert result.target == "tensorrt"
    assert any(one.group.op_type == "residual block" for one in result.groups)
