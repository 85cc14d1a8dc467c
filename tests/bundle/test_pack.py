from __future__ import annotations

import csv
import json
import os
import random
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lpx
from lpx.artefacts.model import read_exported
from lpx.bench.parity.recording import Origin, Recording, Subject, read_recordings, record
from lpx.bench.performance.cost_plan import CostPlan
from lpx.bundle.face_members import face_members
from lpx.bundle.probe import read_probe
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.face_set import FaceSet, ImageFile
from lpx.data.face_sets.sets import open_set
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.engines.base import Prediction
from lpx.engines.load import KERNELS
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import InvalidArgumentError, LpxError
from lpx.reporter import Silent
from tests.support.bundles import read_members

FP32, INT8 = "onnxruntime-fp32", "onnxruntime-int8"


class Notes(Silent):
    """Keeps what is reported."""

    def __init__(self):
        self.notes, self.warnings, self.steps = [], [], []

    def say(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, label):
        return lambda done, total: self.steps.append((label, done, total))


def unpacked_set(sources, folder):
    """The face set that members of `faces/` are once they are files."""
    for source in sources:
        path = folder / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with source.open() as stream:
            path.write_bytes(stream.read())
    return open_set(str(folder / "faces"), "all")


def test_members_are_the_very_bytes_of_the_files(built, bundle, small_faces):
    members = dict(read_members(bundle))
    engines = [f"engines/{name}/{file}" for name in (FP32, INT8) for file in ("engine.onnx",)]
    for name in ("model.onnx", "model.json", "scales.json", *engines):
        assert members[name] == (built.root / name).read_bytes(), name
    for path in small_faces.rglob("*.png"):
        assert members[f"faces/{path.relative_to(small_faces)}"] == path.read_bytes()
    tops = {name.partition("/")[0] for name in members}
    assert tops == {
        *("FORMAT", "bundle.json", "engines", "faces", "probe"),
        *("model.json", "model.onnx", "scales.json"),
    }
    names = list(members)
    assert names[0] == "FORMAT"
    assert names[-1] == "bundle.json"
    assert names[1:-1] == sorted(names[1:-1])


def test_the_same_contents_give_the_same_bytes(bundle, workspace, small_faces, tmp_path):
    copy = shutil.copytree(small_faces, tmp_path / "crops")
    for path in [*Path("lpx-out").rglob("*"), *copy.rglob("*")]:
        path.chmod(0o755)
        os.utime(path, (1, 1))
    again = dict(read_members(workspace.pack("again.lpx", faces=copy).path))
    first = dict(read_members(bundle))
    # It has the set's name, which is that of its folder.
    del again["bundle.json"], first["bundle.json"]
    assert again == first
    whole = Path("again.lpx").read_bytes()
    workspace.pack("again.lpx", faces=copy)
    assert Path("again.lpx").read_bytes() == whole


def test_what_was_packed_is_reported(workspace, small_faces):
    notes = Notes()
    result = workspace.pack("out.lpx", faces=small_faces, limit=4, reporter=notes)
    manifest = result.manifest
    assert result.path == Path("out.lpx")
    assert result.size_bytes == Path("out.lpx").stat().st_size
    assert manifest.engines == (FP32, INT8)
    assert (manifest.faces.count, manifest.faces.total) == (4, 8)
    assert manifest.lpx == lpx.__version__
    assert any("4 of 8 faces" in note for note in notes.notes)
    count = len(manifest.members)
    assert notes.steps == [("packing out.lpx, files", n + 1, count) for n in range(count)]


def test_the_checkpoint_is_packed_where_asked_for(workspace, bundle):
    assert "reference.pt" not in dict(read_members(bundle))
    workspace.pack("out.lpx", checkpoint=True)
    assert dict(read_members("out.lpx"))["reference.pt"] == workspace.reference.read_bytes()
    workspace.reference.unlink()
    with pytest.raises(LpxError, match=r"reference\.pt does not exist") as caught:
        workspace.pack("out.lpx", checkpoint=True)
    assert caught.value.code == "not-found"


def test_a_workspace_with_a_model_only(workspace):
    shutil.rmtree(workspace.engines)
    workspace.scales.unlink()
    result = workspace.pack("out.lpx")
    assert result.manifest.engines == ()
    assert result.manifest.faces is None
    lpx.unpack("out.lpx", "board")
    assert not Path("board/faces").exists()


def test_without_a_model(tmp_path):
    with pytest.raises(LpxError, match="no exported model"):
        lpx.Workspace(tmp_path).pack(tmp_path / "out.lpx")
    assert not (tmp_path / "out.lpx").exists()


