"""The Python API: light to import, and every example in its docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import lf as api

PUBLIC = [name for name in api.PUBLIC if getattr(getattr(api, name), "__module__", "").startswith("lf.api")]
MODULES = sorted(
    ".".join(path.relative_to(Path(api.__file__).parents[1]).with_suffix("").parts).removesuffix(".__init__")
    for path in Path(api.__file__).parent.rglob("*.py")
    if path.stem != "__main__"
)


def test_import_is_light():
    heavy = ["numpy", "cv2", "torch", "onnx", "onnxruntime", "tensorflow", "typer", "rich"]
    source = f"import sys, lf; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", api.PUBLIC)
def test_public_names_are_no_packages(name):
    assert f"lf.{name}" not in MODULES, "importing the module would replace the name"
    assert getattr(api, name).__doc__


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name):
    thing = getattr(api, name)
    found = doctest.DocTestFinder().find(thing, name, importlib.import_module(thing.__module__))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in found:
        runner.run(test)
    assert not runner.failures


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="module 'lf' has no attribute 'nonsense'; it offers load, read"):
        _ = api.nonsense


@pytest.fixture
def photos(drawn_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return drawn_photos


def test_the_example_of_the_readme_after_every_module_was_imported(photos, few_pictures):
    for name in MODULES:
        importlib.import_module(name)
    first = api.read(photos / "0.png")
    moved = np.roll(first, 8, axis=1)
    net = api.load("wren")
    a, b = net.extract(first), net.extract(moved)
    matches = api.match(a, b)
    assert matches.indices.shape == (len(matches), 2)
    assert np.abs(matches.scores).max() <= 1 + 1e-5
    estimate, inliers = matches.homography()
    assert inliers.sum() >= 4
    assert np.abs(estimate[:2, 2] - [8, 0]).max() < 3
    onnx = net.export(to="onnx", size=(80, 120))
    quantized = onnx.quantize(scheme="w8a8", images=photos, rounding="nearest")
    assert (onnx.path.name, quantized.path.name) == ("wren.onnx", "wren.w8a8.onnx")
    assert quantized.card.scheme == "w8a8"


def test_evaluate_compares_and_saves(tmp_path):
    runs = api.evaluate(["wren", "sift"], data="procedural:2")
    assert [run.backend for run in runs] == ["torch", "opencv"]
    (found,) = runs.drops("repeatability")
    assert found.n == 2
    frame = runs.to_dataframe()
    assert [*frame["model"]] == ["wren", "wren", "sift", "sift"]
    assert api.Runs.read(runs.save(tmp_path / "r.json"))[0].pairs == runs[0].pairs
    with pytest.raises(api.UsageError, match="unknown metric 'repeatabilty'; did you mean 'repeatability'"):
        runs.drops("repeatabilty")


def pose_scene(noise=0.0):
    """Points before two cameras: pixels of both, intrinsics, and the true pose (3, 4)."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -2, 4], [2, 2, 8], (60, 3))
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0.02, 0.15, -0.05]))[0]
    translation = np.array([0.6, 0.1, 0.2])
    second = points @ rotation.T + translation
    pixels = [(p / p[:, 2:]) @ K.T for p in (points, second)]
    pose = np.column_stack([rotation, translation / np.linalg.norm(translation)])
    return [p[:, :2] + rng.normal(0, noise, (60, 2)) if noise else p[:, :2] for p in pixels], K, pose


def test_pose_of_a_known_scene():
    (first, second), K, pose = pose_scene()
    descriptors = np.eye(60, dtype=np.float32)
    wrong = second.copy()
    wrong[:10] += 40  # outliers
    a, b = (api.Features(p, np.ones(60), descriptors, (640, 480)) for p in (first, wrong))
    estimate, inliers = api.match(a, b).pose(K, K)
    np.testing.assert_allclose(estimate, pose, atol=5e-3)
    assert inliers[10:].all()
    assert not inliers[:10].any()


def test_pose_needs_five_matches_and_real_cameras():
    (first, second), K, _ = pose_scene()
    few = [api.Features(p[:4], np.ones(4), np.eye(4), (640, 480)) for p in (first, second)]
    matches = api.match(*few)
    assert matches.pose(K, K).estimate is None
    with pytest.raises(api.UsageError, match=r"K1: expected a \(3, 3\) intrinsic matrix"):
        matches.pose(K, np.zeros((3, 3)))
    with pytest.raises(api.UsageError, match="threshold -1: expected a positive number of pixels"):
        matches.homography(threshold=-1)


def test_descriptors_of_two_networks_do_not_match():
    a, b = (api.Features(np.zeros((1, 2)), np.ones(1), np.ones((1, n)), (9, 9)) for n in (64, 256))
    with pytest.raises(api.UsageError, match="descriptors have lengths 64 and 256; extract both images with the same"):
        api.match(a, b)
