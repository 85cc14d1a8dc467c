import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest

from lpx.bench.parity.pixels import StageResults
from lpx.bench.parity.run import BenchResult
from lpx.bench.parity.score import Failure
from lpx.bench.performance.costs import Costs, Speed
from lpx.bench.performance.latency import LatencyResult
from lpx.bench.performance.speed_test import SpeedTest, SpeedVerdict
from lpx.bench.report.document.entries import Candidate, EngineCosts
from lpx.bench.report.document.report import Report
from lpx.bench.report.figures import MAX_POINTS, draw
from lpx.bench.report.headline import headline
from lpx.bench.report.html import render_html
from lpx.bench.report.markdown import render_markdown
from lpx.bench.report.sentences import percent, sentence, signed, significant, speed_notes
from lpx.engines.base import Prediction
from lpx.metrics import Flips, Interval, Verdict
from tests.support.browser import PHONE, look, needs_browser
from tests.support.reports import EVIL, MS, report_of, result

VOID = {"br", "img", "link", "meta"}


@pytest.fixture(scope="module")
def bench() -> BenchResult:
    return result()


@pytest.fixture(scope="module")
def report(bench: BenchResult) -> Report:
    return report_of(bench)


def test_detection_is_shown_per_method_and_video(page: str, report: Report) -> None:
    found = report.candidates[1].accuracy
    assert [row.method for row in found.methods] == ["<b>swap</b>", "alpha"]
    assert found.face.fakes == sum(row.face.fakes for row in found.methods) == 30
    assert found.video is not None
    assert found.methods[1].video is not None
    assert found.video.fakes == 30
    assert found.face.auc == pytest.approx(report.candidates[1].auc)
    table = page[page.index('id="detection"') :]
    assert "&lt;b&gt;swap&lt;/b&gt;" in table
    assert f"{found.methods[1].video.auc:.4f}" in table
    assert f"{found.face.tpr_at_fpr['0.05']:.3f}" in table


@pytest.fixture(scope="module")
def page(bench: BenchResult, report: Report) -> str:
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


def test_the_page_says_what_was_found(page: str, report: Report) -> None:
    text = Checker(page).text
    for candidate in report.candidates:
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
        "onnxruntime-int8 is slower than onnxruntime-fp32 at batch 1 (1.3",
        "tf_efficientnet_lite0",
        "the head stays in float",
        f"{report.reference.auc:.4f}",
    ):
        assert said in text


def test_page_and_markdown_say_how_well_the_checkpoint_itself_does(
    page: str, report: Report
) -> None:
    face = report.reference.accuracy.face
    for text in (page, render_markdown(report)):
        assert f"AUC on these 60 faces is {report.reference.auc:.3f}" in text
        assert f"{percent(face.true_positive_rate)} of the fakes" in text


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
    report = report_of(whole)
    report = replace(report, model=replace(report.model, grid=(1, 1)))
    page = render_html(report, whole)
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


def test_stages_are_shown_and_the_first_that_breaks_is_marked(page: str, report: Report) -> None:
    broken = report.candidates[1]
    assert (broken.verdict, broken.breaks_at) == ("undecided", "engine")
    rows = page[page.index('id="stages-table"') : page.index('id="detection"')].split("<tr>")
    marked = [row for row in rows if "first that shows it" in row]
    assert len(marked) == 1
    assert "onnxruntime-int8" in marked[0]
    assert "the engine itself" in marked[0]
    assert sum("not run: no such graph" in row for row in rows) == 2
    assert "The first stage that shows it: the engine itself (not run: its graph" in page


def test_differences_are_shown_per_method_and_level(page: str, report: Report) -> None:
    parts = report.candidates[1].parts
    assert [(part.level, part.method) for part in parts] == [
        ("face", "<b>swap</b>"),
        ("face", "alpha"),
        ("video", "all"),
        ("video", "<b>swap</b>"),
        ("video", "alpha"),
    ]
    assert all(part.auc_difference.method == "bootstrap" for part in parts[:2])
    of_videos = [part.auc_difference for part in parts[2:]]
    assert {found.method for found in of_videos} <= {"delong", "one pair"}
    # Where no two videos changed places the interval is not a point.
    assert all(found.low < found.high for found in of_videos)
    table = page[page.index('id="methods-table"') : page.index('id="figures"')]
    assert table.count("<tr>") == 1 + 2 * len(parts)
    assert "2,000 resamples of whole groups" in page


