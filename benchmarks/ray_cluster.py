"""What Ray costs and gains: one worker beside none, two beside one, and memory for a million faces.

python benchmarks/ray_cluster.py [--turns 5] [--videos 24] [--faces 1000000]
    [--only prepare|calibrate|memory]

One Ray node on this machine, started once before anything is timed. Steps are timed in turns, in
changing order. The scores of a million faces are synthetic; each is of real size, and comes from a
worker.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from shards import exported, peak_mib, videos

from lpx import RayOptions, Workspace
from lpx.artefacts.model import read_exported
from lpx.bench.parity.score_store import BATCH, ScoreStore, UnitScores
from lpx.calibration.observe import observe
from lpx.calibration.on_cluster import ClusterObserver
from lpx.cluster.pool import Resources, WorkerPlan, run_units
from lpx.cluster.session import open_cluster
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.manifest import FaceManifest, read_face_manifest, write_manifest
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.engines.base import Prediction
from lpx.machine.machine import read_machine
from lpx.reporter import SILENT

ENGINES = {"torch": "0" * 64, "int8": "1" * 64, "fp32": "2" * 64}
GRID = 10
ROWS = 8 * BATCH
CUT: dict[str, Any] = {"methods": "Deepfakes", "frames": 32, "crop": "square-1.3"}


def in_turns(turns: int, runs: dict[str, Callable[[], float]]) -> None:
    """Print seconds of each run, and their ratio to the first one's of the same turn."""
    names = list(runs)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            seconds[name].append(runs[name]())
    for name in names:
        ratios = np.array(seconds[name]) / np.array(seconds[names[0]])
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        print(f"  {name}: {np.median(seconds[name]):.1f} s, {middle:.2f} [{low:.2f}, {high:.2f}]")


def workers(count: int, cpus: int = 1) -> RayOptions:
    return RayOptions("local", workers=count, cpus=cpus)


def prepare_step(base: Path, turns: int, count: int) -> None:
    root = videos(base, count - 1)

    def prepare(ray: RayOptions | None, processes: int = 1) -> float:
        shutil.rmtree(base / "store", ignore_errors=True)
        work = Workspace(base / "w", data_root=root, face_store=base / "store", ray=ray)
        started = time.perf_counter()
        work.prepare_faces("ffpp-c23", processes=processes, **CUT)
        return time.perf_counter() - started

    print(f"prepare, {count} videos of 60 frames")
    in_turns(
        turns,
        {
            "1 process": lambda: prepare(None),
            "2 processes": lambda: prepare(None, 2),
            "Ray, 1 worker": lambda: prepare(workers(1)),
            "Ray, 2 workers": lambda: prepare(workers(2)),
        },
    )


def calibrate_step(base: Path, turns: int) -> None:
    faces = demo_set("test")
    model = (base / "w" / "model.onnx").read_bytes()
    size = read_exported(Workspace(base / "w")).card.input_size

    # Without the choice of faces and the comparison of methods, which no cluster does.
    def calibrate(ray: RayOptions | None) -> float:
        elsewhere = None
        if ray is not None:
            elsewhere = ClusterObserver(ray, SILENT, model, faces, size)
        return observe(model, faces, size, elsewhere=elsewhere).seconds

    print("calibrate, observing the demo's 576 faces")
    in_turns(
        turns,
        {
            "without Ray": lambda: calibrate(None),
            "Ray, 1 worker of 2 cores": lambda: calibrate(workers(1, 2)),
            "Ray, 1 worker of 1 core": lambda: calibrate(workers(1)),
            "Ray, 2 workers of 1 core": lambda: calibrate(workers(2)),
        },
    )


def make_scores(cpus: int, faces: Any) -> Callable[[range], UnitScores]:
    """Scores of a unit, of the size of real ones."""

    def score(rows: range) -> UnitScores:
        unit = UnitScores({})
        for first in range(rows.start, rows.stop, BATCH):
            indices = np.arange(first, min(first + BATCH, rows.stop))
            maps = np.full((len(indices), GRID, GRID), 0.5, np.float32)
            for name in ENGINES:
                unit.add(name, indices, Prediction(maps[:, 0, 0], maps))
        return unit

    return score


def write_set(folder: Path, count: int) -> None:
    """In a process of its own, as the rows of a table take memory until it is written."""
    rows = []
    for number in range(count):
        video = f"original_sequences/youtube/c23/videos/{number // 32:05d}"
        name = f"faces/{video}/{number % 32:06d}.png"
        rows.append(FaceRow(name, number % 2, "real", video, (), "test", number % 32, 256, 256, 9))
    write_manifest(folder, FaceManifest("made up", "none"), make_table(folder, rows))


def memory(base: Path, count: int) -> None:
    """A million faces in a table; their scores come from two workers."""
    folder = base / "set"
    folder.mkdir()
    writing = get_context("spawn").Process(target=write_set, args=(folder, count))
    writing.start()
    writing.join()
    before = peak_mib()
    faces = read_face_manifest(folder)
    # Digests, which are read from a million files otherwise.
    faces.__dict__["contents"] = np.zeros((count, 32), np.uint8)
    opened = peak_mib()
    units = [range(at, min(at + ROWS, count)) for at in range(0, count, ROWS)]
    store = ScoreStore(base / "scores", {}, ENGINES)
    plan = WorkerPlan(make_scores, (faces,), Resources(1), "faces", str)
    started = time.perf_counter()
    with open_cluster(workers(2), SILENT) as cluster:
        for done in run_units(cluster, plan, units, ordered=True):
            for name, indices, prediction in done.value.batches:
                store.add(name, indices, prediction)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in (base / "scores").iterdir()) / 2**20
    print(
        f"{count} faces: {before:.0f} MiB before, {opened:.0f} with the set, {peak_mib():.0f} at "
        f"the end; {size:.0f} MiB of scores in {len(units)} units, {seconds:.0f} s"
    )


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--videos", "count", default=24, show_default=True)
@click.option("--faces", default=1_000_000, show_default=True)
@click.option("--only", type=click.Choice(("prepare", "calibrate", "memory")))
def main(turns: int, count: int, faces: int, only: str | None) -> None:
    """Measure what Ray costs and gains."""
    import ray

    print(f"{read_machine().cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Ray {ray.__version__}")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=500 * 2**20,
    )
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        exported(base / "w")
        if only in (None, "prepare"):
            prepare_step(base, turns, count)
        if only in (None, "calibrate"):
            calibrate_step(base, turns)
        if only in (None, "memory"):
            memory(base, faces)
    ray.shutdown()


if __name__ == "__main__":
    main()
