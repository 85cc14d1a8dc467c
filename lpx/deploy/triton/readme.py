"""README.md of a package for Triton."""

from __future__ import annotations

import json

from lpx.deploy.triton.batching import RULE, Batching
from lpx.deploy.triton.config import DEFAULT_PLAN, PLATFORMS
from lpx.deploy.triton.repository import (
    CLIENT,
    HOST_CODE_FLAG,
    START,
    RepositoryContent,
    ServedModel,
    ServedPlan,
)
from lpx.plain import plain

SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/"


def readme_of(content: RepositoryContent) -> str:
    """Return the text of README.md."""
    card = content.card
    first = content.models[0]
    example = {
        "file": "face.png",
        "score": first.test.score,
        "fake": first.test.score >= card.threshold,
    }
    model = f" --model {first.config.name}" if len(content.models) > 1 else ""
    sections = [
        _START_TEXT.format(start=START, client=CLIENT, model=model, flags=" ".join(content.flags)),
        _release_section(content),
        "## Models\n\n" + "\n\n".join(_model_section(one) for one in content.models),
        _CLIENT_TEXT.format(
            size=card.input_size,
            bytes=first.test.face.nbytes,
            rows=card.grid[0],
            columns=card.grid[1],
            crop=card.crop,
            threshold=f"{card.threshold:g}",
            example=json.dumps(example),
        ),
        _perf_section(content),
        _NOT_RUN,
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _release_section(content: RepositoryContent) -> str:
    if not content.plans:
        return _CPU_ONLY
    releases = sorted({plan.tensorrt for plan in content.plans})
    text = _RELEASES.format(releases=" and ".join(releases), matrix=SUPPORT_MATRIX)
    if len(releases) > 1:
        text += _SEVERAL_RELEASES
    if any(plan.host_code for plan in content.plans):
        text += _HOST_CODE.format(flag=HOST_CODE_FLAG)
    return text


def _model_section(model: ServedModel) -> str:
    config = model.config
    lines = [
        f"### {config.name}",
        "",
        f"{model.precision.upper()}, `{PLATFORMS[config.backend]}`, from "
        f"{plain(', '.join(sorted(set(model.engines))))}.",
        "",
    ]
    for plan in model.plans:
        lines.append(f"- {_plan_line(plan)}")
    if model.plans and not config.default_plan:
        lines.append(
            "- On a GPU of another compute capability the model does not load. If a server has "
            "such GPUs too, list the others in `instance_group { gpus: [...] }`."
        )
    if config.dla_core is not None:
        lines.append(f"- It runs on DLA core {config.dla_core} of a Jetson.")
    lines.append(f"- {_batching_line(config.batching, altered=model.altered)}")
    for note in model.notes:
        lines.append(f"- {note}")
    test = model.test
    lines.append(
        f"- Self-test: `face.rgb` must get {test.score:.4f}, within {test.tolerance:g} (computed "
        f"by {test.source})."
    )
    return "\n".join(lines)


def _plan_line(plan: ServedPlan) -> str:
    where = f"compute capability {plan.capability}"
    if not plan.capability:
        where = f"every GPU from Ampere on that has no plan of its own (`{DEFAULT_PLAN}`)"
    return f"`{plan.file}` for {where}, built by TensorRT {plan.tensorrt} on {plan.gpu}."


def _batching_line(batching: Batching, *, altered: bool) -> str:
    if batching.largest == 1:
        return "One face at a time: requests are not gathered into batches."
    text = f"Batches of up to {batching.largest} faces."
    if batching.preferred:
        sizes = " or ".join(map(str, batching.preferred))
        text += f" Requests wait up to {batching.delay_us} microseconds to fill one of {sizes}."
        return f"{text} The rule: {RULE}."
    text += " Requests that have arrived are scored together, and wait for no others: "
    if batching.measured:
        return f"{text}in the last bench no larger batch took less time per face."
    if altered:
        return f"{text}`lpx bench` measures the engine, and not this form of it."
    return (
        f"{text}no latencies of this engine were measured. `lpx bench --batches 1,8,32` and "
        "another `lpx package` set the preferred sizes from measurements."
    )


def _perf_section(content: RepositoryContent) -> str:
    first = content.models[0].config.name
    text = _PERF.format(count=len(content.perf_faces), name=first)
    if any(one.perf_scores is not None for one in content.models):
        text += _PERF_EXACT
    return text


_START_TEXT = """\
# Deepfake detector, for Triton Inference Server

Written by lpx. `models/` is the model repository. Preprocessing is inside the engines: there is no
ensemble, and a client sends the crop's pixels.

```
sh {start} nvcr.io/nvidia/tritonserver:YY.MM-py3
pip install "tritonclient[http]" numpy opencv-python-headless
python {client}{model} --self-test
python {client}{model} face.png
```

Without Docker: `tritonserver --model-repository=models {flags}`.
The ports are open to this machine only, as Triton asks for no password; `ADDRESS=0.0.0.0` opens
them to the network. Run the self-test after each start: it compares the server's model with this
folder, and the score of a known face."""
_RELEASES = """\
## Which release of Triton

A TensorRT plan loads in the TensorRT release that built it: {releases}. Each release
of Triton has one TensorRT, which NVIDIA's support matrix lists ({matrix}),
and which an image shows itself:

```
docker run --rm IMAGE sh -c "find / -name 'libnvinfer.so.*' 2>/dev/null"
```

If none fits, build the plan again where it is to run, in the same image."""
_SEVERAL_RELEASES = """

**The plans are of different releases.** One image serves only those of its own: this is for a
fleet whose servers run different images."""
_HOST_CODE = """

Version-compatible plans also load in later releases. They contain code that runs on the CPU, so
Triton loads them only with `{flag}`, which
`serve.sh` passes: only do that if you trust the source of the plans."""
_CPU_ONLY = """\
## Which release of Triton

Any whose ONNX Runtime reads the graph: it needs no GPU. The models run on the CPU (`KIND_CPU`);
each instance uses all cores, so more instances help only with `intra_op_thread_count`."""
_CLIENT_TEXT = """\
## Requests

- **Input** `faces`: uint8, RGB, [N, {size}, {size}, 3], row by row ({bytes} bytes a face), not
  normalised. Decoding, face detection and cropping (recipe `{crop}`) are up to the caller.
- **Output** `score`: float32 [N, 1], the probability of fake. A face is called fake from the
  threshold in `card.json` on ({threshold}).
- **Output** `patch_map`: float32 [N, {rows}, {columns}], local probabilities.

`client.py` prints a line of JSON for each image:

```
{example}
```

Exit codes: 0 done, 1 the server has another model or the self-test failed, 2 it could not run. The
face of the self-test shows nobody: it was rendered, and is in the public domain (CC0 1.0). It is
also what the server warms up with."""
_PERF = """\
## Load

```
perf_analyzer -m {name} --input-data perf.json -b 1 --concurrency-range 1:16:4
```

`perf.json` has {count} rendered faces: random pixels would take the same time, and say nothing
about scores."""
_PERF_EXACT = """

A model for ONNX Runtime has a file of its own, `perf-NAME.json`, with the scores that it must give
these faces. perf_analyzer compares them byte by byte: they hold for single faces where ONNX Runtime
has the kernels that it had where this package was written, and the last bits may differ elsewhere,
and in larger batches. The self-test has a tolerance, and is the check to rely on."""
_NOT_RUN = """\
## What has not been run

The configuration was checked against Triton's published `model_config.proto` and the rules of its
sources, and `client.py` against a stand-in for the server that runs the graph in ONNX Runtime.
**No Triton server, and no GPU, has run this package**: rely on the self-test."""
