"""From image to keypoints: a fake session shows what the shared path does; real ones must be what was asked for."""

from __future__ import annotations

import importlib
import os
import re
import time
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx_files
import onnxruntime
import pytest
import tflite_files
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lf.core import Artifact, BadInput, Card, LfError, SessionInfo, Unavailable, UsageError, machine
from lf.extraction import extractor as extract
from lf.extraction.extractor import PHASES, Clock, Extractor, restore
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.runtimes import BACKENDS, edgetpu, open_session, ort
from lf.studies import doctor

CUDA = "CUDAExecutionProvider"
PROVIDERS = (
    "cpu",
    "XNNPACK",
    "edgetpu",
    "CPU f32",
    "CPU bf16",
    "OpenVINOExecutionProvider",
)  # of engines whose row names none
WEIGHTS = {"origin": "a test", "sha256": "00", "licence": "none"}


class Fake:
    """A session that keeps what it is shown and answers with a function."""

    info = SessionInfo("fake", "0", "fake", 1)

    def __init__(self, answer):
        self.answer = answer
        self.seen = []

    def run(self, image):
        self.seen.append(image)
        return self.answer(image)


@pytest.fixture
def extractor(monkeypatch):
    """Make an Extractor with the session `Fake(answer)` from (row, answer, size)."""

    def make(row, answer, size=None, **settings):
        monkeypatch.setattr(extract, "open_session", lambda *_: Fake(answer))
        card = Card(row, WEIGHTS, (MODELS[row].channels, *(size or (None, None))))
        return Extractor(Artifact(Path("fake.onnx"), card), "fake", **settings)

    return make


