"""Protocol `pose`: exact geometry, the areas, failures, and which protocol takes which data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lf
from lf.benchmarks import METRICS, PROTOCOLS
from lf.benchmarks.protocols import pose
from lf.benchmarks.protocols.metrics import Ransac
from lf.benchmarks.protocols.summary import area_under_recall
from lf.core import BadInput, Features, LfError, UsageError
from lf.data import Pair, posed
from lf.data.posed import correspond, drawn

RANSAC = Ransac(threshold=1.0, iterations=2000, confidence=0.9999)
SIZE = drawn.SIZE
ERRORS = st.lists(st.floats(0, 180), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def known():
    """Exact correspondences of a drawn pair, and its pose."""
    scene = drawn.synth12()
    pair = posed.PosedPair(scene.views[2], scene.views[8])
    points = np.random.default_rng(0).uniform((0, 0), SIZE[::-1], (400, 2))
    found, seen = correspond.correspond(points, pair.first, pair.second, SIZE)
    return points[seen], found[seen], pair.pose


def features(points, seed=0, size=SIZE):
    """Points with descriptors that match by their index."""
    rng = np.random.default_rng(seed)
    descriptors = np.eye(512)[: len(points)]
    return Features(points, rng.uniform(0.1, 1, len(points)), descriptors, size[::-1])


@pytest.mark.parametrize("estimator", pose.ESTIMATORS)
def test_exact_matches_give_the_exact_pose(known, estimator):
    pytest.importorskip("poselib")
    first, second, truth = known
    estimate = pose.ESTIMATORS[estimator]
    found = estimate(first, second, truth.K0, truth.K1, RANSAC)
    assert found.inliers.mean() > 0.99
    assert pose.errors(truth, found.pose).pose < 0.01
    back = estimate(second, first, truth.K1, truth.K0, RANSAC)
    assert pose.errors(truth.reversed(), back.pose).pose < 0.01
    assert np.linalg.norm(found.pose[:, 3]) == pytest.approx(1)


@pytest.mark.parametrize("estimator", pose.ESTIMATORS)
def test_wrong_matches_are_outvoted(known, estimator):
    pytest.importorskip("poselib")
    first, second, truth = known
    second = second.copy()
    second[::3] = np.random.default_rng(1).uniform((0, 0), SIZE[::-1], second[::3].shape)
    found = pose.ESTIMATORS[estimator](first, second, truth.K0, truth.K1, RANSAC)
    assert pose.errors(truth, found.pose).pose < 0.2
    assert found.inliers[1::3].mean() > 0.99
    assert found.inliers[::3].mean() < 0.2


@pytest.mark.parametrize("estimator", pose.ESTIMATORS)
def test_other_cameras_and_pixel_scales_are_taken_into_account(known, estimator):
    pytest.importorskip("poselib")
    first, second, truth = known
    stretch = np.array([[0.5, 0, 3], [0, 1.5, -20], [0, 0, 1]])
    moved = truth.moved(np.eye(3), stretch)
    found = pose.ESTIMATORS[estimator](first, second * (0.5, 1.5) + (3, -20), moved.K0, moved.K1, RANSAC)
    assert pose.errors(moved, found.pose).pose < 0.01


@pytest.mark.parametrize("estimator", pose.ESTIMATORS)
@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_matches_are_a_failure(known, estimator, count):
    pytest.importorskip("poselib")
    first, second, truth = known
    found = pose.ESTIMATORS[estimator](first[:count], second[:count], truth.K0, truth.K1, RANSAC)
    assert found.pose is None
    assert found.inliers.shape == (count,)
    assert pose.errors(truth, None) == (180, 180, 180)


COORDINATES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pose", "pose-usac"])
@settings(deadline=None, max_examples=30)
@given(COORDINATES, COORDINATES)
def test_no_configuration_of_points_raises(known, name, first, second):
    pytest.importorskip("poselib")
    pair = (features(np.array(points, np.float32).reshape(-1, 2)) for points in (first, second))
    scores = PROTOCOLS[name].vary(orders=2).score(*pair, known[2])
    assert all(np.isfinite(value) for value in scores.values())
    assert 0 <= scores["pose_auc@20"] <= 1
    assert 0 <= scores["pose_error"] <= 180


def test_one_point_many_times_is_no_error(known):
    pytest.importorskip("poselib")
    first, second, truth = known
    for estimate in pose.ESTIMATORS.values():
        found = estimate(np.repeat(first[:1], 50, 0), np.repeat(second[:1], 50, 0), truth.K0, truth.K1, RANSAC)
        assert pose.errors(truth, found.pose).pose <= 180


def test_errors_know_no_length_and_no_sign(known):
    *_, truth = known
    exact = np.column_stack([truth.rotation, truth.translation])
    for scale in (1, 7, -0.1):
        assert pose.errors(truth, exact * (1, 1, 1, scale)).pose < 1e-5
    a = np.radians(3)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    off = pose.errors(truth, np.column_stack([turn @ truth.rotation, truth.translation]))
    assert off == pytest.approx((3, 0, 3), abs=1e-5)
    sideways = np.cross(truth.translation, [0.3, 1, 0])
    assert pose.errors(truth, np.column_stack([truth.rotation, sideways])) == pytest.approx((0, 90, 90), abs=1e-5)


def test_areas_of_known_errors():
    assert pose.area([0, 0], 5) == 1
    assert pose.area([2.5], 5) == 0.5
    assert pose.area([5, 180], 5) == 0
    assert pose.area([1, 3, 180], 5) == pytest.approx((0.8 + 0.4 + 0) / 3)
    assert pose.accuracy([0.5, 2.0, 180], range(1, 11)) == pytest.approx((1 / 3 + 9 * 2 / 3) / 10)


@given(ERRORS, st.sampled_from([5, 10, 20]))
def test_the_area_is_that_of_the_published_recall_up_to_half_a_pair(errors, limit):
    """Published curves join the recall by straight lines: at most 1 / 2n more."""
    published = float(area_under_recall(np.array(errors), limit))
    assert -1e-9 <= published - pose.area(errors, limit) <= 1 / (2 * len(errors)) + 1e-9


@given(ERRORS, st.integers(0, 39), st.floats(0, 50))
def test_the_area_falls_with_every_error(errors, index, more):
    worse = list(errors)
    worse[index % len(worse)] += more
    assert 0 <= pose.area(worse, 10) <= pose.area(errors, 10) <= pose.area(errors, 20) <= 1
    assert pose.area(errors[::-1], 10) == pytest.approx(pose.area(errors, 10))


@pytest.mark.parametrize("name", ["pose", "pose-usac"])
def test_scores_of_exact_features(known, name):
    pytest.importorskip("poselib")
    first, second, truth = known
    rule = PROTOCOLS[name]
    scores = rule.score(features(first), features(second), truth)
    assert tuple(scores) == rule.metrics
    assert {*scores} <= {*METRICS}
    assert scores["pose_error"] < 0.01
    assert scores["pose_auc@5"] > 0.995
    assert scores["pose_maa@10"] == 1
    empty = rule.score(features(first[:0]), features(second), truth)
    assert (empty["pose_error"], empty["pose_auc@20"], empty["n_matches"], empty["n_inliers"]) == (180, 0, 0, 0)


def test_k_best_points_are_matched(known):
    pytest.importorskip("poselib")
    first, second, truth = known
    few = PROTOCOLS["pose"].vary(k=10).score(features(first), features(second), truth)
    assert few["n_matches"] == 10
    assert few["n_keypoints0"] == len(first)


def test_poses_move_with_the_prepared_images(known):
    """An image of twice the size, with area-aligned pixel centres, is reduced to the original image."""
    *_, truth = known
    double = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    pair = Pair("scene", "a_b", None, None, truth.moved(double, np.eye(3)))
    prepared = PROTOCOLS["pose-640"].between(pair, (960, 1280), (480, 640))
    assert np.allclose(prepared.K0, truth.K0)
    assert np.allclose(prepared.K1, truth.K1)
    native = PROTOCOLS["pose"].between(pair, (960, 1280), (480, 640))
    assert np.array_equal(native.K0, pair.pose.K0)


def test_a_protocol_refuses_data_of_the_other_kind(known):
    *_, truth = known
    with pytest.raises(
        UsageError, match=r"protocol pose needs camera poses, procedural:2 has homographies; type a dat"
    ):
        lf.evaluate(["sift"], data="procedural:2", protocol="pose")
    with pytest.raises(UsageError, match=r"protocol mma needs homographies, scenes:1 has camera poses; type a dataset"):
        lf.evaluate(["sift"], data="scenes:1", protocol="mma")
    with pytest.raises(LfError, match=r"protocol mma scores against homographies, got RelativePose"):
        PROTOCOLS["mma"].score(features(np.zeros((0, 2))), features(np.zeros((0, 2))), truth)
    pair = Pair("scene", "a_b", None, None, truth)
    with pytest.raises(UsageError, match=r"scene a_b has a relative pose and no homography; type a dataset of homog"):
        _ = pair.homography
    with pytest.raises(UsageError, match=r"i_a 1_2 has a homography and no relative pose; type a dataset with camera"):
        _ = Pair("i_a", "1_2", None, None, np.eye(3)).pose


def test_digests_of_published_protocols_do_not_know_of_poses():
    assert "truth" not in PROTOCOLS["mma"].describe()
    assert PROTOCOLS["pose"].describe()["truth"] == "pose"
    assert len({PROTOCOLS[name].digest for name in ("pose", "pose-640", "pose-usac")}) == 3


def stored(path, first, second, **truth):
    arrays = {}
    for index, points in enumerate((first, second)):
        one = features(points)
        arrays |= {f"keypoints{index}": one.keypoints, f"scores{index}": one.scores}
        arrays |= {f"descriptors{index}": one.descriptors, f"image_shape{index}": np.array(SIZE)}
    np.savez(path, **arrays, **truth)
    return path


def test_stored_pairs_with_a_pose_are_scored(known, tmp_path):
    pytest.importorskip("poselib")
    from lf.benchmarks.run.score import choose, score_files

    first, second, truth = known
    numbers = {"K0": truth.K0, "K1": truth.K1, "rotation": truth.rotation, "translation": truth.translation}
    path = stored(tmp_path / "pair.npz", first, second, **numbers)
    assert score_files([path], choose("pose"))[str(path)]["pose_error"] < 0.01
    with pytest.raises(BadInput, match=r"pair.npz: holds a relative pose .*; protocol mma needs a homography"):
        score_files([path], choose("mma"))
    plane = stored(tmp_path / "plane.npz", first, second, homography=np.eye(3))
    with pytest.raises(BadInput, match=r"plane.npz: holds a homography; protocol pose needs a relative pose \(K0, K1"):
        score_files([plane], choose("pose"))
    half = stored(tmp_path / "half.npz", first, second, K0=truth.K0)
    with pytest.raises(BadInput, match=r"half.npz: holds no K1, rotation, translation but"):
        score_files([half], choose("pose"))
    wrong = stored(tmp_path / "wrong.npz", first, second, **numbers | {"rotation": np.diag([1.0, 1, -1])})
    with pytest.raises(BadInput, match=r"wrong.npz: .* is a reflection; expected a rotation with determinant 1"):
        score_files([wrong], choose("pose"))


def test_a_missing_poselib_says_what_to_type(known, monkeypatch):
    import sys

    first, second, truth = known
    monkeypatch.setitem(sys.modules, "poselib", None)
    with pytest.raises(
        lf.Unavailable, match=r'protocol pose needs the package poselib; type: pip install ".*\[pose\]"'
    ):
        pose.poselib(first, second, truth.K0, truth.K1, RANSAC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five views of a drawn scene in the form of Strecha's sets."""
    import cv2

    root, scene = tmp_path_factory.mktemp("posed"), drawn.held_out(1, (240, 320))
    (root / "images").mkdir()
    lines = []
    for view in scene.views[3:8]:
        cv2.imwrite(str(root / "images" / view.name), view.image.load()[..., ::-1])
        pose = np.vstack([np.column_stack([view.rotation, view.translation]), [0, 0, 0, 1]])
        numbers = " ".join(f"{value:.9g}" for value in (*view.K.ravel(), *pose.ravel()))
        lines.append(f"{view.name} {numbers}")
    (root / "cameras.txt").write_text("# name K world_to_camera\n" + "\n".join(lines) + "\n")
    return root