def test_engines_that_failed_are_told_first_and_nothing_holds(bench: BenchResult) -> None:
    gone = Failure("tensorrt-int8", "scoring", "RuntimeError: <b>out of memory</b>")
    report = report_of(replace(bench, failed=(gone,)))
    assert report.verdict == "undecided"
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
        stages=StageResults(),
        failed=(gone,),
        costs=Costs({"torch": ()}),
    )
    report = report_of(left)
    assert report.verdict == "undecided"
    assert "No engine could be measured." in Checker(render_html(report, left)).text
    assert "No engine could be measured." in render_markdown(report)


def test_markdown_says_the_same(report: Report) -> None:
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


def test_there_may_be_no_example(bench: BenchResult, report: Report) -> None:
    assert "maps" not in Checker(render_html(report, replace(bench, examples=()))).ids


def test_the_users_matplotlib_settings_are_neither_used_nor_touched(
    bench: BenchResult, report: Report, page: str
) -> None:
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": True, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        again = render_html(report, bench)
        assert dict(matplotlib.rcParams) == before
    assert again == page


def test_figures_take_their_colours_from_the_page(bench: BenchResult, report: Report) -> None:
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
    assert (
        0
        < report.candidates[0].parity.flips.total
        == scatter.svg.count("<use") - _ticks(scatter.svg)
    )


def _ticks(svg: str) -> int:
    return len(re.findall(r'id="[^"]*[xy]tick_\d+"', svg))


# Low and high end of the difference, verdict, and faces needed.
Judged = tuple[float, float, Verdict, int | None]


def candidate(report: Report, low: float, high: float, verdict: Verdict) -> Candidate:
    template = report.candidates[0]
    parity = replace(
        template.parity,
        verdict=verdict,
        auc_difference=Interval((low + high) / 2, low, high),
        dead=False,
        score_range=(0.1, 0.9),
        flips=Flips(10, 10, 20),
        concordance=Interval(0.99, 0.98, 0.995),
    )
    return replace(template, name="x", parity=parity, breaks_at=None)


def said_of(candidate: Candidate, report: Report, groups: int = 20) -> str:
    known = replace(
        report.reference.discrimination,
        auc=Interval(0.52, 0.45, 0.59),
        real_groups=groups,
        fake_groups=groups + 1,
    )
    reference = replace(report.reference, discrimination=known)
    dataset = replace(report.dataset, faces=40)
    return sentence(candidate, replace(report, reference=reference, dataset=dataset))


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        ((-0.0021, 0.001, "holds", None), "x loses at most 0.0021 AUC"),
        ((-0.00001, 0.001, "holds", None), "x loses no AUC (95 % interval 0.0000 to +0.0010)"),
        ((-0.00499, 0.001, "holds", None), "at most 0.00499 AUC"),
        ((0.001, 0.002, "holds", None), "x loses no AUC"),
        ((0.0, 0.0, "holds", None), "exactly the reference's AUC"),
        ((-0.03, -0.0123, "fails", None), "x loses at least 0.0123 AUC"),
        ((-0.03, 0.01, "undecided", 1234), "about 1,300 such faces"),
        ((-0.02, 0.01, "undecided", None), "more faces would hardly decide it"),
    ],
)
def test_sentence(report: Report, judged: Judged, said: str) -> None:
    low, high, verdict, needed = judged
    judged_so = replace(candidate(report, low, high, verdict), faces_needed=needed)
    assert said in said_of(judged_so, report)


def test_what_a_sentence_says_of_scores(report: Report) -> None:
    def judged(low: float, high: float, verdict: Verdict, **parity: object) -> Candidate:
        made = candidate(report, low, high, verdict)
        return replace(made, parity=replace(made.parity, **parity))

    dead = judged(0.4, 0.6, "fails", dead=True, score_range=(0.5, 0.5))
    assert "x is dead: it gives all faces one score (0.5000 to 0.5000)" in said_of(dead, report)
    loose = Interval(0.6, 0.5, 0.7)
    far = said_of(judged(-0.001, 0.001, "fails", concordance=loose), report)
    assert "x does not follow the reference" in far
    assert "is 0.600 (95 % interval 0.500 to 0.700), and 0.9 is required" in far
    assert "20 of 40 decisions change" in far
    near = said_of(judged(-0.001, 0.001, "undecided", concordance=loose), report)
    assert near.startswith("x loses no more AUC than allowed, but the concordance")
    blind = said_of(judged(-0.001, 0.001, "uninformative"), report)
    assert "not shown to tell real from fake" in blind
    assert "0.4500 to 0.5900" in blind
    few = said_of(judged(-0.001, 0.001, "undecided"), report, groups=1)
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


def with_costs(report: Report, place: int, costs: EngineCosts) -> Report:
    """Return a report with other costs of a candidate."""
    candidates = list(report.candidates)
    candidates[place] = replace(candidates[place], costs=costs)
    return replace(report, candidates=tuple(candidates))


