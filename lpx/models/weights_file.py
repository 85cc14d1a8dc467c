"""Read weights files without running code from them; say what other files are."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from lpx.errors import LpxError, first_line, out_of_memory

_SAVE = "torch.save(model.state_dict(), ...)"
_ZIP = b"PK\x03\x04"
_REPLACED = "download it again"
# Enough for the magic number of a tar archive, which is at byte 257.
_HEAD_BYTES = 512
# Objects that an error names.
_NAMED = 3
Container = Mapping[Any, Any] | list[Any] | tuple[Any, ...]
# Bytes that a file may claim without holding them: of tensors with stride 0, sparse or compressed
# ones. A file of a kilobyte must not make lpx allocate terabytes.
MAX_REPEATED_BYTES = 64 << 20
# How torch's reader reports a pickle that names something other than tensors and plain values.
_CODE = ("GLOBAL", "call reduce", "Can only create", "Can only build")


class _Beside:
    """Takes the place of a value beside the weights: accepts any arguments and does nothing."""

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


# Packages whose objects training code saves beside the weights: metrics, options, times, paths.
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
    "builtins.int": _Beside,
    "builtins.float": _Beside,
    "builtins.bool": _Beside,
    "builtins.complex": _Beside,
    "builtins.str": _Beside,
    "builtins.bytes": _Beside,
    "builtins.bytearray": _Beside,
    "builtins.list": _Beside,
    "builtins.dict": _Beside,
    "builtins.set": _Beside,
    "builtins.frozenset": _Beside,
    "builtins.tuple": _Beside,
    "builtins.slice": _Beside,
    "builtins.range": _Beside,
    "builtins.object": _Beside,
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


class _Refusal(NamedTuple):
    """Why a file is refused, and what to do; "" for the usual remedy."""

    why: str
    fix: str = ""


class _Head(NamedTuple):
    """The first bytes of a file, and its size in bytes."""

    data: bytes
    size: int


def read_weights(path: Path, *, limit: int = MAX_REPEATED_BYTES) -> dict[str, Any]:
    """Read the content of a file: tensors, in dictionaries under any names, and plain values.

    Args:
        path: A file in PyTorch's format or in that of safetensors.
        limit: Bytes that its tensors may have without being in the file.

    Returns:
        The outermost dictionary; a list's items are named by their numbers. Objects of NumPy,
        `argparse` and the like are replaced by placeholders, so that a learning rate saved as a
        NumPy number does not make a file unsafe.

    Raises:
        LpxError: Missing, damaged or unsafe file (code "not-found", "damaged", "untrusted"), or a
            file of another kind, which is named.
    """
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "does not exist"
        fix = "name a checkpoint file; `lpx demo --unpack DIR` writes an example"
        raise LpxError(f"{path} {problem}", "", fix, code="not-found")
    try:
        head = _read_head(path)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), "check its permissions") from error
    if _is_safetensors(head):
        return _read_safetensors(path)
    if refusal := _other_kind(path, head, limit):
        raise unreadable(path, *refusal)
    content = _load_pickled(path, head)
    if isinstance(content, (list, tuple)) and any(isinstance(v, Mapping) for v in content):
        # torch.save((model.state_dict(), epoch), path): a number is as good a name as any.
        content = {str(number): value for number, value in enumerate(content)}
    if not isinstance(content, Mapping):
        why = f"it holds a {type(content).__name__}, not a dictionary of weights"
        raise unreadable(path, why, f"where it was made, save {_SAVE}")
    _check_sizes(path, content, limit)
    return dict(content)


def _load_pickled(path: Path, head: _Head) -> object:
    """Load a file in PyTorch's format with its reader for weights alone.

    Raises:
        LpxError: The file is damaged, or needs objects that only its own code can make.
    """
    named: list[str] = []
    # An archive without an index has no pickle to look into.
    if not head.data.startswith(_ZIP) or _is_zip(path):
        named = _globals(path)
    stand_ins: list[tuple[Callable[..., Any], str]] = []
    for name in named:
        stand_in = _stand_in(name)
        if stand_in is not None:
            stand_ins.append((stand_in, name))
    try:
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes fail anywhere in torch's reader, with the error of that place.
        if short := out_of_memory(error):
            raise short from error
        if isinstance(error, pickle.UnpicklingError) and any(w in str(error) for w in _CODE):
            code = [name for name in named if _stand_in(name) is None and not _is_torch(name)]
            listed = ""
            if code:
                listed = f": {_some(code)}"
            raise LpxError(
                f"{path} holds pickled Python objects, not only weights{listed}",
                "loading it would run code from the file",
                f"where it was made, save {_SAVE} and use that",
                code="untrusted",
            ) from error
        raise unreadable(path, _damage(path, head, error)) from error


def _check_sizes(path: Path, content: object, limit: int) -> None:
    """Refuse tensors that have more bytes than the file holds of them.

    A stride of 0 repeats one number: a tensor of a few bytes would take terabytes when copied.

    Raises:
        LpxError: Together they have more than `limit` bytes that are not in the file.
    """
    repeated = 0
    for _, container in containers(content):
        values: Iterable[Any] = container
        if isinstance(container, Mapping):
            values = container.values()
        for one in values:
            if not isinstance(one, torch.Tensor):
                continue
            size = one.numel() * one.element_size()
            stored = 0
            if one.layout == torch.strided:
                stored = one.untyped_storage().nbytes()
            repeated += max(0, size - stored)
            if repeated > limit:
                raise LpxError(
                    f"{path} holds tensors larger than itself, such as one of "
                    f"{list(one.shape)} ({size / 2**20:.0f} MiB, {stored / 2**20:.0f} in the file)",
                    f"the limit for repeated or sparse values is {limit >> 20} MiB",
                    f"where it was made, save dense tensors with {_SAVE}",
                )


def containers(content: object) -> Iterator[tuple[str, Container]]:
    """Yield every dictionary, list and tuple in a file, with the dotted names that lead to it.

    Each is yielded once, at its first place.
    """
    rest: list[tuple[str, object]] = [("", content)]
    # A pickle may contain itself, or nest lists so that a few bytes repeat one a billion times.
    seen: set[int] = set()
    while rest:
        place, one = rest.pop()
        if id(one) in seen or not isinstance(one, (Mapping, list, tuple)):
            continue
        seen.add(id(one))
        yield place, one
        items = one.items() if isinstance(one, Mapping) else enumerate(one)
        prefix = f"{place}." if place else ""
        inside = [(f"{prefix}{name}", value) for name, value in items]
        # The stack is popped from its end.
        rest.extend(reversed(inside))


def unreadable(path: Path, why: str, fix: str = "") -> LpxError:
    """Return the error for a file that is damaged or of another kind."""
    return LpxError(
        f"{path} is not a readable PyTorch checkpoint",
        why,
        fix or "the file is truncated or of another kind: copy it again",
        code="damaged",
    )


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        # Some kinds of damage at an archive's end raise.
        return False


def _read_head(path: Path) -> _Head:
    with path.open("rb") as stream:
        data = stream.read(_HEAD_BYTES)
        return _Head(data, stream.seek(0, 2))


def _damage(path: Path, head: _Head, error: Exception) -> str:
    """Return in words why torch's reader failed."""
    if head.data.startswith(_ZIP) and not _is_zip(path):
        return "its end is missing: it begins like a PyTorch file, but has no index at its end"
    message = str(error).strip()
    if not message:
        return "its bytes are damaged"
    line = message.splitlines()[0]
    if isinstance(error, (LookupError, pickle.UnpicklingError)) or "weights_only" in line:
        # torch reports a failed unpickling as a number, or advises to load without safeguards.
        return "its bytes are not those of a PyTorch file"
    return line


