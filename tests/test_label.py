"""Homographic adaptation with a detector with known output; the folder of labels: resumed, shared, refused."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from lf.cli import app
from lf.core import Artifact, BadInput, Card, Unavailable, UsageError, fingerprint
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.train import homographic_adaptation
from lf.train.homographic_adaptation import Labeller, Settings
from lf.train.label_photos import MANIFEST, label, read_labels

CPU = torch.device("cpu")
FEW = Settings(warps=5, size=(64, 80))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Dots(torch.nn.Module):
    """A detector for which the probability of a pixel is about its brightness / 20."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1, affine=False)  # the identity, in evaluation mode only

    def forward(self, view):
        assert not self.training
        bright = torch.nn.functional.pixel_unshuffle(self.norm(view).clamp(min=1e-6).log(), 8)
        return torch.cat([bright, torch.full_like(bright[:, :1], float(np.log(20)))], 1), bright


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    """A checkpoint file with the stand-in as its network."""
    monkeypatch.setattr(checkpoint, "network", lambda artifact: Dots().eval())
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"stand-in")
    return Artifact(path, Card("superpoint", {}, (1, None, None)))


def dotted(dots, size, deviation):
    """A dark RGB image with a soft bright dot at each (x, y)."""
    y, x = np.indices(size)
    light = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * deviation**2)) for u, v in dots)
    return cv2.cvtColor(np.round(255 * np.clip(light, 0, 1)).astype(np.uint8), cv2.COLOR_GRAY2RGB)


def spread(seed, size, count=12, margin=24):
    """Places at least `margin` px apart and from the edges."""
    rng, found = np.random.default_rng(seed), []
    for place in rng.uniform(margin, np.array(size[::-1]) - margin, (400, 2)):
        if all(np.hypot(*(place - other)) > margin for other in found):
            found.append(place)
    return np.array(found[:count])


@pytest.fixture
def photos(tmp_path):
    """Five photos, one of them in a folder of its own and with the name of another but for the type."""
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.png", "inner/a.png", "inner/a.bmp", "z.png"]):
        picture = dotted(spread(seed, (128, 160)), (128, 160), 2.0)
        cv2.imwrite(str(folder / name), picture)
    return folder


def run(artifact, data, out, settings=FEW, progress=lambda done, total, text: None, **options):
    return label(artifact, data, out, settings, device="cpu", progress=progress, **options)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- the labels


@pytest.mark.parametrize(
    ("size", "wanted"), [((240, 320), (240, 320)), ((480, 640), (240, 320)), ((300, 220), (240, 320))]
)
@pytest.mark.parametrize("warps", [1, 15])
def test_adaptation_finds_the_dots(artifact, size, wanted, warps):
    scale = (size[0] * size[1] / (wanted[0] * wanted[1])) ** 0.5
    dots = spread(3, size, margin=24 * max(scale, 1))
    labeller = Labeller(artifact, Settings(warps=warps, size=wanted), CPU)
    found = labeller(dotted(dots, size, scale), "00" * 32)
    assert found.shape == (len(dots), 3)
    assert found.dtype == np.float32
    distance = np.hypot(*(found[:, None, :2] - dots[None]).transpose(2, 0, 1))
    assert sorted(distance.argmin(1)) == list(range(len(dots)))
    assert distance.min(1).max() < 0.3 * max(scale, 1)  # px of the network
    assert distance.min(1).mean() < 0.15 * max(scale, 1)
    assert (np.diff(found[:, 2]) <= 0).all()
    assert (found[:, 2] >= 0.015).all()


def test_the_mean_of_one_view_is_the_network_itself(artifact):
    picture = torch.from_numpy(dotted(spread(1, (64, 80)), (64, 80), 1.0)[..., 0])[None, None].float() / 255
    labeller = Labeller(artifact, Settings(warps=1), CPU)
    torch.testing.assert_close(labeller.adapt(picture, 5), labeller.heat(picture)[0, 0], atol=1e-6, rtol=0)


def test_a_constant_heat_stays_constant_wherever_it_was_seen(artifact, monkeypatch):
    """Sum of heats over sum of masks: parts of a view beyond the photo take no part."""
    labeller = Labeller(artifact, Settings(warps=20), CPU)
    monkeypatch.setattr(labeller, "heat", lambda view: torch.full_like(view, 0.25))
    mean = labeller.adapt(torch.rand(1, 1, 64, 80), 5)
    torch.testing.assert_close(mean, torch.full((64, 80), 0.25), atol=1e-5, rtol=0)


