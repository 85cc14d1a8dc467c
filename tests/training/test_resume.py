"""A training that was stopped ends like one that was not: to the last byte of its state."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lpx[train]")

from lightning.pytorch.callbacks import Callback

from lpx.errors import LpxError
from lpx.interrupts import Interrupted
from lpx.models.weights_file import read_weights
from lpx.training import state
from lpx.training.fit import train
from lpx.training.lightning_loop import check_sockets
from tests.conftest import environment
from tests.support.reporting import RecordingReporter
from tests.support.threads import on_one_thread
from tests.training.callbacks import At, Steps, quiet
from tests.training.small import SMALL, write_faces

RECIPE = replace(SMALL, steps=5, steps_per_epoch=2, input_size=32, held_out_pairs=2)
"""Three epochs, the last one short."""
FILES = ("ckpt.pt", "ckpt.pt.run/last.ckpt", "ckpt.pt.run/best.ckpt", "ckpt.pt.run/result.json")


class Killed(BaseException):
    """Stands in for SIGKILL: what is on disk stays, and nothing else is done."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For all trainings here, those of fixtures too."""
    with on_one_thread():
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 8}" for i in range(16)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


@pytest.fixture(scope="module")
def whole(one_thread, faces, tmp_path_factory):
    """An uninterrupted training's files."""
    folder = tmp_path_factory.mktemp("whole")
    train(RECIPE, faces, folder / "ckpt.pt", options=quiet())
    return {name: (folder / name).read_bytes() for name in FILES}