# Engines.


def test_engines_of_another_model_are_left_out(workspace):
    folder = workspace.engines / INT8
    write_manifest(folder, replace(read_manifest(folder), model_sha256="0" * 64))
    notes = Notes()
    result = workspace.pack("out.lpx", reporter=notes)
    assert result.manifest.engines == (FP32,)
    assert result.left_out == (INT8,)
    assert notes.warnings == [f"engines of another model are left out: {INT8}"]
    with pytest.raises(LpxError, match="from another model"):
        workspace.pack("out.lpx", engines=INT8)


@pytest.mark.parametrize(
    ("engines", "expected"), [(INT8, (INT8,)), ([INT8, FP32, INT8], (FP32, INT8)), ((), ())]
)
def test_engines_by_name(workspace, engines, expected):
    result = workspace.pack("out.lpx", engines=engines)
    assert result.manifest.engines == expected
    assert result.left_out == ()


def test_an_unknown_engine(workspace):
    with pytest.raises(LpxError, match="engine tensorrt-int8 does not exist") as caught:
        workspace.pack("out.lpx", engines="tensorrt-int8")
    assert caught.value.code == "not-found"
    assert FP32 in caught.value.why


@pytest.mark.parametrize("change", ["altered", "removed"])
def test_an_engine_that_is_not_its_manifests(workspace, change):
    path = workspace.engines / INT8 / "engine.onnx"
    if change == "altered":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path.unlink()
    with pytest.raises(LpxError, match=f"engines/{INT8}/engine.onnx"):
        workspace.pack("out.lpx")
    assert os.listdir(".") == ["lpx-out"]


def test_what_a_library_cached_stays_behind(workspace):
    folder = workspace.engines / INT8
    (folder / KERNELS).write_bytes(b"code for a GPU")
    (folder / "cache").mkdir()
    (folder / "cache" / "kernels.bin").write_bytes(b"more of it")
    workspace.pack("out.lpx")
    assert not [name for name, _ in read_members("out.lpx") if "cache" in name]


def test_the_graph_of_an_engine_is_packed(workspace):
    folder = workspace.engines / INT8
    (folder / "graph.onnx").write_bytes(b"a graph")
    workspace.pack("out.lpx")
    assert dict(read_members("out.lpx"))[f"engines/{INT8}/graph.onnx"] == b"a graph"


def test_damaged_scales_are_noticed_here(workspace):
    workspace.scales.write_text("{}")
    with pytest.raises(LpxError, match=r"scales\.json"):
        workspace.pack("out.lpx")


# Recorded reference.


@pytest.mark.parametrize("faces", ["demo", "crops"])
def test_recorded_scores_travel_with_the_faces(workspace, crops, faces):
    """The demo's faces are made when they are read, and packed as PNG: another content."""
    few = {"limit": 8} if faces == "demo" else {}
    quick = {"costs": CostPlan(latency_seconds=0), "allow_overlap": True, "stages": (), **few}
    live = workspace.bench(faces, **quick)
    workspace.pack("out.lpx", faces=faces, **few)
    lpx.unpack("out.lpx", "board")
    board = lpx.Workspace("board")
    assert not board.reference.exists()
    packed = board.bench("board/faces", **quick | {"limit": None})
    assert packed.reference.recorded is not None
    assert packed.reference.auc == live.reference.auc
    assert packed.candidates[0].parity == live.candidates[0].parity


def test_recorded_scores_of_another_model_stay_behind(workspace, recorded):
    other = replace(recorded.subject, model_sha256="0" * 64)
    record(workspace.root / "reference", replace(recorded, subject=other))
    record(workspace.root / "reference", recorded)
    workspace.pack("out.lpx")
    lpx.unpack("out.lpx", "board")
    assert [one.subject for one in read_recordings(Path("board/reference"))] == [recorded.subject]


def test_damaged_recorded_scores_are_not_packed(workspace, recorded):
    record(workspace.root / "reference", recorded)
    (file,) = workspace.root.glob("reference/*.scores")
    file.write_bytes(b"no scores")
    with pytest.raises(LpxError) as caught:
        workspace.pack("out.lpx")
    assert caught.value.code == "damaged"
    assert not Path("out.lpx").exists()


def test_faces_without_recorded_scores_are_counted(workspace, crops):
    notes = Notes()
    workspace.pack("out.lpx", faces="crops", reporter=notes)
    assert any("16 of 16 faces have no recorded score" in text for text in notes.warnings)


