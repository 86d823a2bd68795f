"""Feature files of other tools: they can read written files, read files are checked, and runs resume."""

from __future__ import annotations

import errno
import io
import json
import os
import sqlite3
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lf.cli import extract as cli_extract
from lf.core import BadInput, Features, LfError, Unavailable, UsageError
from lf.data.layouts import LAYOUTS, colmap, h5, pairs
from lf.extraction import store, stream
from lf.extraction.extractor import Extractor
from lf.models import MODELS
from lf.models.resolve import resolve
from lf.runtimes import Backend
from lf.studies import extract as study

SIZE = (64, 48)  # (W, H)
IMAGES = [name for name, row in LAYOUTS.items() if row.open]
NAME, KEY = "v_a/1.ppm", "v_a/1"
WITH_SCALES = ("r2d2", "d2net", "hloc", "colmap", "lf")


def features(n=5, scales=True, seed=0):
    """Points in descending order of score, as `extract` gives them."""
    rng = np.random.default_rng(seed)
    descriptors = rng.standard_normal((n, 8)).astype(np.float32)
    diameters = 32 * 2 ** rng.integers(0, 3, n) if scales else None
    points = np.round(rng.uniform(0, 48, (n, 2)) * 64) / 64  # what half a pixel more and less leaves as it is
    return Features(points, np.linspace(0.9, 0.1, n), descriptors, SIZE, diameters)


def put(layout, folder, found, name=NAME):
    with LAYOUTS[layout].open(folder) as kept:
        kept.write(name, found)


def get(layout, folder, key=KEY):
    return LAYOUTS[layout].open(folder).read(key, SIZE)


def same(ours, theirs, scales=True):
    names = ("keypoints", "scores", "descriptors", *(("scales",) if scales else ()))
    return ours.size == theirs.size and all(np.array_equal(getattr(ours, n), getattr(theirs, n)) for n in names)


def arrays(path):
    with np.load(path, allow_pickle=False) as data:
        return dict(data)


# --- round trips


@pytest.mark.parametrize("n", [5, 1, 0])
@pytest.mark.parametrize("layout", IMAGES)
def test_what_is_written_is_read_back(layout, n, tmp_path):
    found = features(n)
    put(layout, tmp_path, found)
    back = get(layout, tmp_path)
    assert back.keypoints.dtype == np.float32
    if layout == "r2d2":
        back = back.take(np.arange(n)[::-1])
    assert same(found, back, scales=layout in WITH_SCALES)
    assert same(get(layout, tmp_path), get(layout, tmp_path, NAME), scales=layout in WITH_SCALES)


@pytest.mark.parametrize("layout", IMAGES)
def test_features_without_scales_are_kept(layout, tmp_path):
    put(layout, tmp_path, features(scales=False))
    scales = get(layout, tmp_path).scales
    assert scales is None if layout not in ("r2d2", "d2net") else (scales == 32).all()


def test_r2d2_file(tmp_path):
    found = features()
    put("r2d2", tmp_path, found)
    kept = arrays(tmp_path / "v_a/1.ppm.r2d2")
    assert kept["imsize"].tolist() == [64, 48]
    assert (kept["keypoints"].shape, kept["keypoints"].dtype) == ((5, 3), np.float32)
    assert (np.diff(kept["scores"]) > 0).all()
    assert np.array_equal(kept["keypoints"][::-1, 2], found.scales)


def test_d2net_and_posfeat_files(tmp_path):
    found = features()
    put("d2net", tmp_path, found)
    assert np.array_equal(arrays(tmp_path / "v_a/1.ppm.d2-net")["keypoints"][:, 2], found.scales / 32)
    put("posfeat", tmp_path, found)
    kept = arrays(tmp_path / "v_a/1.ppm.PoSFeat")
    assert (kept["keypoints"].shape, kept["scores"].shape) == ((5, 2), (5, 1))


def test_hloc_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    found = features()
    put("hloc", tmp_path, found)
    with h5py.File(tmp_path / "features.h5") as file:
        group = file[NAME]
        assert group["descriptors"].shape == (8, 5)
        assert group["image_size"][()].tolist() == [64, 48]
        assert np.array_equal(group["keypoints"][()], found.keypoints)  # no half pixel: hloc adds it for COLMAP


