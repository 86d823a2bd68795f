"""Read files of torch.save without running their code: dictionaries, lists, numbers, tensors.

All other content is a placeholder (`lf.models.inert_pickle`). `torch.load` is not used: its
weights-only mode refuses checkpoints with a numpy scalar or an `argparse.Namespace` beside the weights, and a file of a
kilobyte can make it allocate gigabytes. Here no tensor is larger than the bytes that the file really has.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lf.core import BadInput, one_line
from lf.models import inert_pickle
from lf.models.inert_pickle import OtherTensor

Storage = Callable[[str, torch.dtype, int], Tensor]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
LEGACY_PROTOCOL = 1001
MOST_DIMENSIONS = 64
MOST_INFLATED = 4  # largest ratio of inflated to stored bytes; deflate makes random weights 1.1 times smaller
MOST_REASON = 200  # characters of an error of a library


def read(data: bytes, path: Path) -> Any:
    """Return the object in the bytes of a .pth, .pt, .pth.tar or .ckpt; `path` is for error texts.

    Raises:
        BadInput: another file type, truncated, a zip bomb, or a damaged pickle.
    """
    if data[:4] != b"PK\x03\x04" and data[:1] != b"\x80":
        raise BadInput(f"{path}: not a PyTorch checkpoint ({_looks_like(data)}); expected .pth, .pt or .ckpt")
    try:
        return _read_zip(data) if data[:2] == b"PK" else _read_legacy(data)
    except Exception as error:  # hostile or cut bytes can raise anything, MemoryError and RecursionError included
        reason = one_line(error, MOST_REASON) or type(error).__name__
        raise BadInput(f"{path}: not a checkpoint of plain weights, or a truncated one ({reason})") from error


def _looks_like(data: bytes) -> str:
    if data[257:262] == b"ustar":
        return "a tar archive; unpack it and give the checkpoint inside"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return "a safetensors file; rename it to .safetensors"
    return f"it starts with {data[:8].hex(' ')}"


def _read_zip(data: bytes) -> Any:
    """torch.save since 1.6: a zip archive of data.pkl and one entry per storage, stored or, zipped anew, deflated."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {e.filename: e for e in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in entries):
            raise UnpicklingError("it is a TorchScript program; save its weights with torch.save(m.state_dict(), FILE)")
        kinds = {e.compress_type for e in archive.infolist()}
        if not kinds <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise UnpicklingError("its zip entries are compressed in a way that torch does not read")
        times = MOST_INFLATED if zipfile.ZIP_DEFLATED in kinds else 1
        if sum(e.file_size for e in archive.infolist()) > times * len(data):
            raise UnpicklingError(
                f"its zip entries overlap, or are more than {MOST_INFLATED} times as large as the file"
            )
        if not any(e.CRC for e in entries.values()):  # torch.serialization.set_crc32_options(False)
            for entry in entries.values():
                setattr(entry, "CRC", None)  # noqa: B010  zipfile then checks none
        pickled = next((name for name in entries if name.endswith("data.pkl")), "data.pkl")
        folder = pickled.removesuffix("data.pkl")
        swapped = f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") == b"big"

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            return _numbers(archive.read(f"{folder}data/{key}"), dtype, count, swapped)

        return _load(io.BytesIO(archive.read(pickled)), storage)


def _read_legacy(data: bytes) -> Any:
    """torch.save before 1.6: magic, protocol, system, content, storage keys as pickles, then (count, numbers) each."""
    file, storages, left = io.BytesIO(data), dict[str, Tensor](), len(data)

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        nonlocal left
        left -= count * dtype.itemsize
        if count < 0 or left < 0:
            raise EOFError(f"it claims a tensor of {count} numbers, the file has {len(data)} bytes")
        storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    if _load(file, storage) != LEGACY_MAGIC or _load(file, storage) != LEGACY_PROTOCOL:
        raise UnpicklingError("a pickle, but not one of torch.save")
    system, content, keys = _load(file, storage), _load(file, storage), _load(file, storage)
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        target = storages[_text(key)]
        target.copy_(_numbers(file.read(target.nbytes), target.dtype, count, not system["little_endian"]))
    if len(storages) > len({*map(_text, keys)}):
        raise EOFError("the numbers of a tensor are missing")
    return content


def _text(key: Any) -> str:
    if type(key) is not str:
        raise UnpicklingError("the key of a storage is no text")
    return key


