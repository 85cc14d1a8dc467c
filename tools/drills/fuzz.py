"""Give every reader of lpx damaged and senseless inputs, and count what it does with them.

    python -m tools.drills.fuzz --seed 1 --limit 10000

Each reader gets inputs in turn. An input counts as read, as refused (an error of lpx that says why)
or as a fault: a traceback, a value that is senseless and was accepted, more than `SLOW_S` seconds,
or more than `MOST_MIB` of memory. What is senseless is written down here once more, and not taken
from the readers' own checks. Faults are printed, and their inputs kept in --keep; the exit code is
then 1.
Readers run in this process: a crash of native code ends the drill, and is a fault too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch

from lpx import CostPlan, Workspace
from lpx.artefacts.model import read_exported
from lpx.bench.performance.trtexec_times import read_times
from lpx.bench.report.document.report import read_report
from lpx.calibration.cache import read_cache, write_cache
from lpx.calibration.scales import load_scales
from lpx.card import card_from_dict, card_from_json
from lpx.data.datasets import dfdc
from lpx.data.face_sets.csv import read_face_csv
from lpx.data.face_sets.demo import CHECKPOINT
from lpx.data.face_sets.demo import folder as demo_folder
from lpx.data.face_sets.manifest import FaceManifest, read_face_manifest, write_manifest
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.data.images.decode import UnreadableImageError, read_image
from lpx.data.images.edit_list import is_trimmed
from lpx.data.images.video_file import UnreadableVideoError, read_frames
from lpx.data.images.video_writer import VideoWriter
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.data.roots import data_roots
from lpx.engines.manifest import read_manifest
from lpx.errors import LpxError
from lpx.graph.model_io import parse
from lpx.models.checkpoint import load_checkpoint
from lpx.models.weights_file import read_weights
from lpx.predict.journal import ScoreJournal
from lpx.predict.results import FaceScore, FileScore
from tools.drills import mutating

SLOW_S = 10.0
MOST_MIB = 1024.0
REFUSED = (LpxError, UnreadableImageError, UnreadableVideoError)
Alter = Callable[[random.Random], bytes]


class SlowError(BaseException):
    """A reader that takes longer than anybody waits."""


@dataclass
class Reader:
    """One reader, and what it is given.

    Attributes:
        name: Of the reader.
        path: The file that is replaced.
        alter: Makes the next content of it.
        read: Reads it, and gives what is senseless in what came out; "" where nothing is.
    """

    name: str
    path: Path
    alter: Alter
    read: Callable[[], str]


def damaged(data: bytes) -> Alter:
    """Damage to bytes."""
    return lambda rng: mutating.damage(rng, data)[1]


def altered(data: bytes) -> Alter:
    """Changes to JSON, and damage to its bytes."""
    value = json.loads(data)

    def alter(rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return mutating.damage(rng, data)[1]
        return mutating.alter_json(rng, value)

    return alter


def tabled(text: str) -> Alter:
    """Changes to a table, and damage to its bytes."""

    def alter(rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return mutating.damage(rng, text.encode())[1]
        return mutating.alter_table(rng, text)

    return alter


# --- what is senseless, once more


def _among(value: float | None, low: float, high: float, name: str) -> Iterator[str]:
    if value is not None and not (
        type(value) in (int, float) and math.isfinite(value) and low <= value <= high
    ):
        yield f"{name} is {value!r}"


def _card(card: Any) -> Iterator[str]:
    yield from _among(card.threshold, 0, 1, "threshold")
    yield from _among(card.input_size, 1, 1 << 16, "input size")
    for name, values, low in (("mean", card.mean, 0), ("std", card.std, 1e-6)):
        if len(values) != 3:
            yield f"{name} has {len(values)} values"
        for value in values:
            yield from _among(value, low, 1, name)
    for value in card.grid:
        yield from _among(value, 1, card.input_size, "grid")
    if list(card.classes) != ["real", "fake"] or card.fake_class not in (0, 1):
        yield f"classes are {card.classes!r}, fake is {card.fake_class!r}"
    for one in fields(card):
        yield from _texts(getattr(card, one.name), one.name)


def _texts(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c < "\udc80" for c in value)):
        yield f"{name} holds {value!r}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key, name)
            yield from _texts(inner, f"{name}.{key}"[:80])
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is {value}"


def _first(found: Iterator[str]) -> str:
    return next(found, "")


# --- the readers


def readers(folder: Path) -> list[Reader]:
    """All readers, each with a good input in a place of its own below `folder`."""
    made = Workspace(folder / "lpx-out")
    made.export(demo_folder() / CHECKPOINT)
    made.build(("fp32", "int8"), target="onnxruntime", faces="demo", limit=8)
    made.bench("demo", limit=16, costs=CostPlan(latency_seconds=0), stages=())
    engine = made.engines / "onnxruntime-int8"
    exported = json.loads((made.root / "model.json").read_bytes())
    sha256, card = exported["model_sha256"], exported["card"]
    found = [
        *_of_workspace(folder, made, engine, sha256, card),
        *_of_faces(folder),
        *_of_lists(folder),
        *_of_pictures(folder),
    ]
    for reader in found:
        if complaint := reader.read():
            raise SystemExit(f"the input of {reader.name} that is whole is senseless: {complaint}")
    return found


def _of_workspace(
    folder: Path, made: Workspace, engine: Path, sha256: str, card: dict[str, Any]
) -> Iterator[Reader]:
    path = folder / "card.json"
    path.write_text(json.dumps(card))
    yield Reader(
        "card",
        path,
        altered(path.read_bytes()),
        lambda: _first(_card(card_from_json((folder / "card.json").read_bytes(), "x"))),
    )

    def export() -> str:
        return _first(_card(read_exported(made).card))

    for name in ("model.json", "model.onnx"):
        data = (made.root / name).read_bytes()
        alter = altered(data) if name.endswith("json") else damaged(data)
        yield Reader(name, made.root / name, alter, export)

    def manifest() -> str:
        values = read_manifest(engine)
        bad = [b for b in values.batches if type(b) is not int or b < 1]
        named = values.file != Path(values.file).name
        return (
            f"batches {bad}, file {values.file!r}"
            if bad or named
            else _first(_card(card_from_dict(values.card, "x")))
        )

    path = engine / "manifest.json"
    yield Reader("engine manifest", path, altered(path.read_bytes()), manifest)

    def scales() -> str:
        for name, tensor in load_scales(made.scales, sha256).tensors.items():
            for value in vars(tensor).values():
                if complaint := _first(_texts(value, name)):
                    return complaint
        return ""

    yield Reader("scales", made.scales, altered(made.scales.read_bytes()), scales)

    def report() -> str:
        entries = read_report(made.root / "report.json").entries
        return _first(c for e in entries for c in _among(e.auc, 0, 1, "auc"))

    path = made.root / "report.json"
    yield Reader("report", path, altered(path.read_bytes()), report)

    def checkpoint() -> str:
        return _first(_card(load_checkpoint(folder / "ckpt.pt").card))

    (folder / "ckpt.pt").write_bytes((demo_folder() / CHECKPOINT).read_bytes())
    yield Reader(
        "checkpoint", folder / "ckpt.pt", damaged((folder / "ckpt.pt").read_bytes()), checkpoint
    )
    torch.save({"a": torch.zeros(3, 3), "b": {"c": torch.ones(4)}, "d": 0.1}, folder / "small.pt")
    yield Reader(
        "weights",
        folder / "small.pt",
        damaged((folder / "small.pt").read_bytes()),
        lambda: "" if read_weights(folder / "small.pt") else "nothing",
    )
    yield from _safetensors(folder)
    small = folder / "small.onnx"
    small.write_bytes(made.model.read_bytes())
    yield Reader(
        "onnx",
        small,
        damaged(small.read_bytes()),
        lambda: "" if parse(small.read_bytes(), "x") else "nothing",
    )


def _safetensors(folder: Path) -> Iterator[Reader]:
    try:
        from safetensors.torch import save_file
    except ImportError:
        print("note: safetensors is not installed, and its reader not tried", file=sys.stderr)
        return
    path = folder / "small.safetensors"
    save_file({"a": torch.zeros(3, 3), "b": torch.ones(4)}, path)
    yield Reader(
        "safetensors",
        path,
        damaged(path.read_bytes()),
        lambda: "" if read_weights(path) is not None else "nothing",
    )


def _of_faces(folder: Path) -> Iterator[Reader]:
    faces = folder / "faces"
    rows = ["file,label,method,video,identity,split"]
    for number in range(6):
        name = f"{number}.png"
        faces.mkdir(exist_ok=True)
        cv2.imwrite(str(faces / name), np.full((16, 16, 3), number, np.uint8))
        label = number % 2
        rows.append(f"{name},{label},{'x' if label else 'real'},v{number},p{number},test")
    table = faces / "faces.csv"
    table.write_text("\n".join(rows) + "\n")

    def face_csv() -> str:
        read, _ = read_face_csv(table)
        for face in read:
            if face.label not in (0, 1, None):
                return f"label {face.label!r}"
            if not face.source.path.resolve().is_relative_to(faces.resolve()):
                return f"{face.source.path} is outside"
        return ""

    yield Reader("faces.csv", table, tabled(table.read_text()), face_csv)

    marked = folder / "marked"
    marked.mkdir()
    for path in faces.iterdir():
        (marked / path.name).write_bytes(path.read_bytes())
    names = [f"{number}.png" for number in range(6)]
    points = np.arange(6 * 5 * 2, dtype=np.float32).reshape(6, 5, 2)
    np.savez(marked / "landmarks.npz", files=names, points=points)

    def landmarks() -> str:
        for face in load_landmarked(marked):
            if face.points.ndim != 2 or not np.isfinite(face.points).all():
                return f"landmarks of {face.path.name}"
        return ""

    path = marked / "landmarks.npz"
    yield Reader("landmarks", path, damaged(path.read_bytes()), landmarks)

    prepared = folder / "prepared"
    (prepared / "faces").mkdir(parents=True)
    table_rows = []
    for name in names:
        (prepared / "faces" / name).write_bytes((faces / name).read_bytes())
        table_rows.append(FaceRow(f"faces/{name}", 0, "real", name))
    write_manifest(prepared, FaceManifest("x", "square-1.3"), make_table(prepared, table_rows))

    def face_set() -> str:
        read = read_face_manifest(prepared).faces
        bad = [f.label for f in read if f.label not in (0, 1, None)]
        return f"labels {bad[:3]}" if bad else ""

    for path in sorted(prepared.glob("*.*")):
        alter = altered(path.read_bytes()) if path.suffix == ".json" else damaged(path.read_bytes())
        yield Reader(f"prepared {path.suffix}", path, alter, face_set)


def _of_lists(folder: Path) -> Iterator[Reader]:
    path = folder / "times.json"
    row = {"startComputeMs": 300.0, "h2dMs": 0.1, "computeMs": 1.0, "d2hMs": 0.1, "latencyMs": 1.2}
    path.write_text(json.dumps([row] * 4))

    def times() -> str:
        values = read_times(folder / "times.json")
        arrays = (values.latency_ms, values.compute_ms, values.h2d_ms, values.d2h_ms)
        return "" if all((a >= 0).all() and np.isfinite(a).all() for a in arrays) else "times"

    yield Reader("trtexec times", path, altered(path.read_bytes()), times)

    cache = folder / "calibration.cache"
    text = write_cache({"a": 1.0, "b": 2.5, "c": 1e-3})
    cache.write_text(text)

    def peaks() -> str:
        found = read_cache(cache.read_bytes().decode("utf-8", "replace"), "x", ("a", "b", "c"))
        return "" if all(0 < p < math.inf for p in found.values()) else f"{found}"

    yield Reader("calibration cache", cache, damaged(text.encode()), peaks)

    labels = folder / "metadata.json"
    labels.write_text(json.dumps({f"{n}.mp4": {"label": "FAKE", "split": "train"} for n in "abc"}))

    def dfdc_labels() -> str:
        found = dfdc._train_labels(labels)
        return (
            "" if all(label in (0, 1) and "/" not in name for name, label in found) else f"{found}"
        )

    yield Reader("DFDC labels", labels, altered(labels.read_bytes()), dfdc_labels)

    settings = folder / "lpx.toml"
    settings.write_text('[data]\nroot = "videos"\nstore = "faces"\n')
    yield Reader(
        "lpx.toml",
        settings,
        damaged(settings.read_bytes()),
        lambda: "" if all("\0" not in str(p) for p in data_roots()) else "NUL",
    )

    scored = folder / "a.png"
    scored.write_bytes(b"x")
    face = FaceScore(0, None, 1, (1.0, 2.0, 3.0, 4.0), 0.9, 0.75, True)
    journal = folder / "results.jsonl"
    given = {"threshold": 0.5}
    ScoreJournal(journal, given).add(FileScore("a.png", "image", 0.75, True, 1, (face,)), scored)

    def result() -> str:
        found = ScoreJournal(journal, given).find("a.png", scored)
        if found is None:
            return ""
        every = (found, *found.faces)
        return _first(c for one in every for c in _among(one.score, -1e-3, 1 + 1e-3, "score"))

    yield Reader("results", journal, altered(journal.read_bytes()), result)


def _of_pictures(folder: Path) -> Iterator[Reader]:
    face = cv2.imread(str(demo_folder() / "p000_00.jpg"))
    small = cv2.resize(face, (48, 40), interpolation=cv2.INTER_AREA)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif", ".ppm"):
        done, data = cv2.imencode(suffix, small)
        if not done:
            continue
        path = folder / f"face{suffix}"
        path.write_bytes(bytes(data))

        def image(path: Path = path) -> str:
            read = read_image(path)
            wrong = read.dtype != np.uint8 or read.ndim != 3 or read.shape[2] != 3
            return f"{read.dtype} {read.shape}" if wrong or read.size > 3 * 64_000_000 else ""

        yield Reader(f"image {suffix}", path, damaged(bytes(data)), image)
    path = folder / "clip.mp4"
    writer = VideoWriter(path, 25, 64, 48)
    for index in range(6):
        writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    writer.close()

    def video() -> str:
        is_trimmed(path)
        for frame in read_frames(path, 3):
            if frame.pixels.dtype != np.uint8 or frame.pixels.ndim != 3:
                return f"{frame.pixels.shape}"
        return ""

    yield Reader("video", path, damaged(path.read_bytes()), video)


# --- the drill


def _stop(number: int, frame: FrameType | None) -> None:
    raise SlowError


def tried(reader: Reader) -> tuple[str, str]:
    """What became of one input: "read", "refused" or a fault, and more of the fault."""
    signal.setitimer(signal.ITIMER_REAL, SLOW_S)
    try:
        complaint = reader.read()
    except REFUSED as error:
        return "refused", str(error)
    except SlowError:
        return "too slow", f"more than {SLOW_S:g} s"
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ("senseless", complaint) if complaint else ("read", "")


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=10_000, help="Inputs in all.")
    parser.add_argument("--only", default="", help="Readers whose name contains this.")
    parser.add_argument("--keep", type=Path, help="Folder for the inputs of faults.")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _stop)
    rng = random.Random(options.seed)
    counts: dict[str, Counter[str]] = {}
    shown: Counter[str] = Counter()
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ.pop("LPX_DATA", None)
        all_readers = [r for r in readers(Path(place)) if options.only in r.name]
        start = _peak_mib()
        for number in range(options.count):
            reader = all_readers[number % len(all_readers)]
            whole = reader.path.read_bytes()
            data = reader.alter(rng)
            reader.path.write_bytes(data)
            before, began = _peak_mib(), time.perf_counter()
            kind, why = tried(reader)
            slowest = max(slowest, (time.perf_counter() - began, reader.name))
            if (grown := _peak_mib() - before) > MOST_MIB:
                kind, why = "too much memory", f"{grown:.0f} MiB more than ever before"
            reader.path.write_bytes(whole)
            counts.setdefault(reader.name, Counter())[kind] += 1
            if kind not in ("read", "refused"):
                shown[f"{reader.name}, {kind}"] += 1
                if shown[f"{reader.name}, {kind}"] <= 3:
                    print(f"--- {reader.name}, input {number}: {kind}\n{why[-1500:]}")
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    name = f"{options.seed}-{number}-{kind}{reader.path.suffix}".replace(" ", "-")
                    (options.keep / name).write_bytes(data)
        memory = _peak_mib() - start
    kinds = ("read", "refused", "traceback", "senseless", "too slow", "too much memory")
    print(f"{'reader':20}" + "".join(f"{kind:>16}" for kind in kinds))
    for name, found in counts.items():
        print(f"{name:20}" + "".join(f"{found[kind]:16}" for kind in kinds))
    total: Counter[str] = sum(counts.values(), Counter())
    print(f"{'all':20}" + "".join(f"{total[kind]:16}" for kind in kinds))
    print(
        f"seed {options.seed}; slowest {slowest[0]:.2f} s ({slowest[1]}); memory grew by "
        f"{memory:.0f} MiB"
    )
    sys.exit(1 if sum(total[kind] for kind in kinds[2:]) else 0)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
