"""A real sshd on loopback, with keys, a port and a home folder of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lpx import Board

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass
class Sshd:
    """A board: an sshd whose users have another home folder, and `python3` of this environment."""

    folder: Path
    port: int
    config: Path
    process: subprocess.Popen | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def home(self):
        return self.folder / "home"

    @property
    def bin(self):
        return self.folder / "bin"

    def board(self, **options):
        return Board("board", ssh_config=self.config, patience_s=30, **options)

    def write_config(self):
        """Write the server's configuration; the environment is what sessions get."""
        variables = {
            "HOME": str(self.home),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "LPX_CACHE": os.environ["LPX_CACHE"],
        } | self.variables
        words = " ".join(f'"{name}={value}"' for name, value in variables.items())
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nPidFile {self.folder}/pid\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nSetEnv {words}\n"
            "KbdInteractiveAuthentication no\nLogLevel ERROR\n"
        )

    def start(self):
        self.write_config()
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=(self.folder / "log").open("ab"),
            start_new_session=True,
        )
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.skip(f"sshd does not start here: {(self.folder / 'log').read_text()[-300:]}")

    def stop(self):
        """End the server; its sessions go on."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def kill_sessions(self):
        """Break all connections, as a network would, but at once."""
        killed = 0
        for process in sessions(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            killed += 1
        return killed

    def stop_hard(self):
        """End the server and its sessions: nobody can come back."""
        os.kill(self.process.pid, signal.SIGSTOP)
        self.kill_sessions()
        self.process.kill()
        self.process.wait()
        self.process = None

    def replace_lpx(self, text):
        """Let the board run this Python in place of lpx."""
        (package,) = (self.home / ".lpx-remote/lib").glob("*/lpx")
        # Python recognises its compiled files by size and second.
        shutil.rmtree(package / "__pycache__", ignore_errors=True)
        (package / "__main__.py").write_text(f"import os, signal, sys, time\n{text}\n")

    def python(self, text):
        """Replace `python3` of the board by a shell script."""
        (self.bin / "python3").write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / "python3").chmod(0o755)


def sessions(parent):
    """Process IDs of sshd's sessions, children and theirs; not what they have started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        if int(fields[1]) == parent and name.startswith("sshd"):
            found += [int(entry.name), *sessions(int(entry.name))]
    return found


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A host key, a user's key, and one that nobody accepts."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("OpenSSH is not installed (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("host_key", "user_key", "other_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    return folder


@pytest.fixture
def server(tmp_path, keys):
    """A board, to be started by the test."""
    if os.getuid() == 0:
        # Debian's sshd wants this folder, which its service makes.
        Path("/run/sshd").mkdir(exist_ok=True)
    folder = tmp_path / "board"
    (folder / "home").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("host_key", "user_key", "other_key"):
        shutil.copy(keys / name, folder / name)
    (folder / "authorized").write_text((keys / "user_key.pub").read_text())
    port = free_port()
    config = folder / "ssh_config"
    host_key = " ".join((keys / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    write_client(config, folder, port)
    made = Sshd(folder, port, config)
    made.python(f'exec {sys.executable} "$@"')
    yield made
    if made.process is not None:
        made.kill_sessions()
    made.stop()


def write_client(config, folder, port, key="user_key"):
    config.write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/{key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
    )


@pytest.fixture
def sshd(server):
    """A running board."""
    server.start()
    return server


class Heard:
    """A reporter that remembers, and output of commands."""

    def __init__(self):
        self.notes = []
        self.warnings = []
        self.output = {"stdout": b"", "stderr": b""}

    def say(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, label):
        return lambda done, total: None

    def __call__(self, name, data):
        self.output[name] += data


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def ready(sshd, heard):
    """A running board with lpx, in this environment."""
    sshd.board().setup(environment=False, output=heard, reporter=heard)
    return sshd
