"""A training that was stopped ends like one that was not: to the last byte of its state."""

from __future__ import annotations

import copy
import errno
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lpx[train]")

from lpx.errors import LpxError
from lpx.interrupts import Interrupted
from lpx.models.detector import new_detector
from lpx.models.weights_file import read_weights
from lpx.training import fit, keeper, state
from lpx.training.fit import Run, train
from lpx.training.module import LocalPrediction
from tests.conftest import environment
from tests.training.small import SMALL, write_faces

RECIPE = replace(SMALL, steps=5, steps_per_epoch=2, input_size=32, held_out_pairs=2)
"""Three epochs, the last one short."""
FILES = ("ckpt.pt", "ckpt.pt.run/last.ckpt", "ckpt.pt.run/best.ckpt", "ckpt.pt.run/result.json")


class Killed(BaseException):
    """Stands in for SIGKILL: what is on disk stays, and nothing else is done."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For all trainings here, those of fixtures too: more threads add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Analyses each architecture once: that takes longer than these trainings."""

    @cache
    def made(*arguments, **options):
        return new_detector(*arguments, **dict(options))

    monkeypatch.setattr(
        fit, "new_detector", lambda *a, **options: copy.deepcopy(made(*a, **options))
    )


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 8}" for i in range(16)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


@pytest.fixture(scope="module")
def whole(one_thread, faces, tmp_path_factory):
    """An uninterrupted training's files."""
    folder = tmp_path_factory.mktemp("whole")
    train(RECIPE, faces, None, Run(folder / "ckpt.pt", workers=0, quiet=True))
    return {name: (folder / name).read_bytes() for name in FILES}


def files(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def kill_at(monkeypatch, step, where="training_step", kind=Killed):
    """Stop a training when it comes to a step, or to the validation after it."""
    inner = getattr(LocalPrediction, where)

    def dies(self, *arguments):
        if self.step == step:
            raise kind
        return inner(self, *arguments)

    monkeypatch.setattr(LocalPrediction, where, dies)


def stopped(monkeypatch, faces, run, step, where="training_step"):
    with monkeypatch.context() as patch:
        kill_at(patch, step, where)
        with pytest.raises(Killed):
            train(RECIPE, faces, None, run)


@pytest.mark.parametrize(
    ("step", "where", "every_s", "workers"),
    [
        (0, "training_step", 300, 0),
        (3, "training_step", 300, 0),
        (3, "training_step", 0, 1),
        (4, "training_step", 0, 0),
        (2, "validation_step", 0, 0),
        (5, "validation_step", 300, 0),
    ],
)
def test_a_killed_training_ends_like_an_uninterrupted_one(
    whole, faces, tmp_path, monkeypatch, step, where, every_s, workers
):
    monkeypatch.setattr(keeper, "SAVE_EVERY_S", every_s)
    run = Run(tmp_path / "ckpt.pt", workers=workers, quiet=True)
    stopped(monkeypatch, faces, run, step, where)
    assert not run.out.exists()
    train(RECIPE, faces, None, run)
    assert files(tmp_path) == whole


def test_stopped_at_every_step(whole, faces, tmp_path, monkeypatch, caplog):
    """Each run does one step more than is kept: none of them is done twice, no validation lost."""
    monkeypatch.setattr(keeper, "SAVE_EVERY_S", 0)
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    for step in range(1, RECIPE.steps):
        stopped(monkeypatch, faces, run, step)
    steps: list[int] = []
    inner = LocalPrediction.training_step
    monkeypatch.setattr(
        LocalPrediction,
        "training_step",
        lambda self, *a: (steps.append(self.step), inner(self, *a))[1],
    )
    with caplog.at_level(logging.WARNING):
        train(RECIPE, faces, None, run)
    assert steps == [4]
    assert "going on at step 4 of 5" in caplog.text
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    ("step", "where"), [(3, "training_step"), (2, "validation_step"), (5, "validation_step")]
)
def test_a_signal_keeps_the_step(whole, faces, tmp_path, monkeypatch, step, where):
    """The step under way is finished and kept; a validation is begun again."""
    from lpx import interrupts

    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    inner = getattr(LocalPrediction, where)

    def signalled(self, *arguments):
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *arguments)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, interrupts.handled():
        patch.setattr(LocalPrediction, where, signalled)
        with pytest.raises(Interrupted) as caught:
            train(RECIPE, faces, None, run)
    assert signal.getsignal(signal.SIGTERM) == before
    done = step + (where == "training_step")
    assert caught.value.signal == signal.SIGTERM
    assert caught.value.kept == f"step {done} of 5 is kept in {run.state}"
    kept = read_weights(run.state / "last.ckpt")["progress"]
    assert kept["step"] == done
    # Between the last batch of a validation and its result there is nothing to stop at.
    train(RECIPE, faces, None, run)
    assert files(tmp_path) == whole


