"""A CMake project that scores faces with a TensorRT engine, in C++.

`cpp/` holds its sources as they are compiled: nothing in them is generated. What differs between
models is in card.json and expected.json, which the program reads when it starts.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.card import ModelCard
from lpx.engines.manifest import EngineManifest, Precision
from lpx.errors import LpxError
from lpx.workspace import unwritable, write_bytes, write_json

SOURCES = ("CMakeLists.txt", "detector.h", "main.cpp")
PLAN = "engine.plan"
# Folder of graphs and scripts in a project without a plan.
TRTEXEC = "trtexec"
# Largest accepted |score difference| between the plan and the same graph in ONNX Runtime on a CPU.
# Estimates, not yet measured on a GPU: TF32 keeps 10 bits of mantissa, as FP16 does, and INT8
# levels flip where the two round differently. A wrong order of channels has to exceed them, which
# `choose_face` sees to.
TOLERANCES: dict[Precision, float] = {"fp32": 0.01, "fp16": 0.02, "int8": 0.05}


@dataclass(frozen=True)
class SelfTest:
    """A face, and the score that the engine must give it.

    Attributes:
        face: Face crop, uint8 RGB [S, S, 3].
        name: Name of the face in its set.
        score: Score of the face, computed on a CPU.
        swapped_score: Score of the face with red and blue swapped.
        source: Graph and runtime that computed the scores.
        tolerance: Largest accepted |score difference|.
    """

    face: NDArray[np.uint8]
    name: str
    score: float
    swapped_score: float
    source: str
    tolerance: float

    @property
    def distance(self) -> float:
        """Smallest |difference| between the score and that of a typical fault."""
        # Red and blue swapped; or an engine, such as one of zero weights, that gives only 0 or 1.
        return min(abs(self.swapped_score - self.score), self.score, 1 - self.score)

    @property
    def detects_faults(self) -> bool:
        """True if the self-test fails on each of these faults."""
        # Not >=: a difference that equals the tolerance still passes the self-test.
        return self.distance > self.tolerance


@dataclass(frozen=True)
class ProjectContent:
    """What differs from project to project.

    Attributes:
        card: Card of the model.
        precision: Precision of the engine.
        self_test: The face to ship, and its score.
        plan: The plan; None if it is built on the machine that runs it.
        manifest: Manifest of the plan; None without a plan.
        trtexec_engine: Engine that the scripts in `trtexec/` build, if there is no plan.
    """

    card: ModelCard
    precision: Precision
    self_test: SelfTest
    plan: bytes | None = None
    manifest: EngineManifest | None = None
    trtexec_engine: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """Options that the program needs to load the plan."""
        if self.manifest is None:
            return ()
        options: list[str] = []
        if self.manifest.tensorrt.version_compatible:
            options.append("--allow-host-code")
        core = self.manifest.tensorrt.dla_core
        # Not by its truth: core 0 is a core, too.
        if core is not None:
            options += ["--dla", str(core)]
        return tuple(options)


def check_free(folder: Path) -> None:
    """Check that a folder is empty, or does not exist: files of a user are not overwritten.

    Raises:
        LpxError: It is not (code "unwritable").
    """
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise unwritable(folder, error) from error
    raise LpxError(
        f"{folder} is not empty",
        "a project is written to a new folder, so that no file is overwritten",
        "remove it, or use another folder",
        code="unwritable",
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, whose content moves to `folder` if the block succeeds.

    Args:
        folder: Folder to write, as `check_free` accepts it; created if needed.

    Raises:
        LpxError: The folder cannot be written.
    """
    temporary = None
    try:
        # An empty folder that the user made is kept, even if nothing is written into it.
        existed = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        # Within the folder, and so on the same file system: files are renamed, not copied.
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield temporary
        for path in sorted(temporary.iterdir()):
            path.rename(folder / path.name)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not existed:
            # Succeeds if nothing was written.
            with suppress(OSError):
                folder.rmdir()


