"""Small trees of labelled images that tests draw: Cityscapes, COCO panoptic, and folders of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from lf.core import Artifact, Card
from lf.formats import model_file
from lf.models import MODELS

FRAMES = ("train/aachen/aachen_000000_000019", "train/bochum/bochum_000001_000019")
MORE = ("val/lindau/lindau_000000_000019", "val/lindau/lindau_000001_000019")


def save(path: Path, image: np.ndarray) -> Path:
    """Write an image as it is: RGB order is the caller's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def photo(seed: int = 0, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def halves(left: int, right: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A mask of two ids, side by side."""
    mask = np.full(size, left, np.uint8)
    mask[:, size[1] // 2 :] = right
    return mask


def cityscapes(root: Path) -> Path:
    """Four frames, two cities in train, one in val; the last frame has no labels."""
    for seed, name in enumerate((*FRAMES, *MORE)):
        save(root / "leftImg8bit" / f"{name}_leftImg8bit.png", photo(seed))
    for name in (*FRAMES, MORE[0]):
        save(root / "gtFine" / f"{name}_gtFine_labelIds.png", halves(7, 21))
        save(root / "gtFine" / f"{name}_gtFine_color.png", photo())
    return root


def segments(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W) as a panoptic PNG holds them, in OpenCV's order."""
    return np.stack([ids // 65536, ids // 256 % 256, ids % 256], -1).astype(np.uint8)


def coco(root: Path, below: str = "", count: int = 3) -> Path:
    """A split val2017 with its panoptic files, directly below the root or in `annotations`; the last has no PNG.

    Every mask is a left part of a dog (18), a right part of pavement (191), and a void top row.
    """
    rows = []
    for n in range(count):
        save(root / "val2017" / f"{n:012d}.jpg", photo(n))
        ids = halves(1, 2).astype(np.int64) * 70000  # more than 16 bits
        ids[0] = 0
        if n < count - 1:
            save(root / below / "panoptic_val2017" / f"{n:012d}.png", segments(ids))
        infos = [{"id": 70000, "category_id": 18}, {"id": 140000, "category_id": 191}]
        rows.append({"file_name": f"{n:012d}.png", "image_id": n, "segments_info": infos})
    (root / below).mkdir(parents=True, exist_ok=True)
    (root / below / "panoptic_val2017.json").write_text(json.dumps({"annotations": rows}))
    return root


def pairs(root: Path, count: int = 3, ids: tuple[int, int] = (0, 1)) -> Path:
    """`images` and `masks` of a root; the last image has no mask."""
    for n in range(count):
        save(root / "images" / f"{n}.jpg", photo(n))
        if n < count - 1:
            save(root / "masks" / f"{n}.png", halves(*ids))
    return root


def network(path: Path, means: list[float], of: str = "superpoint") -> Artifact:
    """An ONNX file of a network with a segmentation: a cell belongs to the class of the nearest mean grey, 0 to 1.

    Its other heads are random convolutions.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, grey = np.random.default_rng(0), np.array(means, np.float32)
    heads = {**MODELS[of].heads, "segmentation": (len(means), 8)}
    nodes, weights, outputs = [], [], []
    for head, (channels, stride) in heads.items():
        kernel, bias = rng.standard_normal((channels, 1, stride, stride)), np.zeros(channels)
        if head == "segmentation":  # -(x - m)^2, but for x^2
            kernel, bias = np.ones((channels, 1, 8, 8)) * (2 * grey / 64)[:, None, None, None], -grey * grey
        for name, values in (("weight", kernel), ("bias", bias)):
            weights.append(numpy_helper.from_array(values.astype(np.float32), f"{head}.{name}"))
        nodes.append(
            helper.make_node("Conv", ["image", f"{head}.weight", f"{head}.bias"], [head], strides=[stride] * 2)
        )
        outputs.append(helper.make_tensor_value_info(head, TensorProto.FLOAT, [1, channels, None, None]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "height", "width"])
    graph = helper.make_graph(nodes, of, [image], outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    origin = {"origin": "random numbers", "sha256": "00", "licence": "none"}
    return model_file.save(path, proto.SerializeToString(), Card(of, origin, (1, None, None), outputs=heads))


def grey_frames(root: Path, count: int = 12, size: tuple[int, int] = (48, 64)) -> Path:
    """Images with a black left part of class 0 and a white right part of class 1; the border moves."""
    for n in range(count):
        mask = np.zeros(size, np.uint8)
        mask[:, size[1] // 4 + 2 * n :] = 1
        save(root / "images" / f"{n:02d}.png", np.where(mask, 255, 10).astype(np.uint8)[..., None].repeat(3, 2))
        mask[:4] = 255
        save(root / "masks" / f"{n:02d}.png", mask)
    rows = [{"id": 0, "name": "black", "color": [0, 0, 0]}, {"id": 1, "name": "white", "color": [255, 255, 255]}]
    (root / "masks" / "categories.json").write_text(json.dumps([*rows, {"id": 2, "name": "red", "color": [255, 0, 0]}]))
    return root
