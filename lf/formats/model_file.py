"""Model files that carry their card: load, save, embed."""

from __future__ import annotations

from pathlib import Path

from lf.core import Artifact, BadInput, Card, files, pick
from lf.formats.cards import CODECS as CODECS
from lf.formats.int32_bias import refuse_large


def read_card(path: Path) -> Card | None:
    """Read the card inside an .onnx, .safetensors or .tflite file, or return None.

    Raises:
        BadInput: not a file of that format, truncated, or its card is damaged.
    """
    codec = pick(CODECS, path.suffix, "model file type")
    text = codec[0](files.read_bytes(path, codec[2]), str(path))
    return None if text is None else Card.from_json(text, str(path))


def embed(suffix: str, data: bytes, card: Card) -> bytes:
    """Return the file with `card` inside; it replaces an existing card."""
    return pick(CODECS, suffix, "model file type")[1](data, card.to_json())


def load(path: Path) -> Artifact:
    """Open a model file of ours.

    Raises:
        BadInput: not a model file, damaged, or without a card.
    """
    card = read_card(path)
    if card is None:
        if path.suffix == ".onnx":
            advice = f"`export(CHECKPOINT, to=onnx)`; if another tool made it, type: `adopt({path}, family=superpoint)`"
        else:
            advice = "`export(CHECKPOINT, to=tflite)`"
        cut = " (or is cut short)" if path.suffix == ".tflite" else ""
        raise BadInput(f"{path}: carries no card to say what it is{cut}; make it with: {advice}")
    return Artifact(path, card)


def save(path: Path, data: bytes, card: Card) -> Artifact:
    """Write a model file with its card inside; return it as `load` would.

    Raises:
        GateFailed: a quantized bias is too large, see `lf.formats.int32_bias`; nothing is written.
    """
    if card.scheme != "fp32":
        refuse_large(path, path.suffix, data)
    files.write_bytes(path, embed(path.suffix, data, card))
    return Artifact(path, Card.from_json(card.to_json(), str(path)))
