"""Calibrate and measure on faces of your own.

    python examples/own_faces.py CHECKPOINT CALIBRATION_FACES TEST_FACES [WORKSPACE]

Both folders have face crops in real/ and fake/. They must not share faces: lpx refuses to measure
an engine on faces that it was calibrated on.
"""

from __future__ import annotations

import sys

import lpx


class Log:
    """A reporter that prints notes and warnings, and ignores progress."""

    def say(self, text: str) -> None:
        print(text)

    def warn(self, text: str) -> None:
        print(f"warning: {text}")

    def progress(self, label: str) -> lpx.Progress:
        return lambda done, total: None


def main(checkpoint: str, calibration: str, test: str, folder: str = "own-faces") -> None:
    work = lpx.Workspace(folder)
    work.export(checkpoint, reporter=Log())
    # Rank the calibration methods on held-out faces of the calibration set.
    result = work.calibrate(calibration, reporter=Log())
    for evidence in result.candidates:
        print(f"{evidence.method:20} mean |ds| {evidence.score_error_mean:.5f}")
    # The build uses the ranges and the method found above.
    work.build(("fp32", "int8"), target="onnxruntime", reporter=Log())
    report = work.bench(test, costs=lpx.CostPlan(batches=(1,), latency_seconds=0.5))
    for candidate in report.candidates:
        difference = candidate.auc_difference
        print(f"{candidate.name}: {candidate.verdict}, at least {difference.low:+.4f} of AUC")
    print(f"report: {report.html_path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
