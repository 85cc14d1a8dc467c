"""The page of `lpx explain`: self-contained, escaped, small, and alive in a browser."""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from lpx.api.explain import explain
from lpx.card import ModelCard
from lpx.data.face_sets.demo import CHECKPOINT, folder
from lpx.data.face_sets.face_set import FaceSet, Skipped
from lpx.explain.examiner import Explanation, Findings, Patch
from lpx.explain.page import render_page, scale_end
from lpx.explain.pictures import draw, picture_side
from lpx.models.receptive_field import ReceptiveField
from lpx.render.encode import encode_png
from tests.support.browser import PHONE, look, needs_browser

EVIL = '<img src=x onerror="alert(1)">&\'.png'
CARD = ModelCard(
    "resnet18",
    "layer1",
    "mean_prob",
    64,
    grid=(8, 8),
    threshold=0.5,
    provenance={"data": "<b>mine</b>"},
)
LOCAL = ReceptiveField(43, 4, -21, (8, 8), True, "", 0.1)
GLOBAL = ReceptiveField(None, None, None, (8, 8), False, "mean_1: mean mixes positions", 0.1)


def face(number, label, score, regions=4, low=0.0):
    rng = np.random.default_rng(number)
    patch_map = rng.random((8, 8), np.float32)
    patch = Patch(1, 2, 0.9, (0, 0, 30, 26))
    matrix = rng.uniform(low, 1, (regions**2, regions**2)).astype(np.float32)
    return Explanation(
        f"face{number}.png", label, score, score >= 0.5, patch_map, patch, patch, matrix
    )


def page_of(*faces, field=LOCAL, skipped=(), regions=4):
    found = Findings(
        "ckpt.pt",
        CARD,
        field,
        regions,
        FaceSet("<i>set</i>", "all", "", ()),
        len(faces),
        faces,
        (),
        skipped,
    )
    pixels = np.full((64, 64, 3), 100, np.uint8)
    return render_page(found, [draw(f, pixels, regions, 64) for f in faces])


@pytest.fixture(scope="module")
def explained(drawn, tmp_path_factory):
    """Eight faces with labels, one of them with a name that means mischief, and no image."""
    root = tmp_path_factory.mktemp("explained")
    for number, pair in enumerate(drawn[:4]):
        for label, image in zip(("real", "fake"), pair, strict=True):
            name = EVIL if (number, label) == (0, "fake") else f"{number}.png"
            path = root / "faces" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))
    (root / "faces" / "real" / "x<y.png").write_bytes(b"")
    return explain(folder() / CHECKPOINT, str(root / "faces"), root / "out")


@pytest.fixture(scope="module")
def page(explained):
    return explained.page.read_text(encoding="utf-8")


