"""XFeat: its public file, what is done to an image first, its decode restated, and the original's numbers."""

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
from lf.models import MODELS, checkpoint
from lf.models.decode import heatmap
from lf.models.resolve import resolve
from lf.models.xfeat.decode import describe_xfeat, xfeat
from lf.models.xfeat.picture import prepare
from lf.quantize import quantize

SETTINGS = {"threshold": 0.1, "radius": 2, "refine": "none"}
LAYERS = {  # inputs, then channels and kernel of each layer
    "block1": (1, (4, 3), (8, 3), (8, 3), (24, 3)),
    "block2": (24, (24, 3), (24, 3)),
    "block3": (24, (64, 3), (64, 3), (64, 1)),
    "block4": (64, (64, 3), (64, 3), (64, 3)),
    "block5": (64, (128, 3), (128, 3), (128, 3), (64, 1)),
    "block_fusion": (64, (64, 3), (64, 3)),
    "heatmap_head": (64, (64, 1), (64, 1)),
    "keypoint_head": (64, (64, 1), (64, 1), (64, 1)),
}
HALVED = ("block1.1", "block1.3", "block3.0", "block4.0", "block5.0")  # layers with a stride of 2


def unit(name, outputs, inputs, kernel):
    """A layer without a bias, and its normalisation without a factor."""
    counter = {f"{name}.layer.1.num_batches_tracked": ()}
    rows = {f"{name}.layer.1.running_{of}": (outputs,) for of in ("mean", "var")}
    return {f"{name}.layer.0.weight": (outputs, inputs, kernel, kernel)} | rows | counter


def shapes(matcher=True):
    """The public names and shapes."""
    found = conv("skip1.1", 24, 1, 1)
    for block, (inputs, *layers) in LAYERS.items():
        for index, (outputs, kernel) in enumerate(layers):
            found |= unit(f"{block}.{index}", outputs, inputs, kernel)
            inputs = outputs
    for name, outputs in {"block_fusion.2": 64, "heatmap_head.2": 1, "keypoint_head.3": 65}.items():
        found |= conv(name, outputs, 64, 1)
    return found | ({f"fine_matcher.{index}.weight": (64, 64) for index in (0, 3)} if matcher else {})


def saved(path, matcher=True):
    state = fill(shapes(matcher))
    torch.save(state, path)
    return resolve(path), state


