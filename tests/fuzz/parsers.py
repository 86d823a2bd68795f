"""PARSERS: one row for everything in lf that reads foreign bytes."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from lf.core import LfError

from . import seeds
from .mutate_flatbuffer import FLATBUFFER
from .mutate_h5 import HDF5
from .mutate_png import PNG
from .mutate_protobuf import PROTOBUF
from .mutate_sqlite import SQLITE
from .mutate_text import JSON, TEXT, TOML
from .mutate_zip import NPZ, PICKLE, TORCH, ZIP
from .runner import Parser


class Refused(LfError):
    """A command ended with this exit code and one line."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = code


def command(*words: str) -> Callable[[Path], None]:
    """Reads by a command of lf; Refused where its exit code is not 0."""
    return partial(_command, words)


def _command(words: tuple[str, ...], folder: Path) -> None:
    from lf.cli import main

    said, noted = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(noted), patch.object(sys, "argv", ["lf", *words]):
        try:
            main()
        except SystemExit as left:
            if left.code:
                raise Refused(int(left.code), noted.getvalue().strip().splitlines()[-1]) from None


def all_of(patterns: str, read: Callable[[Path], object]) -> Callable[[Path], None]:
    """Reads every file of some patterns; all are read, whatever is wrong with one."""
    return partial(_all, patterns.split(), read)


def _all(patterns: list[str], read: Callable[[Path], object], folder: Path) -> None:
    refused: list[LfError] = []
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        try:
            read(path)
        except LfError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _image(path: Path) -> None:
    from lf.data import images

    images.read(path)


def _checkpoint(path: Path) -> None:
    from lf.models import checkpoint

    checkpoint.load(path)


def _model(path: Path, backend: str) -> None:
    from lf.extraction.extractor import Extractor
    from lf.formats import model_file

    extractor = Extractor(model_file.load(path), backend)
    extractor(np.random.default_rng(0).integers(0, 256, seeds.SIDE, np.uint8))


def _passes(path: Path) -> None:
    from lf.formats import finite, onnx_model

    finite.refuse_onnx(path)
    onnx_model.read(path)


def _examine(path: Path) -> None:
    from lf.edgetpu import check

    check.examine(path.read_bytes(), path.name)


def _features(folder: Path) -> None:
    from lf.data.layouts import LAYOUTS

    for name in ("lf", "r2d2", "d2net", "posfeat"):
        store = LAYOUTS[name].open
        assert store
        store(folder / name).read("1", seeds.SIDE[::-1])


def _pairs(path: Path) -> None:
    from lf.data.layouts import pairs

    (pairs.read_superpoint if path.name == "pair-s.npz" else pairs.read)(path)


def _hdf5(folder: Path) -> None:
    from lf.data.layouts import LAYOUTS

    for name in ("hloc", "posfeat-h5"):
        opened = LAYOUTS[name].open
        assert opened
        store = opened(folder / name)
        store.has("1.png")
        store.read("1", seeds.SIDE[::-1])


def _database(path: Path) -> None:
    from lf.data import colmap
    from lf.data.layouts import LAYOUTS

    colmap.check(path)
    with colmap.opened(path) as database:
        database.cameras()
        database.inliers()
        for image in database.ids().values():
            database.keypoints(image)
            database.blob("descriptors", image, "u1")
    opened = LAYOUTS["colmap"].open
    assert opened
    opened(path).read("1", seeds.SIDE[::-1])


def _scene(folder: Path) -> None:
    from lf.data import posed

    posed.pairs(posed.scenes(f"posed:{folder}"))


def _pair_list(folder: Path) -> None:
    from lf.benchmarks.sfm import aachen
    from lf.data.posed import depth_files, pair_lists

    for name in ("pairs_with_gt.txt", "pairs_calibrated.txt"):
        pair_lists.read(folder / name)
    depth_files._read.cache_clear()
    depth_files._at(folder / "depth.png", np.ones((2, 2)))
    aachen.intrinsics(folder / "list.txt")
    aachen.nvm(folder / "model.nvm")


def _homography(folder: Path) -> None:
    from lf.data import hpatches

    hpatches.sequence(folder)


def _masks(folder: Path) -> None:
    from lf.data.masks import coco, label_sets, png

    png.read_ids(folder / "ids.png")
    png.read_ids(folder / "palette.png")
    table = coco.read_table(folder / "panoptic.json")
    segments = png.read_segments(folder / "segments.png")
    classes = label_sets.category_class("coco133")
    for name, each in table.items():
        coco.assign(segments, each, classes, 255, Path(name))
    label_sets.read_categories(folder / "categories.json")


def _flow(folder: Path) -> None:
    from lf.train.views import flow_pairs

    for path in flow_pairs.find(folder):
        flow_pairs.read(folder, path)


def _plan(path: Path) -> None:
    from lf.benchmarks.run import gate
    from lf.quantize import WRITERS
    from lf.studies.sweep_files import OPTIONS
    from lf.studies.sweep_plan import load

    gate.load_gates(path) if path.name == "gates.toml" else load(path, WRITERS, OPTIONS)


def _card(path: Path) -> None:
    from lf.export import adopt
    from lf.models import own

    full = adopt.description(path)
    own.row(full["name"], full)


def _results(folder: Path) -> None:
    page = folder.parent / "tmp" / "page.html"
    try:
        _command(("report", "a.json", "b.json", "-o", str(page)), folder)
    finally:
        page.unlink(missing_ok=True)


