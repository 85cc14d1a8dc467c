"""What the drills share: lpx's long commands on small material, run, disturbed and compared.

Drills are run from the project's root, with lpx installed for development:

    python -m tools.drills.kill --runs 40 --seed 1
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_START = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    # A shell that starts something in the background has it ignore some.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
from lpx.cli.main import main
os.write({ready}, b".")
os.close({ready})
main()
"""
"""Says when lpx is about to handle signals: what comes before is Python's own start."""
LIMIT_S = 600.0


@dataclass(frozen=True)
class Job:
    """A long command.

    Attributes:
        name: Of the command.
        arguments: Paths in them are relative to the run's folder.
        results: Globs of what it makes.
        needs: What of the material is copied into the run's folder.
    """

    name: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    needs: tuple[str, ...]


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


_TRAIN = (
    "--pseudo-fakes sbi --backbone efficientnet_lite0 --cut stage2 --bottleneck 16 --input-size 48 "
    "--steps 24 --steps-per-epoch 4 --pairs 4 --validation-pairs 12"
)
JOBS = {
    job.name: job
    for job in (
        Job("export", _words("export ckpt.pt"), ("lpx-out/*.onnx", "lpx-out/*.json"), ("ckpt.pt",)),
        Job(
            "calibrate",
            _words("calibrate --faces faces --limit 48"),
            ("lpx-out/scales.json",),
            ("exported", "faces"),
        ),
        Job(
            "build",
            _words("build --fp32 --int8 --target onnxruntime --faces faces --limit 48"),
            ("lpx-out/scales.json", "lpx-out/engines/*/*"),
            ("exported", "faces"),
        ),
        Job(
            "bench",
            _words("bench --dataset faces --latency-seconds 0 --allow-overlap --margin 0.2"),
            ("lpx-out/report.json",),
            ("built", "faces"),
        ),
        Job(
            "predict",
            _words("predict media --out predictions --frames all --engine onnxruntime-fp32"),
            ("predictions/*",),
            ("built", "media"),
        ),
        Job(
            "explain",
            _words("explain ckpt.pt faces"),
            ("lpx-out/explain/*",),
            ("ckpt.pt", "faces"),
        ),
        Job(
            "prepare",
            _words(
                "data prepare ffpp-c23 --data-root ffpp --methods Deepfakes --frames 8 "
                "--processes 2 --store store"
            ),
            ("store/*/*", "store/*/faces/**/*.png"),
            ("ffpp",),
        ),
        Job(
            "train",
            _words(f"train --data landmarked --out ckpt.pt {_TRAIN} --workers 1"),
            ("ckpt.pt", "ckpt.pt.run/last.ckpt", "ckpt.pt.run/best.ckpt", "ckpt.pt.run/*.json"),
            ("landmarked",),
        ),
        Job("demo", _words("demo"), ("lpx-out/*.json", "lpx-out/engines/*/*"), ()),
    )
}
_COSTS = ("latency", "latency_by_batch", "speed", "throughput", "like_trtexec", "single_patch")
_TIMED = frozenset([*_COSTS, "energy", "memory", "conditions", "warnings"])
"""Fields of a report that differ from run to run, some of them only now and then."""
_UNLIKE = ("results.jsonl", "journal.jsonl")
"""Files whose lines stand in the order of the work."""


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; negative for a signal.
        err: What it printed on standard error.
        seconds: From its start.
        struck: Whether it was still running when it was to be disturbed.
        orphans: Processes of it that were left.
    """

    code: int
    err: str
    seconds: float
    struck: bool = False
    orphans: int = 0


def make_material(root: Path) -> Path:
    """Make what the jobs need, once; returns the folder."""
    if (root / "made").is_file():
        return root
    sys.path.insert(0, str(ROOT))
    from lpx.data.face_sets.demo import demo_set
    from lpx.render.encode import encode_png
    from tests.data.trees import ffpp_tree, portrait, scene, write_video
    from tests.training.small import write_faces

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for number, face in enumerate(demo_set("test").first(96).faces):
        path = root / "faces" / ("real", "fake")[face.label or 0] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(face.source.read()))
    media = root / "media"
    write_video(media / "a.mp4", portrait(0)[0], frames=60)
    write_video(media / "c.mp4", portrait(1)[0], frames=60)
    for name, number in (("b", 1), ("d", 2)):
        (media / f"{name}.png").write_bytes(encode_png(scene(portrait(number)[0], 0)))
    ids = tuple(f"{number:03d}" for number in range(8))
    ffpp_tree(root / "ffpp", ids=ids, frames=24)
    # None for testing: `lpx train` would make hundreds of pairs of them at its end.
    splits = ["val" if number % 12 > 9 else "train" for number in range(24)]
    write_faces(root / "landmarked", [f"person{number % 12}" for number in range(24)], splits)
    from lpx.data.face_sets.demo import CHECKPOINT, folder

    shutil.copy(folder() / CHECKPOINT, root / "ckpt.pt")
    for name, line in (
        ("exported", "export ckpt.pt"),
        ("built", "build --fp32 --int8 --target onnxruntime --faces faces --limit 24"),
    ):
        done = run(root, _words(line))
        if done.code:
            raise SystemExit(f"lpx {line} ended with {done.code}:\n{done.err}")
        shutil.copytree(root / "lpx-out", root / name)
    shutil.rmtree(root / "lpx-out")
    (root / "made").touch()
    return root


def lay_out(job: Job, material: Path, folder: Path) -> Path:
    """A run's folder with what the job needs; returns it."""
    folder.mkdir(parents=True)
    for name in job.needs:
        source = material / name
        place = folder / ("lpx-out" if name in ("exported", "built") else name)
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copy(source, place)
    return folder


