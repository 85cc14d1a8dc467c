"""Compare ranges, scores and verdicts of two workspaces that went through the same steps.

python tools/board_check/compare.py HERE THERE NAME
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path


def scores(folder: Path, engine: str) -> dict[str, float]:
    """Return the scores of an engine by file."""
    with open(folder / engine / "scores.csv", newline="") as stream:
        return {row["file"]: float(row["score"]) for row in csv.DictReader(stream)}


def ranges(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of each tensor."""
    tensors = json.loads((folder / "scales.json").read_text())["tensors"]
    return {name: (values["low"], values["high"]) for name, values in tensors.items()}


def main(here: Path, there: Path, name: str) -> None:
    """Print the differences."""
    ours, theirs = ranges(here), ranges(there)
    if ours.keys() != theirs.keys():
        sys.exit("other tensors were observed")
    differences = []
    for tensor, ends in ours.items():
        width = ends[1] - ends[0]
        difference = max(abs(x - y) for x, y in zip(ends, theirs[tensor], strict=True))
        differences.append(difference / width)
    print(f"ranges of {len(ours)} tensors, largest difference {max(differences):.1e} of a range")
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
