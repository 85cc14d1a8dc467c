"""The Python examples of the documentation run, in the order in which a page has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lpx.data.face_sets.demo import CHECKPOINT, PAIRS, demo_set, folder
from lpx.data.face_sets.demo_clip import clip_path
from lpx.render.encode import encode_png

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the examples name: ckpt.pt, faces/ with labels, photo.png, video.mp4."""
    for split in PAIRS:
        monkeypatch.setitem(PAIRS, split, 6)
    monkeypatch.chdir(tmp_path)
    Path("ckpt.pt").write_bytes((folder() / CHECKPOINT).read_bytes())
    for number, face in enumerate(demo_set("train").faces):
        path = Path("faces", "fake" if face.label else "real", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(face.source.read()))
    Path("video.mp4").write_bytes(clip_path().read_bytes())
    Path("photo.png").write_bytes(Path("faces/real/0.png").read_bytes())


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_examples_run(here, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    assert blocks
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, example {number}", "exec"), names)
