"""Worker processes that cut videos.

No worker outlives the run, and one that dies is noticed and named with its video, which is all
that it costs. Hence not `concurrent.futures`, loky or joblib: a dead worker fails all their tasks,
and does not say what it was doing; workers of the first stay for ever if the parent is killed.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import cv2

from lpx.data.prepare.cutting import CutResult, Cutter, DiskFullError, Settings, crashed
from lpx.data.videos import Video
from lpx.errors import LpxError
from lpx.interrupts import follow_parent, starting_workers

# A process whose end of the pipe is closed ends within milliseconds.
_JOIN_TIMEOUT_S = 5.0
# Signals by which a decoder ends its process at a damaged file.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


def cut_videos(
    settings: Settings, videos: Sequence[Video], processes: int | None = None
) -> Iterator[CutResult]:
    """Cut videos, and yield each result as soon as it is there.

    Args:
        settings: Settings of the prepared set.
        videos: Videos to cut.
        processes: Maximum number of processes; None for one per core. 1 uses this process. Others
            are started by "spawn", so a script that calls this must guard its main part with
            `if __name__ == "__main__"`.

    Raises:
        DiskFullError: The disk is full.
        LpxError: The folder cannot be written, or a worker was killed from outside.
    """
    processes = min(processes or len(os.sched_getaffinity(0)), len(videos))
    if processes > 1:
        yield from _in_processes(settings, videos, processes)
    elif videos:
        yield from map(Cutter(settings).cut, videos)


class CuttingProcess:
    """A process that cuts videos, one at a time; one that dies is not started again.

    Args:
        settings: Settings of the prepared set.

    Attributes:
        dead: Whether it died at a damaged video.
        video: The video that was given last.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dead = False
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, settings), daemon=True
        )
        self.process.start()
        # Two processes would hold that end otherwise, and a dead worker would not close the pipe.
        theirs.close()
        self.video: Video | None = None

    def give(self, video: Video) -> None:
        """Give it a video to cut.

        Raises:
            LpxError: It has died.
        """
        self.video = video
        try:
            self.connection.send(video)
        except BrokenPipeError:
            raise self._death() from None

    def receive(self) -> CutResult:
        """Wait for the result of the video that it was given.

        Raises:
            DiskFullError: The disk is full.
            LpxError: The folder cannot be written, or the process was killed from outside.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.dead = True
            self.process.join(_JOIN_TIMEOUT_S)
            code = self.process.exitcode
            # A decoder that crashes is a property of the video; any other end is not.
            if self.video and code and -code in _CRASHES:
                return crashed(self.settings, self.video, f"signal {-code}")
            raise self._death() from None
        if isinstance(answer, BaseException):
            raise answer
        return _checked(answer)

    def _death(self) -> LpxError:
        self.process.join(_JOIN_TIMEOUT_S)
        code = self.process.exitcode
        what = f"a worker died at video {self.video.name if self.video else ''}"
        if code == -signal.SIGKILL:
            return LpxError(
                what,
                "it was killed from outside, as the system does when memory runs out",
                "use fewer `processes`, and run the command again: it resumes where it stopped",
                code="out-of-memory",
            )
        how = f"with exit code {code}"
        if code and code < 0:
            how = f"by signal {-code}"
        return LpxError(
            what,
            f"it ended {how} while it read this video",
            "run the command again, it resumes where it stopped; if it stops at this video again, "
            "the file is damaged: download it again, or move it away",
        )

    def end(self) -> None:
        """Kill it, and wait until it has ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _checked(answer: object) -> CutResult:
    if not isinstance(answer, CutResult):
        raise RuntimeError(f"a worker failed:\n{answer}")
    return answer


def _in_processes(
    settings: Settings, videos: Sequence[Video], processes: int
) -> Iterator[CutResult]:
    waiting = iter(videos)
    workers: list[CuttingProcess] = []
    try:
        with starting():
            workers += [CuttingProcess(settings) for _ in range(processes)]
        for worker in workers:
            worker.give(next(waiting))
        busy = list(workers)
        while busy:
            ready = wait([worker.connection for worker in busy])
            for worker in list(busy):
                if worker.connection not in ready:
                    continue
                cut = worker.receive()
                # Before the result is yielded, so that the worker is busy while it is recorded.
                video = next(waiting, None)
                if video is None or worker.dead:
                    busy.remove(worker)
                if video is not None:
                    if worker.dead:
                        with starting():
                            replacement = CuttingProcess(settings)
                        workers.append(replacement)
                        busy.append(replacement)
                        replacement.give(video)
                    else:
                        worker.give(video)
                yield cut
    finally:
        # All at once, before the first is waited for.
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.end()


@contextmanager
def starting() -> Iterator[None]:
    """Start processes in this block; they receive no signal before they can handle it."""
    # Python starts the resource tracker with the first process, and unblocks signals for that.
    resource_tracker.ensure_running()
    with starting_workers():
        yield


def _serve(connection: Connection, settings: Settings) -> None:
    """Receive videos and send results, until the parent closes the pipe."""
    follow_parent()
    # One worker per core: threads of their own would only compete.
    cv2.setNumThreads(1)
    cutter: Cutter | None = None
    while True:
        try:
            video = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        answer: object
        try:
            cutter = cutter or Cutter(settings)
            answer = cutter.cut(video)
        except (LpxError, DiskFullError) as error:
            answer = error
        except Exception:
            # As text: an exception may hold objects that cannot be pickled.
            answer = f"{video.name}\n{traceback.format_exc()}"
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
