"""Long steps of a workspace on a real cluster: the same bytes as on one machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lpx import RayOptions, Workspace
from lpx.api.calibrate import CalibrateOptions, open_inputs
from lpx.api.ranges import PARTIAL
from lpx.bench.parity.score_store import FOLDER
from lpx.calibration.observe import observe
from lpx.cluster.files import check_same, file_states
from lpx.data.datasets import open_videos
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.seen import check_seen
from lpx.data.face_sets.sets import open_set
from lpx.data.prepare import on_cluster
from lpx.data.prepare.cutting import Settings
from lpx.data.prepare.journal import FILE as JOURNAL
from lpx.data.prepare.workers import CuttingProcess
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from tests.cluster.conftest import Notes
from tests.conftest import environment
from tests.data.trees import ffpp_tree
from tests.support.costs import UNTIMED

SET = "ffpp-c23"
VIDEOS = {"methods": ("Deepfakes",), "frames": 3, "crop": "square-1.3"}
STAGES = ("onnx", "pixels:deepstream")


class Stopping(Notes):
    """A reporter that interrupts a step once its progress has reached a number."""

    def __init__(self, label, after):
        super().__init__()
        self.label, self.after = label, after

    def progress(self, label):
        def watch(done, total):
            if label.startswith(self.label) and self.after <= done < total:
                raise KeyboardInterrupt

        return watch


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(Path(root).rglob("*"))
        # The journal has the videos in the order in which they were finished.
        if path.is_file() and path.name not in (JOURNAL, ".lock")
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return ffpp_tree(tmp_path_factory.mktemp("videos") / "ffpp", masks=True)


@pytest.fixture(scope="module")
def exported(exported_demo, tmp_path_factory):
    root = tmp_path_factory.mktemp("exported") / "work"
    shutil.copytree(exported_demo.root, root)
    made = Workspace(root)
    made.calibrate(limit=16)
    made.build("int8")
    return root


@pytest.fixture
def work(exported, tmp_path, monkeypatch):
    """Returns a workspace of its own, here or on the cluster."""
    monkeypatch.chdir(tmp_path)

    def open_workspace(name, ray=None, **options):
        if not Path(name).exists():
            shutil.copytree(exported, name)
        return Workspace(name, ray=ray, **options)

    return open_workspace


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Faces in files: 160 of the demo's."""
    root = tmp_path_factory.mktemp("crops") / "set"
    for face in demo_set("test").first(160).faces:
        path = root / ("fake" if face.label else "real") / f"{face.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(face.source.read()))
    return root


@pytest.fixture
def ray(nodes):
    return RayOptions(nodes.address)


@pytest.fixture(scope="module")
def prepared(exported, videos, tmp_path_factory):
    """What one machine prepares."""
    store = tmp_path_factory.mktemp("prepared")
    work = Workspace(exported, data_root=videos, face_store=store)
    return contents(store) if work.prepare_faces(SET, processes=1, **VIDEOS).faces else None


def test_prepared_faces(videos, work, ray, prepared):
    there = work("a", ray, data_root=videos, face_store="there")
    assert there.prepare_faces(SET, **VIDEOS).done_now == 8
    assert contents("there") == prepared
    # Nothing is left to do: not even a cluster is needed.
    gone = work("a", RayOptions("127.0.0.1:9"), data_root=videos, face_store="there")
    assert gone.prepare_faces(SET, **VIDEOS).done_now == 0


def test_preparing_goes_on_elsewhere(videos, work, ray, prepared):
    places = {"data_root": videos, "face_store": "store"}
    here = work("a", **places)
    with pytest.raises(KeyboardInterrupt):
        here.prepare_faces(SET, processes=1, reporter=Stopping("preparing", 3), **VIDEOS)
    there = work("a", ray, **places)
    with pytest.raises(KeyboardInterrupt):
        there.prepare_faces(SET, reporter=Stopping("preparing", 5), **VIDEOS)
    assert here.prepare_faces(SET, processes=1, **VIDEOS).done_now == 3
    assert contents("store") == prepared


def test_a_decoder_that_crashes_on_a_node_costs_its_video_alone(videos):
    settings = Settings(Path("unused"), 3, "square-1.3", "blazeface")
    cutter = on_cluster.NodeCutter(settings, make_process=CrashingProcess)
    chosen = open_videos(SET, root=videos, methods=("Deepfakes",)).videos
    units = on_cluster.Units(chosen)
    found = [cutter(units[number]) for number in range(3)]
    assert [bool(one.files) for one in found] == [True, False, True]
    assert "signal 11" in found[1].cut.record.skipped[0][1]


class CrashingProcess(CuttingProcess):
    """Its process ends at the second video as at a damaged file."""

    given = 0

    def give(self, video):
        super().give(video)
        type(self).given += 1
        if self.given == 2:
            os.kill(self.process.pid, signal.SIGSEGV)


