"""Files: written whole or not at all, and carrying their card inside. Standard library only.

ONNX keeps the card in `metadata_props`, safetensors in its header, TFLite in an appended zip entry (the way TFLite
itself attaches associated files). All three are read here without the libraries that own the formats, because a
device that only runs models has none of them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lf.core import Artifact, BadInput, Card, LfError, UsageError, pick

KEY = "lf.card"
ENTRY = "lf_card.json"
MAX_MODEL_BYTES = 2 << 30  # an ONNX protobuf cannot be larger
MAX_CARD_BYTES = 16 << 20


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    Raises:
        UsageError: the folder cannot be written, or `path` is there and no regular file.
        LfError: the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # renaming onto /dev/null would replace it
            raise FileExistsError(errno.EEXIST, "it is there and no regular file")
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _explain(error, path) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _explain(error: OSError, path: Path) -> LfError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LfError(f"{path}: the disk is full; nothing was written. Free some space or choose another place")
    return UsageError(f"{path}: cannot be written ({error.strerror or error}); choose another place with -o or --out")


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` atomically; return `path`."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_json(path: Path, data: Any) -> Path:
    """Write `data` as indented JSON (strict: NaN is refused), atomically; return `path`."""
    return write_bytes(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file, as strictly as `write_json` writes it.

    Raises:
        BadInput: missing or not JSON; `what` says what was expected.
    """
    try:
        return json.loads(read_bytes(path, what, MAX_CARD_BYTES * 16), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON ({error}); expected {what}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def read_bytes(path: Path, what: str, limit: int = MAX_MODEL_BYTES) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        BadInput: missing, a folder, empty, larger than `limit`, unreadable; `what` says what was expected.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; expected {what}")
        if size == 0:
            raise BadInput(f"{path}: is empty; expected {what}")
        if size > limit:
            raise BadInput(f"{path}: {size} bytes are more than the {limit} that {what} may have")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; expected {what}") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error


def read_card(path: Path) -> Card | None:
    """The card inside an .onnx, .safetensors or .tflite file, or None when it has none.

    Raises:
        BadInput: not a file of that format, truncated, or its card is damaged.
    """
    codec = pick(CODECS, path.suffix, "model file type")
    text = codec[0](read_bytes(path, codec[2]), str(path))
    return None if text is None else Card.from_json(text, str(path))


def embed(suffix: str, data: bytes, card: Card) -> bytes:
    """The same file with `card` inside, replacing the one it had."""
    return pick(CODECS, suffix, "model file type")[1](data, card.to_json())


def load(path: Path) -> Artifact:
    """Open a model file of ours.

    Raises:
        BadInput: not a model file, damaged, or without a card.
    """
    card = read_card(path)
    if card is None:
        raise BadInput(f"{path}: carries no card to say what it is; make it with: lf export CHECKPOINT --to onnx")
    return Artifact(path, card)


def save(path: Path, data: bytes, card: Card) -> Artifact:
    """Write a model file with its card inside; return it as an Artifact."""
    write_bytes(path, embed(path.suffix, data, card))
    return Artifact(path, card)


# --- ONNX: a protobuf message; metadata_props is field 14, a list of {key = 1, value = 2}; graph is field 7 ---


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint of more than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, start of the field, start of its payload, end) of one protobuf message."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            body, (_, at) = at, _varint(data, at)
        elif wire == 2:
            length, body = _varint(data, at)
            at = body + length
        elif wire in (1, 5):
            body, at = at, at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError("a field runs past the end")
        yield tag >> 3, start, body, at


def _onnx_props(data: bytes) -> Iterator[tuple[int, int, str, str]]:
    for number, start, body, end in _fields(data):
        if number == 14:
            pair = {n: data[body + b : body + e] for n, _, b, e in _fields(data[body:end])}
            yield start, end, pair.get(1, b"").decode(), pair.get(2, b"").decode()


def _onnx_read(data: bytes, where: str) -> str | None:
    try:
        if not any(number == 7 for number, *_ in _fields(data)):
            raise ValueError("no graph in it")
        return next((value for *_, key, value in _onnx_props(data) if key == KEY), None)
    except (ValueError, IndexError) as error:
        raise BadInput(f"{where}: not an ONNX model, or a truncated one ({error})") from error


def _onnx_embed(data: bytes, text: str) -> bytes:
    kept, at = [], 0
    for start, end, key, _ in _onnx_props(data):
        if key == KEY:
            kept.append(data[at:start])
            at = end
    pair = _message(1, KEY.encode()) + _message(2, text.encode())
    return b"".join([*kept, data[at:], _message(14, pair)])


def _message(number: int, payload: bytes) -> bytes:
    return _to_varint(number << 3 | 2) + _to_varint(len(payload)) + payload


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- safetensors: u64 length, JSON header, tensor bytes ---


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack_from("<Q", data)
    if not 2 <= length <= min(len(data) - 8, MAX_CARD_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(data[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if max(ends, default=0) != len(data) - 8 - length:
        raise ValueError(f"{len(data) - 8 - length} bytes of tensors, expected {max(ends, default=0)}")
    return header, 8 + length


def _safetensors_read(data: bytes, where: str) -> str | None:
    try:
        header, _ = _header(data)
        text = header.get("__metadata__", {}).get(KEY)
        return None if text is None else str(text)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error) as error:
        raise BadInput(f"{where}: not a safetensors file, or a truncated one ({error})") from error


def _safetensors_embed(data: bytes, text: str) -> bytes:
    header, body = _header(data)
    header["__metadata__"] = {**header.get("__metadata__", {}), KEY: text}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)  # the format keeps tensors aligned to 8 bytes
    return struct.pack("<Q", len(packed)) + packed + data[body:]


# --- TFLite: a flatbuffer with identifier TFL3 at byte 4, optionally followed by a zip archive ---


def _tflite_read(data: bytes, where: str) -> str | None:
    if data[4:8] != b"TFL3":
        raise BadInput(f"{where}: not a TFLite model (no TFL3 identifier)")
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if ENTRY not in archive.namelist():
                return None
            if archive.getinfo(ENTRY).file_size > MAX_CARD_BYTES:
                raise ValueError(f"a card of more than {MAX_CARD_BYTES} bytes")
            return archive.read(ENTRY).decode()
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise BadInput(f"{where}: the archive at its end is damaged ({error})") from error


def _tflite_embed(data: bytes, text: str) -> bytes:
    files: dict[str, bytes] = {}
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
        data = data[: min((info.header_offset for info in archive.infolist()), default=len(data))]
    out = io.BytesIO(data)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in {**files, ENTRY: text.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


CODECS: Mapping[str, tuple[Callable[[bytes, str], str | None], Callable[[bytes, str], bytes], str]] = {
    ".onnx": (_onnx_read, _onnx_embed, "an ONNX model"),
    ".safetensors": (_safetensors_read, _safetensors_embed, "a safetensors file"),
    ".tflite": (_tflite_read, _tflite_embed, "a TFLite model"),
}
