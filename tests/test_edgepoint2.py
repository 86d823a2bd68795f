"""EdgePoint2: its public files, what is done to an image first, its decode restated, and the originals' numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import conv, fill, maxima, norm
from torch.nn import functional as F

from lf.core import BadInput, LfError, UsageError
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.models import MODELS, checkpoint, pictures
from lf.models.decode import unfold
from lf.models.edgepoint2.decode import describe_edgepoint2, edgepoint2
from lf.models.edgepoint2.picture import prepare
from lf.models.resolve import resolve
from lf.train import RECIPES

SIZES = {  # c1, c2, c3, c4, channels of the score, lengths of descriptors
    "t": (8, 8, 16, 24, 8, (32, 48)),
    "s": (8, 8, 24, 32, 8, (32, 48, 64)),
    "m": (8, 16, 32, 48, 8, (32, 48, 64)),
    "l": (8, 16, 48, 64, 8, (32, 48, 64)),
    "e": (16, 16, 48, 64, 16, (32, 48, 64)),
}
PARAMETERS = {
    "t32": 27_524,
    "t48": 28_308,
    "s32": 43_780,
    "s48": 44_820,
    "s64": 45_860,
    "m32": 85_516,
    "m48": 87_068,
    "m64": 88_620,
    "l32": 144_396,
    "l48": 146_460,
    "l64": 148_524,
    "e32": 150_500,
    "e48": 152_564,
    "e64": 154_628,
}
SETTINGS = {"threshold": 0.3, "radius": 2, "border": 4, "refine": "none"}


def plain(name, outputs, inputs, kernel):
    """A convolution without a bias."""
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def residual(name, inputs, outputs):
    parts = plain(f"{name}.layer.0", outputs, inputs, 3) | norm(f"{name}.layer.1", outputs)
    parts |= plain(f"{name}.layer.3", outputs, outputs, 3) | norm(f"{name}.layer.4", outputs)
    return parts | (conv(f"{name}.skip", outputs, inputs, 1) if inputs != outputs else {})


def shapes(row):
    """The public names and shapes of `t32` ..."""
    c1, c2, c3, c4, score, _ = SIZES[row[0]]
    total, depth = c2 + c3 + c4, int(row[1:])
    found = plain("block1.0.layer.0", c1, 1, 4) | norm("block1.0.layer.1", c1)
    found |= plain("block1.1.layer.0", c2, c1, 3) | norm("block1.1.layer.1", c2)
    found |= residual("block1.2", c2, c2) | residual("block2", c2, c3) | residual("block3", c3, c4)
    for index, channels in enumerate((c2, c3, c4), 1):
        found |= conv(f"conv{index}", score, channels, 1)
    found |= conv("score_head.0", score, score, 3) | conv("score_head.2", score, score, 3)
    found |= conv("score_head.4", 4, score, 3) | conv("desc_head.0", total, total, 1)
    found |= plain("desc_head.1.layer.0", total, 16, 3) | norm("desc_head.1.layer.1", total)
    return found | conv("desc_head.2", depth, total, 1)


def saved(path, row):
    state = fill(shapes(row))
    torch.save(state, path)
    return resolve(path), state


def published(image, state):
    """Score before the pixel shuffle, and descriptors, straight from the public names."""

    def unit(x, name, index=0, groups=1):
        weight, after = state[f"{name}.layer.{index}.weight"], f"{name}.layer.{index + 1}"
        x = F.conv2d(x, weight, stride=2 if weight.shape[2] == 4 else 1, padding=1, groups=groups)
        affine = state[f"{after}.weight"], state[f"{after}.bias"]
        return F.batch_norm(x, state[f"{after}.running_mean"], state[f"{after}.running_var"], *affine)

    def layer(x, name):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[2] // 2)

    def block(x, name):
        skip = layer(x, f"{name}.skip") if f"{name}.skip.weight" in state else x
        return (unit(unit(x, name).relu(), name, 3) + skip).relu()

    def up(x, times):
        return F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)

    x1 = block(unit(unit(image, "block1.0").relu(), "block1.1").relu(), "block1.2")
    p2 = F.avg_pool2d(x1, 2)
    x2 = block(F.avg_pool2d(p2, 2), "block2")
    x3 = block(F.avg_pool2d(x2, 4), "block3")
    score = layer(x1, "conv1") + up(layer(x2, "conv2"), 4) + up(layer(x3, "conv3"), 16)
    score = layer(layer(layer(score, "score_head.0").relu(), "score_head.2").relu(), "score_head.4")
    mixed = layer(torch.cat([p2, up(x2, 2), up(x3, 8)], 1), "desc_head.0")
    mixed = unit(mixed, "desc_head.1", groups=mixed.shape[1] // 16).relu()
    return score, layer(mixed, "desc_head.2")


@pytest.mark.parametrize("row", PARAMETERS)
def test_every_configuration_is_recognised_by_its_shapes(row, tmp_path):
    artifact, state = saved(tmp_path / "it.pth", row)
    name = f"edgepoint2-{row}"
    assert len(state) == 74
    assert (artifact.card.model, artifact.card.input) == (name, (1, None, None))
    assert artifact.card.weights["licence"] == "MIT"
    network = checkpoint.network(artifact)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[row] == MODELS[name].parameters
    image = torch.randn(1, 1, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(network(image), published(image, state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_there_are_fourteen():
    assert [f"edgepoint2-{row}" for row in PARAMETERS] == [n for n, m in MODELS.items() if m.family == "edgepoint2"]
    assert [*PARAMETERS] == [f"{size}{depth}" for size, (*_, depths) in SIZES.items() for depth in depths]


def test_a_tensor_of_another_shape_is_named(tmp_path):
    state = fill(shapes("t32")) | {"desc_head.2.weight": torch.zeros(40, 48, 1, 1)}
    torch.save(state, tmp_path / "it.pth")
    with pytest.raises(BadInput, match=r"looks like edgepoint2-t32 but desc_head.2.weight is \(40, 48, 1, 1\); expect"):
        resolve(tmp_path / "it.pth")


# --- the picture


@pytest.mark.parametrize("size", [(240, 320), (96, 128), (33, 95), (64, 40), (32, 32)])
def test_a_picture_is_stretched_and_whitened_as_published(size):
    picture = np.random.default_rng(0).random((*size, 3), np.float32)
    grey = torch.from_numpy(picture).permute(2, 0, 1).mean(0)[None, None]
    wanted = tuple(side // 32 * 32 for side in size)
    expected = F.instance_norm(F.interpolate(grey, wanted, mode="bilinear", align_corners=True))[0]
    np.testing.assert_allclose(prepare(picture), expected, atol=2e-4)  # its places are float32


def test_a_flat_picture_becomes_nothing():
    assert not prepare(np.full((40, 40, 3), 0.7, np.float32)).any()
    assert pictures.stretch(np.ones((1, 3), np.float32), (2, 1)).tolist() == [[1], [1]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    torch.manual_seed(0)
    return Extractor(saved(tmp_path_factory.mktemp("weights") / "it.pth", "t32")[0], "torch")


def test_points_go_back_as_published(opened):
    picture = next(agreement.drawn((240, 330), 1))
    tensor = opened.tensor(opened.fit(picture))
    assert tensor.shape == (1, 1, 224, 320)
    seen = agreement.look(opened, tensor).features
    found = opened(picture)
    assert len(found) > 20
    assert found.size == (330, 240)
    np.testing.assert_allclose(found.keypoints, seen.keypoints * np.float32([330 / 320, 240 / 224]), atol=1e-4)


def test_grey_pictures_and_floats_are_seen_alike(opened):
    grey = next(agreement.drawn((64, 96), 1))[..., 1]
    ways = [grey, np.repeat(grey[..., None], 3, 2), grey / np.float32(255)]
    first, *others = [opened.tensor(opened.fit(way)) for way in ways]
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


def test_a_picture_smaller_than_the_network_is_refused(opened):
    with pytest.raises(BadInput, match="an image of 40x31 is too small; expected at least 32x32"):
        opened(np.zeros((31, 40), np.uint8))


def test_the_points_of_another_detector_are_described_where_they_lie(opened):
    sift = Extractor(resolve("sift"), "opencv")
    mixed = Extractor(opened.artifact, "torch", keypoints=sift)
    picture = next(agreement.drawn((80, 110), 1))
    found, maps = mixed(picture), agreement.look(opened, opened.tensor(opened.fit(picture))).maps
    at = found.keypoints * np.float32([96 / 110, 64 / 80])
    np.testing.assert_allclose(found.descriptors, describe_edgepoint2(maps, at), atol=1e-5)


def test_a_file_of_one_size_takes_what_stretches_to_it(network):
    one, free = (Extractor(network("edgepoint2-t32", size), "ort-cpu") for size in ((64, 96), None))
    picture = next(agreement.drawn((70, 100), 1))
    found, wanted = one(picture), free(picture)
    assert len(found)
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=1e-4)
    assert one.fit(np.zeros((200, 100, 3), np.uint8)).shape == (64, 96, 3)


# --- the decode


def random_maps(size=(40, 56), seed=0):
    rng = np.random.default_rng(seed)
    shape = size[0] // 2, size[1] // 2
    score, descriptor = (3 * rng.standard_normal(s) for s in ((4, *shape), (8, shape[0] // 2, shape[1] // 2)))
    return {"score": score.astype(np.float32), "descriptor": descriptor.astype(np.float32)}


def test_decode_restated():
    maps = random_maps()
    keypoints, scores, descriptors = edgepoint2(maps, **SETTINGS)
    logits = F.pixel_shuffle(torch.from_numpy(maps["score"])[None], 2)[0, 0].numpy()
    heat = 1 / (1 + np.exp(-logits.astype(np.float64)))
    height, width = logits.shape
    chosen = [divmod(at, width) for at in maxima(heat, 0.3, 2)]
    chosen = sorted(
        (at for at in chosen if 4 <= at[0] < height - 4 and 4 <= at[1] < width - 4), key=lambda at: -heat[at]
    )
    assert len(chosen) > 20
    assert keypoints.tolist() == [[float(x), float(y)] for y, x in chosen]
    np.testing.assert_allclose(scores, [heat[at] for at in chosen], rtol=1e-5)
    at = torch.from_numpy((keypoints + 0.5) / np.float32([width / 2, height / 2]) - 1)[None, None]
    sampled = F.grid_sample(torch.from_numpy(maps["descriptor"])[None], at, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(descriptors, F.normalize(sampled[0, :, 0].T, dim=1), atol=2e-6)


def test_a_score_of_other_channels_is_named():
    with pytest.raises(LfError, match=r"the score map has shape \(1, 20, 28\); expected \(4, height, width\)"):
        edgepoint2({**random_maps(), "score": np.zeros((1, 20, 28), np.float32)}, **SETTINGS)


def test_loud_scores_still_differ():
    maps = random_maps()
    maps["score"] += 30
    assert len(np.unique(edgepoint2(maps, **{**SETTINGS, "radius": 1})[0], axis=0)) > 20


# --- the originals


@pytest.mark.parametrize("row", ["t32", "s64", "m64", "e64"])
def test_the_public_weights_give_the_maps_and_points_of_the_original(row, shared):
    held = np.load(shared / f"parity/families/edgepoint2-{row}.npz")
    artifact = resolve(shared / "weights/edgepoint2" / f"{row.upper()}.pth")
    assert artifact.card.model == f"edgepoint2-{row}"
    extractor = Extractor(artifact, "torch")
    tensor = extractor.tensor(extractor.fit(held["image"]))
    maps = agreement.look(extractor, tensor).maps
    ours = {"norm_in": tensor[0], "desc": maps["descriptor"], "score": unfold(maps["score"], 2)[None]}
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
    scores = best.scores[nearest].astype(np.float64)
    np.testing.assert_allclose(np.log(scores / (1 - scores)), held["scores"], atol=5e-4)
    assert (best.descriptors[nearest] * held["descriptors"]).sum(1).min() > 0.9999


def test_the_public_name_of_a_file_does_not_matter(shared, tmp_path):
    path = Path(tmp_path, "weights.pt")
    path.write_bytes((shared / "weights/edgepoint2/T32.pth").read_bytes())
    assert resolve(path).card.model == "edgepoint2-t32"


def test_training_is_refused():
    with pytest.raises(
        UsageError, match="model=edgepoint2-t32 prepares images on the host; expected one that does not"
    ):
        dataclasses.replace(RECIPES["distil"], model="edgepoint2-t32")