def _numbers(raw: bytes, dtype: torch.dtype, count: int, swapped: bool) -> Tensor:
    if len(raw) != count * dtype.itemsize:
        raise EOFError(f"a tensor of {count} numbers has {len(raw)} bytes")
    if not raw:
        return torch.empty(0, dtype=dtype)
    octets = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    if swapped:
        size = dtype.itemsize // (2 if dtype.is_complex else 1)
        octets = octets.view(-1, size).flip(1).reshape(-1)
    return octets.view(dtype)


def _load(file: io.BytesIO, storage: Storage) -> Any:
    """Load the next pickle of `file`; `storage(key, dtype, count)` returns the numbers of tensors."""
    seen: dict[str, Tensor] = {}

    def persistent(pid: Any) -> Any:
        if type(pid) is not tuple or len(pid) < 3:
            raise UnpicklingError("a reference that is none of torch.save")
        if pid[0] == "module":  # a class and its source
            return pid[1]
        kind, dtype, key, _, count, *view = pid  # the fourth is the device
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise UnpicklingError("it holds a storage of an unknown kind")
        if type(count) is not int:
            raise UnpicklingError("the length of a storage is no number")
        if _text(key) not in seen:
            seen[key] = storage(key, dtype, count)
        if view and view[0] is not None:  # (key, offset, length), of torch 0.3 and older
            return seen[key].narrow(0, *view[0][1:])
        return seen[key]

    return inert_pickle.load(file, _TABLE, persistent)


def _ordered(pairs: Any = (), *_: object) -> dict[Any, Any]:
    """`OrderedDict()`, whose items follow; or `OrderedDict([[key, value], ...])`, as Python 2 wrote it."""
    made: dict[Any, Any] = {}
    if type(pairs) is list:
        for key, value in pairs:
            inert_pickle.put(made, key, value)
        pairs.clear()  # so that repeated calls with the same list stay cheap
    return made


def _mapping(*_: object) -> dict[Any, Any]:
    """`defaultdict(factory)`; the items follow."""
    return {}


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`: a view; torch refuses views that exceed their storage."""
    if not isinstance(storage, Tensor) or max(len(size), len(stride)) > MOST_DIMENSIONS:
        raise UnpicklingError(f"a tensor without numbers, or of more than {MOST_DIMENSIONS} dimensions")
    return storage.as_strided(size, stride, offset)


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor | OtherTensor:
    """`torch._utils._rebuild_tensor_v3`: the storage holds bytes; the last argument is the type."""
    dtype = rest[2]
    if not isinstance(dtype, torch.dtype) or len(storage) % dtype.itemsize:
        raise UnpicklingError("a tensor whose type is unknown, or does not fit its numbers")
    try:
        typed = storage.view(dtype)
    except RuntimeError:  # torch cannot make tensors of some types
        return OtherTensor(f"a tensor of {dtype}")
    return _tensor(typed, offset, size, stride)


def _first(wrapped: Any = (), *_: object) -> Any:
    """`_rebuild_parameter`, `torch.Size` and similar: return the wrapped value."""
    return wrapped


def _from_type(function: Any, kind: Any, arguments: Any, *_: object) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor of a subclass, or with attributes."""
    return function(*arguments) if function in (_tensor, _typed_tensor, _first) else OtherTensor("a tensor subclass")


def _no_plain(kind: str) -> Callable[..., OtherTensor]:
    """Return a loader of tensors that no network here has, but that may be beside the weights."""
    return lambda *_: OtherTensor(kind)


_STORED = {  # name of a class of storages -> the type of its numbers
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "QInt8": torch.int8,  # the integers of quantized tensors, which become placeholders
    "QUInt8": torch.uint8,
    "QInt32": torch.int32,
    "QUInt4x2": torch.uint8,
    "QUInt2x4": torch.uint8,
    "Untyped": torch.uint8,
}

_TABLE: dict[str, object] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _mapping,
    "torch.Size": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _no_plain("a tensor of another device"),
    "torch._utils._rebuild_meta_tensor_no_storage": _no_plain("a tensor without numbers"),
    "torch._utils._rebuild_nested_tensor": _no_plain("a nested tensor"),
    "torch._utils._rebuild_qtensor": _no_plain("a quantized tensor"),
    "torch._utils._rebuild_sparse_tensor": _no_plain("a sparse tensor"),
    "torch._utils._rebuild_wrapper_subclass": _no_plain("a tensor subclass"),
    "torch.nn.parameter.Parameter": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type_v2": _from_type,
    **{str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)},
    **{f"torch.{name}Storage": kind for name, kind in _STORED.items()},
    **{f"torch.cuda.{name}Storage": kind for name, kind in _STORED.items()},
    "torch.storage.UntypedStorage": torch.uint8,
}
