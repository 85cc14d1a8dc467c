"""Find the most streams: doubling, then bisection, then confirmation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from lpx.data.wording import counted
from lpx.streams.capacity.judge import Trial

# Trials that have to hold besides the one that found a number of streams.
CONFIRMATIONS = 2
# A trial that does not hold is repeated: other programs may have disturbed it.
ATTEMPTS = 2


class RunTrial(Protocol):
    """Runs a number of cameras."""

    def __call__(self, streams: int, *, scout: bool) -> Trial:
        """Return the judged trial; a `scout` is short, and only tells what is hopeless."""
        ...


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        streams: Most streams that hold the budget, confirmed; 0 if not even one does.
        reached_limit: Whether the search ended at its limit: there may be more.
        best: The last trial with this number of streams; for 0, the best that failed with one.
        trials: All trials, in their order.
    """

    streams: int
    reached_limit: bool
    best: Trial
    trials: tuple[Trial, ...]


def find_most_streams(run: RunTrial, limit: int, tell: Callable[[str], None]) -> Found:
    """Find the most streams that hold the budget.

    Short trials double the number of streams until one fails; full trials then close in on the
    largest number that holds. It has to hold in `CONFIRMATIONS` trials more; if it does not, the
    next smaller number has to hold as often. A trial that does not hold is repeated once, unless
    most of its frames were late.

    Args:
        run: Runs a trial.
        limit: Number of streams at which to end.
        tell: Receives each trial in words.
    """
    search = _Search(run, tell)
    holds = search.close_in(search.double(limit), limit)
    while holds:
        confirmed = search.confirm(holds)
        if confirmed is not None:
            at_limit = holds == limit
            return Found(holds, at_limit, confirmed, tuple(search.trials))
        holds -= 1
    # Full trials, not scouts, which have too few frames for a percentile; and not one that held by
    # luck, which does not say what is wrong.
    alone = [trial for trial in search.full if trial.streams == 1 and trial.verdict != "holds"]
    best = min(alone, key=lambda trial: trial.p99_ms.estimate)
    return Found(0, False, best, tuple(search.trials))


class _Bracket(NamedTuple):
    """The most streams that a short trial survived, and the fewest at which one failed."""

    reached: int
    upper: int


@dataclass
class _Search:
    run: RunTrial
    tell: Callable[[str], None]
    trials: list[Trial] = field(default_factory=list)
    full: list[Trial] = field(default_factory=list)

    def double(self, limit: int) -> _Bracket:
        """Double the number of streams until a short trial fails twice."""
        reached, streams = 0, 1
        while reached < limit:
            if not self._survives(streams):
                return _Bracket(reached, streams)
            reached, streams = streams, min(2 * streams, limit)
        return _Bracket(limit, limit + 1)

    def close_in(self, bracket: _Bracket, limit: int) -> int:
        """Return the largest number that holds in full trials; 0 if none does."""
        low, high = 0, bracket.upper
        guess = max(bracket.reached, 1)
        failed = {limit + 1}
        while True:
            while high - low > 1:
                if self.attempt(guess):
                    low = guess
                else:
                    high = guess
                    failed.add(guess)
                guess = (low + high) // 2
            # That a short trial failed may have been a disturbance.
            if high in failed or not self.attempt(high):
                return low
            low, high = high, min(2 * high, limit + 1)
            guess = (low + high) // 2

    def attempt(self, streams: int) -> bool:
        """Return whether a full trial holds; one that does not is repeated."""
        for _ in range(ATTEMPTS):
            trial = self._trial(streams, scout=False)
            if trial.verdict == "holds":
                return True
            if _is_clear(trial):
                break
        return False

    def confirm(self, streams: int) -> Trial | None:
        """Return the last of the trials that confirm a number of streams; None if one does not."""
        # Counted, as a number that the search comes down to may have had no trial before.
        while self._held(streams) < 1 + CONFIRMATIONS:
            if not self.attempt(streams):
                return None
        return self.full[-1]

    def _held(self, streams: int) -> int:
        return sum(trial.streams == streams and trial.verdict == "holds" for trial in self.full)

    def _survives(self, streams: int) -> bool:
        for _ in range(ATTEMPTS):
            trial = self._trial(streams, scout=True)
            if trial.verdict != "fails":
                return True
            if _is_clear(trial):
                break
        return False

    def _trial(self, streams: int, *, scout: bool) -> Trial:
        trial = self.run(streams, scout=scout)
        self.trials.append(trial)
        if not scout:
            self.full.append(trial)
        found = trial.reason or f"p99 {trial.p99_ms.estimate:.0f} ms"
        kind = " (short)" if scout else ""
        # A short trial has too few frames to say that anything holds.
        verdict = "goes on" if scout and trial.verdict != "fails" else trial.verdict
        self.tell(f"{counted(streams, 'stream')}{kind}: {verdict}, {found}")
        return trial


def _is_clear(trial: Trial) -> bool:
    """Return whether most frames were late, which no short disturbance explains."""
    return 2 * trial.late > trial.frames
