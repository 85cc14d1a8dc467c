"""Commands on a board, which outlive the connection that started them."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from typing import BinaryIO, Mapping, Optional, Sequence

from lpx.remote.agent.files import (
    CHUNK,
    RefusedError,
    Request,
    Values,
    answer,
    frame,
    inside,
    is_locked,
    missing_files,
    prune,
    read_json,
    receive,
    take_lock,
    write_json,
)
from lpx.remote.agent.install import environment
from lpx.remote.agent.machine import describe

# Finished commands whose output is kept.
KEPT_JOBS = 5
POLL_S = 0.05
# Silence after which a message says to the workstation that there is nothing new.
HEARTBEAT_S = 2.0


def have(base: str, request: Request, stream: BinaryIO) -> None:
    """Say which files have to be sent, and whether the command runs, or ran, already."""
    work = os.path.join(base, "work", request["work"])
    answer(
        request,
        {
            "missing": missing_files(work, request["files"]),
            "job": job_of(base, request["work"], request["key"]),
            "machine": describe(),
        },
    )


def job_of(base: str, work: str, key: str) -> Optional[Values]:
    """Return the newest command of a workspace whose end nobody has seen; `key` "" for any."""
    newest = None
    folder = os.path.join(base, "jobs")
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        job = read_json(os.path.join(folder, name, "job.json"))
        if not job or job["work"] != work or (key and job["key"] != key):
            continue
        # Without a key it is for somebody who asks for it: then one that was seen counts too.
        if key and os.path.exists(os.path.join(folder, name, "seen")):
            continue
        if newest is None or job["started"] > newest["started"]:
            newest = dict(job, running=is_locked(os.path.join(folder, name, "alive")))
    return newest


def latest(base: str, request: Request, stream: BinaryIO) -> None:
    """Say which command of a workspace was the last."""
    answer(request, {"job": job_of(base, request["work"], ""), "machine": describe()})


def start(base: str, request: Request, stream: BinaryIO) -> None:
    """Receive files, and start a command that outlives the connection."""
    folder = os.path.join(base, "jobs", request["job"])
    if os.path.exists(os.path.join(folder, "job.json")):
        # The reply to the first request was lost on the way.
        answer(request, {"started": False})
        return
    setup = read_json(os.path.join(base, "setup.json"))
    if setup is None:
        raise RefusedError("setup")
    lock = take_lock(base, request["holder"])
    work = os.path.join(base, "work", request["work"])
    prune(work, request["files"])
    receive(work, request["files"], request["missing"], stream)
    if missing_files(work, request["files"]):
        # Another command of this workspace ran since they were compared.
        raise RefusedError("changed")
    forget_jobs(base)
    os.makedirs(folder)
    alive = os.open(os.path.join(folder, "alive"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(alive, fcntl.LOCK_EX)
    job = {name: request[name] for name in ("job", "work", "key", "words")}
    job["started"] = time.time()
    write_json(os.path.join(folder, "job.json"), job)
    variables = environment(setup["path"])
    variables.update(request["variables"])
    supervise(folder, [setup["python"], "-m", "lpx"] + request["words"], work, variables)
    os.close(lock)
    os.close(alive)
    answer(request, {"started": True})


def forget_jobs(base: str) -> None:
    """Remove the output of commands that ended long ago."""
    folder = os.path.join(base, "jobs")
    os.makedirs(folder, exist_ok=True)
    ended = []
    for name in os.listdir(folder):
        if not is_locked(os.path.join(folder, name, "alive")):
            ended.append((os.path.getmtime(os.path.join(folder, name)), name))
    for _, name in sorted(ended)[:-KEPT_JOBS]:
        shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def supervise(folder: str, words: Sequence[str], work: str, variables: Mapping[str, str]) -> None:
    """Run a command in a session of its own, and note how it ends.

    The process that waits for it keeps the locks, which it inherits from this one.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        # sshd waits for these three to be closed.
        for number in range(3):
            os.dup2(null, number)
        end: Values = {"ended": 0.0}
        try:
            with open(os.path.join(folder, "stdout"), "ab") as out:
                with open(os.path.join(folder, "stderr"), "ab") as err:
                    process = subprocess.Popen(
                        words,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        cwd=work,
                        env=variables,
                        preexec_fn=default_signals,
                    )
            write_json(os.path.join(folder, "process.json"), {"process": process.pid})
            end["code"] = process.wait()
        except OSError as error:
            end["error"] = str(error)
        end["ended"] = time.time()
        write_json(os.path.join(folder, "exit.json"), end)
    finally:
        os._exit(0)


def default_signals() -> None:
    """Put a command into a session of its own, and let it hear of signals."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def follow(base: str, request: Request, stream: BinaryIO) -> None:
    """Send the output of a command from given positions on, until it ends."""
    folder = inside(os.path.join(base, "jobs"), request["job"])
    if not os.path.exists(os.path.join(folder, "job.json")):
        raise RefusedError("job")
    answer(request, {})
    positions = {"o": request["stdout"], "e": request["stderr"]}
    names = {"o": "stdout", "e": "stderr"}
    spoken = time.time()
    while True:
        # Asked first: what is written before the end is then read below.
        is_alive = is_locked(os.path.join(folder, "alive"))
        end = read_json(os.path.join(folder, "exit.json"))
        moved = False
        for kind, name in names.items():
            data = read_from(os.path.join(folder, name), positions[kind])
            if data:
                positions[kind] += len(data)
                frame(kind, data)
                moved, spoken = True, time.time()
        if moved:
            continue
        if end is not None or not is_alive:
            end = end or read_json(os.path.join(folder, "exit.json")) or {}
            frame("x", json.dumps(end).encode())
            return
        if time.time() - spoken > HEARTBEAT_S:
            # Ends this process if the workstation is gone.
            frame("h", b"")
            spoken = time.time()
        time.sleep(POLL_S)


def read_from(path: str, position: int) -> bytes:
    """Return the next bytes of a file that grows."""
    try:
        with open(path, "rb") as stream:
            stream.seek(position)
            return stream.read(CHUNK)
    except OSError:
        return b""


def stop(base: str, request: Request, stream: BinaryIO) -> None:
    """Send a signal to a command."""
    folder = inside(os.path.join(base, "jobs"), request["job"])
    until = time.time() + 2
    process = None
    while is_locked(os.path.join(folder, "alive")) and time.time() < until:
        process = read_json(os.path.join(folder, "process.json"))
        if process:
            break
        time.sleep(POLL_S)
    sent = False
    if process and is_locked(os.path.join(folder, "alive")):
        try:
            os.kill(process["process"], request["signal"])
            sent = True
        except ProcessLookupError:
            pass
    answer(request, {"sent": sent})


def seen(base: str, request: Request, stream: BinaryIO) -> None:
    """Note that the workstation has the end of a command, and its results."""
    folder = inside(os.path.join(base, "jobs"), request["job"])
    if os.path.isdir(folder):
        open(os.path.join(folder, "seen"), "wb").close()
    answer(request, {})