def test_patience_goes_on_where_it_was(faces, tmp_path, monkeypatch):
    """The validation AUC falls from the first epoch on: two epochs later, training stops."""
    recipe = replace(RECIPE, steps=12, patience=3)
    values = {2: 0.9, 4: 0.8, 6: 0.7, 8: 0.6}
    inner = LocalPrediction.on_validation_epoch_end

    def falls(self):
        inner(self)
        self.val_auc = values[self.step]

    monkeypatch.setattr(LocalPrediction, "on_validation_epoch_end", falls)
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    for step in (5, 7):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                train(recipe, faces, None, run)
    train(recipe, faces, None, run)
    progress = read_weights(run.state / "last.ckpt")["progress"]
    assert (progress["step"], progress["stopped"], progress["waited"]) == (8, True, 3)
    assert progress["best_auc"] == 0.9
    assert read_weights(run.state / "best.ckpt")["step"] == 2


def test_a_finished_training_is_not_done_again(whole, faces, tmp_path, monkeypatch, caplog):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    made = train(RECIPE, faces, None, run)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        kill_at(patch, RECIPE.steps, "validation_step")
        patch.setattr(fit, "_finish", None)
        again = train(RECIPE, faces, None, run)
    assert "this training was finished before" in caplog.text
    assert (again.card, again.val_auc, again.held_out_auc, again.temperature) == (
        made.card,
        made.val_auc,
        made.held_out_auc,
        made.temperature,
    )
    run.out.unlink()
    with caplog.at_level(logging.WARNING):
        train(RECIPE, faces, None, run)
    assert "writing its checkpoint" in caplog.text
    assert files(tmp_path) == whole
    other = train(RECIPE, faces, None, replace(run, crop="retinaface-1.3"))
    assert other.card.crop == "retinaface-1.3"
    assert other.card.weights_sha256 == made.card.weights_sha256


def test_restart_begins_again(whole, faces, tmp_path, monkeypatch):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    stopped(monkeypatch, faces, run, 3)
    with pytest.raises(LpxError, match="with other settings"):
        train(replace(RECIPE, seed=1), faces, None, run)
    steps: list[int] = []
    inner = LocalPrediction.training_step
    monkeypatch.setattr(
        LocalPrediction,
        "training_step",
        lambda self, *a: (steps.append(self.step), inner(self, *a))[1],
    )
    train(RECIPE, faces, None, replace(run, restart=True))
    assert steps == [0, 1, 2, 3, 4]
    assert files(tmp_path) == whole


def test_other_faces_do_not_resume(faces, tmp_path, monkeypatch):
    """Neither a training that was stopped nor one that was finished."""
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    stopped(monkeypatch, faces, run, 3)
    copied = tmp_path / "faces"
    copied.mkdir()
    for path in faces.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    picture = copied / "003.png"
    picture.write_bytes((copied / "004.png").read_bytes())
    with pytest.raises(LpxError, match="a training with other faces"):
        train(RECIPE, copied, None, run)
    picture.write_bytes((faces / "003.png").read_bytes())
    # The same faces elsewhere are the same.
    train(RECIPE, copied, None, run)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def plant(path):
    """A pickle that would write a file when it is read."""

    class Payload:
        def __reduce__(self):
            return open, (str(path.parent / "proof"), "w")

    torch.save({"format": state.FORMAT, "callbacks": Payload()}, path)


@pytest.mark.parametrize("damage", [halve, flip, plant, Path.unlink])
def test_a_damaged_state_falls_back_to_the_one_before(
    whole, faces, tmp_path, monkeypatch, caplog, damage
):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    stopped(monkeypatch, faces, run, 5, "validation_step")
    last, previous = run.state / "last.ckpt", run.state / "last.previous.ckpt"
    assert [read_weights(path)["progress"]["step"] for path in (last, previous)] == [4, 2]
    damage(last)
    monkeypatch.setattr(keeper, "SAVE_EVERY_S", 0)
    with caplog.at_level(logging.WARNING):
        stopped(monkeypatch, faces, run, 3)
    if damage is not Path.unlink:
        assert f"{last} is damaged; going on from last.previous.ckpt" in caplog.text
    # The good one was not thrown away for the damaged one.
    assert [read_weights(path)["progress"]["step"] for path in (last, previous)] == [3, 2]
    train(RECIPE, faces, None, run)
    assert files(tmp_path) == whole
    assert not (run.state / "proof").exists()