# --- files of other kinds


def _other_kind(path: Path, head: _Head, limit: int) -> _Refusal | None:
    """Return what a file is that is not PyTorch's, None if it may be PyTorch's."""
    if not head.size:
        return _Refusal("it is empty", _REPLACED)
    data = head.data
    text = data.lstrip().lower()
    if data.startswith(b"version https://git-lfs"):
        return _Refusal(
            "it is a Git LFS pointer: a few lines of text in place of the file",
            "run `git lfs pull` in the repository that it came from",
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return _Refusal(
            "it is a web page (HTML): a warning, a login or a viewer was saved instead of the file",
            "download the file itself: the raw link of the repository, or `gdown` for Google Drive",
        )
    for magic, what in _MAGICS.items():
        if data.startswith(magic):
            return _Refusal(what, _fix_for(what))
    if data[257:262] == b"ustar":
        return _tar_refusal(path)
    if data.startswith(_ZIP) and _is_zip(path):
        return _zip_refusal(path, limit)
    if _is_onnx(path, data):
        return _Refusal(
            "it is an ONNX model: lpx starts from PyTorch, to compare engines with it",
            _bring("that builds the network"),
        )
    if path.suffix.lower() == ".json" or text.startswith((b'{"', b"{\n")):
        return _Refusal("it is JSON text", _REPLACED)
    return None


def _fix_for(what: str) -> str:
    if "HDF5" in what:
        return _bring("that copies the weights from it")
    if "compressed" in what or "archive" in what:
        return "unpack it"
    return ""


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
        f"make the model with `factory=package.module:function`, with a function {function} into a "
        "PyTorch module; then leave the file out"
    )


