"""Failures of the machine and of files are user errors: exit code 2, never 3 or a traceback."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch

import lpx as package
from lpx.cli.failures import user_error
from lpx.cli.main import exit_code
from lpx.errors import LpxError, out_of_memory
from tests.conftest import MAIN, environment
from tests.support.networks import write_small_checkpoint


def system_error(number, *names):
    return OSError(number, os.strerror(number), *names)


MACHINE = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE]
FILES = [
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ESTALE, errno.EBUSY),
]


def raising(error):
    """Return a group of commands, of which `fail` raises an error."""

    @click.group()
    def group():
        pass

    @group.command()
    def fail():
        raise error

    return group


@pytest.mark.parametrize(
    "error",
    [
        *(system_error(number) for number in MACHINE),
        *(system_error(number, "faces/a.png") for number in (*MACHINE, *FILES)),
        system_error(errno.EEXIST, "faces/a.png", None, "b"),
        system_error(errno.EACCES, b"faces/\xff.png"),
        system_error(errno.ENOMEM),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((2**50,), np.dtype(np.uint8)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_a_failure_of_the_machine_is_a_user_error(capsys, error):
    assert exit_code(raising(error), ["fail"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "  fix: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error",
    [
        system_error(errno.ENOENT, str(Path(package.__file__).parent / "data/demo/p000_00.jpg")),
        system_error(errno.EACCES, f"{sys.prefix}/lib/python3/site-packages/x.py"),
        system_error(errno.ENOENT),
        system_error(errno.EBADF, "faces/a.png"),
        OSError("of no number"),
        RuntimeError("a bug"),
        ValueError("embedded null byte"),
    ],
)
def test_a_bug_in_lpx_or_its_installation_is_an_internal_error(capsys, error):
    assert exit_code(raising(error), ["fail"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_onnx_runtimes_own_errors():
    import onnxruntime

    with pytest.raises(Exception, match="INVALID_PROTOBUF") as caught:
        onnxruntime.InferenceSession(b"\xff\xff", providers=["CPUExecutionProvider"])
    assert "ONNX Runtime cannot run the model" in str(user_error(caught.value))


def test_memory_that_runs_out_in_an_engine_does_not_make_it_dead(lpx, workspace, monkeypatch):
    from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine

    class Session:
        def run(self, *arguments):
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9")

    def try_it(*arguments, **options):
        engine = OnnxRuntimeEngine(workspace.model.read_bytes(), 160)
        engine.session = Session()
        engine.infer(np.zeros((1, 160, 160, 3), np.uint8))

    monkeypatch.setattr("lpx.api.build.symptom", try_it)
    ran = lpx("build", "--int8", "--target", "onnxruntime", "--faces", "demo", "--limit", 16)
    assert ran.code == 2
    assert "error: there is not enough memory" in ran.err
    assert "buffer of size 9" in ran.err


def test_errors_that_mean_too_little_memory():
    assert out_of_memory(LpxError("x is out of memory")) is None
    assert out_of_memory(ValueError("a face")) is None
    assert "GPU" in str(out_of_memory(RuntimeError("CUDA error: out of memory")))


@pytest.mark.parametrize(
    "line",
    [
        ["data", "info", "~nobody-here/faces"],
        ["data", "info", "folder:~nobody-here/faces"],
        ["data", "info", "ffpp-c23", "--data-root", "~nobody-here"],
        ["data", "info", "ffpp-c23", "--store", "~nobody-here"],
        ["predict", "x.png", "-w", "~nobody-here/work"],
    ],
)
def test_home_of_nobody(lpx, line):
    ran = lpx(*line)
    assert ran.code == 2
    assert "knows no home folder of nobody-here" in ran.err


LONG = "n" * 300


@pytest.mark.parametrize("name", [LONG, "circle"])
@pytest.mark.parametrize(
    "line",
    [
        *(
            ["export", "{}"],
            ["predict", "{}"],
            ["data", "info", "{}"],
            ["data", "info", "folder:{}"],
        ),
        *(["compare", "{}", "{}"], ["explain-graph", "{}"], ["explain", "{}", "x.png"]),
        ["build", "--fp32", "-w", "{}"],
    ],
)
def test_names_that_no_file_can_have(lpx, tmp_path, monkeypatch, line, name):
    monkeypatch.chdir(tmp_path)
    os.symlink("circle", "circle")
    ran = lpx(*(word.format(name) for word in line))
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert sorted(os.listdir()) == ["circle"]


def test_current_folder_that_is_gone(shell, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    ran = shell(
        "data",
        "info",
        "ffpp-c23",
        before=f"import os; os.chdir({str(gone)!r}); "
        f"os.rmdir({str(gone)!r}); os.environ.pop('LPX_DATA', None)",
    )
    assert ran.code == 2, ran.err
    assert "current folder no longer exists" in ran.err


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize(
    "line",
    [
        ["export", "ckpt.pt", "-w", "new"],
        ["build", "--fp32", "--target", "onnxruntime"],
        ["predict", "face.jpg", "--crops"],
        ["explain", "ckpt.pt", "face.jpg", "--out", "looked"],
    ],
)
def test_disk_without_room(workspace, tmp_path, line):
    from lpx.data.face_sets.demo import folder

    write_small_checkpoint(Path("ckpt.pt"))
    os.symlink(folder() / "p000_00.jpg", "face.jpg")
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *line],
        env=environment(),
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if line[0] == "predict":
        # A picture without room is noted; the score is what was asked for.
        assert (done.returncode, "nothing was drawn" in done.stderr) == (0, True), done.stderr
    else:
        assert done.returncode == 2, done.stderr
        assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in os.listdir() if name.startswith(".")]
