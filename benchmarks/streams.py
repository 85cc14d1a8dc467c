"""Streams: found capacity against a brute-force sweep, and memory of a live source over time.

    python benchmarks/streams.py capacity WORKSPACE [--engine NAME] [--fps F] [--budget-ms MS]
        [--most N] [--passes P] [--stand-in MS]
    python benchmarks/streams.py memory WORKSPACE [--few N] [--many N]

The sweep runs every number of streams from 1 up, `--passes` times, and the search runs before it,
between its passes and after it, as the machine may be used by others meanwhile. A number of streams
holds if most of its trials do, and so do all smaller ones.

With `--stand-in` an engine that only waits, and faces at a fixed place, take the place of the real
ones, as if both ran on a GPU: other work on the processor then hardly changes the result, so that
search and sweep can be compared on a machine that is not idle.

Memory is that of the process that scores and of the one that decodes, after a few frames and after
many, of the demo's clip at 200 frames a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import lpx
from lpx.artefacts.model import read_exported
from lpx.data.detect import Detection, FaceMesh, open_detector
from lpx.data.face_sets.demo_clip import clip_path
from lpx.data.images.crops import RECIPES
from lpx.engines.base import Engine, Prediction
from lpx.engines.load import load
from lpx.machine.energy_sources import Unavailable
from lpx.machine.process_memory import read_memory
from lpx.predict.choose_recipe import choose_recipe
from lpx.reporter import SILENT
from lpx.streams.capacity.judge import judge
from lpx.streams.capacity.plan import Budget, CapacityOptions
from lpx.streams.capacity.scoring_thread import ScoringThread
from lpx.streams.capacity.search import find_most_streams
from lpx.streams.capacity.trial import TrialSetup, run_trial
from lpx.streams.face_road import FaceRoad

FAST_HZ = 200.0


class WaitingEngine(Engine):
    """Takes a fixed time per call, on no processor."""

    def __init__(self, size: int, seconds: float) -> None:
        super().__init__(size)
        self.seconds = seconds

    def _infer(self, faces):
        time.sleep(self.seconds)
        zeros = np.zeros((len(faces), 1, 1), np.float32)
        return Prediction(zeros[:, 0, 0], zeros)

    def _release(self):
        pass


class FixedDetector:
    """Finds a face in the middle of every frame."""

    name = "fixed"

    def detect(self, image):
        """Return the face."""
        height, width = image.shape[:2]
        box = (0.3 * width, 0.3 * height, 0.7 * width, 0.7 * height)
        return (Detection(box, 1.0, np.zeros((5, 2), np.float32)),)


def capacity(options: argparse.Namespace) -> None:
    work = lpx.Workspace(options.workspace)
    model = read_exported(work)
    recipe = choose_recipe(model.card, None, SILENT)
    detector = open_detector("blazeface", 1)
    engine = partial(load, work.engine(options.engine), shares_cores=True)
    if options.stand_in:
        recipe = RECIPES["square-1.3"]
        detector = FixedDetector()
        engine = partial(WaitingEngine, model.card.input_size, options.stand_in / 1e3)
    road = FaceRoad(model.card, detector, FaceMesh(1), recipe)
    budget = Budget(options.fps, options.budget_ms)
    settings = CapacityOptions()
    with ExitStack() as stack:
        scoring = stack.enter_context(ScoringThread(lambda: closing(engine())))
        setup = TrialSetup(
            (clip_path(),), road, scoring, options.batch, budget, settings, Unavailable("")
        )

        def run(streams, *, scout):
            trial = judge(run_trial(setup, streams, scout=scout), budget, scout=scout)
            if trial.other_cores is not None and not scout:
                others.append(trial.other_cores)
            return trial

        others: list[float] = []
        held = defaultdict(list)
        found = []
        for number in range(options.passes + 1):
            if number:
                for streams in range(1, options.most + 1):
                    trial = run(streams, scout=False)
                    held[streams].append(trial.verdict == "holds")
                    print(
                        f"sweep {number}: {streams} streams {trial.verdict}, p99 "
                        f"{trial.p99_ms.estimate:.0f} ms, other programs "
                        f"{trial.other_cores or 0:.1f} cores",
                        flush=True,
                    )
            result = find_most_streams(run, settings.most_streams, lambda text: None)
            found.append(result.streams)
            print(f"search {number}: {result.streams} streams", flush=True)
    swept = 0
    for streams in range(1, options.most + 1):
        if 2 * sum(held[streams]) <= len(held[streams]):
            break
        swept = streams
    shares = {streams: f"{sum(trials)}/{len(trials)}" for streams, trials in held.items()}
    print(f"sweep: {swept} streams ({shares}); search: {found}")
    print(f"ratio (median of searches / sweep): {statistics.median(found) / max(swept, 1):.2f}")
    print(f"other programs: {statistics.mean(others):.1f} cores (mean of all full trials)")


def memory(options: argparse.Namespace) -> None:
    work = lpx.Workspace(options.workspace)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "fast.mp4"
        _write_fast(video)
        with work.watch(video, frames=options.many) as live:
            for item in live:
                if not isinstance(item, lpx.ScoredFrame):
                    continue
                frames = item.counts.frames
                if frames in (options.few, options.many) or frames % 1000 == 0:
                    print(
                        f"{frames} frames: {read_memory()['process_rss_mib']:.1f} MiB scoring, "
                        f"{_children_mib():.1f} MiB decoding; {item.counts.dropped} dropped, "
                        f"{item.counts.reconnects} reconnections",
                        flush=True,
                    )


def _write_fast(path: Path) -> None:
    """Write the demo's clip so often, and at such a rate, that frames are always waiting."""
    source = cv2.VideoCapture(str(clip_path()))
    frames = []
    while (read := source.read())[0]:
        frames.append(read[1])
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FAST_HZ, (width, height))
    for _ in range(50):
        for frame in frames:
            writer.write(frame)
    writer.release()


def _children_mib() -> float:
    """Return the resident memory of this process's children."""
    total = 0.0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            status = Path(f"/proc/{child}/status")
            total += read_memory(status)["process_rss_mib"] or 0.0
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("capacity")
    one.add_argument("workspace")
    one.add_argument("--engine", default="onnxruntime-int8")
    one.add_argument("--batch", type=int, default=1)
    one.add_argument("--fps", type=float, default=5.0)
    one.add_argument("--budget-ms", type=float, default=200.0)
    one.add_argument("--most", type=int, default=8)
    one.add_argument("--passes", type=int, default=2)
    one.add_argument("--stand-in", type=float, metavar="MS")
    one.set_defaults(run=capacity)
    other = commands.add_parser("memory")
    other.add_argument("workspace")
    other.add_argument("--few", type=int, default=100)
    other.add_argument("--many", type=int, default=5000)
    other.set_defaults(run=memory)
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    options.run(options)


if __name__ == "__main__":
    main()
