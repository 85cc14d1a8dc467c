"""The order of calibration methods, and calibration that is stopped or disturbed."""

from __future__ import annotations

import pytest

from lpx.api.ranges import PARTIAL
from lpx.bench.parity.method_ranking import Evidence, best_first
from lpx.calibration.scales import read_scales
from lpx.errors import LpxError
from tests.support.reporting import ActingReporter, RecordingReporter, StoppingReporter

COMPARING = "comparing calibration methods"


def evidence(method, error, loss=None, low=None, high=None):
    return Evidence(method, error, 2 * error, error, None if loss is None else 0.8, loss, low, high)


def order(*candidates):
    return [c.method for c in best_first(list(candidates))]


def test_a_lucky_gain_is_no_merit():
    """An engine that follows the float model has nothing to gain."""
    exact = evidence("exact", 0.002, 0.0, -0.003, 0.003)
    lucky = evidence("lucky", 0.05, -0.01, -0.02, -0.001)
    assert order(lucky, exact) == ["exact", "lucky"]


def test_a_gain_does_not_put_others_behind():
    """Their losses are measured from the float model, not from the luckiest method."""
    lucky = evidence("lucky", 0.0104, -0.01, -0.018, -0.002)
    exact = evidence("exact", 0.0020, 0.0005, -0.0004, 0.0014)
    middle = evidence("middle", 0.0050, 0.003, -0.001, 0.007)
    assert order(lucky, middle, exact) == ["exact", "middle", "lucky"]


def test_a_shown_loss_comes_last_however_small_the_error():
    losing = evidence("losing", 0.001, 0.01, 0.002, 0.018)
    worse = evidence("worse", 0.0005, 0.03, 0.02, 0.04)
    undecided = evidence("undecided", 0.04, 0.01, -0.001, 0.021)
    assert order(worse, losing, undecided) == ["undecided", "losing", "worse"]


def test_without_auc_the_error_decides():
    assert order(evidence("b", 0.2), evidence("a", 0.1)) == ["a", "b"]


def without_room_for_scales(workspace):
    """Put a folder in the place of the scales, so that they cannot be written."""
    workspace.scales.unlink()
    workspace.scales.mkdir()


def test_comparing_methods_is_resumed_without_observing_again(workspace, crops):
    """Comparing takes longer than observing: a kill there once meant to observe again."""
    with pytest.raises(KeyboardInterrupt):
        workspace.calibrate(crops, limit=6, reporter=StoppingReporter(COMPARING, 2))
    check_resumes_without_observing(workspace, crops)


def test_scales_that_could_not_be_written_need_no_second_observation(workspace, crops):
    without_room_for_scales(workspace)
    with pytest.raises(LpxError, match=r"scales\.json cannot be written"):
        workspace.calibrate(crops, limit=6)
    workspace.scales.rmdir()
    check_resumes_without_observing(workspace, crops)


def check_resumes_without_observing(workspace, crops):
    assert (workspace.root / PARTIAL).is_file()
    reporter = RecordingReporter()
    done = workspace.calibrate(crops, limit=6, reporter=reporter)
    # The end of the pass is reported; a batch that is observed is reported besides.
    label = f"calibrating on folder:{crops}"
    assert [steps for steps in reporter.steps if steps[0] == label] == [(label, 6, 6)]
    assert done.scales.faces.count == 6
    assert not (workspace.root / PARTIAL).exists()
    assert read_scales(workspace.scales).method == done.scales.method


def test_calibration_on_faces_that_changed_is_not_resumed(workspace, crops):
    without_room_for_scales(workspace)
    with pytest.raises(LpxError, match="cannot be written"):
        workspace.calibrate(crops, limit=6)
    workspace.scales.rmdir()
    for path in crops.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    reporter = RecordingReporter()
    workspace.calibrate(crops, limit=6, reporter=reporter)
    assert any("other faces, or some of them have changed" in text for text in reporter.said)


def test_faces_that_change_during_calibration_are_refused(workspace, crops):
    def change():
        path = crops / "real" / "0.png"
        path.write_bytes((crops / "fake" / "1.png").read_bytes())

    before = workspace.scales.read_bytes()
    reporter = ActingReporter(COMPARING, change)
    with pytest.raises(LpxError, match="changed during calibration"):
        workspace.calibrate(crops, limit=6, reporter=reporter)
    assert reporter.acted
    assert workspace.scales.read_bytes() == before
