"""Agreement with ONNX Runtime's own calibrators, on the demo checkpoint and a few faces."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.models.checkpoint import load_checkpoint

FACES = 4
TENSORRT_BINS = 2048


@pytest.fixture(scope="module")
def observed(exported_demo):
    data = exported_demo.model.read_bytes()
    faces = demo_set("train").first(FACES)
    size = load_checkpoint(folder() / CHECKPOINT).card.input_size
    pixels = np.concatenate([batch.pixels for batch in faces.stream(FACES, size, [])])
    return data, pixels, calibrate(data, faces, size)


def peer(tmp_path, data, pixels, method, names, **options):
    """Ranges by ONNX Runtime, (low, high) per tensor."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(pixels)

        def get_next(self):
            face = next(self.rest, None)
            return None if face is None else {"faces": face[None]}

    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    calibrator = create_calibrator(
        path,
        ["Conv", "Clip", "Relu", "Add"],
        augmented_model_path=str(tmp_path / "more.onnx"),
        calibrate_method=CalibrationMethod[method],
        extra_options=options,
    )
    calibrator.collect_data(Reader())
    found = calibrator.compute_data()
    return {n: tuple(float(np.ravel(v)[0]) for v in found[n].range_value) for n in names}


def test_max_is_minmax(tmp_path, observed):
    data, pixels, scales = observed
    theirs = peer(tmp_path, data, pixels, "MinMax", scales.tensors)
    for name, own in scales.ranges("max").items():
        low, high = theirs[name]
        assert own.peak / 127 == pytest.approx(max(abs(low), abs(high)) / 127, rel=1e-6)
        assert (own.low, own.high) == pytest.approx((low, high), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("percent", [99.9, 99.99])
def test_percentile_is_within_a_bin(tmp_path, observed, percent):
    data, pixels, scales = observed
    theirs = peer(
        tmp_path,
        data,
        pixels,
        "Percentile",
        scales.tensors,
        percentile=percent,
        num_bins=TENSORRT_BINS,
        symmetric=True,
    )
    for name, tensor in scales.tensors.items():
        high = max(map(abs, theirs[name]))
        own = tensor.peaks[f"percentile-{percent}"]
        # Its bins are of equal width over [-max, max]; ours are 1/128 of the value at most.
        assert abs(own - high) <= 2 * tensor.peaks["max"] / TENSORRT_BINS + own / 128, name
