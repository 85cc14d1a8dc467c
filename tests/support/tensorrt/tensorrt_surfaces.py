"""The names of each TensorRT release claimed, read from tests/fixtures/tensorrt_api."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "fixtures" / "tensorrt_api"
RELEASES = (
    "tensorrt-8.6.1",
    "tensorrt-10.3.0",
    "tensorrt-10.7.0",
    "tensorrt-10.13.3.9",
    "tensorrt-10.16.1.11",
    "tensorrt-11.4.0.106",
    "tensorrt-rtx-1.7.1.116",
)
LEAN = ("tensorrt-lean-10.16.1.11", "tensorrt-lean-11.4.0.106")
"""The lean runtime, which runs plans and builds none."""


@cache
def surface(release: str) -> dict[str, frozenset[str]]:
    """Class name -> its public members."""
    content = json.loads((FOLDER / f"{release}.json").read_text())
    return {name: frozenset(members) for name, members in content["classes"].items()}


@cache
def version(release: str) -> str:
    return str(json.loads((FOLDER / f"{release}.json").read_text())["version"])
