"""Predicted latency of plans: the attribution of profiles, the fit, and its record."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lpx.bench.performance.latency import TimingLimits
from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import make_graph, placement_of
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.search.subject import open_subject
from lpx.search.timing.as_run import Key, Network
from lpx.search.timing.latency import LatencyModel
from lpx.search.timing.measure_latency import (
    FLOAT,
    TimingPlan,
    fit_costs,
    measure_costs,
    measured_plans,
)
from lpx.search.timing.profile import GraphProfile, profile_graphs
from tests.support.search_nets import NETS, SIZE, make_model

BATCH = 2
SHORT = TimingPlan(
    rounds=1,
    calls=2,
    seconds=0.02,
    limits=TimingLimits(
        warm_up_seconds=0.01, warm_up_most_seconds=0.02, min_iterations=2, block_seconds=0.01
    ),
)


@pytest.fixture(scope="module", params=list(NETS))
def subject(request):
    data = make_model(request.param)
    scales = calibrate(data, demo_set("train").first(4), SIZE)
    return open_subject(
        data, BuildRequest("onnxruntime", "int8", scales, DEFAULT_METHOD), "onnxruntime"
    )


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def latency(subject, faces):
    return measure_costs(subject, faces, SHORT)


@pytest.fixture(scope="module")
def plans(subject):
    """Those that are measured, and random ones."""
    generator = np.random.default_rng(0)
    names = [group.name for group in subject.groups]
    plans = measured_plans(subject)
    for number in range(6):
        chosen = generator.random(len(names)) < (number + 1) / 7
        plans[f"random {number}"] = tuple(np.array(names)[chosen])
    return plans


@pytest.fixture(scope="module")
def profiles(subject, plans, faces):
    graphs = {name: subject.lowered(int8) for name, int8 in plans.items()}
    return profile_graphs(graphs, faces, rounds=1, calls=1)


def run_of(subject, network, int8):
    placement = placement_of(subject.graph, "onnxruntime", "onnxruntime", plan=subject.plan(int8))
    return network.as_run(placement)


def test_the_graph_is_that_of_the_engine(subject, plans):
    for int8 in plans.values():
        request = subject.request
        if not int8:
            request = replace(request, precision="fp32")
        request = replace(request, plan=subject.plan(int8))
        assert subject.lowered(int8) == make_graph(subject.data, request, "onnxruntime").data


def test_all_time_belongs_to_a_layer_or_conversion_that_the_placement_explains(
    subject, plans, profiles
):
    """What runs in integers, and where tensors change type, is as ONNX Runtime's graph shows it."""
    network = Network(subject.graph)
    for name, int8 in plans.items():
        run = run_of(subject, network, int8)
        times = network.attribute(profiles[name])
        assert sum(times.values()) == pytest.approx(profiles[name].total_ms)
        kinds = {"layer": set(), "into": set(), "out": set()}
        for key in times:
            kinds[key.kind].add(key.name)
        assert kinds["layer"] <= set(network.layers), name
        assert kinds["into"] == set(run.into), name
        assert kinds["out"] == set(run.out), name
        convolutions = {n.name for n in subject.graph.graph if n.op_type == "Conv"}
        integer = network.integer_nodes(profiles[name])
        assert integer == convolutions & set(run.integer), name


def test_what_was_measured_is_predicted(subject, latency):
    names = [group.name for group in subject.groups]
    measured = {known.int8: known.ms for known in latency.costs.measured}
    assert latency.predict(()) == pytest.approx(measured[()])
    assert latency.predict(names) == pytest.approx(measured[tuple(names)])
    for known in latency.costs.measured:
        assert latency.predict(known.int8) == pytest.approx(known.predicted_ms)


