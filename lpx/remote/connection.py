"""Calls to a board through the `ssh` program.

Each call starts `python3` on the board with the modules of `agent`, which serve one request.
So the two ends are always of the same version, and nothing has to be installed to ask a board what
it is. Configuration, keys, ports and jump hosts are ssh's own; lpx sees no password.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from lpx.errors import LpxError
from lpx.plain import plain
from lpx.remote.refusals import refused
from lpx.schema import SchemaError, parse_json

# Modules of the agent, each behind those that it imports.
_MODULES = ("files", "machine", "install", "jobs", "results", "main")
# Makes these modules of what comes first on standard input, and serves one request.
_BOOT = """
import json, sys, types
for name, text in json.loads(sys.stdin.buffer.read(int(sys.argv[1])).decode()):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules["lpx.remote.agent.main"].main()
"""
_OPTIONS = (
    # Never ask: there may be nobody to answer, and lpx must not handle passwords.
    "BatchMode=yes",
    "ConnectTimeout=10",
    # A connection that says nothing for 15 seconds is lost.
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "EscapeChar=none",
    "LogLevel=ERROR",
)
# What a login shell may print before the reply, bytes.
_MAX_NOISE = 1 << 20
_MAX_REPLY = 64 << 20
_MAX_FRAME = 1 << 20
# Longer than ssh takes to notice that a connection is lost.
_END_S = 30.0
# Exit code of ssh itself; the agent never has it.
_SSH_FAILED = 255
_NOT_FOUND = (126, 127)


@cache
def agent_text() -> bytes:
    """Return the names and sources of the agent's modules, as JSON."""
    folder = Path(__file__).with_name("agent")
    modules = []
    for name in _MODULES:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        modules.append((f"lpx.remote.agent.{name}", text))
    return json.dumps(modules).encode()


class LostError(LpxError):
    """The connection to a board was lost, or there is none now; a later one may succeed."""

    code = "unreachable"


class Frame(NamedTuple):
    """A piece of a stream from the board: "o" stdout, "e" stderr, "h" nothing, "x" the end."""

    kind: str
    data: bytes


class Session:
    """One request, and what comes back.

    Args:
        host: Name of the board.
        process: ssh, with pipes for standard input and output.
        errors: What ssh wrote to standard error.
        patience_s: Time that ssh has to end once its output has ended, s.
    """

    def __init__(
        self,
        host: str,
        process: subprocess.Popen[bytes],
        errors: IO[bytes],
        *,
        patience_s: float = _END_S,
    ) -> None:
        self.reply: dict[str, Any] = {}
        self._host = host
        self._process = process
        self._errors = errors
        self._patience_s = patience_s

    def send(self, request: Mapping[str, Any], payload: Iterable[bytes]) -> None:
        """Send a request and its payload, and read the reply.

        Raises:
            LostError: The connection was lost.
            LpxError: The board refuses.
        """
        assert self._process.stdin is not None
        marker = secrets.token_hex(16)
        line = json.dumps({**request, "marker": marker}).encode() + b"\n"
        # A refusal ends the agent before it has read everything: its reply says why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(agent_text())
            self._process.stdin.write(line)
            for chunk in payload:
                self._process.stdin.write(chunk)
            self._process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self.reply = self._read_reply(marker.encode() + b" ")
        if "refused" in self.reply:
            raise refused(self._host, self.reply)

    def _read_reply(self, marker: bytes) -> dict[str, Any]:
        assert self._process.stdout is not None
        noise = 0
        while noise < _MAX_NOISE:
            line = self._process.stdout.readline(_MAX_REPLY)
            if not line:
                raise self._failure()
            # A login shell may have printed text without a line break.
            _, mark, text = line.partition(marker)
            if mark and line.endswith(b"\n"):
                try:
                    value = parse_json(text)
                except SchemaError as error:
                    raise _nonsense(self._host, str(error)) from error
                if isinstance(value, dict):
                    return value
            noise += len(line)
        raise _nonsense(self._host, "its login shell prints too much")

    def read(self, size: int) -> bytes:
        """Read exactly this many bytes.

        Raises:
            LostError: There are fewer.
        """
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise self._failure()
        return data

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of a stream, to its end.

        Raises:
            LostError: The connection was lost before the end.
            LpxError: The board sends something else.
        """
        while True:
            head = self.read(9)
            try:
                kind, size = head[:1].decode("ascii"), int(head[1:], 16)
            except ValueError:
                raise _nonsense(self._host, "its output is not in frames") from None
            # int() reads "-0000001", too, and a size of -1 means "all" to read().
            if not 0 <= size <= _MAX_FRAME or kind not in "oehx":
                raise _nonsense(self._host, "its output is not in frames")
            yield Frame(kind, self.read(size))
            if kind == "x":
                return

    def _failure(self) -> LpxError:
        """Return why the reply is missing, or was cut off."""
        try:
            code = self._process.wait(self._patience_s)
        except subprocess.TimeoutExpired:
            # A program on the board may close its output and stay, and ssh with it.
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        return failure(self._host, code, self._errors.read(1 << 16).decode(errors="replace"))


class Connection:
    """A board, and one ssh connection that all calls share. Use as a context manager.

    Args:
        host: Name of the board, checked by `check_host`.
        folder: Folder of lpx there, relative to the user's home.
        config: Configuration file of ssh in place of the user's.
    """

    def __init__(self, host: str, folder: str, config: Path | None = None) -> None:
        self.host = host
        self._folder = folder
        self._config = config
        self._sockets: Path | None = None

    def __enter__(self) -> Connection:
        # Short, and only for this user: the path of a socket has at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="lpx-ssh-"))
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the commands there go on."""
        self._end_master()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _command(self, *options: str) -> list[str]:
        words = ["ssh", "-T"]
        if self._config is not None:
            words += ["-F", str(self._config)]
        for option in _OPTIONS:
            words += ["-o", option]
        if self._sockets is not None:
            words += ["-o", f"ControlPath={self._sockets}/s"]
        # "--": what follows is the host, whatever it looks like.
        return [*words, *options, "--", self.host]

    def connect(self) -> None:
        """Connect, once for all calls: the others then take milliseconds.

        Raises:
            LostError: The board cannot be reached.
            LpxError: ssh is missing, or the board does not let this user in.
        """
        self._end_master()
        options = ("-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-N", "-f")
        # A file and not a pipe: the process in the background keeps it open.
        with tempfile.TemporaryFile() as errors:
            process = self._start(self._command(*options), errors, piped=False)
            try:
                code = process.wait()
            finally:
                process.kill()
            errors.seek(0)
            text = errors.read(1 << 16).decode(errors="replace")
        if code:
            raise failure(self.host, code, text)

    def _end_master(self) -> None:
        if self._sockets is None or not (self._sockets / "s").exists():
            return
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                self._command("-O", "exit"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=10,
                check=False,
            )
        with contextlib.suppress(OSError):
            (self._sockets / "s").unlink()

    def _start(
        self, words: list[str], errors: IO[bytes], *, piped: bool = True
    ) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE if piped else subprocess.DEVNULL
        try:
            return subprocess.Popen(
                words,
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                # Ctrl-C must not end the connection: through it the command there is stopped.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise LpxError(
                "ssh is not installed on this machine",
                "boards are reached with OpenSSH's client",
                "install it (`apt-get install openssh-client`), and see that it is in PATH",
                code="not-found",
            ) from None

    @contextmanager
    def session(
        self, verb: str, request: Mapping[str, Any], payload: Iterable[bytes] = ()
    ) -> Iterator[Session]:
        """Ask the board for something; the block reads what comes behind the reply.

        Args:
            verb: What to do, one of `agent.main.VERBS`.
            request: Its arguments.
            payload: Contents of files.

        Raises:
            LostError: The connection was lost.
            LpxError: The board refuses.
        """
        words = ["python3", "-I", "-c", _BOOT, str(len(agent_text()))]
        remote = "exec " + " ".join(shlex.quote(word) for word in words)
        with tempfile.TemporaryFile() as errors:
            process = self._start([*self._command("-o", "ControlMaster=no"), remote], errors)
            try:
                session = Session(self.host, process, errors)
                session.send({"verb": verb, "folder": self._folder, **request}, payload)
                yield session
            finally:
                process.kill()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
                process.wait()

    def call(
        self, verb: str, request: Mapping[str, Any], payload: Iterable[bytes] = ()
    ) -> dict[str, Any]:
        """Ask the board for something, and return its reply; see `session`."""
        with self.session(verb, request, payload) as session:
            return session.reply


