"""`--ray` on the command line, without a cluster."""

from __future__ import annotations

import pytest

from lpx import RayOptions
from lpx.cli.main import cli


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("data", "prepare", "--ray", "ffpp-c23"), "'--ray': must be auto, local, HOST:PORT"),
        (("data", "prepare", "--ray", "ffpp-c23"), "write --ray=auto"),
        (("calibrate", "--ray=here:"), "(got 'here:')"),
        (("calibrate", "--ray-cpus", 2), "--ray-cpus needs --ray"),
        (("bench", "--dataset", "demo", "--ray-memory", 2), "--ray-memory needs --ray"),
        (("calibrate", "--ray=local", "--ray-cpus", 0), "--ray-cpus must be >= 1 (got 0)"),
        (("calibrate", "--ray", "--ray-gpus", 1.5), "--ray-gpus must be whole if it is above 1"),
        (("calibrate", "--ray", "--ray-memory", -1), "--ray-memory must be >= 0"),
        (("calibrate", "--ray", "--shard", "0/2"), "--ray cannot be combined with --shard"),
        (("bench", "--dataset", "demo", "--shard", "0/2", "--ray"), "cannot be combined with"),
        (("data", "prepare", "dfdc", "--shard", "0/2", "--ray=local"), "cannot be combined with"),
        (("bench", "--streams", "demo", "--ray"), "--ray has no meaning"),
        (("remote", "board", "bench", "--dataset", "demo", "--ray"), "--ray cannot be used with"),
    ],
)
def test_mistakes(lpx, line, said):
    ran = lpx(*line)
    assert ran.code == 2, ran.err
    # click wraps its errors.
    assert said in " ".join(ran.err.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), None),
        (("--ray",), RayOptions("auto")),
        (("--ray", "--limit", "8"), RayOptions("auto")),
        (("--ray", "head:6379"), RayOptions("head:6379")),
        (
            ("--ray=local", "--ray-workers", "2", "--ray-cpus", "3", "--ray-gpus", "0.5"),
            RayOptions("local", workers=2, cpus=3, gpus=0.5),
        ),
        (("--ray", "--ray-memory", "1.5"), RayOptions(memory_gib=1.5)),
    ],
)
def test_options_reach_the_workspace(arguments, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    opened = []

    class OpenedError(Exception):
        pass

    def calibrate(self, *given, **options):
        opened.append(self.ray)
        raise OpenedError

    monkeypatch.setattr("lpx.api.workspace.Workspace.calibrate", calibrate)
    with pytest.raises(OpenedError):
        cli.main(["calibrate", *arguments], standalone_mode=False)
    assert opened == [expected]
