"""Sweeps: the plan and what it must not hold, runs that are computed once, and a page with known numbers."""

from __future__ import annotations

import inspect
import json
import re

import cv2
import numpy as np
import pytest
import tflite_files

from lf.benchmarks.run import results
from lf.benchmarks.run.record import Run
from lf.benchmarks.timing.record import Timing
from lf.core import BadInput, ConversionFailed, DiskFull, LfError, UsageError, fingerprint
from lf.extraction import agreement
from lf.formats import model_file, tflite
from lf.quantize import WRITERS, quantize
from lf.studies import sweep_files, sweep_plan, sweep_runs, sweep_table
from lf.studies.sweep_plan import Row

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PLAN = """
images = "photos"
schemes = ["w8a8", "w4"]
repeats = 0
[[data]]
name = "drawn"
root = "warps:shots"
protocols = ["kp2d", "mma"]
[[model]]
file = "tiny.onnx"
"""


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(agreement, "PICTURES", 1)


@pytest.fixture
def place(tmp_path, tiny):
    """A folder with a random network, three photos to calibrate on, two to evaluate on, and PLAN."""
    tiny()
    rng = np.random.default_rng(0)
    for folder, count in (("photos", 3), ("shots", 2)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            blocks = rng.integers(0, 255, (12, 16, 3), np.uint8)
            picture = cv2.resize(blocks, (320, 240), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), picture)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


@pytest.fixture
def lf(lf, place):
    """Run `lf sweep` in this process: exit code, stdout, stderr."""
    return lambda *words: lf("sweep", place / "plan.toml", "--out", place / "out", *words)


@pytest.fixture
def count(monkeypatch):
    """Record what was actually quantized and evaluated."""
    seen = []

    def counted(module, name):
        real = getattr(module, name)

        def call(first, *rest, **options):
            seen.append(name)
            return real(first, *rest, **options)

        monkeypatch.setattr(module, name, call)

    counted(sweep_files, "quantize")
    counted(sweep_runs, "bench")
    return seen


def write(place, old="", new="", more=""):
    text = PLAN.replace(old, new) if old else PLAN
    assert text != PLAN or more
    (place / "plan.toml").write_text(text + more)


FOR_TFLITE = 'schemes = ["w8a8", "w4"]', 'schemes = ["w8a8"]\nbackend = "tflite"'


def load(place):
    return sweep_plan.load(place / "plan.toml", WRITERS, sweep_files.OPTIONS)


def table_of(place):
    return (place / "out" / "table.md").read_text()


# --- the plan


def test_a_plan_is_read_with_its_defaults_and_paths_from_its_own_folder(place):
    write(place, "warps:shots", "warps:photos", 'options = { w4 = { bits = { "a.b" = 8 } } }\n')
    plan = load(place)
    (data,), (network,) = plan.data, plan.networks
    assert (plan.images, plan.backend, plan.threads, plan.repeats) == (place / "photos", "ort-cpu", 1, 0)
    assert (data.root, data.where, data.folder) == ("warps:photos", f"warps:{place / 'photos'}", place / "photos")
    assert (network.name, network.file) == ("tiny", str(place / "tiny.onnx"))
    assert (network.schemes, network.options) == (("w8a8", "w4"), {"w4": {"bits": {"a.b": 8}}})


def test_names_of_shipped_weights_and_plain_folders(place):
    write(place, '"tiny.onnx"', '"wren"')
    assert (load(place).networks[0].name, load(place).networks[0].file) == ("wren", "wren")
    write(place, "warps:shots", "photos")
    assert load(place).data[0].where == str(place / "photos")


def test_a_model_has_schemes_of_its_own_and_files_beside(place):
    write(place, more='schemes = []\nadd = ["tiny.qat-w4a8.onnx", "other.onnx"]\n')
    (network,) = load(place).networks
    assert network.schemes == ()
    assert network.add == {"qat-w4a8": place / "tiny.qat-w4a8.onnx", "other": place / "other.onnx"}


