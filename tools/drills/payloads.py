"""Hide code in everything that lpx reads, and see whether any of it runs.

    python -m tools.drills.payloads --seed 1

A payload is one call that makes a file of its own, hidden in one place: pickles of many forms in
checkpoints, states of a training and arrays, a factory in `model.json`, modules that lie where lpx
is run, and names that a shell or a script could obey. The exit code is 1 where one has run.

Each payload is first given to something that does run it (an ordinary unpickler, an import, a
shell): one that makes no file there would prove nothing, and counts as a fault of the drill.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import pickle
import pickletools
import random
import shutil
import string
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from lpx import Workspace
from lpx.arrays import read_arrays
from lpx.artefacts.model import read_exported
from lpx.artefacts.reference import read_reference
from lpx.data.face_sets.demo import CHECKPOINT
from lpx.data.face_sets.demo import folder as demo_folder
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.models.weights_file import read_weights
from lpx.schema import sealed, unsealed
from lpx.training.state import LAST, PREVIOUS, Store
from tools.drills.running import run

# --- pickles


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def _stack_global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return _text(module) + _text(attribute) + b"\x93"


def _calls(mark: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Functions that make the file `mark`, with their arguments, by what they are."""
    shell = f": > '{mark}'"
    code = f"open({str(mark)!r}, 'w')"
    return {
        "system": ("os.system", (shell,)),
        "posix": ("posix.system", (shell,)),
        "run": ("subprocess.getoutput", (shell,)),
        "eval": ("builtins.eval", (code,)),
        "exec": ("builtins.exec", (code,)),
        "open": ("builtins.open", (str(mark), "w")),
        "io": ("io.open", (str(mark), "w")),
        "mkdir": ("os.mkdir", (str(mark),)),
        "sqlite": ("sqlite3.connect", (str(mark),)),
        "logging": ("logging.FileHandler", (str(mark),)),
        "copy": ("shutil.copyfile", (os.devnull, str(mark))),
        "zip": ("zipfile.ZipFile", (str(mark), "w")),
        "codecs": ("codecs.open", (str(mark), "w")),
        "tar": ("tarfile.open", (str(mark), "w")),
        "torch": ("torch.save", ("", str(mark))),
    }


_Form = Callable[[str, tuple[str, ...]], bytes]


def _arguments(values: tuple[str, ...]) -> bytes:
    return b"(" + b"".join(_text(value) for value in values) + b"t"


_FORMS: dict[str, _Form] = {
    "reduce": lambda name, values: _global(name) + _arguments(values) + b"R",
    "stack global": lambda name, values: _stack_global(name) + _arguments(values) + b"R",
    "object": lambda name, values: (
        b"(" + _global(name) + b"".join(_text(value) for value in values) + b"o"
    ),
    "instance": lambda name, values: (
        b"(" + b"".join(_text(v) for v in values) + b"i" + _global(name)[1:]
    ),
    "memo": lambda name, values: _global(name) + b"q\x05" + b"0h\x05" + _arguments(values) + b"R",
    "map": lambda name, values: (
        # list(map(function, [first], ...)): the call is made by another that looks harmless.
        _global("builtins.list")
        + b"("
        + _global("builtins.map")
        + b"("
        + _global(name)
        + b"".join(b"]" + _text(v) + b"a" for v in values)
        + b"tRtR"
    ),
}
"""Ways to have an unpickler call a function."""


def pickles(folder: Path, rng: random.Random) -> Iterator[tuple[str, bytes, Path]]:
    """Values that make a file when they are unpickled: their names, bytes, and the files.

    Each is the code of one value, without protocol and end.
    """
    for call in _calls(folder):
        for form, write in _FORMS.items():
            mark = folder / f"{call}-{form.replace(' ', '-')}-{rng.randrange(1 << 30)}"
            name, values = _calls(mark)[call]
            yield f"{call}, {form}", write(name, values), mark


def _pickled(value: bytes) -> bytes:
    """A pickle of a dictionary as a checkpoint has it, with `value` among its values."""
    return b"\x80\x04}" + _text("state_dict") + b"}s" + _text("epoch") + value + b"s."


def _bare(value: bytes, path: Path, rng: random.Random) -> None:
    path.write_bytes(_pickled(value))


