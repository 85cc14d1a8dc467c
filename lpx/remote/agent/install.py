"""Installation of lpx on a board, in an environment of its own."""

import json
import os
import shutil
import subprocess
import zipfile
from typing import BinaryIO, Dict, Sequence

from lpx.remote.agent.files import (
    Request,
    answer,
    frame,
    inside,
    missing_files,
    receive,
    take_lock,
    write_json,
)
from lpx.remote.agent.machine import look_at


def wheels(base: str, request: Request, stream: BinaryIO) -> None:
    """Say which wheels have to be sent."""
    answer(request, {"missing": missing_files(os.path.join(base, "wheels"), request["files"])})


def install(base: str, request: Request, stream: BinaryIO) -> None:
    """Receive wheels, and install lpx from them; the log is streamed."""
    lock = take_lock(base, request["holder"])
    folder = os.path.join(base, "wheels")
    receive(folder, request["files"], request["missing"], stream)
    for name in os.listdir(folder):
        if name not in request["files"]:
            os.unlink(os.path.join(folder, name))
    answer(request, {})
    token = request["token"]
    wheel = inside(folder, request["wheel"])
    setup = {"lpx": request["lpx"], "wheel_sha256": request["files"][request["wheel"]][1]}
    setup["environment"] = token
    if request["environment"]:
        new = os.path.join(base, "environments", token)
        setup["python"], setup["path"] = os.path.join(new, "bin", "python"), ""
        steps = [[request["python"], "-m", "venv"], [setup["python"], "-m", "pip", "install"]]
        if request["system_site_packages"]:
            steps[0].append("--system-site-packages")
        steps[0].append(new)
        steps[1] += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        if request["offline"]:
            steps[1] += ["--no-index", "--find-links", folder]
        steps[1] += [wheel] + request["requirements"]
    else:
        new = os.path.join(base, "lib", token)
        setup["python"], setup["path"], steps = request["python"], new, []
        os.makedirs(new)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(new)
    try:
        code = 0
        for step in steps:
            code = code or stream_command(step)
        if not code:
            code = stream_command([setup["python"], "-m", "lpx", "--version"], setup["path"])
        if not code:
            setup["has"] = look_at(setup["python"])["has"]
            write_json(os.path.join(base, "setup.json"), setup)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if code:
        shutil.rmtree(new, ignore_errors=True)
    else:
        remove_others(base, token)
    frame("x", json.dumps({"code": code, "setup": setup}).encode())
    os.close(lock)


def remove_others(base: str, token: str) -> None:
    """Remove environments that a newer one replaces."""
    for kind in ("environments", "lib"):
        folder = os.path.join(base, kind)
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                if name != token:
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def stream_command(words: Sequence[str], path: str = "") -> int:
    """Run a command, and send its output as it comes; returns its exit code."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(path),
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            frame("e", line)
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()


def environment(path: str) -> Dict[str, str]:
    """Return the environment of a command: without settings of lpx, and with its own packages."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("LPX_", "PYTHON", "PIP_"))}
    kept["PYTHONUNBUFFERED"] = "1"
    if path:
        kept["PYTHONPATH"] = path
    return kept
