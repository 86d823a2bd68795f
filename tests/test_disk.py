"""DISK: its public file, what is done to an image first, its decode restated, and the original's numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import conv, fill, maxima
from torch.nn import functional as F

from lf.core import BadInput, LfError
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.extraction.variant import Variant
from lf.models import MODELS, checkpoint
from lf.models.disk.decode import describe_disk, disk
from lf.models.disk.picture import prepare
from lf.models.resolve import resolve
from lf.quantize import quantize

SETTINGS = MODELS["disk"].settings
LAYERS = {  # inputs, outputs; a layer normalises, bends and convolves
    "path_down.1.1": (16, 32),
    "path_down.2.1": (32, 64),
    "path_down.3.1": (64, 64),
    "path_down.4.1": (64, 64),
    "path_up.0.conv": (128, 64),
    "path_up.1.conv": (128, 64),
    "path_up.2.conv": (96, 64),
    "path_up.3.conv": (80, 129),
}


def shapes():
    """The public names and shapes."""
    found = conv("unet.path_down.0.1.3", 16, 3, 5)
    for name, (inputs, outputs) in LAYERS.items():
        found |= {f"unet.{name}.1.weight": (inputs,)} | conv(f"unet.{name}.3", outputs, inputs, 5)
    return found


def saved(path):
    state = fill(shapes())
    torch.save({"extractor": state}, path)
    return resolve(path), state


def published(image, state):
    """Score and descriptors, straight from the public names."""

    def layer(x, name):
        x = F.prelu(F.instance_norm(x), state[f"unet.{name}.1.weight"])
        return F.conv2d(x, state[f"unet.{name}.3.weight"], state[f"unet.{name}.3.bias"], padding=2)

    first = "unet.path_down.0.1.3"
    levels = [F.conv2d(image, state[f"{first}.weight"], state[f"{first}.bias"], padding=2)]
    for index in range(1, 5):
        levels.append(layer(F.avg_pool2d(levels[-1], 2), f"path_down.{index}.1"))
    x = levels[4]
    for index in range(4):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = layer(torch.cat([x, levels[3 - index]], 1), f"path_up.{index}.conv")
    return x[:, -1:], x[:, :-1]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_public_file_is_recognised(prefix, tmp_path):
    state = fill(shapes())
    torch.save({"extractor": {prefix + name: value for name, value in state.items()}}, tmp_path / "it.pth")
    artifact = resolve(tmp_path / "it.pth")
    assert len(state) == 26
    assert (artifact.card.model, artifact.card.input) == ("disk", (3, None, None))
    assert artifact.card.weights["licence"] == "Apache-2.0"
    network = checkpoint.network(artifact)
    assert sum(p.numel() for p in network.parameters()) == 1_092_369 == MODELS["disk"].parameters
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        for ours, theirs in zip(network(image), published(image, state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_tensor_that_does_not_fit_is_named(tmp_path):
    torch.save(fill(shapes()) | {"unet.path_up.0.conv.1.weight": torch.zeros(64)}, tmp_path / "it.pth")
    with pytest.raises(BadInput, match=r"looks like disk but path_up.0.conv.1.weight is \(64,\); expected \(128,\)"):
        resolve(tmp_path / "it.pth")
    torch.save(fill(shapes()) | {"unet.path_up.3.conv.3.bias": torch.zeros(120)}, tmp_path / "it.pth")
    with pytest.raises(BadInput, match=r"looks like disk but path_up.3.conv.3.bias\[-1:\] is missing"):
        resolve(tmp_path / "it.pth")


# --- the picture


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    torch.manual_seed(0)
    return Extractor(saved(tmp_path_factory.mktemp("weights") / "it.pth")[0], "torch")


def test_a_picture_is_padded_at_the_right_and_the_bottom():
    picture = np.random.default_rng(0).random((33, 48, 3), np.float32)
    found = prepare(picture)
    assert found.shape == (3, 48, 48)
    np.testing.assert_array_equal(np.moveaxis(found, 0, 2)[:33], picture)
    assert not found[:, 33:].any()


@pytest.mark.parametrize("size", [(37, 50), (32, 48)])
def test_maps_are_cut_to_the_picture_before_they_are_decoded(opened, size):
    picture = next(agreement.drawn((64, 64), 1))[: size[0], : size[1]]
    tensor = opened.tensor(opened.fit(picture))
    assert tensor.shape[2:] == tuple(-(-side // 16) * 16 for side in size)
    maps = {name: values[0, :, : size[0], : size[1]] for name, values in opened.session.run(tensor).items()}
    points, scores, descriptors = disk(maps, **SETTINGS)
    found = opened(picture)
    assert len(found) > 5
    np.testing.assert_array_equal(found.keypoints, points)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    np.testing.assert_allclose(found.descriptors, descriptors, atol=1e-5)
    assert (found.keypoints <= np.array(size[::-1]) - 1).all()


def test_the_points_of_another_detector_are_described_where_they_lie(opened):
    mixed = Extractor(opened.artifact, "torch", keypoints=Extractor(resolve("sift"), "opencv"))
    picture = next(agreement.drawn((60, 70), 1))
    found = mixed(picture)
    maps = {name: values[0] for name, values in opened.session.run(opened.tensor(picture)).items()}
    np.testing.assert_allclose(found.descriptors, describe_disk(maps, found.keypoints), atol=1e-5)


def test_a_threshold_has_no_upper_end(opened):
    scores = opened(next(agreement.drawn((32, 48), 1))).scores
    high = Variant(opened.artifact, "torch", threshold=float(scores[3])).open()
    assert len(high(next(agreement.drawn((32, 48), 1)))) == 3
    assert Variant(opened.artifact, "torch", threshold=50).open().settings["threshold"] == 50


# --- the decode


def random_maps(height=31, width=40, seed=0):
    rng = np.random.default_rng(seed)
    score, descriptor = (rng.normal(0, 40, (c, height, width)).astype(np.float32) for c in (1, 8))
    return {"score": score, "descriptor": descriptor}


def test_decode_restated():
    maps = random_maps()
    score = maps["score"][0]
    chosen = sorted((divmod(at, 40) for at in maxima(score, 1e-9, 2)), key=lambda at: -score[at])
    assert len(chosen) > 20
    points, scores, descriptors = disk(maps, **SETTINGS)
    assert points.tolist() == [[float(x), float(y)] for y, x in chosen]
    assert scores.tolist() == [score[at] for at in chosen]
    read = np.stack([maps["descriptor"][:, y, x] for y, x in chosen])
    np.testing.assert_allclose(descriptors, read / np.linalg.norm(read, axis=1, keepdims=True), atol=1e-6)
    for ours, first in zip(disk(maps, **SETTINGS, top_k=5), (points, scores, descriptors), strict=True):
        np.testing.assert_array_equal(ours, first[:5])


def test_a_score_of_the_threshold_is_no_point():
    score = np.full((1, 9, 9), -1, np.float32)
    score[0, 4, 4] = 2
    maps = {"score": score, "descriptor": np.ones((8, 9, 9), np.float32)}
    assert [len(disk(maps, **{**SETTINGS, "threshold": least})[0]) for least in (0.0, 1.5, 2.0)] == [1, 1, 0]
    assert not len(disk({**maps, "score": np.zeros_like(score)}, **SETTINGS)[0])


@pytest.mark.parametrize("name", ["score", "descriptor"])
def test_a_map_that_is_not_finite_is_named(name):
    maps = random_maps()
    maps[name][0, 0, 0] = np.nan
    with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
        disk(maps, **SETTINGS)


# --- 8 bits


def test_the_first_layer_the_score_and_the_norms_stay_float(network, drawn_photos, tmp_path):
    onnx = pytest.importorskip("onnx")
    made = quantize(network("disk", loud=True), "w8a8", drawn_photos, tmp_path / "q.onnx", rounding="nearest")
    graph = onnx.load(made.path).graph
    kinds = {name: node.op_type for node in graph.node for name in node.output}
    floats = [node.name for node in graph.node if node.op_type == "Conv" and node.input[1] not in kinds]
    assert floats == ["first", "score"]
    bent = [node.input[0] for node in graph.node if node.op_type == "PRelu"]
    assert [kinds[name] for name in bent] == ["InstanceNormalization"] * 8


# --- the original


def public_file(shared):
    """The public depth-save.pth: in ../shared, or where DISK says."""
    places = [shared / "weights/disk/disk-depth-save.pth", Path(os.environ.get("DISK", "absent"))]
    return next((path for path in places if path.is_file()), None) or pytest.skip("needs the public depth-save.pth")


def test_the_public_weights_give_the_maps_and_points_of_the_original(shared):
    extractor = Extractor(resolve(public_file(shared)), "torch")
    held = np.load(shared / "parity/families/disk.npz")
    maps = agreement.look(extractor, extractor.tensor(extractor.fit(held["image"]))).maps
    for name, values in {"desc": maps["descriptor"], "heatmap": maps["score"]}.items():
        assert values.shape == tuple(held[f"map_{name}_shape"])
        expected = held[f"map_{name}_val"]
        error = np.abs(values[tuple(held[f"map_{name}_pos"].T)] - expected)
        assert error.max() <= 1e-4 * np.abs(expected).max(), name
    found = extractor(held["image"])
    assert len(found) == held["n_all"]
    best = found.top(300)
    apart, nearest = agreement.nearest(held["keypoints"], best.keypoints)
    assert apart.max() <= 0.01
    np.testing.assert_allclose(best.scores[nearest], held["scores"], atol=2e-3)
    assert (best.descriptors[nearest] * held["descriptors"]).sum(1).min() > 0.9999


def test_a_decode_of_the_original_map_gives_its_points(shared):
    """Without the weights: a float16 map of the fixture, so that a few points on the verge may differ."""
    held = np.load(shared / "parity/families/disk.npz")
    score = held["map_heatmap"].astype(np.float32)
    points = disk({"score": score, "descriptor": np.ones((8, *score.shape[1:]), np.float32)}, **SETTINGS, top_k=400)[0]
    assert agreement.near(held["keypoints"], points, 0.01).mean() > 0.98