def _legacy(value: bytes, path: Path, rng: random.Random) -> None:
    """PyTorch's format before 1.6: five pickles, one behind the other; any of them may be it."""
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, stream, _use_new_zipfile_serialization=False)
    parts, data = [], io.BytesIO(stream.getvalue())
    for _ in range(5):
        begin = data.tell()
        for _ in pickletools.genops(data):
            pass
        parts.append(stream.getvalue()[begin : data.tell()])
    parts[rng.choice([0, 1, 2, 3, 4])] = _pickled(value)
    path.write_bytes(b"".join(parts) + data.read())


def _archive(value: bytes, path: Path, rng: random.Random) -> None:
    """PyTorch's format since 1.6."""
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            is_data = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, _pickled(value) if is_data else old.read(entry))


def _arrays(value: bytes, path: Path, rng: random.Random) -> None:
    """NumPy's archive, with an array of objects."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("counts.npy", stream.getvalue() + _pickled(value))


def _unsafe(path: Path) -> None:
    """Read a file with all that is in it."""
    data = path.read_bytes()
    if not zipfile.is_zipfile(path):
        stream = io.BytesIO(data)
        while stream.tell() < len(data):
            begin = stream.tell()
            for _ in pickletools.genops(stream):
                pass
            with suppress(pickle.UnpicklingError, AttributeError):
                # Tensors are kept elsewhere: a pickle of them fails.
                pickle.loads(data[begin : stream.tell()])
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("data.pkl"):
                pickle.loads(content)
            elif entry.filename.endswith(".npy"):
                np.lib.format.read_array(io.BytesIO(content), allow_pickle=True)


def _state(path: Path) -> None:
    """Read a file as both states of a training."""
    folder = path.with_name(path.name + ".run")
    folder.mkdir()
    for name in (LAST, PREVIOUS):
        shutil.copy(path, folder / name)
    try:
        Store(folder).read()
    finally:
        shutil.rmtree(folder)


_CARRIERS = {
    "pickle": (_bare, (read_weights, load_checkpoint, _state)),
    "legacy": (_legacy, (read_weights, load_checkpoint, _state)),
    "archive": (_archive, (read_weights, load_checkpoint, _state)),
    "arrays": (_arrays, (read_arrays,)),
}


def drill_pickles(folder: Path, rng: random.Random, counts: Counter[str]) -> None:
    """Pickles in checkpoints, states of trainings and arrays."""
    for carrier, (write, readers) in _CARRIERS.items():
        for name, value, mark in pickles(folder, rng):
            path = folder / "payload.pt"
            write(value, path, rng)
            for read in readers:
                with suppress(LpxError, ValueError):
                    read(path)
            _judge(f"{carrier}: {name}", mark, lambda path=path: _unsafe(path), counts)


def _judge(name: str, mark: Path, run_it: Callable[[], object], counts: Counter[str]) -> None:
    """Count a payload after lpx has read it, and see that it would have made its file."""
    counts["payloads"] += 1
    if mark.exists():
        counts["run"] += 1
        print(f"run: {name}", file=sys.stderr)
        return
    # What comes after the payload may well fail: the file is what counts.
    with suppress(Exception):
        run_it()
    if not mark.exists():
        counts["duds"] += 1
        print(f"dud: {name}", file=sys.stderr)


# --- factories and modules


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    here, paths, modules = Path.cwd(), list(sys.path), set(sys.modules)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        sys.path[:] = paths
        for name in set(sys.modules) - modules:
            del sys.modules[name]


def _module(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w').close()\ndef build():\n    pass\n"


def drill_factories(folder: Path, rng: random.Random, counts: Counter[str]) -> None:
    """A `factory` in `model.json`, with a right checksum, that nobody has allowed."""
    place = folder / "exported"
    shutil.copy(demo_folder() / CHECKPOINT, folder / "ckpt.pt")
    workspace = Workspace(place)
    workspace.export(folder / "ckpt.pt")
    path = place / "model.json"
    original = unsealed(json.loads(path.read_text()))
    for depth in (1, 2, 3):
        for where in (folder, place, place / "engines"):
            stem = "".join(rng.choices(string.ascii_lowercase, k=10))
            mark = folder / f"factory-{stem}"
            where.mkdir(exist_ok=True)
            package = where
            for _ in range(depth - 1):
                package = package / stem
                package.mkdir()
            (package / f"{stem}.py").write_text(_module(mark))
            name = ".".join([stem] * depth)
            path.write_text(json.dumps(sealed({**original, "factory": f"{name}:build"})))
            with _inside(where), suppress(LpxError):
                read_reference(workspace, read_exported(workspace))

            def run_it(name: str = name, where: Path = where) -> None:
                with _inside(where):
                    sys.path.insert(0, "")
                    importlib.invalidate_caches()
                    importlib.import_module(name)

            _judge(f"factory {name} in {where.name}", mark, run_it, counts)
    path.write_text(json.dumps(sealed(original)))


_NAMES = (
    "numpy",
    "torch",
    "onnx",
    "onnxruntime",
    "cv2",
    "click",
    "rich",
    "scipy",
    "jinja2",
    "tensorrt",
    "pycuda",
    "onnxsim",
    "cuda",
    "json",
    "lightning",
    "yaml",
    "sitecustomize",
    "usercustomize",
)


def drill_modules(folder: Path, rng: random.Random, counts: Counter[str]) -> None:
    """Modules beside the data that bear the names of what lpx imports."""
    place = folder / "beside"
    place.mkdir()
    marks = {}
    for name in _NAMES:
        marks[name] = folder / f"module-{name}-{rng.randrange(1 << 30)}"
        (place / f"{name}.py").write_text(_module(marks[name]))
    shutil.copy(demo_folder() / CHECKPOINT, place / "ckpt.pt")
    script = Path(sys.executable).with_name("lpx")
    for line in ("doctor", "export ckpt.pt", "build --fp32", "predict . --crops"):
        subprocess.run([str(script), *line.split()], cwd=place, capture_output=True, check=False)
    for name, mark in marks.items():
        argv = [sys.executable, str(place / f"{name}.py")]
        _judge(f"module {name}", mark, lambda argv=argv: subprocess.run(argv, check=True), counts)


# --- names


def _names(mark: Path) -> Iterator[str]:
    """Names of files that make `mark` if a shell takes them for more than names."""
    # A name holds no slash: the shell finds the place in a variable.
    touch = f"cd $DRILL && : >{mark.name}"
    yield f"$({touch})"
    yield f"`{touch}`"
    yield f"a;{touch};b"
    yield f"a' ;{touch}; '"
    yield f'a" ;{touch}; "'
    yield f"a\n{touch}\n"
    yield f"a|({touch})"
    yield f"a&({touch})&wait;"


def drill_names(folder: Path, rng: random.Random, counts: Counter[str]) -> None:
    """Names of workspaces, models and faces that get into scripts and command lines."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "trtexec").write_text("#!/bin/sh\nexit 0\n")
    (tools / "trtexec").chmod(0o755)
    environment = os.environ | {
        "DRILL": str(folder),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }
    exported = folder / "exported"
    for number in range(len(list(_names(folder)))):
        mark = folder / f"name-{number}-{rng.randrange(1 << 30)}"
        name = list(_names(mark))[number]
        place = folder / f"named-{number}"
        place.mkdir()
        shutil.copytree(exported, place / name)
        out = place / f"{name}-out"
        run(place, ("build", "--fp16", "--emit", "trtexec", "-w", name, "--out", str(out)))
        scripts = list(out.glob("*.sh"))
        if not scripts:
            counts["duds"] += 1
            print(f"dud: no script was written for {name!r}", file=sys.stderr)
        for script in scripts:
            subprocess.run(
                ["sh", script], cwd=out, env=environment, capture_output=True, check=False
            )

        def run_it(name: str = name) -> None:
            quote = {"a'": "'", 'a"': '"'}.get(name[:2], "")
            line = f"echo {quote}{name}{quote}"
            subprocess.run(["sh", "-c", line], env=environment, check=False)

        _judge(f"name {name!r}", mark, run_it, counts)


_DRILLS = {
    "pickles": drill_pickles,
    "factories": drill_factories,
    "modules": drill_modules,
    "names": drill_names,
}


def main() -> int:
    """Run the drill; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="lpx-drill-") as folder:
        for name, drill in _DRILLS.items():
            counts: Counter[str] = Counter()
            drill(Path(folder), rng, counts)
            print(
                f"{name}: {counts['payloads']} payloads, {counts['run']} run, "
                f"{counts['duds']} duds",
                flush=True,
            )
            total += counts
    print(f"all: {total['run']} of {total['payloads']} payloads have run; {total['duds']} duds")
    return int(bool(total["run"] or total["duds"]))


if __name__ == "__main__":
    sys.exit(main())
