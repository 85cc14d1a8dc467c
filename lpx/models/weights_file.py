"""Weights files: read without running anything in them, or named as what they are."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch

from lpx.errors import LpxError, out_of_memory

_SAVE = "torch.save(model.state_dict(), ...)"
_ZIP = b"PK\x03\x04"
_REPLACED = "download it again"
_HEAD_BYTES = 512
Container = Mapping[Any, Any] | list[Any] | tuple[Any, ...]
MAX_REPEATED_BYTES = 64 << 20
"""Bytes that the file does not hold: of tensors with stride 0, sparse or compressed ones."""

# How torch's reader reports a pickle that names something other than tensors and plain values.
_CODE = ("GLOBAL", "call reduce", "Can only create", "Can only build")


class _Beside:
    """Stands in for a plain value beside the weights: takes any arguments and does nothing."""

    def __init__(self, *arguments: object) -> None:
        """Ignore the arguments."""

    def __new__(cls, *arguments: object) -> _Beside:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def _dictionary(*arguments: object) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _list(*arguments: object) -> list[Any]:
    return []


# Packages whose objects training code leaves beside the weights: metrics, options, times, paths.
# They are not even imported: each of their names is replaced by one of the three above.
_PLAIN_PACKAGES = (
    "numpy",
    "datetime",
    "pathlib",
    "argparse",
    "decimal",
    "fractions",
    "uuid",
    "omegaconf",
    "types",
    "typing",
)
_PLAIN_NAMES: dict[str, Callable[..., Any]] = {
    **{
        f"builtins.{name}": _Beside
        for name in (
            "int",
            "float",
            "bool",
            "complex",
            "str",
            "bytes",
            "bytearray",
            "list",
            "dict",
            "set",
            "frozenset",
            "tuple",
            "slice",
            "range",
            "object",
        )
    },
    "_codecs.encode": _Beside,
    "copyreg._reconstructor": _Beside,
    "collections.deque": _list,
    "collections.defaultdict": _dictionary,
    "yacs.config.CfgNode": OrderedDict,
    "easydict.EasyDict": OrderedDict,
    "addict.addict.Dict": OrderedDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "lightning.pytorch.utilities.parsing.AttributeDict": OrderedDict,
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
}


def read_weights(path: Path) -> dict[str, Any]:
    """Read what a file holds: tensors, in dictionaries under any names, and plain values.

    Args:
        path: What `torch.save` wrote, or safetensors.

    Returns:
        The outermost dictionary; a list's items are named by their numbers. Objects of NumPy,
        `argparse` and the like are replaced by placeholders, so that a learning rate saved as a
        NumPy number does not make a file unsafe.

    Raises:
        LpxError: Missing, damaged or unsafe file, or one of another kind, which is named.
    """
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        fix = "name a checkpoint file; `lpx demo --unpack DIR` writes an example"
        raise LpxError(f"{path} {found}", "", fix)
    try:
        head, size = _head(path)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), "check its permissions") from error
    if _is_safetensors(head, size):
        return _read_safetensors(path)
    if kind := _kind(path, head, size):
        raise unreadable(path, *kind)
    named = [] if head.startswith(_ZIP) and not _is_zip(path) else _globals(path)
    plain = [(stand_in, name) for name in named if (stand_in := _stand_in(name)) is not None]
    try:
        with torch.serialization.safe_globals(plain):  # type: ignore[arg-type]
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes fail anywhere in torch's reader, with whatever error comes up there.
        if short := out_of_memory(error):
            raise short from error
        if isinstance(error, pickle.UnpicklingError) and any(w in str(error) for w in _CODE):
            code = [name for name in named if _stand_in(name) is None and not _is_torch(name)]
            raise LpxError(
                f"{path} holds pickled Python objects, not only weights"
                + (f": {', '.join(code[:3])}{' ...' if len(code) > 3 else ''}" if code else ""),
                "loading it would run code from the file",
                f"where it was made, save {_SAVE} and use that",
            ) from error
        raise unreadable(path, _damage(path, head, error)) from error
    if isinstance(content, (list, tuple)) and any(isinstance(v, Mapping) for v in content):
        # torch.save((model.state_dict(), epoch), path): a number is as good a name as any.
        content = {str(number): value for number, value in enumerate(content)}
    if not isinstance(content, Mapping):
        why = f"it holds a {type(content).__name__}, not a dictionary of weights"
        raise unreadable(path, why, f"where it was made, save {_SAVE}")
    _check_sizes(path, content)
    return dict(content)


def _check_sizes(path: Path, content: object) -> None:
    """Refuse tensors that are larger than what the file holds of them.

    A stride of 0 repeats one number for ever: a kilobyte would ask for terabytes when it is copied.

    Raises:
        LpxError: All of them together repeat more than `MAX_REPEATED_BYTES`.
    """
    repeated = 0
    for _, container in containers(content):
        for one in container.values() if isinstance(container, Mapping) else container:
            if not isinstance(one, torch.Tensor):
                continue
            size = one.numel() * one.element_size()
            stored = one.untyped_storage().nbytes() if one.layout == torch.strided else 0
            repeated += max(0, size - stored)
            if repeated > MAX_REPEATED_BYTES:
                raise LpxError(
                    f"{path} holds tensors of more than its bytes, such as one of "
                    f"{list(one.shape)} ({size / 2**20:.0f} MiB, {stored / 2**20:.0f} in the file)",
                    f"the limit for repeated or sparse values is {MAX_REPEATED_BYTES >> 20} MiB",
                    f"where it was made, save dense tensors with {_SAVE}",
                )


def containers(content: object) -> Iterator[tuple[str, Container]]:
    """Every dictionary, list and tuple in a file, with the dotted names that lead to it.

    Each comes up once, where it is found first: a pickle may contain itself, or nest lists so that
    a few bytes repeat one a billion times.
    """
    rest: list[tuple[str, object]] = [("", content)]
    seen: set[int] = set()
    while rest:
        place, one = rest.pop()
        if id(one) in seen or not isinstance(one, (Mapping, list, tuple)):
            continue
        seen.add(id(one))
        yield place, one
        items = one.items() if isinstance(one, Mapping) else enumerate(one)
        inside = [(f"{place}.{name}" if place else str(name), value) for name, value in items]
        rest.extend(reversed(inside))


def unreadable(path: Path, why: str, fix: str = "") -> LpxError:
    """The error for a file that PyTorch's reader, or lpx, can do nothing with."""
    return LpxError(
        f"{path} is not a readable PyTorch checkpoint",
        why,
        fix or "the file is truncated or of another kind: copy it again",
    )


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        # Some damage of an archive's end raises.
        return False


