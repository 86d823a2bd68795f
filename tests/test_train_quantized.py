"""Quantization-aware training: what is rounded and where, that the file computes the same, and that a run resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lf.core import Artifact, BadInput, Card, LfError, UsageError
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS, NETWORKS, checkpoint
from lf.models.resolve import resolve
from lf.quantize import learned_ranges, quantize
from lf.quantize.calibrate import ranges as quantize_ranges
from lf.train import RECIPES, fake_quantize, loop, quantizers
from lf.train.loop import train
from lf.train.losses import map_losses
from lf.train.methods import distil
from lf.train.quantizers import Activations, Folded, Weights
from lf.train.views import random_views

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZE = (64, 96)  # H, W
FEW = ["steps=6", "batch=2", "size=64", "pictures=4", "picture_size=96", "warmup=2"]
ROWS = {"superpoint-small": 4, "fast-r2d2": 3, "kp2dtiny-s-coral": 8, "thin-kp2d": 4}  # row -> bits of weights
THIN = {"channels": (8, 16, 16, 32, 32), "up": 16, "depth": 32}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "PICTURES", 2)
        heads = {**MODELS["kp2d"].heads, "feat": (32, 4)}
        thin = dataclasses.replace(MODELS["kp2d"], options=THIN, heads=heads)  # with leaky ReLUs
        patch.setitem(MODELS, "thin-kp2d", thin)
        patch.setitem(NETWORKS, "thin-kp2d", thin)
        yield


def network_of(name):
    """The shipped weights, or random ones with norms that do something and scores that peak in few places."""
    if name in ("superpoint-small", "kp2dtiny-s-coral"):
        return checkpoint.network(resolve(name))
    torch.manual_seed(1)
    network = checkpoint.build(name).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_(0, 0.1)
    with torch.no_grad():
        pictures = torch.cat(pictures_of(name))
        network.train()(pictures)  # what a trained network has: norms that fit its pictures
        network.eval()
        if "r2d2" in name:  # the best hundredth of all places are points
            head = network.repeatability
            head.weight /= network(pictures)[2].std()
            head.bias += 2.5 - network(pictures)[2].quantile(0.99)
            network.reliability.bias += torch.tensor([0.0, 10.0])
    return network


def pictures_of(name, count=8):
    grey = MODELS[name].channels == 1
    images = np.stack([*agreement.drawn(SIZE, count)]).astype(np.float32) / 255
    images = images.mean(3, keepdims=True) if grey else images
    return [torch.from_numpy(image).permute(2, 0, 1)[None] for image in images]


def decibels(found, expected):
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


@dataclasses.dataclass
class Case:
    """A network that was prepared, and its files."""

    name: str
    bits: int
    network: nn.Module
    pictures: list
    exported: Artifact
    quantized: Artifact

    @property
    def scheme(self):
        return f"w{self.bits}a8"


@pytest.fixture(scope="module", params=ROWS)
def case(request, tmp_path_factory):
    from lf.export import to_onnx

    name, bits, folder = request.param, ROWS[request.param], tmp_path_factory.mktemp("case")
    network, pictures, row = network_of(name), pictures_of(name), MODELS[name]
    own = network.state_dict().keys()
    prepared = fake_quantize.prepare(network, row, bits, 8, pictures)
    plain = checkpoint.build(name)
    plain.load_state_dict(fake_quantize.plain(prepared, own))
    card = Card(name, {"origin": "test"}, (row.channels, None, None), outputs=dict(row.heads))
    step = {"command": "train", "scheme": f"w{bits}a8", "ranges": fake_quantize.ranges(prepared)}
    made = checkpoint.save(folder / "a.safetensors", plain, card.step(made=step))
    graph = to_onnx.trace(made, SIZE, 18).SerializeToString()
    exported = model_file.save(folder / "a.onnx", graph, made.card.step(input=(row.channels, *SIZE)))
    quantized = quantize(exported, f"w{bits}a8", None, folder / "b.onnx")
    return Case(name, bits, prepared, pictures, exported, quantized)


# --- grids and gradients


def test_rounding_passes_gradients_straight_through():
    x = torch.tensor([-1.4, 0.5, 1.5, 2.6], requires_grad=True)
    rounded = quantizers.nearest(x)
    assert rounded.tolist() == [-1, 0, 2, 3]
    rounded.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_weights_lie_on_their_grid(bits):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4, 3, 3) * torch.logspace(-2, 1, 6).view(-1, 1, 1, 1))
    with torch.no_grad():
        weight[0] = 0  # a channel that is switched off
    grid = Weights(weight, bits)
    rounded, step = grid(weight), grid.steps(weight)
    numbers = rounded / step.view(-1, 1, 1, 1)
    end = 2 ** (bits - 1) - 1
    torch.testing.assert_close(numbers, numbers.round(), atol=1e-4, rtol=0)
    assert numbers.abs().max().round() == end
    step = step.detach().view(-1, 1, 1, 1)
    clipped = (weight.abs() - end * step).clamp(min=0)
    assert ((rounded - weight).abs() <= step / 2 + clipped + 1e-6).all()
    rounded.sum().backward()
    inside = (weight.detach() / step).abs() < end + 0.5
    torch.testing.assert_close(weight.grad, inside.float())
    plain = weight.detach().flatten(1).abs().amax(1) / end
    nearest = (weight / plain.clamp(min=1e-6).view(-1, 1, 1, 1)).round() * plain.view(-1, 1, 1, 1)
    assert (rounded - weight).square().sum() <= (nearest - weight).square().sum() * (1 + 1e-6)


def test_the_step_of_weights_is_learned_as_in_lsq():
    """Equation 3 of arXiv 1902.08153, times the step, as what is learned is its logarithm."""
    weight, end = torch.tensor([[0.26, -0.9, 2.0, -5.0]]), 7
    grid = Weights(weight, 4)
    grid.step.fill_(0.5)
    grid(weight).sum().backward()
    v = weight / 0.5
    expected = torch.where(v.abs() < end + 0.5, v.round() - v, v.sign() * end).sum() * 0.5
    torch.testing.assert_close(grid.factor.grad, expected[None])


def test_activations_clip_to_their_range_and_learn_it():
    grid = Activations(["a.input"])
    grid(torch.tensor([-1.0, 2.0]))
    assert [float(end) for end in (grid.low, grid.high)] == [-1, 2]
    assert grid(torch.tensor([0.123])) == torch.tensor([0.123])  # it only looks on
    grid.observing = False
    x = torch.tensor([-3.0, -0.5, 0.0, 1.0, 9.0], requires_grad=True)
    rounded = grid(x)
    step, zero = 3 / 255, 85
    torch.testing.assert_close(rounded, torch.tensor([-zero, -42, 0, 85, 170]) * step)
    rounded.backward(torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]))
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    assert grid.factors.grad[1] > 1.9  # what was clipped wants more room


def test_a_range_holds_zero_and_is_never_empty():
    grid = Activations(["a.input"])
    grid(torch.zeros(3))
    grid.observing = False
    assert grid(torch.zeros(3)).tolist() == [0, 0, 0]
    grid.observing = True
    grid(torch.tensor([4.0, 5.0]))
    assert grid.low == 0


# --- what is made of a network


@pytest.mark.parametrize("name", ["superpoint-small", "r2d2", "kp2dtiny-s", "kp2d-resnet", "wren"])
def test_folding_changes_no_output_and_leaves_identities(name):
    network, row = network_of(name), MODELS[name]
    picture = pictures_of(name, 1)[0]
    with torch.no_grad():
        expected = network(picture)
    before = {key: value.shape for key, value in network.state_dict().items()}
    traced = torch.fx.symbolic_trace(network)
    fake_quantize._simplify(traced)
    traced.recompile()
    plain = checkpoint.build(name)
    plain.load_state_dict(fake_quantize.plain(traced, before))
    assert {key: value.shape for key, value in plain.state_dict().items()} == before
    with torch.no_grad():
        for found in (traced.train()(picture), plain.eval()(picture)):  # training mode changes nothing any more
            for head, one, other in zip(row.heads, found, expected, strict=True):
                assert decibels(one, other) > 90, head
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    folded = [module for module in traced.modules() if isinstance(module, Folded)]
    assert len(norms) == len(folded) > 0
    values = torch.randn(1, 1, 8, 8)
    for norm in norms:
        x = values.expand(1, norm.num_features, 8, 8)
        bias = 0 if norm.bias is None else norm.bias.view(-1, 1, 1)
        assert torch.equal(norm(x), x + bias)


def quantized_places(model):
    """Return for every quantized tensor of the file its places at integer convolutions."""
    nodes = model.graph.node
    made_by = {name: node for node in nodes for name in node.output}
    linear = {node.output[0]: node for node in nodes if node.op_type == "QuantizeLinear"}
    stored = {tensor.name for tensor in model.graph.initializer}

    def root(node):  # of the pooling of levels
        before = made_by.get(node.input[0])
        if before is not None and before.op_type == "MaxPool" and before.input[0] in made_by:
            behind = made_by[before.input[0]]
            if behind.op_type == "DequantizeLinear":
                return root(linear[behind.input[0]])
        return node.input[0]

    found = {root(node): set() for node in linear.values()}
    for conv in (node for node in nodes if node.op_type == "Conv"):
        if conv.input[1] in stored:  # float weights: a head
            continue
        found[root(linear[made_by[conv.input[0]].input[0]])].add(f"{conv.name}.input")
        found[conv.output[0]].add(f"{conv.name}.output")
    return {frozenset(places) for places in found.values()}


def test_the_file_rounds_what_training_rounded(case):
    rounded = {frozenset(m.places) for m in case.network.modules() if isinstance(m, Activations)}
    assert quantized_places(onnx.load(case.quantized.path)) == rounded
    convolutions = [name for name, module in case.network.named_modules() if hasattr(module, "parametrizations")]
    integer = [name for name in convolutions if hasattr(case.network.get_submodule(name), "weight")]
    kept = case.quantized.card.made[-1].kept_float
    assert kept
    assert not set(kept) & set(integer)


def test_the_file_has_the_weights_of_training_in_their_bits(case):
    tensors = {tensor.name: tensor for tensor in onnx.load(case.quantized.path).graph.initializer}
    kind = {3: onnx.TensorProto.INT4, 4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8}[case.bits]
    stored = [name for name in tensors if name.endswith("weight_quantized")]
    assert len(stored) == case.quantized.card.made[-1].integer_convolutions
    for name in stored:
        own = name.removesuffix("_quantized")
        assert tensors[name].data_type == kind
        numbers = onnx.numpy_helper.to_array(tensors[name]).astype(np.float32)
        scale = onnx.numpy_helper.to_array(tensors[f"{own}_scale"]).reshape(-1, 1, 1, 1)
        expected = fake_quantize.plain(case.network, [own])[own].numpy()
        np.testing.assert_allclose(numbers * scale, expected, rtol=1e-5, atol=1e-9)


def test_the_file_computes_what_training_computed(case):
    """Integer kernels against fake quantization: maps within steps, and the same keypoints.

    Kernels round a sum that lies between two levels the other way now and then, and the layers behind add to it. A bias
    left in float, or a place that is missing, costs SuperPoint 2 % of its keypoints.
    """
    row, session = MODELS[case.name], Extractor(case.quantized, "ort-cpu").session
    pictures = torch.cat(case.pictures)
    with torch.no_grad():
        outputs = [torch.cat(maps).numpy() for maps in zip(*map(case.network, case.pictures), strict=True)]
    learned = dict(zip(row.heads, outputs, strict=True))
    each = [session.run(picture[None].numpy()) for picture in pictures]
    found = {head: np.concatenate([maps[head] for maps in each]) for head in row.heads}
    for head, expected in learned.items():
        assert np.abs(found[head] - expected).mean() < np.ptp(expected) / 255, head
    before = after = same = 0
    for index in range(len(pictures)):
        both = ({head: maps[index] for head, maps in every.items()} for every in (learned, found))
        a, b = (row.decode(maps, **row.settings)[0] for maps in both)
        before, after, same = before + len(a), after + len(b), same + int(agreement.near(a, b, 1.0).sum())
    assert before > 100
    assert before - same <= max(3, 0.01 * before)
    assert abs(after - before) <= 0.02 * before


def test_ranges_of_the_card_are_those_of_the_file(case):
    places = learned_ranges(case.exported, case.scheme)
    assert places == {k: tuple(v) for k, v in fake_quantize.ranges(case.network).items()}
    model = onnx.load(case.quantized.path)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = [tensors[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    expected = {(high - low) / 255 for low, high in places.values()}
    for scale in scales:
        assert min(abs(scale / e - 1) for e in expected) < 1e-5
    assert case.quantized.card.made[-1].calibration.to_dict() == {"method": "learned", "files": []}


def test_other_schemes_need_photos(case, tmp_path):
    other = "w8a8" if case.bits < 8 else "w4a8"
    with pytest.raises(
        UsageError, match=rf"scheme {other} needs calibration images.* `images=DIR` \(only weights that lf train"
    ):
        quantize(case.exported, other, None, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("word", "value"), {"calibration": "mse", "limit": 2, "seed": 1, "exclude": Path("root")}.items()
)
def test_words_on_photos_need_photos(case, word, value, tmp_path):
    text = f"^`{word}`: .*a.onnx has ranges that were learned for {case.scheme}; .* `images=DIR`"
    with pytest.raises(UsageError, match=text):
        quantize(case.exported, case.scheme, None, tmp_path / "a.onnx", **{word: value})


@pytest.mark.parametrize("step", [{}, {"ranges": None}, {"ranges": {"a": 1}}, {"ranges": {"a": ["x", 1]}}])
def test_ranges_that_are_none_are_refused(case, step):
    card = case.exported.card.step(made={"command": "train", "scheme": case.scheme, **step})
    with pytest.raises(BadInput, match=r"a.onnx: the learned ranges in its card are damaged .*again"):
        learned_ranges(dataclasses.replace(case.exported, card=card), case.scheme)


def test_a_head_that_was_trained_in_float_has_no_range(case, tmp_path):
    head = case.quantized.card.made[-1].kept_float[0]
    with pytest.raises(LfError, match=f"{head} was trained in float: the card has no range .* calibrate: `images=DIR`"):
        quantize(case.exported, case.scheme, None, tmp_path / "a.onnx", bits={head: 8})


def test_ranges_pass_poolings_and_absorbed_relus():
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["image", "w"], ["a"], name="one"),
        make("Relu", ["a"], ["b"]),
        make("MaxPool", ["b"], ["c"]),
        make("Conv", ["c", "w"], ["d"], name="two"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    places = {"one.input": (0.0, 1.0), "one.output": (0.0, 3.0), "two.input": (0.0, 3.0), "two.output": (-2.0, 5.0)}
    found = quantize_ranges.learned(model, ["one", "two"], places)
    assert {name: (r.low, r.high) for name, r in found.items()} == {
        "image": (0, 1), "a": (0, 3), "b": (0, 3), "c": (0, 3), "d": (-2, 5)
    }  # fmt: skip


# --- the run


def silent(done, total, text):
    pass


def run(recipe, out, progress=silent):
    return train(recipe, [recipe.data], out, device="cpu", threads=1, progress=progress)


def small(name="distil", *changes):
    recipe = RECIPES[name]
    more = ["init=superpoint-small", "points=32", "adaptations=2", "relabel=0.5"]
    return recipe.override([*FEW, *(c for c in more if c.split("=")[0] in recipe.flat()), *changes])


JOINT = ("superpoint-small", "weight_bits=3", "activation_bits=8")


@pytest.mark.parametrize("changes", [("distil",), (*JOINT, "ema=0.9")])
def test_a_run_resumes_to_the_last_bit(changes, tmp_path):
    recipe = small(*changes)

    def interrupt(done, total, text):
        if (done, total) == (4, recipe.steps):
            raise KeyboardInterrupt

    whole = run(recipe, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, [recipe.data], tmp_path / "b", device="cpu", threads=1, progress=interrupt, every=3)
    again = run(recipe, tmp_path / "b")
    assert again.path.read_bytes() == whole.path.read_bytes()
    state = torch.load(tmp_path / "b" / loop.CHECKPOINT, weights_only=True)["network"]
    assert any(key.endswith("factors") and value.any() for key, value in state.items()), "ranges were learned"
    step = whole.card.made[-1]
    assert step.scheme == f"w{recipe.weight_bits}a8"
    assert step.parent == resolve("superpoint-small").card.weights["sha256"]
    network = checkpoint.network(whole)
    levels = 2**recipe.weight_bits - 1
    for name, module in network.named_modules():
        if f"{name}.input" in step.ranges:
            assert max(len(channel.unique()) for channel in module.weight.detach().flatten(1)) <= levels


def test_the_student_comes_nearer_to_its_teacher(tmp_path):
    recipe = small("distil", "steps=25", "lr=1e-3", "weight_bits=3")
    run(recipe.override(["steps=1"]), tmp_path / "a")
    run(recipe, tmp_path / "b")
    first, last = (json.loads((tmp_path / x / "log.jsonl").read_text().splitlines()[-1]) for x in "ab")
    assert last["descriptor"] < 0.8 * first["descriptor"]
    assert last["detector"] < 0.8 * first["detector"]


def test_nothing_is_lost_where_nothing_differs():
    recipe = small()
    pictures = type("P", (), {"__len__": lambda s: 4, "take": lambda s, i: torch.rand(len(i), 1, 96, 96)})()
    method = distil.Method(recipe, pictures, torch.device("cpu"))
    dice = random_views.Dice(1, 0, 2, torch.device("cpu"))
    loss, parts = method.loss(method.teacher, dice)
    assert parts.keys() == MODELS["superpoint-small"].heads.keys()
    assert loss.abs() < 1e-5


@pytest.mark.parametrize("heads", [("detector", "depth"), ("descriptor",), ("repeatability", "descriptor")])
def test_a_network_with_heads_that_have_no_loss_is_refused(heads, monkeypatch):
    row = dataclasses.replace(MODELS["superpoint-small"], heads=dict.fromkeys(heads, (1, 8)))
    monkeypatch.setitem(MODELS, "superpoint-small", row)
    with pytest.raises(UsageError) as caught:
        distil.Method(small("distil"), None, torch.device("cpu"))
    assert str(caught.value) == (
        "recipe: method distil trains networks with heads among detector, descriptor, reliability, repeatability, "
        "score, shift, feat, which must hold detector, or score, or reliability and repeatability; "
        f"superpoint-small has {', '.join(heads)}; see: lf models"
    )


@pytest.mark.parametrize("name", ["superpoint", "r2d2", "kp2d-resnet"])
def test_every_head_has_a_loss_and_points_a_weight(name):
    row = MODELS[name]
    torch.manual_seed(0)
    cell = row.multiple
    maps = {head: torch.randn(2, depth, 64 // stride, 64 // stride) for head, (depth, stride) in row.heads.items()}
    points = map_losses.points_of(maps)
    assert ((points > 0) & (points < 1)).all(), cell
    for head, values in maps.items():
        assert float(map_losses.LOSSES[head](values, values, points)) == pytest.approx(0, abs=1e-6)
        assert float(map_losses.LOSSES[head](values + torch.randn_like(values), values, points)) > 0.01


def test_the_network_is_that_of_init(tmp_path):
    recipe = small("distil", "steps=1", "size=32", "init=kp2dtiny-s-coral")
    made = run(recipe, tmp_path)
    assert made.path.name == "kp2dtiny-s-coral.safetensors"
    assert made.card.model == "kp2dtiny-s-coral"
    assert {place.rpartition(".")[0] for place in made.card.made[-1].ranges} >= {"stage1.a.conv", "feat.b"}
    assert loop.fitted(small("superpoint-small")).model == "superpoint-small", "other methods keep theirs"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("distil", ["weight_bits=5"], "recipe: weight_bits=5; expected one of 0, 3, 4, 8"),
        ("wren", ["activation_bits=4"], "recipe: activation_bits=4; expected one of 0, 8"),
        ("wren", ["activation_bits=8"], "recipe: activation_bits=8 needs weight_bits too, for example 8"),
    ],
)
def test_bits_that_no_file_has(name, changes, message):
    with pytest.raises(UsageError) as caught:
        RECIPES[name].override(changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "distil",
            ["weight_bits=0", "activation_bits=0"],
            "weight_bits=0 leaves the network what it is; type: `weight_bits=4`",
        ),
        ("distil", ["init="], "weight_bits=4 starts from a float network; type: `init=CHECKPOINT`"),
        ("superpoint-small", ["init=", "weight_bits=4"], "weight_bits=4 starts from a float network"),
        ("distil", ["init=wrenn"], "'wrenn' is neither a file nor shipped weights; did you mean 'wren'"),
    ],
)
def test_runs_that_cannot_start(name, changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(small(name, *changes), tmp_path)


def test_weights_alone(tmp_path):
    """Without bits for activations the file is one of scheme w4, and nothing is said of ranges."""
    made = run(small("distil", "steps=1", "activation_bits=0"), tmp_path)
    assert made.card.made[-1].scheme == "w4"
    assert made.card.made[-1].ranges == {}