@pytest.mark.parametrize(
    ("old", "new", "kind", "says"),
    [
        ('images = "photos"', "images = [", BadInput, "not TOML"),
        ('images = "photos"', 'image = "photos"', BadInput, "unknown image; did you mean 'images'? known: images"),
        ('images = "photos"', "images = 3", BadInput, "images = 3; expected a text in quotes"),
        ('images = "photos"', "threads = true", BadInput, "threads = True; expected a whole number"),
        ('images = "photos"', "threads = 0", BadInput, "threads = 0; expected at least 1"),
        ("repeats = 0", "repeats = -1", BadInput, "repeats = -1; expected at least 0"),
        ('images = "photos"', 'backend = "ort-cp"', UsageError, "did you mean 'ort-cpu'"),
        ('images = "photos"', 'backend = "torch"', UsageError, "runs no .onnx or .tflite files; these do: ort-cpu"),
        ('["w8a8", "w4"]', '["w8a9"]', UsageError, "unknown scheme 'w8a9'; did you mean 'w8a8'"),
        ('["w8a8", "w4"]', '["w4", "w4"]', BadInput, "w4 twice"),
        ('images = "photos"', 'backend = "tflite"', UsageError, "unknown scheme 'w4'; known: w8a8, w8a8-tensor"),
        ('["w8a8", "w4"]', "[4]", BadInput, "expected a list of names in quotes"),
        ('["kp2d", "mma"]', '["kp2"]', UsageError, "unknown protocol 'kp2'"),
        ('["kp2d", "mma"]', "[]", BadInput, "expected a list of names in quotes"),
        ('name = "drawn"', 'name = "a/b"', BadInput, "part of a file name"),
        ('name = "drawn"\n', "", BadInput, "no name in it; it needs name, root, protocols"),
        ("warps:shots", "wraps:shots", UsageError, "unknown dataset 'wraps'; did you mean 'warps'"),
        ('file = "tiny.onnx"', 'file = "tiny.onnx"\nsize = 3', BadInput, "model 1: unknown size; known: file, schemes"),
        ("[[model]]", "[[data]]", BadInput, "no model in it"),
        ("[[data]]", "[data]", BadInput, "expected a list"),
    ],
)
def test_what_a_plan_must_not_hold(place, old, new, kind, says):
    write(place, old, new)
    with pytest.raises(kind) as error:
        load(place)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        ("options = { w3a8 = {} }", UsageError, "unknown scheme of tiny 'w3a8'; did you mean 'w8a8'"),
        ("options = { w4 = 3 }", BadInput, "options of w4: expected a table with calibration"),
        ("options = { w4 = { speed = 3 } }", BadInput, "options of w4: unknown speed; did you mean 'seed'?"),
        ("options = { w8a8 = { limit = 'x' } }", BadInput, "limit = 'x'; expected a whole number"),
        ('add = ["w4.onnx"]', BadInput, "schemes and added files: w4 twice"),
        ('add = ["a.onnx", "sub/a.onnx"]', BadInput, "schemes and added files: a twice"),
        ('[[model]]\nfile = "sub/tiny.onnx"', BadInput, "models: tiny twice"),
        ("[goals]\nn_matches = 1", BadInput, "goal n_matches = 1; expected a metric that has a better end"),
        ("[goals]\nrepeatability = nan", BadInput, "goal repeatability = nan"),
        ("[goals]\nrepeat = 1", UsageError, "unknown metric 'repeat'"),
    ],
)
def test_what_a_plan_must_not_hold_beside(place, more, kind, says):
    write(place, more=more)
    with pytest.raises(kind) as error:
        load(place)
    assert says in str(error.value)


def test_options_are_those_of_quantize():
    assert sweep_files.OPTIONS.keys() <= inspect.signature(quantize).parameters.keys()


# --- the runs


