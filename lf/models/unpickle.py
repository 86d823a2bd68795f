"""Reads what torch.save wrote without running anything it holds: dictionaries, lists, numbers, tensors, nothing else.

`torch.load` is not used. Its weights-only mode refuses the published fast R2D2 (a defaultdict of losses), and a file of
a kilobyte can make it allocate gigabytes. Here no tensor is larger than the bytes the file really has.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lf.core import BadInput

Storage = Callable[[str, torch.dtype, int], Tensor]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py
LEGACY_PROTOCOL = 1001
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")  # opcodes that make what can be a key
MOST = 1000  # things in a tuple, with those in its tuples; what a tensor is made from has a dozen


def read(data: bytes, path: Path) -> Any:
    """The object in the bytes of a .pth, .pt or .pth.tar; `path` is for the error text.

    Raises:
        BadInput: another file type, truncated, a zip bomb, or a pickle that asks for more than weights need.
    """
    if data[:4] != b"PK\x03\x04" and data[:1] != b"\x80":
        raise BadInput(f"{path}: not a PyTorch checkpoint (it starts with {data[:8].hex(' ')}); expected .pth or .pt")
    try:
        return _read_zip(data) if data[:2] == b"PK" else _read_legacy(data)
    except Exception as error:  # hostile or cut bytes can raise anything, MemoryError and RecursionError included
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: not a checkpoint of plain weights, or a truncated one ({reason})") from error


def _read_zip(data: bytes) -> Any:
    """torch.save since 1.6: a zip archive of data.pkl and one stored, never compressed, entry per storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(e.compress_type for e in entries) or sum(e.file_size for e in entries) > len(data):
            raise pickle.UnpicklingError("its zip entries are compressed or overlap; torch writes none like that")
        pickled = next((e.filename for e in entries if e.filename.endswith("data.pkl")), "data.pkl")

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            return _numbers(archive.read(f"{pickled.removesuffix('.pkl')}/{key}"), dtype, count)

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
        raise pickle.UnpicklingError("a pickle, but not one of torch.save")
    system, content, keys = _load(file, storage), _load(file, storage), _load(file, storage)
    if not system["little_endian"]:
        raise pickle.UnpicklingError("written on a big-endian machine")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        target = storages[key]
        target.copy_(_numbers(file.read(target.nbytes), target.dtype, count))
    return content


def _numbers(raw: bytes, dtype: torch.dtype, count: int) -> Tensor:
    if len(raw) != count * dtype.itemsize:
        raise EOFError(f"a tensor of {count} numbers has {len(raw)} bytes")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _load(file: io.BytesIO, storage: Storage) -> Any:
    """The next pickle of `file`, after a look at its opcodes."""
    start = file.tell()
    _check(file)
    file.seek(start)
    return _Unpickler(file, storage).load()


def _check(file: io.BytesIO) -> None:
    """Raise UnpicklingError for opcodes that reserve memory by a number they carry, and for tuples of too much.

    A tuple is hashed and shown with all that its tuples hold, and one that is held twice counts twice: each opcode can
    double the time. And a million tuples round each other end the process.
    """
    size, mark = len(file.getbuffer()), pickletools.markobject
    stack, memo = list[int | None](), dict[Any, int | None]()  # how much each object is; None is a mark
    for opcode, argument, _ in pickletools.genops(file):
        name, wanted, taken = opcode.name, opcode.stack_before, list[Any]()
        if name == "BYTEARRAY8" or (name in ("PUT", "LONG_BINPUT") and int(argument or 0) > size):
            raise pickle.UnpicklingError(f"its {name} asks for more memory than the file can need")
        if mark in wanted:
            while (top := stack.pop()) is not None:
                taken.append(top)
            wanted = wanted[: wanted.index(mark)]
        taken += [stack.pop() for _ in wanted]
        if name.endswith("GET"):
            made = memo[argument]
        elif name in ("DUP", "MEMOIZE"):
            made = taken[0]
        else:
            made = 1 + sum(taken) if name in TUPLES else 1
        if made and made > MOST:
            raise pickle.UnpicklingError(f"a tuple in it holds more than {MOST} things, which weights do not need")
        stack += [None if each is mark else made for each in opcode.stack_after]
        if name.endswith("PUT") or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]


class _Unpickler(pickle.Unpickler):
    """Knows `_GLOBALS` only; the numbers of tensors come from `storage(key, dtype, count)`."""

    def __init__(self, file: io.BytesIO, storage: Storage) -> None:
        super().__init__(file)
        self._storage = storage
        self._seen: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")
        return _GLOBALS[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid[:5]  # the fourth is the device it was on
        if not isinstance(count, int):
            raise pickle.UnpicklingError("the length of a storage is no number")
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError("it holds a storage of a kind not in use since torch 0.4")
        if key not in self._seen:
            self._seen[key] = self._storage(key, dtype, count)
        return self._seen[key]


class _Dict(dict[Any, Any]):
    """What every mapping becomes: without the attributes that a state dict brings (`_metadata`)."""

    def __setstate__(self, state: object) -> None: ...


def _mapping(*_: object) -> _Dict:
    """OrderedDict() and defaultdict(factory); the items follow in opcodes of their own."""
    return _Dict()


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`: a view; torch refuses one that leaves its storage."""
    return storage.as_strided(size, stride, offset)


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


_GLOBALS: dict[str, object] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "yacs.config.CfgNode": _Dict,  # the settings beside KP2D's weights
    "__builtin__.list": None,  # factories of a defaultdict, never called
    "__builtin__.dict": None,
    "builtins.list": None,
    "builtins.dict": None,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
