"""KP2D: the published counts and maps, and the decoder restated with torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lf.core import BadInput, Card, LfError
from lf.models import MODELS, checkpoint
from lf.models.kp2d.decode import kp2d
from lf.models.resolve import resolve

ROWS = [name for name, row in MODELS.items() if row.family == "kp2d"]
TINY = [name for name in ROWS if name.startswith("kp2dtiny")]
COUNTS = {  # trainable, statistics of the norms; the published sums of both for KP2Dtiny are 387,539, 1,849,011, ...
    "kp2d": (5_312_227, 4_992),
    "kp2d-resnet": (17_451_243 - 1000 * 513, 13_568),  # without the classifier of 1000 classes
    "kp2dtiny-s": (386_099, 1_440),
    "kp2dtiny-s-coral": (339_891, 1_312),
    "kp2dtiny-f": (1_845_779, 3_232),
    "kp2dtiny-f-coral": (1_550_355, 2_720),
    "kp2dtiny-v3": (736_915, 1_952),
    "kp2dtiny-baseline": (5_312_227, 4_992),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


# --- decoding ---


def maps_of(rows=7, columns=9, depth=8, ratio=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"score": (1, rows, columns), "shift": (2, rows, columns), "feat": (depth, ratio * rows, ratio * columns)}
    return {name: rng.normal(0, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}


def restated(maps, cell, cross, align_corners):
    """Every inner cell as the paper has it, by falling score: points, scores, descriptors."""
    rows, columns = maps["score"].shape[1:]
    score = torch.from_numpy(maps["score"][0]).sigmoid()
    inside = [(y, x) for y in range(1, rows - 1) for x in range(1, columns - 1)]
    inside.sort(key=lambda at: (-score[at], at))
    reach = (2 if cross else 1) * (cell - 1) / 2
    points = []
    for y, x in inside:
        u, v = (cell * k + (cell - 1) / 2 + reach * np.tanh(maps["shift"][i, y, x]) for i, k in enumerate((x, y)))
        points.append([min(max(u, 0), columns * cell - 1), min(max(v, 0), rows * cell - 1)])
    points = np.array(points)
    grid = torch.from_numpy(points / ((np.array([columns, rows]) * cell - 1) / 2) - 1)[None, None]
    feat = torch.from_numpy(maps["feat"]).double()[None]
    sampled = F.grid_sample(feat, grid, align_corners=align_corners)[0, :, 0].T
    return points, [score[at] for at in inside], F.normalize(sampled, dim=1)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize(("name", "ratio"), [("kp2d", 2), ("kp2dtiny-s", 2), ("kp2d-resnet", 4)])
def test_decode_restated(name, ratio, cross):
    row, maps = MODELS[name], maps_of(ratio=ratio)
    cell = row.heads["score"][1]
    maps["shift"] *= 3
    found = row.decode(maps, **{**row.settings, "cross": cross})
    expected = restated(maps, cell, cross, align_corners=name != "kp2d-resnet")
    assert len(found[0]) == 5 * 7
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (np.diff(found[1]) <= 0).all()
    np.testing.assert_allclose(row.describe(maps, found[0]), found[2], atol=1e-6)


def test_a_known_point():
    maps = {name: np.zeros_like(value) for name, value in maps_of(4, 5).items()}
    maps["score"][0, 1, 3] = 2
    maps["shift"][:, 1, 3] = np.arctanh([0.5, -1 / 7])
    maps["feat"][3] = -2
    keypoints, scores, descriptors = MODELS["kp2d"].decode(maps, threshold=0.6)
    assert keypoints.tolist() == [[pytest.approx(3 * 8 + 3.5 + 3.5), pytest.approx(8 + 3.5 - 1)]]
    assert scores == pytest.approx(1 / (1 + np.exp(-2)))
    assert descriptors.tolist() == [[0, 0, 0, -1, 0, 0, 0, 0]]


def test_points_are_held_in_the_image():
    maps = maps_of(3, 3)
    for sign, corner in ((-1, 8 + 3.5 - 7), (1, 8 + 3.5 + 7)):  # the middle cell reaches into its neighbours
        maps["shift"][:] = sign * 99
        assert MODELS["kp2d"].decode(maps, threshold=0.0)[0].tolist() == [[corner, corner]]
        far = kp2d(maps, cell=8, threshold=0.0, cross=False)[0]
        assert far.tolist() == [[11.5 + sign * 3.5] * 2]


def test_equal_scores_go_by_index_and_top_k_is_a_prefix():
    maps = maps_of(9, 11)
    maps["score"] = np.round(maps["score"])  # a handful of levels
    whole = kp2d(maps, cell=4, threshold=0.0)
    level = maps["score"][0, 1:-1, 1:-1].reshape(-1)
    order = sorted(range(len(level)), key=lambda index: (-level[index], index))
    np.testing.assert_allclose(whole[1], 1 / (1 + np.exp(-level[order])), rtol=1e-6)
    for k in (0, 1, 5, 40, len(level) - 1, len(level), 1000):
        for all_of_them, some in zip(whole, kp2d(maps, cell=4, threshold=0.0, top_k=k), strict=True):
            np.testing.assert_allclose(some, all_of_them[:k], atol=1e-6)
    cells = np.round((whole[0] - 1.5 - 3 * np.tanh(maps["shift"][:, 1:-1, 1:-1].reshape(2, -1).T[order])) / 4)
    np.testing.assert_array_equal(cells, [[1 + i % 9, 1 + i // 9] for i in order])


def test_the_threshold_must_be_exceeded_and_nothing_may_be_left():
    maps = maps_of()
    maps["score"][:] = 0
    maps["score"][0, 2, 2] = 1e-3
    assert len(kp2d(maps, cell=8, threshold=0.5)[0]) == 1
    for empty in (kp2d(maps, cell=8, threshold=0.9), kp2d(maps_of(2, 2), cell=8, threshold=0.0)):
        assert [value.shape for value in empty] == [(0, 2), (0,), (0, 8)]
        assert {value.dtype for value in empty} == {np.dtype(np.float32)}
    assert len(kp2d(maps_of(1, 1), cell=8, threshold=0.0, top_k=5)[0]) == 0


def test_inputs_are_not_written_and_their_layout_does_not_matter():
    maps = maps_of()
    strided = {name: np.asfortranarray(value.astype(np.float64)) for name, value in maps.items()}
    for a, b in zip(*(kp2d(m, cell=8, threshold=0.0) for m in (maps, strided)), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, value in maps_of().items():
        np.testing.assert_array_equal(maps[name], value)


def test_maps_of_different_sizes_are_named():
    maps = maps_of()
    maps["shift"] = maps["shift"][:, :, 1:]
    with pytest.raises(LfError, match=r"maps of one size expected, found score \(1, 7, 9\), shift \(2, 7, 8\)"):
        kp2d(maps, cell=8, threshold=0.0)


@pytest.mark.parametrize("name", ["score", "shift", "feat"])
def test_broken_and_missing_maps_are_named(name):
    broken = maps_of()
    broken[name][0, 1, 1] = np.nan
    with pytest.raises(LfError, match=f"the {name} map holds a non-finite value"):
        kp2d(broken, cell=8, threshold=0.0)
    del broken[name]
    with pytest.raises(LfError, match=f"gives no {name} map, only "):
        kp2d(broken, cell=8, threshold=0.0)


# --- networks ---


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name):
    with torch.device("meta"):
        network = checkpoint.build(name)
    statistics = [value for key, value in network.named_buffers() if "running" in key]
    found = sum(p.numel() for p in network.parameters()), sum(b.numel() for b in statistics)
    assert found == COUNTS[name]
    assert MODELS[name].parameters == found[0]
    eps = {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == {1e-3 if name in TINY else 1e-5}


@pytest.mark.parametrize(("name", "cross"), [("kp2d-v0", False), ("kp2d-v1", True)])
def test_before_version_2_descriptors_have_the_size_of_the_cells(name, cross):
    old, new = (checkpoint.build(row) for row in (name, "kp2d"))
    without_upsampling = sum(p.numel() for p in new.parameters()) - sum(p.numel() for p in new.up.parameters())
    assert sum(p.numel() for p in old.parameters()) == without_upsampling
    assert [m.shape[-1] for m in old.eval()(torch.zeros(1, 3, 64, 48))] == [6, 6, 6]
    assert MODELS[name].settings["cross"] is cross


@pytest.mark.parametrize("name", ROWS)
def test_only_training_drops_channels_and_only_in_kp2d(name):
    row, network = MODELS[name], checkpoint.build(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # so that two passes differ by nothing but dropout
    image = torch.rand(2, 3, 2 * row.multiple, 2 * row.multiple)
    for training in (True, False):
        network.train(training)
        with torch.no_grad():
            same = [torch.equal(a, b) for a, b in zip(network(image), network(image), strict=True)]
        assert all(same) or not any(same)
        assert all(same) == (name in TINY or not training)


@pytest.mark.parametrize("name", ROWS)
def test_heads_are_raw(name):
    """Scaling the last convolution of a head scales its map: neither sigmoid, nor tanh, nor a norm follows."""
    row, network = MODELS[name], checkpoint.build(name).eval()
    image = torch.rand(1, 3, 2 * row.multiple, 2 * row.multiple)
    with torch.no_grad():
        before = network(image)
        for head in row.heads:
            last = getattr(network, head).b
            last.weight *= 50
            last.bias *= 50
        for a, b in zip(before, network(image), strict=True):
            torch.testing.assert_close(50 * a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "slope"), [("kp2d", 0.01), ("kp2dtiny-baseline", 0.3), ("kp2dtiny-s", None)])
def test_activations_and_input(name, slope):
    network = checkpoint.build(name)
    leaks = {module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)}
    assert leaks == ({slope} if slope else set())
    seen = []
    network.stage1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 3, 16, 16)
    network.eval()(image)
    torch.testing.assert_close(seen[0], image * 2 - 1 if name in TINY else (image - 0.5) * 0.225)


@pytest.mark.parametrize("name", [name for name in TINY if name.endswith("-coral")])
def test_coral_rows_hold_only_what_the_edge_tpu_maps(name, tmp_path):
    pytest.importorskip("onnxscript")
    from lf.export import to_onnx

    card = Card(name, {"origin": "test"}, (3, None, None), outputs=dict(MODELS[name].heads))
    artifact = checkpoint.save(tmp_path / "it.safetensors", checkpoint.build(name), card)
    graph = to_onnx.trace(artifact, (32, 32), to_onnx.OPSET).graph
    assert {node.op_type for node in graph.node} <= {"Sub", "Mul", "Conv", "Relu", "MaxPool", "Resize", "Concat"}
    resize = [node for node in graph.node if node.op_type == "Resize"]
    assert [{a.name: a.s for a in node.attribute}["mode"] for node in resize] == [b"nearest"]


# --- the public checkpoint ---


def block(name, inputs, outputs):
    leaves = dict.fromkeys(
        (f"{name}.1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")), (outputs,)
    )
    return {f"{name}.0.weight": (outputs, inputs, 3, 3), **leaves, f"{name}.1.num_batches_tracked": ()}


def out(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}


TRUNK = {"1a": 32, "1b": 32, "2a": 64, "2b": 64, "3a": 128, "3b": 128, "4a": 256, "4b": 256}
HEADS = {"Da": 256, "Pa": 256, "Fa": 256, "Fb": 512, "Faa": 256}


def public_state():
    shapes, inputs = {}, 3
    for place, outputs in TRUNK.items():
        shapes |= block(f"conv{place}", inputs, outputs)
        inputs = outputs
    for place, outputs in HEADS.items():
        shapes |= block(f"conv{place}", 256, outputs)
    shapes |= out("convDb", 256, 1) | out("convPb", 256, 2) | out("convFbb", 256, 256)
    state = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            state[name] = torch.randn(shape) * (2 / (shape[1] * 9)) ** 0.5
        elif not shape:
            state[name] = torch.tensor(7)
        else:
            state[name] = torch.rand(shape) + 0.5 if name.endswith(("var", "1.weight")) else torch.randn(shape) * 0.1
    return state


def published(image, state):
    """The forward pass by the published names, in eval mode, up to the raw heads."""

    def layer(x, place, active=True):
        x = F.conv2d(x, state[f"conv{place}.0.weight"], padding=1)
        weight, bias, mean, var = (
            state[f"conv{place}.1.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        x = F.batch_norm(x, mean, var, weight, bias)
        return F.leaky_relu(x, 0.01) if active else x

    def last(x, place):
        return F.conv2d(x, state[f"conv{place}.weight"], state[f"conv{place}.bias"], padding=1)

    x = (image - 0.5) * 0.225
    for stage in "123":
        skip = layer(layer(x, f"{stage}a"), f"{stage}b")
        x = F.max_pool2d(skip, 2)
    x = layer(layer(x, "4a"), "4b")
    feat = F.pixel_shuffle(layer(layer(x, "Fa"), "Fb", active=False), 2)
    feat = last(layer(torch.cat([feat, skip], 1), "Faa"), "Fbb")
    return last(layer(x, "Da"), "Db"), last(layer(x, "Pa"), "Pb"), feat


def test_public_weights_give_the_published_maps(tmp_path):
    state = public_state()
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "tracked" not in k) == 5_312_227
    torch.save({"state_dict": state, "config": {"arch": {"epochs": 50}}}, tmp_path / "model.ckpt")
    artifact = resolve(tmp_path / "model.ckpt")
    assert (artifact.card.model, artifact.card.input) == ("kp2d", (3, None, None))
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        for ours, theirs in zip(checkpoint.network(artifact)(image), published(image, state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_missing_tensor_is_named(tmp_path):
    state = public_state()
    del state["convPb.bias"]
    torch.save({"state_dict": state, "config": {}}, tmp_path / "model.ckpt")
    with pytest.raises(BadInput, match=r"looks like kp2d but convPb.bias is missing; expected \(2,\)"):
        checkpoint.load(tmp_path / "model.ckpt")
