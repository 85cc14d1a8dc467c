"""Options that several commands share."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from lpx.data.roots import expanded
from lpx.errors import LpxError
from lpx.healing import REBUILD, Rebuild
from lpx.workspace import DEFAULT, WorkspaceFolder

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.cluster.options import RayOptions
    from lpx.graph.qdq.weights import WeightOptions

# The same as `lpx.graph.qdq.placement.MIN_CHANNELS`, whose import would slow down `lpx --help`.
_MIN_CHANNELS = 16
Command = TypeVar("Command", bound=Callable[..., Any])


def workspace_option(command: Command) -> Command:
    """`-w DIR`: passes a Workspace as `workspace`.

    It takes `--data-root`, `--store`, `--allow-host-code`, `--allow-factory`, `--rebuild` and `ray`
    into the workspace where the command has them. Their decorators stand above this one.
    """

    def passing(
        *given: Any,
        workspace: str,
        data_root: Path | None = None,
        store: Path | None = None,
        allow_host_code: bool = False,
        allow_factory: bool = False,
        rebuild: Rebuild = "auto",
        ray: RayOptions | None = None,
        **options: Any,
    ) -> Any:
        opened = _opened(
            expanded(workspace),
            data_root=data_root,
            face_store=store,
            allow_host_code=allow_host_code,
            allow_factory=allow_factory,
            rebuild=rebuild,
            ray=ray,
        )
        return command(*given, workspace=opened, **options)

    wrapped = cast(Command, functools.update_wrapper(passing, command))
    return folder_option(
        wrapped, "Folder of the model, its engines and reports; or a bundle, unpacked beside it."
    )


def _opened(root: Path, **options: Any) -> Workspace:
    """Return a workspace. Of a bundle, the folder is named, since results are written there."""
    from lpx.api.workspace import Workspace

    if not root.is_file():
        return Workspace(root, **options)
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        opened = Workspace(root, **options, reporter=reporter)
        reporter.say(f"workspace {opened.root}, unpacked from {root}")
    return opened


def folder_option(command: Command, description: str) -> Command:
    """`-w DIR` without opening the workspace: passes its path as `workspace`, a str."""
    return click.option(
        "-w",
        "--workspace",
        "workspace",
        envvar="LPX_WORKSPACE",
        default=str(DEFAULT),
        show_default=True,
        metavar="DIR",
        help=description,
    )(command)


def data_options(command: Command) -> Command:
    """`--data-root DIR` and `--store DIR`: pass `data_root` and `store`."""
    store = click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of prepared faces.  [default: LPX_FACE_STORE, lpx.toml, or ./lpx-faces]",
    )
    data_root = click.option(
        "--data-root",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of public data sets' videos.  [default: LPX_DATA or lpx.toml]",
    )
    return data_root(store(command))


def following(command: str, workspace: WorkspaceFolder) -> str:
    """Return the next command to run, with the folders that were named to this one.

    Args:
        command: The command. It must have `data_options` if this one has them.
        workspace: The workspace of both.
    """
    from lpx.api.workspace.opened import OpenedWorkspace

    folders: dict[str, Path | None] = {}
    if isinstance(workspace, OpenedWorkspace):
        places = workspace.places
        folders = {"--data-root": places.data_root, "--store": places.store}
    if workspace.root != expanded(os.environ.get("LPX_WORKSPACE", str(DEFAULT))):
        folders["-w"] = workspace.root
    for option, folder in folders.items():
        if folder is not None:
            command += f" {option} {shlex.quote(str(folder))}"
    return f"next: {command}"


def was_given(context: click.Context, name: str) -> bool:
    """Return whether a parameter was named on the command line."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_options(context: click.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that have no meaning beside the others.

    Args:
        context: The command's.
        names: Parameters that must not have been given.
        why: Why they have no meaning.

    Raises:
        LpxError: One was given (code "invalid-argument").
    """
    for parameter in context.command.params:
        if parameter.name in names and was_given(context, parameter.name):
            option = max(parameter.opts, key=len)
            raise LpxError(
                f"{option} has no meaning here", why, "leave it out", code="invalid-argument"
            )


def json_option(command: Command) -> Command:
    """`--json`: passes `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to stderr."
    )(command)


def host_code_option(command: Command) -> Command:
    """`--allow-host-code`: passes `allow_host_code`."""
    return click.option(
        "--allow-host-code",
        is_flag=True,
        help="Allow version-compatible plans. They contain host code; only use plans from a source "
        "you trust.",
    )(command)


def rebuild_option(command: Command) -> Command:
    """`--rebuild auto|ask|never`: passes `rebuild`."""
    return click.option(
        "--rebuild",
        type=click.Choice(REBUILD),
        default="auto",
        show_default=True,
        help="Rebuild an engine that does not run here, from its graph and ranges, if none does or "
        "it is named.",
    )(command)


def factory_option(command: Command) -> Command:
    """`--allow-factory`: passes `allow_factory`."""
    return click.option(
        "--allow-factory",
        is_flag=True,
        help="Allow the factory that the workspace names to make its model. It is code; only use "
        "workspaces from a source you trust.",
    )(command)


def min_channels_option(command: Command) -> Command:
    """`--min-channels N`: passes `min_channels`."""
    return click.option(
        "--min-channels",
        type=click.IntRange(1, 65_536),  # as cards allow
        default=_MIN_CHANNELS,
        show_default=True,
        help="Keep convolutions with fewer input or output channels in float: integer kernels pad "
        "them and are seldom faster.",
    )(command)


def weight_options(command: Command) -> Command:
    """Options for the quantisation of weights: pass `weights`, a WeightOptions."""

    @functools.wraps(command)
    def packed(
        *arguments: Any,
        weight_clip: Any,
        weight_rounding: Any,
        bias_correction: bool,
        equalise: bool,
        min_channels: int,
        requantise: bool,
        **rest: Any,
    ) -> Any:
        from lpx.graph.qdq.weights import WeightOptions

        weights = WeightOptions(
            weight_clip, weight_rounding, bias_correction, equalise, min_channels, requantise
        )
        return command(*arguments, weights=weights, **rest)

    options = (
        click.option(
            "--weight-clip",
            type=click.Choice(("max", "mse")),
            default="max",
            show_default=True,
            help="Clip weights per channel at the largest magnitude, or where the squared error is "
            "smallest.",
        ),
        click.option(
            "--weight-rounding",
            type=click.Choice(("squant", "nearest")),
            default="squant",
            show_default=True,
            help="Round weights so that errors within a kernel cancel, or to nearest.",
        ),
        click.option(
            "--bias-correction/--no-bias-correction",
            default=True,
            show_default=True,
            help="Correct the bias for the mean error of rounding, per channel.",
        ),
        click.option(
            "--equalise/--no-equalise",
            default=False,
            show_default=True,
            help="Equalise channel ranges between layers first (for depthwise networks).",
        ),
        min_channels_option,
        click.option(
            "--requantise",
            is_flag=True,
            help="Remove the Q/DQ pairs of a quantised model instead of refusing it.",
        ),
    )
    for option in reversed(options):
        packed = option(packed)
    return packed  # type: ignore[return-value]


def weight_flags(weights: WeightOptions) -> str:
    """Return the options that pass the same weights to another command; "" for the defaults."""
    flags = {
        f" --weight-clip {weights.clip}": weights.clip != "max",
        f" --weight-rounding {weights.rounding}": weights.rounding != "squant",
        " --no-bias-correction": not weights.bias_correction,
        " --equalise": weights.equalise,
        f" --min-channels {weights.min_channels}": weights.min_channels != _MIN_CHANNELS,
        " --requantise": weights.requantise,
    }
    return "".join(flag for flag, given in flags.items() if given)
