"""COLMAP databases and what COLMAP makes of them: expected values, checks beforehand, one-line errors."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lf.benchmarks.sfm import colmap, pose_errors
from lf.core import BadInput, DiskFull, LfError, Unavailable, UsageError
from lf.data import colmap as databases
from lf.data import colmap_cameras as cameras
from lf.data.layouts import LAYOUTS
from lf.data.layouts import colmap as layout

PARITY = Path(__file__).resolve().parent / "parity" / "sfm"
CAMERA = cameras.Camera("PINHOLE", 64, 48, (50.0, 50.0, 32.0, 24.0))
EXPECTED = json.loads((PARITY / "expected.json").read_text())
SETS = ("synth12", "fountain11")


@pytest.fixture(params=SETS)
def points(request):
    """Points and matches of a set, and its expected values; those of photos wait for ../shared."""
    pytest.importorskip("pycolmap")
    folder = PARITY / f"{request.param}.npz"
    if request.param != "synth12":
        folder = request.getfixturevalue("shared") / "parity/sfm" / f"sfm_{request.param}.npz"
    with np.load(folder, allow_pickle=False) as data:
        return dict(data), EXPECTED[request.param]


def filled(path, data, unmatched=()):
    """A database with the points of a set; pairs of two unmatched images are left out."""
    with databases.created(path) as database:
        for index, name in enumerate(data["names"]):
            width, height = map(int, data["sizes"][index])
            image = database.add(str(name), cameras.pinhole((width, height), data["K"][index]))
            database.write_keypoints(image, data[f"keypoints_{index}"])
        for key in sorted(name for name in data if name.startswith("matches_")):
            first, second = map(int, key.split("_")[1:])
            if not {first, second} <= {*unmatched}:
                database.write_matches(first + 1, second + 1, data[key])
    return path


def near(found, expected, share):
    return found == pytest.approx(expected, rel=share)


# --- expected values: counts within 2 %, errors within 10 %


@pytest.mark.parametrize(("refine", "row"), [(True, "lfb_default"), (False, "lfb_fixed_intrinsics")])
def test_reconstruction_has_the_expected_values(points, tmp_path, refine, row):
    data, expected = points[0], points[1][row]
    path = filled(tmp_path / "a.db", data)
    colmap.verify(path, 1)
    with databases.opened(path) as database:
        inliers = database.inliers()
    (tmp_path / "out").mkdir()
    model = colmap.reconstruct(path, tmp_path / "out", refine)
    assert (len(inliers), len(model.images)) == (expected["verified_pairs"], expected["reg_images"])
    assert near(sum(inliers.values()), expected["inlier_matches"], 0.02)
    assert near(model.points, expected["points3D"], 0.02)
    assert near(model.observations, expected["observations"], 0.02)
    assert near(model.track_length, expected["mean_track_length"], 0.02)
    assert near(model.reprojection_error, expected["mean_reproj_error"], 0.1)
    assert sum(image.observations for image in model.images.values()) == model.observations
    truth = {str(name): pose[:3] for name, pose in zip(data["names"], data["world_to_camera"], strict=True)}
    errors = pose_errors.aligned_errors({n: image.pose for n, image in model.images.items()}, truth).values()
    assert near(np.mean([error.centre for error in errors]), expected["centre_error_mean"], 0.1)
    assert near(max(error.centre for error in errors), expected["centre_error_max"], 0.1)
    assert near(np.mean([error.rotation for error in errors]), expected["rotation_error_deg_mean"], 0.1)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"cameras.txt", "images.txt", "points3D.txt"}


def test_localisation_has_the_expected_values(points, tmp_path):
    data, expected = points[0], points[1]["localisation"]
    names = [str(name) for name in data["names"]]
    truth = dict(zip(names, data["world_to_camera"][:, :3], strict=True))
    queries = expected["queries"]
    path = filled(tmp_path / "a.db", data, [names.index(name) for name in queries])
    colmap.verify(path, 1)
    (tmp_path / "out").mkdir()
    known = {name: pose for name, pose in truth.items() if name not in queries}
    model, placed = colmap.triangulate(path, known, queries, tmp_path / "out")
    want = expected["triangulated"]
    assert near(model.points, want["points3D"], 0.02)
    assert near(model.observations, want["observations"], 0.02)
    assert near(model.reprojection_error, want["mean_reproj_error"], 0.1)
    assert all(np.allclose(image.pose, truth[name], atol=1e-6) for name, image in model.images.items())
    for name in queries:
        error, want = pose_errors.pose_error(placed[name].pose, truth[name]), expected["registered"][name]
        assert near(placed[name].observations, want["points"], 0.02)
        assert near(error.centre, want["centre_error"], 0.1)
        assert near(error.rotation, want["rotation_error_deg"], 0.1)


def test_nothing_to_map_is_an_empty_model(tmp_path, capfd):
    pytest.importorskip("pycolmap")
    rng = np.random.default_rng(0)
    with databases.created(tmp_path / "a.db") as database:
        for name in "abcd":
            database.write_keypoints(database.add(name, CAMERA), rng.uniform(0, 48, (100, 2)))
        database.write_matches(1, 2, np.column_stack([np.arange(100)] * 2))
    colmap.verify(tmp_path / "a.db", 1)
    (tmp_path / "out").mkdir()
    assert colmap.reconstruct(tmp_path / "a.db", tmp_path / "out", False) == colmap.Model()
    poses = {name: np.eye(3, 4) for name in "abc"}
    model, placed = colmap.triangulate(tmp_path / "a.db", poses, ["d"], tmp_path / "out")
    assert (model.points, placed) == (0, {"d": None})
    assert capfd.readouterr() == ("", "")


def test_compression_after_colmap_does_not_corrupt_memory():
    pytest.importorskip("pycolmap")
    script = (
        "import io\nimport numpy as np\nfrom lf.benchmarks.sfm import colmap\n"
        "import sys\nassert 'pycolmap' not in sys.modules\nassert colmap.version()\n"
        "for _ in range(20): np.savez_compressed(io.BytesIO(), a=np.random.default_rng(0).random(100_000))\n"
        "import cv2\ncv2.imencode('.png', np.zeros((400, 400), np.uint8))\nprint('whole')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_one_file_imports_pycolmap():
    importing = [path.name for path in (Path(colmap.__file__).parents[2]).rglob("*.py") if _imports(path, "pycolmap")]
    assert importing == ["colmap.py"]
    text = Path(colmap.__file__).read_text()
    assert 0 < text.index("import zlib") < text.index("import pycolmap")


def _imports(path, package):
    return any(
        line.strip().startswith((f"import {package}", f"from {package}")) for line in path.read_text().splitlines()
    )


def test_without_pycolmap_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(Unavailable, match=r'reconstruction needs the package pycolmap; .*"lf-keypoints\[sfm\]"'):
        colmap.version()


def test_what_colmap_raises_is_one_line(tmp_path):
    pytest.importorskip("pycolmap")
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0 and no more")
    with pytest.raises(LfError, match=r"a\.db: .*delete it and ") as caught:
        colmap.verify(tmp_path / "a.db", 1)
    assert "\n" not in str(caught.value)


# --- databases


@pytest.fixture
def two(tmp_path):
    """A database with two images of four and three keypoints."""
    with databases.created(tmp_path / "a.db") as database:
        database.write_keypoints(database.add("a.png", CAMERA), np.arange(8).reshape(4, 2))
        database.write_keypoints(database.add("b.png", CAMERA), np.arange(6).reshape(3, 2))
    return tmp_path / "a.db"


def test_half_a_pixel_is_added_and_taken_away(two):
    with databases.opened(two) as database:
        assert database.ids() == {"a.png": 1, "b.png": 2}
        assert database.cameras() == {"a.png": CAMERA, "b.png": CAMERA}
        assert database.keypoints(1).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
        ((rows, columns, data),) = database.rows("SELECT rows, cols, data FROM keypoints WHERE image_id = 2")
    assert (rows, columns) == (3, 2)
    assert np.frombuffer(data, "<f4").tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_the_principal_point_gets_the_half_pixel():
    k = np.array([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
    assert cameras.pinhole((640, 480), k).params == (500, 510, 320, 240)
    assert cameras.guessed((640, 480)) == cameras.Camera("SIMPLE_RADIAL", 640, 480, (768, 320, 240, 0), known=False)


def reopened(path):
    return databases.Database(path, sqlite3.connect(path))


@pytest.mark.parametrize("matches", [[[0, 3]], [[4, 0]], [[-1, 0]]])
def test_a_match_without_its_keypoint_is_refused(two, matches):
    database = reopened(two)
    with pytest.raises(
        BadInput, match=r"matches of images 1 and 2 name keypoint .*, the images have \[4, 3\]; make the"
    ):
        database.write_matches(1, 2, np.array(matches))
    database.sql.close()


def test_matches_are_ordered_by_the_ids(two):
    database = reopened(two)
    database.write_matches(2, 1, np.array([[2, 3], [0, 1]]))
    ((number, data),) = database.rows("SELECT pair_id, data FROM matches")
    assert number == databases.pair_id(1, 2) == databases.PAIRS + 2
    assert np.frombuffer(data, "<u4").tolist() == [3, 2, 1, 0]
    database.sql.close()


def test_nothing_is_written_twice(two):
    database = reopened(two)
    database.write_matches(1, 2, np.zeros((0, 2)))
    for write, what in (
        (lambda: database.add("a.png", CAMERA), "image a.png"),
        (lambda: database.write_keypoints(1, np.zeros((0, 2))), "keypoints of image 1"),
        (lambda: database.write_matches(2, 1, np.zeros((0, 2))), "matches of images 2 and 1"),
    ):
        with pytest.raises(UsageError, match=f"has {what} already; choose another place"):
            write()
    database.sql.close()


@pytest.mark.parametrize(
    ("model", "params", "text"),
    [
        ("PINHOLE", (1.0,) * 3, "PINHOLE of 64x48 with 3 parameters; expected 4 finite parameters"),
        ("PINHOLE", (1.0, 1.0, 1.0, np.nan), "expected 4 finite parameters"),
        ("FISHY", (), "camera FISHY of 64x48 with 0 parameters; expected a model of SIMPLE_PINHOLE, PINHOLE"),
    ],
)
def test_a_camera_is_checked(model, params, text):
    with pytest.raises(BadInput, match=text):
        cameras.Camera(model, 64, 48, params)


DAMAGED = {
    "text": (b"hello", "it is not an SQLite file"),
    "header": (b"SQLite format 3\0" + bytes(200), "cannot be read as a COLMAP database"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_corrupt_database_is_one_line(case, tmp_path):
    data, text = DAMAGED[case]
    (tmp_path / "database.db").write_bytes(data)
    for read in (databases.check, lambda path: LAYOUTS["colmap"].open(path).read("a", (0, 0))):
        with pytest.raises(BadInput, match=text) as caught:
            read(tmp_path / "database.db")
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith("; delete it and make it again")


def test_a_database_of_another_tool_is_named(tmp_path):
    with sqlite3.connect(tmp_path / "database.db") as connection:
        connection.execute("CREATE TABLE cameras (a INTEGER)")
    connection.close()
    with pytest.raises(BadInput, match="it has no table images, keypoints, matches, two_view_geometries"):
        databases.check(tmp_path / "database.db")
    with pytest.raises(BadInput, match="no such file; expected a COLMAP database"):
        databases.check(tmp_path / "none.db")


def test_a_database_cut_short_is_damaged(tmp_path):
    path = tmp_path / "a.db"
    with databases.created(path) as database:
        database.write_keypoints(database.add("a.png", CAMERA), np.zeros((5000, 2)))
    path.write_bytes(path.read_bytes()[:-8192])
    with pytest.raises(BadInput, match="cannot be read as a COLMAP database"):
        databases.check(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("rows = 5", r"keypoints of image 1: 5 x 2 values in 32 bytes; the database is damaged"),
        ("rows = -4, cols = -2", "-4 x -2 values in 32 bytes"),
        ("data = NULL", "4 x 2 values in 0 bytes"),
        ("cols = 1, rows = 8", "image 1 has no keypoints; expected rows with x and y"),
        (f"data = x'{np.full(8, np.nan, '<f4').tobytes().hex()}'", "a value is not finite"),
    ],
)
def test_damaged_keypoints_are_refused(two, change, text):
    with sqlite3.connect(two) as connection:
        connection.execute(f"UPDATE keypoints SET {change} WHERE image_id = 1")
    connection.close()
    with databases.opened(two) as database, pytest.raises(BadInput, match=text):
        database.keypoints(1)


def test_a_full_disk_and_a_locked_database_are_told_apart(tmp_path):
    full = sqlite3.OperationalError("database or disk is full")
    assert isinstance(databases.unwritable(tmp_path, full), DiskFull)
    locked = databases.unwritable(tmp_path, sqlite3.OperationalError("database is locked"))
    assert isinstance(locked, UsageError)
    assert str(locked).endswith(": another run is writing it; wait until it ends, then type the command again")


# --- the layout


def test_keypoints_of_a_database_of_colmap_are_read(two):
    found = LAYOUTS["colmap"].open(two).read("b", (0, 0))
    assert found.keypoints.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (found.size, found.scored, found.descriptors.shape) == ((64, 48), False, (3, 0))
    database = reopened(two)
    database.sql.execute("INSERT INTO descriptors VALUES (2, 3, 128, ?)", (bytes(range(128)) * 3,))
    database.sql.commit()
    database.sql.close()
    assert LAYOUTS["colmap"].open(two).read("b.png", (0, 0)).descriptors[1].tolist() == [*range(128)]


def test_features_are_not_added_to_a_database_of_another_tool(two, tmp_path):
    found = LAYOUTS["colmap"].open(two).read("b", (0, 0))
    before = two.read_bytes()
    with pytest.raises(UsageError, match="lf did not make this database"), LAYOUTS["colmap"].open(two) as store:
        store.write("c.png", found)
    assert two.read_bytes() == before


def test_two_runs_do_not_write_one_database(two, tmp_path):
    found = LAYOUTS["colmap"].open(two).read("b", (0, 0))
    with LAYOUTS["colmap"].open(tmp_path / "new.db") as first:
        first.write("a.png", found)
        with pytest.raises(UsageError, match=r"new\.db.*: another run is writing it; wait until it ends"):
            LAYOUTS["colmap"].open(tmp_path / "new.db").write("b.png", found)
        with pytest.raises(UsageError, match=r"new\.db\.part: another run is writing it; wait until it ends"):
            LAYOUTS["colmap"].open(tmp_path / "new.db").__enter__()
    assert LAYOUTS["colmap"].open(tmp_path / "new.db").read("a", (0, 0)).keypoints.tolist() == found.keypoints.tolist()


def test_colmap_opens_a_database_of_the_layout(two, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    with LAYOUTS["colmap"].open(tmp_path / "out") as store:
        store.write("a.png", LAYOUTS["colmap"].open(two).read("b", (0, 0)))
    with pycolmap.Database.open(str(tmp_path / "out" / layout.NAME)) as database:
        (image,) = database.read_all_images()
        points = database.read_keypoints(image.image_id)
    assert image.name == "a.png"
    assert points[:, :2].tolist() == [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]


def test_keypoints_without_descriptors_are_not_scored(two, tmp_path, lf):
    cv2 = pytest.importorskip("cv2")
    sequence = tmp_path / "data" / "v_a"
    sequence.mkdir(parents=True)
    for index in (1, 2):
        cv2.imwrite(str(sequence / f"{index}.png"), np.full((48, 64), 100 + index, np.uint8))
    np.savetxt(sequence / "H_1_2", np.eye(3))
    with databases.created(tmp_path / "scored.db") as database:
        for index in (1, 2):
            database.write_keypoints(database.add(f"v_a/{index}.png", CAMERA), np.arange(8).reshape(4, 2))
    words = ("--data", str(tmp_path / "data"), "--layout", "colmap", "--protocol", "mma")
    code, _, error = lf("score", str(tmp_path / "scored.db"), *words)
    assert code == 5
    assert error.endswith(
        "v_a 1_2: keypoints without descriptors, which no protocol can match; store the descriptors, too\n"
    )


# --- errors of poses


def turned(degrees):
    a = np.radians(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.5, 90.0, 179.0])
def test_a_pose_error_is_exact_at_every_angle(angle):
    truth = np.column_stack([np.eye(3), [1.0, 2, 3]])
    rotation = turned(angle)
    found = np.column_stack([rotation, -rotation @ (pose_errors.centre_of(truth) + np.array([0.003, 0, 0.004]))])
    error = pose_errors.pose_error(found, truth)
    assert error.centre == pytest.approx(0.005)
    assert error.rotation == pytest.approx(angle, rel=1e-6, abs=1e-12)


def moved_world(count, seed=0):
    """Poses, and the same in a world that is turned, scaled by 3 and shifted."""
    rng = np.random.default_rng(seed)
    truth = {f"{i}": np.column_stack([turned(10.0 * i), rng.normal(size=3)]) for i in range(count)}
    away = pose_errors.Similarity(3.0, turned(40), np.array([1.0, -2, 5]))
    return {name: away.pose(pose) for name, pose in truth.items()}, truth


def test_a_reconstruction_in_another_world_has_no_error():
    errors = pose_errors.aligned_errors(*moved_world(6))
    assert max(map(max, errors.values())) < 1e-9


def test_a_camera_that_is_grossly_wrong_does_not_move_the_others():
    found, truth = moved_world(9)
    found["4"] = np.column_stack([np.eye(3), [90.0, 0, 0]])
    errors = pose_errors.aligned_errors(found, truth)
    assert errors["4"].centre > 10
    assert max(max(error) for name, error in errors.items() if name != "4") < 1e-9


@pytest.mark.parametrize("count", [0, 2, 5])
def test_no_alignment_without_three_cameras_apart(count):
    line = {f"{i}": np.column_stack([np.eye(3), [i, 0.0, 0]]) for i in range(count)}
    assert pose_errors.aligned_errors(line, line) == {}
