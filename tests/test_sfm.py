"""`lf sfm` and `lf localize`: numbers of a drawn scene, resuming, shards, refusals, the files of Aachen."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lf.benchmarks.protocols import matching
from lf.benchmarks.report import reconstructions
from lf.benchmarks.run import results
from lf.benchmarks.sfm import aachen, colmap, matches, pairs, reconstruct, stages
from lf.benchmarks.sfm.localize import localize
from lf.benchmarks.sfm.places import Place, Shot, places
from lf.benchmarks.sfm.pose_errors import centre_of
from lf.core import BadInput, GateFailed, UsageError
from lf.data import colmap as databases
from lf.data import colmap_cameras as cameras
from lf.data import images
from lf.data.cameras import checked_quaternion, quaternion
from lf.data.posed import drawn
from lf.extraction import pools, store
from lf.extraction.variant import Variant
from lf.models.resolve import resolve

pytest.importorskip("pycolmap")
VIEWS = 6
HOW = stages.How("mutual-ratio0.8", 400)


@pytest.fixture(scope="module")
def drawn_folder(once):
    """Six views of a drawn scene of 320x240 with cameras.txt."""

    def make(folder):
        (folder / "scene" / "images").mkdir(parents=True)
        lines = []
        for view in drawn.training(3, (240, 320)).views[3 : 3 + VIEWS]:
            cv2.imwrite(str(folder / "scene" / "images" / view.name), view.image.load()[..., ::-1])
            pose = np.eye(4)
            pose[:3] = np.column_stack([view.rotation, view.translation])
            numbers = [*view.K.ravel(), *pose.ravel()]
            lines.append(" ".join([view.name, *(f"{value:.12g}" for value in numbers)]))
        (folder / "scene" / "cameras.txt").write_text("\n".join(lines) + "\n")

    return once("sfm-scene", make) / "scene"


@pytest.fixture
def folder(drawn_folder, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(drawn_folder, tmp_path / "scene"))


def variant(name="sift"):
    return Variant(resolve(name), "opencv")


def run(folder, out, how=HOW, name="sift", **options):
    return reconstruct.sfm(variant(name), f"posed:{folder}", out, how=how, **options)


def one(done):
    return next(iter(done.reconstructions.values()))


# --- numbers

SYNTH12 = (  # counts within 2 %, errors within 10 %
    ("sparse_points", 1339, 0.02),
    ("observations", 10033, 0.02),
    ("track_length", 7.493, 0.02),
    ("inlier_matches", 35963, 0.02),
    ("reprojection_error", 0.1872, 0.1),
    ("centre_error_mean_mm", 1.099, 0.1),
    ("centre_error_max_mm", 1.872, 0.1),
    ("rotation_error_mean_deg", 0.0505, 0.1),
)


@pytest.mark.slow
def test_the_drawn_scene_has_its_values(tmp_path):
    """Reconstruct a drawn scene, from pixels to millimetres; test_colmap checks the points in tests/parity."""
    how = stages.How("mutual-ratio0.8", 1000)
    done = reconstruct.sfm(variant("rootsift"), "scenes:1", tmp_path / "out", how=how)
    model = one(done)
    assert (model["images"], model["registered_images"], model["models"]) == (12, 12, 1)
    assert model["verified_pairs"] == 66
    for name, value, share in SYNTH12:
        assert model[name] == pytest.approx(value, rel=share), name
    assert len(done.pairs) == 12
    assert done.summary["registered"] == 1
    assert done.summary["camera_centre_error"] == pytest.approx(model["centre_error_mean_mm"])
    asked = ["0003.png", "0007.png", "0010.png"]
    located, sent = localize(variant("rootsift"), "scenes:1", tmp_path / "query", how=how, queries=asked)
    assert sent is None
    assert [pair.pair for pair in located.pairs] == asked
    assert located.summary["localised@0.01m"] == 1
    assert located.summary["camera_centre_error"] == pytest.approx(0.738, rel=0.1)
    assert one(located)["sparse_points"] == pytest.approx(1316, rel=0.02)


def test_results_are_read_compared_and_shown(folder, tmp_path, lf):
    out, other = tmp_path / "out", tmp_path / "other"
    code, said, error = lf("sfm", "sift", "--data", f"posed:{folder}", "--out", str(out), "--top-k", "400")
    assert (code, error) == (0, "")
    assert "protocol eth-lfb v1 (" in said
    assert "6 images (" in said
    assert said.endswith(f"{out / 'results.json'}\n")
    (kept,) = results.load(out / "results.json")
    assert kept.environment.versions["pycolmap"] == colmap.version()
    assert kept.protocol_details["params"]["intrinsics"] == "fixed"
    assert one(kept)["registered_images"] == VIEWS
    code, said, _ = lf("sfm", "sift", "--data", f"posed:{folder}", "--out", str(other), "--top-k", "400", "--json")
    again = json.loads(said)["runs"][0]
    assert again["summary"] == kept.summary  # to the last digit
    (tmp_path / "gates.toml").write_text('[[gate]]\nmetric = "camera_centre_error"\nmax_drop = 1\n')
    both = (str(out / "results.json"), str(other / "results.json"), "--gates", str(tmp_path / "gates.toml"))
    code, said, error = lf("compare", *both)
    assert code == GateFailed.exit_code  # six images are too few for a bound
    assert "undecided" in said + error


def test_an_interrupted_run_goes_on_by_its_files(folder, tmp_path, monkeypatch):
    whole = run(folder, tmp_path / "whole")

    def stop(*given):
        raise KeyboardInterrupt

    for place, name in ((matches, "match"), (colmap, "verify"), (colmap, "reconstruct")):
        monkeypatch.setattr(place, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "out")
        monkeypatch.undo()
        assert not [*(tmp_path / "out").rglob(".*")], "nothing half-written"
    assert not (tmp_path / "out" / "results.json").exists()
    assert run(folder, tmp_path / "out").summary == whole.summary
    for place, name in ((colmap, "verify"), (colmap, "reconstruct")):
        monkeypatch.setattr(place, name, stop)
    assert run(folder, tmp_path / "out").reconstructions == whole.reconstructions
    assert {path.name for path in (tmp_path / "out" / "scene").iterdir()} == {
        *("lf-sfm.json", "features", "matches", "database.db", "model")
    }


def test_workers_and_threads_change_nothing(folder, tmp_path):
    one, two = (run(folder, tmp_path / f"{n}", replace(HOW, workers=n, threads=n)) for n in (1, 2))
    assert (two.summary, two.reconstructions) == (one.summary, one.reconstructions)


def test_shards_share_features_and_matches(folder, tmp_path, capsys):
    whole, out = run(folder, tmp_path / "whole"), tmp_path / "out"
    for index in (0, 1):
        assert run(folder, out, replace(HOW, shard=(index, 2))) is None
    said = capsys.readouterr().err
    assert "lf: shard 0/2: 3 images have no features yet; run it again when the other shards are done\n" in said
    assert "lf: shard 1/2 is done; without `shard` the same command goes on\n" in said
    assert not [*out.rglob("database.db")]
    assert run(folder, out).summary == whole.summary
    for path in (tmp_path / "whole").rglob("*.npz"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "whole")).read_bytes()


def test_a_pool_extracts_and_the_rest_is_done_here(folder, tmp_path, monkeypatch):
    seen = []

    def pool(opener, found, out, *rest, **options):
        seen.append((sorted(found), {path.is_file() for path in found.values()}, options))
        return store.extract_images(pickle.loads(pickle.dumps(opener))(), found, out, *rest)

    monkeypatch.setitem(pools.POOLS, "ray", pool)
    whole, spread = run(folder, tmp_path / "whole"), run(folder, tmp_path / "out", replace(HOW, pool="ray"))
    names = sorted(path.name for path in (folder / "images").iterdir())
    assert seen == [(names, {True}, {"cpus": 1, "workers": 1})]
    assert (spread.summary, spread.reconstructions) == (whole.summary, whole.reconstructions)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_features_come_from_ray(folder, tmp_path, lf):
    pytest.importorskip("ray.data")
    words = ("sfm", "sift", "--data", f"posed:{folder}", "--top-k", "400")
    assert lf(*words, "--out", str(tmp_path / "out"), "--pool", "ray")[0] == 0
    (spread,) = results.load(tmp_path / "out" / "results.json")
    assert spread.reconstructions == run(folder, tmp_path / "whole").reconstructions


def test_a_pool_needs_files_and_takes_no_shard(tmp_path, lf):
    words = ("sfm", "sift", "--data", "scenes:1", "--out", str(tmp_path / "out"), "--pool", "ray")
    code, _, error = lf(*words, "--shard", "0/2")
    assert (code, error) == (2, "lf: --pool shares the images out by itself; leave out --shard\n")
    code, _, error = lf(*words)
    assert (code, error) == (
        2,
        "lf: synth12: image 0000.png is drawn, and --pool shares out image files; leave out --pool\n",
    )


def test_features_of_lf_extract_are_taken(folder, tmp_path, lf):
    out = tmp_path / "out"
    code, _, error = lf(
        *("extract", "sift", str(folder / "images"), "--layout", "lf", "--top-k", "400"),
        *("--out", str(out / "scene" / "features")),
    )
    assert (code, error) == (0, "")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert len(before) == VIEWS
    assert run(folder, out).summary == run(folder, tmp_path / "whole").summary
    assert before == {path: path.stat().st_mtime_ns for path in before}
    (out / "scene" / stages.NOTE).unlink()
    with pytest.raises(UsageError, match=r"database\.db: was made with other settings|did not make"):
        run(folder, out, replace(HOW, top_k=300))
    (out / "scene" / "database.db").unlink()
    with pytest.raises(UsageError, match="scene: holds matches or a model that this command did not make; choose an"):
        run(folder, out)


# --- one folder, one model


def test_a_folder_of_another_model_or_setting_is_refused(folder, tmp_path):
    run(folder, tmp_path / "out")
    for options, text in (
        (
            {"name": "orb"},
            r"scene: was made with other settings \(model: was sift, now orb; .*; choose another `out`, or delete it",
        ),
        ({"how": replace(HOW, top_k=300)}, "top_k: was 400, now 300"),
        ({"how": replace(HOW, matcher="mutual")}, "matcher: was mutual-ratio0.8, now mutual"),
        ({"pairs": "sequential:2"}, "pairs: was .*, now "),
        ({"intrinsics": "refined"}, "intrinsics: was fixed, now refined"),
    ):
        with pytest.raises(UsageError, match=text):
            run(folder, tmp_path / "out", **options)
    os.utime(folder / "images" / "0003.png")
    image = cv2.imread(str(folder / "images" / "0004.png"))
    cv2.imwrite(str(folder / "images" / "0004.png"), 255 - image)
    with pytest.raises(UsageError, match=r"data: was .*, now "):
        run(folder, tmp_path / "out")


def test_a_database_of_another_model_is_refused(folder, tmp_path):
    run(folder, tmp_path / "sift")
    run(folder, tmp_path / "rootsift", name="rootsift")
    shutil.copy(tmp_path / "rootsift/scene/database.db", tmp_path / "sift/scene/database.db")
    with pytest.raises(
        UsageError, match=r"database\.db: was made with other settings \(model: was rootsift, now sift; "
    ):
        run(folder, tmp_path / "sift")
    path = tmp_path / "new" / "scene" / "database.db"
    path.parent.mkdir(parents=True)
    with databases.created(path):
        pass
    with pytest.raises(UsageError, match=r"database\.db: this command did not make this database; choose another"):
        run(folder, tmp_path / "new")


@pytest.mark.parametrize("broken", [b"hello", None])
def test_a_corrupt_database_is_one_line(folder, tmp_path, lf, broken):
    run(folder, tmp_path / "out")
    path = tmp_path / "out/scene/database.db"
    path.write_bytes(broken or path.read_bytes()[:20_000])
    code, _, error = lf("sfm", "sift", "--data", f"posed:{folder}", "--out", str(tmp_path / "out"), "--top-k", "400")
    assert (code, error.count("\n")) == (5, 1)
    assert f"lf: {path}: cannot be read as a COLMAP database (" in error
    assert error.endswith("; delete it and make it again\n")


def test_damaged_matches_and_model_are_one_line(folder, tmp_path):
    run(folder, tmp_path / "out")
    place = tmp_path / "out/scene"
    note = json.loads((place / stages.NOTE).read_text())
    (place / stages.NOTE).write_text(json.dumps({**note, "model": {"images": {"a": {}}}}))
    with pytest.raises(BadInput, match=r"lf-sfm\.json: the model in it is damaged; delete the folder and run"):
        run(folder, tmp_path / "out")
    (place / "database.db").unlink()
    (place / "matches/0003.png.npz").write_bytes(b"hello")
    with pytest.raises(
        BadInput, match=r"0003\.png\.npz: cannot be read as npz .*; delete it and run the command again"
    ):
        run(folder, tmp_path / "out")
    assert not (place / "database.db").exists()


# --- nothing to reconstruct


def test_a_model_that_registers_nothing_is_an_empty_result(folder, tmp_path, lf):
    for index, path in enumerate(sorted((folder / "images").iterdir())):
        noise = np.random.default_rng(index).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        cv2.imwrite(str(path), noise)
    data = ("--data", f"posed:{folder}", "--top-k", "200")
    code, said, error = lf("sfm", "sift", *data, "--out", str(tmp_path / "out"))
    assert (code, error) == (0, "")
    assert "nothing was registered in scene: the model is empty, and errors are undefined" in said
    (done,) = results.load(tmp_path / "out" / "results.json")
    assert (one(done)["registered_images"], one(done)["sparse_points"], one(done)["track_length"]) == (0, 0, None)
    assert done.summary["registered"] == 0
    assert done.summary["camera_centre_error"] is None
    code, said, error = lf("localize", "sift", *data, "--out", str(tmp_path / "query"))
    assert (code, error) == (0, "")
    (done,) = results.load(tmp_path / "query" / "results.json")
    assert [(pair.extra["registered"], pair.extra["localised@5m"]) for pair in done.pairs] == [(0, 0), (0, 0)]


def test_an_image_without_keypoints_or_matches_stays_out(folder, tmp_path):
    cv2.imwrite(str(folder / "images" / "0005.png"), np.full((240, 320), 128, np.uint8))
    model = one(done := run(folder, tmp_path / "out"))
    assert model["registered_images"] == VIEWS - 1
    assert "\n\nnot registered in scene: 0005.png\n\n" in reconstructions.page(done)
    (blank,) = [pair for pair in done.pairs if pair.pair == "0005.png"]
    assert (blank.extra["registered"], blank.extra["n_keypoints0"], blank.extra["camera_centre_error"]) == (0, 0, None)
    located, _ = localize(variant(), f"posed:{folder}", tmp_path / "query", how=HOW, queries=["0005.png", "0006.png"])
    assert [pair.extra["registered"] for pair in located.pairs] == [0, 1]


# --- data


def test_unknown_intrinsics_are_refined_or_refused(folder, tmp_path, lf):
    (folder / "cameras.txt").unlink()
    code, _, error = lf("sfm", "sift", "--data", str(folder), "--out", str(tmp_path / "out"))
    assert (code, error.count("\n")) == (5, 1)
    assert error == (
        "lf: scene: no intrinsics of 6 of 6 images, such as 0003.png; add cameras.txt (name, K, world to camera), "
        "or type --intrinsics refined\n"
    )
    done = reconstruct.sfm(variant(), str(folder), tmp_path / "out", how=HOW, intrinsics="refined")
    assert one(done)["registered_images"] == VIEWS
    assert one(done)["centre_error_mean_mm"] is None
    with databases.opened(tmp_path / "out/scene/database.db") as database:
        assert {camera.model for camera in database.cameras().values()} == {"SIMPLE_RADIAL"}
    code, _, error = lf("localize", "sift", "--data", str(folder), "--out", str(tmp_path / "query"))
    assert (code, error.count("\n")) == (5, 1)
    assert "no intrinsics of 6 of 6 images" in error


def test_cameras_of_the_eth_layout_are_taken(folder, tmp_path):
    (folder / "cameras.txt").unlink()
    camera = cameras.Camera("SIMPLE_PINHOLE", 320, 240, (280.0, 160.0, 120.0))
    with databases.created(folder / "database.db") as database:
        for view in sorted((folder / "images").iterdir()):
            database.add(view.name, camera)
    (place,) = places(str(folder))
    assert {shot.camera for shot in place.shots} == {camera}
    model = one(reconstruct.sfm(variant(), str(folder), tmp_path / "out", how=HOW))
    assert model["registered_images"] == VIEWS
    with pytest.raises(BadInput, match=r"0003\.png: 300x240 pixels, its camera has 320x240; expected the same size"):
        place.shots[0].seen((300, 240))
    shutil.copy(folder / "images" / "0003.png", folder / "images" / "a.png")
    with pytest.raises(BadInput, match=r"database\.db: has no camera of image a\.png; add it, or delete the database"):
        places(str(folder))


def test_an_image_that_calibrated_the_model_is_refused(folder, tmp_path):
    digest = images.picture(folder / "images" / "0004.png", "a").digest
    files = [{"name": "mine.png", "sha256": digest}]
    card = resolve("sift").card.step(made={"command": "quantize", "calibration": {"files": files}})
    leaking = Variant(replace(resolve("sift"), card=card), "opencv")
    with pytest.raises(BadInput, match=r"was calibrated on mine\.png, which is images/0004 of the benchmark"):
        reconstruct.sfm(leaking, f"posed:{folder}", tmp_path / "out", how=HOW)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b.png"])
def test_names_of_images_stay_in_their_folder(drawn_folder, name):
    picture = images.picture(drawn_folder / "images" / "0003.png", "a")
    with pytest.raises(BadInput, match="is named twice, or its name leaves its folder"):
        Place("scene", (Shot("b.png", picture), Shot(name, picture)))


def test_unknown_names_are_offered(folder, tmp_path, lf):
    for options, text in (
        (("--matcher", "mutal"), "unknown matcher 'mutal'; did you mean 'mutual'?"),
        (("--intrinsics", "free"), "unknown treatment of intrinsics 'free'; known: fixed, refined"),
        (("--pairs", "all"), "--pairs all: no such file or way; expected exhaustive, sequential:N, nearest:N, listed"),
        (
            ("--pairs", "nearest:x"),
            "--pairs nearest:x: expected a number of images after the colon, such as nearest:10",
        ),
        (("--shard", "2/2"), "--shard 2/2: expected I/N with I from 0 to N - 1"),
    ):
        code, _, error = lf("sfm", "sift", "--data", f"posed:{folder}", "--out", str(tmp_path / "out"), *options)
        assert (code, error.count("\n")) == (2, 1)
        assert text in error


# --- pairs


def posed_place(count, **changes):
    """Cameras on a line that all look along z."""
    picture = images.Picture("a", lambda: np.zeros((8, 8, 3), np.uint8), "")
    shots = [
        Shot(f"{i}", picture, np.eye(3), None, np.column_stack([np.eye(3), [-float(i), 0, 0]])) for i in range(count)
    ]
    return Place("line", tuple(shots), **changes)


def test_ways_to_choose_pairs(tmp_path):
    place = posed_place(4, listed=((2, 1), (0, 3)))
    assert pairs.choose("exhaustive", place) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs.choose("exhaustive", place, {0, 3}) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert pairs.choose("sequential:1", place) == [(0, 1), (1, 2), (2, 3)]
    assert pairs.choose("nearest:1", place) == [(0, 1), (1, 2), (2, 3)]
    assert pairs.choose("nearest:1", place, {3}) == [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs.choose("listed", place) == [(0, 3), (1, 2)]
    (tmp_path / "pairs.txt").write_text("# names\n3 1\n1 3\n")
    assert pairs.choose(str(tmp_path / "pairs.txt"), place) == [(1, 3)]


def test_cameras_that_look_away_are_not_near():
    place = posed_place(3)
    back = np.column_stack([np.diag([-1.0, 1, -1]), [1.0, 0, 0]])
    turned = Place("line", (place.shots[0], replace(place.shots[1], pose=back), place.shots[2]))
    assert np.allclose(centre_of(back), [1, 0, 0])
    assert pairs.choose("nearest:1", turned) == [(0, 2)]


def test_pairs_that_cannot_be_chosen_are_one_line(tmp_path, monkeypatch):
    place = posed_place(3)
    monkeypatch.setattr(pairs, "MOST", 2)
    with pytest.raises(UsageError, match=r"3 images have too many pairs; type: `pairs=nearest:20`"):
        pairs.choose("exhaustive", place)
    with pytest.raises(UsageError, match="line has no list of pairs"):
        pairs.choose("listed", place)
    unposed = Place("line", tuple(replace(shot, pose=None) for shot in place.shots))
    with pytest.raises(UsageError, match="images of line have no pose"):
        pairs.choose("nearest:2", unposed)
    for text, said in (("1 9\n", r"pairs\.txt:1: 9: expected two names"), ("1\n", r"pairs\.txt:1: 1: expected two")):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(BadInput, match=said):
            pairs.choose(str(tmp_path / "pairs.txt"), place)


# --- matches


def unit(count, length, seed):
    found = np.random.default_rng(seed).standard_normal((count, length)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("both", [False, True])
def test_the_ratio_test_is_that_of_all_distances(both, monkeypatch):
    monkeypatch.setattr(matching, "ROWS", 7)
    a = unit(50, 8, 0)
    b = np.concatenate([a[10:40] + 0.15 * unit(30, 8, 1), unit(20, 8, 2)])
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    distance = np.linalg.norm(a[:, None].astype(float) - b[None], axis=2)
    want = []
    for i, row in enumerate(distance):
        j = int(row.argmin())
        ahead, back = np.sort(row), np.sort(distance[:, j])
        passes = ahead[0] <= 0.8 * ahead[1] and (not both or back[0] <= 0.8 * back[1])
        want += [(i, j)] if distance[:, j].argmin() == i and passes else []
    found = matching.distinct(a, b, 0.8, both)
    assert [*zip(*map(list, found), strict=True)] == want
    assert 5 < len(want) < len(matching.mutual(a, b, "dot")[0])


def test_the_ratio_test_of_few_descriptors():
    a = unit(3, 8, 0)
    assert [len(each) for each in matching.distinct(a, a[:0], 0.8, True)] == [0, 0]
    assert matching.distinct(a, a[1:2], 0.8, True)[0].tolist() == [1]  # no second one: nothing to be mistaken for


def test_matches_of_other_pairs_are_refused(tmp_path):
    groups = {"a.png": ["b.png", "c.png"]}
    arrays = {"m0": np.zeros((0, 2), np.uint32), "names": np.array(["b.png"])}
    matches.npz.write(tmp_path / "a.png.npz", arrays)
    with pytest.raises(BadInput, match=r"a\.png\.npz: matches with 1 other images, expected 2; delete it and run"):
        [*matches.matched(groups, tmp_path)]


MEASURED = """
import resource, numpy as np
from lf.benchmarks.protocols import matching
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((20480, 128), dtype=np.float32) for _ in range(2))
a /= np.linalg.norm(a, axis=1, keepdims=True); b /= np.linalg.norm(b, axis=1, keepdims=True)
matching.mutual(a[:64], b[:64], "dot")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(matching.distinct(a, b, 0.8, True)[0]) >= 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.alone
def test_matching_of_20480_points_takes_little_memory():
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300_000  # kB, beside the descriptors


