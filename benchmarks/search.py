"""What a precision search predicts, and what it costs, beside what plans really do.

    python benchmarks/search.py [--faces 288] [--plans 30] [--only predictions|cost|random]

predictions: AUC differences of random plans, predicted from shifts of their pieces and measured by
running their graphs, on the same faces; with the sum alone, and with the correction for pairs.
cost: time to measure all layers / (groups x time of a float forward), and memory at 1,024 faces.
random: plans of a search beside random plans with as many multiply-accumulates in INT8, on faces
that neither saw.

Models that INT8 hurts: the demo's detector with a channel that is 64 times as large as the others,
and with weights rounded to nearest and biases left as they are; and as lpx quantises it, which does
not hurt it.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lpx.api.search.faces import split_search_faces
from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.export.to_onnx import to_onnx
from lpx.graph.qdq.weights import WeightOptions
from lpx.machine.machine import read_machine
from lpx.metrics import auc_difference
from lpx.models.checkpoint import load_checkpoint
from lpx.reporter import SILENT
from lpx.search.plan_scorer import PlanScorer, whole_logits
from lpx.search.predict import Predictor
from lpx.search.propose import Judge, propose
from lpx.search.subject import Subject, open_subject
from lpx.search.survey import ShiftStore, Survey, survey
from lpx.search.timing.work_model import WorkModel

CRUDE = WeightOptions(rounding="nearest", bias_correction=False)
FACTOR = 64.0
MARGIN = 0.005


@dataclass(frozen=True)
class Case:
    """A model, taken apart."""

    name: str
    subject: Subject
    size: int


def outlier(checkpoint: Path) -> tuple[bytes, int]:
    """Export the demo's detector with one large channel between two layers, without activation."""
    detector = load_checkpoint(checkpoint)
    state = detector.module.state_dict()
    for name in ("weight", "bias"):
        state[f"backbone.blocks.0.0.bn2.{name}"][0] *= FACTOR
    state["backbone.blocks.1.0.conv_pw.weight"][:, 0] /= FACTOR
    detector.module.load_state_dict(state)
    return to_onnx(detector), detector.card.input_size


def cases() -> list[Case]:
    """Return the models, calibrated on the demo's training faces."""
    checkpoint = folder() / CHECKPOINT
    detector = load_checkpoint(checkpoint)
    plain = to_onnx(detector), detector.card.input_size
    made = []
    for name, (data, size), weights in (
        ("one large channel", outlier(checkpoint), WeightOptions()),
        ("nearest rounding, no bias correction", plain, CRUDE),
        ("as lpx quantises it", plain, WeightOptions()),
    ):
        scales = calibrate(data, demo_set("train"), size)
        request = BuildRequest("onnxruntime", "int8", scales, DEFAULT_METHOD, weights)
        made.append(Case(name, open_subject(data, request, "onnxruntime"), size))
    return made


class Plans:
    """Runs graphs of plans on the same faces."""

    def __init__(self, case: Case, faces: FaceSet) -> None:
        self.case = case
        self.pixels = [batch.pixels for batch in faces.stream(8, case.size, [])]
        self.labels = faces.labels()

    def logits(self, int8: Collection[str]) -> NDArray[np.float64]:
        """Return the logits of a plan, float64 [N]."""
        scorer = PlanScorer(self.case.subject, int8)
        return np.concatenate([scorer.logits(pixels) for pixels in self.pixels])


def measure(case: Case, faces: FaceSet, *, complete: bool = False) -> Survey:
    """Measure the shifts of all pieces."""
    with tempfile.TemporaryDirectory() as scratch:
        store = ShiftStore(Path(scratch), {}, print)
        return survey(case.subject, faces, case.size, store, SILENT, complete=complete)


def random_plans(case: Case, count: int) -> list[frozenset[str]]:
    """Return plans with different shares of groups in INT8."""
    random = np.random.default_rng(0)
    names = np.array([group.name for group in case.subject.groups])
    plans = []
    for number in range(count):
        share = (number + 1) / (count + 1)
        plans.append(frozenset(names[random.random(len(names)) < share].tolist()))
    return plans


