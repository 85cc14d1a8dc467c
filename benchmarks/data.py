"""Face sets: how fast a manifest opens, and how fast crops load beside plain OpenCV.

    python benchmarks/data.py                       # both parts
    python benchmarks/data.py --only manifest
    python benchmarks/data.py --only loading --json out.json

manifest: a million faces, written, then opened in a new process: seconds, and what resident memory
grows by; after it labels, digest, a stratified sample, and one batch.
loading: crops of 256 px through `FaceSet.stream`, and through `cv2.imread`, `cv2.cvtColor` and
`cv2.resize` in a loop, in turns over the same files; each turn gives one ratio, and the median of
them is reported with the least and the greatest. Turns in which others used the machine do not
count, unless all are such. Two cores are used where there are more.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from lpx.data.demo_set import demo_set
from lpx.data.face_manifest import FaceManifest, read_face_manifest, write_manifest
from lpx.data.face_set import FaceSet
from lpx.data.face_table import FaceRow, make_table
from lpx.engines.machine import read_machine

SIDE = 256
FILES = 300
BATCH = 32
METHODS = ("real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
FRAMES = 32
QUIET = 0.1
"""Cores that others may use in a turn that counts, where there are such turns."""

MEASURE_MANIFEST = """
import json, sys, time
from pathlib import Path
from lpx.data.face_manifest import read_face_manifest

def resident():
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split("kB")[0]
    return int(fields) / 1024

result, before = {}, resident()
def timed(name, work):
    started = time.perf_counter()
    value = work()
    result[name + "_s"] = time.perf_counter() - started
    return value

faces = timed("load", lambda: read_face_manifest(Path(sys.argv[1])))
result["resident_mib"] = resident() - before
timed("labels", faces.labels)
timed("digest", faces.digest)
timed("sample_512", lambda: faces.sample(512))
timed("select", lambda: faces.select(split="test", methods=["FaceSwap"]))
timed("first_32", lambda: list(faces.faces[:32]))
print(json.dumps(result))
"""

MEASURE_STREAM = """
import json, sys
from pathlib import Path
from lpx.data.face_manifest import read_face_manifest
faces = read_face_manifest(Path(sys.argv[1])).first(int(sys.argv[2]))
count = sum(len(batch.indices) for batch in faces.stream(32, 256, []))
assert count == int(sys.argv[2])
# Not ru_maxrss: a child begins with its parent's.
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split("kB")[0]) / 1024)
"""


Turn = tuple["Clocked", "Clocked"]
"""Plain OpenCV's and ours, one after the other."""


def million(count: int) -> list[FaceRow]:
    rows = []
    for number in range(count):
        video, frame = divmod(number, FRAMES)
        who, method = divmod(video, len(METHODS))
        name = METHODS[method]
        people = (f"id{who:05d}",) if not method else (f"id{who:05d}", f"id{who + 1:05d}")
        rows.append(
            FaceRow(f"{name}/c23/{video:06d}/{frame * 11:05d}.png", int(method > 0), name,
                    f"{name}/{video:06d}", people, ("train", "val", "test")[who % 3], frame * 11,
                    256, 256, 100_000 + number % 977)
        )  # fmt: skip
    return rows


