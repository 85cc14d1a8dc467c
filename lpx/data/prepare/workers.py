"""Processes that cut videos: none outlives the run, and one that dies is noticed.

Not `concurrent.futures`, whose workers stay for ever where the parent is killed, and which does not
tell what a worker that died was doing.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import cv2

from lpx.data.prepare.cutting import Cut, Cutter, DiskFullError, Settings, crashed
from lpx.data.videos import Video
from lpx.errors import LpxError
from lpx.interrupts import follow_parent, starting_workers

_PATIENCE_S = 5.0
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""How a decoder ends a process by itself, at a damaged file."""


def cut_videos(settings: Settings, videos: Sequence[Video], processes: int) -> Iterator[Cut]:
    """Cut videos, and give each as it is done.

    Args:
        settings: How.
        videos: What.
        processes: At most so many at once; 1 works in this process. More are started again
            ("spawn"): a script that calls this must guard its main part with
            `if __name__ == "__main__"`.

    Raises:
        DiskFullError: There is no room for a crop.
        LpxError: The folder cannot be written, or a worker was killed from outside.
    """
    processes = min(processes, len(videos))
    if processes > 1:
        yield from _in_processes(settings, videos, processes)
    elif videos:
        yield from map(Cutter(settings).cut, videos)


class _Worker:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dead = False
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, settings), daemon=True
        )
        self.process.start()
        # Otherwise the end of the worker would not be the end of the pipe.
        theirs.close()
        self.video: Video | None = None

    def give(self, video: Video) -> None:
        self.video = video
        try:
            self.connection.send(video)
        except BrokenPipeError:
            raise self.death() from None

    def receive(self) -> Cut:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.dead = True
            self.process.join(_PATIENCE_S)
            code = self.process.exitcode
            if self.video and code and -code in _CRASHES:
                return crashed(self.settings, self.video, f"signal {-code}")
            raise self.death() from None
        if isinstance(answer, BaseException):
            raise answer
        return _checked(answer)

    def death(self) -> LpxError:
        self.process.join(_PATIENCE_S)
        code = self.process.exitcode
        name = self.video.name if self.video else ""
        if code == -signal.SIGKILL:
            why = "it was killed from outside, as the system does where memory runs out"
            fix = "take fewer --processes, and give the command again: it goes on where it stopped"
        else:
            how = f"by signal {-code}" if code and code < 0 else f"with exit code {code}"
            why = f"it ended {how} while it read this video"
            fix = (
                "give the command again, it goes on where it stopped; if it stops at this video "
                "again, the file is damaged: download it again, or move it away"
            )
        return LpxError(f"a worker died at video {name}", why, fix)


def _checked(answer: object) -> Cut:
    if not isinstance(answer, Cut):
        raise RuntimeError(f"a worker failed:\n{answer}")
    return answer


def _in_processes(settings: Settings, videos: Sequence[Video], processes: int) -> Iterator[Cut]:
    waiting = iter(videos)
    workers: list[_Worker] = []
    try:
        with _starting():
            workers += [_Worker(settings) for _ in range(processes)]
        for worker in workers:
            worker.give(next(waiting))
        busy = list(workers)
        while busy:
            ready = wait([worker.connection for worker in busy])
            for one in [worker for worker in busy if worker.connection in ready]:
                worker = one
                cut = worker.receive()
                # Its next video first: it works on while this one is written down.
                video = next(waiting, None)
                if video is None or worker.dead:
                    busy.remove(worker)
                if video is not None:
                    if worker.dead:
                        with _starting():
                            worker = _Worker(settings)
                        workers.append(worker)
                        busy.append(worker)
                    worker.give(video)
                yield cut
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


@contextmanager
def _starting() -> Iterator[None]:
    """What is started here hears no signal before it can say what to do with it."""
    # The first process that is started starts this one too, and lets signals through for it.
    resource_tracker.ensure_running()
    with starting_workers():
        yield


def _serve(connection: Connection, settings: Settings) -> None:
    """A worker's life: a video in, what became of it out, until the parent is gone."""
    follow_parent()
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
            answer = f"{video.name}\n{traceback.format_exc()}"
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
