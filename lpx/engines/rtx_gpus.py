"""GPUs that TensorRT for RTX supports, according to NVIDIA's documentation of 1.7."""

from __future__ import annotations

# Compute capabilities that TensorRT for RTX supports; those above the last are supported, too.
RTX_GPUS = ("7.5", "8.0", "8.6", "8.9", "12.0")
# Compute capabilities that a plan is built for by default; 7.5 only on request.
RTX_DEFAULT_GPUS = RTX_GPUS[1:]
# Compute capabilities that its plugin for ONNX Runtime (0.5.0) supports; those above, too.
RTX_PROVIDER_GPUS = ("8.6", "8.9", "12.0")


def rtx_plan_runs_on(compute_capability: str, built_for: tuple[str, ...] = ()) -> bool:
    """Return True if a plan of TensorRT for RTX runs on a GPU.

    Args:
        compute_capability: Compute capability of the GPU, such as "8.9".
        built_for: Compute capabilities that the plan was built for; () for the default set.
    """
    return compute_capability in built_for or (
        not built_for and _among(compute_capability, RTX_DEFAULT_GPUS)
    )


def rtx_serves(compute_capability: str) -> bool:
    """Return True if TensorRT for RTX supports a compute capability, such as "8.9"."""
    return _among(compute_capability, RTX_GPUS)


def rtx_provider_serves(compute_capability: str) -> bool:
    """Return True if TensorRT for RTX supports a compute capability in ONNX Runtime."""
    return _among(compute_capability, RTX_PROVIDER_GPUS)


def _among(compute_capability: str, listed: tuple[str, ...]) -> bool:
    """Return True for a member of a list, and for anything above its last member."""
    return compute_capability in listed or float(compute_capability) > float(listed[-1])
