"""Bundles: time and memory of packing and unpacking many faces.

Faces are random bytes in files of one size, as packing does not decode them; the probe faces, which
are decoded, are the demo's. Each step runs in a process of its own. Printed are its time by the
clock, the rate, and the largest memory that the process had, beside that of the same step with 16
faces: the difference is what the number of faces costs.

    python benchmarks/bundles.py                         # 10,000 faces of 100 kB
    python benchmarks/bundles.py --faces 1000 --kilobytes 50

Needs about twice the faces' size of free disk in the temporary folder (TMPDIR).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

FEW = 16
STEPS = ("pack", "unpack")


def prepare(folder: Path, count: int, kilobytes: int) -> None:
    """Write a workspace with the demo's engines, and the faces."""
    import lpx
    from lpx.data.face_sets.demo import CHECKPOINT, demo_set
    from lpx.data.face_sets.demo import folder as demo_folder
    from lpx.render.encode import encode_png

    work = lpx.Workspace(folder / "lpx-out")
    work.export(demo_folder() / CHECKPOINT)
    work.build(("fp32", "int8"), target="onnxruntime", faces="demo", limit=16)
    crops = [encode_png(face.source.read()) for face in demo_set("test").faces[:FEW]]
    for number in range(count):
        path = folder / "faces" / ("real", "fake")[number % 2] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A whole picture, and bytes that no decoder looks at: each file is different.
        data = crops[number % FEW]
        path.write_bytes(data + os.urandom(max(0, kilobytes * 1000 - len(data))))


def run(step: str, folder: Path, count: int) -> None:
    """Run a step in this process, and print seconds, bytes and peak memory."""
    import lpx

    work = lpx.Workspace(folder / "lpx-out")
    bundle = folder / f"{count}.lpx"
    begin = time.perf_counter()
    if step == "pack":
        work.pack(bundle, faces=folder / "faces", limit=count)
    else:
        lpx.unpack(bundle, folder / f"board-{count}")
    seconds = time.perf_counter() - begin
    print(seconds, bundle.stat().st_size, peak_memory())


def peak_memory() -> int:
    """Return the largest memory of this process, bytes; Linux only."""
    # Not getrusage: its maximum includes that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(step: str, folder: Path, count: int) -> tuple[float, int, int]:
    """Run a step in a process of its own: seconds, bytes of the bundle, peak memory in bytes."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--faces", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, size, peak = done.stdout.split()
    return float(seconds), int(size), int(peak)


@click.command()
@click.option("--faces", default=10_000, show_default=True, help="Number of faces.")
@click.option("--kilobytes", default=100, show_default=True, help="Size of a face, kB.")
@click.option("--step", type=click.Choice(STEPS), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(faces: int, kilobytes: int, step: str | None, folder: Path | None) -> None:
    """Measure packing and unpacking."""
    if step is not None and folder is not None:
        run(step, folder, faces)
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), faces, kilobytes)
        for each in STEPS:
            _, _, base = measure(each, Path(name), FEW)
            seconds, size, peak = measure(each, Path(name), faces)
            print(
                f"{each}: {faces} faces, {size / 1e6:.0f} MB in {seconds:.1f} s "
                f"({size / 1e6 / seconds:.0f} MB/s), peak {peak / 1e6:.0f} MB "
                f"({FEW} faces: {base / 1e6:.0f} MB)"
            )


if __name__ == "__main__":
    main()
