"""SuperPoint as transformers has it, in PyTorch, and with its decode inside an ONNX graph as LightGlue-ONNX does it.

LightGlue's own package is on no package index. The class of transformers has the same network and the same decode:
two rounds of suppression by max pooling, the best points, descriptors sampled where they are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lf.core import Array, Features
from lf.export.to_onnx import quiet
from scripts.peers import ours
from scripts.peers.peer import Peer

THRESHOLD, RADIUS, BORDER = ours.SETTINGS["superpoint"]["threshold"], 4, 4  # of transformers
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def peers(path: str, points: int, size: tuple[int, int]) -> list[Peer]:
    """Both, with the weights of a public checkpoint; see `Peer`."""
    import onnxruntime
    import torch
    import transformers

    model, library = network(path, points), f"transformers {transformers.__version__}"
    reference = ours.reference(path, points)
    processor = transformers.SuperPointImageProcessorPil(do_grayscale=True, size={"height": size[0], "width": size[1]})
    return [
        Peer(
            "superpoint, transformers", library, f"torch {torch.__version__}",
            partial(_by_transformers, model, processor), "torch", reference,
        ),
        Peer(
            "superpoint, decode in the graph", f"{library}, torch.onnx", f"onnxruntime {onnxruntime.__version__}",
            partial(_by_graph, session(graph(model, points, size))), "onnxruntime", reference,
        ),
    ]  # fmt: skip


def network(path: str, points: int) -> Any:
    """The class of transformers with the weights of a public checkpoint."""
    import torch
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    config = SuperPointConfig(
        max_keypoints=points, keypoint_threshold=THRESHOLD, nms_radius=RADIUS, border_removal_distance=BORDER
    )
    model = SuperPointForKeypointDetection(config).eval()
    state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({key(name): value for name, value in state.items()})
    return model


def key(name: str) -> str:
    """The name that transformers gives to a tensor of the public checkpoint, such as `conv1a.weight`."""
    layer, _, part = name.partition(".")
    place, which = layer[len("conv") : -1], layer[-1]
    if place in (heads := {"P": "keypoint_decoder.conv_score", "D": "descriptor_decoder.conv_descriptor"}):
        return f"{heads[place]}_{which}.{part}"
    return f"encoder.conv_blocks.{int(place) - 1}.conv_{which}.{part}"


def _by_transformers(model: Any, processor: Any, picture: Array) -> Features:
    import torch

    with torch.inference_mode():
        found = model(**processor(picture, return_tensors="pt"))
        seen = processor.post_process_keypoint_detection(found, [picture.shape[:2]])[0]
    arrays = (seen[name].numpy() for name in ("keypoints", "scores", "descriptors"))
    points, scores, descriptors = arrays
    return Features(points.astype(np.float32), scores, descriptors, picture.shape[1::-1])


def graph(model: Any, points: int, size: tuple[int, int]) -> bytes:
    """An ONNX file (1, 1, H, W) -> keypoints (N, 2), scores (N,), descriptors (N, 256), N as many as `points`."""
    import torch
    from transformers.models.superpoint.modeling_superpoint import simple_nms

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            seen = self.model.encoder(image)[0]
            decoder = self.model.keypoint_decoder
            raw = decoder.conv_score_b(decoder.relu(decoder.conv_score_a(seen)))
            height, width = raw.shape[2:]
            cells = raw.softmax(1)[:, :-1].permute(0, 2, 3, 1).reshape(1, height, width, 8, 8)
            scores = simple_nms(cells.permute(0, 1, 3, 2, 4).reshape(1, 1, height * 8, width * 8), RADIUS)[0, 0]
            inside = torch.nn.functional.pad(scores[BORDER:-BORDER, BORDER:-BORDER], [BORDER] * 4)
            best, at = inside.flatten().topk(points)
            found = torch.stack([at % (width * 8), at // (width * 8)], 1).float()
            return found, best, self.model.descriptor_decoder(seen, found.clone())

    buffer = io.BytesIO()
    names = {"input_names": ["image"], "output_names": ["keypoints", "scores", "descriptors"]}
    with quiet():
        program = torch.onnx.export(
            Whole().eval(), (torch.zeros(1, 1, *size),), dynamo=True, verbose=False, opset_version=18, **names
        )
    assert program is not None
    program.save(buffer)
    return buffer.getvalue()


def session(data: bytes) -> Any:
    """ONNX Runtime with one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _by_graph(opened: Any, picture: Array) -> Features:
    grey = (picture @ GREY / np.float32(255)).astype(np.float32)
    points, scores, descriptors = opened.run(None, {"image": grey[None, None]})
    kept = scores > THRESHOLD
    return Features(points[kept], scores[kept], descriptors[kept], picture.shape[1::-1])