def manifest(count: int) -> dict[str, float]:
    """Seconds and MiB of opening a manifest; the best of three, as others use the machine too."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = make_table(folder, million(count))
        started = time.perf_counter()
        write_manifest(folder, FaceManifest("made up", "none"), table)
        written = time.perf_counter() - started
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        runs = [run(MEASURE_MANIFEST, str(folder)) for _ in range(3)]
    best = {key: min(one[key] for one in runs) for key in runs[0]}
    return {"faces": count, "file_mib": size, "write_s": written, **best}


def run(script: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def write_crops(folder: Path, suffix: str) -> list[Path]:
    """Crops of 256 px, different ones, made from the demo's faces."""
    paths = []
    for number, face in enumerate(demo_set("test").faces[:FILES]):
        image = cv2.resize(face.source.read(), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        path = folder / f"{number:04d}{suffix}"
        cv2.imwrite(str(path), image[..., ::-1])
        paths.append(path)
    return paths


def plain(paths: list[Path], size: int) -> None:
    for path in paths:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        # Averaging, as lpx shrinks: the same pixels.
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def ours(faces: FaceSet, size: int) -> None:
    count = sum(len(batch.indices) for batch in faces.stream(BATCH, size, []))
    assert count == len(faces.faces)


def face_set(folder: Path, paths: list[Path]) -> FaceSet:
    rows = [FaceRow(p.name, 1, "fake", p.name, size_bytes=p.stat().st_size) for p in paths]
    write_manifest(folder, FaceManifest("crops", "none"), make_table(folder, rows))
    return read_face_manifest(folder)


@dataclass(frozen=True)
class Clocked:
    """Seconds that passed, that this process computed for, and that everything else did."""

    wall: float
    own: float
    others: float


def clock(work: Callable[[], None]) -> Clocked:
    wall, own, machine = time.perf_counter(), time.process_time(), machine_seconds()
    work()
    own = time.process_time() - own
    return Clocked(time.perf_counter() - wall, own, max(0.0, machine_seconds() - machine - own))


def machine_seconds() -> float:
    """Processor time of the whole machine that was not idle, in seconds since it started."""
    fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle, waiting = fields[3], fields[4]
    # The last two, guests, are in the first two already.
    return (sum(fields[:8]) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def in_turns(paths: list[Path], faces: FaceSet, size: int, turns: int) -> list[Turn]:
    # The first turn warms the file cache for both.
    return [
        (clock(lambda: plain(paths, size)), clock(lambda: ours(faces, size)))
        for _ in range(turns + 1)
    ][1:]


def loading(turns: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in (".png", ".jpg"):
            folder = Path(scratch) / suffix[1:]
            folder.mkdir()
            paths = write_crops(folder, suffix)
            faces = face_set(folder, paths)
            rows += [
                row(suffix, size, in_turns(paths, faces, size, turns), len(paths))
                for size in (SIDE, 224)
            ]
        many = [FaceRow(paths[i % FILES].name, 1, "fake", "v", size_bytes=1) for i in range(8000)]
        write_manifest(folder, FaceManifest("crops", "none"), make_table(folder, many))
        peaks = {count: run(MEASURE_STREAM, str(folder), str(count)) for count in (1000, 8000)}
    rows.append({"peak_resident_mib": peaks})
    return rows


def row(suffix: str, size: int, turns: list[Turn], count: int) -> dict[str, Any]:
    quiet = [t for t in turns if max(one.others / one.wall for one in t) < QUIET]
    pairs = quiet or turns
    ratios = [theirs.wall / mine.wall for theirs, mine in pairs]
    return {
        "files": suffix,
        "size": size,
        "turns": len(turns),
        "turns_quiet": len(quiet),
        "ratio_median": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_greatest": max(ratios),
        "plain_faces_per_s": count / statistics.median(p.wall for p, _ in pairs),
        "lpx_faces_per_s": count / statistics.median(m.wall for _, m in pairs),
        "plain_cpu_ms": 1000 * statistics.median(p.own for p, _ in pairs) / count,
        "lpx_cpu_ms": 1000 * statistics.median(m.own for _, m in pairs) / count,
    }


@click.command()
@click.option("--only", type=click.Choice(["manifest", "loading"]))
@click.option("--faces", default=1_000_000, show_default=True, help="Faces in the manifest.")
@click.option("--turns", default=15, show_default=True, help="Turns of the loading comparison.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(only: str | None, faces: int, turns: int, json_path: Path | None) -> None:
    # Two cores, wherever this runs; threads inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    cv2.setNumThreads(2)
    result: dict[str, Any] = {"cpu": read_machine().cpu, "load_before": os.getloadavg()[0]}
    print(
        f"{result['cpu']}, {len(os.sched_getaffinity(0))} cores, load {result['load_before']:.1f}"
    )
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    if only in (None, "manifest"):
        result["manifest"] = manifest(faces)
        print(", ".join(f"{key} {value:.3g}" for key, value in result["manifest"].items()))
    if only in (None, "loading"):
        result["loading"] = loading(turns)
        *rows, memory = result["loading"]
        for r in rows:
            print(
                f"{r['files']} {SIDE} -> {r['size']}: {r['lpx_faces_per_s']:.0f} faces/s, plain "
                f"{r['plain_faces_per_s']:.0f}: {r['ratio_median']:.2f}x (from "
                f"{r['ratio_least']:.2f} to {r['ratio_greatest']:.2f}, {r['turns_quiet']} of "
                f"{r['turns']} turns with the machine to itself); CPU {r['lpx_cpu_ms']:.2f} "
                f"ms a face, plain {r['plain_cpu_ms']:.2f}"
            )
        print(", ".join(f"{n} faces: peak {mib:.0f} MiB"
                        for n, mib in memory["peak_resident_mib"].items()))  # fmt: skip
    if json_path:
        json_path.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main())