def test_the_best_labels_stay(artifact):
    dots = spread(3, (240, 320))
    few = Labeller(artifact, Settings(warps=3, top_k=4), CPU)(dotted(dots, (240, 320), 1.0), "00")
    every = Labeller(artifact, Settings(warps=3), CPU)(dotted(dots, (240, 320), 1.0), "00")
    np.testing.assert_array_equal(few, every[:4])


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        ((480, 640), 8, (240, 320)),
        ((640, 480), 8, (320, 240)),
        ((1000, 1000), 8, (280, 280)),
        ((20, 3000), 8, (24, 3392)),
    ],
)
def test_a_photo_keeps_its_proportions(size, multiple, expected):
    assert homographic_adaptation._fit(size, (240, 320), multiple) == expected


# --- the folder


def test_labels_are_read_back(artifact, photos, tmp_path):
    tally = run(artifact, photos, tmp_path / "out")
    found = read_labels(tmp_path / "out")
    assert (tally.labelled, tally.kept, tally.failed) == (5, 0, {})
    assert set(found) == {"a.png", "b.png", "inner/a.png", "inner/a.bmp", "z.png"}
    assert tally.points == sum(len(labels.points) for labels in found.values()) > 20
    with np.load(tmp_path / "out/z.png.npz") as content:
        assert content["size"].tolist() == [160, 128]
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["count"], manifest["identity"]["warps"], manifest["model"]) == (5, 5, "superpoint")


