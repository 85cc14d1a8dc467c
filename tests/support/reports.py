"""Results of a bench and reports, made without engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from lpx.bench.parity.breakdown import breakdown, members_of
from lpx.bench.parity.detection import detection
from lpx.bench.parity.parity import compare, discrimination
from lpx.bench.parity.pixels import (
    PixelFacts,
    PixelPlan,
    PixelStage,
    StageResults,
    pixel_stages,
    pixels_of,
)
from lpx.bench.parity.run import BenchResult, Example
from lpx.bench.parity.score import Failure, Scored
from lpx.bench.parity.stages import MODEL, ComparisonTerms, graph_of, stages_of
from lpx.bench.performance.cost_plan import BATCHES
from lpx.bench.performance.costs import PatchCost, summarised
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import Samples, summarise
from lpx.bench.performance.throughput import ThroughputResult
from lpx.bench.performance.trtexec_metrics import TrtexecRow, like_trtexec, time_statistics
from lpx.bench.report.document.assemble import assemble
from lpx.bench.report.document.entries import Environment, ProcessMemory
from lpx.bench.report.document.report import Report
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, Skipped
from lpx.data.pipelines.table import PIPELINES
from lpx.engines.base import ON_THE_CPU, Prediction
from lpx.engines.manifest import EngineManifest
from lpx.machine.conditions import Conditions
from lpx.machine.energy_sources import Unavailable
from lpx.metrics import Interval

EVIL = "real/<script>alert('face')</script>.png"
NOISE = {"torch": 0.0, "onnxruntime-fp32": 1e-5, "onnxruntime-int8": 0.3}
MS = {"torch": 20.0, "onnxruntime-fp32": 8.0, "onnxruntime-int8": 11.0}
CARD = ModelCard(
    "tf_efficientnet_lite0",
    "stage3",
    "mean_prob",
    64,
    grid=(4, 4),
    threshold=0.45,
    provenance={"data": "<b>faces</b>", "auc": {"sbi": 0.9}},
)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def scored(count: int, noise: dict[str, float] = NOISE) -> Scored:
    rng = np.random.default_rng(3)
    labels = np.arange(count) % 2
    logits = rng.normal(2.4 * labels - 1.2, 1.2)
    maps = logits[:, None, None] + rng.normal(size=(count, 4, 4))
    predictions = {
        name: Prediction(
            sigmoid(logits + spread * rng.normal(size=count)),
            sigmoid(maps + spread * rng.normal(size=maps.shape)),
        )
        for name, spread in noise.items()
    }
    return Scored(np.arange(count), labels, predictions, (Skipped("real/broken.png", "no image"),))


def manifest(name: str) -> EngineManifest:
    target, precision = name.rsplit("-", 1)
    int8 = precision == "int8"
    return EngineManifest(
        name,
        target,
        precision,
        "onnxruntime",
        "engine.onnx",
        "c" * 64,
        "e" * 64,
        CARD.to_dict(),
        calibration={
            "method": "max",
            "faces": "mine",
            "split": "train",
            "face_count": 77,
            "identities": ["a"],
            "warning": "only 77 faces",
        }
        if int8
        else None,
        placement=(
            {
                "node": "/head/Conv",
                "op_type": "Conv",
                "quantised": False,
                "reason": "the head stays in float",
            },
        )
        if int8
        else (),
        convolutions={"int8": 31, "fp32": 2, "unknown": 4} if int8 else {"int8": 0, "fp32": 33},
        versions={"onnx": "1.19"},
        machine={"os": "Ubuntu"},
        warnings=("beware",) if int8 else (),
    )


def face(seed: int, size: int = 64) -> np.ndarray:
    """An image about as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8), (size, size))
    return np.clip(coarse + rng.normal(0, 2, coarse.shape), 0, 255).astype(np.uint8)


