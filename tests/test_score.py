"""`lf score`: stored pairs against the originals' numbers, and features of whole datasets against `lf bench`."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.run import results, score
from lf.benchmarks.run.evaluate import bench
from lf.cli import extract as cli_extract
from lf.cli import score as cli_score
from lf.core import BadInput, Features, UsageError
from lf.data import open_dataset
from lf.data.homography import warp_points
from lf.data.layouts import LAYOUTS, pairs
from lf.extraction.variant import Variant
from lf.models.resolve import resolve

PAIRS = ("v_graffiti_1_3", "v_boat_1_2", "i_leuven_1_4", "i_bikes_1_2")
STORED = [f"{pair}.{source}" for pair in PAIRS for source in ("sift", "r2d2")]
NAMES = ["repeatability", "localization_error", "n_matches", "mean_corner_error", "correctness@1", "correctness@3"]
NAMES += ["correctness@5", "n_inliers", "matching_score"]
ASKED = {
    "superpoint": [*NAMES, "nn_map"],
    "kp2d": NAMES,
    "mma": ["n_keypoints0", "n_keypoints1", "n_matches", *(f"mma@{t}" for t in range(1, 16))],
}
VIEW = np.array([[0.9, 0.1, 5.0], [-0.1, 0.9, 20.0], [1e-4, 2e-5, 1.0]])
IMAGES = [name for name, row in LAYOUTS.items() if row.open]


@pytest.fixture
def said(capsys):
    """Run `lf score --json`; the object that it prints."""

    def call(*paths, protocol, **options):
        cli_score.score([*paths], protocol, json=True, **options)
        return json.loads(capsys.readouterr().out)

    return call


def expected(original, folder):
    return json.loads(original(f"{folder}/expected.json").read_text())


# --- stored pairs against the originals


def check_ransac(said, answer):
    family = answer["opencv_4.12_and_later"]
    assert said["inlier_mask"] == "opencv>=4.12"
    assert said["mean_corner_error"] == pytest.approx(family["mean_corner_error"], abs=1e-3)
    assert [said[f"correctness@{t}"] for t in (1, 3, 5)] == family["correctness"][:3]
    assert said["n_inliers"] == family["n_ransac_inliers"]
    return family


@pytest.mark.parametrize("k", [None, 300, 1000])
@pytest.mark.parametrize("case", STORED)
def test_superpoint_pairs(case, k, original, said):
    answer = expected(original, "superpoint")["results"][case]
    path = original(f"superpoint/{case}.npz")
    found, fixed = said(path, protocol="superpoint", top_k=k), answer["deterministic"]
    assert found["repeatability"] == pytest.approx(fixed[f"repeatability_k{k or 1000}"], abs=1e-6)
    assert found["localization_error"] == pytest.approx(fixed[f"localization_error_k{k or 1000}"], abs=1e-6)
    assert found["n_matches"] == fixed["n_matches_crosscheck"]
    family = check_ransac(found, answer["ransac"])
    assert found["matching_score"] == pytest.approx(family["matching_score"], abs=1e-6)
    flagged = said(path, protocol="superpoint", top_k=k, ap="crosscheck")
    assert flagged["nn_map"] == pytest.approx(family["nn_ap_sift_flag"], abs=1e-6)
    if "nn_ap_two_way" in family:
        assert found["nn_map"] == pytest.approx(family["nn_ap_two_way"], abs=1e-6)
        assert said(path, protocol="superpoint", top_k=k, ap="two-way") == found


@pytest.mark.parametrize("k", [None, 300, 1000])
@pytest.mark.parametrize("case", STORED)
def test_kp2d_pairs(case, k, original, said):
    answer = expected(original, "kp2d")["results"][case][f"top_k_{k or 300}"]
    found = said(original(f"kp2d/{case}.npz"), protocol="kp2d", top_k=k)
    for name in ("repeatability", "localization_error", "matching_score"):
        assert found[name] == pytest.approx(answer["deterministic"][name], abs=1e-6)
    assert found["n_matches"] == answer["deterministic"]["n_matches_crosscheck"]
    check_ransac(found, answer["ransac"])


@pytest.mark.parametrize("k", [None, 500])
@pytest.mark.parametrize("case", STORED)
def test_mma_pairs(case, k, original, said):
    answer = expected(original, "mma")["results"][case]
    answer = answer[f"top_k_{k}"] if k else answer
    found = said(original(f"mma/{case}.npz"), protocol="mma", top_k=k)
    assert [found["n_keypoints0"], found["n_keypoints1"]] == answer["n_feats"]
    assert found["n_matches"] == answer["n_matches"]
    assert [found[f"mma@{t}"] for t in range(1, 16)] == pytest.approx(answer["mma_1_to_15"], abs=1e-6)


def test_hostile_pairs_are_answered_in_every_protocol(original, said):
    paths = sorted(original("edge").glob("*.npz"))
    assert len(paths) == 10
    for path in paths:
        for name, row in PROTOCOLS.items():
            if row.size in (None, (240, 320)) and row.truth == "homography":
                assert set(row.metrics) <= said(path, protocol=name).keys()


def test_files_of_pytorch_superpoint_can_be_scored_alone(shared, said):
    folder = shared / "data/reference_predictions/pytorch_superpoint_coco_170k"
    paths = sorted(folder.glob("*.npz"))
    found = said(*paths, protocol="superpoint", layout="superpoint")
    assert [*found] == [str(path) for path in paths]
    assert [row["n_keypoints0"] for row in found.values()] == [440] * 4
    assert all(row["repeatability"] > 0.6 for row in found.values())
    assert [row["correctness@3"] for row in found.values()] == [1] * 4


# --- stored pairs, made up


def stored(path, n=60, size=(240, 320), seed=0, **changes):
    """A pair; the second image has the points of the first in shuffled order, without the last ten."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((60, 60), (260, 180), (n, 2))
    seen = warp_points(points, VIEW) + rng.normal(0, 0.3, (n, 2))
    seen[-10:] = rng.uniform((0, 0), (300, 200), (10, 2))
    descriptors = rng.standard_normal((n, 16))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    shuffled = rng.permutation(n)
    arrays = {
        "keypoints0": points.astype(np.float32),
        "scores0": rng.permutation(np.linspace(0, 1, n)),
        "descriptors0": descriptors.astype(np.float16),
        "image_shape0": np.array(size),
        "keypoints1": seen[shuffled].astype(np.float32),
        "scores1": rng.permutation(np.linspace(0, 1, n)),
        "descriptors1": descriptors[shuffled].astype(np.float16),
        "image_shape1": np.array(size),
        "homography": VIEW,
    }
    np.savez(path, **{**arrays, **changes})
    return path