def failure(host: str, code: int, text: str) -> LpxError:
    """Make the error for an ssh that ended, from its exit code and what it said."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    last = plain(said[-1])[:300] if said else ""
    if code in _NOT_FOUND:
        return LpxError(
            f"{host} has no python3",
            last,
            f"install Python 3.10 or later there, and see that `ssh {host} python3 -V` finds it",
            code="unsupported",
        )
    if code not in (_SSH_FAILED, -signal.SIGTERM, -signal.SIGKILL, 0):
        return LpxError(
            f"{host} cannot serve lpx",
            last or f"python3 there ended with exit code {code}",
            f"try `ssh {host} python3 -V`",
            code="unsupported",
        )
    for pattern, why, fix in _REFUSED:
        if pattern in text:
            return LpxError(
                f"{host} does not let this user in",
                f"{why}: {last}",
                fix.format(host=host),
                code="unreachable",
            )
    return LostError(
        f"{host} cannot be reached",
        last or "ssh ended, and gave no reason",
        f"check that `ssh {host}` connects, and run the same command again",
    )


_REFUSED = (
    (
        "Host key verification failed",
        "its host key is unknown here, or has changed",
        "connect once with `ssh {host}`, and compare the key with the board's",
    ),
    (
        "Permission denied",
        "it accepts none of the keys that ssh offers without asking",
        "let `ssh {host}` connect without a password: `ssh-copy-id {host}`, or `ssh-add` for a key "
        "with a passphrase",
    ),
    (
        "Too many authentication failures",
        "ssh offers too many keys",
        "name the key in ~/.ssh/config (IdentityFile, IdentitiesOnly)",
    ),
    (
        "Bad configuration option",
        "ssh does not understand its configuration",
        "correct the file that it names, or update OpenSSH",
    ),
    (
        "Bad owner or permissions",
        "ssh does not trust its configuration",
        "correct the permissions of the file that it names",
    ),
    (
        "Can't open user config file",
        "ssh cannot read its configuration",
        "check the path of the file",
    ),
)


def _nonsense(host: str, why: str) -> LpxError:
    return LpxError(
        f"{host} sends what lpx does not understand",
        why,
        f"see what `ssh {host} true` prints; it should print nothing",
        code="damaged",
    )
