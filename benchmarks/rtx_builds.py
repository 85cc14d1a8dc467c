"""Every backbone, precision and form of batch built by TensorRT for RTX, which needs no GPU.

    python benchmarks/rtx_builds.py                        # 6 backbones x 3 x 3: 54 builds
    python benchmarks/rtx_builds.py --backbones xception,resnet18 --json out.json

Per backbone and precision: the convolutions of the graph; how many of them the plan's table of
layers shows, in which precision, and as what kind of layer; and the seconds and MiB of the plans.
It ends with exit code 1 where a build fails or a convolution is not recognised. Nothing is run.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from lpx.calibration.observe import calibrate
from lpx.calibration.scales import Scales
from lpx.card import ModelCard
from lpx.data.face_sets.sets import open_set
from lpx.engines.build import make_graph
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt import Plan, PlanRequest, TensorRTLibrary, build_plan, open_library
from lpx.engines.tensorrt_options import Batches, BatchRange, TensorRTOptions
from lpx.errors import LpxError
from lpx.export.to_onnx import to_onnx
from lpx.machine.machine import read_machine
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

CUTS = {
    "xception": "block3",
    "resnet18": "layer2",
    "resnet50": "layer2",
    "mobilenet_v2": "features.8",
    "efficientnet_lite0": "stage4",
    "tf_efficientnet_lite0": "stage3",
}
PRECISIONS = ("fp32", "fp16", "int8")
FORMS: dict[str, Batches] = {"range 1:8:32": BatchRange(1, 8, 32), "8": (8,), "1,8,32": (1, 8, 32)}
CALIBRATED_ON = 8


@dataclass(frozen=True)
class Build:
    """One build.

    Attributes:
        graph: Number of convolutions in the graph.
        shown: Those that the plan's table of layers shows, by precision.
        kinds: Layers that compute them, by TensorRT's type, of all profiles.
        problem: Why there is no plan; "" where there is one.
    """

    backbone: str
    precision: str
    batches: str
    graph: int = 0
    shown: dict[str, int] | None = None
    kinds: dict[str, int] | None = None
    seconds: float = 0.0
    mib: float = 0.0
    problem: str = ""

    @property
    def recognised(self) -> int:
        """Convolutions whose precision the table shows."""
        return sum(n for precision, n in (self.shown or {}).items() if precision != "unknown")


def exported(backbone: str, size: int) -> tuple[bytes, ModelCard, Scales]:
    """A new detector of a backbone, and its scales from a few faces of the demo."""
    module, card = new_detector(backbone, CUTS[backbone], input_size=size)
    model = to_onnx(Detector(module.eval(), card))
    faces = open_set("demo", "train").first(CALIBRATED_ON)
    return model, card, calibrate(model, faces, card.input_size)


def build(
    backbone: str, graph: bytes, request: BuildRequest, form: str, library: TensorRTLibrary
) -> Build:
    started = time.perf_counter()
    options = replace(request.tensorrt, batches=FORMS[form])
    try:
        plan = build_plan(PlanRequest(graph, request.precision, options), library)
    except LpxError as error:
        return Build(backbone, request.precision, form, problem=error.what)
    seconds = time.perf_counter() - started
    return measured(backbone, request.precision, form, plan, seconds)


def measured(backbone: str, precision: str, form: str, plan: Plan, seconds: float) -> Build:
    table = plan.layers
    if table is None:
        return Build(backbone, precision, form, problem="the build logged no table of layers")
    return Build(
        backbone,
        precision,
        form,
        graph=len(table.graph_convolutions),
        shown=table.count_convolutions(),
        kinds=dict(Counter(row.type for row in table.convolutions)),
        seconds=round(seconds, 3),
        mib=round(len(plan.data) / 2**20, 2),
    )


def print_row(builds: Sequence[Build]) -> None:
    """One line for the forms of batch of a backbone and precision."""
    first = builds[0]
    shown = "/".join(
        build.problem or ", ".join(f"{n} {p}" for p, n in (build.shown or {}).items())
        for build in {str(build.shown) + build.problem: build for build in builds}.values()
    )
    recognised = "/".join(dict.fromkeys(f"{build.recognised} of {build.graph}" for build in builds))
    seconds = "/".join(f"{build.seconds:.1f}" for build in builds)
    mib = "/".join(f"{build.mib:.1f}" for build in builds)
    kinds = ", ".join(f"{n} {kind}" for kind, n in (first.kinds or {}).items())
    print(
        f"| {first.backbone} | {first.precision} | {recognised} | {shown} | {kinds} | {seconds} "
        f"| {mib} |",
        flush=True,
    )


@click.command()
@click.option("--backbones", default=",".join(CUTS), help="Comma-separated.")
@click.option("--size", default=128, help="Side of a face, pixels.")
@click.option("--compute-capability", default="", help="Comma-separated; by default RTX's own set.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures here.")
def main(backbones: str, size: int, compute_capability: str, output: Path | None) -> None:
    library = open_library("tensorrt-rtx")
    capabilities = tuple(compute_capability.replace(",", " ").split())
    options = TensorRTOptions(compute_capabilities=capabilities)

    def build_all(backbone: str) -> Iterable[list[Build]]:
        model, _, scales = exported(backbone, size)
        for precision in PRECISIONS:
            request = BuildRequest(
                target="tensorrt-rtx",
                precision=precision,  # type: ignore[arg-type]
                scales=scales,
                method="max",
                tensorrt=options,
            )
            graph, _ = make_graph(model, request, library.capabilities.dialect)
            yield [build(backbone, graph, request, form, library) for form in FORMS]

    sys.exit(run(backbones.split(","), build_all, output))


def run(
    backbones: Sequence[str],
    build_all: Callable[[str], Iterable[list[Build]]],
    output: Path | None = None,
) -> int:
    """Print the builds of all backbones, and return the exit code.

    Args:
        backbones: Their names.
        build_all: Makes the builds of a backbone, those of a precision at a time.
        output: Where to write the figures; None for nowhere.
    """
    found: list[Build] = []
    print(
        "| backbone | precision | recognised | computed in | layers (first form) | seconds | MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for backbone in backbones:
        for row in build_all(backbone):
            print_row(row)
            found += row
    failed = [one for one in found if one.problem or one.recognised < one.graph]
    print(
        f"\n{len(found)} builds; {len(failed)} failed or with convolutions not recognised; "
        f"forms of batch: {'; '.join(FORMS)}"
    )
    if output is not None:
        machine = asdict(read_machine())
        values = {"machine": machine, "builds": [asdict(one) for one in found]}
        output.write_text(json.dumps(values, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