def test_a_video_that_a_node_does_not_see(videos, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"1234")
    states = file_states([path, tmp_path])
    check_same(states)
    path.write_bytes(b"12345")
    with pytest.raises(LpxError, match="does not see") as caught:
        check_same(states)
    assert str(path) in caught.value.what
    assert caught.value.why == "it is a file of 5 bytes there, and a file of 4 bytes here"
    path.unlink()
    with pytest.raises(LpxError) as caught:
        check_same(states)
    assert caught.value.why.startswith("it is missing there")


@pytest.fixture(scope="module")
def calibrated(exported, crops, tmp_path_factory):
    """What one machine calibrates."""
    root = tmp_path_factory.mktemp("calibrated") / "work"
    shutil.copytree(exported, root)
    Workspace(root).calibrate(str(crops), limit=110)
    return contents(root)


def test_a_calibration_begun_there_ends_here(work, ray, crops, calibrated):
    with pytest.raises(KeyboardInterrupt):
        work("a", ray).calibrate(str(crops), limit=110, reporter=Stopping("calibrating", 64))
    assert (Path("a") / PARTIAL).is_file()
    reporter = Notes()
    work("a").calibrate(str(crops), limit=110, reporter=reporter)
    assert contents("a") == calibrated


def test_a_calibration_begun_here_ends_there(work, ray, crops, calibrated, exported):
    faces = open_set(str(crops), "train")
    inputs = open_inputs(work("a"), str(crops), CalibrateOptions(limit=110), Notes())
    split = inputs.split(CalibrateOptions(limit=110), Notes())
    assert len(faces.faces) > len(split.calibration.faces)
    with pytest.raises(KeyboardInterrupt):
        # As in a calibration of thousands, whose progress is saved on the way.
        observe(
            inputs.observed,
            split.calibration,
            inputs.card.input_size,
            progress=Stopping("", 40).progress(""),
            resume=Path("a") / PARTIAL,
            shard=32,
        )
    assert (Path("a") / PARTIAL).is_file()
    work("a", ray).calibrate(str(crops), limit=110)
    assert contents("a") == calibrated


@pytest.fixture(scope="module")
def benched(exported, crops, tmp_path_factory):
    """What one machine reports."""
    root = tmp_path_factory.mktemp("benched") / "work"
    shutil.copytree(exported, root)
    return settled(Workspace(root).bench(str(crops), costs=UNTIMED, stages=STAGES))


def settled(report):
    """A report without what differs from run to run."""
    values = report.to_dict()
    for name in ("created", "environment", "memory", "warnings"):
        values.pop(name, None)
    return json.loads(json.dumps(values))


@pytest.mark.parametrize("first", ["here", pytest.param("there", marks=pytest.mark.ray)])
def test_a_bench_goes_on_elsewhere(work, ray, crops, benched, first):
    begun, finished = (None, ray) if first == "here" else (ray, None)
    with pytest.raises(KeyboardInterrupt):
        work("a", begun).bench(
            str(crops), costs=UNTIMED, stages=STAGES, reporter=Stopping("scoring", 48)
        )
    assert (Path("a") / FOLDER).is_dir()
    report = work("a", finished).bench(str(crops), costs=UNTIMED, stages=STAGES)
    assert "scores were computed in" in " ".join(report.warnings)
    assert settled(report) == benched


def test_a_face_that_a_node_does_not_see(crops, tmp_path):
    shutil.copytree(crops, tmp_path / "set")
    faces = open_set(str(tmp_path / "set"), "test")
    faces.digest()
    check_seen(faces, range(0, 20))
    path = faces.faces[7].source.path
    path.write_bytes(b"other")
    check_seen(faces, range(8, 20))
    with pytest.raises(LpxError, match="does not see") as caught:
        check_seen(faces, range(0, 20))
    assert str(path) in caught.value.what
    assert caught.value.why == "it has another content there"
    path.unlink()
    with pytest.raises(LpxError, match="does not see") as caught:
        check_seen(faces, range(0, 20))
    assert caught.value.why == "it cannot be read there"


KILLED = """
import os, signal, sys
from lpx import RayOptions, Workspace
class Killing:
    def say(self, text): pass
    warn = say
    def progress(self, label):
        def watch(done, total):
            if label.startswith("preparing") and 3 <= done < total:
                os.kill(os.getpid(), signal.SIGKILL)
        return watch
work = Workspace("a", data_root=sys.argv[2], face_store="store", ray=RayOptions(sys.argv[1]))
work.prepare_faces("ffpp-c23", methods=("Deepfakes",), frames=3, crop="square-1.3",
                   reporter=Killing())
"""


def test_a_driver_that_was_killed_goes_on(videos, work, ray, nodes, prepared):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, nodes.address, str(videos)],
        env=environment(),
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    done = work("a", ray, data_root=videos, face_store="store").prepare_faces(SET, **VIDEOS)
    assert 0 < done.done_now <= done.videos - 3
    assert contents("store") == prepared