def files(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def kill(batch):
    raise Killed


def stopped(faces, out, step, *, validation=False, recipe=RECIPE, **options):
    """Stop a training when it comes to a step, or to the validation after it."""
    with pytest.raises(Killed):
        train(recipe, faces, out, options=quiet(At(step, kill, validation=validation), **options))


@pytest.mark.parametrize(
    ("step", "validation", "every_s", "workers"),
    [
        (0, False, 300, 0),
        (3, False, 300, 0),
        (3, False, 0, 1),
        (4, False, 0, 0),
        (2, True, 0, 0),
        (5, True, 300, 0),
    ],
)
def test_a_killed_training_ends_like_an_uninterrupted_one(
    whole, faces, tmp_path, step, validation, every_s, workers
):
    out = tmp_path / "ckpt.pt"
    options = {"workers": workers, "save_every_s": every_s}
    stopped(faces, out, step, validation=validation, **options)
    assert not out.exists()
    train(RECIPE, faces, out, options=quiet(**options))
    assert files(tmp_path) == whole


def test_stopped_at_every_step(whole, faces, tmp_path):
    """Each run does one step more than is kept: no step is repeated, no validation lost."""
    out = tmp_path / "ckpt.pt"
    for step in range(1, RECIPE.steps):
        stopped(faces, out, step, save_every_s=0)
    done, reporter = Steps(), RecordingReporter()
    train(RECIPE, faces, out, options=quiet(done, save_every_s=0), reporter=reporter)
    assert done.steps == [4]
    assert "note: resuming at step 4 of 5" in reporter.said
    assert files(tmp_path) == whole


@pytest.mark.parametrize(("step", "validation"), [(3, False), (2, True), (5, True)])
def test_a_signal_keeps_the_step(whole, faces, tmp_path, step, validation):
    """The step under way is finished and kept; a validation is repeated."""
    from lpx import interrupts

    out = tmp_path / "ckpt.pt"
    signals = At(step, lambda batch: os.kill(os.getpid(), signal.SIGTERM), validation=validation)
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.handled(), pytest.raises(Interrupted) as caught:
        train(RECIPE, faces, out, options=quiet(signals))
    assert signal.getsignal(signal.SIGTERM) == before
    done = step + (not validation)
    assert caught.value.signal == signal.SIGTERM
    assert caught.value.kept == f"step {done} of 5 is kept in {out}.run"
    kept = read_weights(tmp_path / "ckpt.pt.run" / "last.ckpt")["progress"]
    assert kept["step"] == done
    # Between the last batch of a validation and its result there is nothing to stop at.
    train(RECIPE, faces, out, options=quiet())
    assert files(tmp_path) == whole


class Falling(Callback):
    """Replaces the scores of each validation by some whose AUC falls."""

    def on_validation_epoch_end(self, trainer, module):
        auc = {2: 0.9, 4: 0.8, 6: 0.7, 8: 0.6}[module.step]
        # One fake among ten reals, above 10 * auc of them.
        scores = torch.tensor([*map(float, range(10)), 10 * auc - 0.5])
        module.validated[:] = [(scores, torch.tensor([0.0] * 10 + [1.0]))]


def test_patience_goes_on_where_it_was(faces, tmp_path):
    """The validation AUC falls from the first epoch on: three validations later, training stops."""
    recipe = replace(RECIPE, steps=12, patience=3)
    out, folder = tmp_path / "ckpt.pt", tmp_path / "ckpt.pt.run"
    for step in (5, 7):
        with pytest.raises(Killed):
            train(recipe, faces, out, options=quiet(Falling(), At(step, kill)))
    train(recipe, faces, out, options=quiet(Falling()))
    progress = read_weights(folder / "last.ckpt")["progress"]
    assert (progress["step"], progress["stopped"], progress["waited"]) == (8, True, 3)
    assert progress["best_auc"] == pytest.approx(0.9)
    assert read_weights(folder / "best.ckpt")["step"] == 2


def test_a_finished_training_is_not_repeated(whole, faces, tmp_path):
    out = tmp_path / "ckpt.pt"
    first = train(RECIPE, faces, out, options=quiet())
    written, reporter = out.stat().st_mtime_ns, RecordingReporter()
    kills = At(None, kill), At(None, kill, validation=True)
    again = train(RECIPE, faces, out, options=quiet(*kills), reporter=reporter)
    assert any("this training is finished" in text for text in reporter.said)
    assert replace(again, minutes=first.minutes) == first
    assert out.stat().st_mtime_ns == written
    out.unlink()
    train(RECIPE, faces, out, options=quiet(*kills), reporter=reporter)
    assert "writing its checkpoint" in reporter.said[-1]
    assert files(tmp_path) == whole
    other = train(RECIPE, faces, out, crop="retinaface-1.3", options=quiet(*kills))
    assert other.card.crop == "retinaface-1.3"
    assert other.card.weights_sha256 == first.card.weights_sha256


def test_restart_begins_again(whole, faces, tmp_path):
    out = tmp_path / "ckpt.pt"
    stopped(faces, out, 3)
    with pytest.raises(LpxError, match="with other settings"):
        train(replace(RECIPE, seed=1), faces, out, options=quiet())
    done = Steps()
    train(RECIPE, faces, out, options=quiet(done, restart=True))
    assert done.steps == [0, 1, 2, 3, 4]
    assert files(tmp_path) == whole


def test_other_faces_do_not_resume(faces, tmp_path):
    """Neither a training that was stopped nor one that was finished."""
    out = tmp_path / "ckpt.pt"
    stopped(faces, out, 3)
    copied = tmp_path / "faces"
    copied.mkdir()
    for path in faces.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    picture = copied / "003.png"
    picture.write_bytes((copied / "004.png").read_bytes())
    with pytest.raises(LpxError, match="a training with other faces"):
        train(RECIPE, copied, out, options=quiet())
    picture.write_bytes((faces / "003.png").read_bytes())
    # The same faces elsewhere are the same.
    train(RECIPE, copied, out, options=quiet())


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
def test_a_damaged_state_falls_back_to_the_one_before(whole, faces, tmp_path, damage):
    out, folder = tmp_path / "ckpt.pt", tmp_path / "ckpt.pt.run"
    stopped(faces, out, 5, validation=True)
    last, previous = folder / "last.ckpt", folder / "last.previous.ckpt"
    assert [read_weights(path)["progress"]["step"] for path in (last, previous)] == [4, 2]
    damage(last)
    reporter = RecordingReporter()
    options = quiet(At(3, kill), save_every_s=0)
    with pytest.raises(Killed):
        train(RECIPE, faces, out, options=options, reporter=reporter)
    if damage is not Path.unlink:
        assert f"{last} is damaged; resuming from last.previous.ckpt" in reporter.said[0]
    # The good one was not thrown away for the damaged one.
    assert [read_weights(path)["progress"]["step"] for path in (last, previous)] == [3, 2]
    train(RECIPE, faces, out, options=quiet(save_every_s=0))
    assert files(tmp_path) == whole
    assert not (folder / "proof").exists()


def test_two_damaged_states_are_an_error(faces, tmp_path):
    out, folder = tmp_path / "ckpt.pt", tmp_path / "ckpt.pt.run"
    stopped(faces, out, 4)
    flip(folder / "last.ckpt")
    (folder / "last.previous.ckpt").write_bytes(b"")
    with pytest.raises(LpxError, match="no readable state of the training") as caught:
        train(RECIPE, faces, out, options=quiet())
    assert "`restart=True`" in caught.value.fix
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"progress": {"step": -1}}, "no readable state of the training"),
        ({"progress": {"step": True}}, "no readable state of the training"),
        ({"progress": {"unknown": 1}}, "no readable state of the training"),
        ({"optimiser": {}}, "does not fit the model"),
        ({"optimiser": {"state": {}}}, "does not fit the model"),
        ({"average": {}}, "does not fit the model"),
        ({"recipe": {"seed": 7}}, "with other settings"),
        ({"devices": 3}, "a training on 3 devices"),
    ],
)
def test_a_state_that_somebody_edited(faces, tmp_path, change, said):
    """Its seal can be made again; what does not fit is an error that says so."""
    out, last = tmp_path / "ckpt.pt", tmp_path / "ckpt.pt.run" / "last.ckpt"
    stopped(faces, out, 3)
    content = read_weights(last)
    for name, value in change.items():
        content[name] = {**content[name], **value} if name == "progress" else value
    del content["sha256"]
    torch.save(state._sealed(content), last)
    with pytest.raises(LpxError, match=said) as caught:
        train(RECIPE, faces, out, options=quiet())
    assert "`restart=True`" in caught.value.fix