def test_posfeat_h5_files_of_a_sequence_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    found = features(scales=False)
    (tmp_path / "v_a").mkdir()
    parts = {"keypoints": found.keypoints, "scores": found.scores[:, None], "descriptors": found.descriptors}
    for kind, value in {**parts, "scales": np.ones((5, 1))}.items():
        with h5py.File(tmp_path / f"v_a/{kind}.h5", "w") as file:
            file["1"] = value
    assert same(get("posfeat", tmp_path), found)
    with pytest.raises(BadInput, match=r"keypoints.h5: holds no 2 but 1"):
        get("posfeat", tmp_path, "v_a/2")


def test_superpoint_pairs_round_trip(tmp_path):
    images = tuple(np.random.default_rng(n).random((48, 64), dtype=np.float32) for n in (0, 1))
    pair = pairs.Stored(features(5, False), features(4, False, 1), np.diag([2.0, 2, 1]), images=images)
    pairs.write_superpoint(tmp_path / "0.npz", pair, (np.array([0, 2]), np.array([3, 1])))
    back = pairs.read_superpoint(tmp_path / "0.npz")
    assert same(back.first, pair.first)
    assert same(back.second, pair.second)
    assert all(np.array_equal(a, b) for a, b in zip(back.images, images, strict=True))
    assert np.array_equal(back.homography, pair.homography)
    kept = arrays(tmp_path / "0.npz")
    assert kept["prob"].dtype == kept["matches"].dtype == np.float64
    assert np.array_equal(kept["matches"][1], [*pair.first.keypoints[2], *pair.second.keypoints[1]])


def test_files_of_pytorch_superpoint_are_read(shared):
    folder = shared / "data/reference_predictions/pytorch_superpoint_coco_170k"
    for path in sorted(folder.glob("*.npz")):
        theirs, pair = arrays(path), pairs.read_superpoint(path)
        assert pair.scored
        assert pair.first.size == pair.second.size == (320, 240)
        for prefix, found in (("", pair.first), ("warped_", pair.second)):
            assert np.array_equal(found.keypoints, theirs[f"{prefix}prob"][:, :2].astype(np.float32))
            assert np.array_equal(found.descriptors, theirs[f"{prefix}desc"])
            assert np.allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)


def test_sift_pairs_of_pytorch_superpoint_have_no_scores(tmp_path):
    image, points = np.zeros((240, 320), np.float32), np.array([[1.0, 2], [3, 4]])
    one = {"image": image, "prob": points, "desc": np.eye(2, 128, dtype=np.float32)}
    np.savez(tmp_path / "0.npz", **one, **{f"warped_{k}": v for k, v in one.items()}, homography=np.eye(3))
    pair = pairs.read_superpoint(tmp_path / "0.npz")
    assert not pair.scored
    assert pair.first.scores.tolist() == [1, 1]
    scored = {"warped_prob": np.array([[1.0, 2, 0.5], [3, 4, 0.5]])}
    np.savez(tmp_path / "1.npz", **one, **{f"warped_{k}": v for k, v in one.items()} | scored, homography=np.eye(3))
    with pytest.raises(BadInput, match=r"warped_prob of shape \(2, 3\); expected \(N, 2\)"):
        pairs.read_superpoint(tmp_path / "1.npz")


def unscored(layout, folder, name=NAME):
    """Take the scores out of what `put` wrote."""
    if layout == "hloc":
        with pytest.importorskip("h5py").File(folder / "features.h5", "a") as file:
            del file[name]["scores"]
        return
    if layout == "colmap":
        with sqlite3.connect(folder / colmap.NAME) as connection:
            connection.execute(f"UPDATE {colmap.TABLE} SET scores = NULL")
        connection.close()
        return
    if layout == "posfeat-h5":
        (folder / name).with_name("scores.h5").unlink()
        return
    (path,) = folder.glob(f"{name}.*")
    kept = {key: value for key, value in arrays(path).items() if key != "scores"}
    with path.open("wb") as file:
        np.savez(file, **kept)


