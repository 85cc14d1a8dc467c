"""`lpx build --int8 --search`: options, and what is shown."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lpx.cli.options import following
from lpx.plain import plain

if TYPE_CHECKING:
    from lpx.api.search.outcome import SearchResult
    from lpx.api.workspace import Workspace
    from lpx.engines.tensorrt_options import TensorRTOptions
    from lpx.graph.qdq.weights import WeightOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--search",
        is_flag=True,
        help="With --int8: find which layers to leave in float, so that the engine is as fast as "
        "possible and its AUC holds, and build that engine.",
    ),
    click.option(
        "--search-faces",
        metavar="DIR|DATASET",
        help="Labelled faces of the search, apart from those of the calibration and of the bench. "
        "By default the demo faces; of a public data set, its validation split.",
    ),
    click.option(
        "--search-limit",
        type=int,
        metavar="N",
        help="Maximum number of these faces: one half measures layers, finished engines are judged "
        "on the other.  [default: 2048]",
    ),
    click.option(
        "--margin",
        type=float,
        metavar="AUC",
        help="AUC that the engine may lose.  [default: 0.005]",
    ),
    click.option(
        "--confidence",
        type=float,
        metavar="P",
        help="Confidence of its interval.  [default: 0.95]",
    ),
    click.option(
        "--budget-minutes",
        type=float,
        metavar="MINUTES",
        help="Time after which no further engine is built; one is in any case.",
    ),
    click.option("--blocks", is_flag=True, help="Take a residual block as one group of layers."),
)


@dataclass(frozen=True)
class SearchFlags:
    """Options of a search, as they were given; None where they were not."""

    search: bool
    search_faces: str | None
    search_limit: int | None
    margin: float | None
    confidence: float | None
    budget_minutes: float | None
    blocks: bool

    def check(self, *, int8: bool, others: bool, plan: bool, emit: bool) -> None:
        """Refuse combinations that would be ignored.

        Args:
            int8: INT8 is asked for.
            others: Other precisions are too.
            plan: A plan is given.
            emit: Scripts are to be written.
        """
        if not self.search:
            given = [name for name, value in vars(self).items() if value not in (None, False)]
            if given:
                raise click.UsageError(f"--{given[0].replace('_', '-')} needs --search")
            return
        if not int8 or others:
            raise click.UsageError("--search builds an INT8 engine: use it with --int8 alone")
        if plan:
            raise click.UsageError("--search writes a plan: it cannot be combined with --plan")
        if emit:
            raise click.UsageError(
                "--search builds and measures engines: it cannot be combined with --emit"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `lpx.Workspace.search` that were given."""
        values = {
            "search_faces": self.search_faces,
            "search_limit": self.search_limit,
            "margin": self.margin,
            "confidence": self.confidence,
            "budget_minutes": self.budget_minutes,
        }
        given = {name: value for name, value in values.items() if value is not None}
        return {**given, "blocks": self.blocks}


def search_options(command: Command) -> Command:
    """Add the options of a search to a command, which receives them as `searching`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        names = SearchFlags.__dataclass_fields__
        values = {name: given.pop(name) for name in names}
        return command(searching=SearchFlags(**values), **given)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def run_search(
    workspace: Workspace,
    flags: SearchFlags,
    target: str,
    faces: str | None,
    limit: int,
    method: str | None,
    weights: WeightOptions,
    tensorrt: TensorRTOptions,
    *,
    as_json: bool,
) -> None:
    """Search, and show the outcome; ends with its exit code."""
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.search(
            target=target,
            faces=faces,
            limit=limit,
            method=method,
            weights=weights,
            tensorrt=tensorrt,
            reporter=reporter,
            **flags.arguments(),
        )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        _show(result)
        if result.engine is not None:
            click.echo(following("lpx bench --dataset OTHER-FACES", workspace))
            click.echo("  (labelled faces that neither calibration nor search saw)")
    if result.exit_code:
        click.get_current_context().exit(result.exit_code)


def _show(result: SearchResult) -> None:
    from rich import box
    from rich.table import Table

    from lpx.cli.console import Output

    console = Output()
    if result.trials:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("INT8 groups", no_wrap=True)
        level = f"{100 * result.test.confidence:g} %"
        for title in ("predicted", f"AUC difference [{level}]", "verdict", "ms", "MiB"):
            table.add_column(title, justify="right", no_wrap=True)
        for one in result.trials:
            trial = one.trial
            verdict = {"undecided": "inconclusive"}.get(trial.verdict, trial.verdict)
            table.add_row(
                f"{len(trial.int8)} of {result.groups}"
                + (" *" if one == result.chosen and result.engine else ""),
                f"{trial.predicted.estimate:+.4f}",
                _interval(trial.measured),
                verdict,
                "" if one.ms is None else f"{one.ms:.3f}",
                f"{trial.size / 2**20:.2f}",
            )
        console.print(table)
        if result.engine is not None:
            console.say(f"* kept as {result.engine}")
    if result.reference.ms is not None:
        reference = result.reference
        console.say(f"{reference.precision.upper()} engine: {reference.ms:.3f} ms per face")
    console.say(plain(result.sentence))
    for path in (result.files.plan, result.files.report, result.files.log):
        if path is not None:
            console.say(str(path))


def _interval(found: Any) -> str:
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