def _ledger(folder: Path) -> None:
    from lf.benchmarks.run import predict
    from lf.core import ledger

    ledger.resume(folder / "work.json", {"seed": 1, "files": ["a", "b"], "versions": {"lf": "1"}}, remedy="delete it")
    predict._load(folder / "kept.npz")


def _archive(folder: Path) -> None:
    import shutil

    from lf.core import console
    from lf.data import download

    member = r"(?:[\w-]+/)?(?P<folder>[iv]_[\w-]+)/(?P<name>[1-6]\.ppm|H_1_[2-6])"
    source = download.Source("https://example.org/set.zip", None, 1 << 20, 1 << 20, member, 3)
    place = folder.parent / "tmp" / "download"
    shutil.copytree(folder, place)
    try:
        with patch.object(download, "download"), patch.object(console, "note"):
            download.get(source, place / "set")
    finally:
        left = sorted(path.name for path in place.iterdir())
        shutil.rmtree(place)
    assert left == ["set"], f"left {left} after a success"


def _unpacked(folder: Path) -> None:
    """`_archive`, and nothing but the archive is left where it is refused."""
    import shutil

    try:
        _archive(folder)
    finally:
        shutil.rmtree(folder.parent / "tmp" / "download", ignore_errors=True)


def _video(path: Path) -> None:
    from lf.data import frames

    for count, _ in enumerate(frames.video(path).frames):
        if count > 50:
            break


def _state(folder: Path) -> None:
    import torch

    from lf.train import RECIPES, state

    state.read(RECIPES["wren"], ["procedural"], folder, torch.device("cpu"))


def _labels(folder: Path) -> None:
    from lf.train import label_photos

    label_photos.read_labels(folder)


def _compiler(path: Path) -> None:
    from lf.edgetpu import log

    log.parse(path.read_text(errors="replace"))


_ROWS = (
    Parser("images", seeds.images, ["*"], all_of("*", _image)),
    Parser("png", seeds.png, ["*"], all_of("*", _image), PNG),
    Parser("masks-png", seeds.masks, ["*.png"], _masks, PNG),
    Parser("masks-json", seeds.masks, ["*.json"], _masks, JSON),
    Parser("videos", seeds.videos, ["*"], all_of("*", _video)),
    Parser("homographies", seeds.homography, ["H_1_2"], _homography, TEXT),
    Parser("npz-features", seeds.stored, ["*/*"], _features, NPZ),
    Parser("npz-pairs", seeds.stored, ["*.npz"], all_of("*.npz", _pairs), NPZ),
    Parser("npz-labels", seeds.labels, ["*.npz"], _labels, NPZ),
    Parser("flow-pairs", seeds.flow, ["*.npz", "optical_flow/*/*.png"], _flow, (*NPZ, *PNG)),
    Parser("hdf5", seeds.hdf5, ["*/*.h5"], _hdf5, HDF5),
    Parser("colmap-databases", seeds.database, ["*.db"], all_of("*.db", _database), SQLITE),
    Parser("cameras", seeds.cameras, ["*/*.txt"], _scene, TEXT),
    Parser("colmap-binary", seeds.cameras, ["bin/*.bin"], _scene),
    Parser("pair-lists", seeds.pair_list, ["*.txt", "*.nvm", "depth.png"], _pair_list, (*TEXT, *PNG)),
    Parser("checkpoints-zip", seeds.checkpoints, ["new.pth"], all_of("new.pth", _checkpoint), TORCH),
    Parser("checkpoints-legacy", seeds.checkpoints, ["old.pth"], all_of("old.pth", _checkpoint), PICKLE),
    Parser("training-state", seeds.state, ["*.pt"], _state, TORCH, codes=(2, 5)),
    Parser("safetensors", seeds.safetensors, ["*"], all_of("*", _checkpoint)),
    Parser("onnx-runtime", seeds.onnx, ["*"], all_of("*", partial(_model, backend="ort-cpu")), PROTOBUF, codes=(2, 5)),
    Parser(
        "onnx-openvino", seeds.onnx, ["*"], all_of("*", partial(_model, backend="openvino")), PROTOBUF, codes=(2, 5)
    ),
    Parser(
        "onnx-opencv", seeds.onnx, ["*"], all_of("*", partial(_model, backend="opencv-dnn")), PROTOBUF, codes=(2, 5)
    ),
    Parser("onnx-passes", seeds.onnx, ["*"], all_of("*", _passes), PROTOBUF),
    Parser("onnx-inspect", seeds.onnx, ["*"], command("inspect", "m.onnx"), PROTOBUF),
    Parser(
        "tflite-runtime", seeds.tflite, ["*"], all_of("*", partial(_model, backend="tflite")), FLATBUFFER, codes=(2, 5)
    ),
    Parser("tflite-check", seeds.tflite, ["*"], all_of("*", _examine), FLATBUFFER),
    Parser("tflite-inspect", seeds.tflite, ["q.tflite"], command("inspect", "q.tflite"), (*FLATBUFFER, *ZIP)),
    Parser("toml-plans", seeds.plans, ["*"], all_of("*", _plan), TOML, codes=(2, 5)),
    Parser("toml-cards", seeds.foreign_onnx, ["net.toml"], all_of("net.toml", _card), TOML, codes=(2, 5)),
    Parser("json-results", seeds.results, ["a.json"], _results, JSON),
    Parser("json-ledgers", seeds.ledgers, ["*"], _ledger, (*JSON, *NPZ), codes=(2, 5)),
    Parser("archives", seeds.archive, ["*"], _unpacked, ZIP),
    Parser("compiler-log", seeds.compiler_log, ["*"], all_of("*", _compiler), TEXT),
)
PARSERS = {row.name: row for row in _ROWS}
