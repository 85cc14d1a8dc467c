"""An ablation on a real cluster: the same bytes as on one machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("lightning", reason="training needs lpx[train]")


from lpx import AblationGrid, RayOptions, ablate
from lpx.errors import InvalidArgumentError, LpxError
from lpx.models.weights_file import read_weights
from lpx.training.ablation.on_cluster import Mailbox, _check_faces, _keep_state, _see
from lpx.training.fit import train
from lpx.training.run import RunOptions
from tests.cluster.conftest import Notes
from tests.support.threads import on_one_thread
from tests.training.callbacks import At, quiet
from tests.training.small import SMALL, write_faces

RECIPE = replace(
    SMALL, steps=24, steps_per_epoch=8, input_size=32, validation_pairs=2, held_out_pairs=2
)
GRID = AblationGrid("efficientnet_lite0", "stage2", ("direct", "indirect"), (0.1,), seeds=1)
FIRST, SECOND = (cell.name for cell in GRID.cells())
# A state after every step: there is one to go on from, wherever a training is stopped.
OPTIONS = quiet(save_every_s=0)


class Killed(BaseException):
    """Stands in for SIGKILL."""


class Stopping(Notes):
    """Stops the ablation when the first training is done."""

    def say(self, text):
        super().say(text)
        if text.startswith("1/2"):
            raise Killed


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As the workers, which have one core each."""
    with on_one_thread():
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 8}" for i in range(16)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


@pytest.fixture(scope="module")
def ray(nodes):
    return RayOptions(nodes.address, workers=2)


@pytest.fixture(scope="module")
def local(one_thread, faces, tmp_path_factory):
    """An ablation of this machine."""
    out = tmp_path_factory.mktemp("local")
    ablate(RECIPE, faces, out, grid=GRID, options=quiet())
    return results(out)


