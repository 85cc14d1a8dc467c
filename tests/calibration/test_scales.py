from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lpx.calibration.methods import METHODS
from lpx.calibration.scales import CalibrationFaces, Scales, TensorScale, load_scales, save_scales
from lpx.errors import LpxError
from lpx.graph.qdq.insert_qdq import Range
from lpx.workspace import read_sealed, write_sealed

PEAKS = {
    "max": 4.0,
    "percentile-99.999": 3.0,
    "percentile-99.99": 2.0,
    "percentile-99.9": 1.0,
    "mse": 3.5,
    "entropy": 2.5,
}
SCALES = Scales(
    model_sha256="a" * 64,
    faces=CalibrationFaces(
        name="folder:faces",
        split="all",
        count=3,
        digest="b" * 64,
        identities=("Ada", "Bo"),
        videos=("a", "b"),
    ),
    warning="of three faces only",
    tensors={
        "relu": TensorScale(0.0, 4.0, 100, PEAKS, (0.5, 1.5)),
        "conv": TensorScale(-4.0, 2.5, 100, PEAKS, (-0.5,)),
    },
)


@pytest.fixture
def path(tmp_path):
    save_scales(tmp_path / "scales.json", SCALES)
    return tmp_path / "scales.json"


def test_round_trip(path):
    assert load_scales(path, "a" * 64) == SCALES


def test_the_format_before_is_read(path):
    """It also held the times of the pass."""
    values = json.loads(path.read_text())
    del values["checksum"]
    write_sealed(path, {**values, "format": "lpx-scales/2", "seconds": 0.5, "pass_seconds": 0.25})
    assert load_scales(path, "a" * 64) == SCALES


def test_ranges_clip_what_lies_outside_the_peak():
    assert SCALES.ranges("max")["conv"] == Range(-4.0, 2.5, (-0.5,))
    assert SCALES.ranges("percentile-99.999")["conv"] == Range(-3.0, 2.5, (-0.5,))
    assert SCALES.ranges("percentile-99.9")["conv"] == Range(-1.0, 1.0, (-0.5,))
    for method in METHODS:
        assert SCALES.ranges(method)["relu"] == Range(0.0, PEAKS[method], (0.5, 1.5))


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(LpxError, match="unknown calibration method 'kurtosis'") as caught:
        SCALES.ranges("kurtosis")
    assert caught.value.why == f"known methods: {', '.join(METHODS)}"
    assert "`method`" in caught.value.fix


def test_another_model(path):
    with pytest.raises(LpxError, match="was calibrated on another model") as caught:
        load_scales(path, "c" * 64)
    assert "aaaaaaaaaaaa" in caught.value.why
    assert "`lpx calibrate`" in caught.value.fix
    assert "`lpx build --int8" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(format="lpx-scales/0"), "has another format"),
        (lambda values: values.pop("tensors"), "is damaged"),
        (lambda values: values.pop("identities"), "is damaged"),
        (lambda values: values.pop("model_sha256"), "is damaged"),
        (lambda values: values["tensors"]["relu"].pop("means"), "is damaged"),
        (lambda values: values["tensors"]["relu"].update(more=1), "is damaged"),
        (lambda values: values.update(tensors=[]), "is damaged"),
        (lambda values: values.update(tensors=None), "is damaged"),
        (lambda values: values.update(method="kurtosis"), "is damaged"),
        (lambda values: values.update(face_count=-1), "is damaged"),
        (lambda values: values.update(face_count=True), "is damaged"),
        (lambda values: values.update(identities="Ada"), "is damaged"),
        (lambda values: values.update(more=1), "is damaged"),
        (lambda values: values["tensors"]["relu"].update(low=5.0), "is damaged"),
        (lambda values: values["tensors"]["relu"].update(high="4"), "is damaged"),
        (lambda values: values["tensors"]["relu"].update(count=1.5), "is damaged"),
        (lambda values: values["tensors"]["relu"].update(means=[None]), "is damaged"),
        (lambda values: values["tensors"]["relu"]["peaks"].update(max=-1.0), "is damaged"),
        (lambda values: values["tensors"]["relu"]["peaks"].update(max=None), "is damaged"),
        (lambda values: values["tensors"]["relu"]["peaks"].pop("mse"), "is damaged"),
    ],
)
def test_damage(path, change, said):
    values = read_sealed(path, "")
    change(values)
    write_sealed(path, values)
    with pytest.raises(LpxError, match=said):
        load_scales(path, "a" * 64)


def test_ranges_that_are_not_finite_are_not_written(tmp_path):
    broken = replace(SCALES, tensors={"x": TensorScale(0.0, float("inf"), 1, PEAKS, (0.0,))})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_scales(tmp_path / "scales.json", broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 400])
def test_numbers_that_are_not_finite_are_not_read(path, number):
    path.write_text(path.read_text().replace("4.0", number))
    with pytest.raises(LpxError, match="cannot be read"):
        load_scales(path, "a" * 64)