def members(found: Scored) -> FaceSet:
    """Two methods of fakes, and fifteen videos with two real faces and a fake of each method."""
    methods = ("real", "<b>swap</b>", "alpha")
    source = ImageFile(Path("none"))
    faces = tuple(
        Face(f"{i}", int(y), methods[int(y) * (1 + i % 4 // 2)], f"video{i // 4}", (), source)
        for i, y in enumerate(found.labels)
    )
    return FaceSet("mine", "all", "square", faces)


def result(count: int = 60, size: int = 64, noise: dict[str, float] = NOISE) -> BenchResult:
    found = scored(count, noise)
    truth = found.predictions["torch"]
    names = [name for name in noise if name != "torch"]
    rng = np.random.default_rng(5)
    timed = {
        name: {
            batch: Samples(
                MS.get(name, 5.0) * batch**0.8 * (1 + 0.05 * rng.random(200)),
                np.repeat(np.arange(20), 10),
            )
            for batch in BATCHES
        }
        for name in noise
    }
    precisions = {name: name.rsplit("-", 1)[1] for name in names}
    faces = members(found)
    where = members_of(faces, found.indices)
    parity = {
        n: compare(found.labels, truth, found.predictions[n], CARD.threshold, groups=where.groups)
        for n in names
    }
    return BenchResult(
        scored=found,
        truth=discrimination(found.labels, truth.score, where.groups),
        detection=detection(found, faces, CARD.threshold),
        parity=parity,
        parts=breakdown(
            found.labels, truth.score, {n: found.predictions[n].score for n in names}, where, 0.005
        ),
        stages=StageResults(
            {
                n: stages_of(
                    n,
                    parity[n],
                    truth,
                    found.predictions | {MODEL: truth},
                    {graph_of(n): "no such graph"},
                    ComparisonTerms(found.labels, CARD.threshold, groups=where.groups),
                )
                for n in names
            }
        ),
        device_memory=dict.fromkeys(noise, ON_THE_CPU),
        costs=summarised(timed, precisions, 16),
        examples=tuple(
            Example(
                EVIL if i == 0 else f"face{i}.png",
                int(found.labels[i]),
                face(i, size),
                {n: (p.patch_map[i], float(p.score[i])) for n, p in found.predictions.items()},
            )
            for i in range(6)
        ),
        candidates=tuple(map(manifest, names)),
    )


def on_pixels(bench: BenchResult, noise: float = 0.02) -> BenchResult:
    """Return a result with each engine on the pixels of two pipelines; one was not scored."""
    found = bench.scored
    terms = ComparisonTerms(
        found.labels,
        CARD.threshold,
        groups=members_of(members(found), found.indices).groups,
        truth=bench.truth,
    )
    pipelines = (PIPELINES["deepstream"], PIPELINES["opencv-linear"])
    names = [manifest.name for manifest in bench.candidates]
    shift = noise * np.random.default_rng(9).normal(size=len(found.labels)).astype(np.float32)
    pixels: dict[str, tuple[PixelStage, ...]] = {}
    for name in names:
        whole = found.predictions[name]
        moved = Prediction(np.clip(whole.score + shift, 0, 1), whole.patch_map)
        pixels[name] = pixel_stages(
            name,
            PixelPlan(pipelines, tuple(names)),
            found.predictions["torch"],
            found.predictions | {pixels_of(name, "deepstream"): moved},
            {pixels_of(name, "opencv-linear"): "RuntimeError: no memory"},
            terms,
        )
    count = len(found.labels)
    facts = (
        PixelFacts(pipelines[0], count, count, count, count, 128.0, 1.25),
        PixelFacts(pipelines[1], count, 0, 0, 0, 64.0, 0.0),
    )
    return replace(bench, stages=StageResults(bench.stages.graphs, pixels, facts))


def report_of(bench: BenchResult, name: str = "folder:<i>mine</i>") -> Report:
    faces = FaceSet(name, "all", "square", (), "A note on the set.")
    return assemble(
        bench,
        faces,
        CARD,
        margin=0.005,
        environment=Environment({"gpus": []}, {"torch": "2.9"}),
        not_run={"tensorrt-fp16": "no NVIDIA GPU"},
        warnings=["a warning & more"],
    )


def full_report() -> Report:
    """Return a report in which every field holds something, and every cost of some engine."""
    bench = result(40)
    float32, int8 = "onnxruntime-fp32", "onnxruntime-int8"
    times = np.arange(1.0, 41.0)
    shares = {"h2d_ms": 0.1, "compute_ms": 0.7, "d2h_ms": 0.1, "enqueue_ms": 0.05}
    rounds = np.repeat(np.arange(8), 5)
    on_a_gpu = Samples(times, rounds, {n: times * share for n, share in shares.items()}, 0.5)
    means = [Interval.about(mean, 0.5) for mean in (2.0, 1.0, 0.2, 0.1, 20.0)]
    energy = EnergyResult(
        "rapl: package-0", "the processor", 1, 5, 100, *means, Interval(10, -np.inf, np.inf)
    )
    before = Conditions(2000.0, None, {"cpu": 50.0}, ("power cap",), "", 0.1)
    costs = replace(
        bench.costs,
        latency=bench.costs.latency | {int8: (summarise(on_a_gpu, 1, 16),)},
        throughput={
            float32: ThroughputResult(1, 2, 1.0, 100, 100.0),
            int8: Unavailable("out of memory"),
        },
        like={
            float32: like_trtexec(on_a_gpu, 10),
            int8: like_trtexec(Samples(times, rounds), 11),
        },
        single_patch={
            float32: PatchCost(35, (1, 1), 10, Interval(50.0, 45.0, np.inf)),
            int8: Unavailable("no"),
        },
        energy={"torch": Unavailable("no rails"), float32: energy},
        conditions=(before, replace(before, cpu_mhz=1000.0)),
    )
    failed = Failure("tensorrt-int8", "scoring", "RuntimeError: no memory")
    statistics = time_statistics(times)
    return assemble(
        replace(on_pixels(bench), costs=costs, failed=(failed,)),
        FaceSet("mine", "all", "square", (), "A note."),
        CARD,
        margin=0.005,
        environment=Environment(
            {"cpu": "x", "gpus": []}, {"torch": "2.9"}, ProcessMemory(100.0, None)
        ),
        not_run={"tensorrt-fp16": "no GPU"},
        warnings=["a warning"],
        methods=("alpha",),
        trtexec=(TrtexecRow("mine", "t.json", 40, *[statistics] * 4, None),),
    )
