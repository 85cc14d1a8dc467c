import copy
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest

from lpx.bench.parity.breakdown import breakdown, members_of
from lpx.bench.parity.detection import accuracy
from lpx.bench.parity.parity import compare, discrimination
from lpx.bench.parity.run import BenchResult, Example
from lpx.bench.parity.score import Failure, Scored
from lpx.bench.parity.stages import MODEL, graph_of, stages_of
from lpx.bench.performance.costs import BATCHES, Costs, summarised
from lpx.bench.performance.latency import Samples
from lpx.bench.report.document import to_report
from lpx.bench.report.figures import MAX_POINTS, draw
from lpx.bench.report.html import render_html
from lpx.bench.report.markdown import render_markdown
from lpx.bench.report.sentences import percent, sentence, signed, significant, speed_notes
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, Skipped
from lpx.engines.base import ON_THE_CPU, Prediction
from lpx.engines.manifest import EngineManifest
from tests.support.browser import PHONE, look, needs_browser

EVIL = "real/<script>alert('face')</script>.png"
NOISE = {"torch": 0.0, "onnxruntime-fp32": 1e-5, "onnxruntime-int8": 0.3}
MS = {"torch": 20.0, "onnxruntime-fp32": 8.0, "onnxruntime-int8": 11.0}
VOID = {"br", "img", "link", "meta"}
CARD = ModelCard(
    "tf_efficientnet_lite0",
    "stage3",
    "mean_prob",
    64,
    grid=(4, 4),
    threshold=0.45,
    provenance={"data": "<b>faces</b>", "auc": {"sbi": 0.9}},
)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def scored(count: int, noise: dict[str, float] = NOISE) -> Scored:
    rng = np.random.default_rng(3)
    labels = np.arange(count) % 2
    logits = rng.normal(2.4 * labels - 1.2, 1.2)
    maps = logits[:, None, None] + rng.normal(size=(count, 4, 4))
    predictions = {
        name: Prediction(
            sigmoid(logits + spread * rng.normal(size=count)),
            sigmoid(maps + spread * rng.normal(size=maps.shape)),
        )
        for name, spread in noise.items()
    }
    return Scored(np.arange(count), labels, predictions, (Skipped("real/broken.png", "no image"),))


def manifest(name: str) -> EngineManifest:
    target, precision = name.rsplit("-", 1)
    int8 = precision == "int8"
    return EngineManifest(
        name,
        target,
        precision,
        "onnxruntime",
        "engine.onnx",
        "c" * 64,
        "e" * 64,
        CARD.to_dict(),
        calibration={
            "method": "max",
            "faces": "mine",
            "split": "train",
            "face_count": 77,
            "identities": ["a"],
            "warning": "only 77 faces",
        }
        if int8
        else None,
        placement=(
            {
                "node": "/head/Conv",
                "op_type": "Conv",
                "quantised": False,
                "reason": "the head stays in float",
            },
        )
        if int8
        else (),
        convolutions={"int8": 31, "fp32": 2, "unknown": 4} if int8 else {"int8": 0, "fp32": 33},
        versions={"onnx": "1.19"},
        machine={"os": "Ubuntu"},
        warnings=("beware",) if int8 else (),
    )