@pytest.mark.parametrize("layout", IMAGES)
def test_features_without_scores_are_read_in_the_order_of_the_file(layout, tmp_path):
    put(layout, tmp_path, features())
    before = get(layout, tmp_path)
    unscored(layout, tmp_path)
    found = get(layout, tmp_path)
    assert (before.scored, found.scored) == (True, False)
    assert np.array_equal(found.keypoints, before.keypoints)
    assert np.array_equal(found.descriptors, before.descriptors)
    assert found.scores.tolist() == [1] * 5
    assert not found.top(3).scored
    assert np.array_equal(found.top(None).keypoints, found.keypoints)


def test_posfeat_h5_files_without_scores_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    found = features(scales=False)
    (tmp_path / "v_a").mkdir()
    for kind in ("keypoints", "descriptors"):
        with h5py.File(tmp_path / f"v_a/{kind}.h5", "w") as file:
            file["1"] = getattr(found, kind)
    assert not get("posfeat", tmp_path).scored
    with h5py.File(tmp_path / "v_a/scores.h5", "w") as file:
        file["2"] = found.scores[:, None]
    with pytest.raises(BadInput, match=r"scores.h5: holds no 1 but 2"):
        get("posfeat", tmp_path)


# --- which file belongs to an image


def test_another_tag_is_found_and_two_are_not_guessed(tmp_path):
    put("posfeat", tmp_path, features())
    mine = tmp_path / "v_a/1.ppm.mine"
    (tmp_path / "v_a/1.ppm.PoSFeat").rename(mine)
    (tmp_path / "v_a/1.ppm").write_bytes(b"the image itself")
    (tmp_path / "v_a/10.ppm.mine").write_bytes(b"another image's")
    assert same(get("posfeat", tmp_path), features(), scales=False)
    (tmp_path / "v_a/1.ppm.other").write_bytes(b"")
    with pytest.raises(BadInput, match=r"features of image 1: 1.ppm.mine, 1.ppm.other: which one\?"):
        get("posfeat", tmp_path)


@pytest.mark.parametrize("layout", IMAGES)
def test_missing_features_are_named(layout, tmp_path):
    put(layout, tmp_path, features())
    with pytest.raises(BadInput, match=r"image (v_a/)?2: none; expected"):
        get(layout, tmp_path, "v_a/2")
    with pytest.raises(BadInput, match="v_b"):
        get(layout, tmp_path, "v_b/1")


# --- hostile files