def test_a_run_has_records_intervals_and_gates(folder):
    pytest.importorskip("poselib")
    from lf.benchmarks.run import gate

    runs = [*lf.evaluate(["sift", "orb"], data=f"posed:{folder}", protocol="pose")]
    good, bad = runs
    assert len(good.pairs) == 10
    assert good.summary["pose_auc@10"] > 0.8
    low, high = good.intervals["pose_auc@10"]
    assert low <= good.summary["pose_auc@10"] <= high
    errors = [pair.extra["pose_error"] for pair in good.pairs]
    assert good.summary["pose_error"] == pytest.approx(np.median(errors))
    drop = bad.drop(good, "pose_auc@5")
    assert drop.drop == pytest.approx(good.summary["pose_auc@5"] - bad.summary["pose_auc@5"])
    assert drop.draws is not None
    rule = gate.Gate("pose_auc@5", 0.001)
    assert gate.compare([good], [good], [rule])[0].passed
    assert not gate.compare([good], [bad], [rule])[0].passed


def test_features_that_were_extracted_before_score_the_same(folder, tmp_path, lf):
    pytest.importorskip("poselib")
    from lf.benchmarks.run.score import choose, score_folder

    code, _, err = lf("extract", "orb", folder, "--out", tmp_path / "features", "--layout", "lf", "--workers", "1")
    assert code == 0, err
    run = score_folder(tmp_path / "features", f"posed:{folder}", "lf", choose("pose"))
    assert len(run.pairs) == 10
    assert run.summary["n_matches"] > 20
    with pytest.raises(UsageError, match=r"protocol mma needs homographies, posed:.* has camera poses; type a dataset"):
        score_folder(tmp_path / "features", f"posed:{folder}", "lf", choose("mma"))


