"""Segmentation: metrics against stored ones, protocols over labelled images, resampling, gates and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import mask_files as drawn
import numpy as np
import pytest

from lf.benchmarks import METRICS, PROTOCOLS
from lf.benchmarks.protocols import segmentation
from lf.benchmarks.protocols.geometry import AREA_SQUEEZE
from lf.benchmarks.protocols.summary import RESAMPLES, bootstrap, number, paired, summarise
from lf.benchmarks.report import tables
from lf.benchmarks.run import gate, results
from lf.benchmarks.run.gate import Gate
from lf.benchmarks.run.segment import Segmenter
from lf.benchmarks.run.suite import suite
from lf.core import BadInput, UsageError
from lf.data import dataset_digest, open_dataset
from lf.data.masks import VOID, ClassRow, LabelSet, labelled
from lf.data.masks.label_sets import LABEL_SETS
from lf.extraction.extractor import Extractor
from lf.studies.sweep_plan import located

THREE = LabelSet("three", tuple(ClassRow(name, (0, 0, 0), name == "c") for name in "abc"))
EXACT = pytest.approx  # to 1e-12 below


def figures(*matrices: list[list[int]]) -> dict[str, float]:
    """The numbers of a data set of these confusion matrices."""
    return {name: number(matrices, how.statistic)["mean"] or 0.0 for name, how in segmentation.AGGREGATES.items()}


# Metrics


def test_a_confusion_matrix_leaves_out_void_and_counts_left_out_classes_as_errors() -> None:
    truth = np.array([[0, 0, 1, VOID], [0, 1, 1, VOID]], np.uint8)
    predicted = np.array([[0, 1, 1, 0], [2, 1, 1, 2]], np.uint8)  # 2 is left out of the label set
    cells = segmentation.confusion(truth, predicted, THREE)
    assert cells == [[0, 0, 1], [0, 1, 1], [0, VOID, 1], [1, 1, 3]]
    assert figures(cells) == {
        "miou": EXACT((1 / 3 + 3 / 4) / 2),
        "n_classes": 2,
        "pixel_accuracy": EXACT(4 / 6),
        "mean_accuracy": EXACT((1 / 3 + 1) / 2),
    }


def test_a_class_that_is_predicted_only_counts_and_one_that_is_nowhere_does_not() -> None:
    assert figures([[0, 0, 6], [0, 3, 2]]) == {
        "miou": EXACT((6 / 8 + 0) / 2),
        "n_classes": 2,
        "pixel_accuracy": EXACT(6 / 8),
        "mean_accuracy": EXACT(6 / 8),
    }


def test_the_number_of_a_data_set_is_of_summed_matrices() -> None:
    one, other = [[0, 0, 9], [0, 1, 1]], [[1, 1, 30], [1, 0, 60]]
    assert figures(one, other)["miou"] == EXACT((9 / 70 + 30 / 91) / 2)
    assert figures(one, other, [])["miou"] == EXACT((9 / 70 + 30 / 91) / 2)  # nothing counted in the third
    summary = summarise(
        [{"sequence": "s", "pair": "mask", "confusion": cells} for cells in (one, other)], segmentation.AGGREGATES
    )
    assert [*summary["all"]] == ["miou", "n_classes", "pixel_accuracy", "mean_accuracy"]


def test_images_are_resampled_whole() -> None:
    rng = np.random.default_rng(0)
    cells = [[[t, p, int(rng.integers(1, 50))] for t in range(3) for p in range(3)] for _ in range(15)]
    how = segmentation.AGGREGATES["miou"].statistic
    draws = np.random.default_rng(0).integers(15, size=(RESAMPLES, 15))
    slow = [figures(*(cells[n] for n in draw))["miou"] for draw in draws[:20]]
    np.testing.assert_allclose(how.drawn(how.gather(cells), draws)[:20], slow, rtol=0, atol=1e-12)
    low, high = bootstrap(cells, how) or (0, 0)
    assert low < figures(*cells)["miou"] < high
    worse = [[[t, (p + 1) % 3, count] for t, p, count in image] for image in cells]
    change = paired(cells, worse, how)
    assert change is not None
    assert change.draws is not None
    assert (change.n, change.lost) == (15, 0)
    assert change.first == EXACT(figures(*cells)["miou"], abs=1e-12)
    assert change.second == EXACT(figures(*worse)["miou"], abs=1e-12)
    assert paired(cells, cells, how).draws.tolist() == [0.0] * RESAMPLES  # type: ignore[union-attr]
    assert bootstrap(cells[:9], how) is None


@pytest.mark.parametrize("row", [[0, 1], [0, 1, 2, 3], [-1, 0, 5], [0, 256, 5], [VOID, 0, 5], [0, 0, -5], []])
def test_matrices_of_a_damaged_results_file(row: list[int]) -> None:
    with pytest.raises(BadInput, match=r"a confusion matrix holds \[.*expected rows \[truth, predicted, pixels\]"):
        segmentation.class_sums([[[0, 0, 1], row]])


def test_logits_are_resized_before_they_decide() -> None:
    logits = np.array([[[0.0, 4.0]], [[1.0, 0.0]]], np.float32)  # class 1 left, class 0 right
    assert segmentation.decide(logits, (1, 8)).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    torch = pytest.importorskip("torch")
    some = np.random.default_rng(0).standard_normal((5, 6, 8)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(some)[None], (50, 67), mode="bilinear")[0].argmax(0)
    assert (segmentation.decide(some, (50, 67)) != theirs.numpy()).mean() < 1e-3  # ties of rounding


def test_parity_with_the_stored_metrics(shared: Path) -> None:
    stored = json.loads((shared / "parity" / "segmentation" / "camvid_segmentation_metrics.json").read_text())
    items = labelled(f"masks:{shared}/data/camvid/val@camvid11")
    assert len(items) == len(stored["per_image"]) == 34
    matrices, means = [], []
    for item, row in zip(items, stored["per_image"], strict=True):
        truth = item.ids()
        height, width = truth.shape
        small = cv2.resize(truth, (width // 4, height // 4), interpolation=cv2.INTER_NEAREST)
        predicted = np.roll(small, 1, axis=1)
        found = segmentation.fork_score(predicted, truth)
        assert item.path.name == row["file"]
        for ours, theirs in (
            ("miou", "miou_fork"),
            ("pixel_accuracy", "pixel_acc_fork"),
            ("mean_accuracy", "class_acc_fork"),
        ):
            assert found[ours] == EXACT(row[theirs], abs=1e-12)
        assert segmentation.fork_score(truth, truth)["miou"] == EXACT(row["gt_vs_smoothed_gt"], abs=1e-12)
        means.append(found["miou"])
        full = cv2.resize(predicted, (width, height), interpolation=cv2.INTER_NEAREST)
        matrices.append(segmentation.confusion(item.mask(), full, items.classes))
    assert np.mean(means) == EXACT(stored["mean"]["miou_fork"], abs=1e-12)
    whole = stored["dataset"]
    assert figures(*matrices)["miou"] == EXACT(whole["miou_void_ignored"], abs=1e-12)
    assert figures(*matrices)["pixel_accuracy"] == EXACT(whole["pixel_accuracy_void_ignored"], abs=1e-12)
    scores = segmentation.class_scores(matrices)
    assert {str(n): EXACT(iou, abs=1e-12) for n, (iou, _) in scores.items()} == whole["iou_void_ignored"]
    summed = np.zeros((12, 12), int)
    for truth, predicted, count in (row for cells in matrices for row in cells):
        summed[truth, min(predicted, 11)] += count
    assert summed[:11].tolist() == whole["confusion"][:11]


# Protocols


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return drawn.grey_frames(tmp_path / "frames")


def test_bench_a_network_over_labelled_images(frames: Path, tmp_path: Path, lf) -> None:
    right = drawn.network(tmp_path / "right.onnx", [0.0, 1.0, 9.0])
    wrong = drawn.network(tmp_path / "wrong.onnx", [0.3, 0.2, 9.0])
    words = ("bench", right.path, wrong.path, "--data", f"masks:{frames}", "--protocol", "segmentation", "--repeats", 0)
    code, text, error = lf(*words, "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    assert f"protocol segmentation v1 ({PROTOCOLS['segmentation'].digest}), masks:{frames} 12 images (" in text
    assert "| IoU of class | pixels |" in text
    assert "| red " not in text  # nowhere
    first, second = results.load(tmp_path / "out" / "results.json")
    assert first.summary["miou"] > 0.9
    assert (first.summary["n_classes"], first.counts["miou"], first.unit) == (2, 12, "images")
    assert [(row.name, row.iou and row.iou > 0.9) for row in first.classes] == [
        ("black", True),
        ("white", True),
        ("red", None),
    ]
    assert sum(row.pixels for row in first.classes) == 12 * 44 * 64  # without void
    assert sum(row[2] for row in first.pairs[0].confusion or []) == 44 * 64
    drop = second.drop(first, "miou")
    assert drop is not None
    assert drop.interval is not None
    assert drop.drop == EXACT(first.summary["miou"] - second.summary["miou"], abs=1e-12)
    assert drop.interval[0] > 0.1
    (verdict,) = gate.compare([first], [second], [Gate("miou", 0.005)])
    assert verdict.answer == "FAIL"
    (verdict,) = gate.compare([first], [first], [Gate("miou", 0.005)])
    assert (verdict.answer, verdict.bound) == ("pass", 0)
    again = lf(*words, "--out", tmp_path / "out")
    assert again[1].splitlines()[3:8] == text.splitlines()[3:8]
    assert "holds the same runs and is replaced" in again[2]


def test_logits_are_predicted_once_for_both_protocols(frames: Path, tmp_path: Path, monkeypatch) -> None:
    artifact, calls, maps = drawn.network(tmp_path / "a.onnx", [0.0, 1.0, 9.0]), [], Extractor.maps
    monkeypatch.setattr(Extractor, "maps", lambda self, image: calls.append(image.shape) or maps(self, image))
    data = f"masks:{frames}"
    for name in ("segmentation", "segmentation-fork", "segmentation"):
        suite([artifact], None, data, name, repeats=0, workers=2, out=tmp_path / name)
    assert calls == [(240, 320)] * 24
    suite([artifact], None, data, "segmentation", repeats=0, out=tmp_path / "big", size=(96, 128))
    assert calls[24:] == [(96, 128)] * 12


def test_the_fork_never_takes_the_truth_for_the_prediction(frames: Path, tmp_path: Path) -> None:
    blind = drawn.network(tmp_path / "blind.onnx", [0.0, 9.0, 9.5])  # class 0 everywhere
    (run,) = suite([blind], None, f"masks:{frames}", "segmentation-fork", repeats=0)
    units = open_dataset(f"masks:{frames}")
    for pair, unit in zip(run.pairs, units, strict=True):
        truth = cv2.resize(unit.labelled.ids(), (320, 240), interpolation=cv2.INTER_NEAREST)  # type: ignore[attr-defined]
        share, ids = (truth == 0).mean(), len(np.unique(truth))  # void is a class of its own there
        assert pair.extra["miou"] == EXACT(share / ids, abs=1e-12)
        assert pair.extra["pixel_accuracy"] == EXACT(share, abs=1e-12)
    assert run.classes == []
    assert run.summary["miou"] == EXACT(np.mean([pair.extra["miou"] for pair in run.pairs]))
    assert run.summary["miou"] < 0.3


def test_the_picture_is_squeezed_over_areas() -> None:
    image = drawn.photo(size=(64, 96))
    small = AREA_SQUEEZE.prepare(image, 3, (32, 48))
    np.testing.assert_allclose(small, image.reshape(32, 2, 48, 2, 3).mean((1, 3)), atol=0.51)
    assert AREA_SQUEEZE.prepare(image, 1, (240, 320)).shape == (240, 320)


def test_a_label_set_that_leaves_classes_out(tmp_path: Path) -> None:
    root = drawn.cityscapes(tmp_path)
    artifact = drawn.network(tmp_path / "a.onnx", [n / 34 for n in range(34)])
    (run,) = suite([artifact], None, f"masks:{root}/leftImg8bit/train", "segmentation", repeats=0)
    assert {row[0] for pair in run.pairs for row in pair.confusion or []} == {7, 21}
    assert not {row[1] for pair in run.pairs for row in pair.confusion or []} & {*LABEL_SETS["cs34"].ignored}
    assert len(run.classes) == 19
    assert run.label in tables.page([run])


# Data


def test_labelled_images_are_a_dataset(frames: Path, tmp_path: Path, lf) -> None:
    units = open_dataset(f"masks:{frames}")
    assert [(unit.sequence, unit.name, unit.kind) for unit in units[:2]] == [
        ("00", "mask", "classes"),
        ("01", "mask", "classes"),
    ]
    assert len(open_dataset(f"masks:{frames}", limit_sequences=3)) == 3
    assert units[0].second.load()[20, 0].tolist() == [0, 0, 0]
    assert units[0].second.load()[20, -1].tolist() == [255, 255, 255]
    before = dataset_digest(units)
    mask = frames / "masks" / "00.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert dataset_digest(open_dataset(f"masks:{frames}")) != before


def test_labelled_images_of_a_sweep_are_found_from_its_folder(frames: Path) -> None:
    base = frames.parent
    assert located("masks:frames@cs4", base) == (f"masks:{base}/frames@cs4", frames)
    both = f"masks:{base}/frames/images,{base}/frames/masks@{base}/own.json"
    assert located("masks:frames/images,frames/masks@own.json", base) == (both, frames / "images")
    (base / "a@b").mkdir()
    assert located("masks:a@b", base) == (f"masks:{base}/a@b", base / "a@b")


def test_data_and_protocols_that_do_not_fit(frames: Path, tmp_path: Path, lf) -> None:
    artifact = drawn.network(tmp_path / "a.onnx", [0.0, 1.0]).path
    masks, three = f"masks:{frames}", drawn.network(tmp_path / "b.onnx", [0.0, 1.0, 2.0]).path
    for words, what in (
        (
            (artifact, "--data", masks),
            "protocol kp2d-fixed needs homographies, masks:",
        ),
        (
            (three, "--protocol", "segmentation"),
            "needs labelled images, procedural has homographies; type a dataset of labelled images, such as masks:DIR",
        ),
        (
            (artifact, "--data", masks, "--protocol", "segmentation"),
            "tells 2 classes apart, label set masks has 3; name",
        ),
        (("wren", "--data", masks, "--protocol", "segmentation"), "has no output segmentation, its outputs: "),
    ):
        code, _, error = lf("bench", *words, "--repeats", 0)
        assert (code, error.count("\n")) == (2, 1), error
        assert what in error
    code, _, error = lf("score", tmp_path, "--data", masks, "--protocol", "segmentation")
    assert code == 2
    assert "protocol segmentation scores no stored features; expected one of superpoint" in error
    assert error.endswith("or type: lf bench FILE --data DATA --protocol segmentation\n")
    with pytest.raises(
        UsageError,
        match=r"protocol superpoint needs homographies, .* has labelled images; type a dataset of homographies",
    ):
        PROTOCOLS["superpoint"].check(open_dataset(masks), masks)


def test_a_mask_of_another_image_is_refused_by_both_protocols(frames: Path, tmp_path: Path, lf) -> None:
    artifact = drawn.network(tmp_path / "a.onnx", [0.0, 1.0, 9.0]).path
    drawn.save(frames / "masks" / "01.png", drawn.halves(0, 1, (64, 48)))
    for protocol in ("segmentation", "segmentation-fork"):
        words = ("bench", artifact, "--data", f"masks:{frames}", "--protocol", protocol, "--repeats", 0)
        for _ in range(2):  # the second time from the cache
            code, _, error = lf(*words, "--out", tmp_path / protocol)
            assert (code, error.count("\n")) == (5, 1)
            assert "01.png: a mask of 48x64 px for an image of 64x48; expected the same size" in error


def test_a_sweep_over_labelled_images(frames: Path, tmp_path: Path, lf) -> None:
    for name, means in (("right", [0.0, 1.0, 9.0]), ("wrong", [0.3, 0.2, 9.0])):
        drawn.network(tmp_path / f"{name}.onnx", means)
    (tmp_path / "s.toml").write_text(
        'repeats = 0\ngoals = { miou = 0.005 }\n[[model]]\nfile = "right.onnx"\nadd = ["wrong.onnx"]\n'
        '[[data]]\nname = "frames"\nroot = "masks:frames"\nprotocols = ["segmentation"]\n'
    )
    code, _, error = lf("sweep", tmp_path / "s.toml", "--out", tmp_path / "out")
    assert code == 0, error
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"segmentation: 12 images of `masks:{tmp_path}/frames`" in table or "12 images of `masks:frames`" in table
    assert "| missed |" in table


def test_a_map_that_is_not_finite_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, maps = drawn.network(tmp_path / "a.onnx", [0.0, 1.0]), Extractor.maps
    broken = lambda self, image: {name: found / 0.0 for name, found in maps(self, image).items()}  # noqa: E731
    monkeypatch.setattr(Extractor, "maps", broken)
    segment = Segmenter(Extractor(artifact, "ort-cpu"), PROTOCOLS["segmentation"], None)
    with np.errstate(all="ignore"), pytest.raises(BadInput, match=r"a\.onnx: the map segmentation holds a non-finite"):
        segment.logits(drawn.photo())


def test_every_metric_of_the_protocols_is_a_row() -> None:
    for name in ("segmentation", "segmentation-fork"):
        assert {*PROTOCOLS[name].metrics, *PROTOCOLS[name].aggregates} <= METRICS.keys()