def header(shape, dtype="<f4"):
    """An .npy file that claims a shape and holds 8 bytes."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npz(**changes):
    """A good file of layout lf with some arrays changed, or left out where None."""
    good = {"keypoints": np.ones((3, 2)), "scores": np.ones(3), "descriptors": np.eye(3), "size": np.array([64, 48])}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in {**good, **changes}.items() if value is not None})
    return buffer.getvalue()


HOSTILE = {
    "text": (b"hello", "cannot be read as npz"),
    "empty": (b"", "is empty"),
    "cut short": (npz()[:-40], "cannot be read as npz"),
    "no keypoints": (npz(keypoints=None), "holds no keypoints but scores, descriptors, size; expected features with"),
    "a pickle": (npz(scores=np.array([{}, 1, 2], dtype=object)), "scores holds object, not numbers"),
    "words": (npz(scores=np.array(["a", "b", "c"])), "not numbers"),
    "claims terabytes": (archive(size=header((1 << 40, 1 << 10))), "size claims the shape"),
    "negative": (archive(size=header((-1, -2))), "size claims the shape"),
    "no header": (archive(size=b"\x93NUMPY\x01\x00"), "cannot be read as npz"),
    "later version": (archive(size=b"\x93NUMPY\x09\x00" + bytes(64)), "cannot be read as npz"),
    "other lengths": (npz(scores=np.ones(4)), "features do not fit together"),
    "no points": (npz(keypoints=np.array(3.0), scores=None), "features do not fit together"),
    "a column": (npz(keypoints=np.ones((3, 3))), "features do not fit together"),
    "not finite": (npz(scores=np.array([1, np.nan, 1])), "scores holds a value that is not finite"),
    "too large": (npz(keypoints=np.full((3, 2), 1e300)), "non-finite"),
    "no size": (npz(size=np.array([0, 48])), r"size is \[0, 48\]; expected two sides in px"),
    "three sides": (npz(size=np.array([64, 48, 3])), "expected two sides in px"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_npz_is_refused_in_one_line(case, tmp_path):
    data, text = HOSTILE[case]
    (tmp_path / "1.ppm.lf.npz").write_bytes(data)
    with pytest.raises(BadInput, match=text) as refused:
        get("lf", tmp_path, "1")
    assert "1.ppm.lf.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("lf.formats.npz.LIMIT", 10_000)
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(100_000))
    (tmp_path / "1.ppm.lf.npz").write_bytes(archive(keypoints=zeros.getvalue()))
    with pytest.raises(BadInput, match="unpacks to more than 10000 bytes"):
        get("lf", tmp_path, "1")


def _hloc(path, change):
    h5py = pytest.importorskip("h5py")
    put("hloc", path.parent, features())
    with h5py.File(path, "a") as file:
        group = file[NAME]
        change(file, group)


def _huge(file, group):
    del group["scores"]
    group.create_dataset("scores", (1 << 40,), "f4", chunks=(1 << 10,))


def _elsewhere(file, group):
    import h5py

    del group["scores"]
    group["scores"] = h5py.ExternalLink("other.h5", "/scores")


def _replace(name, value):
    def change(file, group):
        del group[name]
        if value is not None:
            group[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_huge, "scores claims 4398046511104 bytes"),
        (_elsewhere, "scores is missing or no dataset of this file"),
        (_replace("keypoints", None), "holds no keypoints but descriptors, image_size, scales, scores"),
        (_replace("scores", "words"), "scores is no array of numbers"),
        (_replace("scores", np.full(5, np.nan)), "scores holds a value that is not finite"),
        (_replace("keypoints", np.ones((5, 3))), r"keypoints of shape \(5, 3\); expected \(N, 2\)"),
        (_replace("descriptors", np.ones((5, 8))), "features do not fit together"),  # (N, D), hloc's is (D, N)
        (_replace("image_size", np.ones(3)), "image_size is .* expected two sides in px"),
        (lambda file, group: file["v_a"].create_group("1.png"), r"v_a/1: 1.png, 1.ppm: which one\?"),
    ],
)
def test_a_hostile_h5_is_refused_in_one_line(change, text, tmp_path):
    _hloc(tmp_path / "features.h5", change)
    with pytest.raises(BadInput, match=text) as refused:
        get("hloc", tmp_path)
    assert "\n" not in str(refused.value)


def test_no_h5_at_all(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "features.h5").write_bytes(b"hello")
    with pytest.raises(BadInput, match="cannot be read as HDF5"):
        get("hloc", tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        get("hloc", tmp_path / "nowhere")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(Unavailable, match=r'pip install "lf-keypoints\[hloc\]"'):
        LAYOUTS["hloc"].open(tmp_path)


def test_one_h5_of_any_name_will_do(tmp_path):
    put("hloc", tmp_path, features())
    (tmp_path / "features.h5").rename(tmp_path / "feats-r2d2.h5")
    assert same(get("hloc", tmp_path), features())
    assert same(get("hloc", tmp_path / "feats-r2d2.h5"), features())


# --- stored pairs


def pair_file(path, **changes):
    one = {"keypoints": np.ones((3, 2)), "scores": np.ones(3), "descriptors": np.eye(3), "image_shape": (240, 320)}
    good = {f"{name}{n}": np.array(value) for name, value in one.items() for n in "01"} | {"homography": np.eye(3)}
    np.savez(path, **{name: value for name, value in {**good, **changes}.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scores1": None}, "holds no scores1 but keypoints0"),
        ({"homography": np.zeros((3, 3))}, "no .* matrix with an inverse"),
        ({"homography": np.eye(2)}, r"the homography of shape \(2, 2\)"),
        ({"keypoints0": np.ones((3, 3))}, r"keypoints0 of shape \(3, 3\)"),
        ({"scores1": np.ones(2)}, "image 1: features do not fit together"),
        ({"image_shape1": np.array(240)}, "image_shape1 is"),
    ],
)
def test_a_malformed_pair_is_refused(changes, text, tmp_path):
    with pytest.raises(BadInput, match=text):
        pairs.read(pair_file(tmp_path / "pair.npz", **changes))


def test_a_stored_pair_needs_no_scores(tmp_path):
    found = pairs.read(pair_file(tmp_path / "pair.npz", scores0=None, scores1=None))
    assert not found.scored
    assert found.second.scores.tolist() == [1, 1, 1]
    assert pairs.read(pair_file(tmp_path / "pair.npz")).scored


# --- extraction


@pytest.fixture
def photos(tmp_path):
    """A folder with two images below each other and one that is none."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "deep/b.png"):
        cv2.imwrite(str(folder / name), rng.integers(1, 256, (48, 64), dtype=np.uint8))
    (folder / "c.png").write_bytes(b"hello")
    return folder