def test_groups_and_the_rest_add_up(subject, latency):
    costs = latency.groups()
    assert [cost.name for cost in costs] == [*(group.name for group in subject.groups), ""]
    assert sum(cost.float_ms for cost in costs) == pytest.approx(latency.predict(()))
    run = run_of(subject, Network(subject.graph), [group.name for group in subject.groups])
    conversions = sum(latency.costs.into[name] for name in run.into)
    conversions += sum(latency.costs.out[name] for name in run.out)
    whole = sum(cost.int8_ms for cost in costs) + conversions / BATCH
    assert whole == pytest.approx(latency.predict([group.name for group in subject.groups]))


def test_other_plans_are_sums_of_what_the_measured_ones_show(subject, plans, profiles):
    """With times that are exact sums, predictions of plans that were not measured are exact."""
    network = Network(subject.graph)
    generator = np.random.default_rng(1)
    truth = {}
    for name in network.layers:
        truth["float", name], truth["int8", name] = generator.uniform(1, 2, 2)
    # In the float graph these are computed together with a convolution.
    for name in network.layers:
        if Key("layer", name) not in network.attribute(profiles[FLOAT]):
            truth["float", name] = 0.0
    # Two costs per element, so that those of tensors that no measured plan converts follow.
    for name, size in network.sizes.items():
        truth["into", name], truth["out", name] = 1e-4 * size, 3e-4 * size

    def total(int8):
        run = run_of(subject, network, int8)
        keys = [("int8", name) for name in run.integer] + [("float", name) for name in run.floats]
        keys += [("into", name) for name in run.into] + [("out", name) for name in run.out]
        return sum(truth[key] for key in keys)

    measured = measured_plans(subject)
    invented = {}
    for plan, int8 in measured.items():
        integer = set(run_of(subject, network, int8).integer)
        nodes, seen = [], set()
        for node in profiles[plan].nodes:
            # Alone, a node's time shows what it counts for.
            (key,) = (
                key for key, ms in network.attribute(only(profiles[plan], node)).items() if ms
            )
            kind = key.kind
            if kind == "layer":
                kind = "int8" if key.name in integer else "float"
            # The first node of a layer stands for all of it.
            nodes.append(replace(node, ms=0.0 if key in seen else truth[kind, key.name]))
            seen.add(key)
        invented[plan] = GraphProfile(tuple(nodes))
    walls = {plan: 0.8 * total(int8) for plan, int8 in measured.items()}
    model = fit_costs(subject, measured, invented, walls, batch=1, source="invented")
    for int8 in plans.values():
        assert model.predict(int8) == pytest.approx(0.8 * total(int8), rel=1e-6)


def only(profile, wanted):
    return GraphProfile(tuple(replace(n, ms=float(n is wanted)) for n in profile.nodes))


def test_costs_survive_json(subject, latency):
    again = LatencyModel.from_dict(subject, json.loads(json.dumps(latency.to_dict())))
    assert again.costs == latency.costs
    names = [group.name for group in subject.groups][::2]
    assert again.predict(names) == latency.predict(names)
    assert "ONNX Runtime" in again.source


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"layers": {}}, "no time for layer"),
        ({"into": {}}, "no time for tensor"),
        ({"format": 99}, "format 99"),
        ({"batch": 0}, "batch is 0"),
        ({"graph_sha256": "0" * 64}, "measured with another model"),
    ],
)
def test_damaged_costs_and_those_of_other_models_are_refused(subject, latency, damage, error):
    with pytest.raises(LpxError, match=error):
        LatencyModel.from_dict(subject, {**latency.to_dict(), **damage})


def test_unknown_groups_are_refused(subject, latency):
    for ask in (
        lambda: latency.predict(["Conv_99"]),
        lambda: subject.lowered(["Conv_99"]),
    ):
        with pytest.raises(LpxError, match="no group of layers called Conv_99"):
            ask()


def test_other_targets_are_refused(subject, faces):
    request = replace(subject.request, target="tensorrt")
    with pytest.raises(LpxError, match="plans for target tensorrt"):
        measure_costs(replace(subject, request=request), faces, SHORT)
