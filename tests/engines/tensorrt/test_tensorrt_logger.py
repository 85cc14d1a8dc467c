"""Who gets TensorRT's messages, and how an error comes to hold them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tensorrt_fakes import FakeLibrary

from lpx.engines.tensorrt import logger as messages
from lpx.engines.tensorrt.cuda.driver import CudaLostError
from lpx.engines.tensorrt.logger import explained, recording
from lpx.errors import LpxError


@pytest.fixture
def library() -> Iterator[FakeLibrary]:
    yield FakeLibrary("tensorrt-10.3.0")
    assert messages._recorders == []


def test_an_outer_recorder_goes_on_when_an_inner_one_ends_empty(library: FakeLibrary) -> None:
    """Two recorders without messages are two recorders."""
    with recording(library) as (logger, outer):
        with recording(library):
            pass
        logger.log(library.ILogger.ERROR, "behind")
    assert outer.lines() == ("error: behind",)


def test_threads_do_not_get_each_others_messages(library: FakeLibrary) -> None:
    other_records, done = threading.Event(), threading.Event()
    heard: list[tuple[str, ...]] = []

    def beside() -> None:
        with recording(library) as (logger, recorder):
            other_records.set()
            done.wait(10)
            logger.log(library.ILogger.ERROR, "beside")
        heard.append(recorder.lines())

    with recording(library) as (logger, recorder):
        thread = threading.Thread(target=beside)
        thread.start()
        assert other_records.wait(10)
        logger.log(library.ILogger.ERROR, "here")
        done.set()
        thread.join()
    assert recorder.lines() == ("error: here",)
    assert heard == [("error: beside",)]


def test_a_thread_of_tensorrts_own_is_heard(library: FakeLibrary) -> None:
    with recording(library) as (logger, recorder):
        thread = threading.Thread(target=logger.log, args=(library.ILogger.ERROR, "from afar"))
        thread.start()
        thread.join()
    assert recorder.lines() == ("error: from afar",)


def refuse(library: FakeLibrary, error: LpxError, *said: str) -> None:
    """Log errors, and raise one that does not hold them."""
    with explained():
        for text in said:
            messages.logger_for(library).log(library.ILogger.ERROR, text)
        raise error


def test_an_error_is_explained_by_the_log(library: FakeLibrary) -> None:
    error = LpxError("TensorRT refused the run", "for a reason", "build it again")
    with pytest.raises(LpxError) as caught:
        refuse(library, error, *["Error Code 2: OutOfMemory"] * 2)
    assert caught.value.why == "Error Code 2: OutOfMemory\nfor a reason"
    assert "smaller batches" in caught.value.fix


def test_an_error_without_a_log_stays_as_it_is(library: FakeLibrary) -> None:
    with pytest.raises(LpxError) as caught:
        refuse(library, LpxError("what", "why", "fix"))
    assert (caught.value.what, caught.value.why, caught.value.fix) == ("what", "why", "fix")


def test_warnings_explain_nothing(library: FakeLibrary) -> None:
    with recording(library) as (logger, recorder):
        logger.log(library.ILogger.WARNING, "lazy loading")
    assert recorder.said("error") == ()
    assert recorder.said("error", "warning") == ("lazy loading",)


def test_lost_cuda_keeps_its_advice(library: FakeLibrary) -> None:
    with pytest.raises(CudaLostError) as caught:
        refuse(library, CudaLostError("CUDA's launch failed"), "Error Code 2: OutOfMemory")
    assert "Error Code 2: OutOfMemory" in caught.value.why
    assert "new process" in caught.value.fix


def test_an_error_is_explained_once(library: FakeLibrary) -> None:
    with pytest.raises(LpxError) as caught, explained():
        refuse(library, LpxError("what", "said"), "said")
    assert caught.value.why == "said"


@pytest.mark.parametrize("refused", [True, False])
def test_an_interrupt_in_a_callback_comes_before_the_refusal_it_led_to(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(messages, "_keep", interrupt)

    def run() -> None:
        with explained():
            messages.logger_for(library).log(library.ILogger.ERROR, "anything")
            if refused:
                raise LpxError("TensorRT refused the run")

    with pytest.raises(KeyboardInterrupt):
        run()
