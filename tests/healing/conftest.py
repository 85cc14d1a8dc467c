from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lpx
from lpx.artefacts.model import read_exported
from lpx.engines.base import Availability
from lpx.healing.host import Host
from lpx.healing.pick import Healer, HealingOptions
from tests.support.machines import PC
from tests.support.reporting import RecordingReporter

sys.path.insert(0, str(Path(__file__).parents[1] / "support" / "tensorrt"))


class Heard(RecordingReporter):
    """Knows whether a text was reported, and the labels of all progress bars."""

    def __init__(self):
        super().__init__()
        self.bars = []

    def progress(self, label):
        self.bars.append(label)
        return super().progress(label)

    def __contains__(self, text):
        return any(text in one for one in self.said)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def board(workspace):
    """The workspace of a bundle with an FP32 and an INT8 engine, in a new current folder."""
    workspace.pack("detector.lpx")
    lpx.unpack("detector.lpx", "board")
    return lpx.Workspace("board")


def fits_after(*old):
    """Says that engines do not fit as long as they have one of these manifests' versions."""

    def fits(manifest, machine, installed):
        if manifest.versions.get("lpx") in old:
            return Availability(False, f"built with lpx {manifest.versions['lpx']}")
        return Availability(True, "it fits")

    return fits


@pytest.fixture
def healer(heard):
    """A function that makes a healer of a workspace."""

    def make(workspace, *, rebuild="auto", allow_host_code=False, **host):
        options = HealingOptions(rebuild, allow_host_code)
        here = Host(**({"machine": PC} | host))
        return Healer(workspace, read_exported(workspace), options, heard, here)

    return make