def _tar_refusal(path: Path) -> _Refusal:
    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(path) as archive:
        if {"pickle", "storages", "tensors"} <= set(archive.getnames()):
            return _Refusal(
                "it was written by PyTorch 0.1, whose format runs code when it is loaded",
                f"where it was made, save {_SAVE} with a newer PyTorch",
            )
    return _Refusal("it is a tar archive", f"unpack it first: tar xf {path}")


def _zip_refusal(path: Path, limit: int) -> _Refusal | None:
    """Return what a ZIP archive is, None if `torch.save` may have written it."""
    inflated = 0
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # torch.save compresses nothing, and a compressed entry can claim any size.
            for entry in archive.infolist():
                inflated += max(0, entry.file_size - entry.compress_size)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        why = "it begins and ends like a PyTorch file, but its index is damaged"
        return _Refusal(why, _REPLACED)
    # torch.save puts everything into one folder of the archive.
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside:
        return _Refusal(
            "it is a TorchScript program: code together with its weights",
            'extract the weights, if you trust the file: python -c "import torch; '
            f"torch.save(torch.jit.load('{path}').state_dict(), 'weights.pt')\"",
        )
    exported = {"archive_format", "models/model.json", "serialized_exported_program.json"}
    if exported & inside or "serialized_exported_program.json" in names:
        return _Refusal(
            "it is a program of torch.export (.pt2): a graph together with its weights",
            'extract the weights, if you trust the file: python -c "import torch; '
            f"torch.save(dict(torch.export.load('{path}').state_dict), 'weights.pt')\"",
        )
    if "data.pkl" in inside:
        if inflated <= limit:
            return None
        return _Refusal(
            f"it is compressed, and would take {inflated >> 20} MiB more than the file has; "
            f"the limit is {limit >> 20} MiB",
            f"where it was made, save {_SAVE} again: PyTorch compresses nothing",
        )
    if "model.weights.h5" in names:
        return _Refusal("it is a Keras model (.keras)", _bring("that copies the weights from it"))
    if names and all(name.endswith(".npy") for name in names):
        return _Refusal("it is a NumPy archive (.npz)", _bring("that copies the weights from it"))
    return _Refusal(
        f"it is a ZIP archive of other files: {_some(names) or 'none'}", f"unpack it: unzip {path}"
    )


def _some(names: Sequence[str]) -> str:
    """List the first of many names; "" if there are none."""
    text = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        text += " ..."
    return text


def _is_onnx(path: Path, head: bytes) -> bool:
    # An ONNX file has no magic number: it begins with field 1, the version of its format.
    if not (len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 32):
        return False
    import onnx

    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception:
        # protobuf has several errors, which differ between its two implementations.
        return False
    return bool(model.graph.node)


# --- safetensors


def _is_safetensors(head: _Head) -> bool:
    # Eight bytes for the length of the header, and then the header, which is JSON.
    length = int.from_bytes(head.data[:8], "little")
    return head.data[8:9] == b"{" and 2 <= length <= head.size - 8


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        reader = import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise LpxError(
            f"{path} is not a readable PyTorch checkpoint",
            "it is a safetensors file, and the package that reads them is not installed",
            "pip install safetensors, and run the same command again",
            code="unsupported",
        ) from error
    try:
        return dict(reader.load_file(path))
    except Exception as error:
        # The package raises errors of its own for damaged files, and torch's for odd types.
        why = f"it is a damaged safetensors file: {first_line(error)}"
        raise unreadable(path, why, _REPLACED) from error


# --- objects that a pickle names


def _stand_in(name: str) -> Callable[..., Any] | None:
    """Return the harmless replacement of an object that a pickle names, None if it has none."""
    if name in _PLAIN_NAMES:
        return _PLAIN_NAMES[name]
    return _Beside if name.split(".")[0] in _PLAIN_PACKAGES else None


def _is_torch(name: str) -> bool:
    """Return whether a name is one of torch's own, which its reader accepts."""
    return name == "collections.OrderedDict" or (
        name.startswith("torch.") and not name.startswith(("torch.nn.modules.", "torch.optim."))
    )


def _globals(path: Path) -> list[str]:
    """Return the names ("package.module.object") in a file's pickles, without running anything."""
    # A dictionary rather than a set: it keeps the order.
    names: dict[str, None] = {}
    # Damaged bytes may raise anything; torch's reader then reports them.
    with contextlib.suppress(Exception), _pickles(path) as stream:
        # A file in the old format is five pickles, one after the other.
        for _ in range(5):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    names[_today(*str(argument).split(" ", 1))] = None
    return list(names)


def _today(module: str, name: str) -> str:
    """Return the name in Python 3 of an object that a pickle names as in Python 2."""
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
