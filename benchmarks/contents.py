"""What it takes to know that files are the same, and that results are on the disk.

    python benchmarks/contents.py                          # both parts
    python benchmarks/contents.py --only faces --faces 50000
    python benchmarks/contents.py --only durable --json out.json

faces: a folder of small files, each as large as a face crop of 128 px in JPEG; seconds and files
per second for a look at names and sizes alone, for the digest by content the first time, the second
time, and once a hundredth of the files were replaced. The files are in the page cache.
durable: milliseconds for a manifest that is written with and without waiting for the disk, and
microseconds for a line of a journal with and without.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from lpx import workspace
from lpx.data.contents import SETTLED_SECONDS, ContentCache
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.machine.machine import read_machine
from lpx.workspace import Appended, write_bytes

BYTES = 6_000
LINE = b'{"key": {"engine": "onnxruntime-int8"}, "result": {"score": 0.5}}\n'


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def write_faces(folder: Path, numbers: range, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in numbers:
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.bytes(BYTES))


def faces(folder: Path, count: int) -> list[dict[str, Any]]:
    write_faces(folder, range(count), 0)
    time.sleep(SETTLED_SECONDS + 0.5)
    rows = [
        FaceRow(f"{n // 1000:04d}/{n:07d}.jpg", n % 2, "m", f"v{n // 32}") for n in range(count)
    ]
    table = make_table(folder, rows)
    read = 0

    def digest() -> None:
        FaceSet("many", "all", "unknown", table).digest()

    def sizes() -> None:
        for path in table.paths():
            os.stat(path)

    found = []
    parts = {"names and sizes": sizes, "first": digest, "second": digest, "1 % replaced": digest}
    for name, work in parts.items():
        if name == "1 % replaced":
            write_faces(folder, range(0, count, 100), 1)
            time.sleep(SETTLED_SECONDS + 0.5)
        wall, cpu = seconds(work)
        times = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
        found.append({"part": name, "files": count, **times, "per_second": round(count / wall)})
    with ContentCache() as cache:
        cache.digests(table.paths())
        read = cache.read
    database = Path(os.environ["LPX_CACHE"]) / "contents.sqlite3"
    return [*found, {"database_bytes": database.stat().st_size, "read_at_the_end": read}]


def durable(folder: Path, turns: int) -> list[dict[str, Any]]:
    data = os.urandom(200_000)
    waits: dict[bool, list[float]] = {True: [], False: []}
    for kind in (True, False) * turns:
        wall, _ = seconds(partial(write_bytes, folder / "m.json", data, durable=kind))
        waits[kind].append(1e3 * wall)
    lines = 20_000
    journal = Appended(folder / "with.jsonl")
    with_sync, _ = seconds(lambda: [journal.add(LINE) for _ in range(lines)])
    never, other = workspace.SYNC_SECONDS, Appended(folder / "without.jsonl")
    workspace.SYNC_SECONDS = float("inf")
    without, _ = seconds(lambda: [other.add(LINE) for _ in range(lines)])
    workspace.SYNC_SECONDS = never
    return [
        {"part": "200 kB file, durable", "median_ms": round(statistics.median(waits[True]), 2)},
        {"part": "200 kB file, not", "median_ms": round(statistics.median(waits[False]), 2)},
        {"part": "line of a journal, synced each second", "us": round(1e6 * with_sync / lines, 1)},
        {"part": "line of a journal, never synced", "us": round(1e6 * without / lines, 1)},
    ]


@click.command()
@click.option("--only", type=click.Choice(["faces", "durable"]))
@click.option("--faces", "count", default=50_000, show_default=True)
@click.option("--turns", default=50, show_default=True, help="Of each kind of write.")
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(only: str | None, count: int, turns: int, folder: Path | None, out: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        os.environ["LPX_CACHE"] = str(place / "cache")
        (place / "faces").mkdir()
        rows = [] if only == "durable" else faces(place / "faces", count)
        rows += [] if only == "faces" else durable(place, turns)
    for row in rows:
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
    if out is not None:
        machine = read_machine()
        out.write_text(json.dumps({"cpu": machine.cpu, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
