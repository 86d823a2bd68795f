"""PoSFeat: its public files, its decode restated, its published extractions, and the originals' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_models import conv, fill, norm
from torch.nn import functional as F

from lf.core import BadInput, Card, LfError, UsageError
from lf.core.types import FEATURES
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.extraction.variant import Variant
from lf.models import MODELS, checkpoint, settings_of
from lf.models.posfeat.decode import describe_posfeat, peaks, posfeat
from lf.models.posfeat.network import adopt_head
from lf.models.resolve import resolve
from lf.quantize import quantize

SETTINGS = {"threshold": 0.9, "radius": 1}


def plain(name, outputs, inputs, kernel):
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def head_shapes():
    shapes = conv("conv1", 192, 192, 3) | conv("convimg", 64, 3, 3) | conv("conv2", 128, 256, 3)
    return shapes | conv("conv3", 1, 128, 1) | {"relu.weight": (1,)}


def backbone_shapes():
    """The public names and shapes: ResNet-50 to its third layer, and the decoder."""
    found = plain("firstconv", 64, 3, 7) | norm("firstbn", 64)
    inputs = 64
    for layer, (count, width) in enumerate(((3, 64), (4, 128), (6, 256)), 1):
        for unit in range(count):
            name = f"layer{layer}.{unit}"
            found |= plain(f"{name}.conv1", width, inputs, 1) | norm(f"{name}.bn1", width)
            found |= plain(f"{name}.conv2", width, width, 3) | norm(f"{name}.bn2", width)
            found |= plain(f"{name}.conv3", 4 * width, width, 1) | norm(f"{name}.bn3", 4 * width)
            if not unit:
                found |= plain(f"{name}.downsample.0", 4 * width, inputs, 1) | norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    decoder = {"upconv3.conv": (512, 1024, 3), "iconv3": (512, 1024, 3), "upconv2.conv": (256, 512, 3)}
    decoder |= {"iconv2": (256, 512, 3), "conv_fine": (128, 256, 1), "conv_coarse": (128, 1024, 1)}
    for name, shape in decoder.items():
        found |= conv(f"{name}.conv", *shape) | norm(f"{name}.bn", shape[0])
    return found


@pytest.fixture(scope="module")
def public():
    """Both public files in one, with tame random weights."""
    torch.manual_seed(0)
    state = fill({f"backbone.{name}": shape for name, shape in backbone_shapes().items()})
    state |= fill({f"localheader.{name}": shape for name, shape in head_shapes().items()})
    return {name: value / 4 if name.endswith("weight") and value.ndim == 4 else value for name, value in state.items()}


def published(image, state):
    """Score, before its softplus, and descriptors, straight from the public names."""

    def batch(x, name):
        own = (state[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *own)

    def bottleneck(x, name, stride):
        own = f"backbone.{name}"
        y = batch(F.conv2d(x, state[f"{own}.conv1.weight"]), f"{own}.bn1").relu()
        y = batch(F.conv2d(y, state[f"{own}.conv2.weight"], stride=stride, padding=1), f"{own}.bn2").relu()
        y = batch(F.conv2d(y, state[f"{own}.conv3.weight"]), f"{own}.bn3")
        if f"{own}.downsample.0.weight" in state:
            x = batch(F.conv2d(x, state[f"{own}.downsample.0.weight"], stride=stride), f"{own}.downsample.1")
        return (x + y).relu()

    def unit(x, name, kernel=3):
        own = f"backbone.{name}"
        x = F.conv2d(x, state[f"{own}.conv.weight"], state[f"{own}.conv.bias"], padding=kernel // 2)
        return F.elu(batch(x, f"{own}.bn"))

    def double(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    def of_head(x, name, padding=1):
        return F.conv2d(x, state[f"localheader.{name}.weight"], state[f"localheader.{name}.bias"], padding=padding)

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    picture = (image - mean) / std
    x = F.conv2d(picture, state["backbone.firstconv.weight"], stride=2, padding=3)
    early = x = F.max_pool2d(batch(x, "backbone.firstbn").relu(), 3, 2, 1)
    levels = []
    for layer, count in enumerate((3, 4, 6), 1):
        for each in range(count):
            x = bottleneck(x, f"layer{layer}.{each}", 2 if layer > 1 and not each else 1)
        levels.append(x)
    x = unit(torch.cat([levels[1], unit(double(x), "upconv3.conv")], 1), "iconv3")
    x = unit(torch.cat([levels[0], unit(double(x), "upconv2.conv")], 1), "iconv2")
    descriptor = unit(x, "conv_fine", 1)
    slope = state["localheader.relu.weight"]
    y = F.prelu(F.instance_norm(of_head(torch.cat([descriptor, early], 1), "conv1")), slope)
    y = F.interpolate(y, picture.shape[2:], mode="bilinear", align_corners=False)
    y = torch.cat([y, F.instance_norm(of_head(picture, "convimg"))], 1)
    y = F.prelu(F.instance_norm(of_head(y, "conv2")), slope)
    return F.instance_norm(of_head(y, "conv3", 0)), descriptor


def test_both_public_files_in_one_are_recognised(public, tmp_path):
    torch.save(public, tmp_path / "it.pth")
    artifact = resolve(tmp_path / "it.pth")
    assert (artifact.card.model, artifact.card.input) == ("posfeat", (3, None, None))
    network = checkpoint.network(artifact)
    image = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        for ours, theirs in zip(network(image), published(image, public), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["posfeat", "posfeat-small"])
def test_the_rows_count_their_parameters(name):
    with torch.device("meta"):
        network = MODELS[name].build()
    assert sum(p.numel() for p in network.parameters()) == MODELS[name].parameters
    if name == "posfeat":
        assert sum(p.numel() for p in network.head.parameters()) == 628_930


def test_the_head_alone_is_refused(tmp_path):
    torch.save(fill(head_shapes()), tmp_path / "localheader.pth")
    with pytest.raises(
        BadInput, match=r"holds the head of posfeat without its backbone; expected both in one file; ty"
    ):
        resolve(tmp_path / "localheader.pth")


def test_a_tensor_that_does_not_fit_is_named(public, tmp_path):
    torch.save(public | {"localheader.conv2.weight": torch.zeros(128, 255, 3, 3)}, tmp_path / "it.pth")
    with pytest.raises(BadInput, match=r"posfeat but localheader.conv2.weight is \(128, 255, 3, 3\); expected \(128, "):
        resolve(tmp_path / "it.pth")


# --- the decode


def random_maps(height=32, width=48, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 1, (1, height, width)).astype(np.float32)
    return {"score": score, "descriptor": rng.normal(size=(8, height // 4, width // 4)).astype(np.float32)}


def restated(score, threshold, radius):
    """The rule itself, on the map without its outermost ring, mirrored at its edges: the first of equals wins."""
    inner = score[1:-1, 1:-1]
    padded = np.pad(inner, radius, mode="reflect")
    number = np.arange(padded.size).reshape(padded.shape)
    found = []
    for y, x in np.ndindex(inner.shape):
        window = (slice(y, y + 2 * radius + 1), slice(x, x + 2 * radius + 1))
        first = number[window].reshape(-1)[padded[window].argmax()]
        if first == number[y + radius, x + radius] and inner[y, x] > threshold:
            found.append((y + 1, x + 1))
    return sorted(found, key=lambda at: (-score[at], at))


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_decode_restated(radius):
    maps = random_maps(seed=radius)
    score = np.log1p(np.exp(maps["score"][0].astype(np.float64)))
    chosen = restated(score, 0.9, radius)
    points, scores, descriptors = posfeat(maps, threshold=0.9, radius=radius, refine="none")
    assert len(chosen) > 10
    assert points.tolist() == [[float(x), float(y)] for y, x in chosen]
    np.testing.assert_allclose(scores, [score[at] for at in chosen], rtol=1e-5)
    v, u = np.mgrid[-1:2, -1:2]
    moved = []
    for y, x in chosen:
        share = score[y - 1 : y + 2, x - 1 : x + 2] / score[y - 1 : y + 2, x - 1 : x + 2].sum()
        moved.append((x + (share * u).sum(), y + (share * v).sum()))
    points, scores, descriptors = posfeat(maps, threshold=0.9, radius=radius)
    np.testing.assert_allclose(points, moved, atol=1e-4)
    at = torch.from_numpy(points / np.float32([47, 31]) * 2 - 1)[None, None]
    read = F.grid_sample(torch.from_numpy(maps["descriptor"])[None], at, align_corners=False)[0, :, 0].T
    np.testing.assert_allclose(descriptors, F.normalize(read, dim=1), atol=1e-5)
    best = posfeat(maps, threshold=0.9, radius=radius, top_k=5)
    for ours, first in zip(best, (points, scores, descriptors), strict=True):
        np.testing.assert_array_equal(ours, first[:5])


def test_a_score_at_the_threshold_is_not_above_it():
    score = np.zeros((16, 16), np.float32)
    score[8, 8] = 0.9
    assert not len(peaks(score, 0.9, 1, "soft", None)[0])
    score[8, 8] = np.nextafter(np.float32(0.9), np.float32(1))
    assert peaks(score, 0.9, 1, "none", None)[0].tolist() == [[8, 8]]


def test_points_at_the_corners_are_described_as_published():
    maps = random_maps()
    corners = np.float32([[0, 0], [47, 0], [0, 31], [47, 31], [0.2, 17.3]])
    at = torch.from_numpy(corners / np.float32([47, 31]) * 2 - 1)[None, None]
    read = F.grid_sample(torch.from_numpy(maps["descriptor"])[None], at, align_corners=False)[0, :, 0].T
    np.testing.assert_allclose(describe_posfeat(maps, corners), F.normalize(read, dim=1), atol=1e-5)


@pytest.mark.parametrize("name", ["score", "descriptor"])
def test_a_map_that_is_not_finite_is_named(name):
    maps = random_maps()
    maps[name][0, 0, 0] = np.nan
    with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
        posfeat(maps, **SETTINGS)


# --- published extractions


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    row = MODELS["posfeat-small"]
    card = Card("posfeat-small", {"origin": "test"}, (1, None, None), outputs=dict(row.heads))
    return checkpoint.save(path, checkpoint.build("posfeat-small"), card)


@pytest.mark.parametrize(("name", "radius", "least"), [("hpatches", 1, 0.9), ("aachen", 3, 0.5), ("eth", 3, 0.9)])
def test_a_named_extraction_changes_what_is_kept(small, name, radius, least):
    picture = next(agreement.drawn((64, 96), 1))
    opened = Variant(small, "torch", extraction=name).open()
    assert {each: opened.settings[each] for each in ("radius", "threshold")} == {"radius": radius, "threshold": least}
    assert opened.settings["top_k"] == (8192 if name == "hpatches" else 20480)
    found = opened(picture)
    assert len(found) > 5
    assert found.scores.min() > least
    assert opened.again().settings == opened.settings
    assert len(Extractor(small, "torch", extraction=name, top_k=3)(picture)) == 3


def test_extractions_that_are_not_there_are_refused(small):
    with pytest.raises(UsageError, match=r"unknown extraction of posfeat-small 'eht'; .*eth"):
        Extractor(small, "torch", extraction="eht")
    with pytest.raises(
        UsageError, match=r"`extraction=eth`: wren has no extraction but pyramid; named ones have posfeat, posfeat-s"
    ):
        Extractor(resolve("wren"), "torch", extraction="eth")
    decoded = Card("posfeat-small", {}, (1, 64, 96), outputs=dict.fromkeys(FEATURES, (1, 0)))
    with pytest.raises(UsageError, match="`extraction=eth`: FILE contains its decoder; start from the file that it wa"):
        settings_of("eth", decoded, "FILE")


def test_lf_extract_knows_them_and_resumes_only_with_the_same(lf, small, tmp_path, drawn_photos):
    words = ("extract", str(small.path), str(drawn_photos), "--out", str(tmp_path / "f"), "--layout", "posfeat")
    assert lf(*words, "--extraction", "eth", "--backend", "torch", "--workers", "1")[0] == 0
    made = sorted((tmp_path / "f").rglob("*.PoSFeat"))
    with np.load(made[0]) as arrays:
        count = len(arrays["keypoints"])
        assert arrays["keypoints"].shape == (count, 2)
        assert arrays["scores"].shape == (count, 1)
        assert arrays["descriptors"].shape == (count, 64)
        assert arrays["scores"].min() > 0.9
    code, _, err = lf(*words, "--extraction", "aachen", "--backend", "torch", "--workers", "1")
    assert code == 2
    assert "settings" in err


def test_the_points_of_sift_as_it_comes_are_described(small):
    cv2 = pytest.importorskip("cv2")
    picture = next(agreement.drawn((64, 96), 1))
    mixed = Variant(small, "torch", "sift-default").open()
    found = mixed(picture)
    theirs = cv2.SIFT_create().detect(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), None)
    np.testing.assert_allclose(sorted(found.keypoints.tolist()), sorted(point.pt for point in theirs), atol=1e-4)
    maps = {name: values[0] for name, values in mixed.session.run(mixed.tensor(mixed.fit(picture))).items()}
    np.testing.assert_allclose(found.descriptors, describe_posfeat(maps, found.keypoints), atol=1e-5)


# --- the originals


@pytest.mark.parametrize(("name", "count"), [("hpatches", 685), ("aachen", 216), ("eth", 216)])
def test_the_extractions_give_the_points_of_the_original(name, count, shared):
    held = np.load(shared / "parity/posfeat/posfeat_keypoints.npz")
    setting = MODELS["posfeat"].extractions[name]
    points, scores = peaks(held["score"], setting["threshold"], setting["radius"], "soft", setting["top_k"])
    assert len(points) == count
    np.testing.assert_allclose(points, held[f"{name}_keypoints"], atol=1e-4)
    # the original stores the maximum of 3x3 px, which may lie in the ring where no point is looked for
    ring = (held[f"{name}_keypoints"].round() <= 1).any(1) | (held[f"{name}_keypoints"].round() >= [126, 94]).any(1)
    np.testing.assert_allclose(scores[~ring], held[f"{name}_scores"][~ring, 0], atol=1e-6)
    assert (scores <= held[f"{name}_scores"][:, 0] + 1e-6).all()


def test_the_public_head_loads(shared):
    state = adopt_head(torch.load(shared / "weights/posfeat/localheader.pth", map_location="cpu", weights_only=True))
    torch.manual_seed(0)
    network = MODELS["posfeat"].build().eval()
    network.head.load_state_dict(state)
    with torch.inference_mode():
        score, _ = network(torch.rand(1, 3, 64, 96))
    assert abs(float(score.mean())) < 1e-3
    assert float(score.std()) == pytest.approx(1, abs=1e-3)


# --- 8 bits


def test_eight_bits_leave_the_score_in_float(network, drawn_photos, tmp_path):
    pytest.importorskip("onnxscript")
    parent = network("posfeat-small", (64, 96))
    made = quantize(parent, "w8a8", drawn_photos, tmp_path / "small.onnx", rounding="nearest")
    reference, other = (Extractor(each, "ort-cpu") for each in (parent, made))
    for a, b in agreement.both(reference, other, agreement.drawn((64, 96), 2)):
        error = np.square(a.maps["score"] - b.maps["score"]).mean()
        assert error < 0.05 * a.maps["score"].var()
        assert len(np.unique(b.maps["score"])) > 1000
        one, two = (each.maps["descriptor"].reshape(64, -1) for each in (a, b))
        cosine = (one * two).sum(0) / np.linalg.norm(one, axis=0) / np.linalg.norm(two, axis=0)
        assert cosine.mean() > 0.98
