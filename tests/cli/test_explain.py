"""`lpx explain` from the command line."""

from __future__ import annotations

import json

import pytest

from lpx.data.face_sets.demo import CHECKPOINT, folder
from lpx.render.encode import encode_png

DEMO = folder() / CHECKPOINT


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LPX_WORKSPACE", raising=False)


def test_a_folder(lpx, crops, tmp_path):
    ran = lpx("explain", DEMO, crops, "--limit", 7)
    assert ran.code == 0
    assert "of 7 faces are misclassified" in ran.out
    assert "page: lpx-out/explain/index.html (and maps.npz)" in ran.out
    assert (tmp_path / "lpx-out" / "explain" / "index.html").is_file()
    assert (tmp_path / "lpx-out" / "explain" / "maps.npz").is_file()


def test_unreadable_images_are_named(lpx, crops):
    (crops / "real" / "empty.jpg").write_bytes(b"")
    ran = lpx("explain", DEMO, crops / "real", "--out", "shown", "--json")
    values = json.loads(ran.out)
    assert ran.code == 0
    assert values["skipped"] == [{"file": "empty.jpg", "reason": "file is empty"}]
    assert "skipped empty.jpg: file is empty" in ran.err
    assert values["page"] == "shown/index.html"
    ran = lpx("explain", DEMO, crops / "real", "--out", "shown")
    assert ran.err.count("skipped empty.jpg: file is empty") == 1


def test_json(lpx, crops):
    values = json.loads(lpx("explain", DEMO, crops, "--json").out)
    assert values["receptive_field"] == 147
    assert values["grid"] == [10, 10]
    assert values["mistakes"] == sum(f["fake"] != f["label"] for f in values["faces"])
    assert [c["faces"] for c in values["classes"]] == [8, 8]
    for face in values["faces"]:
        x0, y0, x1, y1 = face["strongest"]["box"]
        assert 0 <= x0 < x1 <= 160
        assert 0 <= y0 < y1 <= 160
        assert 0 <= face["similarity"] <= 1


def test_an_image_gets_a_picture(lpx, drawn, tmp_path):
    (tmp_path / "face.png").write_bytes(encode_png(drawn[0][1]))
    ran = lpx("explain", DEMO, "face.png")
    assert ran.code == 0
    assert "picture: lpx-out/explain/face.png.png" in ran.out
    assert (tmp_path / "lpx-out" / "explain" / "face.png.png").is_file()


def test_the_workspace_says_where(lpx, crops, tmp_path):
    ran = lpx("explain", DEMO, crops, "--limit", 2, "-w", "elsewhere")
    assert ran.code == 0
    assert "real: 1 face, mean score" in ran.out
    page = (tmp_path / "elsewhere" / "explain" / "index.html").read_text()
    assert "1 face, mean score" in page
    assert "1 faces" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.pt", "demo"), "none.pt does not exist"),
        ((DEMO, "none.png"), "none.png does not exist"),
        ((DEMO, "nosuchset"), "unknown data set"),
        ((DEMO, "empty"), "holds no images"),
        ((DEMO, "demo", "--limit", "0"), "--limit"),
        ((DEMO,), "Missing argument"),
    ],
    ids=["checkpoint", "image", "set", "folder", "limit", "nothing"],
)
def test_mistakes_exit_with_2_and_say_what(lpx, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    ran = lpx("explain", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "lpx-out").exists()


def test_a_folder_that_cannot_be_written_exits_with_2(lpx, crops, tmp_path):
    (tmp_path / "file").write_text("in the way")
    ran = lpx("explain", DEMO, crops, "--limit", 1, "--out", "file")
    assert ran.code == 2
    assert "cannot be written" in ran.err
