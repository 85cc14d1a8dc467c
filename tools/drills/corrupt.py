"""Damage the artefacts of a small workspace, one at a time, and run the command that reads them.

    python -m tools.drills.corrupt --seed 1 --limit 300

A command must either give the result that it gives with the whole file, or end with exit code 2 and
an error that says why. Another result, a traceback (exit code 3) or a crash is a fault: these are
printed, and the exit code is 1. Commands run in this process, by the command line's own entry.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from lpx.cli.main import _run
from lpx.data.face_sets.demo import CHECKPOINT, demo_set
from lpx.data.face_sets.demo import folder as demo_folder
from lpx.data.face_sets.manifest import FaceManifest, write_manifest
from lpx.data.face_sets.table import FaceRow, make_table
from tools.drills import mutating

FACES = 4
SHOWN = 5


@dataclass(frozen=True)
class Case:
    """A file, and the command that reads it next.

    Attributes:
        file: Below the drill's folder; a pattern.
        line: The command.
        result: What of the command's output, or of what it wrote, is its result.
    """

    file: str
    line: tuple[str, ...]
    result: Callable[[str], Any]


def _scores(out: str) -> Any:
    return [(file["file"], file["score"], file["fake"]) for file in json.loads(out)["files"]]


def _engine(out: str) -> Any:
    return hashlib.sha256(
        Path("lpx-out/engines/onnxruntime-int8/engine.onnx").read_bytes()
    ).digest()


def _aucs(out: str) -> Any:
    report = json.loads(out)
    return [(entry["name"], entry["auc"]) for entry in (report["reference"], *report["candidates"])]


PREDICT = ("predict", "--crops", "crops", "--no-overlay", "--json", "--engine")
BENCH = ("bench", "--dataset", "crops", "--latency-seconds", "0", "--no-stages", "--json")
BUILD = ("build", "--int8", "--target", "onnxruntime")
CASES = (
    Case("lpx-out/model.json", (*PREDICT, "onnxruntime-int8"), _scores),
    Case("lpx-out/model.onnx", (*PREDICT, "onnxruntime-int8"), _scores),
    Case("lpx-out/engines/onnxruntime-int8/manifest.json", (*PREDICT, "onnxruntime-int8"), _scores),
    Case("lpx-out/engines/onnxruntime-int8/engine.onnx", (*PREDICT, "onnxruntime-int8"), _scores),
    Case("lpx-out/reference.pt", (*PREDICT, "torch"), _scores),
    Case("lpx-out/reference.pt", BENCH, _aucs),
    Case("lpx-out/scales.json", BUILD, _engine),
    Case(
        "photos-out/results.jsonl",
        (
            "predict",
            "photos",
            "--out",
            "photos-out",
            "--no-overlay",
            "--json",
            "--engine",
            "onnxruntime-int8",
        ),
        _scores,
    ),
    Case("prepared/manifest.json", ("data", "info", "prepared", "--json"), json.loads),
    Case("prepared/faces-*.npz", ("data", "info", "prepared", "--json"), json.loads),
)


def run(line: tuple[str, ...]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(list(line))
    return code, out.getvalue(), err.getvalue()


def make() -> None:
    """A workspace, faces and photographs in the current folder."""
    for place in ("crops/real", "crops/fake", "prepared/faces", "photos"):
        Path(place).mkdir(parents=True)
    rows = []
    for number, face in enumerate(demo_set("test").faces[: 2 * FACES]):
        pixels = cv2.cvtColor(face.source.read(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(f"crops/{('real', 'fake')[face.label or 0]}/{number}.png", pixels)
        cv2.imwrite(f"prepared/faces/{number}.png", pixels)
        rows.append(FaceRow(f"faces/{number}.png", face.label, face.method, f"v{number}"))
    write_manifest(
        Path("prepared"), FaceManifest("x", "square-1.3"), make_table(Path("prepared"), rows)
    )
    for name in ("p000_00.jpg", "p001_00.jpg"):
        shutil.copy(demo_folder() / name, "photos")
    for line in (
        ("export", str(demo_folder() / CHECKPOINT)),
        BUILD,
    ):
        code, _, err = run(line)
        if code:
            raise SystemExit(err)


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=300, help="Damages in all.")
    parser.add_argument("--only", default="", help="Files whose path contains this.")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    counts: dict[str, Counter[str]] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for name in [name for name in os.environ if name.startswith("LPX_")]:
            del os.environ[name]
        make()
        cases = [case for case in CASES if options.only in case.file]
        right = {}
        for case in cases:
            run(case.line)
            code, out, err = run(case.line)
            right[case] = code, case.result(out)
            if code not in (0, 1, 4):
                raise SystemExit(f"`lpx {' '.join(case.line)}` fails with nothing damaged: {err}")
        shutil.copytree(".", "../whole-" + Path(place).name, symlinks=True)
        whole = Path("../whole-" + Path(place).name).resolve()
        try:
            for number in range(options.count):
                case = cases[number % len(cases)]
                (path,) = Path().glob(case.file)
                before = path.read_bytes()
                kind, data = mutating.damage(rng, before)
                while data == before:
                    kind, data = mutating.damage(rng, before)
                path.write_bytes(data)
                what, why = judged(case, right[case])
                label = f"{case.line[0]} {path.name}"
                counts.setdefault(label, Counter())[what] += 1
                fault = what not in ("same result", "refused")
                if fault and counts[label][what] <= SHOWN:
                    print(f"--- {case.file}, damage {number} ({kind}): {what}\n{why[-1200:]}")
                for below in ("lpx-out", "prepared", "photos-out"):
                    shutil.rmtree(below, ignore_errors=True)
                    shutil.copytree(whole / below, below)
        finally:
            shutil.rmtree(whole)
        os.chdir("/")
    kinds = ("same result", "refused", "another result", "traceback", "unclear")
    print(f"{'command and file':28}" + "".join(f"{kind:>16}" for kind in kinds))
    for name, found in counts.items():
        print(f"{name:28}" + "".join(f"{found[kind]:16}" for kind in kinds))
    total: Counter[str] = sum(counts.values(), Counter())
    print(f"{'all':28}" + "".join(f"{total[kind]:16}" for kind in kinds))
    print(f"seed {options.seed}; {time.perf_counter() - began:.0f} s")
    sys.exit(1 if sum(total[kind] for kind in kinds[2:]) else 0)


def judged(case: Case, right: tuple[int, Any]) -> tuple[str, str]:
    """What became of a command whose file is damaged, and more of a fault."""
    code, out, err = run(case.line)
    if code == 2:
        return ("refused" if "error:" in err and "Traceback" not in err else "unclear"), err
    if code not in (0, 1, 4):
        return "traceback", err
    try:
        found = case.result(out)
    except (ValueError, KeyError, OSError) as error:
        return "unclear", f"{error}\n{err}"
    return ("same result", "") if (code, found) == right else ("another result", err + out)


if __name__ == "__main__":
    main()