# --- localisation


def test_queries_are_localised_and_scored(folder, tmp_path, lf):
    out = tmp_path / "out"
    data = ("--data", f"posed:{folder}", "--top-k", "400", "--out", str(out))
    code, said, error = lf("localize", "sift", *data)
    assert (code, error) == (0, "")
    assert "protocol localise v1" in said
    (done,) = results.load(out / "results.json")
    assert [pair.pair for pair in done.pairs] == ["0005.png", "0008.png"]
    assert done.summary["localised@0.25m"] == 1
    assert one(done)["registered_images"] == one(done)["images"] == VIEWS - 2
    with databases.opened(out / "scene/database.db") as database:
        ids = database.ids()
        assert databases.pair_id(ids["0005.png"], ids["0008.png"]) not in {
            number for (number,) in database.rows("SELECT pair_id FROM matches")
        }
    assert lf("localize", "sift", *data)[1] == said  # from what is kept


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (["a.png"], r"scene: has no image 'a\.png'; expected names such as 0003\.png"),
        ([f"{k:04d}.png" for k in range(3, 8)], "scene: 5 queries of 6 images; expected 1 to 4"),
    ],
)
def test_queries_are_checked(folder, tmp_path, asked, text):
    with pytest.raises(BadInput, match=text):
        localize(variant(), f"posed:{folder}", tmp_path / "out", how=HOW, queries=asked)