class Checker(HTMLParser):
    """Collects ids, references and text, and complains about tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.references, self.words = [], [], [], []
        self.images_without_alt = 0
        self.tags = set()
        self.feed(page)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        if tag not in {"br", "img", "input", "link", "meta"}:
            self.open.append(tag)
        self.ids += [values["id"]] if values.get("id") else []
        self.references += [values[a] for a in ("src", "href", "srcset", "data") if a in values]
        self.images_without_alt += tag == "img" and not values.get("alt")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page):
    found = Checker(page)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert found.images_without_alt == 0
    assert all(r.startswith(("#", "data:")) for r in found.references)
    assert {r[1:] for r in found.references if r.startswith("#")} <= set(found.ids)
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page


def test_names_are_escaped(page):
    assert EVIL not in page
    assert page.count(escape(EVIL).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) >= 2
    assert "<b>mine" not in page_of(face(1, None, 0.4))
    assert "<i>set" not in page_of(face(1, None, 0.4))


def test_the_page_says_what_was_found(page, explained):
    text = Checker(page).text
    found = explained.findings
    wrong = f"{found.mistakes} of 8 faces are misclassified"
    assert f"{wrong} at the threshold of {found.card.threshold:.3f}" in text
    assert "1 image could not be read" in text
    assert "x<y.png file is empty" in text
    assert "Mean of real faces" in text
    assert "Fake minus real" in text
    assert "sees 147 × 147 px, 84 % of the 160 × 160 px crop" in text
    for row in found.explanations:
        assert f"local diversity: similarity {row.mean_similarity:.2f}" in text


def names(page):
    return re.findall(r'data-name="([^"]*)"', page)


def test_worst_mistakes_come_first():
    faces = [face(1, 1, 0.9), face(2, 0, 0.7), face(3, 1, 0.1), face(4, 0, 0.45), face(5, None, 1)]
    assert names(page_of(*faces)) == [f"face{n}.png" for n in (3, 2, 4, 1, 5)]


def test_without_labels_the_highest_score_comes_first():
    page = page_of(face(1, None, 0.3), face(2, None, 0.9), face(3, None, 0.6))
    assert names(page) == ["face2.png", "face3.png", "face1.png"]
    text = Checker(page).text
    assert "2 of 3 faces are classified as fake" in text
    assert "abels are unknown" in text
    assert "mistakes" not in text
    assert 'name="label"' not in page


def test_a_field_that_is_unknown_is_said_so():
    page = page_of(face(1, 1, 0.9), field=GLOBAL)
    text = Checker(page).text
    assert "no boxes are drawn: mean_1: mean mixes positions" in text
    assert "Boxes (left)" not in text


def test_without_regions_there_is_no_matrix():
    page = page_of(face(1, 1, 0.9, regions=0), face(2, 1, 0.8, regions=0), regions=0)
    text = Checker(page).text
    assert "8×8 patches has no regions" in text
    assert 'class="matrix"' not in page
    assert 'value="similarity' not in page


def test_the_scale_reaches_below_0_only_where_similarities_do():
    assert "−1" in Checker(page_of(face(1, 1, 0.9, low=-1))).text
    assert "−1" not in Checker(page_of(face(1, 1, 0.9))).text


def test_a_single_face_needs_no_tools():
    page = page_of(face(1, None, 0.9), skipped=(Skipped("a.png", "file is empty"),))
    found = Checker(page)
    assert "tools" not in found.ids
    assert "Score 0.900, classified as fake at the threshold of 0.500." in found.text


def test_400_faces_stay_below_8_mb(explained, drawn):
    side = picture_side(400)
    assert picture_side(1) == picture_side(200) == 256 > side > picture_side(3000)
    sample = [
        draw(found, pair[0][:160, :160], 4, side)
        for found, pair in zip(explained.findings.explanations, drawn, strict=False)
    ]
    pictures = sum(len(p.crop) + len(p.heat) + len(p.matrix) for p in sample) / len(sample)
    html = page_of(*(face(n, 1, 0.5) for n in range(9)))
    one = page_of(face(0, 1, 0.5))
    own = len(re.sub(r"data:image[^\"]*", "", html)) - len(re.sub(r"data:image[^\"]*", "", one))
    assert 400 * (pictures + own / 8) + len(one) < 8e6


@pytest.mark.parametrize(("largest", "end"), [(0.0, 0.1), (0.1, 0.1), (0.11, 0.2), (0.95, 1.0)])
def test_scale_end(largest, end):
    assert scale_end(np.array([[0, -largest]], np.float32)) == end


PROBE = """<script>
(function () {
  var root = document.documentElement, tools = document.getElementById("tools"), seen = {};
  function order(key) {
    return Array.from(document.querySelectorAll("#grid > li"))
      .filter(function (face) { return face.offsetParent !== null; })
      .map(function (face) { return face.dataset[key]; });
  }
  function set(name, value) {
    var one = tools.elements.namedItem(name);
    if (one.type === "checkbox") { one.checked = value; } else { one.value = value; }
    one.dispatchEvent(new Event("input", { bubbles: true }));
  }
  seen.ready = root.dataset.ready; seen.errors = root.dataset.errors || "";
  seen.width = innerWidth; seen.hash = order("score").map(Number);
  set("sort", "score:ascending"); seen.up = order("score").map(Number);
  set("sort", "similarity:descending"); seen.alike = order("similarity").map(Number);
  set("sort", "name:ascending"); seen.names = order("name");
  set("sort", "mistake:descending"); seen.mistakes = order("mistake").map(Number);
  set("label", "fake"); seen.fakes = order("label");
  set("name", "ONERROR"); seen.found = order("name");
  seen.count = document.getElementById("count").textContent;
  seen.link = location.hash;
  set("name", "no such face"); seen.none = order("name");
  seen.message = !document.getElementById("none").hidden;
  document.getElementById("reset").click(); seen.reset = order("name").length;
  set("wrong", true); seen.wrong = order("wrong"); set("wrong", false);
  document.querySelector("#grid .enlarge").click();
  seen.dialog = document.getElementById("large").open;
  seen.large = document.querySelector("#enlarged h3").textContent;
  document.getElementById("next").click();
  seen.next = document.querySelector("#enlarged h3").textContent;
  seen.place = document.getElementById("place").textContent;
  seen.dialogOverflow = enlarged.scrollWidth - enlarged.clientWidth;
  document.getElementById("close").click();
  seen.order = order("name");
  seen.images = Array.from(document.images, function (image) { return image.naturalWidth; });
  seen.overflow = root.scrollWidth - root.clientWidth;
  seen.ink = ["light", "dark"].map(function (theme) {
    root.dataset.theme = theme; return getComputedStyle(document.body).backgroundColor;
  });
  var out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify(seen);
  document.body.appendChild(out);
})();
</script>"""


@needs_browser
def test_on_a_desktop(page, tmp_path, explained):
    seen, log = look(page.replace("</body>", PROBE + "</body>"), tmp_path, "#sort=score:descending")
    faces = explained.findings.explanations
    scores = sorted(round(face.score, 6) for face in faces)
    assert (seen["ready"], seen["errors"]) == ("true", "")
    assert "CONSOLE" not in log
    assert seen["hash"] == scores[::-1]
    assert seen["up"] == scores
    assert seen["alike"] == sorted((round(f.mean_similarity, 6) for f in faces), reverse=True)
    assert sorted(seen["names"]) == sorted(face.name for face in faces)
    assert seen["names"][-4:] == [f"real/{number}.png" for number in range(4)]
    assert seen["mistakes"] == sorted(seen["mistakes"], reverse=True)
    assert seen["fakes"] == ["fake"] * 4
    assert seen["found"] == [f"fake/{EVIL}"]
    assert seen["count"] == "1 of 8 faces"
    assert "label=fake" in seen["link"]
    assert "sort=mistake" in seen["link"]
    assert (seen["none"], seen["message"], seen["reset"]) == ([], True, 8)
    assert seen["wrong"] == ["1"] * explained.findings.mistakes
    assert seen["dialog"]
    assert [seen["large"], seen["next"]] == seen["order"][:2]
    assert seen["place"] == "2 of 8"
    assert min(seen["images"]) > 0
    assert seen["overflow"] <= 0
    assert seen["ink"][0] != seen["ink"][1]


@needs_browser
def test_on_a_phone(page, tmp_path):
    framed = PHONE.format(escape(page.replace("</body>", PROBE + "</body>")))
    seen, log = look(framed, tmp_path)
    assert "CONSOLE" not in log
    assert (seen["width"], seen["errors"]) == (375, "")
    assert seen["overflow"] <= 0
    assert seen["dialogOverflow"] <= 0
