"""The command line: its output and exit codes, and a walk over hostile input: one line each, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lf import __version__, cli
from lf.cli import renamed
from lf.core import Card, console
from lf.formats import model_file
from lf.models import checkpoint
from lf.models.superpoint import network as superpoint
from lf.runtimes import BACKENDS
from lf.train import RECIPES

WEIGHTS = {"origin": "a test", "sha256": "00", "licence": "none"}
SUFFIXES = (*model_file.CODECS, ".pth", ".pt", ".pth.tar")
FEW = [f"--set={s}" for s in ("steps=2", "batch=1", "size=64", "pictures=2", "picture_size=64", "points=8", "relabel=")]


class Said(NamedTuple):
    """Result of a command: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def done(self):
        """Check success: the result on stdout, nothing on a stderr that is not a terminal."""
        assert (self.code, self.err) == (0, ""), self.err
        return self.out

    def refused(self, code):
        """Check a refusal: nothing on stdout, one line on stderr."""
        assert self.code == code, self.err
        assert self.out == ""
        assert self.err.startswith("lf: ")
        assert self.err.count("\n") == 1
        assert "internal error" not in self.err
        return self.err.removesuffix("\n")


@pytest.fixture
def lf(lf):
    """Run a command in this process; what it said."""
    return lambda *words: Said(*lf(*words))


def start(*words, **options):
    """Run a command in a process of its own, in which an interrupt is an interrupt whoever started the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "lf.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def finish(process):
    """Return the output, with a shell's exit code: Python interrupted inside an exec() dies of the signal."""
    out, err = process.communicate(timeout=60)
    return Said(process.returncode if process.returncode >= 0 else 128 - process.returncode, out, err)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def picture(path, *shape, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    high = np.iinfo(dtype).max
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, high, shape, dtype, endpoint=True))


@pytest.fixture
def scenes(tmp_path):
    """A folder in the HPatches layout: one sequence of one pair."""
    root = tmp_path / "scenes"
    for name in ("1.png", "2.png"):
        picture(root / "i_a" / name, 240, 320, 3)
    (root / "i_a" / "H_1_2").write_text("1 0 0\n0 1 0\n0 0 1\n")
    return root


@pytest.fixture
def enough(scenes):
    """The same with as many pairs as a gate needs; their second images differ in one pixel."""
    second = cv2.imread(str(scenes / "i_a" / "2.png"))
    for number in range(2, 12):
        second[0, 0] = number
        cv2.imwrite(str(scenes / "i_a" / f"{number}.png"), second)
        (scenes / "i_a" / f"H_1_{number}").write_text((scenes / "i_a" / "H_1_2").read_text())
    return scenes


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Checkpoints with random weights: Wren's as lf writes them, SuperPoint's as the public ones are."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    checkpoint.save(folder / "wren.safetensors", checkpoint.build("wren"), Card("wren", WEIGHTS, (1, None, None)))
    state = checkpoint.build("superpoint").state_dict()
    torch.save({superpoint._flat(name): value for name, value in state.items()}, folder / "superpoint.pth")
    return folder


# --- what works


def test_help_and_version(lf):
    assert lf("--version").done() == f"lf {__version__}\n"
    words = lf("--help").done()
    assert lf().done() == words
    for command in (
        "export",
        "quantize",
        "bench",
        "compare",
        "baseline",
        "train",
        "inspect",
        "doctor",
        "models",
        "demo",
        "time",
        "live",
        "search",
    ):
        assert command in words
        assert "--help" in lf(command, "--help").done()


def test_the_help_of_train_says_what_each_recipe_is(lf):
    words = " ".join(lf("train", "--help").done().split())
    for name, recipe in RECIPES.items():
        assert f"{name}: {recipe.about}" in words


@pytest.mark.parametrize(("place", "typed"), renamed.OPTIONS.items())
def test_old_spellings_name_the_new_one(lf, place, typed):
    command, option = place
    line = lf(*command.split(), option).refused(2)
    assert line == f"lf: {option} of lf {command} has moved; type: {typed} (docs/reference/migration.md)"


