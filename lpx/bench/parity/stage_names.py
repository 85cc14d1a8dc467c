"""The stages that a bench is asked for, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lpx.arguments import several
from lpx.data.pipelines.table import ALIASES, Pipeline, find_pipelines
from lpx.errors import InvalidArgumentError

# Stages between the checkpoint and an engine.
STAGES = ("onnx", "graph")
# What a stage on the pixels of a pipeline begins with, before the pipeline's name.
PIXELS = "pixels:"


@dataclass(frozen=True)
class ChosenStages:
    """Stages besides the engines.

    Attributes:
        onnx: Whether the exported model is scored in ONNX Runtime.
        graph: Whether each engine's graph is.
        pipelines: Pipelines whose pixels each engine scores too.
        notes: What the user should know of the choice, in sentences.
    """

    onnx: bool
    graph: bool
    pipelines: tuple[Pipeline, ...]
    notes: tuple[str, ...] = ()


def choose_stages(names: str | Sequence[str]) -> ChosenStages:
    """Return the stages with these names.

    Args:
        names: Of "onnx", "graph" and "pixels:PIPELINE".

    Raises:
        InvalidArgumentError: A name is none of these; pipelines are listed.
    """
    pipelines: list[str] = []
    known: list[str] = []
    for name in several("stages", names):
        if name.startswith(PIXELS):
            pipelines.append(name.removeprefix(PIXELS))
        elif name in STAGES:
            known.append(name)
        else:
            raise InvalidArgumentError(
                "stages", "must be onnx, graph, or pixels:PIPELINE, or several of these", name
            )
    notes = []
    for name in dict.fromkeys(pipelines):
        if name in ALIASES:
            notes.append(
                f"{name} leaves resizing to its clients: the pixels are those of {ALIASES[name]}"
            )
    return ChosenStages(
        "onnx" in known, "graph" in known, find_pipelines("stages", pipelines), tuple(notes)
    )