def peaks(*points):
    """Answer of a SuperPoint that is sure of some pixels of its image, the first most, and of nothing else."""

    def answer(image):
        height, width = image.shape[2:]
        detector = np.zeros((1, 65, height // 8, width // 8), np.float32)
        detector[:, 64] = 20
        for rank, (x, y) in enumerate(points):
            detector[0, y % 8 * 8 + x % 8, y // 8, x // 8] = 22 - rank
        return {"detector": detector, "descriptor": np.ones((1, 256, *detector.shape[2:]), np.float32)}

    return answer


def one_point(x, y):
    """Answer of an R2D2 that finds one point at the same pixel of every level, better the smaller the level."""

    def answer(image):
        height, width = image.shape[2:]
        found = np.full((1, 1, height, width), -20, np.float32)
        found[..., y, x] = 4000 / width
        return {
            "descriptor": np.ones((1, 128, height, width), np.float32),
            "reliability": np.full_like(found, 20),
            "repeatability": found,
        }

    return answer


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# --- single scale


@pytest.mark.parametrize("image", [(48, 64), (96, 128), (31, 200), (48, 65), (16, 16)])
def test_a_fixed_size_maps_back_half_pixel_exact(extractor, image):
    points = np.array([(20, 10), (50, 40), (8, 30)])
    run = extractor("superpoint", peaks(*points.tolist()), (48, 64))
    features = run(noise(*image))
    scale = np.array([image[1] / 64, image[0] / 48])
    np.testing.assert_allclose(features.keypoints, (points + 0.5) * scale - 0.5, atol=1e-5)
    assert features.size == image[::-1]
    assert run.session.seen[0].shape == (1, 1, 48, 64)


@pytest.mark.parametrize("image", [(48, 64), (96, 128), (31, 200)])
def test_a_size_that_is_asked_for_is_that_of_a_file_made_for_it(extractor, image):
    picture, answer = noise(*image), peaks((20, 10), (50, 40))
    asked, made = (extractor("superpoint", answer, **how) for how in ({"resize": (48, 64)}, {"size": (48, 64)}))
    np.testing.assert_array_equal(asked(picture).keypoints, made(picture).keypoints)
    np.testing.assert_array_equal(asked.session.seen[0], made.session.seen[0])
    asked._opened = "ort-cpu", 1
    again = asked.again()
    again(picture)
    assert again.session.seen[0].shape == (1, 1, 48, 64)


@pytest.mark.parametrize(
    ("row", "size", "resize", "text"),
    [
        ("superpoint", None, (48, 60), "`size=48x60`: superpoint needs multiples of 8; for example `size=48x64`"),
        ("superpoint", (48, 64), (24, 32), r"`size=24x32`: fake\.onnx takes 48x64 only; leave `size` out"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(extractor, row, size, resize, text):
    with pytest.raises(UsageError, match=text):
        extractor(row, peaks(), size, resize=resize)


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_restored_areas_are_aligned(old, new):
    borders = restore(np.array([[-0.5, -0.5], [new - 0.5, new - 0.5]], np.float32), np.full(2, old / new, np.float32))
    np.testing.assert_allclose(borders, [[-0.5, -0.5], [old - 0.5, old - 0.5]], rtol=1e-5)


@pytest.mark.parametrize(
    ("row", "image", "cut"), [("superpoint", (53, 70), (48, 64)), ("fast-r2d2", (33, 21), (32, 20))]
)
def test_what_is_more_than_a_multiple_is_cut_off_right_and_below(extractor, row, image, cut):
    answer = peaks((20, 10)) if row == "superpoint" else one_point(5, 6)
    run, pixels = extractor(row, answer), noise(*image)
    features = run(pixels)
    assert features.keypoints.tolist() == ([[20, 10]] if row == "superpoint" else [[5, 6]])
    assert run.session.seen[0].shape == (1, MODELS[row].channels, *cut)
    assert np.array_equal(run.session.seen[0][0, 0], pixels[: cut[0], : cut[1]] / np.float32(255))


@pytest.mark.parametrize(("row", "size"), [("superpoint", (7, 64)), ("wren", (64, 7)), ("superpoint", (1, 1))])
def test_less_than_a_cell_is_refused(extractor, row, size):
    with pytest.raises(BadInput, match=f"an image of {size[1]}x{size[0]} is too small; expected at least 8x8"):
        extractor(row, peaks())(noise(*size))


def test_colours_become_what_the_network_takes(extractor):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    grey = np.full((16, 16), 51, np.uint8)
    shown = {}
    for row, answer in {"superpoint": peaks(), "r2d2": one_point(1, 1)}.items():
        run = extractor(row, answer)
        run(red), run(grey)
        shown[row] = [image[0, :, 3, 4].tolist() for image in run.session.seen]
    assert shown["superpoint"] == [[pytest.approx(76 / 255)], [pytest.approx(0.2)]]  # 0.299 of 255
    assert shown["r2d2"] == [[1, 0, 0], [pytest.approx(0.2)] * 3]


def test_the_session_gets_contiguous_float32_in_0_1(extractor):
    run = extractor("r2d2", one_point(1, 1))
    run(noise(20, 30, 3))
    (image,) = run.session.seen
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert 0 <= image.min() < 0.01
    assert 0.99 < image.max() <= 1


def test_settings_override_the_published_ones(extractor):
    points = (20, 10), (50, 40)
    assert len(extractor("superpoint", peaks(*points))(noise(48, 64))) == 2
    assert len(extractor("superpoint", peaks(*points), border=12)(noise(48, 64))) == 0
    assert len(extractor("superpoint", peaks(*points), top_k=1)(noise(48, 64))) == 1


@pytest.mark.parametrize(
    ("row", "nms"), [("wren", None), ("wren", 9), ("kp2dtiny-s-coral", None), ("kp2dtiny-s-coral", 9)]
)
def test_the_best_points_are_the_first_of_all(tiny, row, nms):
    extractor, image = Extractor(tiny(row=row), "ort-cpu", nms=nms), noise(120, 160, 3)
    every, some = extractor(image), extractor(image, top_k=7)
    assert len(every) > len(some) == 7
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[:7])


def test_a_clock_has_every_phase_and_adds_up(extractor):
    def slow(image):
        time.sleep(0.01)
        return peaks((20, 10))(image)

    run, clock = extractor("superpoint", slow), Clock()
    start = time.perf_counter()
    run(noise(48, 64), clock)
    once = dict(clock.seconds)
    run(noise(48, 64), clock)
    total = time.perf_counter() - start
    assert tuple(once) == PHASES
    assert all(0 < once[phase] < clock.seconds[phase] for phase in PHASES)
    assert once["network"] >= 0.01
    assert sum(clock.seconds.values()) <= total


# --- what a broken backend gives


def broken(head, value):
    def answer(image):
        maps = peaks((20, 10))(image)
        maps[head][:] = value
        return maps

    return answer


@pytest.mark.parametrize(
    ("head", "value", "text"),
    [
        (
            "detector",
            np.nan,
            r"fake\.onnx: the detector map holds a non-finite value, expected finite numbers; its weights",
        ),
        ("descriptor", np.inf, "the descriptor map holds a non-finite value"),
        (
            "descriptor",
            0,
            r"fake\.onnx: a descriptor has length 0, expected 1; its weights or their quantization are broken",
        ),
    ],
)
def test_broken_maps_are_caught(extractor, head, value, text):
    with pytest.raises(LfError, match=text):
        extractor("superpoint", broken(head, value))(noise(48, 64))


def test_a_decoder_that_forgets_to_normalise_is_caught(extractor, monkeypatch):
    long = replace(MODELS["wren"], decode=lambda maps, **_: (np.zeros((2, 2)), np.ones(2), np.array([[1.0], [1.5]])))
    monkeypatch.setitem(MODELS, "wren", long)
    with pytest.raises(LfError, match=r"a descriptor has length 1\.5, expected 1"):
        extractor("wren", peaks())(noise(48, 64))


# --- the pyramid: docs of the publication, arXiv 1906.06195; levels counted by hand

LEVELS = {
    (640, 480): [(640, 480), (538, 404), (453, 339), (381, 285), (320, 240), (269, 202)],
    (1600, 1200): [(951, 714), (800, 600), (673, 505), (566, 424), (476, 357), (400, 300), (336, 252), (283, 212)],
    (256, 200): [(256, 200)],
    (300, 400): [(300, 400), (252, 336), (212, 283)],
}


@pytest.mark.parametrize("size", LEVELS)
def test_pyramid_levels(extractor, size):
    run = extractor("r2d2", one_point(2, 3))
    features = run.pyramid(np.zeros((size[1], size[0]), np.uint8))
    levels = [image.shape[:1:-1] for image in run.session.seen]
    assert levels == LEVELS[size]
    expected = [(2 * size[0] / w, 3 * size[1] / h) for w, h in levels]  # no half pixel, as published
    np.testing.assert_allclose(features.keypoints[::-1], expected, rtol=1e-6)  # smallest level first: the best score
    first = next(n for n in range(20) if round(size[0] / 2 ** (n / 4)) == levels[0][0])
    np.testing.assert_allclose(
        features.scales[::-1], [32 * 2 ** ((first + n) / 4) for n in range(len(levels))], rtol=1e-6
    )
    assert np.all(np.diff(features.scores) <= 0)
    assert features.size == size


@pytest.mark.parametrize(
    ("row", "levels"),
    [
        ("r2d2", [(1024, 2), (861, 1), (724, 1), (609, 1), (512, 1), (431, 1), (362, 1)]),
        ("fast-r2d2", [(1024, 2)]),  # whose sides are even
    ],
)
def test_a_thin_picture_has_the_levels_that_it_can_have(extractor, row, levels):
    run = extractor(row, one_point(2, 0))
    assert len(run.pyramid(np.zeros((13, 8192), np.uint8))) == len(levels)
    assert [image.shape[:1:-1] for image in run.session.seen] == levels
    with pytest.raises(BadInput, match="an image of 8192x1 is too small for any level of the pyramid"):
        run.pyramid(np.zeros((1, 8192), np.uint8))


def test_every_level_is_resized_from_the_one_before(extractor):
    run = extractor("r2d2", one_point(2, 3))
    run.pyramid(noise(300, 400, 3))
    for before, after in zip(run.session.seen, run.session.seen[1:], strict=False):
        published = F.interpolate(torch.from_numpy(before), after.shape[2:], mode="bilinear", align_corners=False)
        np.testing.assert_allclose(after, published, atol=1e-4)  # OpenCV rounds its weights


def test_a_pyramid_keeps_the_best_of_all_levels(extractor, monkeypatch):
    row = replace(MODELS["r2d2"], pyramid={**MODELS["r2d2"].pyramid, "top_k": 2})
    monkeypatch.setitem(MODELS, "r2d2", row)
    assert extractor("r2d2", one_point(2, 3)).pyramid(noise(480, 640)).scales.tolist() == pytest.approx(
        [32 * 2**1.25, 32 * 2]
    )


@pytest.mark.parametrize(
    ("row", "size", "image", "text"),
    [
        ("r2d2", None, (200, 255), "an image of 255x200 is too small for any level of the pyramid"),
        ("r2d2", (240, 320), (480, 640), r"fake\.onnx: a pyramid needs every size; export it again without `size`"),
        ("superpoint", None, (480, 640), r"fake\.onnx: superpoint has no published pyramid"),
    ],
)
def test_no_pyramid_without_levels(extractor, row, size, image, text):
    with pytest.raises(BadInput, match=text):
        extractor(row, one_point(2, 3), size).pyramid(noise(*image))


# --- engines


@pytest.fixture
def fitting(tiny, tmp_path):
    """(backend, size) -> a file that it runs, on images of `size` if it takes one size only."""
    torch.manual_seed(0)
    module = checkpoint.build("wren")
    made = {
        ".onnx": tiny(),
        ".safetensors": checkpoint.save(tmp_path / "w.safetensors", module, Card("wren", WEIGHTS, (1, None, None))),
        ".card": model_file.save(tmp_path / "orb.card", b"", Card("orb", WEIGHTS, (1, None, None))),
    }

    def one_size(suffix, size):
        model = tflite_files.heads("wren", size)[0] if suffix == ".tflite" else tflite_files.compiled("wren", size)
        return tflite_files.save(tmp_path / f"wren{suffix}", model, "wren", size)

    def fit(backend, size=(48, 64)):
        suffixes = BACKENDS[backend].suffixes
        if suffixes[0].endswith(".tflite"):
            return one_size(suffixes[0], size)
        return next(made[suffix] for suffix in suffixes if suffix in made)

    return fit


def available(backend):
    if backend == "edgetpu":
        return edgetpu.examine()[0] and edgetpu.LIBRARY not in os.environ
    row = BACKENDS[backend]
    examine = getattr(importlib.import_module(row.module), "examine", None) if row.installed else None
    return row.installed and (examine is None or examine(**row.options)[0])


SLOW = {"torch-compile": [pytest.mark.slow]}  # it compiles, for every size anew
RUNNABLE = [
    pytest.param(b, marks=[pytest.mark.skipif(not available(b), reason=f"no {b} here"), *SLOW.get(b, [])])
    for b in BACKENDS
]


@pytest.mark.parametrize("backend", RUNNABLE)
@pytest.mark.parametrize("size", [(48, 64), (16, 24)])
def test_every_session_gives_every_head_at_its_stride(fitting, backend, size):
    artifact = fitting(backend, size)
    session, model = open_session(artifact, backend, threads=1), MODELS[artifact.card.model]
    maps = session.run(np.random.default_rng(0).random((1, 1, *size), np.float32))
    assert {name: value.shape[:2] for name, value in maps.items()} == {n: (1, c) for n, (c, _) in model.heads.items()}
    if model.module:  # a baseline gives a list of points, not a map
        assert all(maps[n].shape[2:] == (size[0] // s, size[1] // s) for n, (_, s) in model.heads.items())
    assert {value.dtype for value in maps.values()} == {np.dtype(np.float32)}
    assert session.info.threads == 1
    assert session.info.provider in (
        *(BACKENDS[backend].options.get("provider"), *PROVIDERS),
        *("CPU f32", "CPU bf16"),
    )


@pytest.mark.parametrize("backend", RUNNABLE)
def test_every_session_is_repeatable_and_leaves_its_input_alone(fitting, backend):
    image = np.random.default_rng(0).random((1, 1, 48, 64), np.float32)
    before = image.copy()
    session = open_session(fitting(backend), backend)
    first, second = (session.run(image) for _ in range(2))
    assert np.array_equal(image, before)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_unknown_backend_gets_a_hint(tiny):
    with pytest.raises(UsageError, match=r"unknown backend 'ortcpu'; did you mean 'ort-cpu'\? known: torch, ort-cpu, "):
        open_session(tiny(), "ortcpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_wrong_kind_of_file_is_named(backend):
    artifact = Artifact(Path("m.txt"), Card("wren", WEIGHTS, (1, None, None)))
    takes = ", ".join(BACKENDS[backend].suffixes)
    with pytest.raises(
        UsageError,
        match=re.escape(f"m.txt: backend {backend} runs {takes}; make such a file with {BACKENDS[backend].maker}"),
    ):
        open_session(artifact, backend)


@pytest.mark.parametrize("backend", [name for name, row in BACKENDS.items() if row.extra])
def test_a_missing_package_names_its_extra(fitting, monkeypatch, backend):
    artifact, row = fitting(backend), BACKENDS[backend]
    monkeypatch.setitem(BACKENDS, backend, replace(row, package="engine_of_the_moon"))
    with pytest.raises(Unavailable) as caught:
        open_session(artifact, backend)
    assert str(caught.value) == (
        f'backend {backend} needs the package engine_of_the_moon; type: pip install "lf-keypoints[{row.extra}]"'
    )


@pytest.mark.skipif(available("ort-cuda"), reason="CUDA is really there")
def test_cuda_that_is_not_there_is_not_replaced_by_the_cpu(tiny):
    with pytest.raises(
        Unavailable, match=rf"{CUDA} is not in this onnxruntime .+, which has CPUEx.+lf-keypoints\[ort-gpu\]"
    ) as caught:
        open_session(tiny(), "ort-cuda")
    assert caught.value.exit_code == 4


def falls_back(*_, **__):
    class Session:
        def get_providers(self):
            return ["CPUExecutionProvider"]

    return Session()


def warns(*_, **__):
    warnings.warn("CUDA is broken, falling back", UserWarning, stacklevel=2)


def fails(*_, **__):
    raise RuntimeError("libcudnn.so.9: cannot open\nand much more")


@pytest.mark.parametrize(
    ("session", "text"),
    [
        (falls_back, f"{CUDA} was requested, but CPUExecutionProvider would run; see: lf doctor"),
        (warns, f"{CUDA} was requested, but ONNX Runtime would use another: CUDA is broken"),
        (fails, f"{CUDA} cannot run .+tiny.onnx: libcudnn.so.9: cannot open and much more; see: lf doctor"),
    ],
)
def test_a_provider_that_gives_up_is_an_error(tiny, monkeypatch, session, text):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(Unavailable, match=text):
        open_session(tiny(), "ort-cuda")


def test_onnx_that_onnx_runtime_refuses_is_named(tiny, capfd):
    artifact = tiny()
    data = artifact.path.read_bytes()
    artifact.path.write_bytes(data.replace(b"Conv", b"Cnov"))
    with pytest.raises(BadInput, match=r"tiny\.onnx: ONNX Runtime cannot load it: .*Cnov") as caught:
        open_session(model_file.load(artifact.path), "ort-cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""  # where it would tell that it tries another provider


def test_an_image_that_the_graph_does_not_take_is_named(tiny):
    with pytest.raises(BadInput, match=r"tiny\.onnx: ONNX Runtime cannot run it on \(1, 3, 48, 64\): .+") as caught:
        open_session(tiny(), "ort-cpu").run(np.zeros((1, 3, 48, 64), np.float32))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_than_the_card_says(fitting):
    path = fitting("torch").path
    model_file.save(path, path.read_bytes(), replace(model_file.load(path).card, model="superpoint"))
    with pytest.raises(BadInput, match=r"w\.safetensors: .*superpoint"):
        open_session(model_file.load(path), "torch")


# --- doctor


def test_doctor_knows_every_backend_and_extra():
    rows = {row["name"]: row for row in doctor.examine()}
    assert {"cpu", *BACKENDS} <= rows.keys()
    assert {f"lf[{row.extra}]" for row in BACKENDS.values() if row.extra} <= rows.keys()
    assert rows["torch"]["ok"]
    assert rows["ort-cuda"]["ok"] or 'pip install "lf-keypoints[ort-gpu]"' in rows["ort-cuda"]["detail"]


def test_doctor_says_what_to_type(monkeypatch):
    monkeypatch.setitem(BACKENDS, "torch", replace(BACKENDS["torch"], package="engine_of_the_moon"))
    monkeypatch.setattr(doctor, "_version", lambda package: "1" if package.startswith("onnxruntime") else None)
    rows = {row["name"]: row for row in doctor.examine()}
    assert (rows["torch"]["ok"], 'not installed: pip install "lf-keypoints[torch]"' in rows["torch"]["detail"]) == (
        False,
        True,
    )
    assert "uninstall both, install one" in rows["conflict"]["detail"]
    assert rows["lf[torch]"]["detail"] == 'missing safetensors, torch: pip install "lf-keypoints[torch]"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model name\t: Xeon: fast\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: second\nflags\t: amx_int8\n",
            ("Xeon: fast", ["avx2", "avx512_vnni"]),
        ),
        ("processor : 0\nBogoMIPS : 108\nFeatures : fp asimd asimddp\n", (None, ["asimddp"])),
        ("", (None, [])),
    ],
)
def test_cpu_reads_what_linux_says(monkeypatch, text, expected):
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    name, flags = machine.cpu()
    assert flags == expected[1]
    assert name == (expected[0] or machine.platform.machine())


def test_cpu_elsewhere_has_a_name(monkeypatch):
    def refuse(_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    name, flags = machine.cpu()
    assert name
    assert flags == []


def test_an_image_file_and_its_array_are_one(tiny, tmp_path):
    """The whole path once, on a real session: nothing of it needs more than a file and an image."""
    run = Extractor(tiny(row="superpoint", size=(48, 64)), "ort-cpu", threshold=0.05)
    pixels = noise(96, 128, 3)
    features = run(pixels)
    assert len(features)
    again = run(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    assert np.array_equal(features.keypoints, again.keypoints)


SHARED = "layers share 8-bit weights, which ONNX Runtime computes in float on a processor without VNNI"


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_sums_of_the_largest_8_bit_products_do_not_saturate(layers, tmp_path, capsys):
    """On x86 without VNNI, ONNX Runtime adds these products in 16 bits unless exact products are requested."""
    path = tmp_path / "brightest.onnx"
    path.write_bytes(onnx_files.brightest(layers=layers))
    white = np.ones((1, 3, 16, 16), np.float32)
    card = Card("superpoint", WEIGHTS, (3, None, None))
    found = ort.open_session(Artifact(path, card), 1, ort.CPU).run(white)["sum"]
    np.testing.assert_allclose(found, (3 * 127) ** layers, rtol=1e-6)
    assert capsys.readouterr().err.strip() in {"", f"lf: {SHARED}" if layers > 1 else ""}


def test_nor_where_a_file_is_made():
    session = onnxruntime.InferenceSession(onnx_files.brightest(), ort.making(), providers=[ort.CPU])
    (found,) = session.run(None, {"image": np.ones((1, 3, 16, 16), np.float32)})
    np.testing.assert_allclose(found, 3 * 127, rtol=1e-6)
