"""Send SIGINT, SIGTERM and SIGHUP to long commands at random moments.

    python -m tools.drills.signals --runs 90 --seed 1

After each signal: the exit code is 128 + the signal's number, standard error ends with one sentence
and holds no traceback, no process and no temporary file is left; and the same command, given
again, ends with the results of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

from lpx.interrupts import SIGNALS
from tools.drills.running import (
    JOBS,
    Ended,
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

_FAULTS = (
    "other codes",
    "no sentence",
    "tracebacks",
    "orphans",
    "leftovers",
    "other results",
    "failed afterwards",
)


def drill(
    job: Job, material: Path, place: Path, reference: Reference, share: float, number: int
) -> tuple[Counter[str], str]:
    """Interrupt a job once.

    Returns:
        Counts by what they are of, and what there is to say of a fault.
    """
    lay_out(job, material, place)
    wait_s = share * max(reference.seconds - reference.start_s, 0.1)
    ended = run(place, job.arguments, after(wait_s, number))
    if not ended.struck or ended.code == 0:
        return Counter({"ended before": 1}), ""
    left = leftovers(place)
    again = run(place, job.arguments)
    differences = reference.differences(results(job, place)) if again.code == 0 else []
    counts = Counter(
        {
            "signals": 1,
            "other codes": int(ended.code != 128 + number),
            "no sentence": int(not _is_said(ended)),
            "tracebacks": int("Traceback" in ended.err),
            "orphans": ended.orphans,
            "leftovers": len(left),
            "other results": int(bool(differences)),
            "failed afterwards": int(again.code != 0),
        }
    )
    said = (
        f"{job.name}, signal {number} after {wait_s:.2f} s: code {ended.code}, {left}, "
        f"{differences[:5]}\n{ended.err}"
    )
    if again.code:
        said += f"\nafterwards: code {again.code}\n{again.err}"
    return counts, said if any(counts[fault] for fault in _FAULTS) else ""


def _is_said(ended: Ended) -> bool:
    lines = ended.err.strip().splitlines()
    return bool(lines) and lines[-1].startswith("interrupted by SIG")


def main() -> int:
    """Run the drill; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=27, help="Runs in all, shared out evenly.")
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
            counts: Counter[str] = Counter()
            for turn in range(len(range(index, arguments.runs, len(names)))):
                place = runs / f"{name}-{turn}"
                number = SIGNALS[(turn + index) % len(SIGNALS)]
                found, said = drill(job, material, place, reference, rng.random(), number)
                counts += found
                if said:
                    print(said, file=sys.stderr, flush=True)
                shutil.rmtree(place)
                discard_temporary(place)
            total += counts
            faults = ", ".join(f"{counts[fault]} {fault}" for fault in _FAULTS)
            print(f"{name}: {counts['signals']} signals, {faults}", flush=True)
    print(f"all: {dict(total)}")
    return int(any(total[fault] for fault in _FAULTS))


if __name__ == "__main__":
    sys.exit(main())
