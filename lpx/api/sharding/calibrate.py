"""Calibration by shards, which share neither a lock nor anything that they write."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx.api.calibrate import (
    CalibrateOptions,
    CalibrationInputs,
    CalibrationResult,
    FaceSplit,
    conclude,
    open_inputs,
)
from lpx.artefacts.model import look_up, require_prepared, versions
from lpx.calibration.observe import scales_of
from lpx.errors import InvalidArgumentError
from lpx.graph.qdq.weights import WeightOptions
from lpx.reporter import Reporter
from lpx.shards.calibrate import UNIT, merged_observation, observe_part
from lpx.shards.contents import check_contents
from lpx.shards.join import Whole, check_key
from lpx.shards.part import PartResult, damaged
from lpx.shards.shard import Shard

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

_VERSIONS = ("onnx", "onnxruntime", "numpy")
# Options that the calibration of all parts needs, besides those of weights.
_OPTIONS = ("limit", "select", "method", "seed")


@dataclass(frozen=True)
class _Chosen:
    """The inputs of a calibration with the choice of faces, and what identifies them."""

    inputs: CalibrationInputs
    split: FaceSplit
    key: dict[str, Any]


def calibrate_shard(
    workspace: OpenedWorkspace,
    shard: Shard,
    folder: Path,
    faces: str | None,
    options: CalibrateOptions,
    reporter: Reporter,
) -> PartResult:
    """Observe a shard's share of the calibration faces.

    Args:
        workspace: Contains the model; nothing is written into it but the part.
        shard: The shard.
        folder: Folder of the part.
        faces: Face set to choose from; None for the demo faces.
        options: Options of the calibration.
        reporter: Receives progress and warnings.

    Raises:
        LpxError: As for `lpx.Workspace.calibrate`, or the folder holds something else.
    """
    if options.select == "coverage":
        raise InvalidArgumentError(
            "select",
            'must be "stratified" or "random" for a shard',
            options.select,
            "coverage runs the model over all faces to choose some, and each shard would do so",
        )
    # All shards would prepare it at once.
    require_prepared(workspace, faces or "demo", "train", workspace.places)
    chosen = _choose(workspace, faces, options, reporter)
    return observe_part(
        folder,
        shard,
        chosen.key,
        chosen.split.calibration,
        chosen.inputs.observed,
        chosen.inputs.card.input_size,
        reporter,
        # Not in the key: a folder may have another place on each machine.
        about={"set": faces or "demo"},
    )


def _choose(
    workspace: OpenedWorkspace, faces: str | None, options: CalibrateOptions, reporter: Reporter
) -> _Chosen:
    inputs = open_inputs(workspace, faces, options, reporter)
    split = inputs.split(options, reporter)
    values = asdict(options)
    key = {
        "model": hashlib.sha256(inputs.data).hexdigest(),
        "observed": hashlib.sha256(inputs.observed).hexdigest(),
        # Without contents: each shard reads the files of its own faces only.
        "faces": inputs.pool.list_digest(),
        "chosen": split.calibration.list_digest(),
        "versions": versions(*_VERSIONS),
        "options": {name: values[name] for name in _OPTIONS},
        "weights": values["weights"],
    }
    return _Chosen(inputs, split, key)


def merge_calibration(
    workspace: OpenedWorkspace, whole: Whole, faces: str | None, reporter: Reporter
) -> CalibrationResult:
    """Add up parts, rank the methods, and write `scales.json`.

    Args:
        workspace: Contains the model, and receives the result.
        whole: All parts.
        faces: Face set that the parts chose from, as it is named here; None for the same name.
        reporter: Receives progress and warnings.

    Raises:
        LpxError: The parts are of another model, other faces, or another version than there are
            here, or one is damaged.
    """
    options = _options(whole)
    named = faces or str(whole.parts[0].about.get("set"))
    chosen = _choose(workspace, named, options, reporter)
    check_key(whole, chosen.key)
    with workspace.lock():
        look_up(chosen.inputs.pool, reporter)
        # Now, so that files that change while the methods are ranked are noticed.
        chosen.inputs.pool.digest()
        calibration = chosen.split.calibration
        check_contents(whole, calibration, UNIT)
        observation = merged_observation(whole, calibration, reporter)
        scales = scales_of(observation, calibration)
        result = conclude(workspace, chosen.inputs, chosen.split, scales, options, reporter)
    return replace(
        result,
        seconds=round(observation.seconds, 3),
        pass_seconds=round(observation.pass_seconds, 3),
        notes=(*result.notes, *filter(None, (whole.machine_note(),))),
    )


def _options(whole: Whole) -> CalibrateOptions:
    """Return the options in the key of parts.

    Raises:
        LpxError: They are none: another version of lpx wrote them, or they were edited.
    """
    options, weights = whole.key.get("options"), whole.key.get("weights")
    try:
        if not isinstance(options, Mapping) or not isinstance(weights, Mapping):
            raise TypeError("it names no options")
        return CalibrateOptions(**options, weights=WeightOptions(**weights))
    except (TypeError, InvalidArgumentError) as error:
        first = whole.parts[0]
        damaged(first.folder, first.manifest, str(error).splitlines()[0])
