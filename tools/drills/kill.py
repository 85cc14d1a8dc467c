"""Kill long commands at random moments, give each again, and compare what comes out.

    python -m tools.drills.kill --runs 200 --seed 1

Prints a line per command: kills (runs that ended before do not count), other results than without
a kill, other exit codes, tracebacks, processes and temporary files that were left, and the time
from the next start to the result against the time of a run from the start. SIGKILL leaves a
temporary file where it strikes while one is written; these are counted, and no fault.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

from tools.drills.running import (
    JOBS,
    Job,
    Reference,
    after,
    discard_temporary,
    lay_out,
    leftovers,
    make_material,
    refer,
    results,
    run,
    scratch,
)

_FAULTS = ("other results", "other codes", "tracebacks", "orphans")


def drill(
    job: Job, material: Path, folder: Path, reference: Reference, moments: list[float]
) -> tuple[Counter[str], list[float]]:
    """Kill a job until it has been killed once, at each of these shares of its time.

    Returns:
        Counts by what they are of, and the seconds of the runs that went on to the end.
    """
    counts: Counter[str] = Counter()
    again: list[float] = []
    for number, share in enumerate(moments):
        place = lay_out(job, material, folder / f"{job.name}-{number}")
        wait_s = share * max(reference.seconds - reference.start_s, 0.1)
        killed = run(place, job.arguments, after(wait_s, signal.SIGKILL))
        if killed.struck:
            counts["kills"] += 1
            counts["orphans"] += killed.orphans
            counts["left by the kill"] += len(leftovers(place))
            ended = run(place, job.arguments)
            again.append(ended.seconds)
            differences = reference.differences(results(job, place)) if ended.code == 0 else []
            bad = {
                "other results": bool(differences),
                "other codes": ended.code != 0,
                "tracebacks": "Traceback" in ended.err,
            }
            counts.update({name: int(found) for name, found in bad.items()})
            if any(bad.values()):
                print(
                    f"{job.name}, killed after {wait_s:.2f} s: code {ended.code}, "
                    f"{', '.join(differences[:5])}\n{ended.err}",
                    file=sys.stderr,
                )
        shutil.rmtree(place)
        discard_temporary(place)
    return counts, again


def main() -> int:
    """Run the drill; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="Runs in all, shared out evenly.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(JOBS))
    parser.add_argument("--folder", type=Path, help="Keep the material here for the next drill.")
    arguments = parser.parse_args()
    names = arguments.commands.split(",")
    rng = random.Random(arguments.seed)
    total: Counter[str] = Counter()
    with scratch(arguments.folder) as folder:
        material = make_material(folder / "material")
        runs = folder / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        for index, name in enumerate(names):
            job = JOBS[name]
            reference = refer(job, material, runs)
            share = len(range(index, arguments.runs, len(names)))
            moments = [rng.random() for _ in range(share)]
            counts, again = drill(job, material, runs, reference, moments)
            total += counts
            faults = ", ".join(f"{counts[fault]} {fault}" for fault in _FAULTS)
            mean = sum(again) / len(again) if again else float("nan")
            print(
                f"{name}: {counts['kills']} kills, {faults}, {counts['left by the kill']} files "
                f"left by the kill; {mean:.1f} s from kill to result, {reference.seconds:.1f} s "
                f"from the start ({len(reference.varying)} values vary by themselves)",
                flush=True,
            )
    print(f"all: {dict(total)}")
    return int(any(total[fault] for fault in _FAULTS))


if __name__ == "__main__":
    sys.exit(main())
