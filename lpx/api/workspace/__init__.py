"""`lpx.Workspace`: the steps from a checkpoint to verified engines, as methods."""

from __future__ import annotations

from lpx.api.workspace.making import MakingSteps
from lpx.api.workspace.measuring import MeasuringSteps
from lpx.api.workspace.sharding import ShardingSteps
from lpx.api.workspace.shipping import ShippingSteps


# The reference lists what a class inherits from its last base first.
class Workspace(ShardingSteps, ShippingSteps, MeasuringSteps, MakingSteps):
    """A folder with one exported model, its engines and reports, and the steps that make them.

    Each step leaves its artefacts in the folder, where the next one finds them. All steps check
    what they read against what it was made from.

    Args:
        root: The folder, created when something is first written. The file of a bundle is unpacked
            into a folder beside it, `<bundle>.d`, unless that was done before.
        data_root: Folder of public data sets' videos. By default LPX_DATA, or what `lpx.toml` says.
        face_store: Folder of faces prepared from these. By default LPX_FACE_STORE, or what
            `lpx.toml` says, or `lpx-faces`.
        allow_host_code: Load version-compatible TensorRT plans. They contain host code: only for a
            workspace from a source you trust.
        allow_factory: Import and call the factory that the workspace names to make its PyTorch
            model. Only for a workspace from a source you trust.
        rebuild: Whether `bench` and `predict` rebuild an engine that is named and does not run
            here, or one if none runs: "auto", "ask" (on the terminal) or "never".
        ray: The Ray cluster on which `prepare_faces`, `calibrate` and `bench` do their long work;
            None for this machine alone.
        reporter: Receives progress while a bundle is unpacked.

    Raises:
        InvalidArgumentError: `rebuild` has none of its values.
        LpxError: A bundle that is damaged, or cannot be unpacked beside itself.
    """
