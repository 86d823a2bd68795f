"""The threshold of the decode as an option of a run: in its record and its name, and where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.report import tables
from lf.benchmarks.run import gate, results
from lf.benchmarks.run.evaluate import bench
from lf.core import FEATURES, Card, UsageError
from lf.data import open_dataset
from lf.extraction.variant import Variant
from lf.models import MODELS, check_threshold, own

GIVEN = [name for name, row in MODELS.items() if "threshold" in row.settings]
REFUSED = [name for name, row in MODELS.items() if "threshold" not in row.settings]


def variant(name, **asked):
    """Make a variant of a file that is not opened."""
    return Variant(SimpleNamespace(card=Card(name, {}, (1, None, None)), path="it.onnx"), "ort-cpu", **asked)


def test_a_threshold_is_part_of_a_run_and_of_its_name(network, tmp_path):
    artifact, pairs = network("wren", None), open_dataset("procedural:2")[:2]
    scores = Variant(artifact, "ort-cpu").open()(pairs[0].first.load()).scores
    high = round(float(np.median(scores)), 4)
    runs = [
        bench(Variant(artifact, "ort-cpu", threshold=least), pairs, "p", PROTOCOLS["kp2d"], cache=tmp_path / "cache")
        for least in (None, 0, high)
    ]
    assert [run.threshold for run in runs] == [None, 0, high]
    assert [gate.label(run) for run in runs] == [
        "wren fp32 ort-cpu kp2d",
        "wren fp32 ort-cpu kp2d threshold 0",
        f"wren fp32 ort-cpu kp2d threshold {high:g}",
    ]
    assert f"| wren fp32 ort-cpu threshold {high:g} |" in tables.page(runs)
    assert len({run.measured for run in runs}) == 3
    plain, none, few = (run.summary["n_keypoints0"] for run in runs)
    assert none >= plain > few > 10, "no features of the others were kept"
    kept = results.load(results.save(tmp_path / "results.json", runs))
    assert [run.threshold for run in kept] == [None, 0, high]


@pytest.mark.parametrize("name", GIVEN)
def test_every_other_decode_takes_one(name):
    assert check_threshold(0.25, Card(name, {}, (1, None, None)), "it.onnx") == 0.25


@pytest.mark.parametrize("name", REFUSED)
def test_a_decode_without_a_threshold_is_refused(name):
    said = f"`threshold=0.2`: the decode of {name} has no single threshold; leave `threshold` out"
    with pytest.raises(UsageError, match=said):
        variant(name, threshold=0.2).open()


@pytest.mark.parametrize("least", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["wren", "swift", "edgepoint2-t32", "alike-t", "kp2d"])
def test_a_threshold_that_no_score_reaches_is_refused(name, least):
    published = MODELS[name].settings["threshold"]
    said = f"`threshold={least:g}`: expected a score from 0 and below 1; {name} has {published:g} without `threshold`"
    with pytest.raises(UsageError, match=said):
        variant(name, threshold=least).open()


def test_scores_that_are_no_probabilities_have_no_end():
    described = {
        **{"name": "mine", "descriptor": {"length": 8}},
        "detector": {"part": "heatmap", "stride": 1, "values": "scores", "threshold": 2.0},
    }
    card = Card("mine", {}, (1, None, None), network=own.complete(described, "mine.toml"))
    assert check_threshold(7.0, card, "it.onnx") == 7
    with pytest.raises(UsageError, match="`threshold=-1`: expected a score from 0; mine has 2 without `threshold`"):
        check_threshold(-1, card, "it.onnx")


def test_a_file_that_decodes_in_its_graph_is_refused():
    card = Card("wren", {}, (1, None, None), outputs=dict.fromkeys(FEATURES, (1, 1)))
    assert card.features
    with pytest.raises(UsageError, match=r"`threshold=0`: it\.onnx contains its decoder; leave `threshold` out"):
        check_threshold(0, card, "it.onnx")


def test_the_points_of_a_baseline_are_not_chosen_by_it():
    with pytest.raises(UsageError, match="`threshold=0`: the points are those of sift; leave `threshold` out"):
        variant("wren", threshold=0, keypoints="sift").open()


def test_the_command(lf, network):
    path = network("edgepoint2-t32", None).path
    done = lf("bench", path, "--data", "procedural:2", "--threshold", "0.25", "--repeats", "2")
    assert done[0] == 0, done[2]
    assert "fp32 ort-cpu threshold 0.25 |" in done[1]
    for given, said in (
        ("sift", "--threshold 2: the decode of sift has no single"),
        (path, "--threshold 2: expected a"),
    ):
        code, _, error = lf("bench", given, "--data", "procedural:2", "--threshold", "2", "--repeats", "0")
        assert (code, said in error, error.count("\n")) == (2, True, 1)
