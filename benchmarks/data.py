"""Face sets: how fast faces are cut, a manifest opens, and crops load beside plain OpenCV.

    python benchmarks/data.py                       # all parts
    python benchmarks/data.py --only prepare
    python benchmarks/data.py --only manifest
    python benchmarks/data.py --only loading --json out.json

prepare: faces of videos of 300 frames of 1280 x 720 pixels, 32 a video, through `prepare` in one
process, and through a plain loop over the same videos: `cv2.VideoCapture`, the same detector, a
slice, `cv2.imwrite`. Both in turns; frames per second are crops written per second of one core, and
shares say where `prepare` spends them. Last, `prepare` with two processes.
manifest: a million faces, written, then opened in a new process: seconds, and what resident memory
grows by; after it labels, a selection, and one batch. For digests: benchmarks/contents.py.
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
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from lpx.data.detect import open_detector
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.manifest import FaceManifest, read_face_manifest, write_manifest
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.data.images.video_file import frame_indices
from lpx.data.prepare import prepare
from lpx.data.prepare.workers import cut_videos
from lpx.data.roots import DataPlaces
from lpx.machine.machine import read_machine

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
from lpx.data.face_sets.manifest import read_face_manifest

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
timed("first_512", lambda: faces.first(512))
timed("select", lambda: faces.select(split="test", methods=["FaceSwap"]))
timed("first_32", lambda: list(faces.faces[:32]))
print(json.dumps(result))
"""

MEASURE_STREAM = """
import json, sys
from pathlib import Path
from lpx.data.face_sets.manifest import read_face_manifest
faces = read_face_manifest(Path(sys.argv[1])).first(int(sys.argv[2]))
count = sum(len(batch.indices) for batch in faces.stream(32, 256, []))
assert count == int(sys.argv[2])
# Not ru_maxrss: a child begins with its parent's.
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split("kB")[0]) / 1024)
"""


VIDEO_FRAMES = 300
VIDEO_WIDTH, VIDEO_HEIGHT = 1280, 720
FACE_SIDE = 420
"""Of the portrait in a video, pixels; the face is half as wide."""


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
            FaceRow(
                f"{name}/c23/{video:06d}/{frame * 11:05d}.png",
                int(method > 0),
                name,
                f"{name}/{video:06d}",
                people,
                ("train", "val", "test")[who % 3],
                frame * 11,
                256,
                256,
                100_000 + number % 977,
            )
        )
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


def write_videos(root: Path, count: int) -> list[Path]:
    """A FaceForensics++ of reals whose videos show a portrait that moves over noise."""
    portraits = [face.source.read() for face in demo_set("test").faces[:count]]
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(60, 200, (45, 80, 3), np.uint8), (VIDEO_WIDTH, VIDEO_HEIGHT))
    folder = root / "original_sequences" / "youtube" / "c23" / "videos"
    folder.mkdir(parents=True)
    ids = [f"{number:03d}" for number in range(count)]
    pairs = list(zip(ids[::2], ids[1::2], strict=True))
    for split, listed in (("train", []), ("val", []), ("test", pairs)):
        (root / f"{split}.json").write_text(json.dumps(listed))
    paths = []
    for name, portrait in zip(ids, portraits, strict=True):
        face = cv2.resize(portrait, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA)
        path = folder / f"{name}.mp4"
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), fourcc, 25, (VIDEO_WIDTH, VIDEO_HEIGHT))
        for index in range(VIDEO_FRAMES):
            frame = wall.copy()
            left = 400 + round(200 * np.sin(index / 40))
            top = 120 + round(60 * np.cos(index / 25))
            frame[top : top + FACE_SIDE, left : left + FACE_SIDE] = face[..., ::-1]
            writer.write(frame)
        writer.release()
        paths.append(path)
    return paths


