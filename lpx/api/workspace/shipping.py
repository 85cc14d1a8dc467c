"""Steps that hand a detector to other machines and programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lpx.api.workspace.arguments import StrPath, face_set, optional_path
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import as_path, check_choice
from lpx.errors import InvalidArgumentError
from lpx.reporter import SILENT, Reporter

# Annotations only: PyTorch and ONNX Runtime take seconds to import, and are imported by the steps
# that need them.
if TYPE_CHECKING:
    from lpx.api.package import PackageKind
    from lpx.api.package.cpp import CppResult
    from lpx.api.package.deepstream import DeepStreamResult
    from lpx.bundle.pack import PackResult


class ShippingSteps(OpenedWorkspace):
    """Steps that hand a detector to other machines and programs. See `lpx.Workspace`."""

    def package(
        self,
        kind: PackageKind,
        out: StrPath | None = None,
        *,
        engine: str | None = None,
        own_crop: bool = False,
        reporter: Reporter = SILENT,
    ) -> CppResult | DeepStreamResult:
        """Write what another program needs to run an engine without lpx.

        "cpp" is a C++ project that scores faces with TensorRT. It holds a TensorRT plan. If the
        workspace has none, it holds the graph of the engine's precision, and a script that builds
        the plan with trtexec where the project is copied to.

        "deepstream" has configurations of nvinfer and nvinferserver for the faces that a face
        detector finds, graphs in the form that nvinfer takes, a script that builds and checks
        their engines with trtexec, and a probe that enlarges boxes by the model's crop recipe.

        Args:
            kind: "cpp" or "deepstream".
            out: Folder to write, new or empty; None for a folder named after `kind` in the
                workspace.
            engine: Name of the engine. None for a TensorRT plan if there is one, else for the
                engine of the lowest precision, else for the float32 graph.
            own_crop: For "deepstream": something else in the pipeline sets the boxes as the crop
                recipe says, which is then not checked.
            reporter: Receives progress and warnings.

        Returns:
            The project's folder, and the score that its self-test expects.

        Raises:
            InvalidArgumentError: `kind` has none of its values, or `own_crop` is set for "cpp".
            LpxError: No exported model, no such engine, an engine of another model, a crop recipe
                that DeepStream cannot make, or a folder that is not empty.
        """
        from lpx.api.package import KINDS

        check_choice("kind", kind, KINDS)
        check_choice("own_crop", own_crop, (True, False))
        folder = optional_path("out", out) or self.root / kind
        if kind == "deepstream":
            from lpx.api.package.deepstream import package_deepstream

            return package_deepstream(
                self, folder, engine=engine, own_crop=own_crop, reporter=reporter
            )
        if own_crop:
            raise InvalidArgumentError(
                "own_crop", f'must be left out for `kind="{kind}"`', own_crop
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