def predictions(case: Case, faces: FaceSet, count: int) -> None:
    """Print how well AUC differences of random plans are predicted."""
    shifts = measure(case, faces).shifts
    whole = whole_logits(case.subject, faces, case.size)
    runner = Plans(case, faces)
    reference = runner.logits(())
    predictors = {
        "sum": Predictor(case.subject, shifts),
        "corrected": Predictor(case.subject, shifts, whole),
    }
    measured, inside = [], dict.fromkeys(predictors, 0)
    predicted: dict[str, list[float]] = {name: [] for name in predictors}
    for plan in random_plans(case, count):
        real = auc_difference(runner.labels, reference, runner.logits(plan))
        measured.append(real.estimate)
        for name, predictor in predictors.items():
            found = predictor.difference(plan)
            predicted[name].append(found.estimate)
            inside[name] += found.low <= real.estimate <= found.high
    low, high = min(measured), max(measured)
    print(f"{case.name}: {count} plans, measured AUC differences {low:+.4f} to {high:+.4f}")
    for name, values in predicted.items():
        correlation = np.corrcoef(measured, values)[0, 1]
        worst = np.abs(np.array(measured) - values).max()
        print(
            f"  {name}: correlation {correlation:.3f}, worst miss {worst:.4f}, measured within the "
            f"predicted interval {inside[name]} of {count}"
        )


def cost(case: Case, faces: FaceSet) -> None:
    """Print the time to measure all layers, beside the float model's."""
    engine = OnnxRuntimeEngine(case.subject.data, case.size)
    pixels = [batch.pixels for batch in faces.stream(16, case.size, [])]
    ratios = {}
    for complete in (False, True):
        times = []
        for _ in range(2):
            engine.infer(pixels[0])
            started = time.perf_counter()
            for batch in pixels:
                engine.infer(batch)
            times.append(time.perf_counter() - started)
        found = measure(case, faces, complete=complete)
        groups = len(case.subject.groups)
        ratios[complete] = found.shifts.seconds / (groups * min(times))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{case.name}: {len(case.subject.groups)} groups, {len(case.subject.pieces)} pieces, "
        f"{len(faces.faces)} faces: {ratios[False]:.2f} of groups x forward; every piece on every "
        f"face {ratios[True]:.2f}; peak memory of the process {memory:.0f} MiB"
    )


def against_random(case: Case, faces: FaceSet, count: int) -> None:
    """Print measured AUC differences of a proposed plan and of random ones with as much INT8."""
    halves = split_search_faces(faces)
    shifts = measure(case, halves.search).shifts
    whole = whole_logits(case.subject, halves.search, case.size)
    predictor, work = Predictor(case.subject, shifts, whole), WorkModel(case.subject)
    names = [group.name for group in case.subject.groups]
    proposed = propose(names, Judge(predictor.difference, work.predict), [MARGIN])
    runner = Plans(case, halves.verification)
    reference = runner.logits(())

    def loss(plan: Collection[str]) -> float:
        return auc_difference(runner.labels, reference, runner.logits(plan)).estimate

    print(f"{case.name}: all groups in INT8 {loss(names):+.4f} AUC on held-out faces")
    if not proposed:
        print("  no plan is predicted to hold")
        return
    plan = proposed[0]
    wanted = work.predict(plan.int8)
    random = np.random.default_rng(0)
    losses = []
    while len(losses) < count:
        # Groups leave INT8 in random order until as much work is in float.
        order = random.permutation(names).tolist()
        int8 = set(names)
        while int8 and work.predict(int8) < wanted:
            int8.remove(order.pop())
        losses.append(loss(int8))
    print(
        f"  proposed: {len(plan.int8)} of {len(names)} groups, work {wanted:.3f}, "
        f"{loss(plan.int8):+.4f}; {count} random plans with as much work: mean "
        f"{np.mean(losses):+.4f}, best {max(losses):+.4f}"
    )


@click.command()
@click.option("--faces", "count", default=288, show_default=True)
@click.option("--plans", default=30, show_default=True)
@click.option("--only", type=click.Choice(("predictions", "cost", "random")))
def main(count: int, plans: int, only: str | None) -> None:
    """Compare predictions with measurements, and measure what they cost."""
    machine = read_machine()
    print(f"{machine.cpu}, onnxruntime {onnxruntime.__version__}")
    for case in cases():
        if only in (None, "predictions"):
            predictions(case, demo_set("test").first(count), plans)
        if only in (None, "cost"):
            cost(case, demo_set("test").first(count))
        if only in (None, "random"):
            against_random(case, demo_set("test"), plans)


if __name__ == "__main__":
    main()