def test_two_damaged_states_are_an_error(faces, tmp_path, monkeypatch):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    stopped(monkeypatch, faces, run, 4)
    flip(run.state / "last.ckpt")
    (run.state / "last.previous.ckpt").write_bytes(b"")
    with pytest.raises(LpxError, match="no state of the training that can be read") as caught:
        train(RECIPE, faces, None, run)
    assert "--restart" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"progress": {"step": -1}}, "no state of the training"),
        ({"progress": {"step": True}}, "no state of the training"),
        ({"progress": {"unknown": 1}}, "no state of the training"),
        ({"optimiser": {}}, "does not fit the model"),
        ({"optimiser": {"state": {}}}, "does not fit the model"),
        ({"average": {}}, "does not fit the model"),
        ({"recipe": {"seed": 7}}, "with other settings"),
        ({"devices": 3}, "a training on 3 devices"),
    ],
)
def test_a_state_that_somebody_edited(faces, tmp_path, monkeypatch, change, said):
    """Its seal can be made again; what does not fit is an error that says so."""
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    stopped(monkeypatch, faces, run, 3)
    content = read_weights(run.state / "last.ckpt")
    for name, value in change.items():
        content[name] = {**content[name], **value} if name == "progress" else value
    del content["sha256"]
    torch.save(state._sealed(content), run.state / "last.ckpt")
    with pytest.raises(LpxError, match=said) as caught:
        train(RECIPE, faces, None, run)
    assert "--restart" in caught.value.fix


def test_a_damaged_result_is_made_again(whole, faces, tmp_path):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    train(RECIPE, faces, None, run)
    result = run.state / "result.json"
    for text in ("{", '{"sha256": 1}', result.read_text().replace("0.", "NaN", 1)):
        result.write_text(text)
        train(RECIPE, faces, None, run)
        assert files(tmp_path) == whole


def test_a_full_disk_leaves_the_state_before(whole, faces, tmp_path, monkeypatch):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)

    def full(content, stream):
        if content["format"] == state.FORMAT and content.get("progress", {}).get("step") == 4:
            stream.write(b"x" * 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(content, stream)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(LpxError, match=r"last\.ckpt cannot be written") as caught:
            train(RECIPE, faces, None, run)
    assert "No space left" in caught.value.why
    assert "it goes on from the state before" in caught.value.fix
    assert read_weights(run.state / "last.ckpt")["progress"]["step"] == 2
    assert not [path for path in run.state.iterdir() if path.name.startswith(".last")]
    train(RECIPE, faces, None, run)
    assert files(tmp_path) == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_does_not_decode_is_an_error_that_names_it(faces, tmp_path, workers):
    copied = tmp_path / "faces"
    copied.mkdir()
    for path in faces.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    for path in copied.glob("*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(LpxError, match=r"\.png cannot be read: not an image") as caught:
        train(RECIPE, copied, None, Run(tmp_path / "ckpt.pt", workers=workers, quiet=True))
    assert caught.value.what.count("\n") == 0
    assert caught.value.why == "training does not leave faces out silently"
    assert caught.value.fix == "remove its line from faces.csv, or repair the file"


def test_a_worker_that_dies_is_an_error_that_says_so(whole, faces, tmp_path, monkeypatch):
    inner = LocalPrediction.training_step

    def kills(self, *arguments):
        if self.step == 2:
            for child in multiprocessing.active_children():
                child.kill()
            # As Python is told of it, in the middle of whatever it does.
            time.sleep(2)
        return inner(self, *arguments)

    run = Run(tmp_path / "ckpt.pt", workers=1, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(LocalPrediction, "training_step", kills)
        with pytest.raises(LpxError, match="a process that makes images died") as caught:
            train(RECIPE, faces, None, run)
    assert "--workers" in caught.value.fix
    train(RECIPE, faces, None, run)
    assert files(tmp_path) == whole


CHILD = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lpx.training import keeper
from lpx.training.fit import Run, train
from lpx.training.local_diversity import LocalDiversity
from lpx.training.module import LocalPrediction
from lpx.training.recipe import Recipe
keeper.SAVE_EVERY_S = 0
values = json.loads(sys.argv[1])
values["diversity"] = LocalDiversity(**values["diversity"])
values["pseudo_fakes"] = tuple(values["pseudo_fakes"])
step = LocalPrediction.training_step
def dies(self, batch, index):
    if self.step == 3:
        print(*[p.pid for p in __import__("multiprocessing").active_children()], flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
LocalPrediction.training_step = dies
train(Recipe(**values), Path(sys.argv[2]), None, Run(Path(sys.argv[3]), 1, quiet=True))
"""


def test_sigkill_leaves_no_process_no_lock_and_the_exact_state(whole, faces, tmp_path):
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    arguments = [json.dumps(RECIPE.to_dict()), str(faces), str(run.out)]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        workers = [int(number) for number in child.stdout.readline().split()]
        assert workers
        with pytest.raises(LpxError, match=f"in use by process {child.pid}"):
            train(RECIPE, faces, None, run)
        child.communicate("\n")
    assert child.returncode == -signal.SIGKILL
    end = time.monotonic() + 10
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    half = run.state / ".last.0a1b2c3d.ckpt"
    half.write_bytes(b"PK")
    train(RECIPE, faces, None, run)
    assert files(tmp_path) == whole
    assert not half.exists()


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # A zombie has ended; whoever runs the tests may not ask for it.
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_temporary_folder_too_long_for_sockets_is_refused(tmp_path, monkeypatch):
    long = tmp_path / ("t" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(LpxError, match="long path") as error:
        fit._check_sockets()
    assert "--workers 0" in error.value.fix