def test_pictures_of_a_posed_pair_are_its_matches_by_epipolar_distance(folder):
    pytest.importorskip("matplotlib")
    from lf.benchmarks.report import curves, figures
    from lf.benchmarks.run.predict import Predictor
    from lf.data import open_dataset
    from lf.extraction.variant import Variant
    from lf.models.resolve import resolve

    rule, pair = PROTOCOLS["pose"], open_dataset(f"posed:{folder}")[0]
    drawn_pair = figures.draw_pair(Predictor(Variant(resolve("orb"), "opencv").open(), rule, None), pair, "title")
    assert [*drawn_pair] == ["matches"]
    runs = [*lf.evaluate(["orb"], data=f"posed:{folder}", protocol="pose")]
    share, over, value = curves.measured(runs[0])
    assert (share, over) == ("share of poses within", "pose error (deg)")
    record = runs[0].pairs[0]
    assert value(record, 180) == 1


def test_matches_are_coloured_by_their_epipolar_distance(known):
    from lf.benchmarks.report import match_pictures

    first, second, truth = known
    assert match_pictures._errors(first, second, truth).max() < 1e-6
    normal = np.array([0.0, 1.0])
    off = match_pictures._errors(first, second + 4 * normal, truth)
    assert 0 < off.min() < off.max() <= 4 + 1e-6