def test_the_whole_command(place, lf, count):
    write(place, "warps:shots", "procedural:2", "[goals]\nrepeatability = 0.01\n'mma@3' = 1\n")
    (place / "plan.toml").write_text((place / "plan.toml").read_text().replace("repeats = 0", "repeats = 1"))
    out = place / "out"
    code, said, error = lf("--dry-run")
    assert (code, error, out.exists()) == (0, "", False)
    assert "to do: 2 files, 6 runs of 12 pairs, latency of 1 networks" in said
    assert lf() == (0, f"{out / 'table.md'}\n{out / 'results.json'}\n{out / 'report.html'}\n", "")
    assert count == [*["quantize"] * 2, *["bench"] * 6]
    assert {path.name for path in out.iterdir()} == {
        "models",
        "runs",
        "latency",
        "results.json",
        "table.md",
        "report.html",
    }
    runs = results.load(out / "results.json")
    names = [(run.artifact.scheme, run.protocol, bool(run.latency_ms)) for run in runs]
    assert names == [(s, p, p == "kp2d") for s in ("fp32", "w8a8", "w4") for p in ("kp2d", "mma")]
    assert {run.dataset for run in runs} == {"procedural:2"}
    text = table_of(place)
    assert str(place) not in text.replace(runs[0].environment.command, "")
    assert [line for line in text.splitlines() if line[:2] == "##"] == ["## drawn, kp2d", "## drawn, mma", "## Files"]
    assert f"2 pairs of `procedural:2` ({runs[0].dataset_digest[:12]})" in text
    assert "| 3 of photos, percentile, seed 0 |" in text
    assert model_file.load(out / "models" / "tiny.w4.onnx").sha256[:16] in text
    assert "| 1.00 interval: n/a (1 turns) (1.00 interval: n/a (1 turns)) " in text
    assert "the largest tolerated drops from fp32: repeatability 0.01, mma@3 1." in text
    del count[:]
    assert "to do: 0 files, 0 runs of 0 pairs, latency of 0 networks" in lf("--dry-run")[1]
    assert lf()[0] == 0
    assert (count, table_of(place)) == ([], text)


def test_an_interrupted_sweep_goes_on_and_computes_nothing_twice(place, lf, count, monkeypatch):
    real, left = sweep_runs.bench, [3]

    def bench(*words, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(sweep_runs, "bench", bench)
    assert lf()[0] == 130
    assert count == ["quantize", "quantize", "bench", "bench", "bench"]
    assert not (place / "out" / "table.md").exists()
    assert "to do: 0 files, 3 runs of 6 pairs" in lf("--dry-run")[1]
    left[0] = 100
    assert lf()[0] == 0
    assert count == [*["quantize"] * 2, *["bench"] * 6]
    assert not (place / "out" / "cache").exists()


def test_what_changed_is_computed_again_and_nothing_else(place, lf, count):
    lf()
    del count[:]
    damaged = place / "out" / "runs" / "tiny.w4.drawn.mma.json"
    damaged.write_text("{")
    lf()
    assert count == ["bench"]
    assert results.load(damaged)
    del count[:]
    write(place, more="options = { w8a8 = { limit = 1 } }\n")
    lf()
    assert count == ["quantize", "bench", "bench"]
    del count[:]
    (place / "out" / "models" / "tiny.w4.onnx").write_bytes(b"not a model")
    lf()
    assert count == ["quantize"]  # the very same file again: its runs still hold
    del count[:]
    (place / "photos" / "2.png").unlink()
    lf()
    assert count == ["quantize", "bench", "bench"]  # w8a8 is calibrated, w4 is not


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("lf.quantize", ["quantize", "quantize"]),  # the very same files again: their runs still hold
        ("lf.benchmarks.run.evaluate", ["bench"] * 6),
        (None, [*["quantize"] * 2, *["bench"] * 6]),
    ],
)
def test_what_other_code_made_is_made_again_and_nothing_else(place, lf, count, monkeypatch, root, expected):
    lf()
    del count[:]
    real = fingerprint.fingerprint
    monkeypatch.setattr(
        fingerprint, "fingerprint", lambda name: "of other code" if root in (None, name) else real(name)
    )
    assert lf()[0] == 0
    assert count == expected
    del count[:]
    assert lf()[0] == 0
    assert count == []


