from __future__ import annotations

import threading
import time
from contextlib import closing, nullcontext
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from lpx.bench.performance.latency import Samples
from lpx.bench.performance.single_patch import open_single_patch
from lpx.bench.performance.throughput import measure_throughput
from lpx.bench.performance.trtexec_metrics import like_trtexec
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.torch import TorchEngine
from lpx.errors import LpxError
from lpx.export.to_onnx import to_onnx
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

FACES = np.zeros((4, 8, 8, 3), np.uint8)


class Device:
    """An engine that works elsewhere for 20 ms, and leaves the CPU alone meanwhile."""

    def __init__(self):
        self.threads = set()
        self.closed = False

    def infer(self, faces):
        self.threads.add(threading.get_ident())
        time.sleep(0.02)

    def close(self):
        self.closed = True


def test_two_batches_in_flight_score_twice_as_many():
    made = []

    def open_engine():
        made.append(Device())
        return closing(made[-1])

    one = measure_throughput(open_engine, FACES, 1, 0.5)
    two = measure_throughput(open_engine, FACES, 2, 0.5)
    assert one.faces_per_second == pytest.approx(4 * one.calls / one.seconds)
    assert one.faces_per_second <= 4 / 0.02
    assert two.faces_per_second / one.faces_per_second == pytest.approx(2.0, rel=0.2)
    assert len(made) == 3
    assert all(engine.closed for engine in made)
    assert all(len(engine.threads) == 1 for engine in made), "an engine stays in its thread"


def test_one_engine_may_serve_all_threads():
    shared = Device()
    measure_throughput(lambda: nullcontext(shared), FACES, 3, 0.1)
    assert len(shared.threads) == 3
    assert not shared.closed


@pytest.mark.parametrize("after", [0, 1, 8])
def test_failure_of_one_thread_ends_all(after):
    lock, calls = threading.Lock(), []

    class Failing(Device):
        def infer(self, faces):
            super().infer(faces)
            with lock:
                calls.append(1)
                if len(calls) == after + 1:
                    raise LpxError("CUDA is lost")

    before = threading.active_count()
    with pytest.raises(LpxError, match="CUDA is lost"):
        measure_throughput(lambda: nullcontext(Failing()), FACES, 2, 5.0)
    assert threading.active_count() == before


def test_interrupt_ends_the_threads():
    def interrupted(seconds):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        measure_throughput(lambda: nullcontext(Device()), FACES, 2, 5.0, sleep=interrupted)
    assert threading.active_count() == before


def timed_samples():
    parts = {
        "h2d_ms": np.full(10, 1.0),
        "compute_ms": np.arange(1.0, 11.0),
        "d2h_ms": np.full(10, 0.5),
        "enqueue_ms": np.full(10, 0.1),
    }
    return Samples(np.full(10, 400.0), np.zeros(10, np.int64), parts)


def test_trtexec_10_counts_transfers_and_11_does_not():
    """By hand: p90 = sorted[10 - 1 - int(0.1 * 10)] = the ninth of ten; the median is a mean."""
    ten, eleven = like_trtexec(timed_samples(), 10), like_trtexec(timed_samples(), 11)
    assert (ten.latency.p90_ms, ten.latency.median_ms, ten.latency.max_ms) == (10.5, 7.0, 11.5)
    assert (eleven.latency.p90_ms, eleven.latency.median_ms) == (9.0, 5.5)
    assert (ten.transfers, ten.cuda_graph) == (True, False)
    assert (eleven.transfers, eleven.cuda_graph) == (False, True)
    assert ten.compute == eleven.compute == eleven.latency
    assert ten.enqueue.mean_ms == pytest.approx(0.1)
    assert ten.throughput_qps == pytest.approx(10 / 4.0)
    assert len(ten.notes) == 1


def test_trtexec_of_an_engine_without_a_device_clock_says_so():
    plain = Samples(np.full(10, 2.0), np.zeros(10, np.int64))
    found = like_trtexec(plain, 11)
    assert found.latency.median_ms == 2.0
    assert found.compute is None
    assert found.enqueue is None
    assert any("wall time" in note for note in found.notes)
    assert any("measured for 0.0 s" in note for note in found.notes)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    module, card = new_detector("mobilenet_v2", "features.3", input_size=64)
    return Detector(module.eval(), card)


@pytest.fixture(scope="module")
def model(detector):
    return to_onnx(detector)


def test_single_patch_is_the_unit_in_the_middle(detector, model):
    """Weights at the size of the receptive field give what the whole face's unit gives."""
    card = detector.card
    made = open_single_patch(model, card)
    assert made.size == card.receptive_field < 64
    crop = np.random.default_rng(0).integers(0, 256, (1, made.size, made.size, 3), np.uint8)
    small = Detector(detector.module, replace(card, input_size=made.size))
    truth = TorchEngine(small).infer(crop)
    found = made.engine.infer(crop)
    assert made.grid == found.patch_map.shape[1:]
    np.testing.assert_allclose(found.patch_map, truth.patch_map, atol=1e-5)
    np.testing.assert_allclose(found.score, truth.score, atol=1e-5)
    # And it is far less work than the face.
    assert made.grid[0] * made.grid[1] < card.grid[0] * card.grid[1]


def test_single_patch_of_a_network_without_one_is_refused(detector, model):
    for card in (
        replace(detector.card, receptive_field=None),
        replace(detector.card, receptive_field=64),
        replace(detector.card, strictly_local=False),
    ):
        with pytest.raises(LpxError, match="time of a single patch cannot be measured"):
            open_single_patch(model, card)


def test_graph_that_is_bound_to_its_size_is_refused(detector, model):
    bound = onnx.load_from_string(model)
    maps = next(node for node in bound.graph.node if "patch_map" in node.output)
    maps.output[0] = "before"
    bound.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([-1, *detector.card.grid], np.int64), "fixed")
    )
    bound.graph.node.append(onnx.helper.make_node("Reshape", ["before", "fixed"], ["patch_map"]))
    data = bound.SerializeToString()
    OnnxRuntimeEngine(data, 64).infer(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(LpxError, match="does not run on a crop"):
        open_single_patch(data, detector.card)
