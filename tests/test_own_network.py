"""Networks that a TOML card describes: read, decoded, adopted, and as rows of a package of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import foreign_files as foreign
import numpy as np
import pytest
import torch
from test_cut_features import assert_same, graph_of
from torch import nn

from lf.core import BadInput, Card
from lf.data import images
from lf.export.adopt import adopt, description, inputs
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS, own, row_of
from lf.models.features import features
from lf.models.kp2d.decode import kp2d
from lf.models.superpoint.decode import superpoint
from lf.models.swift.decode import swift
from lf.models.wren.decode import wren

GRID = """
name = "mine"
[detector]
part = "grid65"
threshold = 0.015
[descriptor]
length = 256
"""


def read(tmp_path, text):
    path = tmp_path / "net.toml"
    path.write_text(text)
    return description(path)


def maps(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) * 2 for name, shape in shapes.items()}


def decoded(given, values, **changed):
    row = own.row("mine", given)
    return row.decode(values, **{**row.settings, **changed})


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert len(one) > 3
        np.testing.assert_allclose(one, other, atol=2e-6)


def described(**tables):
    return own.complete({"name": "mine", "descriptor": {"length": 16}, **tables}, "here")


@pytest.mark.parametrize(
    ("detector", "descriptor", "decoder"),
    [
        ({}, {"sampling": "superpoint"}, superpoint),
        ({"refine": "soft"}, {}, partial(wren, refine="soft")),
    ],
)
def test_grid65_decodes_as_superpoint_and_wren(detector, descriptor, decoder):
    values = maps(detector=(65, 8, 10), descriptor=(16, 8, 10))
    given = described(detector={"part": "grid65", **detector}, descriptor={"length": 16, **descriptor})
    same(decoded(given, values), decoder(values, threshold=0.01, nms_radius=4, border=4))


def test_a_heatmap_in_squares_decodes_as_swift():
    values = maps(score=(4, 24, 32), descriptor=(16, 12, 16))
    given = described(
        detector={"part": "heatmap", "stride": 2, "refine": "soft", "threshold": 0.7},
        descriptor={"length": 16, "stride": 4},
    )
    same(decoded(given, values), swift(values, threshold=0.7, nms_radius=4, border=4, temperature=1.0))


def test_cells_decode_as_kp2d():
    values = maps(score=(1, 8, 10), shift=(2, 8, 10), descriptor=(16, 16, 20))
    given = described(
        detector={"part": "cell", "threshold": 0.0, "border": 0},
        descriptor={"length": 16, "stride": 4, "sampling": "centres"},
    )
    points, scores, _ = kp2d({**values, "feat": values["descriptor"]}, cell=8, threshold=0.0)
    found = decoded(given, values)
    same(found[:2], (points, scores))
    assert "nms_radius" not in own.row("mine", given).settings


def test_offsets_move_the_maxima_of_a_coarse_map():
    values = maps(descriptor=(16, 6, 8))
    values["score"] = np.full((1, 12, 16), -9, np.float32)
    values["offset"] = np.zeros((2, 12, 16), np.float32)
    values["score"][0, 5, 7], values["score"][0, 8, 3] = 2, 1
    values["offset"][:, 5, 7] = 0.5, -0.25
    given = described(detector={"part": "heatmap+offset", "stride": 4, "offset": 4.0, "threshold": 0.2})
    points, scores, descriptors = decoded(given, values)
    np.testing.assert_allclose(points, [[7 * 4 + 1.5 + 2, 5 * 4 + 1.5 - 1], [3 * 4 + 1.5, 8 * 4 + 1.5]])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([-2.0, -1.0])), rtol=1e-6)
    assert descriptors.shape == (2, 16)
    assert len(decoded(given, values, border=30)[0]) == 0
    assert len(decoded(given, values, top_k=1)[0]) == 1


def test_scores_are_taken_as_they_are():
    values = {**maps(descriptor=(16, 6, 8)), "score": np.zeros((1, 48, 64), np.float32)}
    values["score"][0, 20, 30] = 7
    given = described(detector={"part": "heatmap", "stride": 1, "values": "scores", "threshold": 5})
    points, scores, _ = decoded(given, values)
    assert (points.tolist(), scores.tolist()) == ([[30, 20]], [7])


def test_corners_lie_on_the_outermost_cells():
    values = maps(detector=(65, 6, 8), descriptor=(16, 6, 8))
    row = own.row("mine", described(detector={"part": "grid65"}, descriptor={"length": 16, "sampling": "corners"}))
    corner = row.describe(values, np.array([[63, 47]], np.float32))[0]
    cell = values["descriptor"][:, -1, -1]
    np.testing.assert_allclose(corner, cell / np.linalg.norm(cell), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name = ", "net.toml: not TOML: "),
        ("[detector]\npart = 'grid65'\n[descriptor]\nlength = 4", "net.toml: name is missing; expected text"),
        (GRID + "stide = 4", "unknown key descriptor.stide; did you mean 'stride'? known: length, stride, sampling"),
        ("nam = 'x'\n" + GRID, "unknown key nam; did you mean 'name'? known: name, channels"),
        (GRID.replace("grid65", "grid66"), "detector.part = 'grid66'; did you mean 'grid65'? expected one of grid65"),
        (GRID.replace("0.015", "'x'"), "detector.threshold = 'x'; expected a number from 0"),
        (GRID.replace("0.015", "1"), "detector.threshold = 1; expected a probability below 1"),
        (GRID.replace("256", "-1"), "descriptor.length = -1; expected a whole number from 1"),
        (GRID.replace("256", "true"), "descriptor.length = True; expected a whole number from 1"),
        (GRID + "[outputs]\nsemi = 3", "outputs.semi = 3; expected the name of a head"),
        ("detector = 3\nname = 'x'\n[descriptor]\nlength = 4", "detector is 3; expected a table: [detector]"),
        (
            GRID.replace("'grid65'", "'cell'").replace('"grid65"', '"cell"\nrefine = "soft"'),
            "expected with part grid65 or",
        ),
        (GRID + "stride = 4\nsampling = 'superpoint'", "sampling = 'superpoint' needs descriptor.stride = 8"),
        (GRID.replace("0.015", "0.015\nstride = 4"), "detector.stride = 4; part grid65 has 8"),
        (
            GRID.replace("0.015", "0.015\nvalues = 'scores'"),
            "detector.values = 'scores'; expected with part heatmap or",
        ),
    ],
)
def test_a_wrong_card_is_one_line(lf, tmp_path, text, fault):
    (tmp_path / "net.toml").write_text(text)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(BadInput) as raised:
        description(tmp_path / "net.toml")
    assert fault in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_card_may_not_take_the_name_of_a_network(lf, tmp_path):
    (tmp_path / "net.toml").write_text(GRID.replace("mine", "wren"))
    (tmp_path / "net.onnx").write_bytes(onnx_of(tmp_path).read_bytes())
    code, said, error = lf("adopt", tmp_path / "net.onnx", "--card", tmp_path / "net.toml")
    assert (code, said) == (2, "")
    assert "name = 'wren' is a network of lf; choose another, or type: --as wren" in error


def onnx_of(tmp_path):
    return foreign.export(foreign.PyTorchSuperPoint(), tmp_path / "sp.onnx", ["semi", "desc"])


@pytest.fixture(scope="module")
def two_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "PICTURES", 2)
        yield


def test_a_described_network_is_adopted_and_used(lf, tmp_path, monkeypatch, drawn_photos, two_pictures):
    monkeypatch.chdir(tmp_path)
    onnx_of(tmp_path)
    (tmp_path / "net.toml").write_text(GRID.replace('"mine"', '"mine"\ninput = "0..1"') + "sampling = 'superpoint'")
    made = adopt(tmp_path / "sp.onnx", None, tmp_path / "mine.onnx", card=tmp_path / "net.toml")
    assert (made.card.model, made.card.network["detector"]["threshold"]) == ("mine", 0.015)
    assert Card.from_json(made.card.to_json(), "here") == made.card
    row = row_of(made.card)
    assert row.settings == {"threshold": 0.015, "nms_radius": 4, "border": 4, "refine": "none"}
    assert dict(row.heads) == dict(MODELS["superpoint"].heads)
    assert lf("quantize", "mine.onnx", "--images", drawn_photos, "-o", "q.onnx", "--rounding", "nearest")[0] == 0
    picture = next(drawn_photos.glob("*.png"))
    code, _, error = lf("extract", "q.onnx", drawn_photos, "--out", "features")
    assert code == 0, error
    assert lf("match", picture, picture, "--model", "mine.onnx")[0] == 0
    assert "mine" in lf("inspect", "q.onnx")[1]
    code, _, error = lf("time", "mine.onnx", "q.onnx", "--repeats", "2", "--photo", picture)
    assert code == 0, error
    code, said, error = lf("export", "mine.onnx", "--cut", "features", "--top-k", "50", "--refine", "soft")
    assert (code, said) == (0, "mine.features.onnx\n"), error
    cut = model_file.load(tmp_path / "mine.features.onnx")
    assert cut.card.made[-1].options["settings"] == {**row.settings, "refine": "soft"}
    assert cut.card.made[-1].parity["identical"] == 1
    found, wanted = (
        Extractor(file, "ort-cpu", refine=how)(images.read(picture)) for file, how in ((cut, None), (made, "soft"))
    )
    np.testing.assert_allclose(found.keypoints, wanted.top(50).keypoints, atol=1e-3)


DECODES = {  # part and what goes with it -> shapes of its heads
    "grid65": ({"part": "grid65", "refine": "quadratic"}, {"detector": (65, 6, 8)}),
    "heatmap": ({"part": "heatmap", "stride": 2, "refine": "soft", "threshold": 0.3}, {"score": (4, 24, 32)}),
    "scores": ({"part": "heatmap", "stride": 1, "values": "scores", "nms_radius": 0}, {"score": (1, 48, 64)}),
    "offset": ({"part": "heatmap+offset", "stride": 4, "offset": 3.0}, {"score": (1, 12, 16), "offset": (2, 12, 16)}),
    "thinned": ({"part": "heatmap+offset", "stride": 4, "border": 0}, {"score": (1, 12, 16), "offset": (2, 12, 16)}),
    "cell": ({"part": "cell", "threshold": 0.3}, {"score": (1, 6, 8), "shift": (2, 6, 8)}),
    "cell at the edge": ({"part": "cell", "border": 0, "stride": 4}, {"score": (1, 12, 16), "shift": (2, 12, 16)}),
}


@pytest.mark.parametrize("sampling", ["centres", "corners", "superpoint"])
@pytest.mark.parametrize("name", DECODES)
def test_a_graph_decodes_as_numpy_does(name, sampling):
    detector, shapes = DECODES[name]
    given = described(detector=detector, descriptor={"length": 16, "sampling": sampling})
    row = own.row("mine", given)
    card = Card("mine", {}, (1, None, None), outputs=dict(row.heads), network=given)
    run = graph_of(row, card, 40)
    for seed in range(3):
        values = maps(seed, **shapes, descriptor=(16, 6, 8))
        wanted = row.decode(values, **row.settings, top_k=40)
        assert len(wanted[0]) > 3
        assert_same(features(run(values)), wanted)


def test_a_damaged_description_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"the card of mine: detector.part is missing"):
        row_of(Card("mine", {}, (1, None, None), network={"name": "mine"}))


class Heat(nn.Module):
    """A blob detector without training: a score for every pixel, twice over, with a sigmoid, channels last."""

    def forward(self, image):
        mean = nn.functional.avg_pool2d(image, 5, 1, 2)
        score = torch.sigmoid((nn.functional.avg_pool2d(mean, 15, 1, 7) - mean) * 60 - 4)
        patches = nn.functional.pixel_unshuffle(image - nn.functional.avg_pool2d(image, 31, 1, 15), 4)
        return score.squeeze(1), patches.permute(0, 2, 3, 1)


def test_a_sigmoid_and_channels_last_are_undone(tmp_path, two_pictures):
    path = foreign.export(Heat(), tmp_path / "heat.onnx", ["heat", "patches"])
    (tmp_path / "net.toml").write_text(
        "name = 'blobs'\nmultiple = 4\n[detector]\npart = 'heatmap'\nstride = 1\nthreshold = 0.2\n"
        "[descriptor]\nlength = 16\nstride = 4\n"
    )
    made = adopt(path, None, tmp_path / "made.onnx", card=tmp_path / "net.toml", input="0..1")
    found = made.card.made[-1].to_dict()["heads"]
    assert found["score"]["form"] == "sigmoid, cut off the graph"
    assert min(made.card.made[-1].to_dict()["checks"]["points"]) > 0


PLUGIN = """
import tomllib
from dataclasses import replace
from pathlib import Path