def test_a_damaged_result_is_made_again(whole, faces, tmp_path):
    out, result = tmp_path / "ckpt.pt", tmp_path / "ckpt.pt.run" / "result.json"
    train(RECIPE, faces, out, options=quiet())
    for text in ("{", '{"sha256": 1}', result.read_text().replace("0.", "NaN", 1)):
        result.write_text(text)
        train(RECIPE, faces, out, options=quiet())
        assert files(tmp_path) == whole


def test_a_full_disk_leaves_the_state_before(whole, faces, tmp_path, monkeypatch):
    out, folder = tmp_path / "ckpt.pt", tmp_path / "ckpt.pt.run"

    def full(content, stream):
        if content["format"] == state.FORMAT and content.get("progress", {}).get("step") == 4:
            stream.write(b"x" * 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(content, stream)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(LpxError, match=r"last\.ckpt cannot be written") as caught:
            train(RECIPE, faces, out, options=quiet())
    assert "No space left" in caught.value.why
    assert "it resumes from the previous state" in caught.value.fix
    assert read_weights(folder / "last.ckpt")["progress"]["step"] == 2
    assert not [path for path in folder.iterdir() if path.name.startswith(".last")]
    train(RECIPE, faces, out, options=quiet())
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
        train(RECIPE, copied, tmp_path / "ckpt.pt", options=quiet(workers=workers))
    assert caught.value.what.count("\n") == 0
    assert caught.value.why == "training does not leave faces out silently"
    assert caught.value.fix == "remove its line from faces.csv, or repair the file"


def test_a_worker_that_dies_is_an_error_that_says_so(whole, faces, tmp_path):
    def kills(batch):
        for child in multiprocessing.active_children():
            child.kill()
        # As Python is told of it, in the middle of whatever it does.
        time.sleep(2)

    out = tmp_path / "ckpt.pt"
    with pytest.raises(LpxError, match="a process that makes images died") as caught:
        train(RECIPE, faces, out, options=quiet(At(2, kills), workers=1))
    assert "`workers`" in caught.value.fix
    train(RECIPE, faces, out, options=quiet(workers=1))
    assert files(tmp_path) == whole


CHILD = """
import json, multiprocessing, os, signal, sys
import torch
torch.set_num_threads(1)
from lpx.training.fit import train
from lpx.training.local_diversity import LocalDiversity
from lpx.training.recipe import Recipe
from tests.training.callbacks import At, quiet
values = json.loads(sys.argv[1])
values["diversity"] = LocalDiversity(**values["diversity"])
values["pseudo_fakes"] = tuple(values["pseudo_fakes"])
def dies(batch):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
options = quiet(At(3, dies), workers=1, save_every_s=0)
train(Recipe(**values), sys.argv[2], sys.argv[3], options=options)
"""


def test_sigkill_leaves_no_process_no_lock_and_the_exact_state(whole, faces, tmp_path):
    out = tmp_path / "ckpt.pt"
    arguments = [json.dumps(RECIPE.to_dict()), str(faces), str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        env=environment(),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        workers = [int(number) for number in child.stdout.readline().split()]
        assert workers
        with pytest.raises(LpxError, match=f"in use by process {child.pid}"):
            train(RECIPE, faces, out, options=quiet())
        child.communicate("\n")
    assert child.returncode == -signal.SIGKILL
    end = time.monotonic() + 10
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    half = tmp_path / "ckpt.pt.run" / ".last.0a1b2c3d.ckpt"
    half.write_bytes(b"PK")
    train(RECIPE, faces, out, options=quiet())
    assert files(tmp_path) == whole
    assert not half.exists()


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # A zombie has ended; whoever runs the tests may not ask for it.
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_temporary_folder_too_long_for_sockets_is_refused(tmp_path):
    with pytest.raises(LpxError, match="long path") as error:
        check_sockets(str(tmp_path / ("t" * 80)))
    assert "`workers=0`" in error.value.fix