@contextmanager
def scratch(given: Path | None) -> Iterator[Path]:
    """The folder for material and runs: what was given, which is kept, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="lpx-drill-") as folder:
        yield Path(folder)


def run(
    folder: Path,
    arguments: tuple[str, ...],
    disturb: Callable[[subprocess.Popen[bytes]], bool] | None = None,
) -> Ended:
    """Run lpx in a session of its own.

    Args:
        folder: Current folder; temporary files go to `tmp` beside it.
        arguments: Of the command line.
        disturb: Called when lpx has started; says whether it found the process running.
    """
    place = folder.with_name(folder.name + ".tmp")
    if not place.is_symlink():
        # A socket's path has 107 bytes at most, and PyTorch makes sockets there.
        place.symlink_to(tempfile.mkdtemp(prefix="lpx-"), target_is_directory=True)
    temporary = place.readlink()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LPX_")}
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    began = time.monotonic()
    mine, theirs = os.pipe()
    with tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _START.format(ready=theirs), *arguments],
            cwd=folder,
            env=kept | {"TMPDIR": str(temporary), "COLUMNS": "200", "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
            pass_fds=(theirs,),
        )
        os.close(theirs)
        try:
            os.read(mine, 1)
            struck = disturb(process) if disturb else False
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = 999
        finally:
            os.close(mine)
            seconds = time.monotonic() - began
            orphans = _left(process.pid)
            for pid in (*orphans, process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        err.seek(0)
        text = err.read().decode(errors="replace")
    return Ended(code, text, seconds, struck, len(orphans))


def _left(session: int, patience_s: float = 5.0) -> list[int]:
    """Processes of a session whose leader has ended, once they had some time to end too."""
    end = time.monotonic() + patience_s
    while (left := _of_session(session)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _of_session(session: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # State, parent, group, session; a zombie has ended.
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(place.parent.name))
    return found


def discard_temporary(folder: Path) -> None:
    """Remove the place for temporary files of the runs in a folder."""
    place = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(place.readlink(), ignore_errors=True)
    place.unlink()


def leftovers(folder: Path) -> list[str]:
    """Temporary files that a run left in its folder or in the system's place for them."""
    hidden = [path for path in folder.rglob(".*") if path.name != ".lock" and path.is_file()]
    parts = [path for path in folder.rglob("*") if path.suffix in (".part", ".tmp")]
    temporary = folder.with_name(folder.name + ".tmp")
    # PyTorch keeps a cache there.
    others = [path for path in temporary.glob("*") if not path.name.startswith("torchinductor_")]
    return [str(path) for path in (*hidden, *parts, *others)]


Results = dict[str, Any]


def results(job: Job, folder: Path) -> Results:
    """What a job made: JSON and CSV by their values, by path; bytes of other files."""
    found: Results = {}
    for pattern in job.results:
        for path in sorted(folder.glob(pattern)):
            name = str(path.relative_to(folder))
            if not path.is_file() or path.name in _UNLIKE or path.name.startswith("."):
                continue
            if path.suffix == ".json":
                found.update(_leaves(name, json.loads(path.read_text())))
            elif path.suffix == ".csv":
                with path.open(newline="") as stream:
                    found.update(_leaves(name, list(csv.DictReader(stream))))
            else:
                found[name] = path.read_bytes()
    return found


def _leaves(name: str, value: Any) -> Results:
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v
            for key, one in pairs
            if key not in _TIMED
            for k, v in _leaves(f"{name}:{key}", one).items()
        }
    return {name: value}


@dataclass(frozen=True)
class Reference:
    """What uninterrupted runs of a job make, and how long they take.

    Attributes:
        results: Of the first.
        varying: Names of what differs from run to run, as times and dates do.
        start_s: Until lpx handles signals.
        seconds: Of the faster run.
    """

    results: Results
    varying: frozenset[str]
    start_s: float
    seconds: float

    def differences(self, other: Results) -> list[str]:
        """Names of results that differ though they do not vary."""
        names = (self.results.keys() | other.keys()) - self.varying
        return sorted(n for n in names if self.results.get(n, self) != other.get(n, self))


def refer(job: Job, material: Path, folder: Path) -> Reference:
    """Run a job twice without disturbing it."""
    made, seconds, started = [], [], []
    for number in range(2):
        place = lay_out(job, material, folder / f"{job.name}-whole-{number}")

        def ready(_: subprocess.Popen[bytes], began: float = time.monotonic()) -> bool:
            started.append(time.monotonic() - began)
            return False

        ended = run(place, job.arguments, ready)
        if ended.code:
            raise SystemExit(f"lpx {' '.join(job.arguments)}: {ended.code}\n{ended.err}")
        made.append(results(job, place))
        seconds.append(ended.seconds)
        shutil.rmtree(place)
    first, second = made
    varying = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    return Reference(first, frozenset(varying), min(started), min(seconds))


def after(seconds: float, number: int) -> Callable[[subprocess.Popen[bytes]], bool]:
    """A disturbance: a signal some time after lpx has started."""

    def disturb(process: subprocess.Popen[bytes]) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return True
        return False

    return disturb
