"""The demo checkpoint with a channel that is 64 times as large, and otherwise the same detector."""

from __future__ import annotations

from pathlib import Path

from lpx.data.face_sets.demo import CHECKPOINT, folder

FACTOR = 64.0
BEFORE = "blocks.0.0.conv_pw"
BEHIND = "blocks.1.0.conv_pw"


def write_outlier(path: Path) -> Path:
    """Write the checkpoint; between the two layers nothing but the scale of a channel changes."""
    from lpx.models.checkpoint import load_checkpoint, save_checkpoint

    detector = load_checkpoint(folder() / CHECKPOINT)
    state = detector.module.state_dict()
    # The batch norm of a layer without activation, and the only layer that reads it.
    for name in ("weight", "bias"):
        state[f"backbone.blocks.0.0.bn2.{name}"][0] *= FACTOR
    state[f"backbone.{BEHIND}.weight"][:, 0] /= FACTOR
    detector.module.load_state_dict(state)
    save_checkpoint(path, detector.module, detector.card)
    return path
