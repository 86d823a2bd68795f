"""The image of the README: matches of the float network above those of its 8-bit file, on a pair drawn by lf.

python -m scripts.float_beside_int8 [docs/images/float-beside-int8.png]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import lf
from lf.benchmarks.report import match_pictures
from lf.core import Array
from lf.data import Pair, warps
from lf.data.drawn import folders
from lf.models import DEFAULT

OUT = Path("docs/images/float-beside-int8.png")
PAIR = 0  # of the drawn pairs: a change of viewpoint
SIZE = (240, 320)  # px
POINTS = 150
WIDTH = 860  # px of the picture
GREYS = 20  # steps of grey: PNG stores them in a fifth of the bytes
GAP = 24  # px


def main(out: Path) -> None:
    """Export, quantize, match with both, and write both images, one above the other."""
    pair = warps.drawn(PAIR + 1, size=SIZE)[PAIR]
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        folders.write_pictures(photos, 32, SIZE)
        exact = lf.load(DEFAULT).export("onnx", Path(folder, f"{DEFAULT}.onnx"), size=SIZE)
        small = exact.quantize("w8a8", photos, Path(folder, f"{DEFAULT}.w8a8.onnx"))
        panels = [panel(network, pair) for network in (exact, small)]
    panels.insert(1, np.full((GAP, *panels[0].shape[1:]), 255, np.uint8))
    print(match_pictures.save(out, few_greys(np.vstack(panels))))


def panel(network: lf.Network, pair: Pair) -> Array:
    """The matches of one network, coloured by their error."""
    images = pair.first.load(), pair.second.load()
    found = network.extract(images[0], POINTS), network.extract(images[1], POINTS)
    title = f"{network.card.model} {network.card.scheme}, {network.path.stat().st_size / 1e6:.2f} MB"
    drawn = match_pictures.matches(images, found, pair.homography, title)
    height = round(drawn.shape[0] * WIDTH / drawn.shape[1])
    return cv2.resize(drawn, (WIDTH, height), interpolation=cv2.INTER_AREA)


def few_greys(picture: Array) -> Array:
    """The image with fewer steps of brightness."""
    step = 256 / GREYS
    return np.clip(np.round(picture / step) * step, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
