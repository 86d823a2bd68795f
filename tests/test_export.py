"""Export: every model of the table to every target, and what happens when the new file would be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lf.core import Artifact, Card, GateFailed, LfError, UsageError
from lf.export import TARGETS, export, parity, to_onnx
from lf.extraction import agreement
from lf.extraction.agreement import Look
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS, NETWORKS, checkpoint
from lf.models.resolve import resolve
from lf.models.superpoint.decode import superpoint

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = (64, 96)  # H, W
USUAL = {  # one of every kind; all others, and the other size, at night
    ("superpoint", None),
    ("superpoint-small", SMALL),
    ("r2d2", None),
    ("fast-r2d2", None),
    ("kp2d", SMALL),
    ("kp2d-resnet", SMALL),
    ("kp2dtiny-s-coral", None),
    ("swift-tiny", SMALL),
    ("edgepoint2-t32", None),
    ("alike-t", SMALL),
    ("xfeat", SMALL),
    ("disk", SMALL),
    ("posfeat-small", None),
    ("wren", None),
}
EVERY = [
    pytest.param(name, size, marks=[] if (name, size) in USUAL else pytest.mark.slow, id=f"{name}-{kind}")
    for name in NETWORKS
    for size, kind in ((SMALL, "static"), (None, "dynamic"))
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Name of a model -> a checkpoint of random weights, with batch statistics worth folding; made once."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), dict[str, Artifact]()

    def get(name: str) -> Artifact:
        if name not in made:
            torch.manual_seed(1)
            network = checkpoint.build(name)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 2)
            row = MODELS[name]
            card = Card(name, {"origin": "test"}, (row.channels, None, None), outputs=dict(row.heads))
            made[name] = checkpoint.save(folder / f"{name}.safetensors", network, card)
        return made[name]

    return get


@pytest.fixture
def few_pictures(monkeypatch):
    """Two small images are enough where parity itself is not the subject."""
    monkeypatch.setattr(parity, "FREE_SIZES", (SMALL, (96, 72)))
    monkeypatch.setattr(agreement, "PICTURES", 2)


@pytest.mark.parametrize(("model", "size"), EVERY)
@pytest.mark.parametrize("target", [name for name, row in TARGETS.items() if row.parent == "checkpoint"])
def test_every_model(target, model, size, checkpoints, few_pictures, tmp_path, capfd):
    parent = checkpoints(model)
    made = export(parent, target, tmp_path / f"new{TARGETS[target].suffix}", size=size)
    assert [*tmp_path.iterdir()] == [made.path]
    assert model_file.load(made.path) == made, "the card in the file is the card returned"
    row, step = MODELS[model], made.card.made[-1]
    assert made.card.size == size
    assert made.card.outputs == dict(row.heads)
    assert made.card.weights == parent.card.weights
    assert step.parent == parent.sha256
    assert step.parity["identical"] >= parity.IDENTICAL
    assert step.parity["unexplained"] == 0
    assert set(step.parity["heads"]) == set(row.heads)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [SMALL, None], ids=["static", "dynamic"])
def test_file(size, network):
    made = network("fast-r2d2", size)
    model = onnx.load(made.path)
    assert (model.producer_name, model.graph.name) == ("lf", "fast-r2d2")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", to_onnx.OPSET)]
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == list(MODELS["fast-r2d2"].heads)
    sides = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[2:]]
    assert sides == (list(size) if size else ["height", "width"])
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert {"layers.0.conv", "reliability", "repeatability"} <= set(convolutions)
    data = made.path.read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in data, "no path of this machine"
    assert b"site-packages" not in data


def test_the_same_export_gives_the_same_bytes(network, few_pictures, tmp_path):
    first = network("wren", SMALL)
    second = export(resolve(first.path.with_suffix(".safetensors")), "onnx", tmp_path / "b.onnx", size=SMALL)
    assert first.sha256 == second.sha256


def test_free_size_takes_every_multiple(network):
    extractor = Extractor(network("wren", None), "ort-cpu")
    for height, width in ((32, 40), (104, 56)):
        maps = extractor.session.run(np.zeros((1, 1, height, width), np.float32))
        assert maps["detector"].shape == (1, 65, height // 8, width // 8)


def test_sizes_of_the_check_are_multiples_and_odd_ones_among_them():
    for multiple in (1, 2, 8):
        sides = [side for size in parity.sizes(multiple) for side in size]
        assert all(side % multiple == 0 for side in sides)
        assert any(side // multiple % 2 for side in sides)


def test_pictures_of_a_folder(checkpoints, tmp_path):
    import cv2

    (tmp_path / "in").mkdir()
    for index, picture in enumerate(agreement.drawn((80, 120), 3)):
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), picture)
    made = export(checkpoints("wren"), "onnx", tmp_path / "a.onnx", size=SMALL, images=tmp_path / "in")
    assert made.card.made[-1].parity["pictures"] == 3


def test_default_name(checkpoints, few_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(checkpoints("wren"), "onnx", size=SMALL).path == Path("wren.onnx")


@pytest.mark.parametrize(
    ("target", "out", "options", "text"),
    [
        ("onnxx", "a.onnx", {}, "did you mean 'onnx'"),
        ("onnx", "a.tflite", {}, "-o a.onnx"),
        ("onnx", "a.onnx", {"size": (65, 96)}, "for example `size=64x96`"),
        ("onnx", "a.onnx", {"size": (0, 96)}, "for example `size=8x96`"),
        ("onnx", "a.onnx", {"opset": 11}, "expected 18 to 23"),
    ],
)
def test_usage(target, out, options, text, checkpoints, tmp_path):
    with pytest.raises(UsageError, match=text):
        export(checkpoints("wren"), target, tmp_path / out, **options)
    assert not [*tmp_path.iterdir()]


def test_only_checkpoints_are_exported(tmp_path):
    card = Card("wren", {}, (1, 64, 96))
    with pytest.raises(UsageError, match="starts from a checkpoint"):
        export(Artifact(tmp_path / "a.onnx", card), "onnx", tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("factor", "text"),
    [(1.05, "parity of wren.safetensors: output detector differs"), (np.nan, "not finite|non-finite")],
)
def test_a_wrong_file_is_not_written(factor, text, checkpoints, few_pictures, tmp_path, monkeypatch):
    right = to_onnx.trace

    def wrong(*arguments):
        model = right(*arguments)
        weights = next(i for i in model.graph.initializer if i.name.startswith("detector") and len(i.dims) == 4)
        weights.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * np.float32(factor), weights.name)
        )
        return model

    monkeypatch.setattr(to_onnx, "trace", wrong)
    with pytest.raises(LfError, match=text) as caught:
        export(checkpoints("wren"), "onnx", tmp_path / "a.onnx", size=SMALL)
    assert not [*tmp_path.iterdir()]
    assert np.isnan(factor) or (isinstance(caught.value, GateFailed) and "nothing was written" in str(caught.value))


def test_another_set_of_outputs_is_not_written(checkpoints, few_pictures, tmp_path, monkeypatch):
    right = to_onnx.trace

    def wrong(*arguments):
        model = right(*arguments)
        return onnx.compose.add_prefix(model, "x_", rename_inputs=False, rename_nodes=False)

    monkeypatch.setattr(to_onnx, "trace", wrong)
    with pytest.raises(LfError, match="no detector map"):
        export(checkpoints("wren"), "onnx", tmp_path / "a.onnx", size=SMALL)
    assert not [*tmp_path.iterdir()]


def test_batch_norm_must_fold(checkpoints, tmp_path, monkeypatch):
    right = to_onnx.tidy

    def unfolded(model, name):
        model = right(model, name)
        channels = onnx.numpy_helper.from_array(np.ones(64, np.float32), "ones")
        model.graph.initializer.append(channels)
        node = onnx.helper.make_node("BatchNormalization", ["descriptor", *["ones"] * 4], ["extra"], name="bn7")
        model.graph.node.append(node)
        return model

    monkeypatch.setattr(to_onnx, "tidy", unfolded)
    with pytest.raises(LfError, match="bn7 was not folded"):
        export(checkpoints("wren"), "onnx", tmp_path / "a.onnx", size=SMALL)


def stand_in(model: str) -> SimpleNamespace:
    """An extractor that decodes the maps of a network."""
    row = MODELS[model]
    return SimpleNamespace(model=row, settings=row.settings, artifact=Artifact(Path("stand-in.onnx"), None))


def superpoint_look(heat: dict[tuple[int, int], float]) -> tuple[Look, SimpleNamespace]:
    """A SuperPoint seen to have probabilities `heat` at (x, y) of a 64x64 image, and a stand-in extractor."""
    cells = np.full((64, 64), 1e-6, np.float32)
    for (x, y), value in heat.items():
        cells[y, x] = value
    unfolded = cells.reshape(8, 8, 8, 8).transpose(1, 3, 0, 2).reshape(64, 8, 8)
    logits = np.log(np.concatenate([unfolded, 1 - unfolded.sum(0, keepdims=True)]))
    maps = {"detector": logits, "descriptor": np.ones((256, 8, 8), np.float32)}
    extractor = stand_in("superpoint")
    return Look(maps, agreement.decode(extractor, maps, (64, 64))), extractor


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        ({(20, 20): 0.01501}, {(20, 20): 0.01499}, [True]),  # at the threshold
        ({(20, 20): 0.03}, {}, [False]),  # gone without a reason
        ({(20, 20): 0.03001, (22, 21): 0.03}, {(20, 20): 0.03, (22, 21): 0.03001}, [True, True]),  # a tie
        ({(20, 20): 0.04, (22, 21): 0.03}, {(20, 20): 0.03, (22, 21): 0.04}, [False, False]),  # no tie
        (  # the third point falls with the one that suppressed it
            {(20, 20): 0.03001, (23, 20): 0.03, (26, 20): 0.02},
            {(20, 20): 0.03, (23, 20): 0.03001, (26, 20): 0.02},
            [True, True, True],
        ),
    ],
)
def test_differences_that_rounding_explains(before, after, may):
    (a, extractor), (b, _) = superpoint_look(before), superpoint_look(after)
    only_a = ~agreement.near(a.features.keypoints, b.features.keypoints, parity.SAME)
    only_b = ~agreement.near(b.features.keypoints, a.features.keypoints, parity.SAME)
    found = parity.explained(a, b, only_a, only_b, extractor)
    assert found.tolist() == may
    for look in (a, b):  # the row of a network says what its head is called
        look.maps["words"] = look.maps.pop("descriptor")
    extractor.model = replace(
        extractor.model,
        descriptor="words",
        decode=lambda maps, **settings: superpoint({**maps, "descriptor": maps["words"]}, **settings),
    )
    assert parity.explained(a, b, only_a, only_b, extractor).tolist() == may


def test_a_pixel_that_loses_to_an_equal_neighbour_is_explained():
    """The first pixel of a plateau is suppressed by a third one, so the second has no keypoint to compare with."""
    extractor = stand_in("r2d2")
    looks = []
    for rival in (3.0, 2.99999):
        repeatable = np.full((1, 16, 16), -9, np.float32)
        repeatable[0, 6:9, 8] = 4, rival, 3
        heads = {"descriptor": np.ones((128, 16, 16), np.float32), "reliability": np.full((1, 16, 16), 5, np.float32)}
        maps = {**heads, "repeatability": repeatable}
        looks.append(Look(maps, agreement.decode(extractor, maps, (16, 16))))
    a, b = looks
    only_b = ~agreement.near(b.features.keypoints, a.features.keypoints, parity.SAME)
    assert b.features.keypoints[only_b].tolist() == [[8, 8]]
    assert parity.explained(a, b, np.zeros(len(a.features), bool), only_b, extractor).tolist() == [True]


@pytest.mark.parametrize(("rival", "contested"), [(3.0, True), (2.99999, True), (3.00001, True), (2.9, False)])
def test_only_the_best_neighbour_contests(rival, contested):
    score = np.zeros((8, 8), np.float32)
    score[4, 4], score[3, 5] = 3, rival
    assert parity.contested(score, np.array([[4.0, 4.0]], np.float32)).tolist() == [contested]


def test_scores_are_laid_out_before_neighbours_contest():
    cells = np.zeros((4, 6, 6), np.float32)
    cells[3, 4, 4], cells[0, 5, 5] = 3, 3  # at 9, 9 and at 10, 10
    score = parity.ranked(MODELS["edgepoint2-t32"], {"score": cells})
    assert score.shape == (12, 12)
    assert parity.contested(score, np.array([[9.0, 9.0], [10.0, 10.0]], np.float32)).tolist() == [True, True]
    score[10, 10], score[11, 11] = 0, 3
    assert [parity.contested(score, np.array([[9.0, 9.0]]), radius).tolist() for radius in (1, 2)] == [[False], [True]]
    assert parity.ranked(MODELS["xfeat"], {"detector": np.zeros((65, 2, 3), np.float32)}).shape == (16, 24)
    assert parity.ranked(MODELS["wren"], {}) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["superpoint/superpoint_v1_composite.pth", "r2d2/faster2d2_WASF_N16.pt"])
def test_public_weights(name, shared, tmp_path):
    path = shared / "weights" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    made = export(resolve(path), "onnx", tmp_path / "a.onnx")
    figures = made.card.made[-1].parity
    assert figures["keypoints"] > 2000
    assert figures["identical"] >= parity.IDENTICAL
    assert all(head["max_rel"] < 1e-5 for head in figures["heads"].values())
