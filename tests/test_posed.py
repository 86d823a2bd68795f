"""Posed data: cameras, relative poses, the forms of folders, and drawn scenes with exact depth and visibility."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest

from lf.core import BadInput, UsageError
from lf.data import cameras, dataset_digest, open_dataset, posed
from lf.data.posed import correspond, drawn, planes

SIZE = drawn.SIZE


@pytest.fixture(scope="module")
def scene():
    return drawn.synth12()


def grid(step=40):
    y, x = np.mgrid[20 : SIZE[0] : step, 20 : SIZE[1] : step]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def test_points_lie_on_the_lines_of_the_fundamental_matrix(scene):
    for i, j in ((0, 11), (5, 6), (9, 2)):
        pair = posed.PosedPair(scene.views[i], scene.views[j])
        found, seen = correspond.correspond(grid(), pair.first, pair.second, SIZE)
        assert seen.sum() > 50
        assert cameras.epipolar_distance(grid()[seen], found[seen], pair.fundamental).max() < 1e-6
        back = pair.pose.reversed().fundamental
        assert cameras.epipolar_distance(found[seen], grid()[seen], back).max() < 1e-6


def test_a_seen_point_comes_back_and_a_hidden_one_is_hidden(scene):
    first, second = scene.views[0], scene.views[11]
    found, seen = correspond.correspond(grid(), first, second, SIZE)
    back, again = correspond.correspond(found[seen], second, first, SIZE)
    assert again.all()
    assert np.abs(back - grid()[seen]).max() < 1e-6
    _, far = correspond.project(grid(), first.depth(grid()), first, second)
    inside = ((found >= 0) & (found < SIZE[::-1])).all(axis=1) & (first.depth(grid()) > 0)
    hidden = inside & ~seen
    assert hidden.any()
    assert (second.depth(found[hidden]) < far[hidden]).all(), "something is in front"


def test_the_picture_shows_what_the_depth_says(scene):
    first, second = (scene.views[k].image.load().astype(float).mean(-1) for k in (4, 6))
    points = grid(4)
    found, seen = correspond.correspond(points, scene.views[4], scene.views[6], SIZE)
    here = first[points[:, 1].astype(int), points[:, 0].astype(int)]
    there = cv2.remap(second.astype(np.float32), *found.T.astype(np.float32)[:, :, None], cv2.INTER_LINEAR)[:, 0]
    assert np.corrcoef(here[seen], there[seen])[0, 1] > 0.95
    assert np.corrcoef(here[seen], np.roll(there[seen], 1))[0, 1] < 0.9


def test_synth12_has_the_published_cameras_and_planes(scene, shared):
    fixture = np.load(shared / "parity" / "sfm" / "sfm_synth12.npz")
    for view, pose, K in zip(scene.views, fixture["world_to_camera"], fixture["K"], strict=True):
        assert np.abs(view.rotation - pose[:3, :3]).max() < 1e-7
        assert np.abs(view.translation - pose[:3, 3]).max() < 1e-7
        assert np.array_equal(view.K, K)
    index = fixture["matches_0_5"]
    points, matched = fixture["keypoints_0"][index[:, 0]], fixture["keypoints_5"][index[:, 1]]
    found, seen = correspond.correspond(points, scene.views[0], scene.views[5], SIZE)
    assert seen.mean() > 0.98
    assert np.median(np.linalg.norm(found - matched, axis=1)) < 0.3, "its SIFT matches agree with the planes"
    assert json.loads((shared / "parity" / "sfm" / "sfm_expected.json").read_text())["synth12"]


def test_drawn_scenes_repeat_and_differ():
    def digests(scenes):
        return [view.image.digest for scene in scenes for view in scene.views]

    first = digests(drawn.scenes(3))
    assert first == digests(drawn.scenes(3))
    assert len({*first, *digests([drawn.training(1), drawn.training(2)]), *digests(drawn.scenes(2, 1))[12:]}) == 72
    assert [scene.name for scene in drawn.scenes(3)] == ["synth12", "scene0001", "scene0002"]
    small = drawn.training(1, (120, 160)).views[3]
    assert small.image.load().shape == (120, 160, 3)
    assert np.array_equal(small.image.load(), drawn.training(1, (120, 160)).views[3].image.load())
    assert correspond.depth_map(small, (120, 160)).shape == (120, 160)


def test_drawn_scenes_are_a_dataset():
    pairs = open_dataset("scenes:2")
    assert {pair.kind for pair in pairs} == {"pose"}
    assert dataset_digest(pairs) == dataset_digest(open_dataset("scenes:2"))
    assert len(open_dataset("scenes:9", limit_sequences=1)) == len(drawn.synth12().listed)
    with pytest.raises(UsageError, match=r"'scenes:0' needs a number of scenes, such as scenes:5"):
        open_dataset("scenes:0")
    with pytest.raises(UsageError, match=r"dataset 'warps:x' has no camera poses; type a dataset with camera poses"):
        posed.scenes("warps:x")


def test_drawn_scenes_have_no_folder_in_a_sweep(tmp_path):
    from lf.studies.sweep_plan import located

    assert located("scenes:3", tmp_path) == ("scenes:3", None)
    assert located("posed:set", tmp_path) == (f"posed:{tmp_path / 'set'}", tmp_path / "set")


def test_training_scenes_have_a_limit():
    with pytest.raises(UsageError, match=r"training scenes have numbers in \[0, \d+\), got -1"):
        drawn.training(-1)


def test_a_ray_that_meets_nothing_has_no_depth():
    onto = planes.inverses(drawn._columns(drawn.RECTANGLES), drawn.K, np.eye(3), np.zeros(3))
    depth, index = planes.cast(np.array([[319.5, 100.0], [-3000.0, 0.0]]), onto)
    assert depth[1] == 0
    assert index[1] == -1
    assert depth[0] == pytest.approx(9)
    assert index[0] == 0


@pytest.mark.parametrize("degrees", [0.001, 1.0, 90.0, 179.9])
def test_angles_of_rotations_and_directions(degrees):
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    assert cameras.rotation_angle(np.eye(3), turn) == pytest.approx(degrees, abs=1e-6)
    assert cameras.direction_angle(np.array([3, 0, 0]), 5 * turn[:, 0]) == pytest.approx(degrees, abs=1e-6)


def test_numbers_that_are_no_camera_are_refused():
    with pytest.raises(BadInput, match=r"here: the camera matrix is \[0 0 0 0 5 0 0 0 1\]; expected \[\[fx, s, cx\]"):
        cameras.checked_camera(np.diag([0.0, 5, 1]), "here")
    with pytest.raises(BadInput, match=r"here: .* is no rotation; expected orthonormal rows with determinant 1"):
        cameras.checked_rotation(np.diag([1.0, 1, 1.1]), "here")
    with pytest.raises(BadInput, match=r"here: \[1 0 0 0 1 0 0 0 -1\] is a reflection; expected a rotation"):
        cameras.checked_rotation(np.diag([1.0, 1, -1]), "here")
    with pytest.raises(BadInput, match=r"here: the translation is \[nan 0 0\]; expected 3 finite numbers"):
        cameras.checked_translation(np.array([np.nan, 0, 0]), "here")


# --- folders


@pytest.fixture(scope="module")
def views():
    """Four views of a drawn scene, and their pixels."""
    found = drawn.held_out(2, (96, 128)).views[3:7]
    return [(view, view.image.load()) for view in found]


def save(folder, views):
    folder.mkdir(parents=True, exist_ok=True)
    for view, image in views:
        cv2.imwrite(str(folder / view.name), image[..., ::-1])


def line(*parts):
    return " ".join(part if isinstance(part, str) else " ".join(f"{n:.12g}" for n in np.ravel(part)) for part in parts)


def world(view):
    return np.column_stack([view.rotation, view.translation])


def square(pose):
    return np.vstack([pose, [0, 0, 0, 1]])


def strecha(root, views):
    save(root / "images", views)
    (root / "cameras.txt").write_text("\n".join(line(v.name, v.K, square(world(v))) for v, _ in views))


def caps(root, views):
    save(root / "images", views)
    lines = [
        line(v.name, image.shape[1::-1], v.K[0, 0], v.K[1, 1], v.K[:2, 2], v.rotation, v.translation)
        for v, image in views
    ]
    (root / "img_cam.txt").write_text("# name w h fx fy cx cy R t\n" + "\n".join(lines))


def kitti(root, views):
    save(root, views)
    (root / "cam.txt").write_text(line(views[0][0].K))
    (root / "poses.txt").write_text("\n".join(line(np.column_stack([v.rotation.T, v.centre])) for v, _ in views))


def quaternion(R):
    w = np.sqrt(1 + np.trace(R)) / 2
    return np.array([w, *(np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / (4 * w))])


def colmap_text(root, views, model="PINHOLE", more=""):
    save(root / "images", views)
    (root / "sparse/0").mkdir(parents=True)
    view, image = views[0]
    size = image.shape[1::-1]
    camera = line("7", model, size, view.K[0, 0], view.K[1, 1], view.K[:2, 2] + 0.5) + more
    (root / "sparse/0/cameras.txt").write_text(f"# cameras\n{camera}\n")
    lines = [
        line(str(n), quaternion(v.rotation), v.translation, "7", v.name) + "\n" for n, (v, _) in enumerate(views, 1)
    ]
    (root / "sparse/0/images.txt").write_text("# images\n" + "\n".join(lines) + "\n")


def colmap_binary(root, views):
    save(root, views)
    (root / "sparse").mkdir()
    view, image = views[0]
    height, width = image.shape[:2]
    camera = struct.pack("<QiiQQ4d", 1, 7, 1, width, height, view.K[0, 0], view.K[1, 1], *(view.K[:2, 2] + 0.5))
    (root / "sparse/cameras.bin").write_bytes(camera)
    data = struct.pack("<Q", len(views))
    for n, (v, _) in enumerate(views, 1):
        data += struct.pack("<i7di", n, *quaternion(v.rotation), *v.translation, 7) + v.name.encode() + b"\0"
        data += struct.pack("<Qddqddq", 2, 1, 2, -1, 3, 4, 5)
    (root / "sparse/images.bin").write_bytes(data)


FORMS = {"strecha": strecha, "caps": caps, "kitti": kitti, "colmap-text": colmap_text, "colmap-binary": colmap_binary}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_cameras_and_images_back(form, views, tmp_path):
    FORMS[form](tmp_path / "set", views)
    (scene,) = posed.scenes(f"posed:{tmp_path / 'set'}")
    assert scene.name == "set"
    assert len(scene.listed) == 6, "without a list, all pairs"
    for found, (view, image) in zip(scene.views, views, strict=True):
        assert found.name == view.name
        assert found.image.key in (f"images/{view.name[:4]}", view.name[:4]), "what lf extract calls its features"
        assert np.array_equal(found.image.load(), image)
        for name in ("K", "rotation", "translation"):
            assert np.allclose(getattr(found, name), getattr(view, name), atol=1e-9), name
    pair, truth = scene.pairs[0], posed.PosedPair(views[0][0], views[1][0])
    assert np.allclose(pair.fundamental, truth.fundamental, atol=1e-9)


def test_scenes_below_a_folder_are_found_and_the_rest_is_told(views, tmp_path, capsys):
    caps(tmp_path / "0001/dense0/aligned", views)
    (tmp_path / "0001/dense0/aligned/pairs.txt").write_text("0003.png 0005.png\n0006.png 0004.png\n")
    kitti(tmp_path / "drive/frames", views)
    (tmp_path / "drive/pairs_with_gt.txt").write_text("frames/0004.png frames/0003.png 0 0\n")
    (tmp_path / "notes").mkdir()
    first, second = posed.scenes(f"posed:{tmp_path}")
    assert [scene.name for scene in (first, second)] == ["0001/dense0/aligned", "drive/frames"]
    assert first.listed == ((0, 2), (3, 1))
    assert second.listed == ((1, 0),)
    assert "notes without camera matrices and poses, left out" in capsys.readouterr().err
    pairs = open_dataset(f"posed:{tmp_path}")
    assert [(pair.sequence, pair.name) for pair in pairs][-1] == ("drive/frames", "0004.png_0003.png")
    assert len(open_dataset(f"posed:{tmp_path}", limit_sequences=1)) == 2
    assert len(open_dataset(f"posed:{tmp_path}", exclude=("drive/frames",))) == 2


def test_images_without_a_line_are_named(views, tmp_path, capsys):
    strecha(tmp_path, views)
    open_dataset(f"posed:{tmp_path}")
    assert "left out" not in capsys.readouterr().err
    edit(tmp_path / "cameras.txt", line(views[-1][0].name), "#")
    found = open_dataset(f"posed:{tmp_path}")
    assert len(found) == 3
    name = views[-1][0].name
    assert f"images without a camera and a pose, left out: 1, such as {name}" in capsys.readouterr().err


def test_depth_beside_images_is_read(views, tmp_path):
    kitti(tmp_path / "frames", views)
    (tmp_path / "frames_depth").mkdir()
    depth = np.zeros((96, 128), np.uint16)
    depth[10, 20] = 5 * 256 + 64
    for view, _ in views:
        cv2.imwrite(str(tmp_path / "frames_depth" / view.name), depth)
    view = posed.scenes(f"posed:{tmp_path}")[0].views[0]
    assert view.depth(np.array([[20.4, 9.6], [20, 11], [-9, 5]])).tolist() == [5.25, 0, 0]
    assert correspond.depth_map(view, (96, 128)).sum() == 5.25
    cv2.imwrite(str(tmp_path / "frames_depth/0004.png"), np.zeros((96, 128), np.uint8))
    with pytest.raises(BadInput, match=r"0004.png: no depth map; expected a grey PNG of 16 bits, metres x 256"):
        correspond.depth_map(posed.scenes(f"posed:{tmp_path}")[0].views[1], (96, 128))


def test_a_view_without_depth_says_so(views, tmp_path):
    strecha(tmp_path, views)
    first, second = posed.scenes(f"posed:{tmp_path}")[0].views[:2]
    with pytest.raises(
        UsageError, match=r"images/0003 has no depth; take drawn scenes \(scenes:5\) or a set with depth"
    ):
        correspond.correspond(grid(), first, second, SIZE)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_damaged_cameras_are_refused(views, tmp_path):
    def refused(text):
        with pytest.raises(BadInput, match=text) as caught:
            posed.scenes(f"posed:{tmp_path}")
        assert "\n" not in str(caught.value)

    def fresh():
        strecha(tmp_path, views)
        return tmp_path / "cameras.txt"

    edit(fresh(), "0003.png", "0003.png 1")
    refused(r"cameras.txt:1: 26 numbers; expected 25: K \(9\) and world to camera \(16\)")
    edit(fresh(), "0003.png", "0003.png 0")
    edit(tmp_path / "cameras.txt", " 0 0 0 1\n", " 0 0 0\n")
    refused(r"cameras.txt:1: the camera matrix is \[0 112 0 .*\]; expected \[\[fx, s, cx\]")
    edit(fresh(), "0004.png", "0009.png")
    refused(r"cameras.txt:2: image 0009.png is missing; expected it in .*images or ")
    edit(fresh(), "0004.png", "../0009.png")
    refused(r"cameras.txt:2: image ../0009.png is outside of the folder; expected a path below it")
    edit(fresh(), "0004.png", "0003.png")
    refused(r"cameras.txt: 0003.png is there twice; expected one line per image")
    path = fresh()
    rows = path.read_text().split("\n")
    row = rows[1].split()
    path.write_text("\n".join([rows[0], " ".join([*row[:10], "2", *row[11:]]), *rows[2:]]))
    refused(r"cameras.txt:2: \[2 .*\] is no rotation; expected orthonormal rows with determinant 1")
    path.write_text("\n".join([rows[0], " ".join([*row[:10], "nan", *row[11:]]), *rows[2:]]))
    refused(r"cameras.txt:2: a value is not finite; expected 25 numbers")
    path.write_text("\n".join([rows[0], " ".join([*row[:10], "x", *row[11:]]), *rows[2:]]))
    refused(r"cameras.txt:2: could not convert string to float: 'x'; expected 25 numbers")
    path.write_text(rows[0])
    refused(r": 1 image with a camera and a pose; expected two or more")
    path.write_bytes(b"\xff\xfe\xff")
    refused(r"cameras.txt: no UTF-8 text")


def test_damaged_lists_are_refused(views, tmp_path):
    strecha(tmp_path, views)
    for text, wrong in {
        "0003.png\n": r"pairs.txt:1: one word; expected two image names",
        "0003.png 0008.png\n": r"pairs.txt:1: 0008.png has no camera in this scene; expected images of ",
        "0003.png 0003.png\n": r"pairs.txt:1: pairs 0003.png with itself; delete the line",
        "# none\n": r"pairs.txt: holds no pair; write two image names per line, or delete it for all pairs",
    }.items():
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(BadInput, match=wrong):
            posed.scenes(f"posed:{tmp_path}")


def test_kitti_needs_intrinsics_and_a_pose_per_image(views, tmp_path):
    kitti(tmp_path, views)
    (tmp_path / "0006.png").unlink()
    with pytest.raises(BadInput, match=r": 3 images and 4 poses; expected one line of poses.txt per image"):
        posed.scenes(f"posed:{tmp_path}")
    (tmp_path / "cam.txt").unlink()
    with pytest.raises(
        BadInput, match=r": poses.txt without intrinsics; expected cam.txt with K, 3 lines of 3 numbers"
    ):
        posed.scenes(f"posed:{tmp_path}")


def test_damaged_colmap_models_are_refused(views, tmp_path):
    def refused(form, text, *more):
        root = tmp_path / f"{len([*tmp_path.iterdir()])}"
        root.mkdir()
        form(root, views, *more)
        return root, pytest.raises(BadInput, match=text)

    root, expected = refused(
        colmap_text, r"camera 7: OPENCV with lens distortion; expected none, undistort", "OPENCV", " 0.1 0 0 0"
    )
    with expected:
        posed.scenes(f"posed:{root}")
    root, expected = refused(
        colmap_text, r"cameras.txt:2: camera model FISHEYE; expected one of SIMPLE_PINHOLE", "FISHEYE"
    )
    with expected:
        posed.scenes(f"posed:{root}")
    root, expected = refused(colmap_text, r"0003.png: has no intrinsics, camera 7 is not in cameras.txt")
    edit(root / "sparse/0/cameras.txt", "7 PINHOLE", "8 PINHOLE")
    with expected:
        posed.scenes(f"posed:{root}")
    root, expected = refused(
        colmap_text, r"images.txt: 0003.png: a quaternion of length .* is no rotation; expected len"
    )
    edit(root / "sparse/0/images.txt", "\n1 ", "\n1 9")
    with expected:
        posed.scenes(f"posed:{root}")
    root, expected = refused(colmap_binary, r"images.bin: cut short at byte \d+ of 100; expected a COLMAP model")
    (root / "sparse/images.bin").write_bytes((root / "sparse/images.bin").read_bytes()[:100])
    with expected:
        posed.scenes(f"posed:{root}")
    without = tmp_path / "distortion-free"
    without.mkdir()
    colmap_text(without, views, "OPENCV", " 0 0 0 0")
    assert len(posed.scenes(f"posed:{without}")[0].views) == 4


def test_folders_without_cameras_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no: no such folder; expected a folder with cameras.txt"):
        open_dataset(f"posed:{tmp_path / 'no'}")
    with pytest.raises(BadInput, match=r": holds no camera matrices and poses; expected cameras.txt \(name, K, world"):
        open_dataset(f"posed:{tmp_path}")


def test_cameras_at_one_place_are_no_pair(views, tmp_path):
    (first, image), *_ = views
    strecha(tmp_path, [(first, image), (replace(first, name="other.png"), image)])
    with pytest.raises(
        BadInput, match=r"0003.png_other.png: has no baseline; expected two camera centres, drop the pair"
    ):
        open_dataset(f"posed:{tmp_path}")


# --- lists of pairs


def listed(root, views, form):
    """The pairs (0, 1), (2, 3), (0, 2) as a list of pairs, in folders of the published layouts."""
    scannet = form == "scannet"
    save(root / ("scene0707_01/color" if scannet else "images/0015/images"), views)
    lines = []
    for i, j in ((0, 1), (2, 3), (0, 2)):
        first, second = views[i][0], views[j][0]
        pose = posed.PosedPair(first, second).pose
        names = [f"0015/images/{v.name}" for v in (first, second)]
        moved = square(np.column_stack([pose.rotation, pose.translation]))
        codes = ["0 0"] if form == "superglue" else []
        after = (pose.rotation, pose.translation) if form == "glue-factory" else (moved,)
        lines.append(line(*names, *codes, first.K, second.K, *after))
    if scannet:
        (root / "scene0707_01/pose").mkdir()
        for number, (view, image) in enumerate(views):
            cv2.imwrite(str(root / f"scene0707_01/color/{number * 15}.jpg"), image[..., ::-1])
            pose = square(np.column_stack([view.rotation.T, view.centre]))
            text = "\n".join(line(row) for row in pose)
            (root / f"scene0707_01/pose/{number * 15}.txt").write_text(text)
        np.savez(root / "test.npz", name=np.array([[707, 1, 0, 15], [707, 1, 30, 45], [707, 1, 0, 30]]))
        scale = np.array([[5, 0, 2], [0, 5, 2], [0, 0, 1]])  # of 128x96 to 640x480, pixel areas aligned
        np.savez(root / "intrinsics.npz", scene0707_01=scale @ views[0][0].K)
    else:
        name = "test_pairs_with_gt.txt" if form == "superglue" else "pairs_calibrated.txt"
        (root / name).write_text("\n".join(lines))


@pytest.mark.parametrize("form", ["superglue", "glue-factory", "matrix", "scannet"])
def test_lists_of_pairs_carry_their_truth(form, views, tmp_path):
    listed(tmp_path, views, form)
    pairs = open_dataset(f"posed:{tmp_path}")
    assert [pair.kind for pair in pairs] == ["pose"] * 3
    assert [pair.first.key for pair in pairs][:2] == [pairs[0].first.key] * 2, "pairs of one first image stand together"
    assert {pair.sequence for pair in pairs} == {"scene0707_01" if form == "scannet" else "0015"}
    for pair, (i, j) in zip(pairs, ((0, 1), (0, 2), (2, 3)), strict=True):
        truth = posed.PosedPair(views[i][0], views[j][0]).pose
        for name in ("K0", "K1", "rotation", "translation"):
            assert np.allclose(getattr(pair.pose, name), getattr(truth, name), atol=1e-6), name
        assert pair.first.load().shape == (96, 128, 3)
    with pytest.raises(BadInput, match=r": holds no camera matrices and poses|of single images, only pairs"):
        posed.scenes(f"posed:{tmp_path}")
    if form != "scannet":
        assert len(open_dataset(f"posed:{next(tmp_path.glob('*.txt'))}")) == 3


def test_damaged_lists_of_pairs_are_refused(views, tmp_path):
    def refused(text):
        with pytest.raises(BadInput, match=text):
            open_dataset(f"posed:{tmp_path}")

    path = tmp_path / "test_pairs_with_gt.txt"
    listed(tmp_path, views, "superglue")
    edit(path, " 0 0 ", " 0 1 ")
    refused(r"test_pairs_with_gt.txt:1: rotation code 1; expected 0, turn the image and its camera first")
    listed(tmp_path, views, "superglue")
    edit(path, "0003.png", "0001.png")
    refused(r"test_pairs_with_gt.txt:1: image 0015/images/0001.png is missing; expected it in ")
    edit(path, "0015/images/0001.png", "/0001.png")
    refused(r"test_pairs_with_gt.txt:1: image /0001.png is outside of the folder; expected a path below it")
    edit(path, " 0 0 ", " 0 0 0 ")
    refused(r"test_pairs_with_gt.txt:1: 39 words; expected two paths, K0 \(9\), K1 \(9\), R \(9\) and t \(3\) or T")
    listed(tmp_path, views, "superglue")
    row = path.read_text().split("\n")[0].split()
    path.write_text(" ".join([*row[:25], "0", *row[26:29], "0", *row[30:33], "0", *row[34:]]))
    refused(r"test_pairs_with_gt.txt:1: has no baseline; expected two camera centres, drop the pair")
    path.write_text("# nothing\n")
    refused(r"test_pairs_with_gt.txt: holds no pair; expected lines of two paths")
    path.unlink()
    listed(tmp_path, views, "scannet")
    np.savez(tmp_path / "intrinsics.npz", scene0000_00=np.eye(3))
    refused(r"intrinsics.npz: holds no scene0707_01 but scene0000_00; expected a camera matrix \(3, 3\) of each scene")
    np.savez(tmp_path / "test.npz", name=np.zeros((2, 3)))
    refused(r"test.npz: name of shape \(2, 3\); expected \(N, 4\): scene, part, image, image")


def test_the_shared_sets_agree_with_their_lists(shared):
    """Poses of `cameras.txt` and `poses.txt` against the relative poses that the lists hold."""
    root = shared / "data" / "posed_pairs"
    for name, count in (("strecha_fountain-p11", 27), ("strecha_entry-p10", 24), ("kitti_drive0001", 100)):
        pairs = sorted(posed.scenes(f"posed:{root / name}")[0].pairs, key=lambda pair: pair.name)
        lines = [row.split() for row in (root / name / "pairs_with_gt.txt").read_text().splitlines() if row[0] != "#"]
        lines.sort(key=lambda row: "_".join(word.rpartition("/")[2] for word in row[:2]))
        assert len(pairs) == len(lines) == count
        for pair, row in zip(pairs, lines, strict=True):
            moved = np.array([float(word) for word in row[22:]]).reshape(4, 4)
            assert np.allclose(pair.pose.rotation, moved[:3, :3], atol=1e-4)
            assert np.allclose(pair.pose.translation, moved[:3, 3], atol=1e-3)
