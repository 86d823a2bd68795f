"""ALIKE: its public files, what is done to an image first, its decode restated, and the originals' numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_models import conv, fill, greedy, norm
from torch.nn import functional as F

from lf.core import BadInput, LfError, UsageError
from lf.export import export
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.models import MODELS, checkpoint
from lf.models.alike.decode import alike, describe_alike
from lf.models.alike.picture import prepare
from lf.models.resolve import resolve
from lf.train import RECIPES

SIZES = {  # channels of the stages, length of a descriptor, one more layer in the head
    "t": ((8, 16, 32, 64), 64, False, 82_728),
    "s": ((8, 16, 48, 96), 96, False, 175_992),
    "n": ((16, 32, 64, 128), 128, False, 329_168),
    "l": ((32, 64, 128, 128), 128, True, 653_984),
}
SETTINGS = {"threshold": 0.5, "nms_radius": 2, "border": 2, "temperature": 0.1, "refine": "none"}


def plain(name, outputs, inputs, kernel):
    """A convolution without a bias."""
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def shapes(size):
    """The public names and shapes."""
    widths, depth, deeper, _ = SIZES[size]
    found = {}
    for index, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False), 1):
        name = f"block{index}"
        found |= plain(f"{name}.conv1", outputs, inputs, 3) | norm(f"{name}.bn1", outputs)
        found |= plain(f"{name}.conv2", outputs, outputs, 3) | norm(f"{name}.bn2", outputs)
        found |= conv(f"{name}.downsample", outputs, inputs, 1) if index > 1 else {}
        found |= plain(f"conv{index}", depth // 4, outputs, 1)
    found |= plain("convhead1", depth, depth, 1) if deeper else {}
    return found | plain("convhead2", depth + 1, depth, 1)


def saved(path, size):
    state = fill(shapes(size))
    torch.save(state, path)
    return resolve(path), state


def published(image, state):
    """Score and descriptors, straight from the public names."""

    def unit(x, block, number):
        x = F.conv2d(x, state[f"{block}.conv{number}.weight"], padding=1)
        own = (state[f"{block}.bn{number}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *own)

    x, parts = image, []
    for index, (pool, scale) in enumerate(zip((1, 2, 4, 4), (1, 2, 8, 32), strict=True), 1):
        x = F.max_pool2d(x, pool) if pool > 1 else x
        name = f"block{index}"
        inner = unit(unit(x, name, 1).relu(), name, 2)
        if index > 1:
            inner = inner + F.conv2d(x, state[f"{name}.downsample.weight"], state[f"{name}.downsample.bias"])
        x = inner.relu()
        part = F.conv2d(x, state[f"conv{index}.weight"]).relu()
        parts.append(F.interpolate(part, scale_factor=scale, mode="bilinear", align_corners=True))
    x = torch.cat(parts, 1)
    x = F.conv2d(x, state["convhead1.weight"]).relu() if "convhead1.weight" in state else x
    x = F.conv2d(x, state["convhead2.weight"])
    return x[:, -1:], x[:, :-1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_size_is_recognised_by_its_shapes(size, prefix, tmp_path):
    state = fill(shapes(size))
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "it.pth")
    artifact = resolve(tmp_path / "it.pth")
    assert len(state) == (60 if size == "l" else 59)
    assert (artifact.card.model, artifact.card.input) == (f"alike-{size}", (3, None, None))
    assert artifact.card.weights["licence"] == "BSD-3-Clause"
    network = checkpoint.network(artifact)
    assert sum(p.numel() for p in network.parameters()) == SIZES[size][-1] == MODELS[f"alike-{size}"].parameters
    image = torch.rand(1, 3, 32, 64)
    with torch.inference_mode():
        for ours, theirs in zip(network(image), published(image, state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_tensor_that_does_not_fit_is_named(tmp_path):
    torch.save(fill(shapes("t")) | {"convhead2.weight": torch.zeros(61, 64, 1, 1)}, tmp_path / "it.pth")
    shape = r"\[:-1\] is \(60, 64, 1, 1\); expected \(64, 64, 1, 1\)"
    with pytest.raises(BadInput, match=rf"looks like alike-t but convhead2.weight{shape}"):
        resolve(tmp_path / "it.pth")
    state = fill(shapes("t"))
    del state["convhead2.weight"]
    torch.save(state, tmp_path / "it.pth")
    with pytest.raises(BadInput, match=r"looks like alike-t but convhead2.weight\[-1:\] is missing"):
        resolve(tmp_path / "it.pth")


# --- the picture


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    torch.manual_seed(0)
    return Extractor(saved(tmp_path_factory.mktemp("weights") / "it.pth", "t")[0], "torch", threshold=0.01)


def test_a_picture_is_padded_at_the_right_and_the_bottom():
    picture = np.random.default_rng(0).random((33, 64, 3), np.float32)
    found = prepare(picture)
    assert found.shape == (3, 64, 64)
    np.testing.assert_array_equal(np.moveaxis(found, 0, 2)[:33], picture)
    assert not found[:, 33:].any()


@pytest.mark.parametrize("size", [(70, 100), (64, 96), (20, 40)])
def test_maps_are_cut_to_the_picture_before_they_are_decoded(opened, size):
    picture = next(agreement.drawn((128, 128), 1))[: size[0], : size[1]]
    tensor = opened.tensor(opened.fit(picture))
    assert tensor.shape[2:] == tuple(-(-side // 32) * 32 for side in size)
    maps = {name: values[0, :, : size[0], : size[1]] for name, values in opened.session.run(tensor).items()}
    points, scores, descriptors = opened.model.decode(maps, **opened.settings)
    found = opened(picture)
    assert len(found) > 5
    np.testing.assert_allclose(found.keypoints, points, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_allclose(found.descriptors, descriptors, atol=1e-5)
    assert (found.keypoints < np.array(size[::-1]) - 1).all()


def test_a_file_of_one_size_takes_what_is_padded_to_it(network):
    one, free = (Extractor(network("alike-t", size), "ort-cpu", threshold=0.4) for size in ((64, 96), None))
    picture = next(agreement.drawn((64, 96), 1))[:50, :90]
    found, wanted = one(picture), free(picture)
    assert one.fit(picture).shape == (50, 90, 3)
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=1e-3)


def test_the_points_of_another_detector_are_described_where_they_lie(opened):
    mixed = Extractor(opened.artifact, "torch", keypoints=Extractor(resolve("sift"), "opencv"))
    picture = next(agreement.drawn((80, 110), 1))
    found = mixed(picture)
    maps = {name: values[0] for name, values in opened.session.run(opened.tensor(picture)).items()}
    np.testing.assert_allclose(found.descriptors, describe_alike(maps, found.keypoints), atol=1e-5)


def test_what_it_cannot_do_is_refused(network, tmp_path):
    with pytest.raises(UsageError, match="alike-t: has no decoder for graphs; leave `cut=features` out"):
        export(network("alike-t"), "onnx", tmp_path / "a.onnx", cut="features")
    with pytest.raises(UsageError, match="model=alike-t prepares images on the host; expected one that does not"):
        dataclasses.replace(RECIPES["distil"], model="alike-t")


# --- the decode


def random_maps(height=31, width=40, seed=0):
    rng = np.random.default_rng(seed)
    score, descriptor = (rng.normal(0, 2, (c, height, width)).astype(np.float32) for c in (1, 8))
    return {"score": score, "descriptor": descriptor}


def test_decode_restated():
    maps = random_maps()
    score = 1 / (1 + np.exp(-maps["score"][0].astype(np.float64)))
    chosen = [divmod(at, 40) for at in greedy(score, 0.5, 2)]
    chosen = [(y, x) for y, x in chosen if 3 <= y < 31 - 2 and 3 <= x < 40 - 2]
    points, scores, _ = alike(maps, **SETTINGS)
    assert len(chosen) > 20
    assert points.tolist() == [[float(x), float(y)] for y, x in chosen]
    np.testing.assert_allclose(scores, [score[at] for at in chosen], rtol=1e-5)
    v, u = np.mgrid[-2:3, -2:3]
    expected = {}
    for y, x in chosen:
        share = np.exp((score[y - 2 : y + 3, x - 2 : x + 3] - score[y, x]) / 0.1)
        expected[y, x] = x + (share * u).sum() / share.sum(), y + (share * v).sum() / share.sum()
    points, scores, descriptors = alike(maps, **{**SETTINGS, "refine": "soft"})
    apart, _ = agreement.nearest(np.float32([*expected.values()]), points)
    assert apart.max() < 1e-3
    assert (np.diff(scores) <= 0).all()
    at = torch.from_numpy(points / np.float32([39, 30]) * 2 - 1)[None, None]
    read = F.grid_sample(torch.from_numpy(score.astype(np.float32))[None, None], at, align_corners=True)[0, 0, 0]
    np.testing.assert_allclose(scores, read, atol=1e-5)
    unit = F.normalize(torch.from_numpy(maps["descriptor"])[None], dim=1)
    sampled = F.grid_sample(unit, at, align_corners=True)[0, :, 0].T
    np.testing.assert_allclose(descriptors, F.normalize(sampled, dim=1), atol=1e-5)
    for ours, first in zip(
        alike(maps, **{**SETTINGS, "refine": "soft"}, top_k=5), (points, scores, descriptors), strict=True
    ):
        np.testing.assert_array_equal(ours, first[:5])


@pytest.mark.parametrize("name", ["score", "descriptor"])
def test_a_map_that_is_not_finite_is_named(name):
    maps = random_maps()
    maps[name][0, 0, 0] = np.nan
    with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
        alike(maps, **SETTINGS)


# --- the originals


@pytest.mark.parametrize("size", ["t", "n"])
def test_the_public_weights_give_the_maps_and_points_of_the_original(size, shared):
    held = np.load(shared / f"parity/families/alike-{size}.npz")
    artifact = resolve(shared / f"weights/alike/alike-{size}.pth")
    assert artifact.card.model == f"alike-{size}"
    extractor = Extractor(artifact, "torch")
    maps = agreement.look(extractor, extractor.tensor(extractor.fit(held["image"]))).maps
    for name, values in {"desc": maps["descriptor"], "score_logit": maps["score"]}.items():
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
    whole = Extractor(artifact, "torch", refine="none")(held["image"]).keypoints
    assert agreement.nearest(held["int_keypoints"], whole)[0].max() <= 0.01
