"""Other content under the same name, size and time is other content, in every step."""

from __future__ import annotations

import os
import shutil
import time

import cv2
import numpy as np
import pytest

from lpx.artefacts.model import read_exported
from lpx.bench.parity import score_store
from lpx.calibration.scales import read_scales
from lpx.data.face_sets.face_set import Skipped
from lpx.data.face_sets.sets import open_set
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.predict.journal import ScoreJournal
from lpx.predict.results import FileScore
from lpx.workspace import read_sealed, write_sealed
from tests.support.costs import UNTIMED
from tests.support.limits import largest_file
from tests.support.reporting import ActingReporter, RecordingReporter, StoppingReporter

PICTURES = (".bmp", ".tiff", ".png", ".jpg", ".webp")


def encoded(number, suffix):
    rng = np.random.default_rng(number)
    _, data = cv2.imencode(suffix, rng.integers(0, 256, (48, 48, 3), np.uint8))
    return data.tobytes()


def swap(path, data):
    """Other content in a file, of the same size and with the time of the last change set back."""
    before = path.stat()
    size = max(before.st_size, len(data))
    if before.st_size != size:
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        before = path.stat()
    time.sleep(0.02)
    path.write_bytes(data.ljust(size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.fixture
def folder(tmp_path):
    """A function that makes a set of faces in files of one kind."""

    def make(suffix, name="faces", first=0):
        for number in range(8):
            path = tmp_path / name / ("real", "fake")[number % 2] / f"{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Padded, so that another picture can have the same size.
            path.write_bytes(encoded(first + number, suffix).ljust(12_000, b"\0"))
        return tmp_path / name

    return make


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_of_the_same_size_makes_another_set(folder, suffix):
    root = folder(suffix)
    before = open_set(str(root), "all").digest()
    assert open_set(str(root), "all").digest() == before
    swap(root / "real" / f"0{suffix}", encoded(99, suffix))
    assert open_set(str(root), "all").digest() != before


def test_a_link_to_another_picture_and_swapped_labels_make_another_set(folder):
    root = folder(".png")
    victim = root / "real" / "0.png"
    victim.rename(root.parent / "0.png")
    victim.symlink_to(root.parent / "0.png")
    (root / "faces.csv").write_text(
        "file,label\n" + "".join(f"{('real', 'fake')[n % 2]}/{n}.png,{n % 2}\n" for n in range(8))
    )
    digests = {open_set(str(root), "all").digest()}
    swap(root.parent / "0.png", encoded(99, ".png"))
    digests.add(open_set(str(root), "all").digest())
    victim.unlink()
    victim.symlink_to(root / "fake" / "1.png")
    digests.add(open_set(str(root), "all").digest())
    table = (root / "faces.csv").read_text()
    table = table.replace("2.png,0", "2.png,X").replace("3.png,1", "3.png,0").replace("X", "1")
    (root / "faces.csv").write_text(table)
    digests.add(open_set(str(root), "all").digest())
    assert len(digests) == 4


def build(workspace, faces):
    told = RecordingReporter()
    workspace.build("int8", target="onnxruntime", faces=str(faces), reporter=told)
    return told.said


@pytest.mark.parametrize("made_by", ["build", "calibrate"])
def test_build_does_not_keep_the_ranges_of_other_pictures(workspace, folder, made_by):
    root = folder(".bmp")
    if made_by == "build":
        build(workspace, root)
    else:
        workspace.calibrate(str(root), limit=4)
    assert any(text.startswith("reusing ") for text in build(workspace, root))
    before = read_scales(workspace.scales)
    swap(root / "real" / "0.bmp", encoded(99, ".bmp"))
    said = build(workspace, root)
    assert not any(text.startswith("reusing ") for text in said)
    assert any("are not those of then" in text for text in said)
    assert read_scales(workspace.scales).faces.digest != before.faces.digest


@pytest.fixture
def many(folder):
    """24 faces, which are two batches."""
    root = folder(".bmp")
    for part in (1, 2):
        for path in folder(".bmp", f"more{part}", 100 * part).rglob("*.bmp"):
            path.rename(root / path.parent.name / f"{path.stem}-{part}.bmp")
    return root


def stop_after_a_batch(workspace, faces):
    with pytest.raises(KeyboardInterrupt):
        workspace.bench(str(faces), costs=UNTIMED, reporter=StoppingReporter("scoring", 1))
    assert saved_scores(workspace)


def saved_scores(workspace):
    """Sizes of the files of scores that a stopped bench left."""
    files = (workspace.root / score_store.FOLDER).glob("*.scores")
    return [path.stat().st_size for path in files]


def test_a_full_disk_keeps_the_scores(workspace, many):
    whole = workspace.bench(str(many), costs=UNTIMED).reference
    stop_after_a_batch(workspace, many)
    # Room for a part of the second batch.
    room = max(saved_scores(workspace)) + 100
    with largest_file(room), pytest.raises(LpxError, match=r"\.scores cannot be written"):
        workspace.bench(str(many), costs=UNTIMED)
    assert room in saved_scores(workspace)
    told = RecordingReporter()
    again = workspace.bench(str(many), costs=UNTIMED, reporter=told)
    assert any(text.startswith("resuming interrupted bench") for text in told.said)
    assert again.reference.auc == whole.auc


def test_a_resumed_bench_does_not_mix_old_and_new_faces(workspace, many):
    stop_after_a_batch(workspace, many)
    for path in many.rglob("*.bmp"):
        swap(path, encoded(hash(path.name) % 1000 + 5000, ".bmp"))
    told = RecordingReporter()
    again = workspace.bench(str(many), costs=UNTIMED, reporter=told)
    assert any("dropped: faces have changed since" in text for text in told.said)
    assert not any(text.startswith("resuming") for text in told.said)
    fresh = workspace.bench(str(many), costs=UNTIMED)
    assert again.reference.auc == fresh.reference.auc


def test_faces_that_change_while_they_are_scored(workspace, many):
    face = many / "real" / "0.bmp"
    reporter = ActingReporter("scoring", lambda: swap(face, encoded(99, ".bmp")), 1)
    with pytest.raises(LpxError, match="changed during the bench"):
        workspace.bench(str(many), costs=UNTIMED, reporter=reporter)
    assert reporter.acted


def test_an_engine_is_not_measured_on_its_faces_under_other_names(workspace, folder):
    build(workspace, folder(".bmp"))
    other = folder(".bmp", "other", 100)
    # One of the faces that it was calibrated on, renamed, relabelled and in another folder.
    shutil.copy(folder(".bmp") / "real" / "4.bmp", other / "fake" / "new.bmp")
    with pytest.raises(LpxError, match="1 picture that it is measured on"):
        workspace.bench(str(other), costs=UNTIMED)
    (other / "fake" / "new.bmp").unlink()
    workspace.bench(str(other), costs=UNTIMED)


def note(journal, path, score=0.5):
    assert journal.find(path.name, path) is None
    journal.add(FileScore(path.name, "image", score, False, 1, ()), path)


@pytest.mark.parametrize("suffix", [*PICTURES, ".mp4"])
def test_a_file_of_predict_that_was_replaced_is_scored_again(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old content")
    note(ScoreJournal(tmp_path / "results.jsonl", {"engine": "x"}), path)
    again = ScoreJournal(tmp_path / "results.jsonl", {"engine": "x"})
    assert again.find(path.name, path).score == 0.5
    assert again.changed == 0
    swap(path, b"new content")
    again = ScoreJournal(tmp_path / "results.jsonl", {"engine": "x"})
    assert again.find(path.name, path) is None
    assert again.changed == 1


def test_a_file_that_changes_while_it_is_scored_is_not_noted(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old content")
    journal = ScoreJournal(tmp_path / "results.jsonl", {})
    assert journal.find("a.png", path) is None
    swap(path, b"new content")
    journal.add(FileScore("a.png", "image", 0.5, False, 1, ()), path)
    assert not (tmp_path / "results.jsonl").exists()


def test_the_same_name_in_another_folder_is_another_file(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(name.encode())
    note(ScoreJournal(tmp_path / "results.jsonl", {}), tmp_path / "a" / "0.png")
    again = ScoreJournal(tmp_path / "results.jsonl", {})
    assert again.find("0.png", tmp_path / "b" / "0.png") is None


def three(tmp_path):
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"%d" % number)
        note(ScoreJournal(tmp_path / "results.jsonl", {}), path, score=0.125)
    return tmp_path / "results.jsonl"


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"0.125", b"0.925"),
        lambda line: line.replace(b'"image"', b'"crop"'),
        lambda line: b"\0" * (len(line) - 1) + b"\n",
        lambda line: line[:40] + b"\n",
        lambda line: b"{}\n",
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_line_of_the_journal_is_said_and_done_again(tmp_path, damage, number):
    path = three(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = damage(lines[number])
    path.write_bytes(b"".join(lines))
    reporter = RecordingReporter()
    journal = ScoreJournal(path, {}, reporter)
    (warning,) = reporter.said
    assert f"line {number + 1}: " in warning
    files = [tmp_path / f"{n}.png" for n in range(3)]
    found = [journal.find(file.name, file) for file in files]
    assert [one is None for one in found] == [n == number for n in range(3)]
    journal.add(FileScore(files[number].name, "image", 0.25, False, 1, ()), files[number])
    reporter = RecordingReporter()
    whole = ScoreJournal(path, {}, reporter)
    assert all(whole.find(file.name, file) for file in files)
    assert reporter.said == []


def test_an_unfinished_last_line_of_the_journal_is_no_damage(tmp_path):
    path = three(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    reporter = RecordingReporter()
    journal = ScoreJournal(path, {}, reporter)
    assert journal.find("1.png", tmp_path / "1.png")
    note(journal, tmp_path / "2.png")
    again = ScoreJournal(path, {}, reporter)
    assert all(again.find(f"{n}.png", tmp_path / f"{n}.png") for n in range(3))
    assert reporter.said == []


def test_predict_says_what_changed(workspace, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    # Noise, in which no face is found.
    (photos / "a.png").write_bytes(encoded(1, ".png"))
    (photos / "b.png").write_bytes(encoded(2, ".png"))
    options = {"engine": "onnxruntime-fp32", "overlay": False, "crop": "square-1.3"}
    workspace.predict(photos, **options)
    swap(photos / "a.png", encoded(3, ".png"))
    told = RecordingReporter()
    done = workspace.predict(photos, **options, reporter=told)
    assert done.resumed == 1
    assert any(text.startswith("1 of 2 files changed after an earlier run") for text in told.said)


def test_a_digit_of_a_threshold_is_found(workspace):
    path = workspace.model.with_suffix(".json")
    text = path.read_text()
    at = text.index('"threshold": 0.') + len('"threshold": 0.')
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])
    with pytest.raises(LpxError, match="is not as lpx wrote it"):
        read_exported(workspace)


def test_a_digit_of_an_engines_manifest_is_found(workspace):
    path = workspace.engines / "onnxruntime-int8" / "manifest.json"
    values = read_sealed(path, "")
    assert values["calibration"]["ranges_sha256"]
    write_sealed(path, values)
    path.write_text(path.read_text().replace('"face_count": 16', '"face_count": 17'))
    with pytest.raises(LpxError, match="is not as lpx wrote it"):
        workspace.bench("demo", limit=8, costs=UNTIMED)


def store(folder, faces="a", say=None):
    return score_store.ScoreStore(folder, {"faces": faces, "size": 8}, {"torch": "0" * 64}, say)


def score(opened, first=0):
    rows = np.arange(first, first + 2)
    opened.add("torch", rows, Prediction(np.zeros(2, np.float32), np.zeros((2, 1, 1), np.float32)))


def test_scores_of_another_bench_that_cannot_be_removed_are_not_believed(tmp_path):
    score(store(tmp_path / "elsewhere"))
    (tmp_path / "bench.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LpxError, match="cannot be written"):
        store(tmp_path / "bench.partial", faces="b")
    assert len(store(tmp_path / "elsewhere").read("torch")) == 1


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("of.json", lambda data: data.replace(b'"a"', b'"b"'), "checksum does not match"),
        ("of.json", lambda data: data[:10], "cannot be read"),
        ("skipped.jsonl", lambda data: data.replace(b"broken", b"brogen"), "skipped.jsonl: its"),
        ("skipped.jsonl", lambda data: b"\n" + data, "skipped.jsonl: "),
    ],
)
def test_damage_to_what_a_stopped_bench_left_is_said(tmp_path, name, damage, said):
    opened = store(tmp_path / "p")
    opened.skip([Skipped("x.png", "broken"), Skipped("y.png", "broken")])
    score(opened)
    assert len(store(tmp_path / "p").read("torch")) == 1
    path = tmp_path / "p" / name
    path.write_bytes(damage(path.read_bytes()))
    told = []
    again = store(tmp_path / "p", say=told.append)
    assert said in told[0]
    assert (again.read("torch"), again.skipped()) == ([], [])


def test_what_was_being_written_is_no_damage(tmp_path):
    opened = store(tmp_path / "p")
    opened.skip([Skipped("x.png", "broken"), Skipped("y.png", "broken")])
    path = tmp_path / "p" / "skipped.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    told = []
    again = store(tmp_path / "p", say=told.append)
    assert [one.name for one in again.skipped()] == ["x.png"]
    again.skip([Skipped("y.png", "broken")])
    assert [one.name for one in store(tmp_path / "p", say=told.append).skipped()] == [
        "x.png",
        "y.png",
    ]
    assert told == []


def test_a_damaged_batch_is_said(tmp_path):
    opened = store(tmp_path / "p")
    for first in (0, 2, 4):
        score(opened, first)
    (path,) = (tmp_path / "p").glob("*.scores")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    told = []
    again = store(tmp_path / "p", say=told.append)
    assert len(again.read("torch")) == 1
    assert "are damaged; their faces are scored" in told[0]
    score(again, 2)
    assert len(store(tmp_path / "p", say=told.append).read("torch")) == 2
    assert len(told) == 1