def results(out):
    """What an ablation has made, but for times, logs and the state before the last."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or path.name in (".lock", "last.previous.ckpt") or "/log" in name:
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".json":
            found[name] = json.dumps(timeless(json.loads(found[name])), sort_keys=True)
    return found


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name != "minutes"}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def kill_worker_of(out, cell, killed):
    """Kill the process that trains a cell, once a state of it has come back."""
    end = time.monotonic() + 90
    while not (process := worker_of(cell)) and time.monotonic() < end:
        # Each look goes through all processes, and takes time from the training itself.
        time.sleep(0.1)
    # It would be done before anybody has seen its state: it runs for moments only.
    last = out / cell / "ckpt.pt.run" / "last.ckpt"
    try:
        while not is_under_way(last) and time.monotonic() < end:
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(process, signal.SIGCONT)
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        killed.append(process)
    except (OSError, TypeError):
        # There is none: the test says so.
        pass


def is_under_way(state):
    return state.exists() and read_weights(state)["progress"]["step"] > 0


def worker_of(cell):
    """Return the process of Ray that trains a cell: it has the lock of a folder with its recipe."""
    for process in Path("/proc").iterdir():
        try:
            # Its name is that of the actor, or of the class.
            if not (process / "comm").read_text().startswith("ray::"):
                continue
            for file in (process / "fd").iterdir():
                lock = Path(os.readlink(file))
                if lock.parts[-2:] == ("ckpt.pt.run", ".lock"):
                    recipe = json.loads(lock.with_name("recipe.json").read_text())
                    if recipe["supervision"] in cell.split("-"):
                        return int(process.name)
        except (OSError, ValueError):
            continue
    return None


@pytest.mark.ray
def test_begun_here_it_goes_on_there_although_a_worker_dies(local, ray, faces, tmp_path):
    out, reporter, killed = tmp_path / "grid", Notes(), []

    def kill(batch):
        raise Killed

    stop = quiet(At(20, kill), save_every_s=0)
    with pytest.raises(Killed):
        ablate(RECIPE, faces, out, grid=GRID, options=stop)
    assert (out / FIRST / "ckpt.pt.run" / "last.ckpt").exists()
    killer = threading.Thread(target=kill_worker_of, args=(out, SECOND, killed), daemon=True)
    killer.start()
    ablate(RECIPE, faces, out, grid=GRID, options=OPTIONS, ray=ray, reporter=reporter)
    killer.join(timeout=60)
    assert results(out) == local
    assert killed
    assert any("died at training" in text and SECOND in text for text in reporter.said)
    lines = sorted(text.partition(",")[0] for text in reporter.said if "/2 " in text)
    assert [line[:4] for line in lines] == ["1/2 ", "2/2 "]
    # Neither began anew: logs are named after the step.
    first, second = out / FIRST / "ckpt.pt.run", out / SECOND / "ckpt.pt.run"
    assert (first / "log-from-000020").is_dir()
    assert list(second.glob("log-from-*"))
    assert not (second / "log").exists()


def test_begun_there_it_goes_on_here(local, nodes, faces, tmp_path):
    out, ray = tmp_path / "grid", RayOptions(nodes.address, workers=1)
    with pytest.raises(Killed):
        ablate(RECIPE, faces, out, grid=GRID, options=OPTIONS, ray=ray, reporter=Stopping())
    assert len(list(out.glob("*/result.json"))) == 1
    reporter = Notes()
    ablate(RECIPE, faces, out, grid=GRID, options=OPTIONS, reporter=reporter)
    assert len(reporter.said) == 1
    assert results(out) == local


@pytest.mark.parametrize(
    ("change", "file", "why"),
    [
        (lambda folder: (folder / "003.png").unlink(), "", "does not exist"),
        (
            lambda folder: (folder / "003.png").write_bytes((folder / "004.png").read_bytes()),
            "003.png",
            "another content",
        ),
        (
            lambda folder: (folder / "faces.csv").write_text(
                (folder / "faces.csv").read_text().replace("person3", "person4")
            ),
            "faces.csv",
            "lists other faces",
        ),
        (lambda folder: shutil.rmtree(folder), "", "does not exist"),
    ],
    ids=["absent", "content", "table", "folder"],
)
def test_a_node_that_sees_other_faces(faces, tmp_path, change, file, why):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    seen = _see(folder)
    _check_faces(folder, seen)
    change(folder)
    with pytest.raises(LpxError, match=r"node .* does not see") as caught:
        _check_faces(folder, seen)
    assert str(folder / file) in caught.value.what
    assert why in caught.value.why


def test_other_landmarks_on_a_node(faces, tmp_path):
    import numpy as np

    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    seen = _see(folder)
    with np.load(folder / "landmarks.npz") as arrays:
        np.savez(folder / "landmarks.npz", files=arrays["files"], points=arrays["points"] + 1)
    with pytest.raises(LpxError, match=r"landmarks\.npz"):
        _check_faces(folder, seen)


def test_states_on_their_way(tmp_path):
    box = Mailbox()
    box.put(0, {"ckpt.pt.run/last.ckpt": b"1", "ckpt.pt.run/best.ckpt": b"b"})
    box.put(0, {"ckpt.pt.run/last.ckpt": b"2"})
    taken = box.take()
    assert taken == {0: {"ckpt.pt.run/last.ckpt": b"2", "ckpt.pt.run/best.ckpt": b"b"}}
    assert box.take() == {}
    for files in (taken[0], {"ckpt.pt.run/last.ckpt": b"3"}):
        _keep_state(tmp_path, files)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "ckpt.pt.run").iterdir()}
    assert kept == {"last.ckpt": b"3", "last.previous.ckpt": b"2", "best.ckpt": b"b"}


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"devices": 2}, "devices"),
        ({"strategy": "ddp"}, "strategy"),
        ({"callbacks": (At(0, print),)}, "callbacks"),
        ({"restart": True}, "restart"),
        ({"nodes": 2}, "nodes"),
    ],
)
def test_options_that_an_ablation_on_a_cluster_does_not_take(faces, tmp_path, options, argument):
    with pytest.raises(InvalidArgumentError) as caught:
        ablate(RECIPE, faces, tmp_path, options=RunOptions(**options), ray=RayOptions())
    assert caught.value.argument == argument
    assert not list(tmp_path.iterdir())


def test_a_cell_trains_as_its_recipe_alone_does(local, faces, tmp_path):
    """Nothing of a checkpoint tells that it is one of a grid."""
    cell = GRID.cells()[0]
    train(cell.recipe(RECIPE), faces, tmp_path / "ckpt.pt", options=quiet())
    assert (tmp_path / "ckpt.pt").read_bytes() == local[f"{FIRST}/ckpt.pt"]
