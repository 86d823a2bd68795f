"""Checks of an adopted file: keypoints on images, none without structure, and keypoints that move with the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, Features, GateFailed
from lf.export import parity
from lf.export.adopt import inputs
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.runtimes import CHECKPOINTS

SHIFTS = {(8, 8): 0.5, (5, 3): 0.3, (3, 5): 0.3}  # (x, y) px -> least share of the points that move with the image
FLAT = (0, 128, 255)  # grey values of images without structure
STRONG = 0.1  # largest number of high-scoring points on a flat image, as a share of those on a structured one
SAME = 0.99  # least share of keypoints that the file and its checkpoint have in common
COSINE = 0.9999  # least median cosine of the descriptors of these keypoints
DECODED = (0.9, 0.95)  # both for a file with its own decoder, which may refine and sample differently


def check(artifact: Artifact, size: tuple[int, int], folder: Path | None) -> dict[str, Any]:
    """Check an adopted file on images of `size` (H, W), from a folder or drawn.

    Returns:
        The figures for the card.

    Raises:
        BadInput: it gives no points on any image.
        GateFailed: flat images have points like structured ones, or points do not move with their image.
    """
    extractor = Extractor(artifact, "ort-cpu")
    views = list(inputs.pictures(size, folder))
    if not views:
        raise BadInput(f"{folder}: no image to check the file on")
    seen = [_best(extractor(inputs.view(picture, size))) for picture in views]
    counts = [len(each) for each in seen]
    if not any(counts):
        raise BadInput(
            f"{artifact.path.name}: the decode gives no points on any of {len(views)} images; say what the network "
            "takes, for example `input=0..255`, or which output is which head: `outputs=OUTPUT=HEAD`"
        )
    flat = _flat(extractor, size, seen)
    moved = {}
    for shift, least in SHIFTS.items():
        share = float(np.mean([_moved(extractor, *each, shift, size) for each in zip(views, seen, strict=True)]))
        moved[f"{shift[0]},{shift[1]} px"] = round(share, 3)
        if share < least:
            raise GateFailed(
                f"{artifact.path.name}: when an image moves by {shift[0]},{shift[1]} px, {share:.0%} of the keypoints "
                f"move along; expected {least:.0%}; are heads swapped, or the input wrong? Name them: "
                "`outputs=OUTPUT=HEAD`, `input=RANGE`; nothing was written"
            )
    return {
        "pictures": [f"{len(views)} {'of a folder' if folder else 'drawn'}, {size[0]}x{size[1]}"],
        "points": [len(extractor(inputs.view(picture, size))) for picture in views],
        "strong points on flat pictures": flat,
        "points that move along": moved,
    }


def _best(features: Features) -> Features:
    return features.top(inputs.BEST)


def _flat(extractor: Extractor, size: tuple[int, int], seen: list[Features]) -> int:
    """Return the largest number of points on a flat image that score at least as the weaker half on structured ones."""
    usual = float(np.median(np.concatenate([each.scores for each in seen])))
    flat = [extractor(np.full(size, grey, np.uint8)) for grey in FLAT]
    strong = max(int((each.scores >= usual).sum()) for each in flat)
    most = STRONG * float(np.mean([len(each) for each in seen]))
    if strong > most:
        raise GateFailed(
            f"{extractor.artifact.path.name}: a flat image gives {strong} keypoints that score as those of "
            f"structured images; expected at most {most:.0f}; are heads swapped, or the input wrong? Name them: "
            "`outputs=OUTPUT=HEAD`, `input=RANGE`; nothing was written"
        )
    return strong


def _moved(
    extractor: Extractor, picture: Array, seen: Features, shift: tuple[int, int], size: tuple[int, int]
) -> float:
    there = extractor(inputs.view(picture, size, shift))
    return inputs.moved(seen.keypoints, there.keypoints, shift, size)


def likeness(
    decode: inputs.Decode,
    tried: Sequence[inputs.Variant],
    reference: Artifact,
    views: Sequence[Array],
    size: tuple[int, int],
) -> dict[str, float]:
    """Return for each variant of the input the share of its points that the checkpoint has, too."""
    old = Extractor(reference, engine(reference))
    found: dict[str, list[float]] = {each.name: [] for each in tried}
    for image in (inputs.view(picture, size) for picture in views):
        there = old(image).keypoints
        for each in tried:
            here = np.asarray(decode(each.fed(inputs.tensor(image, old.model.channels)))[0], np.float32)
            same = agreement.near(here, there, inputs.NEAR).sum() / max(1, len(here), len(there))
            found[each.name].append(float(same))
    return {name: float(np.mean(shares)) for name, shares in found.items()}


def engine(reference: Artifact) -> str:
    """Return the engine that runs a checkpoint, or an ONNX file of lf."""
    return "torch" if reference.path.suffix in CHECKPOINTS else "ort-cpu"


def against(artifact: Artifact, reference: Artifact, size: tuple[int, int], folder: Path | None) -> dict[str, Any]:
    """Compare the keypoints and descriptors of an adopted file with those of its checkpoint.

    Raises:
        GateFailed: they differ.
    """
    new, old = Extractor(artifact, "ort-cpu"), Extractor(reference, engine(reference))
    own = found = 0
    cosines: list[Array] = []
    for picture in inputs.pictures(size, folder):
        image = inputs.view(picture, size)
        here, there = new(image), old(image)
        if artifact.card.features:  # tools have other borders
            inner = (here.keypoints >= inputs.MARGIN) & (here.keypoints < np.array(size[::-1]) - inputs.MARGIN)
            here = here.take(np.flatnonzero(inner.all(1)))
        distance, index = agreement.nearest(here.keypoints, there.keypoints)
        same = distance <= (inputs.NEAR if artifact.card.features else parity.SAME)
        own += len(here) if artifact.card.features else max(len(here), len(there))
        found += int(same.sum())
        if here.descriptors.shape[1] == there.descriptors.shape[1]:
            cosines.append(np.einsum("nd,nd->n", here.descriptors[same], there.descriptors[index[same]]))
    share = found / max(1, own)
    cosine = float(np.median(np.concatenate(cosines))) if cosines and found else 0.0
    least, alike = DECODED if artifact.card.features else (SAME, COSINE)
    if share < least or cosine < alike:
        raise GateFailed(
            f"{artifact.path.name}: {share:.1%} of {own} keypoints are those of {reference.path.name}, median cosine "
            f"of their descriptors {cosine:.4f}; expected {least:.0%} and {alike:g}; is it the checkpoint that the "
            "file was made from? Otherwise name the heads or the input: `outputs=OUTPUT=HEAD`, `input=RANGE`; "
            "nothing was written"
        )
    return {
        "checkpoint": reference.path.name,
        "keypoints": own,
        "identical": round(share, 4),
        "cosine": round(cosine, 6),
    }