def published(image, state):
    """Descriptors, keypoint logits and reliability logit, straight from the public names."""

    def layer(x, name):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def block(x, name):
        for index in range(len(LAYERS[name]) - 1):
            one = f"{name}.{index}"
            weight, after = state[f"{one}.layer.0.weight"], f"{one}.layer.1"
            x = F.conv2d(x, weight, stride=2 if one in HALVED else 1, padding=weight.shape[2] // 2)
            x = F.batch_norm(x, state[f"{after}.running_mean"], state[f"{after}.running_var"]).relu()
        return x

    x2 = block(block(image, "block1") + layer(F.avg_pool2d(image, 4), "skip1.1"), "block2")
    x3 = block(x2, "block3")
    x4 = block(x3, "block4")
    grown = [F.interpolate(x, x3.shape[2:], mode="bilinear") for x in (x4, block(x4, "block5"))]
    features = layer(block(x3 + grown[0] + grown[1], "block_fusion"), "block_fusion.2")
    detector = layer(block(F.pixel_unshuffle(image, 8), "keypoint_head"), "keypoint_head.3")
    return detector, layer(block(features, "heatmap_head"), "heatmap_head.2"), features


@pytest.mark.parametrize("matcher", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_the_public_file_is_recognised(prefix, matcher, tmp_path):
    state = fill(shapes(matcher))
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "it.pt")
    artifact = resolve(tmp_path / "it.pt")
    assert (artifact.card.model, artifact.card.input) == ("xfeat", (1, None, None))
    assert artifact.card.weights["licence"] == "Apache-2.0"
    network = checkpoint.network(artifact)
    assert sum(p.numel() for p in network.parameters()) == 657_910 == MODELS["xfeat"].parameters
    image = torch.randn(1, 1, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(network(image), published(image, state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_tensor_that_does_not_fit_is_named(tmp_path):
    torch.save(fill(shapes()) | {"keypoint_head.3.weight": torch.zeros(60, 64, 1, 1)}, tmp_path / "it.pt")
    with pytest.raises(BadInput, match=r"looks like xfeat but keypoint_head.3.weight is \(60, 64, 1, 1\); expected"):
        resolve(tmp_path / "it.pt")
    state = fill(shapes())
    del state["skip1.1.bias"]
    torch.save(state, tmp_path / "it.pt")
    with pytest.raises(BadInput, match=r"looks like xfeat but skip1\.1\.bias is missing"):
        resolve(tmp_path / "it.pt")


# --- the picture


@pytest.mark.parametrize("size", [(240, 320), (96, 128), (33, 95), (64, 40)])
def test_a_picture_is_stretched_and_whitened_as_published(size):
    picture = np.random.default_rng(0).random((*size, 3), np.float32)
    colours = torch.from_numpy(picture).permute(2, 0, 1)[None]
    wanted = tuple(side // 32 * 32 for side in size)
    grey = F.interpolate(colours, wanted, mode="bilinear", align_corners=False).mean(1, keepdim=True)
    np.testing.assert_allclose(prepare(picture), F.instance_norm(grey)[0], atol=2e-4)  # its places are float32


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    torch.manual_seed(0)
    return Extractor(saved(tmp_path_factory.mktemp("weights") / "it.pt")[0], "torch", threshold=0.01)


def test_points_go_back_as_published(opened):
    picture = next(agreement.drawn((80, 110), 1))
    tensor = opened.tensor(opened.fit(picture))
    assert tensor.shape == (1, 1, 64, 96)
    seen, found = agreement.look(opened, tensor).features, opened(picture)
    assert len(found) > 5
    np.testing.assert_allclose(found.keypoints, seen.keypoints * np.float32([110 / 96, 80 / 64]), atol=1e-4)


def test_the_points_of_another_detector_are_described_where_they_lie(opened):
    mixed = Extractor(opened.artifact, "torch", keypoints=Extractor(resolve("sift"), "opencv"))
    picture = next(agreement.drawn((80, 110), 1))
    found, maps = mixed(picture), agreement.look(opened, opened.tensor(opened.fit(picture))).maps
    at = found.keypoints * np.float32([96 / 110, 64 / 80])
    np.testing.assert_allclose(found.descriptors, describe_xfeat(maps, at), atol=1e-5)


# --- the decode


def random_maps(size=(48, 64), seed=0):
    rng = np.random.default_rng(seed)
    heads = {"detector": 65, "reliability": 1, "descriptor": 8}
    return {
        name: (2 * rng.standard_normal((channels, size[0] // 8, size[1] // 8))).astype(np.float32)
        for name, channels in heads.items()
    }


def read(values, points, size, mode):
    """Sample a map (1, c, h, w) at points of an image (H, W), as the published code."""
    grid = 2 * torch.from_numpy(points) / torch.tensor([size[1] - 1, size[0] - 1]) - 1
    return F.grid_sample(values, grid[None, :, None].float(), mode=mode, align_corners=False)[0, :, :, 0].T


@pytest.mark.parametrize("seed", range(3))
def test_decode_restated(seed):
    maps = random_maps(seed=seed)
    heat = heatmap(maps["detector"])
    points = np.float32([divmod(at, heat.shape[1])[::-1] for at in maxima(heat, 0.1, 2)])
    tensors = {name: torch.from_numpy(values)[None] for name, values in maps.items()}
    scores = read(torch.from_numpy(heat)[None, None], points, heat.shape, "nearest")
    scores = (scores * read(tensors["reliability"].sigmoid(), points, heat.shape, "bilinear"))[:, 0].numpy()
    scores[(points == 0).all(1)] = -1
    order = np.argsort(-scores, kind="stable")[: (scores > 0).sum()]
    described = read(F.normalize(tensors["descriptor"], dim=1), points[order], heat.shape, "bicubic")
    assert len(order) > 20
    found = xfeat(maps, **SETTINGS)
    np.testing.assert_array_equal(found[0], points[order])
    np.testing.assert_allclose(found[1], scores[order], atol=1e-5)
    np.testing.assert_allclose(found[2], F.normalize(described, dim=1), atol=2e-5)
    for ours, first in zip(xfeat(maps, **SETTINGS, top_k=5), found, strict=True):
        np.testing.assert_array_equal(ours, first[:5])


@pytest.mark.parametrize(("at", "kept"), [((0, 0), 0), ((0, 5), 1), ((63, 9), 0), ((9, 47), 0), ((62, 46), 1)])
def test_points_that_the_published_reader_misses_are_dropped(at, kept):
    maps = random_maps()
    maps["detector"] = np.full_like(maps["detector"], -9)
    maps["detector"][64] = 0
    maps["detector"][at[1] % 8 * 8 + at[0] % 8, at[1] // 8, at[0] // 8] = 9
    points = xfeat(maps, **SETTINGS)[0]
    assert points.tolist() == [[float(side) for side in at]] * kept


def test_maps_that_do_not_fit_are_named():
    with pytest.raises(LfError, match=r"the detector map has shape \(64, 6, 8\); expected \(65, height, width\)"):
        xfeat({**random_maps(), "detector": np.zeros((64, 6, 8), np.float32)}, **SETTINGS)
    for name in ("detector", "reliability", "descriptor"):
        maps = random_maps()
        maps[name][0, 0, 0] = np.nan
        with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
            xfeat(maps, **SETTINGS)


# --- 8 bits


def test_8_bits_leave_the_detector_and_what_it_reads_in_float(network, drawn_photos, tmp_path):
    onnx = pytest.importorskip("onnx")
    parent = network("xfeat", loud=True)
    made = quantize(parent, "w8a8", drawn_photos, tmp_path / "q.onnx", rounding="nearest")
    graph = onnx.load(made.path).graph
    kinds = {name: node.op_type for node in graph.node for name in node.output}
    floats = {node.name: node.input[0] for node in graph.node if node.op_type == "Conv" and node.input[1] not in kinds}
    assert [*floats] == ["detector.0.conv", "detector.1.conv", "detector.2.conv", "detector.3"]
    assert floats["detector.0.conv"] == "image", "not the 8-bit steps that block1 reads"
    assert next(node.input[0] for node in graph.node if node.name == "block1.0.conv") != "image"


# --- the original


def public_file(shared):
    """The public xfeat.pt: in ../shared, or where XFEAT says."""
    places = [shared / "weights/xfeat/xfeat.pt", Path(os.environ.get("XFEAT", "absent"))]
    return next((path for path in places if path.is_file()), None) or pytest.skip("needs the public xfeat.pt")


def test_the_public_weights_give_the_maps_and_points_of_the_original(shared):
    extractor = Extractor(resolve(public_file(shared)), "torch")
    held = np.load(shared / "parity/families/xfeat.npz")
    tensor = extractor.tensor(extractor.fit(held["image"]))
    maps = agreement.look(extractor, tensor).maps
    ours = {"norm_in": tensor[0], "feats": maps["descriptor"], "keypoint_logits": maps["detector"]}
    ours["reliability"] = 1 / (1 + np.exp(-maps["reliability"]))
    for name, values in ours.items():
        assert values.shape == tuple(held[f"map_{name}_shape"])
        expected = held[f"map_{name}_val"]
        error = np.abs(values[tuple(held[f"map_{name}_pos"].T)] - expected)
        assert error.max() <= 1e-4 * np.abs(expected).max(), name
    found = extractor(held["image"])
    assert len(found) == held["n_all"]
    best = found.top(300)
    apart, nearest = agreement.nearest(held["keypoints"], best.keypoints)
    assert apart.max() <= 0.01
    np.testing.assert_allclose(best.scores[nearest], held["scores"], atol=1e-4)
    assert (best.descriptors[nearest] * held["descriptors"]).sum(1).min() > 0.9999


def test_a_decode_of_the_original_maps_gives_its_points(shared):
    """Without the weights: float16 maps of the fixture, so that a few points on the verge may differ."""
    held = np.load(shared / "parity/families/xfeat.npz")
    reliability = held["map_reliability"].astype(np.float32)
    maps = {
        "detector": held["map_keypoint_logits"].astype(np.float32),
        "reliability": np.log(reliability / (1 - reliability)),
        "descriptor": held["map_feats"].astype(np.float32),
    }
    points, _, descriptors = xfeat(maps, **MODELS["xfeat"].settings, top_k=400)
    points *= np.float32([1, 240 / 224])
    apart, nearest = agreement.nearest(held["keypoints"], points)
    same = apart < 0.01
    assert same.mean() > 0.98
    assert (descriptors[nearest] * held["descriptors"]).sum(1)[same].min() > 0.9999
