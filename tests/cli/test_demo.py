from __future__ import annotations

import json
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest

from lpx import Workspace
from lpx.bench.parity.detection import Detection, MethodDetection
from lpx.bench.performance.costs import Speed
from lpx.bench.performance.speed_test import SpeedTest
from lpx.cli.demo import story
from lpx.data.face_sets.demo import CHECKPOINT, PAIRS, folder
from lpx.metrics import Interval
from tests.support.costs import UNTIMED
from tests.support.reports import full_report


@pytest.fixture(autouse=True)
def fewer_faces(monkeypatch, tmp_path):
    for split in PAIRS:
        monkeypatch.setitem(PAIRS, split, 6)
    monkeypatch.chdir(tmp_path)


def test_demo_runs_all_of_it(lpx, built, monkeypatch):
    monkeypatch.setattr("lpx.api.export.to_onnx", lambda *_: built.model.read_bytes())
    untimed = partialmethod(Workspace.bench, costs=UNTIMED)
    monkeypatch.setattr(Workspace, "bench", untimed)
    ran = lpx("demo", "-w", "here", "--json")
    report = json.loads(ran.out)
    assert ran.code == (0 if report["verdict"] == "holds" else 1)
    assert report["faces"] == 12
    assert {"fp32", "int8"} == {c["precision"] for c in report["candidates"]}
    said = [line for line in ran.err.splitlines() if line.startswith("lpx ")]
    assert said == [
        "lpx export ckpt.pt",
        "lpx build --fp32 --int8 --faces demo",
        "lpx bench --dataset demo",
    ]
    assert "no faces were named" not in ran.err
    assert Path("here/report.html").is_file()


def reported(verdict="holds", candidates=()):
    """A report of 576 faces of 24 people, by a detector with an AUC of 0.91."""
    made = full_report()
    reference = made.reference
    face = replace(
        reference.accuracy.face, auc=0.874, false_positive_rate=0.08, true_positive_rate=0.75
    )
    known = replace(
        reference.discrimination,
        auc=Interval(0.91, 0.88, 0.94),
        real_groups=24,
        fake_groups=24,
    )
    accuracy = Detection(face, None, (MethodDetection("poisson", face, None),))
    return replace(
        made,
        verdict=verdict,
        dataset=replace(made.dataset, faces=576),
        reference=replace(reference, accuracy=accuracy, discrimination=known),
        candidates=candidates,
    )


INT8_SHARE = 0.5


def compared(verdict):
    """INT8 beside FP32 in a bench, timed with this verdict."""
    int8 = full_report().candidates[1]
    speed = tuple(
        Speed(1, against, SpeedTest(Interval(1.0, 0.9, 1.1), 0.5, 9, of))
        for against, of in (("torch", "faster"), ("fp32", verdict))
    )
    timed = replace(int8, costs=replace(int8.costs, speed=speed))
    return reported(candidates=(timed,))


def test_story_says_what_was_shown_and_what_was_not():
    shown, limits = story(reported(), INT8_SHARE, None)
    assert "576 pictures of 24 rendered people" in shown
    assert "0.910 (95 % interval 0.880 to 0.940)" in shown
    assert "to within 0.005" in shown
    assert "Poisson-blended swaps (not seen in training) 0.87" in shown
    assert "calls 8.0 % of the real pictures fake, and 75 % of the forged ones" in shown
    assert "do not exist" in limits


@pytest.mark.parametrize("verdict", ["fails", "undecided", "uninformative"])
def test_story_claims_nothing_that_was_not_shown(verdict):
    shown, _ = story(reported(verdict), INT8_SHARE, None)
    assert "Every engine keeps" not in shown


@pytest.mark.parametrize(
    ("verdict", "lines"), [("slower", 1), ("inconclusive", 1), (None, 1), ("faster", 0)]
)
def test_story_explains_an_int8_that_is_no_faster(verdict, lines):
    found = story(compared(verdict), INT8_SHARE, False)
    assert sum("VNNI" in line and "50 %" in line for line in found) == lines


@pytest.mark.parametrize(
    ("vnni", "words"),
    [(True, "CPU, although it has VNNI."), (False, "CPU, which has no VNNI."), (None, "CPU.")],
)
def test_story_says_what_the_cpu_has(vnni, words):
    assert words in story(compared("slower"), INT8_SHARE, vnni)[-1]


def test_unpack_as_json(lpx):
    ran = lpx("demo", "--unpack", "x", "--json")
    assert json.loads(ran.out) == {"folder": "x", "checkpoint": "x/ckpt.pt", "faces": 12}


def test_unpack_again_is_fine(lpx, tree):
    assert lpx("demo", "--unpack", "x").code == 0
    first = tree("x")
    next(Path("x/real").iterdir()).unlink()
    assert lpx("demo", "--unpack", "x").code == 0
    assert tree("x") == first


@pytest.mark.parametrize("name", ["ckpt.pt", "real", "fake", "faces.csv", "LICENSE.md"])
def test_unpack_touches_nobodys_files(lpx, tree, name):
    path = Path("mine") / name
    path.parent.mkdir()
    if path.suffix:
        path.write_bytes(b"of my own")
    else:
        path.mkdir()
    before = tree("mine")
    ran = lpx("demo", "--unpack", "mine")
    assert ran.code == 2
    assert f"mine/{name} already exists" in ran.err
    assert "name a new folder" in ran.err
    assert tree("mine") == before


def test_unpack_where_nothing_can_be_written(lpx):
    Path("file").write_text("in the way")
    ran = lpx("demo", "--unpack", "file/below")
    assert ran.code == 2
    assert "file/below cannot be written" in ran.err


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["-w", "a b"], None, "next: lpx bench --dataset demo -w 'a b'"),
        (["-w", "a b"], "a b", "next: lpx bench --dataset demo"),
        ([], "a b", "next: lpx bench --dataset demo"),
        (["-w", "a b"], "other", "next: lpx bench --dataset demo -w 'a b'"),
    ],
)
def test_next_line_finds_the_workspace(lpx, workspace, monkeypatch, options, environment, said):
    workspace.root.rename("a b")
    if environment:
        monkeypatch.setenv("LPX_WORKSPACE", environment)
    ran = lpx("build", "--fp32", "--target", "onnxruntime", *options)
    assert ran.out.splitlines()[-1] == said


def test_checkpoint_of_the_demo_is_readable():
    from lpx.models.checkpoint import load_checkpoint

    assert load_checkpoint(folder() / CHECKPOINT).card.provenance
