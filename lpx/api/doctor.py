"""Examination of a machine: what lpx can build and run there, and how to get what is missing."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal, NamedTuple

from lpx.calibration.tally import compiled
from lpx.engines.rtx_gpus import rtx_provider_serves, rtx_serves
from lpx.extras import is_installed
from lpx.machine.ina3221 import covered
from lpx.machine.jetson import Jetson, cuda_python_for, faster_mode, newest_cuda
from lpx.machine.machine import Gpu, Machine

Status = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Finding:
    """One row of the examination.

    Attributes:
        name: Name of the component.
        status: "ok", "missing" (absent or unusable), or "warning" (usable, but read the advice).
        found: Version or value found, or "".
        enables: Use that lpx makes of it.
        advice: How to install or repair it, or "".
    """

    name: str
    status: Status
    found: str
    enables: str
    advice: str = ""


@dataclass(frozen=True)
class Target:
    """Whether engines of a target can be built and run here, and the reason if not."""

    build: bool
    run: bool
    reason: str = ""


_ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime")
# Four distributions of one module, any of which will do.
_OPENCV = (
    *("opencv-python-headless", "opencv-python"),
    *("opencv-contrib-python-headless", "opencv-contrib-python"),
)
_TENSORRT = ("tensorrt", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
_LEAN_MODULES = ("tensorrt_lean", "tensorrt_lean_bindings")
_LEAN = ("tensorrt-lean", "tensorrt-lean-cu13-bindings", "tensorrt-lean-cu12-bindings")
_RTX_PROVIDER = "RTX provider"
_RTX_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
_RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
# First driver branch that runs CUDA 13.
_CUDA_13_DRIVER = 580
# Modules of cuda-python from 12.6 on, and before.
_CUDA_MODULES = ("cuda.bindings.driver", "cuda.cudart")
_OLD_JETPACK = {
    "4": "its TensorRT 8.2 is too old for lpx's engines, and newer ones do not run on it",
    "5": "its TensorRT is for Python 3.8, too old for lpx: build from the ONNX with trtexec",
}


class Installation:
    """The Python packages that can be imported here."""

    def version(self, distribution: str) -> str:
        """Return the version in a package's metadata, or "" if it is not installed."""
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return ""

    def requirements(self) -> list[str]:
        """Return what lpx requires, such as "torch>=2.8", from its own metadata."""
        try:
            return metadata.requires("lpx") or []
        except metadata.PackageNotFoundError:
            return []

    def importable(self, module: str) -> bool:
        """Return whether a module can be found; a plain folder of that name does not count."""
        return is_installed(module)

    def load(self, module: str) -> Any:
        """Import a module.

        Raises:
            Exception: A broken wheel raises anything.
        """
        return importlib.import_module(module)

    def has_kernel(self) -> bool:
        """Return whether lpx was installed with its C kernel."""
        return compiled() is not None


INSTALLATION = Installation()


def examine(machine: Machine, packages: Installation = INSTALLATION) -> tuple[Finding, ...]:
    """Examine everything that lpx can use. Never raises.

    Versions come from package metadata. Only ONNX Runtime is imported, for its list of execution
    providers, and TensorRT if it has no metadata.

    Args:
        machine: The machine.
        packages: The packages installed on it.
    """

    def package(
        name: str, distributions: tuple[str, ...], module: str, enables: str, install: str = ""
    ) -> Finding:
        return _package(packages, name, distributions, module, enables, install)

    return (
        _python(machine),
        _torch(machine, packages),
        package("onnx", ("onnx",), "onnx", "export and graph passes"),
        package("onnxsim", ("onnxsim",), "onnxsim", "simplifies exported graphs", '"lpx[export]"'),
        _onnxruntime(machine, packages),
        package("OpenCV", _OPENCV, "cv2", "decodes faces and video"),
        _kernel(packages),
        _gpu(machine),
        *_jetson(machine),
        _tensorrt(machine, packages),
        *_tensorrt_lean(packages),
        _tensorrt_rtx(packages),
        _rtx_provider(packages),
        _cuda_bindings(machine, packages),
        package("lightning", ("lightning",), "lightning", "training", '"lpx[train]"'),
        package("ray", ("ray",), "ray", "work spread over a cluster", '"lpx[cluster]"'),
    )


