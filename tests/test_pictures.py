"""Pictures: what they count is what the protocols count, and they say it in colours that anybody can tell apart."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.report import figures, match_pictures
from lf.benchmarks.run import results
from lf.benchmarks.run.evaluate import bench
from lf.benchmarks.run.names import told_apart
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import suite
from lf.cli import data_get, match
from lf.core import BadInput, Features, Unavailable, UsageError
from lf.data import Pair, open_dataset
from lf.data.homography import warp_points
from lf.extraction.variant import Variant

SHIFT = np.array([[1.0, 0.1, 12.0], [0.05, 1.0, -9.0], [1e-4, 0.0, 1.0]])
GREY = np.full((240, 320), 128, np.uint8)


def found(keypoints, size=(320, 240), seed=0):
    """Features with matching n-th points."""
    rng = np.random.default_rng(seed)
    descriptors = np.eye(700, dtype=np.float32)[: len(keypoints)]
    return Features(np.reshape(keypoints, (-1, 2)), rng.random(len(keypoints)), descriptors, size)


def some(n, seed=0):
    return np.random.default_rng(seed).uniform((20, 20), (300, 220), (n, 2))


def has(picture, colour):
    return bool((picture == np.array(colour, np.uint8)).all(axis=2).any())


def test_the_scale_of_errors_runs_from_blue_over_white_at_the_usual_threshold_to_orange():
    low, middle, high = match_pictures.TICKS[0], match_pictures.CORRECT, match_pictures.TICKS[-1]
    shades = match_pictures.colours(np.array([0, low, middle, high, 1e9, np.inf, np.nan]))
    ends = [match_pictures.SKY] * 2 + [match_pictures.WHITE] + [match_pictures.ORANGE] * 4
    np.testing.assert_allclose(shades, ends)
    blue = match_pictures.colours(np.geomspace(low, high, 50))[:, 2]
    red = match_pictures.colours(np.geomspace(low, high, 50))[:, 0]
    assert (np.diff(red / (red + blue)) > 0).all()


@pytest.mark.parametrize(("off", "colour", "other"), [(0, "SKY", "ORANGE"), (60, "ORANGE", "SKY")])
def test_matches_are_coloured_by_their_error(off, colour, other):
    points = some(40)
    pair = found(points), found(warp_points(points, SHIFT) + np.array([0, off]))
    picture = match_pictures.matches((GREY, GREY), pair, SHIFT, "title")
    body = picture[90:600]  # without title and legend
    assert has(body, getattr(match_pictures, colour))
    assert not has(body, getattr(match_pictures, other))


def test_without_a_homography_there_is_one_colour_and_no_scale():
    pair = found(some(40)), found(some(40, seed=1))
    picture = match_pictures.matches((GREY, GREY), pair, None, "title")
    assert has(picture, match_pictures.SKY)
    assert not has(picture, match_pictures.ORANGE)
    assert len(picture) < len(match_pictures.matches((GREY, GREY), pair, SHIFT, "title"))


@pytest.mark.parametrize("shape", [(240, 320), (600, 400), (100, 900), (1200, 1600, 3)])
def test_a_page_fits_a_screen(shape):
    image = np.full(shape, 128, np.uint8)
    pair = found(some(400), shape[1::-1]), found(some(300, seed=1), (320, 240))
    for picture in (
        match_pictures.matches((image, GREY), pair, SHIFT, "a title " * 40, "a note " * 100),
        match_pictures.points((image, GREY), pair, SHIFT, "a title " * 40, "a note " * 100),
    ):
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert 720 <= picture.shape[1] <= 1560
        assert picture.shape[0] <= 900
        assert (picture[:, [0, -1]] == 255).all()  # nothing is cut off at the sides


@pytest.mark.parametrize("n", [0, 1])
def test_few_or_no_points_are_a_picture_too(n):
    pair = found(some(n)), found(some(0))
    for draw in (match_pictures.matches, match_pictures.points):
        assert draw((GREY, GREY), pair, SHIFT, "title").ndim == 3


@pytest.mark.parametrize("name", [name for name, rule in PROTOCOLS.items() if "repeatability" in rule.metrics])
def test_points_repeat_as_the_protocol_counts_them(name):
    rule = PROTOCOLS[name]
    moved = warp_points(some(700), SHIFT) + np.random.default_rng(2).normal(0, 3, (700, 2))
    size = PROTOCOLS[name].size[::-1]
    pair = found(some(700), size), found(moved, size, seed=1)
    states = np.concatenate(match_pictures.repeated(pair, SHIFT, rule.params["k"], rule.params["repeatability_px"]))
    share = np.count_nonzero(states == 2) / np.count_nonzero(states)
    assert 0.2 < share < 0.9
    assert share == pytest.approx(rule.score(*pair, SHIFT)["repeatability"])


def test_what_only_one_image_sees_is_dark():
    pair = found(some(30)), found(some(30, seed=1))
    away = np.array([[1.0, 0, 160], [0, 1, 0], [0, 0, 1]])
    body = match_pictures.points((GREY, GREY), pair, away, "title")[100:500, 12 : 12 + 720]
    assert np.median(body[:, :350]) > 2 * np.median(body[:, 370:])


def test_save_writes_what_it_was_given(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    path = match_pictures.save(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], picture)
    with pytest.raises(UsageError, match=r"a\.doc: cannot be written as an image; give a name that ends in \.png"):
        match_pictures.save(tmp_path / "a.doc", picture)


def run(protocol="mma", artifact="wren", values=(0.5, 0.2, 0.9, None)):
    """A run of four pairs with one value each at every threshold."""
    rows = [("i_a", "1_2"), ("i_a", "1_3"), ("v_b", "1_2"), ("v_b", "1_3")]
    names = [f"mma@{t}" for t in range(1, 11)] if protocol == "mma" else ["mean_corner_error"]
    made = {
        "artifact": {"model": artifact, "scheme": "fp32", "file": f"{artifact}.onnx"},
        "backend": "ort-cpu",
        "protocol": protocol,
        "protocol_digest": "0" * 12,
        "protocol_details": {"version": 1},
        "dataset": "drawn",
        "dataset_digest": "0" * 64,
        "environment": {"cpu": "a processor", "threads": 1, "versions": {"lf": "1"}, "commit": None},
        "pairs": [
            {"sequence": s, "pair": p, "n_matches": 9, **dict.fromkeys(names, value)}
            for (s, p), value in zip(rows, values, strict=True)
        ],
        "summary": {},
    }
    return Run.from_dict(made, "test")


def test_runs_are_named_apart():
    one, two, three = run(), run(), run(artifact="r2d2")
    two = replace(two, artifact=replace(two.artifact, file="other.onnx"))
    assert [each.label for each in told_apart([one, three])] == ["wren fp32 ort-cpu", "r2d2 fp32 ort-cpu"]
    assert [each.label for each in told_apart([one, two])] == ["wren fp32 ort-cpu", "other fp32 ort-cpu"]
    assert told_apart([one, replace(two, keypoints="sift")])[1].label == "wren at sift fp32 ort-cpu"


@pytest.mark.parametrize(("protocol", "worst", "best"), [("mma", "i_a 1_3", "v_b 1_2"), ("kp2d", "v_b 1_2", "i_a 1_3")])
def test_the_worst_pair_is_the_undefined_one_and_then_the_least(protocol, worst, best):
    pairs = [Pair(row.sequence, row.pair, None, None, None) for row in run().pairs]
    found = list(figures._extremes(run(protocol), pairs))
    assert [stem.split("-")[0] for _, stem, _ in found] == ["worst", "worst", "best", "best"]
    assert "worst 1 of 4 pairs, v_b 1_3" in found[0][0]
    assert found[0][0].endswith("undefined")
    assert f"worst 2 of 4 pairs, {worst}" in found[1][0]
    assert f"best 1 of 4 pairs, {best}" in found[2][0]
    assert found[0][2] is pairs[3]


@pytest.mark.parametrize("count", [1, 2, 6, 7])
@pytest.mark.parametrize("protocol", ["mma", "kp2d"])
def test_curves_are_drawn(protocol, count, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [run(protocol, f"net{n}", (0.1 * n, 0.2, 0.9, 1)) for n in range(count)]
    image = cv2.imread(str(figures.curves(runs, tmp_path / "curves.png")))
    assert image.shape[1] > 2 * image.shape[0]  # three panels
    assert 500 < image.shape[0] < 900


def test_pairs_of_no_split_are_one_panel(tmp_path):
    pytest.importorskip("matplotlib")
    single = run(values=(0.1, 0.2, 0.3, 0.4))
    single = replace(single, pairs=[replace(pair, sequence="homogr") for pair in single.pairs])
    image = cv2.imread(str(figures.curves([single], tmp_path / "curves.png")))
    assert image.shape[1] < image.shape[0]


def test_without_matplotlib_the_error_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        Unavailable, match=r'charts need the package matplotlib; type: pip install "lf-keypoints\[plots\]"'
    ):
        figures.curves([run()], tmp_path / "curves.png")


def test_draw_makes_curves_and_the_extremes_of_each_run(tiny, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("onnxruntime")
    rule, pairs, cache = PROTOCOLS["kp2d"], open_dataset("procedural:2"), tmp_path / "cache"
    variant, steps = Variant(tiny(), "ort-cpu"), []
    runs = [bench(variant, pairs, "procedural:2", rule, cache=cache) for _ in range(2)]
    given = [variant.open()] * 2, pairs, rule, cache, tmp_path / "p", lambda *step: steps.append(step)
    made = figures.draw(runs, *given)
    assert len(made) == len(set(made)) == 1 + 2 * 2 * 2 * min(len(pairs), figures.EXTREMES)
    assert all(cv2.imread(str(path)) is not None for path in made)
    assert made[0].name == "curves.png"
    assert len(steps) == len(made) // 2
    other = [runs[0], replace(runs[1], dataset_digest="other")]
    with pytest.raises(BadInput, match="the results are of procedural:2 under kp2d, not of what is to be drawn"):
        figures.draw(other, *given)


def test_an_engine_is_opened_once_for_figures_and_pictures(tiny, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    onnxruntime = pytest.importorskip("onnxruntime")
    made, session = [], onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: made.append(1) or session(*a, **k))
    suite([tiny()], ["ort-cpu"], "procedural:2", "kp2d", repeats=0, out=tmp_path / "out", draw=True)
    assert len(made) == 1


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(match.match)
    app.command("get")(data_get.data_get)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_match_draws_two_files(command, tiny, tmp_path):
    pytest.importorskip("onnxruntime")
    for name, seed in (("a.png", 0), ("b.png", 1)):
        noise = np.random.default_rng(seed).integers(0, 255, (96, 128), np.uint8)
        cv2.imwrite(str(tmp_path / name), noise)
    (tmp_path / "H_1_2").write_text("1 0 0 0 1 0 0 0 1")
    words = ("match", tmp_path / "a.png", tmp_path / "b.png", "--model", tiny().path)
    done = command(*words, "--homography", tmp_path / "H_1_2", "--top-k", 50, "-o", tmp_path / "out.png")
    assert done.stdout.strip() == str(tmp_path / "out.png")
    assert cv2.imread(str(tmp_path / "out.png")).shape[1] > 1000
    with pytest.raises(UsageError, match="unknown backend 'ort'"):
        command(*words, "--backend", "ort")


NAMES = [os.fsdecode(name) for name in (b"\xff", "日é".encode(), b"two\nlines", b"b%s")]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_opencv_cannot_draw_is_drawn_with_question_marks(command, name, tiny, tmp_path):
    """OpenCV kills the process where a name is not UTF-8."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "in").mkdir()
    photo = tmp_path / "in" / f"{name}.png"
    photo.write_bytes(cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (96, 128), np.uint8))[1])
    command("match", photo, photo, "--model", tiny(f"{name}.onnx").path, "-o", tmp_path / "out.png")
    assert cv2.imread(str(tmp_path / "out.png")) is not None
    pairs = open_dataset(f"warps:{tmp_path / 'in'}")
    run = bench(Variant(tiny(), "ort-cpu"), pairs, f"warps:{name}", PROTOCOLS["kp2d"], cache=tmp_path / "cache")
    kept = results.load(results.save(tmp_path / "results.json", [run]))
    assert kept[0].pairs[0].sequence == f"v_00000_{name}"


def test_get_names_what_it_knows(command, tmp_path):
    with pytest.raises(
        UsageError, match=r"unknown dataset to download 'hpatch'; did you mean 'hpatches'\? known: hpatches"
    ):
        command("get", "hpatch", "--out", tmp_path / "x")
