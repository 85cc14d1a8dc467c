"""The order of calibration methods."""

from __future__ import annotations

import pytest

from lpx.api import calibrate as calibrate_api
from lpx.api.ranges import PARTIAL
from lpx.bench.parity.method_ranking import Evidence, MethodRanking, best_first
from lpx.calibration.observed_model import ObservedModel
from lpx.calibration.scales import read_scales
from lpx.errors import LpxError
from lpx.reporter import Silent


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


@pytest.mark.parametrize("where", ["rank", "save_scales"])
def test_what_is_stopped_before_the_result_is_written_does_not_observe_again(
    workspace, crops, monkeypatch, where
):
    """Judging takes longer than observing: a kill there once began from nothing."""
    place = MethodRanking if where == "rank" else calibrate_api

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, where, stop)
        with pytest.raises(KeyboardInterrupt):
            workspace.calibrate(str(crops), limit=6)
    assert (workspace.root / PARTIAL).is_file()

    def run(self, *arguments):
        raise AssertionError("faces are observed again")

    monkeypatch.setattr(ObservedModel, "run_all", run)
    done = workspace.calibrate(str(crops), limit=6)
    assert done.scales.face_count == 6
    assert not (workspace.root / PARTIAL).exists()
    assert read_scales(workspace.scales).method == done.scales.method


def test_progress_of_faces_that_changed_is_not_gone_on_with(workspace, crops, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(calibrate_api, "save_scales", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workspace.calibrate(str(crops), limit=6)
    for path in crops.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    said = []
    monkeypatch.setattr(Silent, "say", lambda self, text: said.append(text))
    workspace.calibrate(str(crops), limit=6)
    assert any("it is of other faces, or some of them have changed" in text for text in said)


def test_faces_that_change_while_they_are_calibrated_on(workspace, crops, monkeypatch):
    rank = MethodRanking.rank

    def change(self, *arguments):
        path = crops / "real" / "0.png"
        path.write_bytes((crops / "fake" / "1.png").read_bytes())
        return rank(self, *arguments)

    monkeypatch.setattr(MethodRanking, "rank", change)
    before = workspace.scales.read_bytes()
    with pytest.raises(LpxError, match="changed during calibration"):
        workspace.calibrate(str(crops), limit=6)
    assert workspace.scales.read_bytes() == before