@pytest.fixture
def recorded(workspace):
    model = read_exported(workspace)
    subject = Subject(model.sha256, model.card.weights_sha256, model.card.input_size)
    origin = Origin("2.13.0", "cpu", "a machine", "2026-01-01T00:00:00+00:00", "0.1.0")
    prediction = Prediction(np.full(1, 0.5, np.float32), np.full((1, 2, 2), 0.5, np.float32))
    return Recording(subject, origin, ("square",), np.full((1, 32), 7, np.uint8), prediction)


# The file.


def test_a_bundle_is_replaced_and_nothing_else_is(workspace):
    workspace.pack("out.lpx", checkpoint=True)
    size = Path("out.lpx").stat().st_size
    workspace.pack("out.lpx")
    assert Path("out.lpx").stat().st_size < size
    Path("ckpt.pt").write_bytes(b"weights")
    Path("folder").mkdir()
    for name in ("ckpt.pt", "folder", "lpx-out/model.onnx"):
        with pytest.raises(LpxError, match="exists, and is") as caught:
            workspace.pack(name)
        assert caught.value.code == "unwritable"
    assert Path("ckpt.pt").read_bytes() == b"weights"


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "4"])
def test_a_limit_that_is_none(workspace, limit):
    with pytest.raises(InvalidArgumentError, match="limit must be"):
        workspace.pack("out.lpx", limit=limit)


def test_a_folder_that_cannot_be_written(workspace):
    Path("file").write_bytes(b"")
    with pytest.raises(LpxError, match="cannot be written"):
        workspace.pack("file/out.lpx")


# Probe faces.


def test_probe_faces_have_the_float32_models_scores(built, bundle, small_faces, tmp_path):
    lpx.unpack(bundle, tmp_path / "board")
    probe = read_probe(tmp_path / "board/probe")
    size = json.loads((built.root / "model.json").read_text())["card"]["input_size"]
    assert probe.faces.shape == (8, size, size, 3)
    engine = OnnxRuntimeEngine((tmp_path / "board/model.onnx").read_bytes(), size)
    assert np.abs(engine.infer(probe.faces).score - probe.scores).max() < 1e-5
    assert 1e-4 <= probe.tolerance < 0.1
    # Of the packed set: its faces, resized.
    wanted = next(open_set(str(small_faces), "all").stream(8, size, [])).pixels
    assert np.array_equal(probe.faces, wanted)


def test_probe_faces_are_the_demos_where_no_faces_are_packed(workspace):
    workspace.pack("out.lpx")
    lpx.unpack("out.lpx", "board")
    assert len(read_probe(Path("board/probe")).faces) == 16


@pytest.mark.parametrize("change", ["pixels", "score", "missing"])
def test_altered_probe_faces_are_refused(bundle, tmp_path, change):
    folder = lpx.unpack(bundle, tmp_path / "board").folder / "probe"
    if change == "pixels":
        (folder / "00.png").write_bytes((folder / "01.png").read_bytes())
    elif change == "missing":
        (folder / "00.png").unlink()
    else:
        text = (folder / "probe.json").read_text()
        (folder / "probe.json").write_text(text.replace('"score": 0.', '"score": 0.9', 1))
    with pytest.raises(LpxError) as caught:
        read_probe(folder)
    assert caught.value.code == "damaged"


# Face sets.


def test_the_unpacked_folder_is_the_same_face_set(bundle, small_faces, tmp_path):
    folder = lpx.unpack(bundle, tmp_path / "board").faces
    here, there = open_set(str(small_faces), "all"), open_set(str(folder), "all")
    assert there.digest() == here.digest()
    assert there.note == ""


def test_demo_faces_come_back_as_png(tmp_path):
    demo = demo_set("test").first(6)
    members = face_members(demo)
    faces = unpacked_set(members.sources, tmp_path)
    for one, other in zip(demo.faces, faces.faces, strict=True):
        assert np.array_equal(one.source.read(), other.source.read())
        assert (one.name, one.label, one.method) == (other.name, other.label, other.method)
        assert (one.video, one.identities) == (other.video, other.identities)
    assert faces.splits() == ("test",)


HARD = ["", "null", "nan", "a,b", 'a "b"', "a;b", " blank ", "two\nlines", "video:3", "identity:1"]
HARD += ["real", "original", "Real-ESRGAN", "youtube", "\u00fc", "a\tb", "=1+1", "#x", "x" * 2000]