def run(capsys, *words, **options):
    """Call the command; its object on stdout, and what it said on stderr."""
    cli_extract.extract(*words, json=True, **options)
    said = capsys.readouterr()
    return json.loads(said.out), said.err


@pytest.mark.parametrize("layout", IMAGES)
def test_extract_writes_resumes_and_passes_over_what_is_no_image(layout, tiny, photos, tmp_path, capsys):
    model, out = str(tiny("wren.onnx").path), tmp_path / "out"
    done, said = run(capsys, model, [str(photos)], out, layout, top_k=20)
    assert (done["written"], done["kept"], [*done["failed"]]) == (2, 0, ["c.png"])
    assert said.count("\n") == 2
    assert "do not decode" in said
    assert said.endswith("lf: skipped 1 of 3 images\n")
    extractor = Extractor(resolve(model), "ort-cpu")
    for name in ("a.png", "deep/b.png"):
        want = extractor(cv2.imread(str(photos / name))).top(20)
        have = LAYOUTS[layout].open(out).read(name, SIZE)
        assert have.size == SIZE
        assert np.array_equal(np.sort(have.scores), np.sort(want.scores))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    done, _ = run(capsys, model, [str(photos)], out, layout, top_k=20)
    assert (done["written"], done["kept"]) == (0, 2)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_extract_does_not_mix_models_or_settings(tiny, photos, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, str(tiny("wren.onnx").path), [str(photos)], out, "lf")
    with pytest.raises(
        UsageError,
        match=r"out: was made with other settings \(top_k: was none, now 5\); choose another `out`, or delete",
    ):
        run(capsys, str(tiny("wren.onnx").path), [str(photos)], out, "lf", top_k=5)
    with pytest.raises(
        UsageError, match=r"was made with other settings \(model: was wren, now superpoint; sha256: was \w+\.\.\., now "
    ):
        run(capsys, str(tiny("sp.onnx", "superpoint").path), [str(photos)], out, "lf")
    (out / "lf-extract.lf.json").unlink()
    with pytest.raises(UsageError, match="has features that lf extract did not make"):
        run(capsys, str(tiny("wren.onnx").path), [str(photos)], out, "lf")


