"""The card inside a model file, by file type. Standard library only.

ONNX keeps the card in `metadata_props`, safetensors in its header, TFLite in an appended zip entry (the way TFLite
itself attaches associated files). All are read here without the libraries that own the formats, because a device that
only runs models has none of them.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from lf.core import BadInput
from lf.formats import protobuf
from lf.formats.onnx_bytes import outside

KEY = "lf.card"
ENTRY = "lf_card.json"
MAX_CARD_BYTES = 16 << 20

# --- ONNX: a protobuf message; metadata_props is field 14, a list of {key = 1, value = 2}; graph is field 7 ---


def _onnx_props(data: bytes) -> Iterator[tuple[int, int, str, str]]:
    for number, start, body, end in protobuf.fields(data):
        if number == 14:
            pair = {n: data[body + b : body + e] for n, _, b, e in protobuf.fields(data[body:end])}
            yield start, end, pair.get(1, b"").decode(), pair.get(2, b"").decode()


def _onnx_read(data: bytes, where: str) -> str | None:
    try:
        if not any(number == 7 for number, *_ in protobuf.fields(data)):
            raise ValueError("no graph in it")
        names, text = outside(data), next((value for *_, key, value in _onnx_props(data) if key == KEY), None)
    except (ValueError, IndexError, RecursionError) as error:
        raise BadInput(f"{where}: not an ONNX model, or a truncated one ({error})") from error
    if names:  # the sha256 of this file would not cover them, and they may be anywhere on this machine
        found = "".join(letter if letter.isprintable() else "?" for letter in ", ".join(names))[:100]
        whole = where.removesuffix(".onnx") + ".whole.onnx"
        raise BadInput(
            f"{where}: keeps weights in {found}; put them inside: "
            f"python -c \"import onnx; onnx.save(onnx.load('{where}'), '{whole}')\""
        )
    return text


def _onnx_embed(data: bytes, text: str) -> bytes:
    kept, at = [], 0
    for start, end, key, _ in _onnx_props(data):
        if key == KEY:
            kept.append(data[at:start])
            at = end
    pair = protobuf.message(1, KEY.encode()) + protobuf.message(2, text.encode())
    return b"".join([*kept, data[at:], protobuf.message(14, pair)])


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
    return _archive_read(data, where)


def _archive_read(data: bytes, where: str) -> str | None:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if ENTRY not in archive.namelist():
                return None
            if archive.getinfo(ENTRY).file_size > MAX_CARD_BYTES:
                raise ValueError(f"a card of more than {MAX_CARD_BYTES} bytes")
            return archive.read(ENTRY).decode()
    except Exception as error:  # damaged archives raise many kinds of errors
        raise BadInput(f"{where}: the archive at its end is damaged ({error})") from error


def _archive_embed(data: bytes, text: str) -> bytes:
    files: dict[str, bytes] = {}
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
        data = data[: min((info.header_offset for info in archive.infolist()), default=len(data))]
    out = io.BytesIO(data)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in {**files, ENTRY: text.encode()}.items():
            pack = zipfile.ZIP_DEFLATED if name == ENTRY else None  # the card is a tenth of a small network's file
            archive.writestr(zipfile.ZipInfo(name), content, pack)
    return out.getvalue()


# --- a baseline has no weights: its file is the card ---


def _card_read(data: bytes, where: str) -> str:
    return data.decode(errors="replace")


def _card_embed(data: bytes, text: str) -> bytes:
    return text.encode() + b"\n"


# (file, its name) -> card or None; (file, card) -> file; what such a file is
Codec = tuple[Callable[[bytes, str], str | None], Callable[[bytes, str], bytes], str]

CODECS: dict[str, Codec] = {
    ".onnx": (_onnx_read, _onnx_embed, "an ONNX model"),
    ".safetensors": (_safetensors_read, _safetensors_embed, "a safetensors file"),
    ".tflite": (_tflite_read, _archive_embed, "a TFLite model"),
    ".card": (_card_read, _card_embed, "the card of a baseline"),
}


def appended(about: str) -> Codec:
    """Return the codec of a format with the card in an archive at the end, which its reader ignores."""
    return _archive_read, _archive_embed, about


def register(suffixes: Iterable[str], codec: Codec | None) -> None:
    """Register the codec of a row's suffixes; known suffixes keep their codec."""
    if codec:
        for suffix in suffixes:
            CODECS.setdefault(f".{suffix.rpartition('.')[2]}", codec)
