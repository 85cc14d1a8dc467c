"""What each option for weights does to INT8: score error and AUC on held-out faces.

For each checkpoint the float model is calibrated once (twice with equalisation: it changes the
ranges), quantised for ONNX Runtime with one option changed at a time, and run on the same held-out
faces. The AUC difference is to the float model, with DeLong's paired interval; the score error's
difference is to the default, with a normal interval over videos (or pairs).

    python benchmarks/quantisation.py                             # the demo checkpoint
    python benchmarks/quantisation.py --trained CKPT FACES        # one of `lpx train --data FACES`

A checkpoint of `lpx train` on landmarked faces is measured on the identities that it never saw,
with the kinds of pseudo-fakes that it was trained on, and calibrated on those that it did see.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import CHECKPOINT, PairImage, demo_set, folder
from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.data.pseudo_fakes.training_pairs import open_training_data
from lpx.engines.build import make_graph
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.export.to_onnx import to_onnx
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.weights import WeightOptions
from lpx.metrics import auc, auc_difference
from lpx.models.checkpoint import load_checkpoint

OPTIONS = {
    "default": WeightOptions(),
    "clip=mse": WeightOptions(clip="mse"),
    "rounding=nearest": WeightOptions(rounding="nearest"),
    "bias_correction=False": WeightOptions(bias_correction=False),
    "rounding=nearest, bias_correction=False": WeightOptions(
        rounding="nearest", bias_correction=False
    ),
    "rounding=nearest, bias_correction=False, clip=mse": WeightOptions(
        rounding="nearest", bias_correction=False, clip="mse"
    ),
    "equalise": WeightOptions(equalise=True),
    "equalise, rounding=nearest, bias_correction=False": WeightOptions(
        rounding="nearest", bias_correction=False, equalise=True
    ),
}
BATCH = 16


@dataclass(frozen=True)
class Case:
    """A float model, and the faces to calibrate it on and to judge it by."""

    name: str
    model: bytes
    size: int
    calibration: FaceSet
    held_out: FaceSet


@dataclass(frozen=True)
class Row:
    """One option on one model."""

    model: str
    options: str
    faces: int
    auc_float: float
    auc: float
    auc_difference: float
    auc_low: float
    auc_high: float
    error_mean: float
    error_max: float
    error_change: float
    error_change_low: float
    error_change_high: float


def demo_case() -> Case:
    detector = load_checkpoint(folder() / CHECKPOINT)
    sets = demo_set("train"), demo_set("test")
    return Case("demo (EfficientNet-Lite0)", to_onnx(detector), detector.card.input_size, *sets)


def trained_case(checkpoint: Path, faces: Path, pairs: int) -> Case:
    detector = load_checkpoint(checkpoint)
    recipe = detector.card.provenance["recipe"]
    kinds, seed = tuple(recipe["pseudo_fakes"]), int(recipe["seed"])
    data = open_training_data(faces, kinds, seed)
    # The seed by which `lpx train` measures on them too.
    unseen = PairSource(data.held_out, kinds, seed + 2)
    sets = pair_set(data.train, 128, "train"), pair_set(unseen, pairs, "test")
    name = f"{recipe['backbone']} {recipe['cut']}"
    return Case(name, to_onnx(detector), detector.card.input_size, *sets)


def pair_set(source: PairSource, pairs: int, split: str) -> FaceSet:
    listed = [
        Face(
            f"{n}/{fake}",
            int(fake),
            "fake" if fake else "real",
            str(n),
            (),
            PairImage(source, n, fake),
        )
        for n in range(pairs)
        for fake in (False, True)
    ]
    return FaceSet("pairs", split, "unknown", tuple(listed))


def scores(engine: OnnxRuntimeEngine, batches: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    found = np.concatenate([engine.infer(batch).score for batch in batches])
    return found.astype(np.float64)


def measure(case: Case, names: Sequence[str]) -> list[Row]:
    prepared = {on: prepare_model(case.model, case.name, equalised=on)[0] for on in (False, True)}
    scales = {on: calibrate(m, case.calibration, case.size) for on, m in prepared.items()}
    batches = [b.pixels for b in case.held_out.stream(BATCH, case.size, [])]
    labels = case.held_out.labels()
    groups = np.unique([f.video for f in case.held_out.faces], return_inverse=True)[1]
    truth = scores(OnnxRuntimeEngine(case.model, case.size), batches)
    rows: list[Row] = []
    usual: NDArray[np.float64] | None = None
    for name in names:
        options = OPTIONS[name]
        request = BuildRequest(
            "onnxruntime", "int8", scales[options.equalise], DEFAULT_METHOD, weights=options
        )
        graph, _ = make_graph(case.model, request, "onnxruntime")
        found = scores(OnnxRuntimeEngine(graph, case.size), batches)
        error = np.abs(found - truth)
        usual = error if usual is None else usual
        d = auc_difference(labels, truth, found)
        change, half = paired(error - usual, groups)
        rows.append(
            Row(
                case.name,
                name,
                len(labels),
                auc(labels, truth),
                auc(labels, found),
                d.estimate,
                d.low,
                d.high,
                float(error.mean()),
                float(error.max()),
                change,
                change - half,
                change + half,
            )
        )
        print(line(rows[-1]), flush=True)
    return rows


def paired(values: NDArray[np.float64], groups: NDArray[np.intp]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval: faces of a group count as one observation."""
    means = np.bincount(groups, values) / np.bincount(groups)
    return float(means.mean()), float(1.96 * means.std(ddof=1) / np.sqrt(len(means)))


HEADER = """| model | options | AUC difference [95 %] | mean score error | largest | \
mean error less the default's [95 %] |
|---|---|---|---|---|---|"""


def line(r: Row) -> str:
    change = (
        ""
        if r.options == "default"
        else f"{r.error_change:+.4f} [{r.error_change_low:+.4f}, {r.error_change_high:+.4f}]"
    )
    return (
        f"| {r.model} | {r.options} | {r.auc_difference:+.4f} [{r.auc_low:+.4f}, "
        f"{r.auc_high:+.4f}] | {r.error_mean:.4f} | {r.error_max:.3f} | {change} |"
    )


@click.command()
@click.option(
    "--trained",
    "trained",
    nargs=2,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CKPT FACES",
    help="Checkpoint of `lpx train`, and its faces.",
)
@click.option("--demo/--no-demo", default=True, show_default=True)
@click.option("--only-default", is_flag=True, help="Leave the other options for weights out.")
@click.option("--pairs", default=400, show_default=True, help="Held-out pairs of --trained.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    trained: tuple[tuple[Path, Path], ...],
    demo: bool,
    only_default: bool,
    pairs: int,
    json_path: Path | None,
) -> None:
    warnings.simplefilter("ignore")
    cases = [demo_case()] if demo else []
    cases += [trained_case(checkpoint, faces, pairs) for checkpoint, faces in trained]
    print(HEADER)
    names = ["default"] if only_default else list(OPTIONS)
    rows = [row for case in cases for row in measure(case, names)]
    for case in cases:
        of = next(r for r in rows if r.model == case.name)
        print(
            f"\n{case.name}: {of.faces} held-out faces, AUC of the float model {of.auc_float:.4f}"
        )
    if json_path:
        json_path.write_text(json.dumps([asdict(r) for r in rows], indent=2))


if __name__ == "__main__":
    main()
