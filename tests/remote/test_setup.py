"""Setting up boards: what is looked at, what is refused, and what is installed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import click
import pytest

import lpx
from lpx import LpxError
from lpx.remote.connection import _MODULES, agent_text
from lpx.remote.installing import (
    ARCHITECTURES,
    BoardInfo,
    Interpreter,
    SetupOptions,
    check,
    cuda_binding,
)
from lpx.remote.wheel import core_requirements, download_wheels, write_wheel

# Stands for a Python that is too old for lpx, in what it says of itself.
OLD = f"""case "$*" in
  *importlib.util*) echo '{{"version": [3, 8, 10], "has": {{}}}}' ;;
  *) exec {sys.executable} "$@" ;;
esac"""


def info(**changes):
    has = dict.fromkeys(("venv", "ensurepip", "numpy", "onnx", "onnxruntime", "cv2"), True)
    values = {
        "hostname": "b",
        "architecture": "aarch64",
        "system": "Linux 5.15",
        "model": "NVIDIA Jetson Orin Nano",
        "l4t": "# R36",
        "libc": "glibc 2.35",
        "python": "3.10.12",
        "base": "/home/u/.lpx-remote",
        "free_bytes": 10 << 30,
        "installed": None,
        "interpreter": Interpreter("/usr/bin/python3", (3, 10, 12), has),
    }
    return BoardInfo(**{**values, **changes})


def options(**changes):
    values = {"python": None, "wheels": None, "download": False, "environment": True}
    return SetupOptions(**{**values, **changes})


def test_this_environment(ready, heard):
    board = ready.board().setup(environment=False, output=heard, reporter=heard)
    assert board.installed.lpx == lpx.__version__
    assert board.installed.has["onnxruntime"]
    assert any(sys.executable in note for note in heard.notes)
    # The one before was replaced, and the wheel was not sent again.
    assert len(list((ready.home / ".lpx-remote/lib").iterdir())) == 1
    assert len([note for note in heard.notes if note.startswith("sending")]) == 1


def test_python_there_is_too_old(sshd, heard):
    stub = sshd.bin / "old-python"
    stub.write_text(f"#!/bin/sh\n{OLD}\n")
    stub.chmod(0o755)
    with pytest.raises(LpxError) as caught:
        sshd.board().setup(python=str(stub), reporter=heard)
    assert caught.value.code == "unsupported"
    assert "Python 3.8.10 on board is too old" in caught.value.what
    assert not (sshd.home / ".lpx-remote").exists()


def test_a_newer_python_beside_an_old_one_is_taken(sshd, heard):
    stub = sshd.bin / "old"
    stub.write_text(f"#!/bin/sh\n{OLD}\n")
    stub.chmod(0o755)
    newer = sshd.bin / "python3.13"
    newer.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    newer.chmod(0o755)
    # The agent runs with `python3`, and asks `sys.executable`.
    sshd.python(f'exec {sys.executable} -c "import sys; sys.executable = \'{stub}\'; $3" "$4"')
    board = sshd.board().setup(environment=False, output=heard, reporter=heard)
    assert board.interpreter.path == str(newer)
    assert board.installed.python == str(newer)


def test_python_that_does_not_start(sshd):
    with pytest.raises(LpxError) as caught:
        sshd.board().setup(python="/nonexistent/python; touch x")
    assert caught.value.code == "not-found"
    assert "/nonexistent/python" in caught.value.what


def test_a_full_disk_there(sshd, workspace, heard):
    folder = sshd.folder / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=14m", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        board = sshd.board(remote_folder=str(folder / "lpx"))
        (folder / "big").write_bytes(bytes(12 << 20))
        with pytest.raises(LpxError) as caught:
            board.setup(environment=False, output=heard)
        assert caught.value.code == "unwritable"
        assert "the disk of board is full" in caught.value.what
        # An environment takes more than there is, which is seen before anything is sent.
        with pytest.raises(LpxError) as caught:
            board.setup()
        assert caught.value.code == "unwritable"
        assert "MiB free" in caught.value.what
        assert not list(folder.rglob("*.part"))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_disk_that_is_full_for_the_workspace(ready, workspace, heard, tmp_path):
    folder = ready.home / ".lpx-remote/work"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        big = tmp_path / "big.png"
        big.write_bytes(bytes(3 << 20))
        with pytest.raises(LpxError) as caught:
            ready.board().run(["predict", "@x@"], workspace, inputs={"@x@": big}, output=heard)
        assert caught.value.code == "unwritable"
        assert "disk of board is full" in caught.value.what
        # Nothing was started, and the board is free.
        assert not list((ready.home / ".lpx-remote").glob("jobs/*/job.json"))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
    assert ready.board().run(["explain-graph"], workspace, output=heard).exit_code == 0


@pytest.mark.parametrize(
    ("board", "asked", "code", "part"),
    [
        (info(architecture="armv7l"), options(), "unsupported", "armv7l"),
        (
            info(interpreter=Interpreter("python3", (3, 9, 1), {})),
            options(),
            "unsupported",
            "Python 3.9.1",
        ),
        (
            info(interpreter=Interpreter("python3", (3, 12, 1), {"venv": True})),
            options(),
            "not-found",
            "virtual environments",
        ),
        (info(free_bytes=5 << 20), options(), "unwritable", "5 MiB free"),
        (
            info(interpreter=Interpreter("python3", (3, 12, 1), {"numpy": True})),
            options(environment=False),
            "not-found",
            "lacks onnx, onnxruntime, cv2",
        ),
    ],
)
def test_boards_that_do_not_suffice(board, asked, code, part):
    with pytest.raises(LpxError) as caught:
        check("b", board, asked)
    assert caught.value.code == code
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("l4t", "binding"),
    [
        ("", ()),
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", ("cuda-python<13",)),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", ("cuda-python",)),
        ("something else", ("cuda-python<13",)),
    ],
)
def test_cuda_binding(l4t, binding):
    assert cuda_binding(info(l4t=l4t)) == binding


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_boards_that_suffice(architecture):
    check("b", info(architecture=architecture), options())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"python": 3}, "invalid-argument"),
        ({"python": ""}, "invalid-argument"),
        ({"python": "-c"}, "invalid-argument"),
        ({"wheels": 3}, "invalid-argument"),
        ({"environment": False, "download": True}, "invalid-argument"),
        ({"environment": False, "wheels": "x"}, "invalid-argument"),
    ],
)
def test_bad_arguments(arguments, code):
    with pytest.raises(LpxError) as caught:
        lpx.Board("nowhere.invalid").setup(**arguments)
    assert caught.value.code == code


def test_a_folder_without_wheels(sshd, tmp_path):
    with pytest.raises(LpxError) as caught:
        sshd.board().setup(wheels=tmp_path)
    assert caught.value.code == "not-found"
    assert "no wheels" in caught.value.what


def test_an_environment_of_its_own_without_a_network(sshd, heard, tmp_path):
    """What lpx needs is carried as wheels; here, as wheels without content."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for requirement in core_requirements():
        name, version = requirement.partition(";")[0].split(">=")
        if name != "tomli":
            write_empty_wheel(wheels, name.strip(), version.strip())
    board = sshd.board().setup(wheels=wheels, output=heard, reporter=heard)
    assert board.installed.path == ""
    assert "environments" in board.installed.python
    assert b"Successfully installed" in heard.output["stderr"]
    assert not board.installed.has["torch"]
    shown = subprocess.run(
        [board.installed.python, "-m", "pip", "list", "--format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "lpx" in {package["name"] for package in json.loads(shown.stdout)}


def write_empty_wheel(folder, name, version):
    """A package that is there and has nothing in it, but what `lpx --version` imports."""
    plain = name.replace("-", "_")
    information = f"{plain}-{version}.dist-info"
    contents = {
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if name == "click":
        for path in Path(click.__file__).parent.glob("*.py"):
            contents[f"click/{path.name}"] = path.read_text(encoding="utf-8")
    contents[f"{information}/RECORD"] = "".join(f"{one},,\n" for one in contents)
    with zipfile.ZipFile(folder / f"{plain}-{version}-py3-none-any.whl", "w") as archive:
        for member, text in contents.items():
            archive.writestr(member, text)


def test_a_failure_of_pip_there_keeps_what_was(ready, heard, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_empty_wheel(wheels, "numpy", "1.24")
    before = (ready.home / ".lpx-remote/setup.json").read_bytes()
    with pytest.raises(LpxError) as caught:
        ready.board().setup(wheels=wheels, output=heard, reporter=heard)
    assert "could not be installed" in caught.value.what
    assert (ready.home / ".lpx-remote/setup.json").read_bytes() == before
    assert not list((ready.home / ".lpx-remote").glob("environments/*"))


def test_wheel(tmp_path):
    path = write_wheel(tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    assert write_wheel(again).read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        text = archive.read(f"lpx-{lpx.__version__}.dist-info/METADATA").decode()
    assert "lpx/cli/main.py" in names
    assert "lpx/remote/agent/main.py" in names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert "Requires-Dist: numpy" in text
    assert "torch" not in text


def test_wheel_installs(tmp_path):
    path = write_wheel(tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    words = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "venv/bin/lpx").is_file()


def test_download_says_what_pip_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LpxError) as caught:
        download_wheels(tmp_path, "aarch64", (3, 10), "glibc 2.35")
    assert caught.value.code == "not-found"
    assert "Python 3.10 on aarch64" in caught.value.what
    assert "No matching distribution" in caught.value.why


def test_agent_is_for_python_3_6():
    for _, text in json.loads(agent_text()):
        ast.parse(text, feature_version=(3, 6))
    folder = Path(lpx.__file__).parent / "remote/agent"
    assert {path.stem for path in folder.glob("*.py")} == {*_MODULES, "__init__"}


@pytest.mark.parametrize("folder", [".", "mine", "~/mine"])
def test_a_folder_of_others_is_refused(sshd, folder):
    """Setup removes what is in its folders and not its own."""
    for parent in (sshd.home, sshd.home / "mine"):
        (parent / "lib/theirs").mkdir(parents=True)
        (parent / "wheels").mkdir()
        (parent / "wheels/theirs.whl").write_bytes(b"theirs")
    before = sorted(sshd.home.rglob("*"))
    with pytest.raises(LpxError) as caught:
        sshd.board(remote_folder=folder).setup(environment=False)
    assert caught.value.code == "invalid-argument"
    assert "`remote_folder`" in caught.value.fix
    assert sorted(sshd.home.rglob("*")) == before
