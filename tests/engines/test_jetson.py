"""Boards, from recorded trees: rails, thermal zones, conditions, and engines of another board."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lpx.engines import targets
from lpx.engines.conditions import changes, read_conditions
from lpx.engines.ina3221 import find_rails, whole_board
from lpx.engines.jetson import temperatures_c
from lpx.engines.machine import Gpu, Machine, read_machine
from lpx.engines.manifest import EngineManifest
from lpx.engines.negotiate import differences, refusal
from lpx.engines.targets import can_run

RECORDS = Path(__file__).parents[1] / "data" / "machines"


def plant(root: Path, record: str, **changed: str) -> Machine:
    """Write the recorded tree below `root`, and read the machine from it."""
    tree = json.loads((RECORDS / f"{record}.json").read_text())
    for name, text in tree["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    answers = tree["commands"] | changed

    def run(command):
        if command[0] not in answers:
            raise FileNotFoundError(command[0])
        return answers[command[0]]

    return read_machine(root, run)


@pytest.mark.parametrize(
    ("record", "rails", "board_power"),
    [
        ("orin_nano", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), ("VDD_IN",)),
        (
            "agx_orin",
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
        ),
        (
            "thor",
            ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
            ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        ),
        ("container", (), ()),
    ],
)
def test_rails_of_each_board(tmp_path, record, rails, board_power):
    jetson = plant(tmp_path, record).jetson
    assert jetson.rails == rails
    assert jetson.board_power == board_power
    assert bool(jetson.no_rails_reason) == (not rails)


def test_channels_without_power_are_left_out(tmp_path):
    """Not connected, the sum of shunts, and one whose current cannot be read."""
    plant(tmp_path, "orin_nano")
    monitor = next(tmp_path.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"))
    (monitor / "in7_input").write_text("5000\n")
    (monitor / "curr7_input").write_text("9999\n")
    (monitor / "in2_label").write_text("NC\n")
    (monitor / "curr3_input").unlink()
    (monitor / "update_interval").write_text("17\n")
    rails, reason = find_rails(tmp_path)
    assert ([rail.name for rail in rails], reason) == (["VDD_IN"], "")
    assert rails[0].interval_ms == 17
    (monitor / "in1_label").write_text("NC\n")
    assert find_rails(tmp_path) == ((), "the INA3221 shows no channel that is connected and "
                                    "readable")  # fmt: skip


def test_total_is_the_boards_input_where_measured(tmp_path):
    plant(tmp_path, "orin_nano")
    rails, _ = find_rails(tmp_path)
    assert [rail.name for rail in whole_board(rails)] == ["VDD_IN"]
    assert whole_board(rails[1:]) == rails[1:]


def test_zone_that_is_switched_off_has_no_temperature(tmp_path):
    jetson = plant(tmp_path, "orin_nano").jetson
    assert jetson.thermal_zones == ("cpu-thermal", "gpu-thermal", "tj-thermal")
    assert temperatures_c(tmp_path)["gpu-thermal"] == 46.875


def manifest(machine: Machine, target="tensorrt"):
    return EngineManifest(
        name=f"{target}-int8", target=target, precision="int8", dialect="", file="",
        engine_sha256="", model_sha256="", card={},
        machine=json.loads(json.dumps(asdict(machine))),
    )  # fmt: skip


def test_power_mode_goes_into_the_manifest_and_another_one_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "available", lambda flavour: (True, "TensorRT 10.3.0"))
    built = plant(tmp_path, "orin_nano")
    assert manifest(built).machine["jetson"]["power_mode"] == "15W"
    assert differences(manifest(built), built) == ()
    here = plant(tmp_path, "orin_nano", nvpmodel="NV Power Mode: MAXN_SUPER\n2\n")
    (difference,) = differences(manifest(built), here)
    assert "built in power mode 15W, here it is MAXN_SUPER" in difference
    assert "`lpx build --int8 --target tensorrt`" in difference
    usable, reason = can_run(manifest(built), here)
    assert usable, "another power mode is no reason to refuse"
    assert difference in reason
    assert differences(manifest(built, "onnxruntime"), here) == ()


def test_unknown_power_mode_is_not_called_another(tmp_path):
    built = plant(tmp_path, "orin_nano")
    boxed = replace(built.jetson, power_mode="unknown (nvpmodel not found)")
    assert differences(manifest(built), replace(built, jetson=boxed)) == ()


def test_plan_of_another_board_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "available", lambda flavour: (True, "TensorRT 10.13.3"))
    built = plant(tmp_path / "orin", "orin_nano")
    here = plant(tmp_path / "thor", "thor")
    assert refusal(manifest(built), built) == ""
    usable, reason = can_run(manifest(built), here)
    assert not usable
    assert reason.startswith("built for compute capability 8.7, here is 11.0; build it again here")


@pytest.mark.parametrize(
    ("built", "library", "refused"),
    [
        ("10.3.0", "tensorrt 10.3.0", False),
        ("10.3.0", "tensorrt 10.3.0.26", False),
        ("10.3.0", "tensorrt 10.13.3", True),
        ("10.3.0", "", False),
        ("", "tensorrt 10.13.3", False),
    ],
)
def test_plan_of_another_release_is_refused(tmp_path, built, library, refused):
    machine = plant(tmp_path, "orin_nano")
    plan = replace(manifest(machine), versions={"tensorrt": built} if built else {})
    reason = refusal(plan, machine, library)
    assert bool(reason) == refused
    if refused:
        assert reason.startswith(f"built by TensorRT {built}, here is 10.13.3; build it again here")
        assert refusal(plan, machine, library, version_compatible=True) == ""
    rtx = replace(plan, target="tensorrt-rtx", compute_capabilities=("8.7",))
    assert refusal(rtx, machine, library) == "", "TensorRT for RTX decides by itself"


def test_hardware_compatible_plan_is_not_refused(tmp_path):
    built, here = plant(tmp_path / "a", "orin_nano"), plant(tmp_path / "b", "thor")
    assert refusal(manifest(built), here, hardware_compatible=True) == ""


def test_another_gpu_of_the_same_capability_is_said(tmp_path):
    board = plant(tmp_path, "orin_nano")
    h100, h200 = (
        replace(board, jetson=None, gpus=(Gpu(f"NVIDIA {name}", "9.0", 80_000, "580"),))
        for name in ("H100", "H200")
    )
    assert refusal(manifest(h100), h200) == ""
    (difference,) = differences(manifest(h100), h200)
    assert "was built on NVIDIA H100, here it is NVIDIA H200" in difference
    assert differences(manifest(h100), h100) == ()
    assert differences(manifest(h100), replace(h100, gpus=h200.gpus + h100.gpus)) == ()


def test_conditions_of_a_board(tmp_path):
    plant(tmp_path, "orin_nano")
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq"
    gpu.write_text("612000000\n")
    for cpu, clock in enumerate((729600, 1728000)):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
        path.write_text(f"{clock}\n")
    before = read_conditions(tmp_path, lambda command: "NV Power Mode: 15W\n0\n")
    assert before.gpu_mhz == 612.0
    assert before.cpu_mhz == pytest.approx(1228.8)
    assert before.power_mode == "15W"
    assert before.temperatures_c["cpu-thermal"] == pytest.approx(48.218)
    before = replace(before, load_per_core=0.0)
    assert changes(before, before) == ()
    gpu.write_text("306000000\n")
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").write_text("71000\n")
    after = read_conditions(tmp_path, lambda command: "NV Power Mode: 7W\n0\n")
    assert changes(before, replace(after, throttle_reasons=("heat (hardware)",))) == (
        "the GPU's clock went from 612 to 306 MHz",
        "gpu-thermal warmed from 47 to 71 degrees Celsius",
        "the power mode went from 15W to 7W",
        "the GPU's clock is held back: heat (hardware)",
    )
    assert "load 0.9" in changes(replace(before, load_per_core=0.9), before)[0]


def test_conditions_where_nothing_can_be_read(tmp_path):
    found = read_conditions(tmp_path)
    assert (found.cpu_mhz, found.gpu_mhz, found.temperatures_c) == (None, None, {})
    assert (found.throttle_reasons, found.power_mode) == ((), "")
