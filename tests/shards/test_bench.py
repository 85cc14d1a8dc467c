"""Benches in parts give the scores of a bench in one, byte for byte."""

from __future__ import annotations

import json
import shutil

import pytest

from lpx import Workspace
from lpx.api.bench import BenchOptions, Host, bench
from lpx.api.sharding.bench import bench_shard
from lpx.bench.parity.score import BATCH
from lpx.bench.parity.score_store import FOLDER
from lpx.engines import load
from lpx.errors import InvalidArgumentError, LpxError
from lpx.shards.part import FILE, read_part
from lpx.shards.shard import Shard
from lpx.workspace import write_sealed
from tests.support.costs import UNTIMED
from tests.support.reporting import RecordingReporter, StoppingReporter

LIMIT = 40
STAGES = ("onnx", "graph", "pixels:deepstream")
OPTIONS = {"limit": LIMIT, "allow_overlap": True, "stages": STAGES}


class StoppedError(Exception):
    """Ends a bench when all faces are scored, before the report."""


def scores(work):
    folder = work.root / FOLDER
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "parts.json"}


def run(work, reporter, host=None):
    return bench(work, "demo", BenchOptions(costs=UNTIMED, **OPTIONS), reporter, host=host)


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    """The scores that an undivided bench keeps, and its report."""
    work = Workspace(tmp_path_factory.mktemp("whole") / "w")
    shutil.copytree(built.root, work.root)
    with pytest.raises(StoppedError):
        # Called a last time when everything is scored.
        run(work, StoppingReporter("scoring", LIMIT, StoppedError()))
    stored = scores(work)
    return stored, run(work, RecordingReporter()).to_dict()


def parts(work, count):
    folders = []
    for index in range(count):
        folders.append(work.shard(f"{index}/{count}").bench("demo", **OPTIONS).folder)
    return folders


def compared(report):
    """A report without the machine, and what is said of parts."""
    kept = {name: report[name] for name in ("verdict", "candidates", "reference", "dataset")}
    return json.loads(json.dumps(kept))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_give_the_scores_of_one_bench(workspace, whole, count):
    folders = parts(workspace, count)
    merged = workspace.merge(folders)
    assert scores(workspace) == whole[0]
    assert merged.faces == LIMIT
    assert merged.parts == count
    assert "--limit 40 --pixels deepstream --allow-overlap" in merged.command
    if count != 2:
        return

    reporter = RecordingReporter()
    report = run(workspace, reporter, Host(load=silent)).to_dict()
    first, second = compared(report), compared(whole[1])
    for one in (first, second):
        for candidate in one["candidates"]:
            for name in ("load_seconds", "memory", "device_memory"):
                candidate.pop(name, None)
    assert first["candidates"] == second["candidates"]
    assert any("scores were computed in 2 parts" in text for text in report["warnings"])
    assert not (workspace.root / FOLDER).exists()


def silent(folder, **options):
    """Load an engine that must not be asked for a score."""
    engine = load(folder, **options)
    infer = engine.infer

    def refuse(pixels):
        # Examples in the report come from stored scores too.
        raise AssertionError(f"{folder.name} was asked again: {infer}")

    engine.infer = refuse
    return engine


def test_a_shard_locks_nothing_and_writes_its_part_only(workspace, tree):
    before = tree(workspace.root)
    with workspace.lock():
        part = workspace.shard("0/3").bench("demo", **OPTIONS)
    assert part.folder == workspace.root / "shards/bench/0-of-3"
    after = tree(workspace.root)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("shards") for name in after.keys() - before.keys())