def face(seed: int, size: int = 64) -> np.ndarray:
    """An image about as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8), (size, size))
    return np.clip(coarse + rng.normal(0, 2, coarse.shape), 0, 255).astype(np.uint8)


def members(found: Scored) -> FaceSet:
    """Two methods of fakes, and fifteen videos with two real faces and a fake of each method."""
    methods = ("real", "<b>swap</b>", "alpha")
    source = ImageFile(Path("none"))
    faces = tuple(
        Face(f"{i}", int(y), methods[int(y) * (1 + i % 4 // 2)], f"video{i // 4}", (), source)
        for i, y in enumerate(found.labels)
    )
    return FaceSet("mine", "all", "square", faces)


def result(count: int = 60, size: int = 64, noise: dict[str, float] = NOISE) -> BenchResult:
    found = scored(count, noise)
    truth = found.predictions["torch"]
    names = [name for name in noise if name != "torch"]
    rng = np.random.default_rng(5)
    timed = {
        name: {
            batch: Samples(
                MS.get(name, 5.0) * batch**0.8 * (1 + 0.05 * rng.random(200)),
                np.repeat(np.arange(20), 10),
            )
            for batch in BATCHES
        }
        for name in noise
    }
    precisions = {name: name.rsplit("-", 1)[1] for name in names}
    faces = members(found)
    where = members_of(faces, found.indices)
    parity = {
        n: compare(found.labels, truth, found.predictions[n], CARD.threshold, groups=where.groups)
        for n in names
    }
    return BenchResult(
        scored=found,
        truth=discrimination(found.labels, truth.score, where.groups),
        accuracy=accuracy(found, faces, CARD.threshold),
        parity=parity,
        parts=breakdown(
            found.labels, truth.score, {n: found.predictions[n].score for n in names}, where, 0.005
        ),
        stages={
            n: stages_of(
                n,
                parity[n],
                found.labels,
                truth,
                found.predictions | {MODEL: truth},
                {graph_of(n): "no such graph"},
                CARD.threshold,
                groups=where.groups,
            )
            for n in names
        },
        device_memory=dict.fromkeys(noise, ON_THE_CPU),
        costs=summarised(timed, precisions, 16),
        examples=tuple(
            Example(
                EVIL if i == 0 else f"face{i}.png",
                int(found.labels[i]),
                face(i, size),
                {n: (p.patch_map[i], float(p.score[i])) for n, p in found.predictions.items()},
            )
            for i in range(6)
        ),
        candidates=tuple(map(manifest, names)),
    )


def report_of(bench: BenchResult, name: str = "folder:<i>mine</i>") -> dict[str, Any]:
    faces = FaceSet(name, "all", "square", (), "A note on the set.")
    return to_report(
        bench,
        faces,
        CARD,
        margin=0.005,
        environment={"versions": {"torch": "2.9"}, "gpus": []},
        not_run={"tensorrt-fp16": "no NVIDIA GPU"},
        warnings=["a warning & more"],
    )


@pytest.fixture(scope="module")
def bench() -> BenchResult:
    return result()


@pytest.fixture(scope="module")
def report(bench: BenchResult) -> dict[str, Any]:
    return report_of(bench)


def test_detection_is_shown_per_method_and_video(page: str, report: dict[str, Any]) -> None:
    found = report["candidates"][1]["accuracy"]
    assert [row["method"] for row in found["methods"]] == ["<b>swap</b>", "alpha"]
    assert found["face"]["fakes"] == sum(row["face"]["fakes"] for row in found["methods"]) == 30
    assert found["video"]["fakes"] == 30
    assert found["face"]["auc"] == pytest.approx(report["candidates"][1]["auc"])
    table = page[page.index('id="detection"') :]
    assert "&lt;b&gt;swap&lt;/b&gt;" in table
    assert f"{found['methods'][1]['video']['auc']:.4f}" in table
    assert f"{found['face']['tpr_at_fpr']['0.05']:.3f}" in table


@pytest.fixture(scope="module")
def page(bench: BenchResult, report: dict[str, Any]) -> str:
    return render_html(report, bench)


class Checker(HTMLParser):
    """Collects ids, references and text, and complains about tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.images_without_alt = 0
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        self.references += [
            values[a] or "" for a in ("src", "href", "srcset", "data") if a in values
        ]
        self.images_without_alt += tag == "img" and not values.get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page: str) -> None:
    found = Checker(page)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert found.images_without_alt == 0
    assert all(r.startswith(("#", "data:")) for r in found.references)
    assert {r[1:] for r in found.references if r.startswith("#")} <= set(found.ids)
    assert all(to.startswith(("#", "data:")) for to in re.findall(r"url\(['\"]?([^)]*)\)", page))
    assert "@import" not in page
    assert page.lstrip().startswith("<!DOCTYPE html>")


