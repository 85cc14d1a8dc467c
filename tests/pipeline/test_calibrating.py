"""The order of calibration methods."""

from __future__ import annotations

from lpx.pipeline.calibrating import Evidence, best_first


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
