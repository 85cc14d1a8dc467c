"""What shards cost: merging many parts, and two shards beside an undivided run.

python benchmarks/shards.py [--parts 1000] [--faces 1000000] [--turns 5]
                            [--only merge|prepare|calibrate]

Scores and observations of the parts that are merged are synthetic: merging does not depend on their
values. Each merge runs in a process of its own, whose peak memory is given. The two shards of the
overhead run one after the other: the ratio says what splitting and merging add to the work.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from lpx import Workspace
from lpx.bench.parity.score import BATCH
from lpx.bench.parity.score_store import OF, ScoreStore
from lpx.calibration.observe import observe
from lpx.calibration.observed_model import LARGEST_BATCH
from lpx.calibration.progress import PassProgress, save_progress
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.data.images.decode import read_image
from lpx.engines.base import Prediction
from lpx.machine.machine import read_machine
from lpx.reporter import SILENT
from lpx.shards.bench import join_scores
from lpx.shards.calibrate import merged_observation
from lpx.shards.contents import save_contents, take
from lpx.shards.join import open_whole
from lpx.shards.part import open_part
from lpx.shards.shard import Shard

ENGINES = {"torch": "0" * 64, "int8": "1" * 64, "fp32": "2" * 64}
GRID = 10
REALS = "original_sequences/youtube/c23/videos"


def bench_parts(base: Path, count: int, faces: int) -> None:
    """Parts of a bench with scores of a million faces by three engines."""
    rng = np.random.default_rng(0)
    batch = Prediction(rng.random(BATCH, np.float32), rng.random((BATCH, GRID, GRID), np.float32))
    for index in range(count):
        shard = Shard(index, count)
        rows = shard.rows(faces, BATCH)
        place = base / shard.folder_name
        with open_part(place, "bench", shard, {"engines": ENGINES}, SILENT) as work:
            store = ScoreStore(place / "scores", {}, ENGINES)
            for start in range(rows.start, rows.stop, BATCH):
                indices = np.arange(start, min(start + BATCH, rows.stop))
                some = Prediction(batch.score[: len(indices)], batch.patch_map[: len(indices)])
                for name in ENGINES:
                    store.add(name, indices, some)
            names = [f"scores/{p.name}" for p in (place / "scores").iterdir() if p.name != OF]
            work.seal(names, {"failures": {}})


def calibration_parts(base: Path, work: Workspace, count: int) -> None:
    """Parts of a calibration on eight faces each, which all observed the same."""
    model = work.model.read_bytes()
    faces = chosen_faces(count)
    seen = observe(model, faces.first(LARGEST_BATCH), 160)
    for index in range(count):
        shard = Shard(index, count)
        mine = take(faces, shard.rows(len(faces.faces), LARGEST_BATCH))
        place = base / shard.folder_name
        key = {"observed": seen.model_sha256}
        with open_part(place, "calibrate", shard, key, SILENT) as part:
            progress = PassProgress(len(mine.faces), (), seen.observers)
            of = {"model": seen.model_sha256, "faces": mine.digest()}
            save_progress(place / "observed.npz", of, progress, final=True)
            save_contents(part, mine)
            part.seal(["observed.npz", "contents.sha256"], {})


def chosen_faces(count: int) -> Any:
    faces = demo_set("train")
    return faces.take(np.arange(count * LARGEST_BATCH) % len(faces.faces))


def peak_mib() -> float:
    """Peak memory of this process, MiB; getrusage would count that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    line = next(one for one in status.splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def merge_here(kind: str, base: Path, count: int) -> None:
    """In a process of its own: merge, and print seconds and peak memory."""
    before = peak_mib()
    started = time.perf_counter()
    whole = open_whole([base])
    if kind == "bench":
        join_scores(whole, {"count": count}, base.parent / "joined", SILENT)
    else:
        merged_observation(whole, chosen_faces(count), SILENT)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak_mib()}))