def test_more_shards_than_batches(workspace):
    """Some shards have nothing to do, and say so."""
    units = -(-LIMIT // BATCH)
    sizes = [workspace.shard(f"{i}/5").bench("demo", **OPTIONS).units for i in range(5)]
    assert sum(sizes) == LIMIT
    assert sum(size > 0 for size in sizes) == units


def test_an_interrupted_shard_resumes(workspace, whole):
    shard = workspace.shard("0/1")
    with pytest.raises(KeyboardInterrupt):
        shard.bench("demo", **OPTIONS, reporter=StoppingReporter("scoring", BATCH))
    folder = workspace.root / "shards/bench/0-of-1"
    with pytest.raises(LpxError, match="not finished"):
        workspace.merge(folder)
    reporter = RecordingReporter()
    shard.bench("demo", **OPTIONS, reporter=reporter)
    assert reporter.steps[0][1] > BATCH
    workspace.merge(folder)
    assert scores(workspace) == whole[0]


def failing(name, at):
    """A host on which an engine fails at its n-th batch."""

    def load_failing(folder, **options):
        engine = load(folder, **options)
        if folder.name == name:
            infer, calls = engine.infer, []

            def fail(pixels):
                calls.append(1)
                if len(calls) > at:
                    raise RuntimeError("out of order")
                return infer(pixels)

            engine.infer = fail
        return engine

    return Host(load=load_failing)


@pytest.mark.parametrize("at", [0, 1])
def test_an_engine_that_fails_in_one_part_is_scored_again_from_there(workspace, whole, at):
    """Joined past the gap, it would be taken for one that has scored everything."""
    options = BenchOptions(costs=UNTIMED, **OPTIONS)
    folders = []
    for index in range(2):
        host = failing("onnxruntime-int8", at) if index == 1 else Host()
        folder = workspace.root / "p" / str(index)
        part = bench_shard(
            workspace, Shard(index, 2), folder, "demo", options, RecordingReporter(), host=host
        )
        folders.append(part.folder)
        assert bool(part.notes) == (index == 1)
    merged = workspace.merge(folders)
    assert "onnxruntime-int8 failed in part 1/2" in merged.notes[0]
    assert "out of order" in merged.notes[0]
    report = run(workspace, RecordingReporter()).to_dict()
    assert not report["failed"]
    assert compared(report)["candidates"] == compared(whole[1])["candidates"]


@pytest.mark.parametrize("change", ["flip", "cut", "remove", "contents"])
def test_an_altered_part_is_refused_and_repaired(workspace, whole, change):
    folders = parts(workspace, 2)
    path = sorted((folders[1] / "scores").glob("*.scores"))[0]
    if change == "contents":
        path = folders[1] / "contents.sha256"
    data = bytearray(path.read_bytes())
    if change == "remove":
        path.unlink()
    elif change == "cut":
        path.write_bytes(data[:-7])
    else:
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(LpxError, match=r"part 1/2 in .* is damaged") as caught:
        workspace.merge(folders)
    assert caught.value.code == "damaged"
    assert not (workspace.root / FOLDER).exists()
    assert not list(workspace.root.glob(".bench*"))
    workspace.shard("1/2").bench("demo", **OPTIONS)
    workspace.merge(folders)
    assert scores(workspace) == whole[0]


def reseal(folder, change):
    values = json.loads((folder / FILE).read_text())
    del values["checksum"]
    change(values)
    write_sealed(folder / FILE, values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["key"].update(model="0" * 64), "another model"),
        (lambda v: v["key"].update(faces="0" * 64), "another list of faces"),
        (lambda v: v["key"]["versions"].update(onnxruntime="0.1"), "onnxruntime 0.1, not"),
        (lambda v: v["key"]["engines"].update({"onnxruntime-int8": "0"}), "has another one"),
        (lambda v: v["key"]["engines"].update(other="0"), "has none of this name"),
        (lambda v: v["key"]["options"].update(limit=2), "limit must be >= 4"),
        (lambda v: v["key"]["options"].update(colour=2), "colour"),
        (lambda v: v["key"].pop("engines"), "no engines"),
        (lambda v: v["about"].pop("failures"), "which engines failed"),
        (lambda v: v["files"].pop(0), "it has no"),
        (lambda v: v["files"][0].update(name="../x"), "is not a file of the part"),
        (lambda v: v.update(index=1), "index is 1"),
        (lambda v: v.update(format="lpx-part/9"), "newer version"),
    ],
)
def test_a_part_of_something_else_is_refused(workspace, change, said):
    (folder,) = parts(workspace, 1)
    reseal(folder, change)
    with pytest.raises(LpxError) as caught:
        workspace.merge(folder)
    assert said in str(caught.value)
    assert not (workspace.root / FOLDER).exists()


def test_faces_of_another_shard_are_refused(workspace):
    """The scores of part 0 under the name of part 1 would count twice."""
    folders = parts(workspace, 2)
    shutil.rmtree(folders[1])
    shutil.copytree(folders[0], folders[1])
    reseal(folders[1], lambda values: values.update(index=1))
    with pytest.raises(LpxError, match="part 1/2"):
        workspace.merge(folders)


def test_engines_that_some_parts_did_not_score(workspace):
    one = workspace.shard("0/2").bench("demo", **OPTIONS)
    shutil.rmtree(workspace.engines / "onnxruntime-fp32")
    other = workspace.shard("1/2").bench("demo", **OPTIONS)
    with pytest.raises(LpxError, match="do not belong together") as caught:
        workspace.merge([one.folder, other.folder])
    assert "onnxruntime-fp32" in caught.value.why


def test_recorded_scores_stand_in_for_the_checkpoint(workspace, whole):
    run(workspace, RecordingReporter())
    workspace.reference.unlink()
    folders = parts(workspace, 2)
    assert "torch" not in read_part(folders[0]).key["engines"]
    merged = workspace.merge(folders)
    assert "--reference recorded" in merged.command
    kept = {name: data for name, data in whole[0].items() if not name.startswith("torch.")}
    kept.pop("of.json")
    found = scores(workspace)
    found.pop("of.json")
    assert found == kept


def test_unreadable_faces_are_noted_once(workspace, crops):
    bad = sorted(crops.rglob("*.png"))[3]
    bad.write_bytes(b"no picture")
    folders = []
    for index in range(2):
        folders.append(workspace.shard(f"{index}/2").bench(crops).folder)
    workspace.merge(folders)
    report = bench(workspace, str(crops), BenchOptions(costs=UNTIMED), RecordingReporter())
    assert [one.name for one in report.dataset.skipped] == [bad.relative_to(crops).as_posix()]


def test_a_finished_shard_whose_faces_changed_is_done_again(workspace, crops):
    """It would say that there is nothing to do, and every merge would refuse its part."""
    folders = [workspace.shard(f"{index}/2").bench(crops).folder for index in range(2)]
    first = sorted(crops.rglob("*.png"))[0]
    first.write_bytes(first.read_bytes() + b"\0")
    with pytest.raises(LpxError, match="saw other faces"):
        workspace.merge(folders)
    reporters = []
    for index in range(2):
        reporters.append(RecordingReporter())
        workspace.shard(f"{index}/2").bench(crops, reporter=reporters[index])
    # Only the shard of that face.
    again = [any("faces have changed" in text for text in one.said) for one in reporters]
    idle = [any("nothing to do" in text for text in one.said) for one in reporters]
    assert sorted(again) == [False, True]
    assert again == [not one for one in idle]
    assert workspace.merge(folders).parts == 2


def test_a_shard_refuses_what_a_bench_refuses(workspace, crops):
    with pytest.raises(InvalidArgumentError):
        workspace.shard("0/2").bench("demo", limit=2)
    shutil.rmtree(crops / "fake")
    with pytest.raises(LpxError, match="real faces only"):
        workspace.shard("0/2").bench(crops)