@pytest.mark.parametrize("protocol", ASKED)
def test_one_file_gives_its_object_and_several_give_one_each(protocol, tmp_path, said):
    first, second = stored(tmp_path / "a.npz"), stored(tmp_path / "b.npz", seed=1)
    alone, both = said(first, protocol=protocol), said(first, second, protocol=protocol)
    assert set(ASKED[protocol]) <= alone.keys()
    assert ("nn_map" in alone) == (protocol == "superpoint")
    assert both == {str(first): alone, str(second): said(second, protocol=protocol)}
    assert alone["protocol"] == protocol
    assert alone["protocol_digest"] == PROTOCOLS[protocol].digest
    assert said(first, protocol=protocol, top_k=7)["protocol_digest"] != alone["protocol_digest"]


def test_rows_keep_their_order(tmp_path, said):
    """RANSAC's result depends on it (Q5): scored as Features in stored order, to the last bit."""
    path = stored(tmp_path / "a.npz")
    with np.load(path) as data:
        both = [Features(data[f"keypoints{n}"], data[f"scores{n}"], data[f"descriptors{n}"], (320, 240)) for n in "01"]
    assert (np.diff(both[0].scores) < 0).any()
    want = PROTOCOLS["superpoint"].score(*both, VIEW)
    found = said(path, protocol="superpoint")
    assert {name: found[name] for name in want} == want