def test_the_page_says_what_was_found(page: str, report: dict[str, Any]) -> None:
    text = Checker(page).text
    for candidate in report["candidates"]:
        assert sentence(candidate, report).replace("\u00a0", " ") in text
    for said in (
        "A note on the set.",
        "a warning & more",
        "onnxruntime-int8: beware",
        "no NVIDIA GPU",
        "30 real, 30 fake, 1 unreadable",
        "31 in INT8, 2 in FP32, 4 not recognised",
        "33 in FP32",
        "only 77 faces",
        "onnxruntime-int8 is slower than onnxruntime-fp32: it takes 1.3",
        "tf_efficientnet_lite0",
        "the head stays in float",
        f"{report['reference']['auc']:.4f}",
    ):
        assert said in text


def test_page_and_markdown_say_how_well_the_checkpoint_itself_does(page: str, report: Any) -> None:
    face = report["reference"]["accuracy"]["face"]
    for text in (page, render_markdown(report)):
        assert f"AUC on these 60 faces is {report['reference']['auc']:.3f}" in text
        assert f"{percent(face['true_positive_rate'])} of the fakes" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.0004, "less than 0.1 %"),
        (0.99951, "more than 99.9 %"),
        (0.0999, "10 %"),
        (0.0412, "4.1 %"),
        (0.995, "99.5 %"),
        (0.75, "75 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_model_of_whole_faces_has_no_maps_and_no_patches() -> None:
    whole = result()
    cells = {
        name: Prediction(p.score, p.score[:, None, None].copy())
        for name, p in whole.scored.predictions.items()
    }
    seen = tuple(
        replace(e, maps={n: (m[:1, :1], s) for n, (m, s) in e.maps.items()}) for e in whole.examples
    )
    whole = replace(whole, scored=replace(whole.scored, predictions=cells), examples=seen)
    values = report_of(whole)
    values["model"]["grid"] = [1, 1]
    page = render_html(values, whole)
    text = Checker(page).text
    for absent in ("Heat map", "score of a patch", "Map corr.", "µs, batch"):
        assert absent not in text, absent
    assert "This model scores whole faces" in text
    assert "Heat map" in Checker(render_html(report_of(result()), result())).text


def test_names_are_escaped(page: str) -> None:
    assert EVIL not in page
    assert "&lt;script&gt;alert(&#39;face&#39;)&lt;/script&gt;" in page
    assert "<i>mine" not in page
    assert "<b>faces" not in page


def test_stages_are_shown_and_the_first_that_breaks_is_marked(
    page: str, report: dict[str, Any]
) -> None:
    broken = report["candidates"][1]
    assert (broken["verdict"], broken["breaks_at"]) == ("undecided", "engine")
    rows = page[page.index('id="stages-table"') : page.index('id="detection"')].split("<tr>")
    marked = [row for row in rows if "first that shows it" in row]
    assert len(marked) == 1
    assert "onnxruntime-int8" in marked[0]
    assert "the engine itself" in marked[0]
    assert sum("not run: no such graph" in row for row in rows) == 2
    assert "The first stage that shows it: the engine itself (not run: its graph" in page


def test_differences_are_shown_per_method_and_level(page: str, report: dict[str, Any]) -> None:
    parts = report["candidates"][1]["parts"]
    assert [(part["level"], part["method"]) for part in parts] == [
        ("face", "<b>swap</b>"),
        ("face", "alpha"),
        ("video", "all"),
        ("video", "<b>swap</b>"),
        ("video", "alpha"),
    ]
    assert all(part["auc_difference"]["method"] == "bootstrap" for part in parts[:2])
    of_videos = [part["auc_difference"] for part in parts[2:]]
    assert {found["method"] for found in of_videos} <= {"delong", "one pair"}
    # Where no two videos changed places the interval is not a point.
    assert all(found["low"] < found["high"] for found in of_videos)
    table = page[page.index('id="methods-table"') : page.index('id="figures"')]
    assert table.count("<tr>") == 1 + 2 * len(parts)
    assert "2,000 resamples of whole groups" in page


def test_engines_that_failed_are_told_first_and_nothing_holds(bench: BenchResult) -> None:
    gone = Failure("tensorrt-int8", "scoring", "RuntimeError: <b>out of memory</b>")
    report = report_of(replace(bench, failed=(gone,)))
    assert report["verdict"] == "undecided"
    page = render_html(report, replace(bench, failed=(gone,)))
    said = "tensorrt-int8 failed while scoring: RuntimeError: <b>out of memory</b>"
    assert said in Checker(page).text
    assert Checker(page).text.index("tensorrt-int8 failed.") < Checker(page).text.index(said)


def test_all_may_have_failed(bench: BenchResult) -> None:
    gone = Failure("onnxruntime-int8", "scoring", "RuntimeError: no memory")
    left = replace(
        bench,
        candidates=(),
        parity={},
        parts={},
        stages={},
        failed=(gone,),
        costs=Costs({"torch": ()}),
    )
    report = report_of(left)
    assert report["verdict"] == "undecided"
    assert "No engine could be measured." in Checker(render_html(report, left)).text
    assert "No engine could be measured." in render_markdown(report)


def test_markdown_says_the_same(report: dict[str, Any]) -> None:
    text = render_markdown(report)
    assert text.startswith("## ❔ AUC parity undecided\n")
    assert "the engine itself | undecided ← first" in text
    assert "<script>" not in text
    assert "<b>" not in text.replace("<details>", "").replace("<summary>", "")
    tables = [line.count(" | ") for line in text.splitlines() if line.startswith("| onnxruntime")]
    assert set(tables) == {4, 5, 6}


def test_latency_may_be_left_out(bench: BenchResult) -> None:
    silent = replace(bench, costs=Costs({name: () for name in bench.costs.latency}))
    page = render_html(report_of(silent), silent)
    found = Checker(page)
    assert "Latency was not measured." in found.text
    assert "figure-latency" not in found.ids
    assert "figure-pareto" not in found.ids
    assert "over_torch" not in page


def test_there_may_be_no_example(bench: BenchResult, report: dict[str, Any]) -> None:
    assert "maps" not in Checker(render_html(report, replace(bench, examples=()))).ids


def test_the_users_matplotlib_settings_are_neither_used_nor_touched(
    bench: BenchResult, report: dict[str, Any], page: str
) -> None:
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": True, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        again = render_html(report, bench)
        assert dict(matplotlib.rcParams) == before
    assert again == page


def test_figures_take_their_colours_from_the_page(
    bench: BenchResult, report: dict[str, Any]
) -> None:
    for figure in draw(report, bench):
        assert not re.search(r"(fill|stroke): #", figure.svg)
        assert "var(--" in figure.svg
        assert figure.alt


def test_the_report_of_500_faces_is_small() -> None:
    many = result(500, size=224)
    assert len(render_html(report_of(many), many)) < 2_000_000


def test_points_are_thinned_but_flips_are_kept() -> None:
    many = result(12_000, noise={"torch": 0.0, "onnxruntime-int8": 0.002})
    report = report_of(many)
    (scatter,) = (f for f in draw(report, many) if f.key.startswith("scatter"))
    assert scatter.svg.count("h0") == MAX_POINTS
    assert "5,000 of 12,000 faces" in scatter.caption
    assert 0 < report["candidates"][0]["flips"] == scatter.svg.count("<use") - _ticks(scatter.svg)


def _ticks(svg: str) -> int:
    return len(re.findall(r'id="[^"]*[xy]tick_\d+"', svg))


def candidate(low: float, high: float, verdict: str, needed: int | None = None) -> dict[str, Any]:
    difference = {"estimate": (low + high) / 2, "low": low, "high": high}
    return {
        "name": "x",
        "verdict": verdict,
        "auc_difference": difference,
        "faces_needed": needed,
        "stages": [],
        "breaks_at": None,
        "dead": False,
        "score_range": [0.1, 0.9],
        "flips": 20,
        "concordance": {"estimate": 0.99, "low": 0.98, "high": 0.995},
    }


def said_of(values: dict[str, Any], few: bool = False) -> str:
    interval = {"estimate": 0.52, "low": 0.45, "high": 0.59}
    known = {
        "few_groups": few,
        "min_groups": 10,
        "real_groups": 1,
        "fake_groups": 2,
        "auc_interval": interval,
    }
    return sentence(values, {"margin": 0.005, "faces": 40, "reference": {"discrimination": known}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (candidate(-0.0021, 0.001, "holds"), "x loses at most 0.0021 AUC"),
        (candidate(-0.00001, 0.001, "holds"), "x loses no AUC (95 % interval 0.0000 to +0.0010)"),
        (candidate(-0.00499, 0.001, "holds"), "at most 0.00499 AUC"),
        (candidate(0.001, 0.002, "holds"), "x loses no AUC"),
        (candidate(0.0, 0.0, "holds"), "exactly the reference's AUC"),
        (candidate(-0.03, -0.0123, "fails"), "x loses at least 0.0123 AUC"),
        (candidate(-0.03, 0.01, "undecided", 1234), "about 1,300 such faces"),
        (candidate(-0.02, 0.01, "undecided", None), "more faces would hardly decide it"),
    ],
)
def test_sentence(values: dict[str, Any], said: str) -> None:
    assert said in said_of(values)


def test_what_a_sentence_says_of_scores() -> None:
    dead = candidate(0.4, 0.6, "fails") | {"dead": True, "score_range": [0.5, 0.5]}
    assert "x is dead: it gives all faces one score (0.5000 to 0.5000)" in said_of(dead)
    loose = {"concordance": {"estimate": 0.6, "low": 0.5, "high": 0.7}}
    far = said_of(candidate(-0.001, 0.001, "fails") | loose)
    assert "x does not follow the reference" in far
    assert "is 0.600 (95 % interval 0.500 to 0.700), and 0.9 is required" in far
    assert "20 of 40 decisions change" in far
    near = said_of(candidate(-0.001, 0.001, "undecided") | loose)
    assert near.startswith("x loses no more AUC than allowed, but the concordance")
    blind = said_of(candidate(-0.001, 0.001, "uninformative"))
    assert "not shown to tell real from fake" in blind
    assert "0.4500 to 0.5900" in blind
    few = said_of(candidate(-0.001, 0.001, "undecided"), few=True)
    assert "at least 10 independent groups of each class" in few
    assert "1 real and 2 fake" in few


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.5e-7, "1.5e−7"),
        (0.00123, "0.00123"),
        (8.567, "8.57"),
        (231.4, "231"),
        (12345.6, "12,346"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


def test_signed_tells_a_bound_from_the_margin() -> None:
    assert signed(-0.00001) == "0.0000"
    assert signed(-0.0049999, 0.005) == "−0.0049999"
    assert signed(-0.005, 0.005) == "−0.0050"
    assert signed(0.0012, 0.005) == "+0.0012"


def test_nothing_is_said_of_an_int8_engine_that_is_faster(report: dict[str, Any]) -> None:
    fast = copy.deepcopy(report)
    for found in fast["candidates"][1]["speed"]:
        found["verdict"] = "faster"
    assert speed_notes(fast) == []
    (said,) = speed_notes(report)
    assert said.startswith("onnxruntime-int8 is slower than onnxruntime-fp32: ")
    assert "it takes 1.38 times as long at batch 1 (95 % interval 1.3" in said
    fast["candidates"][0]["speed"][0]["verdict"] = "inconclusive"
    (said,) = speed_notes(fast)
    assert said.startswith("onnxruntime-fp32 is not shown to be faster than torch: it")


def test_a_noisy_clock_is_told(report: dict[str, Any]) -> None:
    noisy = copy.deepcopy(report)
    row = noisy["reference"]["latency_by_batch"][0]
    row["cov"] = 0.3
    row["warnings"] = ["unstable: the time of calls varies by 30.0 %", "host-bound: so it is"]
    unsteady, bound, _ = speed_notes(noisy)
    assert "by more than 2.5 %, by up to 30 % (torch)." in unsteady
    assert bound == "torch, batch 1: host-bound: so it is."


PROBE = """<script>
var root = document.documentElement;
var seen = {ready: root.dataset.ready, errors: root.dataset.errors || "", width: innerWidth};
function order() {
  var rows = document.querySelectorAll("#engines-table tbody tr");
  return Array.from(rows, function (row) { return row.dataset.engine; });
}
function head(key) { return document.querySelector("th[data-key=" + key + "]"); }
seen.hash = order();
head("batch1").querySelector("button").click();
seen.up = order(); seen.ariaUp = head("batch1").getAttribute("aria-sort");
head("batch1").querySelector("button").click();
seen.down = order(); seen.ariaDown = head("batch1").getAttribute("aria-sort");
head("difference").querySelector("button").click();
seen.missing = order(); seen.sorted = document.querySelectorAll("[aria-sort]").length;
seen.tables = {};
document.querySelectorAll("table.sortable").forEach(function (table) {
  function names() {
    return Array.from(table.tBodies[0].rows, function (row) { return row.cells[0].textContent; });
  }
  var button = table.tHead.rows[0].cells[0].querySelector("button");
  button.click(); var up = names(); button.click();
  seen.tables[table.id] = [up, names()];
});
seen.figures = Array.from(document.querySelectorAll(".figure [role=img] > svg"), function (s) {
  var box = s.getBoundingClientRect(); return [box.width, box.height];
});
seen.images = Array.from(document.images, function (i) { return i.naturalWidth; });
seen.overflow = root.scrollWidth - root.clientWidth;
seen.ink = {};
["light", "dark"].forEach(function (theme) {
  root.dataset.theme = theme;
  seen.ink[theme] = [getComputedStyle(document.querySelector(".figure svg text")).fill,
                     getComputedStyle(document.body).backgroundColor];
});
var out = document.createElement("pre"); out.id = "probe"; out.textContent = JSON.stringify(seen);
document.body.appendChild(out);
</script>"""


@needs_browser
def test_on_a_desktop(page: str, tmp_path: Path, report: dict[str, Any]) -> None:
    seen, log = look(page.replace("</body>", PROBE + "</body>"), tmp_path, "#sort=auc:descending")
    assert (seen["ready"], seen["errors"]) == ("true", "")
    assert "CONSOLE" not in log
    entries = [report["reference"], *report["candidates"]]
    by_auc = sorted(entries, key=lambda entry: -entry["auc"])
    assert seen["hash"] == [entry["name"] for entry in by_auc]
    assert seen["up"] == sorted(MS, key=MS.__getitem__)
    assert seen["down"] == seen["up"][::-1]
    assert (seen["ariaUp"], seen["ariaDown"]) == ("ascending", "descending")
    assert (seen["missing"][-1], seen["sorted"]) == ("torch", 1)
    assert len(seen["figures"]) == 8
    assert seen["tables"].keys() == {
        "engines-table",
        "stages-table",
        "detection-table",
        "methods-table",
        "speed-table",
    }
    for up, down in seen["tables"].values():
        assert (up, down) == (sorted(up), sorted(up, reverse=True))
        assert len(set(up)) > 1
    assert all(width > 200 and height > 100 for width, height in seen["figures"])
    assert len(seen["images"]) == 6 * 4 + 1
    assert min(seen["images"]) > 0
    assert seen["overflow"] <= 0
    assert seen["ink"]["light"] != seen["ink"]["dark"]


@needs_browser
def test_on_a_phone(page: str, tmp_path: Path) -> None:
    framed = PHONE.format(escape(page.replace("</body>", PROBE + "</body>")))
    seen, log = look(framed, tmp_path, "#sort=auc:descending")
    assert "CONSOLE" not in log
    assert seen["width"] == 375
    assert seen["overflow"] <= 0
    assert all(width > 250 and height > 100 for width, height in seen["figures"])


def test_headers_of_the_engines_break_only_between_their_parts(page: str) -> None:
    """The table fits a window of 1,200 pixels: long headers break, but not within "|Δ|"."""
    head = page[page.index('id="engines-table"') :]
    head = head[: head.index("</thead>")]
    assert (
        '<small><span class="whole">ms/face,</span> <span class="whole">p99</span></small>' in head
    )
    assert '<span class="whole">mean\N{NO-BREAK SPACE}|Δ|</span>' in head
    assert ".whole { white-space: nowrap; }" in page
    assert ".engines thead .number, .engines thead small { white-space: normal; }" in page
