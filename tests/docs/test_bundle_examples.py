"""The Python example of the page on bundles runs."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/bundles.md"


def test_example_runs(workspace, crops, capsys):
    crops.rename("faces")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "onnxruntime-int8" in capsys.readouterr().out
    assert Path("board/predictions/scores.csv").is_file()