def test_extract_where_nothing_can_be_read(tiny, tmp_path, capsys):
    for name in ("c.png", "d.png"):
        (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(BadInput, match="none of the 2 images could be read"):
        run(capsys, str(tiny().path), [str(tmp_path / "c.png"), str(tmp_path / "d.png")], tmp_path / "out", "r2d2")
    assert not [*tmp_path.rglob("*.r2d2")]


def test_extract_refuses_a_path_that_does_not_exist(photos, tiny, tmp_path, capsys):
    for paths in ([tmp_path / "none"], [photos, tmp_path / "none"]):
        with pytest.raises(BadInput, match="none: no such file or folder; expected images or folders of images"):
            run(capsys, str(tiny().path), [*map(str, paths)], tmp_path / "out", "lf")
    assert not (tmp_path / "out").exists()


def test_extract_names_images_once(photos, tmp_path):
    other = tmp_path / "a.png"
    other.write_bytes(b"")
    assert store.find([photos, photos / "a.png"]).keys() == {"a.png", "c.png", "deep/b.png"}
    with pytest.raises(UsageError, match=r"would both be a.png; give the folder that holds both"):
        store.find([photos, other])


def test_a_name_that_hdf5_cannot_keep_is_refused_before_anything_is_extracted(tiny, photos, tmp_path):
    bad = (photos / "a.png").rename(photos / os.fsdecode(b"\xff.png"))
    with pytest.raises(BadInput, match=r"\.png: the name of this image is not UTF-8, as HDF5 needs it; rename it or"):
        cli_extract.extract(str(tiny().path), [str(photos)], tmp_path / "out", "hloc")
    assert bad.is_file()
    assert not (tmp_path / "out").exists()


def test_extract_follows_the_published_pyramid_where_the_file_can(tiny, photos, tmp_path, capsys):
    for size, scales in (None, True), ((48, 64), False):
        artifact = tiny("r2d2.onnx", "r2d2", size)
        image = cv2.imread(str(photos / "a.png"))
        extractor = Extractor(artifact, "ort-cpu", repeatability=0.0, reliability=0.0)
        if scales:
            image = cv2.resize(image, (280, 260))
        assert (stream.published(extractor, image).scales is not None) == scales


def test_extract_describes_the_points_of_another_detector(tiny, photos, tmp_path, capsys):
    model, out = str(tiny("sp.onnx", "superpoint").path), tmp_path / "out"
    run(capsys, model, [str(photos / "a.png")], out, "posfeat", keypoints="sift")
    want = Extractor(resolve("sift"), "opencv")(cv2.imread(str(photos / "a.png")))
    found = get("posfeat", out, "a")
    assert np.array_equal(found.keypoints, want.keypoints)
    assert found.descriptors.shape[1] == 256
    with pytest.raises(UsageError, match=r"was made with other settings \(keypoints: was sift, now none\); "):
        run(capsys, model, [str(photos / "a.png")], out, "posfeat")


def test_extract_takes_the_engine_that_runs_the_file(tiny):
    assert store.backend_for(tiny()) == "ort-cpu"
    assert store.backend_for(resolve("wren")) == "torch"
    assert MODELS["orb"].module is None
    assert store.backend_for(resolve("orb")) == "opencv"


def test_the_first_installed_backend_runs_a_file(tiny, monkeypatch):
    file = tiny()
    absent = {"onnxruntime", "onnxruntime_ep_openvino"}
    monkeypatch.setattr(Backend, "installed", property(lambda row: row.package not in absent))
    assert store.backend_for(file) == "openvino"
    absent |= {"openvino"}
    assert store.backend_for(file) == "opencv-dnn"
    absent |= {"cv2"}
    assert store.backend_for(file) == "ort-cpu"  # which is what an error then names


def test_extract_refuses_a_file_for_a_folder(tiny, photos, tmp_path, capsys):
    with pytest.raises(UsageError, match="expected a folder; the file of all images is made inside"):
        run(capsys, str(tiny().path), [str(photos)], tmp_path / "features.h5", "hloc")
    with pytest.raises(UsageError, match="unknown layout 'hlock'; did you mean 'hloc'"):
        run(capsys, str(tiny().path), [str(photos)], tmp_path / "out", "hlock")


def test_an_interrupted_h5_goes_on(tmp_path):
    pytest.importorskip("h5py")
    first, second = features(seed=1), features(seed=2)

    def killed():
        with LAYOUTS["hloc"].open(tmp_path) as kept:
            kept.write("a.png", first)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert not (tmp_path / "features.h5").exists()
    with LAYOUTS["hloc"].open(tmp_path) as kept:
        assert kept.has("a.png")
        assert not kept.has("b.png")
        kept.write("b.png", second)
    assert [path.name for path in tmp_path.iterdir()] == ["features.h5"]
    assert same(get("hloc", tmp_path, "a"), first)
    assert same(get("hloc", tmp_path, "b"), second)


def test_an_h5_cut_short_in_the_middle_of_a_write_is_begun_again(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / f"{h5.NAME}.part").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    put("hloc", tmp_path, features())
    assert same(get("hloc", tmp_path), features())


def _raise(error):
    def broken(*given):
        raise error

    return broken


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ("shutil.disk_usage", lambda folder: SimpleNamespace(total=1000, free=0)),
        ("shutil.copyfile", _raise(OSError(errno.ENOSPC, "(file write failed: time = now\n, errno = 28)"))),
        ("shutil.copyfile", _raise(OSError(errno.EDQUOT, "Disk quota exceeded"))),
    ],
)
def test_a_full_disk_is_named_by_the_h5_too(place, broken, tmp_path, monkeypatch):
    put("hloc", tmp_path, features())
    monkeypatch.setattr(f"lf.data.layouts.h5.{place}", broken)
    with pytest.raises(LfError, match=r"features\.h5: the disk is full; nothing was written\. Free some") as caught:
        put("hloc", tmp_path, features(), "other.ppm")
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert same(get("hloc", tmp_path), features())


