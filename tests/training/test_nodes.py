"""A training on several nodes: processes of this machine that find each other by TCP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="training needs lpx[train]")

import torch

from lpx.errors import InvalidArgumentError, LpxError
from lpx.models.weights_file import read_weights
from lpx.training.fit import train
from lpx.training.processes import Member, Place, _difference, alone, check_count, read_place
from lpx.training.run import RunOptions
from tests.conftest import environment
from tests.training.callbacks import quiet
from tests.training.small import SMALL, write_faces

RECIPE = replace(SMALL, steps=5, steps_per_epoch=2, input_size=32, held_out_pairs=2)
FILES = ("ckpt.pt", "ckpt.pt.run/last.ckpt", "ckpt.pt.run/best.ckpt", "ckpt.pt.run/result.json")
# Longest life of a process, s.
LIMIT_S = 120
TELLING = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME"),
    "LPX_TRAINING_PARENT",
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in TELLING:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 8}" for i in range(16)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(faces, out, *, recipe=RECIPE, signal_at=None, variables=None, **options):
    values = {
        "recipe": recipe.to_dict(),
        "faces": str(faces),
        "out": str(out),
        "signal_at": signal_at,
        "options": {"strategy": "ddp", "wait_s": 60, **options},
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.node", json.dumps(values)],
        env={**environment(), "OMP_NUM_THREADS": "1", **(variables or {})},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def nodes(faces, out, port, *, signal_at=None, **options):
    """Train on two nodes; returns exit code and output of each. The second receives the signal."""
    started = []
    for rank in range(2):
        variables = {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        at = signal_at if rank else None
        started.append(
            start(faces, out, signal_at=at, variables=variables, nodes=2, devices=1, **options)
        )
    return ended(started)


def ended(started):
    results = []
    try:
        for one in started:
            said, _ = one.communicate(timeout=LIMIT_S)
            results.append((one.returncode, said.strip()))
    finally:
        for one in started:
            one.kill()
    return results


def test_two_nodes_train_as_two_devices_do(faces, tmp_path, port):
    """Bit for bit; also if one was stopped by a signal to one process."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert ended([start(faces, one / "ckpt.pt", devices=2)]) == [(0, "trained")]
    out = two / "ckpt.pt"
    kept = f"step 4 of 5 is kept in {out}.run"
    assert nodes(faces, out, port, signal_at=3) == [(143, kept), (143, kept)]
    last = read_weights(two / "ckpt.pt.run" / "last.ckpt")
    assert (last["progress"]["step"], last["devices"]) == (4, 2)
    # The second process ends in `train`: it has nothing to say.
    assert nodes(faces, out, port) == [(0, "trained"), (0, "")]
    for name in FILES:
        assert (two / name).read_bytes() == (one / name).read_bytes()


@pytest.mark.parametrize(
    ("rank", "what", "why"),
    [
        (0, "1 of 2 processes of the training did not come within 0.5 s", "missing on node 1"),
        (1, "the first process of the training does not answer", "nothing listens there"),
    ],
)
def test_a_node_that_does_not_come(faces, tmp_path, monkeypatch, port, rank, what, why):
    monkeypatch.setenv("NODE_RANK", str(rank))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    before = dict(os.environ)
    with pytest.raises(LpxError, match=what) as caught:
        train(RECIPE, faces, tmp_path / "x.pt", options=quiet(nodes=2, devices=1, wait_s=0.5))
    assert why in caught.value.why
    assert caught.value.code == "unreachable"
    # The next training of this process is one of its own. Lightning sets the number of threads.
    after = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    before.pop("OMP_NUM_THREADS", None)
    assert after == before
    assert not torch.distributed.is_initialized()


def test_nodes_that_train_something_else(faces, tmp_path, monkeypatch, port):
    variables = {"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    other = start(
        faces,
        tmp_path / "x.pt",
        recipe=replace(RECIPE, seed=5),
        variables=variables,
        nodes=2,
        devices=1,
    )
    for name, value in {**variables, "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(LpxError, match="trains something else") as caught:
            train(RECIPE, faces, tmp_path / "x.pt", options=quiet(nodes=2, devices=1, wait_s=60))
    finally:
        ((code, said),) = ended([other])
    assert caught.value.why == "its settings differ"
    assert (code, said.partition("|")[2]) == (2, "its settings differ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"host": "c"}, None),
        ({"version": "9"}, "lpx 9 is there, and lpx 1 on a"),
        ({"recipe": {"seed": 1}}, "its settings differ"),
        ({"faces": "other"}, "its faces differ: other files, identities or landmarks"),
        ({"step": 4}, "it begins at step 4, and a at step 2"),
        ({"validated": False}, "it begins at step 2, and a at step 2"),
    ],
)
def test_what_processes_must_agree_on(change, why):
    first = Member("a", "1", {"seed": 0}, "faces", 2, validated=True)
    error = _difference(first, first._replace(**{"host": "b", **change}))
    assert (error and error.why) == why