def test_an_interrupted_run_resumes_to_the_same_bytes(artifact, photos, tmp_path):
    run(artifact, photos, tmp_path / "whole")

    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(artifact, photos, tmp_path / "out", progress=stop)
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 2
    (tmp_path / "out/a.png.npz").write_bytes(b"PK cut short")
    tally = run(artifact, photos, tmp_path / "out")
    assert (tally.labelled, tally.kept) == (4, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_shards_together_are_one_run(artifact, photos, tmp_path):
    run(artifact, photos, tmp_path / "whole")
    counts = [run(artifact, photos, tmp_path / "out", shard=(i, 2)).labelled for i in (1, 0)]
    assert counts == [2, 3]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_changed_photo_is_labelled_again(artifact, photos, tmp_path):
    run(artifact, photos, tmp_path / "out")
    cv2.imwrite(str(photos / "a.png"), dotted([(40, 50)], (128, 160), 2.0))
    tally = run(artifact, photos, tmp_path / "out")
    assert (tally.labelled, tally.kept) == (1, 4)
    assert len(read_labels(tmp_path / "out")["a.png"].points) == 1


def test_the_limit_counts_all_photos(artifact, photos, tmp_path):
    assert run(artifact, photos, tmp_path / "out", limit=3, shard=(1, 2)).labelled == 1


@pytest.mark.parametrize("change", [{"warps": 6}, {"size": (80, 64)}, {"threshold": 0.02}, {"seed": 1}, {"bf16": True}])
def test_other_settings_are_refused(artifact, photos, tmp_path, change):
    run(artifact, photos, tmp_path / "out", limit=1)
    before = contents(tmp_path / "out")
    with pytest.raises(
        UsageError,
        match=rf"was made with other settings \({next(iter(change))}: was .*, now .*\); choose another `out`",
    ):
        run(artifact, photos, tmp_path / "out", Settings(**{"warps": 5, "size": (64, 80), **change}))
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("older", [False, True], ids=["changed", "of a version that did not say"])
def test_labels_of_other_code_are_refused(artifact, photos, tmp_path, monkeypatch, older):
    run(artifact, photos, tmp_path / "out", limit=1)
    manifest = tmp_path / "out" / MANIFEST
    if older:
        said = json.loads(manifest.read_text())
        del said["identity"]["code of lf"]
        manifest.write_text(json.dumps(said))
    else:
        monkeypatch.setattr(fingerprint, "fingerprint", lambda *names: "of other code")
    before = contents(tmp_path / "out")
    with pytest.raises(
        UsageError, match=r"was made with other settings \(code of lf: was \w+, now [\w ]+\); choose another `out`"
    ):
        run(artifact, photos, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_another_checkpoint_is_refused(artifact, photos, tmp_path):
    run(artifact, photos, tmp_path / "out", limit=1)
    artifact.path.write_bytes(b"other")
    with pytest.raises(
        UsageError, match=r"was made with other settings \(checkpoint: was \w+\.\.\., now \w+\.\.\.\); choose"
    ):
        run(artifact, photos, tmp_path / "out")


def test_broken_photos_are_counted(artifact, photos, tmp_path):
    (photos / "c.png").write_bytes(b"no photo")
    tally = run(artifact, photos, tmp_path / "out")
    assert (tally.labelled, list(tally.failed)) == (5, ["c.png"])
    assert "do not decode" in tally.failed["c.png"]
    assert "c.png" not in read_labels(tmp_path / "out")


def test_only_broken_photos_are_an_error(artifact, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/c.png").write_bytes(b"no photo")
    with pytest.raises(BadInput, match="none of its 1 images could be read"):
        run(artifact, tmp_path / "bad", tmp_path / "out")


@pytest.mark.parametrize("row", [name for name, row in MODELS.items() if "detector" not in row.heads])
def test_models_without_such_a_detector_are_refused(photos, tmp_path, row):
    with pytest.raises(
        UsageError, match=f"^{row} has no detector of 65 classes per cell; lf label takes: .*superpoint"
    ):
        run(Artifact(tmp_path / "none", Card(row, {}, (1, None, None))), photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_wrong_shard_is_named(artifact, photos, tmp_path, shard):
    with pytest.raises(UsageError, match="expected I/N"):
        run(artifact, photos, tmp_path / "out", shard=shard)


def test_what_is_no_folder_of_labels_is_refused(artifact, photos, tmp_path):
    with pytest.raises(BadInput, match=r"holds no manifest\.json; make them with: `label"):
        read_labels(photos)
    run(artifact, photos, tmp_path / "out", limit=1)


POINTS = np.array([[100, 60, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "cannot be read as npz"),
        ({}, "holds no points, sha256 but nothing; expected labels; remove it and run lf label again"),
        ({"points": POINTS}, "holds no sha256 but points; expected labels"),
        ({"points": POINTS, "sha256": np.array(7)}, "sha256 holds int64, not text"),
        ({"points": np.array([["a", "b", "c"]]), "sha256": np.array("00")}, "points holds <U1, not numbers"),
        ({"points": POINTS * np.nan, "sha256": np.array("00")}, "points holds a value that is not finite"),
        (
            {"points": np.ones((4, 3), int), "sha256": np.array("00")},
            r"points are int64 of shape \(4, 3\); expected",
        ),
        (
            {"points": POINTS[:, :2], "sha256": np.array("00")},
            r"points are float32 of shape \(1, 2\); expec",
        ),
    ],
)
def test_damaged_labels_are_refused_and_made_again(artifact, photos, tmp_path, arrays, message):
    run(artifact, photos, tmp_path / "out", limit=1)
    path = tmp_path / "out/a.png.npz"
    made = path.read_bytes()
    path.write_bytes(made[:-40]) if arrays is None else np.savez(path, **arrays)
    with pytest.raises(BadInput, match=f"a\\.png\\.npz: .*{message}"):
        read_labels(tmp_path / "out")
    run(artifact, photos, tmp_path / "out", limit=1)
    assert path.read_bytes() == made


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_device_is_named(artifact, photos, tmp_path):
    with pytest.raises(Unavailable, match="finds no GPU"):
        label(artifact, photos, tmp_path / "out", FEW, device="cuda", progress=lambda *_: None)


@pytest.mark.parametrize("row", homographic_adaptation.supported())
def test_every_model_with_a_detector_labels(photos, tmp_path, row):
    """Run the command with fresh weights, from a checkpoint file to files of labels."""
    network = checkpoint.build(row)
    weights = {"origin": "fresh", "sha256": "00", "licence": "none"}
    path = tmp_path / "fresh.safetensors"
    checkpoint.save(path, network, Card(row, weights, (MODELS[row].channels, None, None)))
    model_file.load(path)
    out = tmp_path / "out"
    code = app(
        [
            "label",
            str(path),
            "--photos",
            str(photos),
            "--out",
            str(out),
            "--warps",
            "2",
            "--area",
            "64x80",
            "--limit",
            "2",
        ],
        standalone_mode=False,
    )
    assert not code
    assert set(read_labels(out)) == {"a.png", "b.png"}
