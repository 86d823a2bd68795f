"""Baselines without weights, and networks that describe the baselines' points."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lf.core import Artifact, Card, Unavailable, UsageError
from lf.data.drawn.procedural import held_out_picture
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve, shipped
from lf.runtimes import opencv

BASELINES = [name for name, row in MODELS.items() if row.module is None]


@pytest.fixture(scope="module")
def picture():
    return held_out_picture(1, (240, 320))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_an_extractor_like_any_other(name, picture):
    extract = Extractor(resolve(name), "opencv")
    found = extract(picture)
    assert found.descriptors.shape == (len(found), MODELS[name].heads["points"][0] - 4)
    assert len(found) > 100
    assert np.allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.keypoints >= 0).all()
    assert (found.keypoints < (320, 240)).all()
    again = extract(picture)
    assert np.array_equal(found.keypoints, again.keypoints)
    assert np.array_equal(found.descriptors, again.descriptors)


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_to_find_is_no_error(name):
    found = Extractor(resolve(name), "opencv")(np.full((240, 320, 3), 128, np.uint8))
    assert len(found) == 0


@pytest.mark.parametrize("name", BASELINES)
def test_the_shipped_file_of_a_baseline_is_its_card(name):
    artifact = resolve(name)
    assert shipped()[name].suffix == ".card"
    assert (artifact.card.model, artifact.card.outputs) == (name, dict(MODELS[name].heads))


def test_a_baseline_is_a_row_and_a_card(picture, tmp_path, monkeypatch):
    row = replace(MODELS["orb"], options={"detector": "ORB", "nfeatures": 50})
    monkeypatch.setitem(MODELS, "orb-50", row)
    artifact = model_file.save(tmp_path / "orb-50.card", b"", Card("orb-50", {"origin": "OpenCV"}, (1, None, None)))
    assert 0 < len(Extractor(resolve(artifact.path), "opencv")(picture)) <= 50


def test_a_detector_that_this_opencv_does_not_have(monkeypatch):
    monkeypatch.setattr(opencv, "CV", SimpleNamespace())
    with pytest.raises(Unavailable, match=r"this OpenCV .* has no AKAZE, which left .*pip install opencv-contrib-pyth"):
        Extractor(resolve("akaze"), "opencv")


def test_a_network_is_no_detector(tmp_path):
    artifact = model_file.save(tmp_path / "wren.card", b"", Card("wren", {"origin": "test"}, (1, None, None)))
    with pytest.raises(UsageError, match=r"unknown OpenCV detector 'wren'.* known: sift, sift-1000, rootsift, "):
        Extractor(artifact, "opencv")


def test_binary_descriptors_order_as_hamming_distances(picture):
    found = Extractor(resolve("orb"), "opencv")(picture).descriptors[:50]
    bits = found > 0
    hamming = (bits[:, None] != bits[None]).sum(2)
    assert np.allclose(found @ found.T, 1 - 2 * hamming / 256, atol=1e-5)


@pytest.mark.parametrize("name", ["wren", "superpoint"])
def test_a_network_describes_the_points_of_sift(name, picture, tmp_path):
    row = MODELS[name]
    card = Card(name, {"origin": "test"}, (1, None, None), outputs=dict(row.heads))
    artifact: Artifact = checkpoint.save(tmp_path / "x.safetensors", checkpoint.build(name), card)
    sift = Extractor(resolve("sift"), "opencv")
    found = Extractor(artifact, "torch", keypoints=sift)(picture)
    alone = sift(picture)
    assert np.allclose(found.keypoints, alone.keypoints, atol=1e-4)
    assert np.array_equal(found.scores, alone.scores)
    assert found.descriptors.shape == (len(alone), row.heads["descriptor"][0])


def test_a_baseline_has_no_dense_descriptors(picture):
    with pytest.raises(UsageError, match="orb has no dense descriptors to sample at the points of another detector"):
        Extractor(resolve("orb"), "opencv", keypoints=Extractor(resolve("sift"), "opencv"))


def test_shipped_networks_learned_from_free_pictures_alone():
    """Drawn ones, Kodak's, TUM's, and what is CC0 or CC BY, with its licence; and together they are small."""
    networks = [resolve(name) for name, path in shipped().items() if path.suffix == ".safetensors"]
    assert {artifact.path.stem for artifact in networks} >= {"wren", "superpoint-small", "kp2dtiny-s-coral"}
    for card, made in ((artifact.card, made) for artifact in networks for made in artifact.card.made):
        data = made.options["data"]
        sources = {source.partition(":")[0] for source in ([data] if isinstance(data, str) else data)}
        known = {source.removeprefix("photos/") for source in sources}
        assert known <= {"procedural", "kodak", "tum_freiburg", "coco_cc_by", "lomiri"}
        if known & {"coco_cc_by", "lomiri"}:
            assert {row["source"] for row in made.extra["data"]} == known
            assert not any(word in row["licence"] for row in made.extra["data"] for word in ("SA", "NC", "ND"))
        assert card.weights["licence"] == "Apache-2.0"
        assert bool(made.options.get("init")) == (made is not card.made[0]), "only a training of its own before"
        assert bool(made.teacher) == bool(made.options.get("settings", {}).get("teacher"))
        assert made.teacher.get("licence", "MIT") in ("MIT", "BSD-3-Clause", "Apache-2.0")
    assert sum(artifact.path.stat().st_size for artifact in networks) < 12e6
