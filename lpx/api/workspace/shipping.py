"""Steps that hand a detector to other machines and programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lpx.api.workspace.arguments import StrPath, face_set, optional_path
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import as_path, check_choice
from lpx.reporter import SILENT, Reporter

# Annotations only: PyTorch and ONNX Runtime take seconds to import, and are imported by the steps
# that need them.
if TYPE_CHECKING:
    from lpx.api.package import PackageKind
    from lpx.api.package.cpp import CppResult
    from lpx.api.package.deepstream import DeepStreamResult
    from lpx.api.package.triton import TritonResult
    from lpx.bundle.pack import PackResult


class ShippingSteps(OpenedWorkspace):
    """Steps that hand a detector to other machines and programs. See `lpx.Workspace`."""

    def package(
        self,
        kind: PackageKind,
        out: StrPath | None = None,
        *,
        engine: str | None = None,
        engines: str | Sequence[str] | None = None,
        also: StrPath | Sequence[StrPath] = (),
        name: str | None = None,
        vnni: bool = False,
        own_crop: bool = False,
        reporter: Reporter = SILENT,
    ) -> CppResult | TritonResult | DeepStreamResult:
        """Write what another program needs to run an engine without lpx.

        "cpp" is a C++ project that scores faces with TensorRT. It holds a TensorRT plan. If the
        workspace has none, it holds the graph of the engine's precision, and a script that builds
        the plan with trtexec where the project is copied to.

        "triton" is a model repository for Triton Inference Server, with a client and a script that
        starts the server: a model for each precision of TensorRT plans, one plan for each compute
        capability, and one for each precision of ONNX Runtime.

        "deepstream" has configurations of nvinfer and nvinferserver for the faces that a face
        detector finds, graphs in the form that nvinfer takes, a script that builds and checks
        their engines with trtexec, and a probe that enlarges boxes by the model's crop recipe.

        Args:
            kind: "cpp", "triton" or "deepstream".
            out: Folder to write, new or empty; None for a folder named after `kind` in the
                workspace.
            engine: For "cpp" and "deepstream": name of the engine. None for a TensorRT plan if
                there is one, else for the engine of the lowest precision, else for the float32
                graph.
            engines: For "triton": names of the engines; None for all that Triton can serve.
            also: For "triton": other workspaces or bundles, of which TensorRT plans are taken: the
                same model, built for other GPUs.
            name: For "triton": first part of the models' names; None for "detector".
            vnni: For "triton": every server's processor has VNNI, so INT8 graphs for ONNX Runtime
                keep int8 weights: faster there, and wrong elsewhere.
            own_crop: For "deepstream": something else in the pipeline sets the boxes as the crop
                recipe says, which is then not checked.
            reporter: Receives progress and warnings.

        Returns:
            The folder, and the scores that its self-test expects.

        Raises:
            InvalidArgumentError: `kind` has none of its values, an argument is for another kind, or
                Triton does not take the name.
            LpxError: No exported model, no such engine, an engine of another model, one that cannot
                be served or does not go together with another, a crop recipe that DeepStream
                cannot make, or a folder that is not empty.
        """
        from lpx.api.package import KINDS, refuse_others

        check_choice("kind", kind, KINDS)
        check_choice("own_crop", own_crop, (True, False))
        refuse_others(
            kind,
            engine=engine,
            engines=engines,
            also=also,
            name=name,
            vnni=vnni,
            own_crop=own_crop,
        )
        folder = optional_path("out", out) or self.root / kind
        if kind == "triton":
            from lpx.api.package.triton import package_triton, triton_options

            options = triton_options(engines, also, name, vnni=vnni, reporter=reporter)
            return package_triton(self, folder, options, reporter)
        if kind == "deepstream":
            from lpx.api.package.deepstream import package_deepstream

            return package_deepstream(
                self, folder, engine=engine, own_crop=own_crop, reporter=reporter
            )
        from lpx.api.package.cpp import package_cpp

        return package_cpp(self, folder, engine=engine, reporter=reporter)

    def pack(
        self,
        out: StrPath,
        *,
        faces: StrPath | None = None,
        limit: int | None = 1000,
        engines: str | Sequence[str] | None = None,
        checkpoint: bool = False,
        reporter: Reporter = SILENT,
    ) -> PackResult:
        """Pack what another machine needs into one file, for `lpx.unpack`.

        The bundle has the exported model with its card, calibrated ranges, engines, a few probe
        faces with their scores, and a face set. The same contents give the same bytes.

        Args:
            out: File to write, such as "detector.lpx".
            faces: Face set to bench on there: a data set's name or a folder. None for none.
            limit: Maximum number of faces, sampled evenly; None for all.
            engines: Engines to include, by name; None for all of the exported model.
            checkpoint: Include the PyTorch checkpoint, which `bench` compares engines with.
            reporter: Receives progress and warnings.

        Returns:
            Path and size of the bundle, what it contains, and what was left out.

        Raises:
            LpxError: No exported model, an unknown or altered engine, faces that cannot be read,
                or a file that cannot be written.
        """
        from lpx.bundle.pack import PackOptions, pack

        options = PackOptions(
            out=as_path("out", out),
            faces=face_set("faces", faces),
            limit=limit,
            engines=engines,
            checkpoint=checkpoint,
        )
        return pack(self, options, places=self.places, reporter=reporter)