def _head(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        return head, stream.seek(0, 2)


def _damage(path: Path, head: bytes, error: Exception) -> str:
    if head.startswith(_ZIP) and not _is_zip(path):
        return "its end is missing: it begins like a PyTorch file, but has no index at its end"
    said = (str(error).strip().splitlines() or ["its bytes are damaged"])[0]
    if isinstance(error, (LookupError, pickle.UnpicklingError)) or "weights_only" in said:
        # torch reports a failed unpickling as a number, or advises to load without safeguards.
        return "its bytes are not those of a PyTorch file"
    return said


# --- files of other kinds


def _kind(path: Path, head: bytes, size: int) -> tuple[str, str] | None:
    """What a file is that is not torch's, and what to do; None where it may be torch's."""
    if not size:
        return "it is empty", _REPLACED
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return (
            "it is a Git LFS pointer: a few lines of text in place of the file",
            "run `git lfs pull` in the repository that it came from",
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return (
            "it is a web page (HTML): a warning, a login or a viewer came in place of the file",
            "download the file itself: the raw link of the repository, or `gdown` for Google Drive",
        )
    for magic, what in _MAGICS.items():
        if head.startswith(magic):
            fix = _bring("that copies the weights from it") if "HDF5" in what else ""
            return what, fix or ("unpack it" if "compressed" in what or "archive" in what else "")
    if head[257:262] == b"ustar":
        return _of_tar(path)
    if head.startswith(_ZIP) and _is_zip(path):
        return _of_zip(path)
    if _is_onnx(path, head):
        return (
            "it is an ONNX model: lpx starts from PyTorch, to compare engines with it",
            _bring("that builds the network"),
        )
    if path.suffix.lower() == ".json" or text.startswith((b'{"', b"{\n")):
        return "it is JSON text", _REPLACED
    return None


_MAGICS = {
    b"\x89HDF\r\n\x1a\n": "it is an HDF5 file: weights of Keras or TensorFlow",
    b"\x89PNG": "it is a picture (PNG)",
    b"\xff\xd8\xff": "it is a picture (JPEG)",
    b"GIF8": "it is a picture (GIF)",
    b"%PDF": "it is a PDF document",
    b"\x93NUMPY": "it is a NumPy array (.npy)",
    b"GGUF": "it is a GGUF file",
    b"\x1f\x8b": "it is compressed with gzip",
    b"BZh": "it is compressed with bzip2",
    b"\xfd7zXZ": "it is compressed with xz",
    b"7z\xbc\xaf": "it is a 7z archive",
    b"Rar!": "it is a RAR archive",
}


def _bring(function: str) -> str:
    return (
        f"lpx export --factory package.module:function, of a function {function} into a PyTorch "
        "module; then leave the file out"
    )


def _of_tar(path: Path) -> tuple[str, str]:
    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(path) as archive:
        if {"pickle", "storages", "tensors"} <= set(archive.getnames()):
            return (
                "it was written by PyTorch 0.1, whose format runs code when it is loaded",
                f"where it was made, save {_SAVE} with a newer PyTorch",
            )
    return "it is a tar archive", f"unpack it first: tar xf {path}"


def _of_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # torch.save compresses nothing: what is compressed can claim any size.
            inflated = sum(max(0, e.file_size - e.compress_size) for e in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "it begins and ends like a PyTorch file, but its index is damaged", _REPLACED
    # torch.save puts everything into one folder of the archive.
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside:
        return (
            "it is a TorchScript program: code together with its weights",
            'take the weights out, of a file that you trust: python -c "import torch; '
            f"torch.save(torch.jit.load('{path}').state_dict(), 'weights.pt')\"",
        )
    if {"archive_format", "models/model.json"} & inside or "serialized_exported_program.json" in {
        *names,
        *inside,
    }:
        return (
            "it is a program of torch.export (.pt2): a graph together with its weights",
            'take the weights out, of a file that you trust: python -c "import torch; '
            f"torch.save(dict(torch.export.load('{path}').state_dict), 'weights.pt')\"",
        )
    if "data.pkl" in inside:
        if inflated > MAX_REPEATED_BYTES:
            return (
                f"it is compressed, and would take {inflated >> 20} MiB more than the file has; "
                f"the limit is {MAX_REPEATED_BYTES >> 20} MiB",
                f"where it was made, save {_SAVE} again: PyTorch compresses nothing",
            )
        return None
    if "model.weights.h5" in names:
        return "it is a Keras model (.keras)", _bring("that copies the weights from it")
    if names and all(name.endswith(".npy") for name in names):
        return "it is a NumPy archive (.npz)", _bring("that copies the weights from it")
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return f"it is a ZIP archive of other files: {shown or 'none'}", f"unpack it: unzip {path}"


def _is_onnx(path: Path, head: bytes) -> bool:
    # An ONNX file has no magic number: it begins with field 1, the version of its format.
    if not (len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 32):
        return False
    import onnx

    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception:
        # protobuf has several errors, and one of its own for each of its two implementations.
        return False
    return bool(model.graph.node)


# --- safetensors


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes for the length of the header, and then the header, which is JSON."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, Any]:
    if find_spec("safetensors") is None:
        raise unreadable(
            path,
            "it is a safetensors file, and the package that reads them is not installed",
            "pip install safetensors, and run the same command again",
        )
    try:
        return dict(import_module("safetensors.torch").load_file(path))
    except Exception as error:
        # The package raises errors of its own for damaged files, and of torch for odd types.
        why = f"it is a damaged safetensors file: {(str(error).splitlines() or [''])[0]}"
        raise unreadable(path, why, _REPLACED) from error


# --- objects that a pickle names


def _stand_in(name: str) -> Callable[..., Any] | None:
    """The harmless replacement of an object that a pickle names; None where there is none."""
    if name in _PLAIN_NAMES:
        return _PLAIN_NAMES[name]
    return _Beside if name.split(".")[0] in _PLAIN_PACKAGES else None


def _is_torch(name: str) -> bool:
    """Whether a name is of torch's own tensors, which its reader knows."""
    return name == "collections.OrderedDict" or (
        name.startswith("torch.") and not name.startswith(("torch.nn.modules.", "torch.optim."))
    )


def _globals(path: Path) -> list[str]:
    """The names ("package.module.object") that the pickles in a file refer to; nothing is run."""
    found: dict[str, None] = {}
    with contextlib.suppress(Exception), _pickles(path) as stream:
        # Damaged bytes fail in any way; torch's reader then says so.
        for _ in range(5):  # a file in the old format is five pickles, one behind the other
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    found[_today(*str(argument).split(" ", 1))] = None
    return list(found)


def _today(module: str, name: str) -> str:
    """A name of Python 2, which PyTorch's pickles use, as Python 3 has it."""
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


@contextlib.contextmanager
def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if not _is_zip(path):
        with path.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.partition("/")[2] == "data.pkl")
        with archive.open(name) as stream:
            yield stream