def test_every_option_fits_the_width_of_a_terminal(lf, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = lf("--help").done()
    assert max(map(len, words.splitlines())) <= 80
    assert "…" not in words
    assert lf("-h").done() == words


def test_doctor_names_every_backend(lf):
    text, rows = lf("doctor").done(), json.loads(lf("doctor", "--json").done())["checks"]
    assert {row["name"] for row in rows} >= {"cpu", *BACKENDS}
    assert len(text.splitlines()) == len(rows)
    for line, row in zip(text.splitlines(), rows, strict=True):
        assert line.startswith("ok " if row["ok"] else "-- ")


def test_inspect_prints_the_card_and_how_it_was_made(lf, tiny):
    artifact = tiny()
    used = {"count": 1, "files": [{"name": "a" * 99, "sha256": "b"}]}
    card = artifact.card.step(made={"command": "quantize", "limit": 3, "calibration": used})
    model_file.save(artifact.path, artifact.path.read_bytes(), card)
    text, data = lf("inspect", artifact.path).done(), json.loads(lf("inspect", artifact.path, "--json").done())
    assert data["sha256"] == model_file.load(artifact.path).sha256
    assert Card.from_json(json.dumps(data), "stdout") == card
    assert "step 1: quantize\n  limit                        3\n" in text
    assert "calibration.files            1 entries" in text
    assert "aaa" not in text


@pytest.mark.parametrize("name", ["wren.safetensors", "superpoint.pth"])
def test_inspect_knows_checkpoints(lf, weights, name):
    data = json.loads(lf("inspect", weights / name, "--json").done())
    assert data["model"] == Path(name).stem
    assert data["bytes"] == (weights / name).stat().st_size


def test_a_gate_on_one_pair_is_undecided(lf, tiny, scenes, tmp_path):
    page = lf("bench", tiny().path, "--data", scenes, "--protocol", "kp2d", "--repeats", 0, "--out", tmp_path).done()
    assert "interval: n/a (1 pairs)" in page
    kept, gates = tmp_path / "results.json", tmp_path / "gates.toml"
    (run,) = json.loads(kept.read_text())["runs"]
    assert run["intervals"]["repeatability"] is run["intervals_by_split"]["i"]["repeatability"] is None
    gates.write_text('[[gate]]\nmetric = "repeatability"\nmax_drop = 0.0\nconfidence = 0.95\n')
    failed = lf("compare", kept, kept, "--gates", gates)
    assert failed.code == 3
    assert "| undecided | wren fp32 ort-cpu kp2d | repeatability |" in failed.out
    assert "repeatability may drop by 0, undecided: 1 pairs, at least 10 needed (" in failed.err
    (verdict,) = json.loads(lf("compare", kept, kept, "--gates", gates, "--json").out)["verdicts"]
    assert (verdict["passed"], verdict["undecided"], verdict["bound"], verdict["pairs"]) == (False, True, None, 1)


def test_bench_prints_what_it_keeps_and_compare_judges_it(lf, tiny, enough, tmp_path):
    words = ("bench", tiny().path, "--data", enough, "--protocol", "kp2d", "--repeats", 0, "--out", tmp_path / "out")
    first = lf(*words).done()
    kept = tmp_path / "out" / "results.json"
    assert first.splitlines()[-1] == str(kept)
    assert "| wren" in first
    said = lf(*words, "--json")
    assert said.err == f"{kept}: holds the same runs and is replaced\nwrote {kept}\n"
    other = lf("bench", "sift", *words[2:]).refused(2)
    assert other == f"lf: {kept}: holds other runs (wren fp32 ort-cpu); choose another --out, or delete it"
    (run,) = json.loads(said.out)["runs"]
    assert json.loads(kept.read_text())["runs"] == [run]
    assert [pair["pair"] for pair in run["pairs"]] == [f"1_{number}" for number in range(2, 12)]

    gates = tmp_path / "gates.toml"
    gates.write_text('[[gate]]\nmetric = "repeatability"\nmax_drop = 0.0\n')
    assert "pass" in lf("compare", kept, kept, "--gates", gates).done()
    baseline = tmp_path / "new" / "baseline.json"
    assert lf("baseline", "accept", kept, "-o", baseline).done() == f"{baseline}\n"
    assert json.loads(baseline.read_text()) == json.loads(kept.read_text())
    for pair in run["pairs"]:
        pair["repeatability"] -= 0.5
    kept.write_text(json.dumps({"schema": 1, "runs": [run]}))
    failed = lf("compare", baseline, kept, "--gates", gates, "--json")
    assert failed.code == 3
    assert failed.err.startswith(
        "lf: 1 of 1 gates failed: wren fp32 ort-cpu kp2d: repeatability may drop by 0, the bound"
    )
    assert [verdict["passed"] for verdict in json.loads(failed.out)["verdicts"]] == [False]


def test_compare_writes_the_step_summary(lf, tiny, enough, tmp_path, monkeypatch):
    lf("bench", tiny().path, "--data", enough, "--repeats", 0, "--out", tmp_path).done()
    (tmp_path / "gates.toml").write_text('[[gate]]\nmetric = "repeatability"\nmax_drop = 0.0\n')
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    table = lf("compare", *[tmp_path / "results.json"] * 2, "--gates", tmp_path / "gates.toml").done()
    assert (tmp_path / "summary.md").read_text() == table


def test_train_prints_the_path_of_its_weights(lf, tmp_path):
    path = lf("train", "wren", "--out", tmp_path, "--device", "cpu", *FEW).done().strip()
    assert path == str(tmp_path / "wren.safetensors")
    assert json.loads(lf("inspect", path, "--json").done())["made"][0]["options"]["steps"] == 2


# --- usage


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["bogus"], r"No such command 'bogus' \(see lf --help\)"),
        (["baseline"], r"Missing command \(see lf baseline --help\)"),
        (["bench"], r"Missing argument 'FILE' \(see lf bench --help\)"),
        (["bench", "x.onnx", "--threads", "0"], "Invalid value for '--threads'"),
        (["models", "--jsn"], r"No such option: --jsn \(Possible options: --json\)"),
        (["bench", "FILE", "--zzz", "1"], r"No such option: --zzz \(see lf bench --help\)"),
        (["bench", "FILE", "--backend", "ort-cpux"], "unknown backend 'ort-cpux'; did you mean 'ort-cpu'"),
        (["bench", "FILE", "--protocol", "kp3d"], "unknown protocol 'kp3d'; did you mean 'kp2d'"),
        (["bench", "FILE", "--data", "hpatchez:x"], "unknown dataset 'hpatchez'; did you mean 'hpatches'"),
        (["bench", "FILE", "--data", "procedural:many"], "'procedural:many' needs a number of sequences"),
        (["bench", "FILE", "--backend", "torch"], "backend torch runs .safetensors, "),
        (["train", "wrenn", "--out", "X"], "unknown recipe 'wrenn'; did you mean 'wren'? known: swift"),
        (["train", "wren", "--out", "X", "--set", "step=3"], "unknown recipe setting 'step'; did you mean 'steps'"),
        (["train", "wren", "--out", "X", "--device", "tpu"], "unknown device 'tpu'; "),
        (["inspect", "nosuch"], "'nosuch' is neither a file nor shipped weights"),
        (
            ["export", "FILE", "--size", "240"],
            "--size 240: expected HEIGHTxWIDTH in pixels, for example --size 240x320",
        ),
        (["export", "wren", "--size", "²40x320"], "--size ²40x320: expected HEIGHTxWIDTH in pixels"),
        (["export", "wren", "--size", "80000x80000"], "--size 80000x80000: expected at most 100 million pixels"),
        (["export", "FILE", "--cut", "features", "-o", "FILE"], "is the input file; choose another"),
        (["quantize", "FILE", "--images", "X", "-o", "FILE"], "is the input file; choose"),
        (["quantize", "FILE", "--bits", "a=³"], "--bits a=³: expected LAYER=BITS, for example"),
        (["quantize", "FILE", "--images", "X", "--seed", "-1"], "Invalid value for '--seed'"),
        (["search", "FILE", "--images", "X", "--max-drop", ""], "--max-drop : expected METRIC=NUMBER with commas"),
        (["label", "FILE", "--photos", "X", "--out", "X", "--shard", "²/4"], "--shard ²/4: expected I/N, for"),
        (["export", "FILE", "--to", "onyx"], "unknown export target 'onyx'; did you mean 'onnx'"),
        (["quantize", "FILE", "--images", "X", "--scheme", "w8a9"], "unknown scheme 'w8a9'; did you mean 'w8a8'"),
    ],
)
def test_usage_errors_say_what_there_is(lf, tiny, tmp_path, words, text):
    model = tiny().path
    before = contents(tmp_path)
    said = lf(*[{"FILE": model, "X": tmp_path / "x"}.get(word, word) for word in words])
    assert text.replace("\\", "") in said.refused(2)
    assert contents(tmp_path) == before


