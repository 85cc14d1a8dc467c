"""A folder as people have them: what can be read is used, the rest is counted and named."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

NOT_AN_IMAGE = "not an image that OpenCV can decode"
UNREADABLE = {
    "fake/cut short.png": "it is truncated: its end is missing",
    "fake/empty.png": "file is empty",
    "fake/gone.png": "No such file or directory",
    "fake/text.jpg": NOT_AN_IMAGE,
}
# The same picture, stored in ways that lose nothing of it.
SAME = ("alpha.png", "sixteen.png", "plain.tif", "with space ü.png")


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF orientation put in."""
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


@pytest.fixture
def mess(crops):
    """`crops`, with a real face in every form and fakes that cannot be read."""
    real, fake = crops / "real", crops / "fake"
    face = cv2.imread(str(real / "0.png"))
    cv2.imwrite(str(real / "alpha.png"), np.dstack([face, face[..., 0]]))
    cv2.imwrite(str(real / "sixteen.png"), face.astype(np.uint16) * 257)
    cv2.imwrite(str(real / "plain.tif"), face)
    cv2.imwrite(str(real / "with space ü.png"), face)
    cv2.imwrite(str(real / "grey.PNG"), cv2.cvtColor(face, cv2.COLOR_BGR2GRAY))
    turned = cv2.imencode(".jpg", np.rot90(face), [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    (real / "turned.jpg").write_bytes(with_orientation(bytes(turned), 6))
    # A name in Latin-1, as archives of other systems leave them.
    Path(os.fsdecode(bytes(real) + b"/latin-\xfc.png")).write_bytes((real / "1.png").read_bytes())
    (fake / "cut short.png").write_bytes((fake / "0.png").read_bytes()[:2000])
    (fake / "empty.png").touch()
    (fake / "text.jpg").write_text("hello")
    (fake / "gone.png").symlink_to("nowhere")
    (fake / "a folder.png").mkdir()
    (fake / ".hidden.png").write_text("no face")
    (fake / "notes.txt").write_text("no face")
    return crops


def test_predict_scores_what_it_can_read_and_names_the_rest(lpx, workspace, mess):
    ran = lpx("predict", "--crops", "crops")
    assert ran.code == 0, ran.err
    table = Path("lpx-out/predictions/scores.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(table.splitlines()) if row["score"]]
    scores = {row["file"]: float(row["score"]) for row in rows}
    assert len(scores) == 23
    assert all(Path(row["picture"]).stat().st_size for row in rows)
    for name in SAME:
        assert scores[f"real/{name}"] == scores["real/0.png"]
    assert scores["real/turned.jpg"] == pytest.approx(scores["real/0.png"], abs=0.1)
    assert scores[r"real/latin-\xfc.png"] == scores["real/1.png"]
    for name, reason in UNREADABLE.items():
        assert f"skipped {name}: {reason}\n" in ran.err
    assert "scores: lpx-out/predictions/scores.csv" in ran.out


def test_predict_json_names_what_was_skipped(lpx, workspace, mess):
    found = json.loads(lpx("predict", "--crops", "crops", "--json").out)
    assert len(found["files"]) == 23
    assert {skipped["file"]: skipped["reason"] for skipped in found["skipped"]} == UNREADABLE


def test_bench_measures_what_it_can_read_and_names_the_rest(lpx, workspace, mess):
    ran = lpx("bench", "--dataset", "folder:crops", "--latency-seconds", 0)
    report = json.loads(Path("lpx-out/report.json").read_text())
    assert ran.code == (0 if report["verdict"] == "holds" else 1)
    assert (report["faces"], report["real"], report["fake"]) == (23, 15, 8)
    skipped = report["dataset"]["skipped"]
    assert {entry["name"]: entry["reason"] for entry in skipped} == UNREADABLE
    (said,) = [text for text in report["warnings"] if "could not be read" in text]
    assert said.startswith("4 of 27 faces could not be read and are left out: fake/cut short.png (")
    assert said.endswith(" and 1 more, listed in report.json")
    assert said in ran.out
    assert "scoring folder:crops: done" in ran.err


def test_build_calibrates_on_what_it_can_read_and_names_the_rest(lpx, workspace, mess):
    ran = lpx("build", "--int8", "--target", "onnxruntime", "--faces", "crops")
    assert ran.code == 0, ran.err
    manifest = json.loads(Path("lpx-out/engines/onnxruntime-int8/manifest.json").read_text())
    assert manifest["calibration"]["face_count"] == 23
    (said,) = manifest["warnings"]
    assert said.startswith("4 of 27 calibration faces could not be read and were left out: ")
    assert "fake/empty.png (file is empty)" in said
    assert f"warning: {said}" in ran.err
    assert "calibrated on 23 faces of folder:crops" in ran.out
    assert "calibrating on folder:crops: done" in ran.err


@pytest.mark.parametrize(
    "line",
    [
        ["build", "--int8", "--target", "onnxruntime", "--faces", "bad"],
        ["predict", "--crops", "bad"],
        ["bench", "--dataset", "bad", "--latency-seconds", 0],
    ],
    ids=lambda line: line[0],
)
def test_nothing_readable_is_an_error_that_says_why(lpx, workspace, tree, line):
    for label in ("real", "fake"):
        for number in range(2):
            path = Path(f"bad/{label}/{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    before = tree(".")
    ran = lpx(*line)
    assert ran.code == 2
    assert "bad" in ran.err
    assert "fake/0.png: file is empty" in ran.err
    assert "fix: " in ran.err
    assert "Traceback" not in ran.err
    assert tree(".") == before


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (["real"], "folder:crops holds real faces only, 8 of them"),
        (["fake"], "folder:crops holds fake faces only, 8 of them"),
        (["real", "fake/1.png"], "folder:crops holds 8 real and 1 fake faces"),
    ],
)
def test_one_class_has_no_auc(lpx, workspace, crops, keep, said):
    for path in list(crops.rglob("*.png")):
        if not any(path.is_relative_to(crops / kept) for kept in keep):
            path.unlink()
    ran = lpx("bench", "--dataset", "folder:crops", "--latency-seconds", 0)
    assert ran.code == 2
    assert said in ran.err
    assert "AUC" in ran.err
    assert not Path("lpx-out/report.json").exists()


def test_one_class_after_the_unreadable_ones_has_no_auc(lpx, workspace, crops):
    for path in (crops / "fake").iterdir():
        path.write_bytes(b"")
    ran = lpx("bench", "--dataset", "folder:crops", "--latency-seconds", 0)
    assert ran.code == 2
    assert "holds real faces only, 8 of them" in ran.err
    assert "8 others could not be read" in ran.err


def test_folder_without_labels_cannot_be_benched(lpx, workspace, crops):
    ran = lpx("bench", "--dataset", "crops/real", "--latency-seconds", 0)
    assert ran.code == 2
    assert "face 0.png has no label" in ran.err
    assert "put the crops into real/ and fake/" in ran.err


def test_what_lpx_drew_is_no_face(lpx, workspace, crops, monkeypatch):
    """The heat maps of one run must not be scored, or calibrated on, by the next."""
    monkeypatch.chdir(crops / "real")
    Path("../../lpx-out").rename("lpx-out")
    for out in ((), ("--out", "maps")):
        counts = [
            len(json.loads(lpx("predict", "--crops", ".", "--json", *out).out)["files"])
            for _ in "12"
        ]
        assert counts == [8, 8]
        for path in Path("maps").glob("*"):
            path.unlink()
    assert len(list(Path("lpx-out/predictions").iterdir())) == 10
    ran = lpx("build", "--int8", "--target", "onnxruntime", "--faces", ".")
    assert "calibrated on 8 faces of folder:." in ran.out


def test_predict_finds_pictures_of_every_kind_and_names_what_it_leaves_out(lpx, workspace, crops):
    """Links, other suffixes, a picture behind a hidden folder, and one that OpenCV cannot read."""
    photos, elsewhere = Path("photos"), Path("elsewhere")
    photos.mkdir()
    elsewhere.mkdir()
    face = cv2.imread(str(crops / "real/0.png"))
    for name in ("a.png", "b.gif", "c.jp2", "d.ppm"):
        cv2.imwrite(str(photos / name), face)
    (photos / "e.JFIF").write_bytes(cv2.imencode(".jpg", face)[1].tobytes())
    cv2.imwrite(str(elsewhere / "f.png"), face)
    (photos / "link").symlink_to("../elsewhere")
    (photos / ".ipynb_checkpoints").mkdir()
    cv2.imwrite(str(photos / ".ipynb_checkpoints/a.png"), face)
    (photos / "g.heic").write_bytes(b"x")
    said = "Left out: 1 hidden folder (.ipynb_checkpoints); 1 file ending in .heic (g.heic)."
    names = {"a.png", "b.gif", "c.jp2", "d.ppm", "e.JFIF", "link/f.png"}
    ran = lpx("predict", "photos", "--no-overlay", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert {file["file"] for file in found["files"]} == names
    assert [(one["what"], one["names"]) for one in found["left_out"]] == [
        ("hidden folder", [".ipynb_checkpoints"]),
        ("file ending in .heic", ["g.heic"]),
    ]
    assert f"warning: {said}" in ran.err
    ran = lpx("predict", "photos", "--no-overlay", "--crops")
    assert ran.code == 0, ran.err
    assert f"note: {said}" in ran.err
    assert set(re.findall(r"  (\S+)$", ran.out, re.M)) >= names


def test_build_says_what_of_the_faces_is_left_out(lpx, workspace, crops):
    (crops / "real/x.heic").touch()
    ran = lpx("build", "--fp32", "--int8", "--target", "onnxruntime", "--faces", "crops")
    assert ran.code == 0, ran.err
    assert "note: Left out: 1 file ending in .heic (real/x.heic)." in ran.err