def test_a_scheme_that_the_guards_refuse_is_a_row_that_says_why(place, lf, monkeypatch):
    real = sweep_files.quantize

    def refusing(parent, scheme, *rest, **options):
        if scheme == "w8a8":
            raise ConversionFailed(f"{parent.path}: would be emulated;\nnothing was written")
        return real(parent, scheme, *rest, **options)

    monkeypatch.setattr(sweep_files, "quantize", refusing)
    assert lf()[0] == 0
    lines = table_of(place).splitlines()
    assert [line.split()[5] for line in lines if line.startswith("| tiny  | w8a8 ")] == ["refused", "refused", "-"]
    assert "- tiny w8a8: tiny.onnx: would be emulated; nothing was written" in lines
    assert "| refused | -" in lf("--dry-run")[1]
    monkeypatch.setattr(sweep_files, "quantize", lambda *rest, **options: pytest.fail("it was refused before"))
    assert lf()[0] == 0


def test_a_full_disk_ends_the_sweep_and_is_not_kept(place, lf, monkeypatch):
    def full(*rest, **options):
        raise DiskFull("a.onnx: the disk is full; nothing was written. Free some space or choose another place")

    for module, name in ((sweep_files, "quantize"), (sweep_runs, "bench")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            code, _, error = lf()
        assert (code, error.splitlines()[-1][:32]) == (1, "lf: a.onnx: the disk is full; no")
    assert lf()[0] == 0
    assert "refused" not in table_of(place)


def test_what_was_asked_for_wrongly_ends_the_sweep(place, lf):
    write(place, more='options = { w8a8 = { bits = { "no.such" = 8 } } }\n')
    code, _, error = lf()
    assert code == UsageError.exit_code
    assert "has no head or convolution 'no.such'" in error


def test_a_file_that_breaks_on_the_data_is_a_row_but_a_float_one_ends_the_sweep(place, lf, monkeypatch):
    real = sweep_runs.bench

    def bench(variant, *rest, **options):
        if variant.artifact.card.scheme == broken:
            raise LfError("features hold a non-finite value")
        return real(variant, *rest, **options)

    monkeypatch.setattr(sweep_runs, "bench", bench)
    broken = "w4"
    assert lf()[0] == 0
    assert "- tiny w4: features hold a non-finite value" in table_of(place)
    assert "| tiny  | w4     | refused " in table_of(place)
    broken = "fp32"
    write(place, "[[model]]", "[[model]]\nschemes = []", '[[data]]\nname="b"\nroot="procedural:1"\nprotocols=["kp2d"]')
    assert lf()[0::2] == (LfError.exit_code, "lf: features hold a non-finite value\n")


def test_files_beside(place, lf, tiny):
    made = quantize(model_file.load(place / "tiny.onnx"), "w4", None, place / "tiny.trained.onnx")
    step = {"command": "quantize", "calibration": {"method": "learned", "files": []}}
    model_file.save(place / "tiny.qat.onnx", made.path.read_bytes(), made.card.step(scheme="w4", made=step))
    write(place, '["w8a8", "w4"]', "[]", 'add = ["tiny.trained.onnx", "tiny.qat.onnx"]\n')
    assert lf()[0] == 0
    assert "| tiny  | trained | tiny.trained.onnx | " + made.sha256[:16] in table_of(place)
    assert re.search(r"\| tiny .*\| tiny.qat.onnx .*\| learned +\| -", table_of(place))
    tiny("other.onnx", "superpoint")
    write(place, more='add = ["other.onnx"]\n')
    assert "is superpoint .onnx; beside tiny.onnx stands another .onnx file of wren" in lf()[2]
    write(place, '"tiny.onnx"', '"tiny.trained.onnx"')
    assert "is w4; a sweep starts from float" in lf()[2]


def test_a_file_of_one_size_is_refused_where_others_are_evaluated(place, lf, tiny):
    tiny(size=(240, 320))
    code, _, error = lf()
    assert code == UsageError.exit_code
    assert "takes 240x320 only, other sizes are evaluated by mma; export it again with a free size" in error


def test_the_backend_says_what_is_made_of_the_networks(place, monkeypatch):
    """Both files for LiteRT, of the protocols' size, from the one ONNX file; the converter is not the subject."""
    asked, data = [], tflite.write(tflite_files.heads("wren", floats=True)[0])

    def stand_in(name, writer):
        def call(artifact, what, *rest, **options):
            out = next(path for path in rest if getattr(path, "suffix", "") == ".tflite")
            asked.append((name, artifact.path.name, artifact.card.size, what, out.name, options.get("writer")))
            return model_file.save(out, data, artifact.card)

        return call

    monkeypatch.setattr("lf.export.export", stand_in("export", None))
    monkeypatch.setattr(sweep_files, "quantize", stand_in("quantize", "tflite"))
    write(place, *FOR_TFLITE)
    (place / "plan.toml").write_text((place / "plan.toml").read_text().replace('"mma"', '"kp2d-tiny"'))
    for _ in range(2):  # the second time both are there
        rows = sweep_files.make(load(place), place / "out", lambda *_: None)
        assert [(row.scheme, row.artifact.path.name) for row in rows] == [
            ("fp32", "tiny.tflite"),
            ("w8a8", "tiny.w8a8.tflite"),
        ]
    assert asked == [
        ("export", "tiny.onnx", (240, 320), "tflite", "tiny.tflite", None),
        ("quantize", "tiny.onnx", (240, 320), "w8a8", "tiny.w8a8.tflite", "tflite"),
    ]


@pytest.mark.parametrize(
    ("row", "size"), [("wren", (240, 320)), ("edgepoint2-t32", (224, 320)), ("alike-t", (256, 320))]
)
def test_files_of_one_size_have_that_which_the_network_is_shown(place, tiny, row, size):
    write(place, *FOR_TFLITE)
    plan = (place / "plan.toml").read_text().replace('"mma"', '"kp2d-tiny"')
    (place / "plan.toml").write_text(plan)
    assert sweep_files._fit(tiny(row=row), load(place)).card.size == size
    of_one_size = tiny(row=row, size=size)
    assert sweep_files._fit(of_one_size, load(place)).card.size == size


def test_files_of_one_size_do_for_one_size(place, lf):
    write(place, *FOR_TFLITE)
    says = "files for tflite take one size, and this plan has kp2d at 240x320, mma at any; make a plan for each"
    assert says in lf()[2]


def test_photos_of_the_data_calibrate_nothing(place, lf):
    write(place, "warps:shots", "warps:photos")
    code, _, error = lf()
    assert code == BadInput.exit_code
    assert "of data drawn is 0.png, which files are calibrated on; take other photos" in error
    assert not (place / "out").exists()


# --- the page


def run(network="net", scheme="fp32", protocol="kp2d-fixed", size=2_000_000, **metrics):
    """A run with these values of pairs; metric -> list, one per pair."""
    pairs = [dict(zip(metrics, values, strict=True)) for values in zip(*metrics.values(), strict=True)]
    made = {
        "artifact": {"model": network, "scheme": scheme, "bytes": size},
        "backend": "ort-cpu",
        "protocol": protocol,
        "protocol_digest": "digest of the protocol",
        "dataset_digest": "digest of data",
        "summary": {n: sum(values) / len(values) if None not in values else None for n, values in metrics.items()},
        "pairs": [{"sequence": f"v_{n}", "pair": "1_2", **pair} for n, pair in enumerate(pairs)],
    }
    return Run.from_dict(made, "test")


def timing(network, whole, **changes):
    """The timing fields of twelve turns; ratios as given, medians of the times that say otherwise."""
    ratios = {"network": network, "end_to_end": whole}
    made = {
        "latency_ms": {phase: {"p50": 7 * value, "n": 12} for phase, value in ratios.items()},
        "ratio": {"to": "net"} | {phase: {"value": v, "interval": [v, v]} for phase, v in ratios.items()},
        "void": None,
    }
    return Timing.from_dict(made | changes, "test")


def cells(rows, runs, goals, latency=None):
    text = sweep_table.table(rows, {(r.artifact.model, r.artifact.scheme): r for r in runs}, goals, {}, latency or {})
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_known_numbers_with_the_right_signs():
    """Both are 0.25 worse on every pair: repeatability falls, the error rises; fewer points are neither."""
    better = {"repeatability": [0.5, 0.75], "localization_error": [1.0, 1.5], "n_matches": [100, 100]}
    worse = {"repeatability": [0.25, 0.5], "localization_error": [1.25, 1.75], "n_matches": [9, 9]}
    runs = [
        run(**{name: values * 5 for name, values in better.items()}),
        run(scheme="w8a8", size=500_000, **{name: values * 5 for name, values in worse.items()}),
    ]
    rows = [Row("net", scheme, None) for scheme in ("fp32", "w8a8", "w4")]
    latency = {("net", "fp32"): timing(1, 1), ("net", "w8a8"): timing(0.4, 0.75)}
    head, _, *lines = cells(rows, runs, {}, latency)
    assert head == ["model", "scheme", "repeat.", "loc. px", "MB", "time"]
    assert lines == [
        ["net", "fp32", "0.625", "1.250", "2.00", "1.00 [1.00, 1.00] (1.00 [1.00, 1.00])"],
        [
            *("net", "w8a8", "0.375 +0.250 [+0.250, +0.250]", "1.500 +0.250 [+0.250, +0.250]", "0.50"),
            "0.40 [0.40, 0.40] (0.75 [0.75, 0.75])",
        ],
        ["net", "w4", "to do", "", "", ""],
    ]


def test_void_times_say_why_below_the_table():
    runs = [run(repeatability=[0.5]), run(scheme="w8a8", repeatability=[0.5])]
    latency = {("net", "fp32"): timing(1, 1), ("net", "w8a8"): timing(0.4, 0.75, void="busy")}
    _, _, first, second, *foot = cells([Row("net", s, None) for s in ("fp32", "w8a8")], runs, {}, latency)
    assert (first[-1][-4:], second[-1][-5:]) == ("00])", " void")
    assert foot == [
        [""],
        ["- net w8a8: void: busy"],
        [""],
        [
            "Void times are not usable: stop other programs, delete the folder `latency` and repeat the command.",
        ],
    ]


def test_each_network_is_compared_with_its_own_float_file():
    runs = [
        run("a", repeatability=[0.5] * 10),
        run("a", "w8a8", repeatability=[0.5] * 10),
        run("b", repeatability=[0.75] * 10),
        run("b", "w8a8", repeatability=[0.5] * 10),
    ]
    lines = cells([Row(n, s, None) for n in "ab" for s in ("fp32", "w8a8")], runs, {})[2:]
    assert [line[2].partition(" ")[2] for line in lines] == [
        "",
        "+0.000 [+0.000, +0.000]",
        "",
        "+0.250 [+0.250, +0.250]",
    ]


@pytest.mark.parametrize(
    ("drops", "mark"),
    [
        ([0.01] * 10, ""),
        ([0.03] * 10, "!"),
        ([0.1, -0.1] * 5, "?"),  # the mean is 0, but ten pairs cannot show it
        ([-0.1] * 10, ""),
        ([0.01] * 9, "?"),  # fewer pairs show nothing
        ([0.03] * 9, "!"),
    ],
)
def test_a_goal_is_met_missed_or_not_shown(drops, mark):
    base = run(repeatability=[0.5] * len(drops), localization_error=[1.0] * len(drops))
    other = run(scheme="w8a8", repeatability=[0.5 - d for d in drops], localization_error=[1 + d for d in drops])
    goals = {"repeatability": 0.02, "localization_error": 0.02, "mma@3": 0.02}
    assert sweep_table.verdicts(base, other, goals) == {"repeatability": mark, "localization_error": mark}
    _, _, first, second = cells([Row("net", s, None) for s in ("fp32", "w8a8")], [base, other], goals)
    assert (first[-1], second[-1]) == ("-", {"": "met", "!": "missed", "?": "not shown"}[mark])
    assert second[2].endswith(("]" if len(drops) > 9 else "interval: n/a (9 pairs)") + f" {mark}".rstrip())


def test_what_is_undefined_on_every_pair_misses_its_goal():
    base, other = run(localization_error=[1.0, 1.0]), run(scheme="w8a8", localization_error=[None, None])
    assert sweep_table.verdicts(base, other, {"localization_error": 0.02}) == {"localization_error": "!"}
    assert cells([Row("net", s, None) for s in ("fp32", "w8a8")], [base, other], {})[3][2] == "- -"


def test_goals_that_are_no_column_become_one():
    runs = [run(protocol="mma", **{"mma@2": [0.5], "mma@3": [0.5]})]
    assert cells([Row("net", "fp32", None)], runs, {"mma@2": 0.01})[0] == [
        "model",
        "scheme",
        "mma@3",
        "mma@2",
        "MB",
        "time",
        "goals",
    ]


def test_a_reference_times_all_files_in_turns(place, lf, monkeypatch):
    seen = []

    def timings(variants, *rest):
        seen.append(([(each.artifact.path.stem, each.backend) for each in variants], rest[-1]))
        return [timing(n + 1, n + 1) for n in range(len(variants))]

    def write(reference):
        text = PLAN.replace("repeats = 0", f'repeats = 1\nreference = "{reference}"')
        (place / "plan.toml").write_text(text + '[[model]]\nfile = "sift"\n')

    monkeypatch.setattr(sweep_runs, "timings", timings)
    write("sift")
    assert "latency of 2 networks" in lf("--dry-run")[1]
    assert lf()[0] == 0
    files = [("tiny", "ort-cpu"), ("tiny.w8a8", "ort-cpu"), ("tiny.w4", "ort-cpu"), ("sift", "opencv")]
    assert seen == [(files, 3)]
    text = table_of(place)
    assert "px divided by sift's in the same turn" in text
    assert re.search(r"\| sift +\| fp32 +\| .* 4\.00 \[4\.00, 4\.00\]", text)
    assert "to do: 0 files, 0 runs of 0 pairs, latency of 0 networks" in lf("--dry-run")[1]
    write("tiny")
    lf()
    assert seen[1:] == [(files, 0)]
    write("orb")
    code, _, error = lf()
    assert code == UsageError.exit_code
    assert "unknown reference 'orb'; known: tiny, sift" in error


def test_latency_is_kept_for_just_these_files(place, lf, monkeypatch):
    seen = []

    def timings(variants, *rest):
        seen.append([variant.artifact.card.scheme for variant in variants])
        return [timing(n + 1, n + 1) for n in range(len(variants))]

    monkeypatch.setattr(sweep_runs, "timings", timings)
    write(place, "repeats = 0", "repeats = 1")
    lf()
    lf()
    assert seen == [["fp32", "w8a8", "w4"]]
    assert "| 3.00 [3.00, 3.00] (3.00 [3.00, 3.00]) |" in table_of(place)
    (place / "plan.toml").write_text((place / "plan.toml").read_text().replace('["w8a8", "w4"]', '["w4"]'))
    lf()
    assert seen[1:] == [["fp32", "w4"]]
    assert "| 2.00 [2.00, 2.00] (2.00 [2.00, 2.00]) |" in table_of(place)
    assert json.loads((place / "out" / "latency" / "tiny.json").read_text())["timings"].keys() == {"fp32", "w4"}
    monkeypatch.setattr(fingerprint, "fingerprint", lambda name: "of other code")
    lf()
    assert seen[2:] == [["fp32", "w4"]]
    kept = place / "out" / "latency" / "tiny.json"
    for damage in ("timings", "w4"):
        data = json.loads(kept.read_text())
        data["timings"] = 3 if damage == "timings" else {**data["timings"], "w4": {"void": 3}}
        kept.write_text(json.dumps(data))
        lf()
        assert seen.pop() == ["fp32", "w4"], "damaged: measured again"
    assert len(seen) == 3