@pytest.mark.skipif(
    "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers(), reason="CUDA is there"
)
def test_a_provider_that_is_not_there(lf, tiny, scenes):
    line = lf("bench", tiny().path, "--backend", "ort-cuda", "--data", scenes).refused(4)
    assert "which has CPUExecutionProvider; type: pip uninstall onnxruntime && pip install" in line


def test_a_package_that_is_not_there(tmp_path, weights):
    """A device without torch is asked for something that needs it."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    said = finish(start("inspect", weights / "superpoint.pth", env={**os.environ, "PYTHONPATH": str(tmp_path)}))
    assert said.refused(4) == "lf: the package torch is not installed; lf doctor says what to type"


# --- hostile model files


def _missing(path, good):
    pass


def _empty(path, good):
    path.touch()


def _cut(path, good):
    path.write_bytes(good[: len(good) // 2])


def _text(path, good):
    path.write_text("To be, or not to be, that is the question.\n")


def _folder(path, good):
    path.mkdir()


def _image(path, good):
    path.write_bytes(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes())


SAYS = {_missing: "no such file", _empty: "is empty", _folder: "is a folder"}


@pytest.mark.parametrize("command", ["inspect", "bench", "export", "quantize"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", [_missing, _empty, _cut, _text, _folder, _image])
def test_no_model(lf, tiny, weights, scenes, tmp_path, damage, suffix, command):
    good = {".onnx": tiny().path, ".safetensors": weights / "wren.safetensors"}.get(suffix, weights / "superpoint.pth")
    path = tmp_path / f"broken{suffix}"
    damage(path, good.read_bytes())
    words = {"bench": ["--data", scenes], "quantize": ["--images", scenes], "export": [], "inspect": []}[command]
    output = ["-o", tmp_path / "made.onnx"] if command in ("export", "quantize") else []
    before = contents(tmp_path)
    line = lf(command, path, *words, *output).refused(5)
    assert line.startswith(f"lf: {path}: ")
    assert SAYS.get(damage, "") in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_a_public_checkpoint_without_one_tensor(lf, weights, tmp_path, command):
    state = torch.load(weights / "superpoint.pth", weights_only=True)
    del state["convDb.bias"]
    path = tmp_path / "superpoint.pth"
    torch.save(state, path)
    line = lf(command, path).refused(5)
    assert line == f"lf: {path}: checkpoint looks like superpoint but convDb.bias is missing; expected (256,)"


def test_a_checkpoint_of_ours_without_one_tensor(lf, weights, scenes, tmp_path):
    tensors = load_tensors((weights / "wren.safetensors").read_bytes())
    del tensors["descriptor.1.bias"]
    path = model_file.save(
        tmp_path / "w.safetensors", save_tensors(tensors), Card("wren", WEIGHTS, (1, None, None))
    ).path
    line = lf("bench", path, "--backend", "torch", "--data", scenes).refused(5)
    assert "descriptor.1.bias is missing; expected (64,)" in line


def test_a_model_without_a_card(lf, tmp_path, weights):
    path = tmp_path / "bare.safetensors"
    path.write_bytes(save_tensors({"a": np.zeros(3)}))
    assert "its 1 tensors (a (3,), ...) fit no known family; known: superpoint," in lf("inspect", path).refused(5)
    path = path.with_suffix(".onnx")
    path.write_bytes(bytes.fromhex("3a00"))  # an empty graph
    assert "carries no card to say what it is; make it with: lf export" in lf("inspect", path).refused(5)


@pytest.mark.parametrize("command", ["bench", "export", "quantize", "inspect"])
def test_a_card_of_an_unknown_network(lf, weights, scenes, tmp_path, tiny, command):
    suffix = {"export": ".safetensors"}.get(command, ".onnx")
    source = weights / "wren.safetensors" if suffix == ".safetensors" else tiny().path
    path = model_file.save(tmp_path / f"x{suffix}", source.read_bytes(), Card("dodo", WEIGHTS, (1, None, None))).path
    words = {"bench": ["--data", scenes], "quantize": ["--images", scenes]}.get(command, [])
    assert f"{path}: its card names model 'dodo'; known: superpoint, " in lf(command, path, *words).refused(5)


# --- hostile data


def _break(name, data):
    return lambda root: (root / "i_a" / name).write_bytes(data)


def _png_cut(root):
    path = root / "i_a" / "2.png"
    path.write_bytes(path.read_bytes()[:5000])


def _nothing(root):
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_break("2.png", b""), "2.png: 0 bytes that do not decode"),
        (_break("2.png", b"no picture"), "2.png: 10 bytes that do not decode (damaged, cut short, or no image)"),
        (_png_cut, "2.png: 5000 bytes that do not decode"),
        (lambda root: picture(root / "i_a" / "2.png", 1, 1, 3), "2.png: 1 x 1 pixels; expected at least 16 x 16"),
        (lambda root: (root / "i_a" / "2.png").unlink(), "i_a: image 2 is missing; expected 2 with one of .ppm, .png"),
        (_break("H_1_2", b"1 0 0 0"), "H_1_2: 4 numbers, expected 9"),
        (_break("H_1_2", b"one two"), "H_1_2: cannot be read as a homography"),
        (_break("H_1_2", b"\xff\xfe"), "H_1_2: cannot be read as a homography"),
        (_break("H_1_2", b"0 0 0 0 0 0 0 0 0"), "H_1_2: the homography has no inverse"),
        (lambda root: (root / "i_a" / "H_1_2").unlink(), "i_a: holds no homography; expected files H_1_2, H_1_3 ..."),
        (_nothing, "scenes: holds no sequence; expected folders named i_* or v_*"),
        (shutil.rmtree, "scenes: no such folder; expected one that holds sequences"),
    ],
)
def test_no_dataset(lf, tiny, scenes, tmp_path, damage, text):
    damage(scenes)
    model, before = tiny().path, contents(scenes)
    line = lf("bench", model, "--data", scenes, "--repeats", 0, "--out", tmp_path / "out").refused(5)
    assert text in line
    if scenes.exists():
        assert contents(scenes) == before
    left = [*(tmp_path / "out").rglob("*.*")]
    whole = {".npz", ".json"}  # features of whole images, and which image has which
    assert all(path.suffix in whole and path.name[0] != "." for path in left)


def test_16_bit_pictures_are_pictures(lf, tiny, scenes):
    picture(scenes / "i_a" / "2.png", 240, 320, 3, dtype=np.uint16)
    lf("bench", tiny().path, "--data", scenes, "--repeats", 0).done()


@pytest.mark.parametrize("command", ["quantize", "train"])
@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (lambda folder: None, "photos: no such folder"),
        (lambda folder: folder.mkdir(), "photos: holds no image; expected files with one of .png"),
        (lambda folder: folder.touch(), "photos: no such folder"),
    ],
)
def test_no_photos(lf, tiny, tmp_path, command, prepare, text):
    prepare(tmp_path / "photos")
    words = {
        "quantize": ["quantize", tiny(size=(48, 64)).path, "-o", tmp_path / "q.onnx", "--images", tmp_path / "photos"],
        "train": ["train", "wren", "--out", tmp_path / "out", "--photos", tmp_path / "photos"],
    }[command]
    before = contents(tmp_path)
    assert text in lf(*words).refused(5)
    assert {name for name in contents(tmp_path) if name not in before} <= {"out", "out/recipe.json"}


@pytest.mark.parametrize(
    ("which", "content", "text"),
    [
        (0, None, "a.json: no such file; expected a results file of: lf bench FILE --out DIR"),
        (0, "", "a.json: is empty; expected a results file"),
        (1, "{", "b.json: not JSON"),
        (1, "{}", "b.json: no runs in it"),
        (1, '{"schema": 1, "runs": [{}]}', "b.json: runs[0].artifact is missing, expected an object"),
        (2, "", "g.toml: is empty; expected a gates file"),
        (2, "gate = 3", "g.toml: no [[gate]] in it"),
    ],
)
def test_no_results(lf, tmp_path, which, content, text):
    run = {"artifact": {"model": "m", "scheme": "s"}, "backend": "b", "protocol": "p", "protocol_digest": "d"}
    run |= {"dataset_digest": "d", "summary": {"repeatability": 1}, "pairs": [{"sequence": "s", "pair": "1_2"}]}
    good = json.dumps({"schema": 1, "runs": [run]})
    paths = [tmp_path / name for name in ("a.json", "b.json", "g.toml")]
    for path, words in zip(paths, (good, good, '[[gate]]\nmetric = "repeatability"\nmax_drop = 0'), strict=True):
        path.write_text(words)
    paths[which].unlink() if content is None else paths[which].write_text(content)
    assert text in lf("compare", *paths[:2], "--gates", paths[2]).refused(5)


def test_a_file_without_permission_is_bad_input_like_a_missing_one(lf, tmp_path, monkeypatch):
    """The permissions themselves do not keep root out; typer would ask `os.access` and end with 2."""
    for name in ("a.json", "g.toml", "a.png"):
        (tmp_path / name).write_bytes(b"closed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda *given, **more: False)
    for words in (
        ("compare", "a.json", "a.json", "--gates", "g.toml"),
        ("baseline", "accept", "a.json", "-o", "out.json"),
        ("match", "a.png", "a.png", "--model", "wren"),
        ("match", "a.png", "a.png", "--model", "wren", "--homography", "g.toml"),
        ("live", "g.toml"),
        ("score", "a.json", "--protocol", "kp2d"),
        ("check", "g.toml"),
    ):
        lf(*words).refused(5)


@contextmanager
def terminal(monkeypatch):
    """Stderr is one; a function that reads what is said there until it has said a word."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    kept = os.dup(2)
    os.dup2(theirs, 2)
    try:
        with open(2, "w", closefd=False) as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            patch.setenv("TERM", "xterm")

            def until(word):
                said, end = "", time.monotonic() + 10
                while word not in said and time.monotonic() < end:
                    with suppress(BlockingIOError):
                        said += os.read(ours, 1 << 16).decode()
                    time.sleep(0.01)
                return said

            yield until
    finally:
        os.dup2(kept, 2)
        for end in (ours, theirs, kept):
            os.close(end)