def judged_as(costs: EngineCosts, verdict: str, tests: slice = slice(None)) -> EngineCosts:
    speed = list(costs.speed)
    speed[tests] = [replace(s, test=replace(s.test, verdict=verdict)) for s in speed[tests]]
    return replace(costs, speed=tuple(speed))


def test_nothing_is_said_of_an_int8_engine_that_is_faster(report: Report) -> None:
    fast = with_costs(report, 1, judged_as(report.candidates[1].costs, "faster"))
    assert speed_notes(fast) == []
    unsure = judged_as(report.candidates[0].costs, "inconclusive", slice(1))
    (said,) = speed_notes(with_costs(fast, 0, unsure))
    assert said.startswith("onnxruntime-fp32 is not shown to be faster than torch at batch 1 (inc")


def speeds(*tests: tuple[int, float, SpeedVerdict | None]) -> tuple[Speed, ...]:
    """Tests against FP32, by batch, ratio and verdict, with an interval of 0.1 either side."""
    return tuple(
        Speed(
            batch,
            "onnxruntime-fp32",
            SpeedTest(Interval(ratio, ratio - 0.1, ratio + 0.1), 0.04, 20, verdict),
        )
        for batch, ratio, verdict in tests
    )


SLOWER = "at batch 8 (1.38 times as long, 95 % interval 1.28 to 1.48, paired over 20 rounds)"
UNSURE = (
    "at batch 1 (inconclusive: 0.949 times as long, 95 % interval 0.849 to 1.05, paired over 20 "
    "rounds)"
)
SHORT = "at batch 4 (timed in 20 rounds, too few for a verdict: measure for longer)"


@pytest.mark.parametrize(
    ("tests", "note"),
    [
        (speeds((8, 1.38, "slower")), f"slower than onnxruntime-fp32 {SLOWER}"),
        (
            speeds((1, 0.949, "inconclusive"), (4, 1.0, None), (8, 1.38, "slower")),
            f"slower than onnxruntime-fp32 {SLOWER}, and not shown to be faster {UNSURE} "
            f"and {SHORT}",
        ),
        (
            speeds((8, 1.38, "slower"), (16, 0.5, "faster")),
            f"slower than onnxruntime-fp32 {SLOWER}",
        ),
        (
            speeds((4, 1.0, None), (1, 0.949, "inconclusive"), (8, 0.5, "faster")),
            f"not shown to be faster than onnxruntime-fp32 {UNSURE} and {SHORT}",
        ),
    ],
)
def test_a_verdict_on_speed_names_its_batch_sizes(
    report: Report, tests: tuple[Speed, ...], note: str
) -> None:
    costs = replace(report.candidates[1].costs, speed=tests)
    assert speed_notes(with_costs(report, 1, costs)) == [f"onnxruntime-int8 is {note}."]


@pytest.mark.parametrize(
    ("lows", "verdict", "said"),
    [
        (
            (-0.001, -0.0016),
            "holds",
            "Both engines keep the AUC. The worst, x1, loses at most 0.0016 AUC (95 % interval);",
        ),
        (
            (-0.02, -0.03, -0.01),
            "fails",
            "3 of 3 engines fail. The worst, x1, loses at least 0.0290 AUC (95 % interval);",
        ),
        ((-0.001,), "holds", "x0 loses at most 0.0010 AUC (95 % interval);"),
    ],
)
def test_the_headline_names_the_worst_engine_once(
    report: Report, lows: tuple[float, ...], verdict: Verdict, said: str
) -> None:
    judged = tuple(
        replace(candidate(report, low, low + 0.001, verdict), name=f"x{place}")
        for place, low in enumerate(lows)
    )
    assert headline(replace(report, candidates=judged, failed=())).startswith(said)


def test_a_noisy_clock_is_told(report: Report) -> None:
    def noisy(row: LatencyResult) -> LatencyResult:
        said = ("unstable: the time of calls varies by 30.0 %", "host-bound: so it is")
        return replace(row, cov=0.3, warnings=said)

    costs = report.reference.costs
    first, *rest = costs.latency_by_batch
    reference = replace(
        report.reference, costs=replace(costs, latency_by_batch=(noisy(first), *rest))
    )
    unsteady, bound, _ = speed_notes(replace(report, reference=reference))
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
def test_on_a_desktop(page: str, tmp_path: Path, report: Report) -> None:
    seen, log = look(page.replace("</body>", PROBE + "</body>"), tmp_path, "#sort=auc:descending")
    assert (seen["ready"], seen["errors"]) == ("true", "")
    assert "CONSOLE" not in log
    by_auc = sorted(report.entries, key=lambda entry: -entry.auc)
    assert seen["hash"] == [entry.name for entry in by_auc]
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