def test_groups_survive_whatever_their_names(tmp_path):
    """Videos, people and methods of any name: same groups, same labels."""
    numbers = random.Random(0)
    folder = tmp_path / "crops"
    folder.mkdir()
    rows = []
    for number in range(200):
        (folder / f"{number}.png").write_bytes(b"%d" % number)
        label = numbers.choice([0, 1, None])
        method = {0: "real", 1: numbers.choice(HARD[1:]), None: "unknown"}[label]
        people = tuple(numbers.sample(HARD[1:], numbers.choice([0, 1, 2])))
        rows.append(FaceRow(f"{number}.png", label, method, numbers.choice(HARD[1:]), people))
    faces = FaceSet("hard", "all", "unknown", make_table(folder, rows))
    there = unpacked_set(face_members(faces).sources, tmp_path / "board")
    assert [f.label for f in there.faces] == [row.label for row in rows]
    for column in ("method", "video"):
        # A fake whose method is called "real" is not a real face.
        before = [(row.label, getattr(row, column)) for row in rows]
        after = [(face.label, getattr(face, column)) for face in there.faces]
        assert len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after))
    pairs = {
        (one, other)
        for row, face in zip(rows, there.faces, strict=True)
        for one, other in zip(row.identities, face.identities, strict=True)
    }
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def test_files_of_any_name_are_packed(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    names = [
        "a.png",
        "A.png",
        "con.png",
        "#1.png",
        ".hidden.png",
        "x y.png",
        "\u00fc.png",
        "a:b.png",
    ]
    names += ["-x.png", "numbered", "faces.csv", "FACES.CSV", os.fsdecode(b"\xff.png"), "q\n.png"]
    for name in names:
        (folder / name).write_bytes(os.fsencode(name))
    table = make_table(folder, [FaceRow(name, None, "unknown", name) for name in names])
    members = face_members(FaceSet("names", "all", "unknown", table))
    faces = unpacked_set(members.sources, tmp_path / "board")
    contents = [face.source.path.read_bytes() for face in faces.faces]
    assert contents == [os.fsencode(name) for name in names]
    assert len({face.name.casefold() for face in faces.faces}) == len(names)
    assert faces.faces[0].name == "a.png"


def test_faces_that_cannot_be_read_are_left_out_and_named(workspace, crops):
    (crops / "real/0.png").unlink()
    (crops / "real/0.png").symlink_to("nowhere")
    os.mkfifo(crops / "fake/pipe.png")
    (crops / "fake/1.png").write_bytes(b"")
    rows = [*csv_rows(crops), ("missing.png", "1")]
    (crops / "faces.csv").write_text("file,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    notes = Notes()
    result = workspace.pack("out.lpx", faces=crops, reporter=notes)
    assert set(result.unreadable) == {"fake/pipe.png", "fake/1.png"}
    assert result.manifest.faces.count == 14
    assert any("2 of 16 faces cannot be read" in warning for warning in notes.warnings)
    assert len(open_set(str(lpx.unpack("out.lpx", "board").faces), "all").faces) == 14


def csv_rows(folder):
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder).as_posix()
        yield name, str(int(name.startswith("fake")))


def test_no_face_that_can_be_read(workspace, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(LpxError, match="none of 1 face"):
        workspace.pack("out.lpx", faces=folder)


def test_a_face_that_vanishes_meanwhile(workspace, crops):
    class Removing(Notes):
        def progress(self, label):
            (crops / "real/7.png").unlink(missing_ok=True)
            return super().progress(label)

    with pytest.raises(LpxError, match=r"faces/real/7\.png cannot be packed"):
        workspace.pack("out.lpx", faces=crops, reporter=Removing())
    assert not Path("out.lpx").exists()


def test_memory_does_not_grow_with_the_faces(workspace, crops, tmp_path):
    """100 MiB of faces in less than a tenth of that."""
    for number in range(100):
        with (crops / "real" / f"large{number}.png").open("wb") as stream:
            stream.truncate(1 << 20)
    workspace.pack("small.lpx", faces=crops, limit=16)
    tracemalloc.start()
    try:
        workspace.pack("large.lpx", faces=crops)
        lpx.unpack("large.lpx", "board")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Path("large.lpx").stat().st_size > 100 << 20
    assert peak < 24 << 20


def test_a_face_in_a_file_stays_a_file(small_faces):
    sources = face_members(open_set(str(small_faces), "all")).sources
    assert all(isinstance(f.source, ImageFile) for f in open_set(str(small_faces), "all").faces)
    assert sum(source.name.endswith(".csv") for source in sources) == 1
    rows = list(csv.DictReader(sources[-1].open().read().decode().splitlines()))
    assert rows[0]["file"] in {"real/0.png", "fake/1.png"}