def test_queries_of_several_scenes_are_not_guessed(tmp_path):
    with pytest.raises(UsageError, match="the data holds 2 scenes; give the folder of one, or leave `queries` out"):
        localize(variant(), "scenes:2", tmp_path / "out", how=HOW, queries=["0003.png"])


# --- Aachen


QUERIES = ("0005.png", "0007.png")


@pytest.fixture(params=aachen.RELEASES)
def tree(request, drawn_folder, tmp_path):
    """A release of Aachen in the small, and the truth: the first night query has a distortion of nothing."""
    release, root = aachen.RELEASES[request.param], tmp_path / "aachen"
    (place,) = places(f"posed:{drawn_folder}")
    models = root / "3D-models" / "inner"
    models.mkdir(parents=True)
    (root / "queries").mkdir()
    poses, named = {}, {}
    for shot in place.shots:
        name = f"query/night/{shot.name}" if shot.name in QUERIES else f"db/{shot.name}"
        path = root / aachen.IMAGES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn_folder / "images" / shot.name, path)
        k = shot.matrix
        named[name] = cameras.Camera("SIMPLE_RADIAL", 320, 240, (k[0, 0], k[0, 2] + 0.5, k[1, 2] + 0.5, 0.0))
        poses[name] = shot.pose
    with databases.created(root / release.database) as database:
        for name, camera in named.items():
            database.add(name, camera)
        database.add("query/day/unseen.png", next(iter(named.values())))

    def listed(names):
        lines = (
            f"{name} {c.model} {c.width} {c.height} {' '.join(map(repr, map(float, c.params)))}"
            for name in names
            for c in [named[name]]
        )
        return "\n".join(lines) + "\n"

    queries = [name for name in named if name.startswith("query")]
    known = [name for name in named if name.startswith("db")]
    (models / release.intrinsics).write_text(listed(known))
    (root / "queries" / release.queries[-1]).write_text(listed(queries))
    lines = ["NVM_V3", "", str(len(known))]
    for name in known:
        numbers = [named[name].params[0], *quaternion(poses[name][:, :3]), *centre_of(poses[name]), 0.0, 0]
        lines.append(" ".join([f"./{name}", *map(repr, map(float, numbers[:-1])), "0"]))
    (models / release.nvm).write_text("\n".join([*lines, "", "0"]) + "\n")
    both = [(a, b) for a in named for b in named if a < b and not {a, b} <= {*queries}]
    both += [(b, a) for a, b in both[:3]] + [("query/day/unseen.png", known[0])]
    (root / release.pairs).write_text("".join(f"{a} {b}\n" for a, b in both))
    return request.param, root, {name: poses[name] for name in queries}