def merging(kind: str, base: Path, count: int) -> str:
    command = [sys.executable, __file__, "--child", kind, "--base", str(base)]
    command += ["--faces", str(count), "--parts", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    got = json.loads(done.stdout.splitlines()[-1])
    size = sum(path.stat().st_size for path in base.rglob("*") if path.is_file()) / 2**20
    return (
        f"{got['seconds']:.1f} s, peak {got['peak']:.0f} MiB ({got['before']:.0f} MiB before), "
        f"{size:.0f} MiB of parts"
    )


def exported(base: Path) -> Workspace:
    work = Workspace(base)
    work.export(folder() / CHECKPOINT, verify_faces=2)
    return work


def videos(base: Path, count: int) -> Path:
    """A set of the layout of FaceForensics++ with real videos only, and one fake."""
    root = base / "ffpp"
    image = read_image(folder() / "p000_00.jpg")
    frame = cv2.resize(image[..., ::-1], (640, 640))
    names = [f"{REALS}/{n:03d}.mp4" for n in range(count)]
    names.append("manipulated_sequences/Deepfakes/c23/videos/000_001.mp4")
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (640, 640))
        for shift in range(60):
            writer.write(np.roll(frame, 2 * shift, axis=1))
        writer.release()
    pairs = [[f"{n:03d}", f"{n + 1:03d}"] for n in range(0, count, 2)]
    for split, some in (("train", pairs[:1]), ("val", []), ("test", pairs[1:])):
        (root / f"{split}.json").write_text(json.dumps(some))
    return root


def ratios(turns: int, alone: Callable[[], object], shards: Callable[[], object]) -> str:
    """Time of two shards and their merge over that of an undivided run, in turns."""
    alone()
    values, seconds = [], []
    for turn in range(turns):
        times = {}
        # In both orders, as the load of the machine drifts.
        for run in ((alone, shards), (shards, alone))[turn % 2]:
            started = time.perf_counter()
            run()
            times[run] = time.perf_counter() - started
        seconds.append(times[alone])
        values.append(times[shards] / times[alone])
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}] of {statistics.median(seconds):.1f} s"


def overhead(base: Path, turns: int, only: str | None) -> None:
    work = exported(base / "w")
    root = videos(base, 8)
    options: dict[str, Any] = {
        "methods": "Deepfakes",
        "frames": 32,
        "processes": 1,
        "crop": "square-1.3",
    }

    def prepare(shards: int) -> None:
        shutil.rmtree(base / "store", ignore_errors=True)
        cutting = Workspace(base / "w", data_root=root, face_store=base / "store")
        if not shards:
            cutting.prepare_faces("ffpp-c23", **options)
            return
        parts = []
        for index in range(shards):
            part = cutting.shard(f"{index}/{shards}").prepare_faces("ffpp-c23", **options)
            parts.append(part.folder)
        cutting.merge(parts)

    def calibrate(shards: int) -> None:
        if not shards:
            work.calibrate("demo", limit=256)
            return
        shutil.rmtree(work.root / "shards", ignore_errors=True)
        for index in range(shards):
            work.shard(f"{index}/{shards}").calibrate("demo", limit=256)
        work.merge(work.root / "shards/calibrate")

    if only != "calibrate":
        found = ratios(turns, lambda: prepare(0), lambda: prepare(2))
        print("prepare, 9 videos of 60 frames:", found)
    if only != "prepare":
        found = ratios(turns, lambda: calibrate(0), lambda: calibrate(2))
        print("calibrate, 256 faces:", found)


@click.command()
@click.option("--parts", default=1000, show_default=True)
@click.option("--faces", default=1_000_000, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--only", type=click.Choice(("merge", "prepare", "calibrate")))
@click.option("--child", hidden=True)
@click.option("--base", type=click.Path(path_type=Path), hidden=True)
def main(
    parts: int, faces: int, turns: int, only: str | None, child: str | None, base: Path | None
) -> None:
    """Measure what shards cost."""
    if child is not None and base is not None:
        merge_here(child, base, faces)
        return
    print(f"{read_machine().cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if only in (None, "merge"):
            bench_parts(place / "bench", parts, faces)
            print(f"bench, {faces} faces, {parts} parts:", merging("bench", place / "bench", faces))
            calibration_parts(place / "calibrate", exported(place / "m"), parts)
            found = merging("calibrate", place / "calibrate", parts)
            print(f"calibrate, {parts} parts:", found)
        if only != "merge":
            overhead(place, turns, only)


if __name__ == "__main__":
    main()