def test_data_show_draws_posed_pairs_and_scenes(folder, tmp_path, monkeypatch):
    import cv2

    from lf.studies import data_pictures

    flat = cv2.imread(str(data_pictures.draw(f"posed:{folder}", tmp_path / "posed.png", count=2)))
    assert flat is not None
    monkeypatch.setattr(drawn, "synth12", lambda: drawn.held_out(4, (96, 128)))
    title, panels, columns, note, _ = data_pictures._dataset("scenes:1", 2)
    assert title == "scenes:1: 2 of 66 pairs"
    assert (len(panels), columns) == (6, 3)
    assert panels[1].lines.shape == (24, 3)
    assert note.startswith("Lines: epipolar lines, on which the points of the same colour lie. Numbers: the same point")
    marked = np.isfinite(panels[1].places).all(axis=1)
    lines, places = panels[1].lines[marked], panels[1].places[marked]
    assert np.abs(np.einsum("nd,nd->n", lines[:, :2], places) + lines[:, 2]).max() < 1e-3


@pytest.mark.parametrize("line", [(0.0, 1.0, -20.0), (1.0, 0.0, -30.0), (0.6, 0.8, -40.0)])
def test_a_line_is_drawn_where_it_is(line):
    from lf.data import contact_sheets

    canvas = np.zeros((120, 160, 3), np.uint8)
    contact_sheets._lines(canvas, np.array([line]), np.array([2.0, 2.0]))
    y, x = np.nonzero(canvas.max(axis=2) > 100)
    assert len(x) > 80
    placed = np.column_stack([(x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5, np.ones(len(x))])
    assert np.abs(placed @ line).max() < 1


def test_the_command_refuses_the_wrong_data_in_one_line(lf):
    assert lf("bench", "sift", "--data", "procedural:2", "--protocol", "pose") == (
        2,
        "",
        "lf: protocol pose needs camera poses, procedural:2 has homographies; type a dataset with camera poses, "
        "such as posed:DIR or scenes:5\n",
    )
    code, out, err = lf("bench", "sift", "--data", "scenes:1", "--protocol", "kp2d-fixed")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(
        "lf: protocol kp2d-fixed needs homographies, scenes:1 has camera poses; type a dataset of hom"
    )