def test_aachen_writes_the_file_of_the_server(tree, tmp_path, lf):
    name, root, truth = tree
    out = tmp_path / "out"
    code, said, error = lf("localize", "sift", "--data", f"{name}:{root}", "--top-k", "400", "--out", str(out))
    assert (code, error) == (0, "")
    sent = out / {"aachen": "Aachen_eval_sift.txt", "aachen-v1.1": "Aachen_v1_1_eval_sift.txt"}[name]
    assert said.endswith(f"{sent}\n")
    lines = [line.split(" ") for line in sent.read_text().splitlines()]
    assert [line[0] for line in lines] == [*QUERIES]  # file names only
    for (_, *numbers), pose in zip(lines, truth.values(), strict=True):
        values = np.array([float(number) for number in numbers])
        assert values.shape == (7,)
        rotation = checked_quaternion(values[:4], "")
        assert np.linalg.norm(values[:4]) == pytest.approx(1)
        assert np.linalg.norm(-rotation.T @ values[4:] - centre_of(pose)) < 0.05
        assert np.allclose(rotation, pose[:, :3], atol=0.02)
    (done,) = results.load(out / "results.json")
    assert (done.protocol, done.summary["registered"]) == (name, 1)
    assert "localised@5m" not in done.summary
    assert done.protocol_details["params"]["pairs"] == "listed"
    with pytest.raises(UsageError, match=f"`queries`: {name} lists its own queries; leave it out"):
        localize(variant(), f"{name}:{root}", out, how=HOW, queries=["a"])


