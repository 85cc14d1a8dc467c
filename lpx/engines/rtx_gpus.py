"""GPUs that TensorRT for RTX supports, by NVIDIA's documentation of 1.7."""

from __future__ import annotations

# Compute capabilities of the GPUs that TensorRT for RTX serves, with all above the last.
RTX_GPUS = ("7.5", "8.0", "8.6", "8.9", "12.0")
# Those that its plans run on where none were asked for: 7.5 must be asked for by itself.
RTX_DEFAULT_GPUS = RTX_GPUS[1:]
# Those that its plugin for ONNX Runtime serves (0.5.0), with all above the last.
RTX_PROVIDER_GPUS = ("8.6", "8.9", "12.0")


def rtx_plan_runs_on(compute_capability: str, built_for: tuple[str, ...] = ()) -> bool:
    """Return whether a plan of TensorRT for RTX runs on a GPU, by NVIDIA's documentation.

    Args:
        compute_capability: The GPU's, as "8.9".
        built_for: Compute capabilities that the plan was asked for; () for the default set.
    """
    return compute_capability in built_for or (
        not built_for and _among(compute_capability, RTX_DEFAULT_GPUS)
    )


def rtx_serves(compute_capability: str) -> bool:
    """Return whether TensorRT for RTX can build a plan that runs on a GPU, given as "8.9"."""
    return _among(compute_capability, RTX_GPUS)


def rtx_provider_serves(compute_capability: str) -> bool:
    """Return whether ONNX Runtime's plugin of TensorRT for RTX runs on a GPU, given as "8.9"."""
    return _among(compute_capability, RTX_PROVIDER_GPUS)


def _among(compute_capability: str, listed: tuple[str, ...]) -> bool:
    """Return whether a GPU is in a set that includes all above its last member."""
    return compute_capability in listed or float(compute_capability) > float(listed[-1])
