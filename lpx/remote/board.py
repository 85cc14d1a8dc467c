"""`lpx.Board`: a machine that is reached with ssh, and the commands that run on it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpx import interrupts
from lpx.arguments import as_path, check_at_least, check_instance, check_number
from lpx.data.roots import DataPlaces
from lpx.errors import InvalidArgumentError, LpxError
from lpx.plain import plain
from lpx.remote.connection import Connection, LostError
from lpx.remote.host import check_host
from lpx.remote.installing import BoardInfo, Installed, SetupOptions, check_installed, set_up
from lpx.remote.results import Fetched, fetch
from lpx.remote.running import Output, PassOn, RemoteJob, again, follow, holder, read_job
from lpx.remote.sending import SentFaces, Shipment, add_input, add_workspace, command_key, work_name
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder

StrPath = str | os.PathLike[str]
DEFAULT_FOLDER = ".lpx-remote"
# Attempts to start a command whose board is still locked by the one that was cut off.
_ATTEMPTS = 5
# Time to try for when a connection is lost, seconds.
PATIENCE_S = 600.0


@dataclass(frozen=True)
class RemoteResult:
    """A command that ended on a board.

    Attributes:
        exit_code: Its exit code, as `lpx` has them.
        folder: Folder of this board's results in the workspace; None without a workspace.
        new: Names of results that were fetched, such as "engines/onnxruntime-int8", sorted.
    """

    exit_code: int
    folder: Path | None
    new: tuple[str, ...]


@dataclass(frozen=True)
class _Command:
    """A command to run: its words there, and what it reads."""

    words: tuple[str, ...]
    shipment: Shipment
    bundle: Path


class Board:
    """A machine that is reached with ssh, such as a Jetson. See `docs/remote.md`.

    Only OpenSSH's `ssh` program is used, with its configuration, keys, ports and jump hosts. It
    must connect without asking for a password.

    Args:
        host: A host, `user@host`, or an alias of ssh's configuration.
        remote_folder: Folder of lpx there, relative to the user's home.
        ssh_config: Configuration file of ssh; None for the user's.
        patience_s: Time to try to connect again for when a connection is lost, seconds.
    """

    def __init__(
        self,
        host: str,
        *,
        remote_folder: str = DEFAULT_FOLDER,
        ssh_config: StrPath | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.host = check_host(host)
        self._folder = os.fspath(as_path("remote_folder", remote_folder))
        self._config = None if ssh_config is None else as_path("ssh_config", ssh_config).absolute()
        check_number("patience_s", patience_s, least=0)
        self._patience_s = patience_s

    def __repr__(self) -> str:
        return f"Board({self.host!r})"

    def _connection(self) -> Connection:
        return Connection(self.host, self._folder, self._config)

    def setup(
        self,
        *,
        python: str | None = None,
        wheels: StrPath | None = None,
        download: bool = False,
        environment: bool = True,
        output: Output | None = None,
        reporter: Reporter = SILENT,
    ) -> BoardInfo:
        """Install this lpx on the board, without PyTorch, in a virtual environment of its own.

        On a Jetson, or wherever the system's Python has TensorRT, the environment sees the system's
        packages.

        Args:
            python: Interpreter there, a path or a name; None for its newest.
            wheels: Folder with wheels to carry, for a board without a network.
            download: Download wheels for the board here, and carry them.
            environment: Make a virtual environment. False: use the packages of that Python as they
                are, and add lpx alone, in its own folder.
            output: Receives what pip prints there; None for this process's standard error.
            reporter: Receives what was found, and progress.

        Returns:
            What the board is and has.

        Raises:
            LpxError: It cannot be reached, is too old or too full, somebody else works there, or
                pip fails there.
        """
        check_instance("python", python, str)
        if python is not None and (not python or python.startswith("-") or "\0" in python):
            raise InvalidArgumentError("python", "must be a path or a name", python)
        if not environment and (download or wheels is not None):
            raise LpxError(
                "`environment=False` cannot be combined with `wheels` or `download`",
                "wheels are installed into an environment",
                "leave out one of them",
                code="invalid-argument",
            )
        folder = None if wheels is None else as_path("wheels", wheels)
        options = SetupOptions(python, folder, download, environment)
        with self._connection() as connection:
            return set_up(connection, options, output or PassOn(), reporter)

    def run(
        self,
        words: Sequence[str],
        workspace: StrPath | WorkspaceFolder | None = "lpx-out",
        *,
        inputs: Mapping[str, StrPath] | None = None,
        faces: StrPath | None = None,
        limit: int | None = None,
        places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
        output: Output | None = None,
        reporter: Reporter = SILENT,
    ) -> RemoteResult:
        """Run an lpx command on the board, on a copy of a workspace, and fetch its results.

        The workspace travels as a bundle, and only what differs there is sent. The command outlives
        a lost connection; the same command on the same files, given again, is not started twice.
        SIGINT and SIGTERM stop it there; SIGHUP leaves it running.

        Args:
            words: The command after `lpx`, such as ["build", "--int8"]. Its workspace is the
                default one there: no `-w`.
            workspace: The workspace here; None for a command that needs none, such as "doctor".
            inputs: Files and folders to send, by placeholder: in all words it becomes the path
                there.
            faces: Face set to send as `lpx-out/faces`; None for none.
            limit: Maximum number of these, sampled evenly; None for all.
            places: Folders of public data sets and of prepared faces here.
            output: Receives what the command prints; None for this process's own streams.
            reporter: Receives progress and warnings.

        Returns:
            Exit code and fetched results.

        Raises:
            LpxError: The board cannot be reached (code "unreachable"), is in use ("in-use"), its
                disk is full ("unwritable"), lpx is not set up there, or its results are refused
                ("damaged").
        """
        here = None if workspace is None else _workspace(workspace)
        if isinstance(words, str) or not words or not all(isinstance(one, str) for one in words):
            raise InvalidArgumentError("words", "must be a command and its options", words)
        name = None if faces is None else os.fspath(as_path("faces", faces))
        check_at_least("limit", limit, 1)
        sent = SentFaces(name, limit, places)
        shipment = Shipment()
        mine = _with_inputs(words, inputs or {}, shipment)
        with self._connection() as connection:
            installed = check_installed(connection)
            with tempfile.TemporaryDirectory(prefix="lpx-send-") as temporary:
                bundle = Path(temporary) / "workspace.lpx"
                if here is not None:
                    checkpoint = _wants_checkpoint(here, installed)
                    add_workspace(
                        shipment, here, bundle, sent, checkpoint=checkpoint, reporter=reporter
                    )
                command = _Command(mine, shipment, bundle)
                job = self._start(connection, work_name(here), command, reporter)
            return self._finish(connection, here, job, mine, output, reporter)

    def attach(
        self,
        workspace: StrPath | WorkspaceFolder = "lpx-out",
        *,
        output: Output | None = None,
        reporter: Reporter = SILENT,
    ) -> RemoteResult:
        """Follow the last command of a workspace, or show how it ended, and fetch its results.

        Args:
            workspace: The workspace here.
            output: Receives what the command prints; None for this process's own streams.
            reporter: Receives progress and warnings.

        Returns:
            Exit code and fetched results.

        Raises:
            LpxError: There was no such command, or as `run`.
        """
        here = _workspace(workspace)
        with self._connection() as connection:
            reply = connection.call("latest", {"work": work_name(here)})
            job = read_job(self.host, reply)
            if job is None:
                raise LpxError(
                    f"no command has run on {self.host} for {here.root}",
                    "the board keeps the last ones of each workspace",
                    f"run one: `lpx remote {self.host} bench --dataset demo`",
                    code="not-found",
                )
            state = "is running" if job.running else "has ended"
            reporter.say(f"lpx {plain(shlex.join(job.words))} {state}")
            return self._finish(connection, here, job.job, job.words, output, reporter)

    def pull(
        self,
        workspace: StrPath | WorkspaceFolder = "lpx-out",
        *,
        reporter: Reporter = SILENT,
    ) -> Fetched:
        """Fetch reports, predictions and engines of a workspace that are not here yet.

        Args:
            workspace: The workspace here.
            reporter: Receives progress and warnings.

        Returns:
            Their folder, and the names of new ones.

        Raises:
            LpxError: The board cannot be reached, or its results are refused (code "damaged").
        """
        here = _workspace(workspace)
        with self._connection() as connection:
            return fetch(connection, here, work_name(here), {}, reporter)

    def _start(
        self, connection: Connection, work: str, command: _Command, reporter: Reporter
    ) -> str:
        """Start a command, or find that it runs already; returns its identifier."""
        shipment = command.shipment
        key = command_key(command.words, shipment)
        reply = connection.call("have", {"work": work, "key": key, "files": shipment.files})
        if (before := read_job(self.host, reply)) is not None:
            _say_attached(before, reporter)
            return before.job
        names = shipment.missing(self.host, reply)
        if names:
            size = shipment.size(names) / 2**20
            reporter.say(f"sending {len(names)} of {len(shipment.files)} files, {size:.1f} MiB")
        job = secrets.token_hex(8)
        request: dict[str, Any] = {
            "work": work,
            "key": key,
            "job": job,
            "words": list(command.words),
            "variables": {"COLUMNS": str(shutil.get_terminal_size().columns)},
            "files": shipment.files,
            "missing": names,
            "holder": holder("lpx " + shlex.join(command.words)),
        }
        try:
            connection.call("start", request, shipment.contents(names, command.bundle))
        except interrupts.Interrupted as interruption:
            # It may have started just now, and nobody would know.
            if interruption.signal != signal.SIGHUP:
                with contextlib.suppress(LpxError):
                    connection.call("stop", {"job": job, "signal": int(signal.SIGINT)})
            raise
        except LostError:
            self._start_again(connection, request, command, reporter)
        return job

    def _start_again(
        self,
        connection: Connection,
        request: dict[str, Any],
        command: _Command,
        reporter: Reporter,
    ) -> None:
        """Start a command over a new connection, with what had not arrived.

        It may have started: with the same identifier it is not started a second time.
        """
        reporter.warn(f"the connection to {self.host} is lost, connecting again")
        for attempt, _ in enumerate(again(connection, self._patience_s, reporter)):
            with contextlib.suppress(LostError):
                names = command.shipment.missing(self.host, connection.call("have", request))
                contents = command.shipment.contents(names, command.bundle)
                try:
                    connection.call("start", {**request, "missing": names}, contents)
                    return
                except LpxError as error:
                    # The lock may still be that of the request that was cut off.
                    if error.code != "in-use" or attempt >= _ATTEMPTS:
                        raise

    def _finish(
        self,
        connection: Connection,
        here: WorkspaceFolder | None,
        job: str,
        words: Sequence[str],
        output: Output | None,
        reporter: Reporter,
    ) -> RemoteResult:
        """Follow a command to its end, and fetch its results."""
        passing = output or PassOn()
        try:
            code = follow(connection, job, passing, patience_s=self._patience_s, reporter=reporter)
            if code == 128 + signal.SIGKILL:
                reporter.warn(
                    f"the command on {self.host} was killed: usually memory ran out there"
                )
            result = RemoteResult(code, None, ())
            if here is not None:
                ran = {"words": list(words), "job": job, "exit_code": code}
                fetched = fetch(connection, here, work_name(here), ran, reporter)
                result = RemoteResult(code, fetched.folder, fetched.new)
        except LostError:
            # Its end is not seen yet: the same command shows it again, and fetches again.
            raise
        except LpxError:
            # It never will have an exit code, or its results stay there: given again, the command
            # is started again.
            connection.call("seen", {"job": job})
            raise
        connection.call("seen", {"job": job})
        return result


def _workspace(workspace: StrPath | WorkspaceFolder) -> WorkspaceFolder:
    if isinstance(workspace, WorkspaceFolder):
        return workspace
    return WorkspaceFolder(as_path("workspace", workspace))


def _wants_checkpoint(here: WorkspaceFolder, installed: Installed) -> bool:
    """Return whether the checkpoint is of use there: it is large, and needs PyTorch."""
    return bool(installed.has.get("torch")) and here.reference.is_file()


def _with_inputs(
    words: Sequence[str], inputs: Mapping[str, StrPath], shipment: Shipment
) -> tuple[str, ...]:
    """Return words with placeholders replaced by the paths of their files on the board."""
    mine = list(words)
    for placeholder, path in inputs.items():
        there = add_input(shipment, as_path("inputs", path))
        mine = [word.replace(placeholder, there) for word in mine]
    return tuple(mine)


def _say_attached(job: RemoteJob, reporter: Reporter) -> None:
    if job.running:
        reporter.say("this command is already running there: attaching to it")
    else:
        reporter.say("this command ended there while nobody was connected: here is its output")