def test_a_query_that_is_not_registered_is_left_out_of_the_file(tree, tmp_path):
    name, root, _ = tree
    blank = root / aachen.IMAGES / "query/night" / QUERIES[0]
    cv2.imwrite(str(blank), np.full((240, 320), 90, np.uint8))
    _, sent = localize(variant(), f"{name}:{root}", tmp_path / "out", how=replace(HOW, matcher="mutual"))
    assert [line.split()[0] for line in sent.read_text().splitlines()] == [QUERIES[1]]


def spoil(path, change):
    text = path.read_text()
    path.write_text(change(text))


@pytest.mark.parametrize(
    ("spoilt", "text"),
    [
        (lambda root, r: (root / r.database).unlink(), r"database.*\.db: no such file; expected it there, from the"),
        (lambda root, r: next(root.rglob(r.nvm)).unlink(), r"nvm: no such file; expected it there, from the benchmark"),
        (lambda root, r: spoil(next(root.rglob(r.nvm)), lambda t: t[:300]), r"nvm.*(cut short|numbers; expected 10)"),
        (lambda root, r: spoil(next(root.rglob(r.nvm)), lambda t: "PLY\n"), r"expected an NVM file: NVM_V3, then"),
        (
            lambda root, r: spoil(next(root.rglob(r.intrinsics)), lambda t: t.replace("SIMPLE_RADIAL", "ROUND", 1)),
            r"txt:1: camera ROUND of 320x240 with 4 parameters; expected a model of SIMPLE_PINHOLE",
        ),
        (
            lambda root, r: spoil(next(root.rglob(r.queries[-1])), lambda t: t.replace("night/", "dusk/", 1)),
            r"has no image query/dusk/0005\.png, which is a query",
        ),
        (
            lambda root, r: spoil(root / r.pairs, lambda t: "db/0003.png nowhere.png\n" + t),
            r"txt:1: db/0003\.png nowhere\.png: expected two names of images of the database",
        ),
        (
            lambda root, r: (root / aachen.IMAGES / "db" / "0003.png").unlink(),
            r"db/0003\.png: no such image; expected the images of the benchmark in",
        ),
    ],
)
def test_damaged_files_of_aachen_are_one_line(tree, spoilt, text):
    name, root, _ = tree
    spoilt(root, aachen.RELEASES[name])
    with pytest.raises(BadInput, match=text) as caught:
        aachen.read(root, aachen.RELEASES[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(5))
def test_a_quaternion_is_that_of_its_rotation(seed):
    q = np.random.default_rng(seed).standard_normal(4)
    q *= np.sign(q[0]) / np.linalg.norm(q)
    assert np.allclose(quaternion(checked_quaternion(q, "")), q)
    assert np.allclose(quaternion(np.diag([-1.0, -1, 1])), [0, 0, 0, 1]) or seed  # half a turn