def test_half_a_group_does_not_count(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / f"{h5.NAME}.part", "w") as file:
        file[f"{NAME}/keypoints"] = np.ones((1, 2))
    with LAYOUTS["hloc"].open(tmp_path) as kept:
        assert not kept.has(NAME)
        kept.write(NAME, features())
    assert same(get("hloc", tmp_path), features())


def test_the_folder_of_features_may_be_read_only(tmp_path, tiny, photos, capsys):
    blocked = Path(tmp_path / "file")
    blocked.write_bytes(b"x")
    for layout in ("lf", "hloc"):
        with pytest.raises(UsageError, match="cannot be written"):
            run(capsys, str(tiny().path), [str(photos)], blocked / "out", layout)


# --- PoSFeat's h5 files


def test_a_sequence_is_four_h5_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    first, second = features(seed=1), features(seed=2)
    put("posfeat-h5", tmp_path, first, "v_boat/1.ppm")
    put("posfeat-h5", tmp_path, second, "v_boat/2.ppm")
    put("posfeat-h5", tmp_path, first, "top.png")
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.h5"))
    kinds = ("descriptors", "keypoints", "scales", "scores")
    assert made == [*(f"{kind}.h5" for kind in kinds), *(f"v_boat/{kind}.h5" for kind in kinds)]
    with h5py.File(tmp_path / "v_boat/scores.h5") as file:
        assert sorted(file) == ["1", "2"]
        np.testing.assert_array_equal(file["2"][()], second.scores[:, None])
    with h5py.File(tmp_path / "v_boat/scales.h5") as file:
        assert file["1"].shape == (len(first), 1)
    for layout in ("posfeat-h5", "posfeat"):
        have = get(layout, tmp_path, "v_boat/2")
        np.testing.assert_array_equal(have.keypoints, second.keypoints)
        np.testing.assert_array_equal(have.descriptors, second.descriptors)


def test_an_interrupted_sequence_goes_on(tmp_path):
    pytest.importorskip("h5py")
    kept = LAYOUTS["posfeat-h5"].open(tmp_path)
    kept.write("a/1.png", features())
    kept.__exit__(KeyboardInterrupt, None, None)
    assert not list(tmp_path.rglob("*.h5"))
    with LAYOUTS["posfeat-h5"].open(tmp_path) as kept:
        assert kept.has("a/1.png")
        assert not kept.has("a/2.png")
        kept.write("a/2.png", features())
    assert not list(tmp_path.rglob("*.part"))
    with LAYOUTS["posfeat-h5"].open(tmp_path) as kept:
        assert kept.has("a/1.png")
        assert kept.has("a/2.png")
    (tmp_path / "a" / "scores.h5.part").write_bytes(b"half a file")
    with LAYOUTS["posfeat-h5"].open(tmp_path) as kept:
        assert kept.has("a/1.png")


def test_two_images_of_one_data_set_and_shards_are_refused(tmp_path, drawn_photos):
    pytest.importorskip("h5py")
    with LAYOUTS["posfeat-h5"].open(tmp_path) as kept:
        assert not kept.has("a/1.png")
        with pytest.raises(
            UsageError, match=r"a/1\.png and a/1\.small\.png would both be 1 in .+keypoints\.h5; rename one"
        ):
            kept.has("a/1.small.png")
    with pytest.raises(
        UsageError, match="layout posfeat-h5 keeps the images of a folder in one file; leave out `shard` a"
    ):
        study.extract(resolve("sift"), [str(drawn_photos)], tmp_path / "out", "posfeat-h5", shard=(0, 2))