def test_a_note_is_heard_while_libraries_are_kept_quiet(capfd):
    with console.quiet(), console.quiet():
        console.note("a note")
        os.write(2, b"a library")
    console.note("another")
    assert capfd.readouterr().err == "a note\nanother\n"


def test_progress_is_seen_while_libraries_are_kept_quiet(capfd, monkeypatch):
    with terminal(monkeypatch) as until:
        with console.progress() as progress, console.quiet():
            progress(1, 2, "bench")
            os.write(2, b"a library")
            bar = until("bench")
        os.write(2, b"heard again")
        rest = until("heard again")
    assert "bench" in bar
    assert "library" not in bar + rest
    assert rest.endswith("heard again")


# --- places that cannot be written


@pytest.fixture
def photos(tmp_path):
    """A folder of one photo that is of no benchmark."""
    picture(tmp_path / "photos" / "a.png", 240, 320, 3)
    return tmp_path / "photos"


@pytest.mark.parametrize(("options", "told"), [((), True), (("--rounding", "gptq"), False)])
def test_photos_that_nothing_looked_at_are_told(lf, tiny, photos, tmp_path, options, told):
    said = lf("quantize", tiny().path, "--scheme", "w4", "--images", photos, *options, "-o", tmp_path / "made.onnx")
    assert said.code == 0
    assert said.err == ("--images is ignored: scheme w4 needs no calibration images\n" if told else "")