@pytest.mark.parametrize(
    ("variables", "nodes", "place"),
    [
        ({}, 1, Place(first=True)),
        ({"NODE_RANK": "1"}, 2, Place(first=False)),
        ({"NODE_RANK": "0"}, 2, Place(first=True)),
        ({"LOCAL_RANK": "1"}, 1, Place(first=False)),
        ({"LPX_TRAINING_PARENT": "7", "LOCAL_RANK": "1"}, 1, Place(first=False, is_child=True)),
        (
            {"TORCHELASTIC_RUN_ID": "a", "RANK": "3", "WORLD_SIZE": "4"},
            2,
            Place(first=False, of=4),
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0"},
            1,
            Place(first=True, of=2),
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "1"},
            2,
            Place(first=False, of=2),
        ),
    ],
)
def test_places(monkeypatch, variables, nodes, place):
    ready = {"MASTER_ADDR": "a", "MASTER_PORT": "1"} if nodes > 1 else {}
    for name, value in {**ready, **variables}.items():
        monkeypatch.setenv(name, value)
    assert read_place(nodes) == place
    with alone():
        assert read_place(1) == Place(first=True)
    assert read_place(nodes) == place


@pytest.mark.parametrize(
    ("variables", "nodes", "said"),
    [
        ({}, 2, "`nodes` is 2, but the environment does not say which"),
        ({"NODE_RANK": "0", "MASTER_ADDR": "a"}, 2, "not set: MASTER_PORT"),
        ({"NODE_RANK": "1"}, 1, "NODE_RANK is 1, but `nodes` is 1"),
        ({"NODE_RANK": "x"}, 1, "does not say which process"),
        ({"TORCHELASTIC_RUN_ID": "a"}, 1, "does not say which process"),
        ({"SLURM_NTASKS": "2"}, 1, "does not say which process"),
    ],
)
def test_places_that_are_none(monkeypatch, variables, nodes, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LpxError) as caught:
        read_place(nodes)
    assert said in f"{caught.value.what} {caught.value.why}"


def test_as_many_processes_as_were_started():
    check_count(Place(first=False, of=4), 4)
    check_count(Place(first=False), 4)
    # A script of sbatch with several tasks, without srun.
    check_count(Place(first=True, of=4), 1)
    for place, count in ((Place(first=False, of=4), 1), (Place(first=True, of=4), 2)):
        with pytest.raises(LpxError, match="one of 4 processes"):
            check_count(place, count)


def test_options_of_nodes():
    with pytest.raises(InvalidArgumentError, match="nodes must be >= 1"):
        RunOptions(nodes=0)
    with pytest.raises(InvalidArgumentError, match="wait_s must be > 0"):
        RunOptions(wait_s=0)


def test_trainings_for_several_devices_follow_each_other(faces, tmp_path):
    """Each has a group of its own, of one process here, and leaves no variables behind."""
    recipe, before = replace(RECIPE, steps=2), dict(os.environ)
    for name, strategy in (("plain", "auto"), ("first", "ddp"), ("second", "ddp")):
        options = quiet(strategy=strategy, devices=1)
        train(recipe, faces, tmp_path / name / "ckpt.pt", options=options)
        assert dict(os.environ) == before
        assert not torch.distributed.is_initialized()
    plain = (tmp_path / "plain" / "ckpt.pt").read_bytes()
    assert (tmp_path / "first" / "ckpt.pt").read_bytes() == plain
    assert (tmp_path / "second" / "ckpt.pt").read_bytes() == plain


def test_strategies_that_copy_the_process(faces, tmp_path):
    options = quiet(strategy="ddp_spawn", devices=2)
    with pytest.raises(LpxError, match="strategy 'ddp_spawn'") as caught:
        train(RECIPE, faces, tmp_path / "x.pt", options=options)
    assert caught.value.why == "it trains in copies of this process"


def test_lightnings_own_checkpoints_are_not_read_under_slurm(faces, tmp_path, monkeypatch):
    """Lightning resumes a job of Slurm from such a file in its folder, and runs what is in it."""
    for name, value in {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NODEID", "0")
    folder = tmp_path / "ckpt.pt.run"
    folder.mkdir()
    (folder / "hpc_ckpt_1.ckpt").write_bytes(b"no checkpoint")
    train(replace(RECIPE, steps=1), faces, tmp_path / "ckpt.pt", options=quiet())