def targets(machine: Machine, findings: tuple[Finding, ...]) -> dict[str, Target]:
    """Find out for each target whether its engines can be built and run here.

    Args:
        machine: The machine that was examined.
        findings: Result of `examine` for it.
    """
    present = {finding.name for finding in findings if finding.status != "missing"}

    def lacking(*names: str) -> list[str]:
        return [f"no {name}" for name in names if name not in present]

    def target(build: list[str], run: list[str]) -> Target:
        return Target(not build, not build and not run, ", ".join(build + run))

    unfit, not_served = [], []
    for gpu in machine.gpus:
        capability = gpu.compute_capability
        # A GPU whose compute capability is unknown counts as not supported.
        if capability is None or not rtx_serves(capability):
            unfit.append(f"{gpu.name} is not an RTX GPU")
        if capability is None or not rtx_provider_serves(capability):
            not_served.append(f"{gpu.name} is not served")
    no_gpu_fits = len(not_served) == len(machine.gpus)
    no_gpu = lacking("NVIDIA GPU")
    # One GPU that fits is enough: those that do not are listed only if none does.
    rtx = lacking("NVIDIA GPU", "CUDA bindings") + unfit * (len(unfit) == len(machine.gpus))
    return {
        "torch": target(lacking("torch"), []),
        "onnxruntime": target(lacking("onnx", "onnxruntime"), []),
        "onnxruntime-cuda": target(_lacking_provider("CUDA", findings) + no_gpu, []),
        # onnxruntime-gpu always lists this provider; what loads it is TensorRT's own library.
        "onnxruntime-tensorrt": target(
            _lacking_provider("Tensorrt", findings) + lacking("TensorRT") + no_gpu, []
        ),
        "onnxruntime-tensorrt-rtx": target(
            lacking("onnx", "onnxruntime", _RTX_PROVIDER), no_gpu + not_served * no_gpu_fits
        ),
        "tensorrt-rtx": target(lacking("onnx", "TensorRT-RTX"), rtx),
        "tensorrt": target(lacking("onnx", "TensorRT", "NVIDIA GPU"), lacking("CUDA bindings")),
    }


def _lacking_provider(name: str, findings: tuple[Finding, ...]) -> list[str]:
    """List the reason why a provider of ONNX Runtime cannot be used; empty if it can."""
    listed: list[str] = []
    for finding in findings:
        if finding.name == "onnxruntime" and finding.status != "missing":
            listed += re.findall(r"\w+", finding.found)
    if name in listed:
        return []
    return [f"onnxruntime has no {name} provider"]


