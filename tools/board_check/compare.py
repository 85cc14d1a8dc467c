"""Compare ranges, scores and verdicts of two workspaces that went through the same steps.

python tools/board_check/compare.py HERE THERE NAME
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def scores(folder: Path, engine: str) -> dict[str, float]:
    """Return the scores of an engine by file."""
    with open(folder / engine / "scores.csv", newline="") as stream:
        return {row["file"]: float(row["score"]) for row in csv.DictReader(stream)}


def numbers(value: Any) -> Iterator[float]:
    """Yield all numbers with a decimal point in nested values, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def ranges(folder: Path) -> list[float]:
    """Return the ranges in `scales.json`, without times and losses."""
    return list(numbers(json.loads((folder / "scales.json").read_text())["tensors"]))


def main(here: Path, there: Path, name: str) -> None:
    """Print the differences."""
    worst = 0.0
    ours, theirs = ranges(here), ranges(there)
    for one, other in zip(ours, theirs, strict=True):
        worst = max(worst, abs(one - other) / max(abs(one), abs(other), 1e-12))
    print(f"ranges: {len(ours)} numbers, largest relative difference {worst:.1e}")
    for engine in ("fp32", "int8"):
        mine, yours = scores(here, engine), scores(there, engine)
        if mine.keys() != yours.keys():
            sys.exit(f"{engine}: other faces were scored")
        difference = max(abs(mine[file] - yours[file]) for file in mine)
        print(f"{engine}: {len(mine)} faces, largest score difference {difference:.1e}")
    for place, folder in (("here", here), (name, there)):
        report = json.loads((folder / "report.json").read_text())
        for entry in report["candidates"]:
            interval = entry["auc_difference"]
            print(
                f"{place}: {entry['name']} {entry['verdict']}, AUC difference "
                f"{interval['estimate']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