def write_project(folder: Path, content: ProjectContent) -> None:
    """Write the project.

    Args:
        folder: Folder to write. Without a plan, it holds `trtexec/`.
        content: Content of the project.

    Raises:
        LpxError: The folder cannot be written.
    """
    test = content.self_test
    for name in SOURCES:
        write_bytes(folder / name, _source(name).encode())
    write_json(folder / "card.json", content.card.to_dict())
    # Raw pixels, so that the program needs no image decoder.
    write_bytes(folder / "face.rgb", test.face.tobytes())
    expected = {
        "score": test.score,
        "tolerance": test.tolerance,
        "face": test.name,
        "computed_by": test.source,
    }
    write_json(folder / "expected.json", expected)
    if content.plan is None:
        script = folder / "build.sh"
        # Not by `format`, as a shell script has braces of its own.
        text = _source(script.name).replace("@NAME@", content.trtexec_engine)
        write_bytes(script, text.encode())
        # Added to the mode that it has, which keeps the user's umask.
        script.chmod(script.stat().st_mode | 0o111)
    else:
        write_bytes(folder / PLAN, content.plan)
    write_bytes(folder / "README.md", _readme(content).encode())


def _source(name: str) -> str:
    return (resources.files("lpx.deploy") / "cpp" / name).read_text(encoding="utf-8")


def _readme(content: ProjectContent) -> str:
    card, test = content.card, content.self_test
    if content.manifest is None:
        plan, first = _BUILD_HERE, "sh build.sh\n"
    else:
        plan, first = _plan_text(content.manifest), ""
    # As main.cpp prints it.
    example = {"face": 0, "score": test.score, "fake": test.score >= card.threshold}
    return _README.format(
        size=card.input_size,
        face_bytes=test.face.nbytes,
        plan=plan,
        first=first,
        options="".join(f" {option}" for option in content.options),
        crop=card.crop,
        threshold=f"{card.threshold:g}",
        example=json.dumps(example),
        tolerance=f"{test.tolerance:g}",
        source=test.source,
    )


def _plan_text(manifest: EngineManifest) -> str:
    version = manifest.versions.get("tensorrt", "of an unknown release")
    names = [str(gpu["name"]) for gpu in manifest.machine.get("gpus", ()) if gpu.get("name")]
    text = _PLAN.format(
        name=manifest.name, version=version, gpu=" and ".join(names) or "an unknown GPU"
    )
    if manifest.tensorrt.version_compatible:
        text += _HOST_CODE
    return text


_BUILD_HERE = """\
`build.sh` builds `engine.plan` with trtexec, for the machine it runs on. Run it again after an
update of TensorRT, or on another kind of GPU."""
_PLAN = """\
`engine.plan` is the engine {name}, built by TensorRT {version} on {gpu}.
It runs with that release on that kind of GPU, unless it was built to be compatible with others."""
_HOST_CODE = """
It is version-compatible, so it contains code that runs on the CPU, and is only loaded with
`--allow-host-code`: only use it if you trust its source."""
_README = """\
# Deepfake detector, in C++

Written by lpx. It needs TensorRT 8.6 to 11, CUDA and CMake 3.18, and no Python.

{plan}

```
{first}cmake -S . -B build && cmake --build build
./build/detector --self-test{options}
./build/detector{options} face.rgb
```

The last command prints a line of JSON for each face:

```
{example}
```

- **Input**: FILE, or standard input: any number of faces, one after another, without a header. A
  face is {size} x {size} x 3 = {face_bytes} bytes: uint8, RGB, row by row, not normalised.
  Decoding, face detection and cropping (recipe `{crop}`) are up to the caller.
- **Output**: `score` is the probability of fake, `fake` whether it reaches the threshold in
  `card.json` ({threshold}). `--map` adds the map of local scores, as a list of rows.
- **Batches**: larger inputs are split by the batch sizes that the engine takes. `--batch 1` scores
  each face as soon as it is read, for live streams.
- **Self-test**: the score of `face.rgb` must be that in `expected.json` (computed by
  {source}), within {tolerance}. The face shows nobody: it was
  rendered, and is in the public domain (CC0 1.0).
- **In a program of your own**: `detector.h` is the engine without input and output.

Exit codes: 0 done, 1 the self-test failed, 2 it could not run.

This program was tested with a stand-in for TensorRT and CUDA. It has not yet run on a GPU: rely on
the self-test.
"""