from torch import nn

from lf.models import own
from lf.models.match import itself, match

TEXT = Path(__file__).with_name("tiny.toml").read_text()
ROW = replace(own.row("tiny-net", tomllib.loads(TEXT)), module="tiny_net", parameters=2 * 65 * 65)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 65, 8, 8), nn.Conv2d(1, 16, 8, 8)
        self.three = nn.Conv2d(65, 65, 1)

    def forward(self, image):
        return self.three(self.one(image)), self.two(image)


def build():
    return Net()


def adopt(state):
    return match(state, [("tiny-net", itself)])
"""


def test_a_module_of_ones_own_is_a_row(tmp_path):
    info = tmp_path / "tiny_net-1.0.dist-info"
    info.mkdir()
    (tmp_path / "tiny_net.py").write_text(PLUGIN)
    (tmp_path / "tiny.toml").write_text(GRID.replace('"mine"', '"tiny-net"').replace("256", "16"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lf.models]\ntiny-net = tiny_net:ROW\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))}
    save = "import torch, tiny_net; torch.save(tiny_net.build().state_dict(), 'tiny.pth')"
    subprocess.run([sys.executable, "-c", save], env=env, cwd=tmp_path, check=True)
    words = ["export", "tiny.pth", "--size", "64x96"]
    done = subprocess.run(
        [sys.executable, "-m", "lf.cli", *words], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "tiny.onnx\n"), done.stderr
