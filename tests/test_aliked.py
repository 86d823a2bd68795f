"""ALIKED: its public files, what is done to an image first, decode and head restated, the originals' numbers."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_models import conv, fill, greedy, norm
from torch.nn import functional as F

from lf.core import BadInput, LfError, UsageError
from lf.export import export, parity
from lf.extraction import agreement
from lf.extraction.agreement import Look
from lf.extraction.extractor import Extractor
from lf.models import MODELS, checkpoint, peaks
from lf.models.aliked import network as own
from lf.models.aliked.decode import aliked
from lf.models.aliked.describe import describe_aliked
from lf.models.aliked.picture import prepare
from lf.models.resolve import resolve
from lf.quantize import quantize
from lf.train import RECIPES

SIZES = {  # channels of the stages, samples of the head
    "t16": ((8, 16, 32, 64), 16, 192_100),
    "n16": ((16, 32, 64, 128), 16, 677_356),
    "n16rot": ((16, 32, 64, 128), 16, 677_356),
    "n32": ((16, 32, 64, 128), 32, 979_500),
}
SETTINGS = {"threshold": 0.5, "nms_radius": 2, "border": 2, "temperature": 0.1, "refine": "none"}
SCALES = (1, 2, 8, 32)


def plain(name, outputs, inputs, kernel):
    """A convolution without a bias."""
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def shapes(size):
    """The public names and shapes."""
    widths, samples, _ = SIZES[size]
    depth, found = widths[-1], {}
    for index, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False), 1):
        name = f"block{index}"
        for number, channels in ((1, inputs), (2, outputs)):
            layer = f"{name}.conv{number}"
            if index > 2:
                found |= conv(f"{layer}.offset_conv", 18, channels, 3)
                layer += ".regular_conv"
            found |= plain(layer, outputs, channels, 3) | norm(f"{name}.bn{number}", outputs)
        found |= conv(f"{name}.downsample", outputs, inputs, 1) if index > 1 else {}
        found |= plain(f"conv{index}", depth // 4, outputs, 1)
    for place, (outputs, inputs, kernel) in zip("0246", ((8, depth, 1), (4, 8, 3), (4, 4, 3), (1, 4, 3)), strict=True):
        found |= plain(f"score_head.{place}", outputs, inputs, kernel)
    found |= {"desc_head.agg_weights": (samples, depth, depth)}
    found |= conv("desc_head.offset_conv.0", 2 * samples, depth, 3)
    found |= conv("desc_head.offset_conv.2", 2 * samples, 2 * samples, 1)
    return found | plain("desc_head.sf_conv", depth, depth, 1)


def saved(path, size):
    state = fill(shapes(size))
    torch.save(state, path)
    return resolve(path), state


def deformed(x, state, name):
    """A deformable convolution tap by tap."""
    offset = F.conv2d(x, state[f"{name}.offset_conv.weight"], state[f"{name}.offset_conv.bias"], padding=1)
    height, width = x.shape[2:]
    reach = max(height, width) / 4
    offset = offset.clamp(-reach, reach)
    y, x0 = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    total = 0
    for tap, (v, u) in enumerate(np.ndindex(3, 3)):
        row, column = y + v - 1 + offset[0, 2 * tap], x0 + u - 1 + offset[0, 2 * tap + 1]
        total = total + torch.einsum(
            "oi,ihw->ohw", state[f"{name}.regular_conv.weight"][:, :, v, u], at(x[0], row, column)
        )
    return total[None]


def at(values, row, column):
    """Bilinear samples of (C, h, w) at any places (...), zero outside."""
    padded = F.pad(values, (1, 1, 1, 1))
    row, column = (place.clamp(-1, side) + 1 for place, side in zip((row, column), values.shape[1:], strict=True))
    top, left = row.floor().long(), column.floor().long()
    bottom, right = (top + 1).clamp(max=padded.shape[1] - 1), (left + 1).clamp(max=padded.shape[2] - 1)
    down, over = row - top, column - left
    first = padded[:, top, left] * (1 - over) + padded[:, top, right] * over
    return first * (1 - down) + (padded[:, bottom, left] * (1 - over) + padded[:, bottom, right] * over) * down


def published(image, state):
    """Score and x1 to x4, straight from the public names."""

    def unit(x, block, number):
        name = f"{block}.conv{number}"
        there = f"{name}.weight" in state
        x = F.conv2d(x, state[f"{name}.weight"], padding=1) if there else deformed(x, state, name)
        values = (state[f"{block}.bn{number}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values)

    x, parts, full = image, [], []
    for index, (pool, scale) in enumerate(zip((1, 2, 4, 4), SCALES, strict=True), 1):
        x = F.avg_pool2d(x, pool) if pool > 1 else x
        name = f"block{index}"
        inner = unit(F.selu(unit(x, name, 1)), name, 2)
        if index > 1:
            inner = inner + F.conv2d(x, state[f"{name}.downsample.weight"], state[f"{name}.downsample.bias"])
        x = F.selu(inner)
        parts.append(F.selu(F.conv2d(x, state[f"conv{index}.weight"])))
        full.append(F.interpolate(parts[-1], scale_factor=scale, mode="bilinear", align_corners=True))
    score = F.conv2d(torch.cat(full, 1), state["score_head.0.weight"])
    for place in "246":
        score = F.conv2d(F.selu(score), state[f"score_head.{place}.weight"], padding=1)
    return score, *parts


@pytest.mark.parametrize("size", ["t16", "n16", "n32"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_size_is_recognised_by_its_shapes(size, prefix, tmp_path):
    state = fill(shapes(size))
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "it.pth")
    artifact = resolve(tmp_path / "it.pth")
    assert len(state) == 76
    assert (artifact.card.model, artifact.card.input) == (f"aliked-{size}", (3, None, None))
    assert artifact.card.weights["licence"] == "BSD-3-Clause"
    network = checkpoint.network(artifact)
    assert sum(p.numel() for p in network.parameters()) == SIZES[size][-1] == MODELS[f"aliked-{size}"].parameters
    image = torch.rand(1, 3, 32, 64)
    with torch.inference_mode():
        maps = network(image)
        assert [each.shape[1] for each in maps] == [channels for channels, _ in MODELS[f"aliked-{size}"].heads.values()]
        for ours, theirs in zip(maps, published(image, state), strict=False):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_the_one_trained_with_rotations_is_told_by_a_tensor(tmp_path, monkeypatch):
    assert MODELS["aliked-n16rot"].parameters == MODELS["aliked-n16"].parameters
    state = fill(shapes("n16"))
    digest = hashlib.sha256(state["block1.conv1.weight"].numpy().tobytes()).hexdigest()
    torch.save({"module." + name: value for name, value in state.items()}, tmp_path / "it.pth")
    assert resolve(tmp_path / "it.pth").card.model == "aliked-n16"
    monkeypatch.setattr(own, "ROTATED", digest)
    artifact = resolve(tmp_path / "it.pth")
    assert artifact.card.model == "aliked-n16rot"
    made = checkpoint.save(tmp_path / "it.safetensors", checkpoint.network(artifact), artifact.card)
    monkeypatch.undo()
    assert resolve(made.path).card.model == "aliked-n16rot"
    assert checkpoint.network(resolve(made.path)).head["descriptor"].shape == (128, 16, 128)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("score_head.0.weight", torch.zeros(8, 60, 1, 1), r"\[0\] is \(8, 15, 1, 1\); expected \(8, 16, 1, 1\)"),
        ("desc_head.agg_weights", torch.zeros(15, 64, 64), r" is \(64, 15, 64\); expected \(64, 16, 64\)"),
        ("desc_head.offset_conv.0.bias", None, r"desc_head.offset_conv is missing; expected \(32, 1, 610\)"),
        ("desc_head.sf_conv.weight", None, " is missing"),
        ("block3.conv1.regular_conv.weight", torch.zeros(31, 16, 3, 3), r" is \(31, 144, 1, 1\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name, value, said, tmp_path):
    state = fill(shapes("t16"))
    del state[name]
    torch.save(state if value is None else state | {name: value}, tmp_path / "it.pth")
    start = "" if said.startswith("desc_head") else name
    with pytest.raises(BadInput, match=f"looks like aliked-t16 but {start}{said}"):
        resolve(tmp_path / "it.pth")


# --- the picture


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    torch.manual_seed(0)
    return Extractor(saved(tmp_path_factory.mktemp("weights") / "it.pth", "t16")[0], "torch", threshold=0.01)


def test_a_picture_is_padded_round_with_its_edges():
    picture = np.random.default_rng(0).random((33, 59, 3), np.float32)
    found = np.moveaxis(prepare(picture), 0, 2)
    assert found.shape == (64, 64, 3)
    np.testing.assert_array_equal(found[15:48, 2:61], picture)  # of 31 rows 15 above, of 5 columns 2 at the left
    np.testing.assert_array_equal(found[:15, 2:61], np.broadcast_to(picture[:1], (15, 59, 3)))
    np.testing.assert_array_equal(found[:, 61:], np.broadcast_to(found[:, 60:61], (64, 3, 3)))
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [(70, 100), (64, 96), (20, 41), (3, 2)])
def test_maps_are_cut_to_the_picture_before_they_are_decoded(opened, size):
    picture = next(agreement.drawn((128, 128), 1))[: size[0], : size[1]]
    tensor = opened.tensor(opened.fit(picture))
    assert tensor.shape[2:] == tuple(-(-side // 32) * 32 for side in size)
    maps = {name: values[0] for name, values in opened.session.run(tensor).items()}
    top, left = ((whole - side) // 2 for whole, side in zip(tensor.shape[2:], size, strict=True))
    cut = {name: maps[name][:, top : top + size[0], left : left + size[1]] for name in ("score", "x1")}
    points, scores, descriptors = opened.model.decode(maps | cut, **opened.settings)
    found = opened(picture)
    assert len(found) > 5 or min(size) < 5
    np.testing.assert_allclose(found.keypoints, points, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_allclose(found.descriptors, descriptors, atol=1e-5)
    assert (found.keypoints < np.array(size[::-1]) - 1).all()


def test_a_file_of_one_size_takes_what_is_padded_to_it(network):
    one, free = (Extractor(network("aliked-t16", size), "ort-cpu", threshold=0.1) for size in ((64, 96), None))
    picture = next(agreement.drawn((64, 96), 1))[:50, :90]
    found, wanted = one(picture), free(picture)
    assert one.fit(picture).shape == (50, 90, 3)
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=1e-3)


def test_what_it_cannot_do_is_refused(network, tmp_path, drawn_photos):
    file = network("aliked-t16")
    with pytest.raises(UsageError, match="aliked-t16: has no decoder for graphs; leave `cut=features` out"):
        export(file, "onnx", tmp_path / "a.onnx", cut="features")
    said = r"no TFLite file can be made of aliked-t16, TFLite lacks an operator .+; run its .onnx file, .+=ort-cpu`"
    with pytest.raises(UsageError, match=said):
        export(file, "tflite", tmp_path / "a.tflite")
    with pytest.raises(UsageError, match=said):
        quantize(file, "w8a8", drawn_photos, tmp_path / "a.tflite", writer="tflite")
    with pytest.raises(UsageError, match="model=aliked-t16 prepares images on the host; expected one that does not"):
        dataclasses.replace(RECIPES["distil"], model="aliked-t16")
    assert not [*tmp_path.iterdir()]


# --- the decode


def random_maps(height=37, width=52, depth=8, samples=4, seed=0, size=(64, 64)):
    """Heads of an image of height x width, that was padded to `size`."""
    rng = np.random.default_rng(seed)
    sides = {"x1": (height, width)} | {f"x{i}": (size[0] // s, size[1] // s) for i, s in ((2, 2), (3, 8), (4, 32))}
    maps = {name: (depth // 4, *side) for name, side in sides.items()} | {"score": (1, height, width)}
    maps |= {"offset": (2 * samples, 1, 9 * depth + 2 * samples + 2), "project": (depth, 1, depth)}
    maps |= {"descriptor": (depth, samples, depth)}
    return {name: rng.normal(0, 2, shape).astype(np.float32) for name, shape in maps.items()}


def iterated(score, threshold, radius):
    """Suppression as published: maxima, and twice the maxima of what they leave."""

    def largest(x):
        return F.max_pool2d(x, 2 * radius + 1, 1, radius)

    score = torch.from_numpy(score)[None, None]
    mask = score == largest(score)
    for _ in range(2):
        near = largest(mask.float()) > 0
        left = torch.where(near, 0.0, score)
        mask = mask | ((left == largest(left)) & ~near)
    return set(np.flatnonzero((mask & (score > threshold)).numpy()).tolist())


def test_three_rounds_of_suppression_are_the_published_rule():
    y, x = np.mgrid[:40, :60]
    ridge = np.random.default_rng(0).random((40, 60)).astype(np.float32) * 0.1 + (np.sin(y / 3) + x / 60).astype(
        np.float32
    )
    ridge = (ridge - ridge.min()) / np.ptp(ridge)  # long slopes, on which every round finds but a few
    found = {rounds: peaks.nms(ridge, 0.1, 2, rounds) for rounds in (1, 2, 3, None)}
    assert set(found[3].tolist()) == iterated(ridge, 0.1, 2)
    sizes = [len(index) for index in found.values()]
    assert sizes == sorted(set(sizes)), "each round adds some, and three do not do"
    np.testing.assert_array_equal(found[None], peaks.nms(ridge, 0.1, 2, 99))
    np.testing.assert_array_equal(found[None], greedy(ridge, 0.1, 2))


def test_decode_restated():
    maps = random_maps()
    score = 1 / (1 + np.exp(-maps["score"][0].astype(np.float64)))
    chosen = [divmod(each, 52) for each in greedy(score, 0.5, 2)]
    chosen = [(y, x) for y, x in chosen if 2 <= y < 37 - 2 and 2 <= x < 52 - 2]
    points, scores, _ = aliked(maps, **SETTINGS)
    assert len(chosen) > 20
    assert points.tolist() == [[float(x), float(y)] for y, x in chosen]
    np.testing.assert_allclose(scores, [score[each] for each in chosen], rtol=1e-5)
    v, u = np.mgrid[-2:3, -2:3]
    expected = {}
    for y, x in chosen:
        share = np.exp((score[y - 2 : y + 3, x - 2 : x + 3] - score[y, x]) / 0.1)
        expected[y, x] = x + (share * u).sum() / share.sum(), y + (share * v).sum() / share.sum()
    points, scores, _ = aliked(maps, **{**SETTINGS, "refine": "soft"})
    assert agreement.nearest(np.float32([*expected.values()]), points)[0].max() < 1e-3
    assert (np.diff(scores) <= 0).all()
    assert (scores < 0.5).any(), "the score where a point has moved to may be below the threshold"
    read = at(torch.from_numpy(score.astype(np.float32))[None], *torch.from_numpy(points[:, ::-1].copy()).T)
    np.testing.assert_allclose(scores, read[0], atol=1e-5)


def test_the_limit_is_of_pixels_and_top_k_of_points():
    maps, settings = random_maps(), {**SETTINGS, "refine": "soft"}
    every, ten = aliked(maps, **settings), aliked(maps, **settings, limit=10)
    whole = aliked(maps, **SETTINGS, limit=10)[0]
    assert len(ten[0]) == 10 < len(every[0])
    assert agreement.nearest(ten[0], whole)[0].max() < 3
    for ours, first in zip(aliked(maps, **settings, top_k=5), every, strict=True):
        np.testing.assert_allclose(ours, first[:5], atol=1e-5)


def test_a_point_that_the_limit_cuts_off_by_rounding_is_explained():
    row, settings = MODELS["aliked-t16"], {**SETTINGS, "limit": 10}
    extractor = SimpleNamespace(settings=settings, model=row, artifact=SimpleNamespace(path=Path("a.onnx")))
    maps = random_maps()
    (x, y), (u, v) = aliked(maps, **SETTINGS)[0][9:11].astype(int)
    other = {**maps, "score": maps["score"].copy()}
    other["score"][0, v, u] = maps["score"][0, y, x] + 1e-3
    a, b = (Look(each, agreement.decode(extractor, each, (52, 37))) for each in (maps, other))
    only = [~agreement.near(own.features.keypoints, their.features.keypoints, 0.05) for own, their in ((a, b), (b, a))]
    assert [each.sum() for each in only] == [1, 1]
    assert parity.explained(a, b, *only, extractor).all()


def described(maps, points):
    """The head as published, from the features of every pixel: (N, D)."""
    maps = {name: torch.from_numpy(values).double() for name, values in maps.items()}
    height, width = maps["x1"].shape[1:]
    whole = [side * 2 for side in maps["x2"].shape[1:]]
    top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
    full = [maps["x1"]]
    for name in ("x2", "x3", "x4"):
        grown = F.interpolate(maps[name][None], whole, mode="bilinear", align_corners=True)[0]
        full.append(grown[:, top : top + height, left : left + width])
    features = F.normalize(torch.cat(full), dim=0)
    depth, samples, _ = maps["descriptor"].shape
    first, bias_a, second, bias_b = maps["offset"][:, 0].split([9 * depth, 1, 2 * samples, 1], 1)
    found = []
    for x, y in points.astype(np.float64):
        left, top = max(0, min(int(x) - 1, width - 4)), max(0, min(int(y) - 1, height - 4))
        square = features[:, top : top + 3, left : left + 3]
        hidden = F.selu(F.conv2d(square[None], first.reshape(-1, depth, 3, 3), bias_a[:, 0]))[0, :, 0, 0]
        shifts = (second @ hidden + bias_b[:, 0]).clamp(-max(height, width) / 4, max(height, width) / 4)
        sampled = at(features, y + shifts[samples:], x + shifts[:samples])  # (D, M)
        inner = F.selu(maps["project"][:, 0] @ sampled)
        numbers = torch.einsum("omi,im->o", maps["descriptor"], inner)
        found.append(F.normalize(numbers if numbers.any() else torch.ones(len(numbers)), dim=0))
    return torch.stack(found).numpy()


@pytest.mark.parametrize(("height", "width"), [(37, 52), (64, 64), (33, 4), (3, 64)])
def test_descriptors_restated(height, width, monkeypatch):
    maps = random_maps(height, width)
    rng = np.random.default_rng(1)
    points = (rng.random((60, 2)) * [width - 1, height - 1]).astype(np.float32)
    corners = np.float32([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    points = np.concatenate([points, corners])
    found = describe_aliked(maps, points)
    if min(height, width) > 3:
        np.testing.assert_allclose(found, described(maps, points), atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    monkeypatch.setattr("lf.models.aliked.describe.BLOCK", 7)
    np.testing.assert_allclose(describe_aliked(maps, points), found, atol=3e-5)  # float32 sums in another order
    assert describe_aliked(maps, points[:0]).shape == (0, 8)


def test_the_points_of_another_detector_are_described_where_they_lie(opened):
    mixed = Extractor(opened.artifact, "torch", keypoints=Extractor(resolve("sift"), "opencv"))
    picture = next(agreement.drawn((64, 96), 1))
    found = mixed(picture)
    maps = {name: values[0] for name, values in opened.session.run(opened.tensor(picture)).items()}
    np.testing.assert_allclose(found.descriptors, describe_aliked(maps, found.keypoints), atol=1e-5)


@pytest.mark.parametrize("name", ["score", "x1", "x4", "offset", "descriptor"])
def test_a_map_that_is_not_finite_is_named(name):
    maps = random_maps()
    maps[name][0, 0, 0] = np.nan
    with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
        aliked(maps, **SETTINGS)


@pytest.mark.parametrize("name", ["x1", "x3", "offset", "project", "descriptor"])
def test_maps_that_do_not_fit_together_are_refused(name):
    maps = random_maps()
    maps[name] = maps[name][:, 1:] if name == "descriptor" else maps[name][1:]
    with pytest.raises(LfError, match=r"maps that fit together expected, found .+"):
        aliked(maps, **SETTINGS)


# --- 8 bits


def test_all_but_the_first_two_stages_stays_float(network, drawn_photos, tmp_path, few_pictures):
    made = quantize(network("aliked-t16"), "w8a8", drawn_photos, tmp_path / "a.onnx", rounding="nearest")
    step = made.card.made[-1]
    names = ("a.conv", "b.conv", "shortcut")
    assert set(step.kept_float) >= {
        "stages.2.a.conv.offset",
        "stages.3.b.conv.taps",
        "quarters.0",
        "votes.3",
        "score.a",
    }
    assert not {f"stages.{stage}.{name}" for stage in (0, 1) for name in names} & set(step.kept_float)
    assert step.integer_convolutions == 5
    a, b = (Extractor(each, "ort-cpu") for each in (network("aliked-t16"), made))
    picture = next(agreement.drawn((64, 96), 1))
    for name, values in a.session.run(a.tensor(picture)).items():
        found = b.session.run(b.tensor(picture))[name]
        if MODELS["aliked-t16"].heads[name][1] == 0:
            np.testing.assert_array_equal(found, values)  # the weights of the head


# --- the originals


@pytest.mark.parametrize("size", ["t16", "n16rot"])
def test_the_public_weights_give_the_maps_and_points_of_the_original(size, shared):
    held = np.load(shared / f"parity/families/aliked-{size}.npz")
    artifact = resolve(shared / f"weights/aliked/aliked-{size}.pth")
    assert artifact.card.model == f"aliked-{size}"
    extractor = Extractor(artifact, "torch")
    maps = {name: values[0] for name, values in extractor.session.run(extractor.tensor(held["image"])).items()}
    for name, values in {"score_logit": maps["score"], "x1234": full_size(maps)}.items():
        assert values.shape[-2:] == tuple(held["net_size"])
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


def full_size(maps):
    grown = (torch.from_numpy(maps[f"x{index}"])[None] for index in range(1, 5))
    full = [
        F.interpolate(each, scale_factor=scale, mode="bilinear", align_corners=True)
        for each, scale in zip(grown, SCALES, strict=True)
    ]
    return torch.cat(full, 1)[0].numpy()


def test_the_other_public_weights_are_told_from_those_with_rotations(shared):
    assert resolve(shared / "weights/aliked/aliked-n16.pth").card.model == "aliked-n16"
