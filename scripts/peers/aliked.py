"""ALIKED as kornia has it, in PyTorch, and in OpenCV's class for it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lf.core import Array, Features
from lf.export import export
from lf.models.resolve import resolve
from scripts.peers import ours
from scripts.peers.peer import Peer

CV: Any = cv2  # its type stubs miss the class


def peers(path: str, points: int, size: tuple[int, int]) -> tuple[list[Peer], list[str]]:
    """Both, with the weights of a public checkpoint; and what does not load, with the reason."""
    import kornia
    import torch

    name = resolve(path).card.model
    model, library = network(path, name, points), f"kornia {kornia.__version__}"
    reference = ours.reference(path, points)
    found = [
        Peer(f"{name}, kornia", library, f"torch {torch.__version__}", partial(_by_kornia, model), "torch", reference)
    ]
    try:
        detector = opencv(path, points, size)
        detector.detectAndCompute(np.zeros((*size, 3), np.uint8), None)
    except (cv2.error, AttributeError) as error:
        return found, [f"{name}, OpenCV {cv2.__version__}: {' '.join(str(error).split())[:300]}"]
    own = f"OpenCV {cv2.__version__}"
    return [*found, Peer(f"{name}, OpenCV", own, own, partial(_by_opencv, detector), "opencv", reference)], []


def network(path: str, name: str, points: int) -> Any:
    """The class of kornia with the weights of a public checkpoint."""
    import torch
    from kornia.feature import ALIKED

    model = ALIKED(name, max_num_keypoints=points)
    state = torch.load(path, map_location="cpu", weights_only=True)
    grid = {"dkd.hw_grid": model.dkd.hw_grid}  # a constant, which the public file does not hold
    model.load_state_dict(grid | state)
    return model.eval()


def _by_kornia(model: Any, picture: Array) -> Features:
    import torch

    with torch.inference_mode():
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
        found = model(tensor)[0]
    arrays = (value.numpy() for value in (found.keypoints, found.keypoint_scores, found.descriptors))
    return Features(*arrays, picture.shape[1::-1])


def opencv(path: str, points: int, size: tuple[int, int]) -> Any:
    """OpenCV's detector with an ONNX file of the inputs and outputs that it asks for, decode inside, made by lf."""
    import onnx
    from onnx import helper, numpy_helper

    with tempfile.TemporaryDirectory(prefix="lf-peers-") as folder:
        heads = export(resolve(path), "onnx", Path(folder, "heads.onnx"), size=size)
        whole = export(heads, "onnx", Path(folder, "whole.onnx"), cut="features", top_k=points)
        model = onnx.load(whole.path)
        scale = np.array([2 / size[1], 2 / size[0]], np.float32)  # from pixels to -1 ... 1, as OpenCV undoes it
        constants = {"to_unit": scale, "one": np.float32(1)}
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
        for node in model.graph.node:
            node.output[:] = ["pixels" if name == "keypoints" else name for name in node.output]
            node.input[:] = ["pixels" if name == "keypoints" else name for name in node.input]
        model.graph.node.extend(
            [
                helper.make_node("Mul", ["pixels", "to_unit"], ["doubled"], name="doubled"),
                helper.make_node("Sub", ["doubled", "one"], ["keypoints"], name="unit"),
            ]
        )
        place = Path(folder, "opencv.onnx")
        onnx.save(model, place)
        settings = CV.ALIKED_Params()
        settings.inputSize = size[::-1]
        return CV.ALIKED_create(str(place), settings)


def _by_opencv(detector: Any, picture: Array) -> Features:
    found, descriptors = detector.detectAndCompute(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), None)
    points = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    scores = np.array([point.response for point in found], np.float32)
    return Features(points, scores, descriptors, picture.shape[1::-1])
