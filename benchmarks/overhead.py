"""What lpx's harness adds to a call: `Engine.infer`, and the clock's loop, over `session.run`.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --json out.json

The same session is called raw and through `infer`, in alternating calls of one run, on a graph that
computes next to nothing (where the overhead is all there is) and on one of some 5 ms. Each pair of
calls gives a difference; the median of them is the overhead, with its 95 % interval by order
statistics. The last column is what the clock of `lpx bench`, `lpx.bench.latency.sample`, says of
the same engine. On a machine that others use, the interval at 5 ms is wide.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

from lpx.bench.latency import percentile_interval, sample
from lpx.engines.machine import read_machine
from lpx.engines.onnxruntime_engine import OnnxRuntimeEngine

SIZE = 64
TARGET_US, TARGET_SHARE = 50.0, 0.01
"""What lpx may add at most: to any call, and to one of some 5 ms."""
GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
lpx (uint8[batch, 64, 64, 3] faces) => (float[batch] score, float[batch, h, w] patch_map)
<float[64, 64] weight, int64[2] first = {{0, 0}}, int64[2] last = {{8, 8}},
 int64[2] both = {{1, 2}}> {{
  f = Cast<to = 1>(faces)
  m0 = ReduceMean<axes = [3], keepdims = 0>(f)
{body}
  s = Sigmoid(m{depth})
  patch_map = Slice(s, first, last, both)
  score = ReduceMean<axes = [1, 2], keepdims = 0>(patch_map)
}}"""


def graph(depth: int) -> bytes:
    """A chain of `depth` matrix products of 64 x 64, and the inputs and outputs of a detector."""
    body = "\n".join(f"  m{i + 1} = MatMul(m{i}, weight)" for i in range(depth))
    model = onnx.parser.parse_model(GRAPH.format(body=body, depth=depth))
    weight = np.random.default_rng(0).normal(0, 1 / 8, (64, 64)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    return model.SerializeToString()


def depth_for(milliseconds: float, faces: np.ndarray) -> int:
    """How many products take so long on this machine; at least half of it, and not twice it."""
    depth = 256
    while not 0.5 < (found := fastest_ms(graph(depth), faces) / milliseconds) < 2:
        depth = max(1, round(depth * min(16.0, 1 / found)))
    return depth


def fastest_ms(model: bytes, faces: np.ndarray) -> float:
    engine = OnnxRuntimeEngine(model, SIZE)
    return 1e3 * min(timed(lambda: engine.infer(faces)) for _ in range(30))


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def row(name: str, depth: int, pairs: int, faces: np.ndarray) -> dict[str, Any]:
    """Overhead in microseconds, and as a share of the raw call."""
    engine = OnnxRuntimeEngine(graph(depth), SIZE)
    session, names, feed = engine.session, ("score", "patch_map"), {"faces": faces}

    def raw() -> object:
        return session.run(names, feed)

    def ours() -> object:
        return engine.infer(faces)

    for _ in range(20):
        raw(), ours()
    differences, raws = [], []
    for number in range(pairs):
        # Who goes first changes, as the second of two finds warmer caches.
        first, second = (raw, ours) if number % 2 else (ours, raw)
        times = {first: timed(first), second: timed(second)}
        differences.append(1e6 * (times[ours] - times[raw]))
        raws.append(1e6 * times[raw])
    ordered = np.sort(differences)
    low, high = percentile_interval(ordered, 50)
    overhead, base = float(np.median(ordered)), float(np.median(raws))
    # The whole harness: what the report would say, over the raw calls above.
    reported = 1e3 * float(np.median(sample({"ours": engine}, faces, 1.0)["ours"].times_ms))
    return {
        "graph": name,
        "raw_us": base,
        "overhead_us": overhead,
        "overhead_low_us": low,
        "overhead_high_us": high,
        "share": overhead / base,
        "reported_us": reported,
        "pairs": pairs,
    }


@click.command()
@click.option("--pairs", default=3000, show_default=True, help="Pairs of calls; a tenth at 5 ms.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(pairs: int, json_path: Path | None) -> None:
    faces = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    rows = [
        row("next to nothing", 1, pairs, faces),
        row("some 5 ms", depth_for(5.0, faces), max(50, pairs // 10), faces),
    ]
    machine = read_machine()
    result = {"cpu": machine.cpu, "cores": machine.cores, "load": os.getloadavg()[0], "rows": rows}
    print(f"{machine.cpu}, {machine.cores} cores, load {result['load']:.1f}")
    print("| graph | raw us | lpx adds us [95 %] | share | reported by the clock, us |")
    print("|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['graph']} | {r['raw_us']:.0f} | {r['overhead_us']:.1f} "
            f"[{r['overhead_low_us']:.1f}, {r['overhead_high_us']:.1f}] | {r['share']:.2%} | "
            f"{r['reported_us']:.0f} |"
        )
    for r, target_us in zip(rows, (TARGET_US, TARGET_SHARE * rows[1]["raw_us"]), strict=True):
        verdict = "held" if r["overhead_high_us"] < target_us else "undecided"
        verdict = "MISSED" if r["overhead_low_us"] > target_us else verdict
        print(f"{r['graph']}: at most {target_us:.0f} us asked for: {verdict}")
    if json_path:
        json_path.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main())