def writers(model, scenes, photos, where):
    """Commands that write below a folder."""
    return {
        "bench": ["bench", model, "--data", scenes, "--repeats", 0, "--out", where],
        "train": ["train", "wren", "--device", "cpu", *FEW, "--out", where],
        "quantize": ["quantize", model, "--images", photos, "-o", where / "made.onnx"],
    }


@pytest.mark.parametrize("command", ["bench", "train", "quantize"])
def test_an_unwritable_output(lf, tiny, scenes, photos, tmp_path, command):
    (tmp_path / "file").write_bytes(b"")  # a folder without permission would not stop root
    words = writers(tiny(size=(240, 320)).path, scenes, photos, tmp_path / "file" / "out")[command]
    before = contents(tmp_path)
    assert "cannot be written (" in lf(*words).refused(2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("words", [["--out", "file/out"], ["--github-benchmark", "file/chart.json"]])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_timed(lf, tiny, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lf.benchmarks.run.suite.latencies", lambda *given, **more: pytest.fail("it is timed"))
    Path("file").write_bytes(b"")
    assert f"{words[1].partition('.')[0]}" in (line := lf("time", tiny().path, *words).refused(2))
    assert "cannot be written (" in line


@pytest.mark.parametrize("command", ["bench", "train", "quantize"])
def test_a_full_disk(lf, tiny, scenes, photos, tmp_path, monkeypatch, command):
    words = writers(tiny(size=(240, 320)).path, scenes, photos, tmp_path / "out")[command]
    genuine = Path.write_bytes

    def write(path, data):
        if tmp_path / "out" not in path.parents:
            return genuine(path, data)
        genuine(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)
    assert "the disk is full; nothing was written" in lf(*words).refused(1)
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pictures", "file", "left"),
    [
        ("picture_size=64", "checkpoint.pt", {"recipe.json", "pictures.npy", "pictures.json", "log.jsonl"}),
        ("picture_size=320", "pictures.npy", set()),
    ],
)
def test_a_disk_that_fills_in_the_middle(tmp_path, pictures, file, left):
    """The kernel limits files of this process to 64 kB, so settings fit and weights do not."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    words = ["train", "wren", "--device", "cpu", *FEW, "--set", pictures, "--out", tmp_path]
    command = [sys.executable, "-m", "lf.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60)
    line = Said(done.returncode, done.stdout, done.stderr).refused(2)
    assert f"{file}: cannot be written (File too large)" in line
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout(unbuffered):
    with open("/dev/full", "w") as full:
        command, place = [sys.executable, "-m", "lf.cli", "models"], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=place)
    assert (done.returncode, done.stderr) == (1, "lf: output: No space left on device\n")


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_output_is_one_that_nobody_reads(closed):
    command = [sys.executable, "-m", "lf.cli", *(["models"] if closed == 1 else ["inspect", "nothing"])]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.close(closed), timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0 if closed == 1 else 2, "", "")


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [
        ("utf-8", b"\xff", b"\xff"),
        ("ascii", "é".encode(), b"\\xe9"),
        ("ascii", b"\xff", b"\\udcff"),
        ("latin-1", "日".encode(), b"\\u65e5"),
    ],
)
def test_names_of_other_encodings_are_printed(tmp_path, scenes, encoding, name, shown):
    (scenes / "i_a").rename(scenes / os.fsdecode(b"i_" + name))
    command = [sys.executable, "-m", "lf.cli", "data", "list", scenes]
    place = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, timeout=60, env=place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"i_" + shown + b" ")


def test_a_reader_that_leaves():
    process = start("models")
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


# --- interruption


def test_an_interrupt_while_the_command_is_imported_is_one_line(monkeypatch, capfd):
    class Interrupted:
        def find_spec(self, name, path, target=None):
            if name == "lf.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lf.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("lf", run_name="__main__")
    assert (left.value.code, *capfd.readouterr()) == (130, "", "lf: interrupted\n")


def wait_for(found, process):
    for _ in range(600):
        if found():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.slow
def test_an_interrupted_training_leaves_whole_files(tmp_path):
    """That it resumes to the last bit is shown in test_train."""
    words = [word.replace("steps=2", "steps=100000") for word in FEW]
    with start("train", "wren", "--device", "cpu", "--out", tmp_path, *words) as process:
        wait_for((tmp_path / "recipe.json").exists, process)
        process.send_signal(signal.SIGINT)
        assert (
            finish(process).refused(130).startswith("lf: interrupted; nothing half-written is left, the same command")
        )
    assert list(contents(tmp_path)) == ["recipe.json"]


@pytest.mark.slow
def test_an_interrupted_bench_resumes(lf, tiny, tmp_path):
    words = ("bench", tiny().path, "--data", "procedural:5000", "--repeats", 0, "--out", tmp_path / "out")
    with start(*words) as process:
        wait_for(lambda: len([*tmp_path.rglob("cache/*/[!.]*.npz")]) > 3, process)
        process.send_signal(signal.SIGINT)
        finish(process).refused(130)
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    assert {path.suffix for path in left} == {".npz"}
    assert all(np.load(path, allow_pickle=False)["keypoints"].shape[1] == 2 for path in left)
    lf(*words, "--limit-sequences", 1).done()
    assert {path: path.stat().st_mtime_ns for path in left} == left  # nothing is computed twice


def test_an_internal_error_is_one_line_unless_debugged(lf, monkeypatch):
    monkeypatch.setattr("lf.models.resolve.resolve", lambda name: {}[name])
    said = lf("inspect", "x")
    assert (said.code, said.err) == (1, "lf: internal error: KeyError: 'x' (set LF_DEBUG=1 for the traceback)\n")
    monkeypatch.setenv("LF_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["lf", "inspect", "x"])
    with pytest.raises(KeyError):
        cli.main()


def test_data_list_names_sequences_and_who_leaves_them_out(lf, scenes):
    told = lf("data", "list", scenes)
    assert told.out.splitlines()[-1].endswith(" pairs")
    for name in (path.name for path in scenes.iterdir() if path.is_dir()):
        assert any(line.startswith(name) for line in told.out.splitlines())
    (scenes / "i_dc").symlink_to(next(path for path in scenes.iterdir() if path.name.startswith("i_")))
    assert any(
        line.startswith("i_dc ") and line.endswith("not in mma") for line in lf("data", "list", scenes).out.splitlines()
    )
    assert json.loads(lf("data", "list", scenes, "--json").out)["i_dc"]["left_out_by"] == ["mma"]
