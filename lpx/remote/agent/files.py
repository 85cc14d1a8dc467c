"""Files, locks and replies on the board, with the standard library of Python 3.6."""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from typing import Any, BinaryIO, Dict, List, Mapping, Sequence, Tuple

Request = Mapping[str, Any]
Values = Dict[str, Any]
# Size and SHA-256 of files, by name.
Files = Mapping[str, Tuple[int, str]]

# Bytes of a file in memory at a time.
CHUNK = 1 << 18
# Time that a workstation may take to send some bytes, seconds.
STALL_S = 60
# Name of the workspace in its folder on the board: the default of every command.
WORKSPACE = "lpx-out"


class RefusedError(Exception):
    """A request that cannot be served; its values are the reply."""

    def __init__(self, kind: str, **values: Any) -> None:
        super().__init__(kind)
        self.values = dict(values, refused=kind)


def answer(request: Request, values: Mapping[str, Any]) -> None:
    """Reply with one line, which the marker distinguishes from what a login shell printed."""
    line = request["marker"] + " " + json.dumps(dict(values)) + "\n"
    sys.stdout.buffer.write(line.encode())
    sys.stdout.buffer.flush()


def frame(kind: str, data: bytes) -> None:
    """Send a piece of a stream: a letter, eight hexadecimal digits of its length, and its bytes."""
    sys.stdout.buffer.write(kind.encode() + b"%08x" % len(data) + data)
    sys.stdout.buffer.flush()


def read_json(path: str) -> Any:
    """Return the values in a file; None if it is missing or damaged."""
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read().decode())
    except (OSError, ValueError):
        return None


def write_json(path: str, values: Any) -> None:
    """Write values, whole or not at all."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as stream:
        stream.write(json.dumps(values).encode())
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def inside(folder: str, name: str) -> str:
    """Return the path of a file below a folder."""
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise RefusedError("name", name=name)
    return os.path.join(folder, *parts)


def digest_of(path: str) -> str:
    """Return the SHA-256 of a regular file; "" if there is none."""
    digest = hashlib.sha256()
    try:
        if os.path.islink(path) or not os.path.isfile(path):
            return ""
        with open(path, "rb") as stream:
            for chunk in iter(lambda: stream.read(CHUNK), b""):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def is_there(path: str, size: int, sha256: str) -> bool:
    """Return whether a file has this content."""
    try:
        if os.lstat(path).st_size != size:
            return False
    except OSError:
        return False
    return digest_of(path) == sha256


def missing_files(folder: str, files: Files) -> List[str]:
    """Return the names of files that are not there as they should be."""
    missing = []
    for name, (size, sha256) in files.items():
        if not is_there(inside(folder, name), size, sha256):
            missing.append(name)
    return missing


def receive(folder: str, files: Files, names: Sequence[str], stream: BinaryIO) -> None:
    """Write files from the stream, each under a temporary name until its SHA-256 is right."""
    for name in names:
        size, sha256 = files[name]
        path = inside(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = path + ".part"
        digest, left = hashlib.sha256(), size
        try:
            with open(temporary, "wb") as out:
                while left:
                    # If the network is gone, sshd notices late or never: this process must not
                    # keep the lock for so long. The signal ends it.
                    signal.alarm(STALL_S)
                    chunk = stream.read(min(CHUNK, left))
                    signal.alarm(0)
                    if not chunk:
                        raise RefusedError("cut", name=name)
                    left -= len(chunk)
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != sha256:
                raise RefusedError("digest", name=name)
            os.replace(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)


def prune(work: str, files: Files) -> None:
    """Remove what was sent before and is not now; faces and inputs only for others of them.

    Before the files arrive: a file may take the place of a folder, and if the connection breaks,
    what has arrived is already in the record.
    """
    os.makedirs(work, exist_ok=True)
    record = os.path.join(work, "sent.json")
    before = read_json(record) or []
    kept = []
    groups = {group(name) for name in files}
    for name in before:
        if name in files:
            continue
        if group(name) in ("inputs", WORKSPACE + "/faces") and group(name) not in groups:
            kept.append(name)
            continue
        path = inside(work, name)
        if os.path.lexists(path):
            os.unlink(path)
        remove_empty(os.path.dirname(path), work)
    write_json(record, sorted(files) + kept)


def remove_empty(folder: str, top: str) -> None:
    """Remove a folder, and those above it below `top`, as far as they are empty."""
    while folder != top:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError:
            return
        folder = os.path.dirname(folder)


def group(name: str) -> str:
    """Return the folder that a file was sent with."""
    parts = name.split("/")
    return parts[0] if parts[0] == "inputs" else "/".join(parts[:2])


def take_lock(base: str, holder: Mapping[str, Any]) -> int:
    """Lock the board for one workstation at a time; the lock ends with the process that has it."""
    refuse_foreign(base)
    # Faces may be in it: they are for this user only.
    os.makedirs(base, mode=0o700, exist_ok=True)
    handle = os.open(os.path.join(base, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise RefusedError("busy", holder=read_json(os.path.join(base, "holder.json")) or {})
    write_json(os.path.join(base, "holder.json"), dict(holder, since=time.time()))
    return handle


def refuse_foreign(base: str) -> None:
    """Refuse a folder with other files: setup removes what it does not know in some of its own."""
    try:
        names = set(os.listdir(base))
    except FileNotFoundError:
        return
    # What a first request leaves that was cut off before it had the lock.
    if "holder.json" not in names and names - {"lock", "holder.json.tmp"}:
        raise RefusedError("foreign", path=base)


def is_locked(path: str) -> bool:
    """Return whether a process holds the lock of a file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
