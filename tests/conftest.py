"""Fixtures that several folders of tests share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("lpx", deadline=None)
settings.load_profile("lpx")

MAIN = "from lpx.cli.main import main; main()"

# With several processes of tests, each has about one core. Libraries that start a thread per core
# wait for it in a loop, and two such processes cost each other more than the second thread gains.
# Set before PyTorch is imported; commands that tests run take it over.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Where digests of files are remembered meanwhile, by the commands that tests run too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def randomise():
    """A function that gives a module random weights and batch-norm statistics, and eval mode.

    Fresh batch norms are the identity, so a mistake in folding or ordering them would not show.
    """
    import torch
    from torch import nn

    def apply(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    fan_in = part.weight[0].numel()
                    part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                    if part.bias is not None:
                        part.bias.normal_(0, 0.1, generator=generator)
                elif isinstance(part, nn.BatchNorm2d):
                    part.weight.uniform_(0.5, 1.5, generator=generator)
                    part.bias.normal_(0, 0.2, generator=generator)
                    part.running_mean.normal_(0, 0.2, generator=generator)
                    part.running_var.uniform_(0.5, 1.5, generator=generator)
        return module.eval()

    return apply


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def lpx(capsys):
    """Runs the command line in this process; `shell` runs it in another, which takes longer."""
    from lpx.cli.main import main

    def run(*arguments):
        capsys.readouterr()
        code = 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as done:
            code = done.code or 0
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture(scope="session")
def shell():
    """Runs the command line in a process of its own, installed or not.

    `before` is Python that runs there first.
    """

    def run(*arguments, cwd=None, before=""):
        done = subprocess.run(
            [sys.executable, "-c", f"{before}\n{MAIN}", *map(str, arguments)],
            cwd=cwd,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def environment() -> dict[str, str]:
    """This process's environment, without what would steer lpx, and with lpx importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LPX_")}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "80"}


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function that returns a folder of a name, filled by the first process that needs it.

    The others wait for it. What it makes is of this run of the tests alone, and read only.
    """
    base = tmp_path_factory.getbasetemp()
    # With xdist, every process has a folder of its own in that of the run.
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    shared = base / "shared"

    def make(name, fill):
        shared.mkdir(exist_ok=True)
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                # Under another name until it is whole: an attempt that failed is not taken for it.
                attempt = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=shared))
                fill(attempt)
                attempt.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def exported_demo(made_once):
    """A workspace with the demo checkpoint exported; read only."""
    from lpx import Workspace
    from lpx.data.face_sets.demo import CHECKPOINT, folder

    def fill(attempt):
        Workspace(attempt / "lpx-out").export(folder() / CHECKPOINT)

    return Workspace(made_once("exported-demo", fill) / "lpx-out")


@pytest.fixture(scope="session")
def built(made_once, exported_demo):
    """A workspace with the demo checkpoint exported, and built in FP32 and INT8; read only."""
    from lpx import Workspace

    def fill(attempt):
        work = Workspace(shutil.copytree(exported_demo.root, attempt / "lpx-out"))
        work.build(("fp32", "int8"), target="onnxruntime", faces="demo", limit=16)

    return Workspace(made_once("built", fill) / "lpx-out")


@pytest.fixture
def workspace(built, tmp_path, monkeypatch):
    """A copy of `built`, in `lpx-out` of a new current folder."""
    from lpx import Workspace

    shutil.copytree(built.root, tmp_path / "lpx-out")
    monkeypatch.chdir(tmp_path)
    for name in ("LPX_WORKSPACE", "LPX_FACES"):
        monkeypatch.delenv(name, raising=False)
    return Workspace(Path("lpx-out"))


@pytest.fixture(scope="session")
def drawn():
    """Sixteen demo faces, decoded: (real, fake) pairs of uint8 RGB [H, W, 3]."""
    from lpx.data.face_sets.demo import demo_set

    faces = demo_set("test").faces[:16]
    images = [face.source.read() for face in faces]
    return list(zip(images[::2], images[1::2], strict=True))


@pytest.fixture
def crops(drawn, tmp_path):
    """A folder with eight real and eight fake crops, in `real/` and `fake/`."""
    from lpx.render.encode import encode_png

    for number, pair in enumerate(drawn):
        for label, image in zip(("real", "fake"), pair, strict=True):
            path = tmp_path / "crops" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))
    return tmp_path / "crops"


@pytest.fixture
def tree():
    """A function that takes down a folder: every path below it, and what each file holds."""

    def take_down(folder):
        # Every command that writes leaves its process number in the lock.
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(Path(folder).rglob("*"))
            if path.name != ".lock"
        }

    return take_down