def plain_prepare(paths: list[Path], out: Path) -> None:
    """What one writes without lpx: read on, detect in 32 frames, slice, write."""
    detector = open_detector()
    for path in paths:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        due = set(frame_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), FRAMES).tolist())
        for index in range(max(due) + 1):
            done, frame = capture.read()
            if not done or index not in due:
                continue
            found = detector.detect(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            if not found:
                continue
            x0, y0, x1, y1 = map(int, found[0].box)
            half = int(0.65 * max(x1 - x0, y1 - y0))
            x, y = max((x0 + x1) // 2 - half, 0), max((y0 + y1) // 2 - half, 0)
            cv2.imwrite(
                str(out / f"{path.stem}_{index:03d}.png"), frame[y : y + 2 * half, x : x + 2 * half]
            )
        capture.release()


def preparing(turns: int, videos: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        paths = write_videos(root / "ffpp", videos)
        for recipe in ("square-1.3", "aligned-1.3-256"):
            made = [prepare_turn(root, paths, recipe, number) for number in range(turns + 1)][1:]
            rows.append({"recipe": recipe, "videos": videos, **summed(made, FRAMES * videos)})
    return rows


def prepare_turn(
    root: Path, paths: list[Path], recipe: str, number: int
) -> tuple[Clocked, Clocked, Clocked, dict[str, float]]:
    """The plain loop, `prepare` in one process and in two, and the seconds of its stages."""
    out = root / f"plain-{recipe}-{number}"
    out.mkdir()
    theirs = clock(lambda: plain_prepare(paths, out))
    seconds: dict[str, float] = {}

    def ours(processes: int) -> None:
        store = root / f"store-{recipe}-{number}-{processes}"
        done = prepare(
            "ffpp-c23",
            places=DataPlaces(root / "ffpp", store),
            crop=recipe,
            cut=partial(cut_videos, processes=processes),
        )
        assert done.faces == FRAMES * len(paths), done.reasons()
        seconds.update(done.seconds if processes == 1 else {})

    return theirs, clock(lambda: ours(1)), clock(lambda: ours(2)), seconds


def summed(
    turns: list[tuple[Clocked, Clocked, Clocked, dict[str, float]]], faces: int
) -> dict[str, Any]:
    quiet = [t for t in turns if max(one.others / one.wall for one in t[:2]) < QUIET]
    chosen = quiet or turns
    ratios = [theirs.wall / mine.wall for theirs, mine, _, _ in chosen]
    total = sum(sum(seconds.values()) for *_, seconds in chosen)
    return {
        "turns": len(turns),
        "turns_quiet": len(quiet),
        "ratio_median": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_greatest": max(ratios),
        "plain_frames_per_s": faces / statistics.median(t[0].own for t in chosen),
        "lpx_frames_per_s_core": faces / statistics.median(t[1].own for t in chosen),
        "two_processes_speedup": statistics.median(t[1].wall / t[2].wall for t in chosen),
        "shares": {
            stage: sum(seconds[stage] for *_, seconds in chosen) / total for stage in chosen[0][3]
        },
    }


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
@click.option("--only", type=click.Choice(["prepare", "manifest", "loading"]))
@click.option("--faces", default=1_000_000, show_default=True, help="Faces in the manifest.")
@click.option("--turns", default=15, show_default=True, help="Turns of the loading comparison.")
@click.option("--videos", default=4, show_default=True, help="Videos to prepare; even.")
@click.option("--prepare-turns", default=5, show_default=True, help="Turns of preparing them.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    only: str | None,
    faces: int,
    turns: int,
    videos: int,
    prepare_turns: int,
    json_path: Path | None,
) -> None:
    # Two cores, wherever this runs; threads inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    cv2.setNumThreads(2)
    result: dict[str, Any] = {"cpu": read_machine().cpu, "load_before": os.getloadavg()[0]}
    print(
        f"{result['cpu']}, {len(os.sched_getaffinity(0))} cores, load {result['load_before']:.1f}"
    )
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    if only in (None, "prepare"):
        # One core per process, as shares and frames per second of one core say.
        cv2.setNumThreads(1)
        result["prepare"] = preparing(prepare_turns, videos)
        cv2.setNumThreads(2)
        for r in result["prepare"]:
            shares = ", ".join(f"{stage} {share:.0%}" for stage, share in r["shares"].items())
            print(
                f"prepare {r['recipe']}: {r['lpx_frames_per_s_core']:.0f} frames/s of one core "
                f"({shares}); plain loop {r['plain_frames_per_s']:.0f}: {r['ratio_median']:.2f}x "
                f"(from {r['ratio_least']:.2f} to {r['ratio_greatest']:.2f}, {r['turns_quiet']} "
                f"of {r['turns']} turns with the machine to itself); two processes "
                f"{r['two_processes_speedup']:.2f}x"
            )
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
        print(
            ", ".join(
                f"{n} faces: peak {mib:.0f} MiB" for n, mib in memory["peak_resident_mib"].items()
            )
        )
    if json_path:
        json_path.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main())