def _versions(packages: Installation, distributions: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those distributions that are installed, by name."""
    versions = {}
    for name in distributions:
        version = packages.version(name)
        if version:
            versions[name] = version
    return versions


def _first_importable(packages: Installation, modules: tuple[str, ...]) -> str | None:
    return next(filter(packages.importable, modules), None)


def _numbers(version: str) -> tuple[int, ...]:
    # The local part, as in 2.8.0+cu126, has digits that are not part of the release.
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _minimum(packages: Installation, distribution: str) -> str:
    """Return the lowest version that lpx requires, or ""."""
    for line in packages.requirements():
        if match := re.match(rf"{re.escape(distribution)}\s*>=\s*([\d.]+)", line):
            return match[1]
    return ""


def _package(
    packages: Installation,
    name: str,
    distributions: tuple[str, ...],
    module: str,
    enables: str,
    install: str = "",
) -> Finding:
    if not packages.importable(module):
        return Finding(name, "missing", "", enables, f"pip install {install or distributions[0]}")
    distribution, version = next(
        iter(_versions(packages, distributions).items()), ("", "no version recorded")
    )
    finding = Finding(name, "ok", version, enables)
    minimum = _minimum(packages, distribution) if distribution else ""
    if minimum and _numbers(version) < _numbers(minimum):
        advice = f'lpx needs {minimum} or later: pip install "{distribution}>={minimum}"'
        return replace(finding, status="warning", advice=advice)
    return finding


def _python(machine: Machine) -> Finding:
    finding = Finding("Python", "ok", machine.python, "lpx itself")
    if _numbers(machine.python) < (3, 10):
        return replace(finding, status="warning", advice="lpx needs Python 3.10 or later")
    return finding


def _torch(machine: Machine, packages: Installation) -> Finding:
    enables = "models and export; the reference engines are compared with"
    finding = _package(packages, "torch", ("torch",), "torch", enables, '"lpx[export]"')
    if finding.status == "ok" and finding.found.endswith("+cpu") and machine.gpus:
        advice = "a CPU build on a machine with a GPU: the reference runs, but slowly"
        return replace(finding, status="warning", advice=advice)
    return finding


def _onnxruntime(machine: Machine, packages: Installation) -> Finding:
    enables = "calibration; onnxruntime engines on the CPU, or CUDA"
    finding = _package(packages, "onnxruntime", _ONNXRUNTIME, "onnxruntime", enables, "onnxruntime")
    if finding.status == "missing":
        return finding
    try:
        providers = packages.load("onnxruntime").get_available_providers()
    except Exception as error:  # a broken wheel raises anything
        return replace(finding, status="missing", advice=f"does not import: {error}")
    # Azure's provider calls a remote service, not this machine.
    names = []
    for name in providers:
        if "Azure" not in name:
            names.append(name.removesuffix("ExecutionProvider"))
    finding = replace(finding, found=f"{finding.found} ({', '.join(names)})")
    if len(_versions(packages, _ONNXRUNTIME)) > 1:
        advice = "onnxruntime and onnxruntime-gpu overwrite each other: uninstall both, install one"
        return replace(finding, status="warning", advice=advice)
    if finding.status == "ok" and machine.gpus and not machine.jetson and "CUDA" not in names:
        return replace(finding, advice="for CUDA: replace onnxruntime by onnxruntime-gpu")
    return finding


def _kernel(packages: Installation) -> Finding:
    finding = Finding("C kernel", "ok", "compiled", "calibration at full speed")
    if not packages.has_kernel():
        advice = (
            "calibration takes 1.5 to 2 times as long: install a C compiler (sudo apt install gcc),"
            " then lpx again"
        )
        return replace(finding, status="missing", found="", advice=advice)
    return finding


def _gpu(machine: Machine) -> Finding:
    enables = "tensorrt engines; latency and energy on the GPU"
    if not machine.gpus:
        return Finding("NVIDIA GPU", "missing", "", enables, machine.no_gpu_reason)
    return Finding("NVIDIA GPU", "ok", "; ".join(map(_describe, machine.gpus)), enables)


def _describe(gpu: Gpu) -> str:
    capability = gpu.compute_capability and f"compute capability {gpu.compute_capability}"
    memory = f"{gpu.memory_mib} MiB" if gpu.memory_mib else "memory shared with the CPU"
    driver = gpu.driver_version and f"driver {gpu.driver_version}"
    return ", ".join(filter(None, (gpu.name, capability, memory, driver)))


def _jetson(machine: Machine) -> tuple[Finding, ...]:
    jetson = machine.jetson
    if jetson is None:
        return ()
    jetpack = Finding("JetPack", "ok", f"{jetson.jetpack}, L4T {jetson.l4t}", "brings TensorRT")
    if old := _OLD_JETPACK.get(jetson.jetpack.split(".")[0]):
        jetpack = replace(jetpack, status="warning", advice=old)
    elif machine.in_container:
        advice = "read in a container: this may be the image's release, not the board's"
        jetpack = replace(jetpack, advice=advice)
    return jetpack, _power_mode(jetson), _clocks(jetson), _rails(jetson), _thermal_zones(jetson)


def _power_mode(jetson: Jetson) -> Finding:
    power = Finding(
        "power mode", "ok", jetson.power_mode, "engines and timings are valid for one mode"
    )
    if jetson.power_mode.startswith("unknown"):
        return replace(power, status="warning", advice="on the board itself: sudo nvpmodel -q")
    ship = "not the fastest: bench in the mode you will ship in; for full speed"
    if faster := faster_mode(jetson):
        number = jetson.power_modes[faster]
        advice = f"{ship} ({faster}): sudo nvpmodel -m {number}, and build again"
        return replace(power, advice=advice)
    if not jetson.power_modes and not jetson.power_mode.startswith("MAXN"):
        advice = f"{ship} see the modes in /etc/nvpmodel.conf, then sudo nvpmodel -m N"
        return replace(power, advice=f"perhaps {advice}, and build again")
    return power


def _clocks(jetson: Jetson) -> Finding:
    locked = {True: "locked", False: "not locked", None: "unknown (sysfs does not show them)"}
    clocks = Finding("clocks", "ok", locked[jetson.clocks_locked], "steady timings")
    if not jetson.clocks_locked:
        return replace(clocks, status="warning", advice="before a bench: sudo jetson_clocks")
    return clocks


def _rails(jetson: Jetson) -> Finding:
    """Examine the power rails, from which energy is measured."""
    enables = "energy per face and per patch"
    if not jetson.rails:
        return Finding("power rails", "missing", "", enables, jetson.no_rails_reason)
    within = len(jetson.rails) - len(jetson.board_power)
    found = " + ".join(jetson.board_power)
    if within:
        found += f" (and {within} {'part' if within == 1 else 'parts'} of it)"
    return Finding("power rails", "ok", found, f"{enables}: {covered(jetson.board_power)}")


def _thermal_zones(jetson: Jetson) -> Finding:
    enables = "temperature before and after a bench"
    if not jetson.thermal_zones:
        advice = "/sys/class/thermal shows no zone: in a container, mount the host's /sys"
        return Finding("thermal zones", "missing", "", enables, advice)
    return Finding("thermal zones", "ok", ", ".join(jetson.thermal_zones), enables)


def _tensorrt(machine: Machine, packages: Installation) -> Finding:
    enables = "tensorrt engines, for this GPU model"
    finding = _package(packages, "TensorRT", _TENSORRT, "tensorrt", enables, '"lpx[tensorrt]"')
    if finding.status != "missing":
        if _versions(packages, _TENSORRT):
            return finding
        return _imported(packages, finding, "tensorrt")
    generation = machine.jetson.jetpack.split(".")[0] if machine.jetson else ""
    if generation in _OLD_JETPACK:
        advice = f"JetPack {generation}: {_OLD_JETPACK[generation]}"
    elif machine.system_tensorrt:
        # The last folder but one, as in /usr/lib/python3.12/dist-packages.
        python = machine.system_tensorrt.split("/")[-2]
        who = "this virtual environment" if machine.python_isolated else "this Python"
        advice = (
            f"it is in {machine.system_tensorrt}, which {who} does not see; re-create the "
            f"environment: {python} -m venv --system-site-packages DIR"
        )
    elif machine.jetson:
        advice = "sudo apt install python3-libnvinfer; in a container: an image with TensorRT"
    else:
        advice = finding.advice if machine.gpus else f"on an NVIDIA GPU: {finding.advice}"
    return replace(finding, advice=advice)


def _imported(packages: Installation, finding: Finding, module: str) -> Finding:
    try:
        return replace(finding, found=str(packages.load(module).__version__))
    except Exception as error:  # a library it needs may be absent
        return replace(finding, status="missing", advice=f"does not import: {error}")


def _tensorrt_lean(packages: Installation) -> tuple[Finding, ...]:
    """Examine the lean runtime, only if it is installed: TensorRT itself does all that it does."""
    module = _first_importable(packages, _LEAN_MODULES)
    if module is None:
        return ()
    enables = "runs version-compatible tensorrt engines if TensorRT is missing"
    return (_package(packages, "TensorRT lean runtime", _LEAN, module, enables),)


def _tensorrt_rtx(packages: Installation) -> Finding:
    module = _first_importable(packages, _RTX_MODULES) or _RTX_MODULES[0]
    enables = "builds engines for RTX GPUs on any machine, runs them on one"
    return _package(packages, "TensorRT-RTX", _RTX, module, enables, '"lpx[rtx]"')


def _rtx_provider(packages: Installation) -> Finding:
    enables = "TensorRT for RTX through onnxruntime, on RTX GPUs"
    wheels = ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu12")
    module, install = "onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx"
    return _package(packages, _RTX_PROVIDER, wheels, module, enables, install)


def _cuda_bindings(machine: Machine, packages: Installation) -> Finding:
    name, enables = "CUDA bindings", "lets tensorrt and tensorrt-rtx engines run"
    module = _first_importable(packages, _CUDA_MODULES)
    if module is None and packages.importable("pycuda"):
        finding = _package(packages, name, ("pycuda",), "pycuda", enables)
        return replace(finding, found=f"pycuda {finding.found}")
    newest, why = _newest_cuda(machine)
    package = cuda_python_for(newest)
    names = ("cuda-bindings", "cuda-python")
    finding = _package(packages, name, names, module or _CUDA_MODULES[0], enables, package)
    if finding.status == "missing":
        return finding
    # (13,) is not above (13, 0, 1), so any release of the next major version counts.
    if newest is not None and _numbers(finding.found) >= (newest + 1,):
        finding = replace(finding, status="warning", advice=f"{why}: pip install {package}")
    return replace(finding, found=f"cuda-python {finding.found}")


class _NewestCuda(NamedTuple):
    """Newest major version of CUDA that the driver runs, None without a limit, and the reason."""

    version: int | None
    reason: str


def _newest_cuda(machine: Machine) -> _NewestCuda:
    drivers = [gpu.driver_version for gpu in machine.gpus if gpu.driver_version]
    if machine.jetson and (machine.jetson.l4t[:1].isdecimal() or not drivers):
        newest = newest_cuda(machine.jetson.l4t)
        reason = f"the driver comes with JetPack, and this one supports CUDA {newest}"
        return _NewestCuda(newest, reason)
    reason = f"CUDA 13 needs driver {_CUDA_13_DRIVER} or later"
    # One driver serves all GPUs of a machine.
    if drivers and _numbers(drivers[0])[0] < _CUDA_13_DRIVER:
        return _NewestCuda(12, reason)
    return _NewestCuda(None, reason)