def test_the_table_shows_every_file(tmp_path, capsys):
    cli_score.score([stored(tmp_path / "a.npz"), stored(tmp_path / "b.npz")], "mma")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["|", "|", "a.npz", "|", "b.npz", "|"]
    assert any(line.startswith("| mma@3 ") for line in lines)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"protocol": "kp2"}, "unknown protocol 'kp2'; did you mean 'kp2d'"),
        ({"protocol": "superpoint", "ap": "one-way"}, "unknown average precision 'one-way'; did you mean 'two-way'"),
        ({"protocol": "kp2d", "ap": "two-way"}, "unknown parameter of protocol kp2d 'ap'"),
        ({"protocol": "kp2d", "layout": "r2d2"}, "unknown layout of a stored pair 'r2d2'"),
        ({"protocol": "kp2d", "data": "root"}, "--data ROOT needs one DIR of features and their --layout"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(options, text, tmp_path, said):
    with pytest.raises(UsageError, match=text):
        said(stored(tmp_path / "a.npz"), **options)


def test_a_pair_that_does_not_fit_is_refused(tmp_path, said):
    with pytest.raises(BadInput, match=r"a 200x100 image, which protocol kp2d does not evaluate; these do: mma"):
        said(stored(tmp_path / "a.npz", size=(100, 200)), protocol="kp2d")
    with pytest.raises(BadInput, match="descriptors of 16 and of 8 numbers"):
        said(stored(tmp_path / "a.npz", descriptors1=np.ones((60, 8))), protocol="mma")
    with pytest.raises(UsageError, match="a folder of features needs --data ROOT and --layout"):
        said(tmp_path, protocol="mma")


def test_points_without_scores_are_all_taken(tmp_path, said, capsys):
    image = np.zeros((240, 320), np.float32)
    stored(tmp_path / "pair.npz")
    with np.load(tmp_path / "pair.npz") as data:
        sift = {f"{w}image": image for w in ("", "warped_")} | {"homography": VIEW}
        sift |= {"prob": data["keypoints0"], "warped_prob": data["keypoints1"]}
        sift |= {"desc": data["descriptors0"], "warped_desc": data["descriptors1"]}
    np.savez(tmp_path / "0.npz", **sift)
    options = {"protocol": "superpoint", "layout": "superpoint"}
    assert said(tmp_path / "0.npz", top_k=60, **options) == said(tmp_path / "0.npz", **options)
    says = (
        "0.npz: 60 points without scores, of which protocol superpoint cannot take the 5 best; store the scores, or "
        "take all points with `top_k=60`, or without `top_k` by one of these protocols: superpoint, superpoint-fixed, "
        "mma"
    )
    with pytest.raises(BadInput, match=f"{says}$"):
        said(tmp_path / "0.npz", top_k=5, **options)
    assert said(tmp_path / "0.npz", **options)["n_keypoints0"] == 60
    cli_score.score([tmp_path / "0.npz"], **options)
    assert (
        "0.npz: no scores, as in files of SIFT; all keypoints are used. For the AP of SIFT: --ap crosscheck"
        in capsys.readouterr().err
    )
    cli_score.score([tmp_path / "0.npz"], **options, ap="two-way")
    assert capsys.readouterr().err == ""


# --- features of a dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two sequences in HPatches layout; images of different sizes, none with the protocols' aspect ratio."""
    folder = tmp_path_factory.mktemp("root")
    rng = np.random.default_rng(0)
    for name, size in (("i_a", (300, 440)), ("v_b", (330, 400))):
        (folder / name).mkdir()
        texture = cv2.resize(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), size[::-1])
        views = {1: np.eye(3), 2: np.array([[0.95, 0.05, 6], [-0.04, 0.97, 9], [0, 0, 1]]), 3: np.diag([0.9, 0.9, 1])}
        for k, view in views.items():
            shape = size if k < 3 else (size[0] - 40, size[1] - 60)
            picture = cv2.warpPerspective(texture, view, shape[::-1], borderValue=(90, 90, 90))
            cv2.imwrite(str(folder / name / f"{k}.png"), picture if name == "v_b" else picture // k)
            if k > 1:
                np.savetxt(folder / name / f"H_1_{k}", view)
    return folder


def extract(root, out, layout, model="orb"):
    cli_extract.extract(model, [str(root)], out, layout)
    return out


def scored(folder, root, layout, protocol, capsys):
    capsys.readouterr()
    cli_score.score([folder], protocol, data=str(root), layout=layout, json=True)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    return run


@pytest.mark.parametrize("layout", IMAGES)
def test_mma_of_exported_features_is_that_of_bench(layout, root, tmp_path, capsys):
    want = bench(Variant(resolve("orb"), "opencv"), open_dataset(str(root)), str(root), PROTOCOLS["mma"])
    run = scored(extract(root, tmp_path / "out", layout), root, layout, "mma", capsys)
    assert run["summary"] == want.summary
    assert run["pairs"] == want.to_dict()["pairs"]
    for name in ("protocol_digest", "dataset_digest", "counts", "by_split"):
        assert run[name] == want.to_dict()[name]
    assert (run["backend"], run["artifact"]["model"], run["artifact"]["layout"]) == ("stored", "stored", layout)


def test_superpoint_pairs_of_a_dataset_are_found_by_their_images(root, tmp_path, capsys):
    want = bench(Variant(resolve("orb"), "opencv"), open_dataset(str(root)), str(root), PROTOCOLS["superpoint"])
    out = extract(root, tmp_path / "out", "superpoint")
    numbers = [int(path.stem) for path in out.glob("*.npz")]
    assert sorted(numbers) == [0, 1, 2, 3]
    for number in numbers:  # as another file system would have numbered them
        (out / f"{number}.npz").rename(out / f"{13 - number}.npz")
    assert scored(out, root, "superpoint", "superpoint", capsys)["pairs"] == want.to_dict()["pairs"]
    fixed = scored(out, root, "superpoint", "superpoint-fixed", capsys)
    assert [pair["n_keypoints0"] for pair in fixed["pairs"]] == [pair.extra["n_keypoints0"] for pair in want.pairs]


def test_superpoint_export_resumes(root, tmp_path, capsys):
    out = extract(root, tmp_path / "out", "superpoint")
    (out / "2.npz").unlink()
    before = (out / "0.npz").stat().st_mtime_ns
    capsys.readouterr()
    cli_extract.extract("orb", [str(root)], out, "superpoint", json=True)
    done = json.loads(capsys.readouterr().out)
    assert (done["written"], done["kept"]) == (1, 3)
    assert (out / "0.npz").stat().st_mtime_ns == before
    order = json.loads((out / "lf-extract.superpoint.json").read_text())["identity"]["pairs"]
    assert order == ["i_a 1_2", "i_a 1_3", "v_b 1_2", "v_b 1_3"]


def test_superpoint_pairs_that_are_not_those_of_the_dataset_are_refused(root, tmp_path, capsys):
    out = extract(root, tmp_path / "out", "superpoint")
    with pytest.raises(UsageError, match="protocol mma prepares i_a/1 otherwise"):
        scored(out, root, "superpoint", "mma", capsys)
    (out / "3.npz").rename(tmp_path / "3.npz")
    with pytest.raises(BadInput, match="3 files for 4 pairs, none of v_b 1_3"):
        scored(out, root, "superpoint", "superpoint", capsys)
    (out / "3.npz").write_bytes((out / "0.npz").read_bytes())
    with pytest.raises(BadInput, match=r"3.npz: is pair i_a 1_2 of the dataset, and so is 0.npz"):
        scored(out, root, "superpoint", "superpoint", capsys)
    pair = pairs.read_superpoint(out / "0.npz")
    other = pairs.Stored(pair.first, pair.second, pair.homography, images=(pair.images[1], 1 - pair.images[0]))
    pairs.write_superpoint(out / "3.npz", other, (np.arange(1), np.arange(1)))
    with pytest.raises(BadInput, match=r"3.npz: its images are of no pair of the dataset"):
        scored(out, root, "superpoint", "superpoint", capsys)


def exact(root, out):
    """Features with exactly corresponding points, in native pixels."""
    rng = np.random.default_rng(0)
    descriptors = np.eye(64, dtype=np.float32)
    with LAYOUTS["lf"].open(out) as store:
        for pair in open_dataset(str(root)):
            height, width = pair.first.load().shape[:2]
            points = rng.uniform((0.3 * width, 0.3 * height), (0.6 * width, 0.6 * height), (64, 2))
            if pair.name == "1_2":
                first = points
                store.write(f"{pair.first.key}.png", Features(first, np.ones(64), descriptors, (width, height)))
            height, width = pair.second.load().shape[:2]
            moved = warp_points(first, pair.homography)
            store.write(f"{pair.second.key}.png", Features(moved, np.ones(64), descriptors, (width, height)))
    return out


@pytest.mark.parametrize("protocol", ["kp2d", "kp2d-640", "kp2d-fixed", "superpoint-fixed", "auc"])
def test_features_of_native_images_go_where_the_protocol_has_its_homography(protocol, root, tmp_path, capsys):
    run = scored(exact(root, tmp_path / "out"), root, "lf", protocol, capsys)
    assert run["summary"]["mean_corner_error"] < 1e-3
    if protocol != "auc":
        assert run["summary"]["repeatability"] == 1
        assert run["summary"]["localization_error"] < 1e-3


def without_scores(out, images=None):
    """Take the scores out of files of layout lf; by default out of all."""
    for path in images or sorted(out.rglob("*.npz")):
        with np.load(path) as data:
            kept = {name: data[name] for name in data if name != "scores"}
        np.savez(path, **kept)
    return out


def test_points_of_a_dataset_without_scores_are_all_taken(root, tmp_path, capsys):
    want = scored(exact(root, tmp_path / "out"), root, "lf", "mma", capsys)
    run = scored(without_scores(tmp_path / "out"), root, "lf", "mma", capsys)
    assert run["pairs"] == want["pairs"]
    assert run["protocol_digest"] == PROTOCOLS["mma"].digest
    run = scored(tmp_path / "out", root, "lf", "kp2d", capsys)  # 64 points are not more than its k
    assert run["summary"]["repeatability"] == 1
    assert run["protocol_details"]["params"]["k"] is None
    capsys.readouterr()
    cli_score.score([tmp_path / "out"], "kp2d", data=str(root), layout="lf")
    assert capsys.readouterr().err.endswith("out: no scores; all keypoints are used, and k of protocol kp2d does not\n")
    assert scored(tmp_path / "out", root, "lf", "superpoint", capsys)["protocol_details"]["params"]["k"] is None


@pytest.mark.parametrize("protocol", ["mma", "kp2d", "kp2d-fixed", "superpoint", "auc"])
def test_no_best_points_are_taken_where_there_are_no_scores(protocol, root, tmp_path):
    out = without_scores(exact(root, tmp_path / "out"))
    with pytest.raises(BadInput) as refused:
        score.score_folder(out, str(root), "lf", score.choose(protocol, 20))
    assert str(refused.value).startswith(
        f"{out}: i_a 1_2: 64 points without scores, of which protocol {protocol} cannot take the 20 best; store the"
    )
    with pytest.raises(BadInput, match=r"i_a 1_2: 64 points without .+ kp2d cannot take the 20 best"):
        score.score_folder(out, str(root), "lf", PROTOCOLS["kp2d"].vary(k=20))


def test_scores_in_some_files_only_are_refused(root, tmp_path):
    out = exact(root, tmp_path / "out")
    without_scores(out, [out / "v_b" / "2.png.lf.npz"])
    with pytest.raises(BadInput, match="out: some images have scores and some have none; expected features of one"):
        score.score_folder(out, str(root), "lf", PROTOCOLS["mma"])


def test_a_stored_pair_without_scores_takes_all_points(tmp_path, said):
    with np.load(stored(tmp_path / "a.npz")) as data:
        np.savez(tmp_path / "b.npz", **{name: data[name] for name in data if not name.startswith("scores")})
    assert said(tmp_path / "b.npz", protocol="mma") == said(tmp_path / "a.npz", protocol="mma")
    with pytest.raises(
        BadInput, match=r"b.npz: 60 points without scores, of which protocol mma cannot take the 7 best"
    ):
        said(tmp_path / "b.npz", protocol="mma", top_k=7)


def test_hloc_features_without_scores(shared, tmp_path):
    """Case 11: all 300 points of either image, as a matcher with mutual nearest neighbours sees them."""
    pytest.importorskip("h5py")
    case, photos = shared / "cases/11-hloc-without-scores", shared / "data/oxford/v_boat"
    if not case.is_dir():
        pytest.skip("needs ../shared/cases")
    (tmp_path / "v_x").mkdir()
    for name in ("1.png", "2.png", "H_1_2"):
        (tmp_path / "v_x" / name).write_bytes((photos / name).read_bytes())
    (pair,) = score.score_folder(case, str(tmp_path), "hloc", PROTOCOLS["mma"]).pairs
    assert (pair.extra["n_matches"], pair.extra["mma@3"]) == (184, pytest.approx(0.7663043478260869))


def test_features_outside_of_the_crop_are_dropped(root, tmp_path, capsys):
    run = scored(exact(root, tmp_path / "out"), root, "lf", "superpoint", capsys)
    same_size = [pair for pair in run["pairs"] if pair["pair"] == "1_2"]  # Q1: others have a wrong homography
    assert all(pair["localization_error"] < 1e-3 for pair in same_size)
    with LAYOUTS["lf"].open(tmp_path / "out") as store:
        width = store.read("i_a/1", (1, 1)).size[0]
        store.write("i_a/1.png", Features([[width - 1, 5], [5, 5]], np.ones(2), np.eye(2, 64), (440, 300)))
    run = scored(tmp_path / "out", root, "lf", "superpoint", capsys)
    assert run["pairs"][0]["n_keypoints0"] == 1


@pytest.mark.parametrize("protocol", ["superpoint", "superpoint-fixed", "kp2d", "kp2d-640", "kp2d-fixed", "mma"])
def test_features_on_the_last_pixels_are_kept(protocol, tmp_path):
    root, edge = tmp_path / "root", [[0, 0], [1599, 1199], [1598, 600], [800, 1198], [800, 600]]
    root.joinpath("v_x").mkdir(parents=True)
    for name in ("1", "2"):
        cv2.imwrite(str(root / f"v_x/{name}.png"), np.zeros((1200, 1600), np.uint8))
    np.savetxt(root / "v_x/H_1_2", np.eye(3))
    with LAYOUTS["lf"].open(tmp_path / "out") as store:
        for name in ("1", "2"):
            store.write(f"v_x/{name}.png", Features(edge, np.ones(5), np.eye(5), (1600, 1200)))
    run = score.score_folder(tmp_path / "out", str(root), "lf", PROTOCOLS[protocol])
    assert run.pairs[0].extra["n_keypoints0"] == 5


def test_features_of_prepared_images_are_taken_as_they_are(root, tmp_path, capsys):
    exact(root, tmp_path / "out")
    with LAYOUTS["lf"].open(tmp_path / "out") as store:
        for name in ("i_a/1", "i_a/2", "i_a/3", "v_b/1", "v_b/2", "v_b/3"):
            points = store.read(name, (1, 1))
            store.write(f"{name}.png", Features(points.keypoints / 2, points.scores, points.descriptors, (320, 240)))
    run = scored(tmp_path / "out", root, "lf", "kp2d", capsys)
    assert {pair["n_keypoints0"] for pair in run["pairs"]} == {64}
    with pytest.raises(BadInput, match=r"i_a/1: features of a 320x240 image; expected 440x300 or 640x480"):
        scored(tmp_path / "out", root, "lf", "kp2d-640", capsys)


def test_a_missing_image_is_named(root, tmp_path, capsys):
    out = extract(root, tmp_path / "out", "r2d2")
    (out / "v_b/3.png.r2d2").unlink()
    with pytest.raises(BadInput, match=r"v_b: features of image 3: none; expected 3.SUFFIX.r2d2"):
        scored(out, root, "r2d2", "mma", capsys)
    with pytest.raises(BadInput, match="no such folder; expected features of layout r2d2"):
        scored(tmp_path / "nowhere", root, "r2d2", "mma", capsys)


def test_the_document_is_that_of_bench(root, tmp_path, capsys):
    out = extract(root, tmp_path / "out", "lf")
    run = score.score_folder(out, str(root), "lf", score.choose("kp2d", 100))
    assert run.protocol_details["params"]["k"] == 100
    path = results.save(tmp_path / "results.json", [run])
    assert results.load(path) == [run]
    assert run.latency_ms is None
    capsys.readouterr()
    cli_score.score([out], "kp2d", data=str(root), layout="lf")
    assert "stored" in capsys.readouterr().out
