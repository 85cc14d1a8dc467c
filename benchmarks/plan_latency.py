"""Predicted latency of precision plans beside measured latency, on ONNX Runtime's CPU provider.

For each model, costs are measured once; then random plans are built and timed, interleaved with
the float graph. Each plan takes turns with the float graph alone, and is
compared with it within each round.
Half of the plans choose each group by itself, half in runs of neighbours.

    python benchmarks/plan_latency.py
    python benchmarks/plan_latency.py --only resnet18 --plans 40 --json out.json

Backbones other than the demo's have random weights, which do not change their latency.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.engines.request import BuildRequest
from lpx.export.to_onnx import to_onnx
from lpx.models.checkpoint import Detector, load_checkpoint
from lpx.models.detector import new_detector
from lpx.search.subject import Subject, open_subject
from lpx.search.timing.measure_latency import FLOAT, TimingPlan, measure_costs, paired_ms

RANDOM = {"mobilenet_v2": "features.8", "resnet18": "layer2"}


class Named(NamedTuple):
    """A detector and its name in the table."""

    name: str
    detector: Detector


@dataclass(frozen=True)
class Row:
    """One plan: number of groups in INT8, and times in ms per face, measured twice."""

    model: str
    int8: int
    measured_ms: float
    again_ms: float
    predicted_ms: float

    @property
    def miss(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_ms / self.measured_ms - 1


def models(only: str | None, size: int) -> Iterator[Named]:
    if only in (None, "demo"):
        yield Named("demo", load_checkpoint(folder() / CHECKPOINT))
    for backbone, cut in RANDOM.items():
        if only in (None, backbone):
            module, card = new_detector(backbone, cut, input_size=size)
            yield Named(f"{backbone}:{cut}", Detector(module.eval(), card))


def random_plans(subject: Subject, count: int, seed: int) -> dict[str, frozenset[str]]:
    generator = np.random.default_rng(seed)
    names = [group.name for group in subject.groups]
    plans: dict[str, frozenset[str]] = {FLOAT: frozenset()}
    while len(plans) < count + 1:
        share = generator.uniform(0.1, 0.9)
        chosen = generator.random(len(names)) < share
        if len(plans) % 2:
            # Runs of neighbours, as a search often finds them.
            length = int(generator.integers(2, 6))
            chosen = np.repeat(chosen[: -(-len(names) // length)], length)[: len(names)]
        plan = frozenset(name for name, taken in zip(names, chosen, strict=True) if taken)
        if plan and plan not in plans.values():
            plans[f"plan {len(plans)}"] = plan
    return plans


def judge(named: Named, count: int, timing: TimingPlan, batch: int) -> list[Row]:
    detector, size = named.detector, named.detector.card.input_size
    model = to_onnx(detector)
    scales = calibrate(model, demo_set("train").take(np.arange(16)), size)
    request = BuildRequest("onnxruntime", "int8", scales, DEFAULT_METHOD)
    subject = open_subject(model, request, "onnxruntime")
    pixels = next(iter(demo_set("test").stream(batch, size, []))).pixels
    latency = measure_costs(subject, pixels, timing)
    print(f"\n{named.name}, {size} px: {latency.source}")
    for known in latency.costs.measured:
        print(
            f"  fitted on: {len(known.int8):2} of {len(subject.groups)} groups in INT8: "
            f"{known.ms:.3f} ms, fitted {known.predicted_ms:.3f} ms"
        )
    plans = random_plans(subject, count, seed=1)
    graphs = {key: subject.lowered(plan) for key, plan in plans.items()}
    # Twice: how far the two differ bounds what any prediction can reach on this machine.
    walls, again = paired_ms(graphs, pixels, timing), paired_ms(graphs, pixels, timing)
    # The costs were measured earlier, perhaps at another speed of the machine: both sides are
    # compared as multiples of the float graph's time.
    change = walls[FLOAT] / batch / latency.predict(())
    print(f"  the float graph now takes {change:.3f} times as long as for the costs")
    rows = []
    for key, plan in plans.items():
        if key != FLOAT:
            predicted = latency.predict(plan)
            unit = latency.predict(()) / walls[FLOAT]
            repeated = again[key] * latency.predict(()) / again[FLOAT]
            rows.append(Row(named.name, len(plan), unit * walls[key], repeated, predicted))
    return rows


def summary(rows: list[Row]) -> str:
    misses = np.array([row.miss for row in rows])
    measured = np.array([row.measured_ms for row in rows])
    predicted = np.array([row.predicted_ms for row in rows])
    repeated = np.array([row.again_ms for row in rows])
    correlation = float(np.corrcoef(measured, predicted)[0, 1])
    of_repeats = float(np.corrcoef(measured, repeated)[0, 1])
    worst = misses[np.abs(misses).argmax()]
    spread = np.abs(repeated / measured - 1)
    return (
        f"| {rows[0].model} | {len(rows)} | {measured.min():.2f} to {measured.max():.2f} | "
        f"{correlation:.3f} | {100 * np.median(np.abs(misses)):.1f} % | {100 * worst:+.1f} % | "
        f"{of_repeats:.3f} | {100 * np.median(spread):.1f} % | {100 * spread.max():.1f} % |"
    )


@click.command()
@click.option("--only", help="demo, or one backbone.")
@click.option("--plans", default=24, show_default=True, help="Random plans per model.")
@click.option("--seconds", default=2.0, show_default=True, help="Per plan.")
@click.option("--batch", default=1, show_default=True, help="Faces per call.")
@click.option("--size", default=256, show_default=True, help="Side of faces; not of the demo's.")
@click.option(
    "--busy",
    is_flag=True,
    help="One thread, and processor time: for a machine with other work on it.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    only: str | None,
    plans: int,
    seconds: float,
    batch: int,
    size: int,
    busy: bool,
    json_path: Path | None,
) -> None:
    warnings.simplefilter("ignore")
    timing = TimingPlan(seconds=seconds)
    if busy:
        timing = TimingPlan(seconds=seconds, threads=1, clock=time.process_time)
    rows = []
    table = [
        "| model | plans | ms per face | correlation | median miss | worst miss | "
        "of two measurements: correlation | median difference | worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for named in models(only, size):
        found = judge(named, plans, timing, batch)
        for row in found:
            print(
                f"  {row.int8:2} groups in INT8: measured {row.measured_ms:.3f} ms, "
                f"predicted {row.predicted_ms:.3f} ms ({100 * row.miss:+.1f} %)"
            )
        rows += found
        table.append(summary(found))
    print("\n" + "\n".join(table))
    if json_path:
        json_path.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
