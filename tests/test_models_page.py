"""`lf models`: what is stored beside a network is counted, derived, or compared with the documents."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lf.benchmarks.run.record import Run
from lf.edgetpu import check, fix
from lf.models import COUNTED, MODELS, NETWORKS, UNKNOWN_LICENCE, resolve
from lf.quantize import quantize
from lf.runtimes import BACKENDS
from lf.studies import model_card, models_page
from scripts import camera_table, comparison_table

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100  # columns of a terminal that the table must fit
EVERY = [name for name, row in BACKENDS.items() if row.suffixes != (".card",)]


def said(done):
    """Stdout of a command that did what it should."""
    code, text, error = done
    assert (code, error) == (0, "")
    return text


# --- numbers of rows


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_network(name):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    row = NETWORKS[name]
    with torch.device("meta"), torch.no_grad():
        network = row.build().eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, row.channels, *row.fitted(COUNTED)))
    found = {
        "parameters": sum(values.numel() for values in network.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
    }
    assert found == {"parameters": row.parameters, "multiply_adds": row.multiply_adds}, f"type it in the row of {name}"


@pytest.mark.parametrize(("name", "length"), [("sift", 128), ("orb", 256), ("alike-n", 128), ("kp2d", 256)])
def test_the_length_of_a_descriptor_is_that_of_its_head(name, length):
    assert MODELS[name].length == length


@pytest.mark.parametrize("name", MODELS)
def test_licences_and_sources_are_complete(name):
    row = MODELS[name]
    assert row.code_licence != UNKNOWN_LICENCE
    assert not row.source or re.fullmatch(r"(GitHub|PyPI|Zenodo) [^,]+, \S+", row.source)
    assert row.module or not row.source


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["wren", "swift", "superpoint-small", "kp2dtiny-s-coral", "edgepoint2-t32", "alike-t"]
)  # a network of each kind: half a minute and more
@pytest.mark.usefixtures("few_pictures")
def test_the_edge_tpu_takes_what_the_row_says(network, drawn_photos, tmp_path, name):
    parent, out = network(name, loud=True), tmp_path / "small.tflite"
    made = quantize(parent, "w8a8", drawn_photos, out, writer="tflite", rounding="nearest")
    repaired, _ = fix.repair(made.path.read_bytes(), "small.tflite")
    report = check.examine(repaired, "small.tflite")
    assert not report.rejected
    assert {each.name for each in report.operators if each.state == "cpu" and each.rule != "region"} == set(
        MODELS[name].on_cpu
    )


# --- the tables of docs/families.md


def documented():
    """(first row, its last one, licence, where) of each line of the table of networks of others."""
    text = (ROOT / "docs" / "families.md").read_text()
    for line in re.findall(r"^\| `(.*) \|$", text.partition("\n## ")[0], re.MULTILINE):
        names, _, licence, where = (cell.strip() for cell in f"`{line}".split(" | "))
        named = re.findall(r"`([^`]+)`", names)
        yield named, "..." in names, licence, where.replace("`", "").removesuffix(" ...")


def test_the_documents_say_of_licences_and_sources_what_the_rows_say():
    seen = []
    for named, between, licence, where in documented():
        rows = [*MODELS]
        inside = rows[rows.index(named[0]) : rows.index(named[-1]) + 1] if between else named
        assert where in (MODELS[named[0]].source, MODELS[named[0]].source.partition(",")[0]), named
        assert {MODELS[name].licence for name in inside} == {licence}, named
        seen += inside
    public = {name for name, row in NETWORKS.items() if row.source}
    assert set(seen) == public


# --- the command


def test_the_table_fits_and_has_every_row(lf):
    head, *lines = said(lf("models")).splitlines()
    assert max(map(len, (head, *lines))) <= WIDTH
    for line, (name, row) in zip(lines, MODELS.items(), strict=False):
        assert line.startswith(name)
        assert f"{row.parameters:,}" in line or not row.module
    assert lines[len(MODELS)] == ""
    assert lines[-1] == "One network in full: lf models NAME"


def test_json_has_every_fact(lf):
    rows = json.loads(said(lf("models", "--json")))
    assert list(rows) == list(MODELS)
    found = rows["edgepoint2-e64"]
    assert found["licence"] == {"code": "MIT", "weights": "MIT"}
    assert found["source"] == "GitHub HITCSC/EdgePoint2, weights/E64.pth"
    assert (found["parameters"], found["multiply_adds"], found["descriptor_length"]) == (154_628, 1_954_713_600, 64)
    assert found["heads"] == {"score": [4, 2], "descriptor": [64, 4]}
    assert found["backends"] == EVERY
    assert found["int8"]["float_heads"] == ["score"]
    assert found["int8"]["float_layers"] == []
    assert rows["aliked-t16"]["int8"]["float_layers"] == list(MODELS["aliked-t16"].float_layers) != []
    assert found["int8"]["schemes"]["tflite"] == ["w8a8", "w8a8-tensor"]
    assert rows["sift"]["int8"] is None
    assert rows["sift"]["backends"] == ["opencv"]
    assert json.loads(said(lf("models", "wren", "--json"))) == {"wren": rows["wren"]}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("edgepoint2-e64", "multiply-adds       1,954,713,600 for an image of 480x640"),
        (
            "edgepoint2-e64",
            "weights             GitHub HITCSC/EdgePoint2, weights/E64.pth",
        ),
        ("wren", "licence of weights  Apache-2.0"),
        ("wren", "image               grey, sides of multiples of 8"),
        ("swift-large", "weights             no public ones; recipes of lf train: swift-large"),
        ("kp2d-v1", "licence of weights  unknown: see the publisher"),
        ("r2d2", "image               RGB, any size"),
        ("sift", "backends            opencv"),
    ],
)
def test_a_page_has_a_line_for_each_fact(lf, name, line):
    lines = said(lf("models", name)).splitlines()
    assert lines[0] == f"network             {name}"
    assert [each for each in lines if each.startswith(line)], lines


def test_an_unknown_network_is_refused(lf):
    code, text, error = lf("models", "edgepoint2-e46")
    assert (code, text) == (2, "")
    assert error.startswith("lf: unknown network 'edgepoint2-e46'; did you mean 'edgepoint2-e64'? known: superpoint, ")
    assert error.count("\n") == 1


def test_outputs_that_hold_weights_are_no_heads():
    row = replace(MODELS["wren"], heads={**MODELS["wren"].heads, "weights": (64, 0)})
    assert "  1 of 2  " in models_page.table({"wren": row}).splitlines()[1]


def test_what_cannot_run_a_network_is_left_out():
    row = replace(MODELS["wren"], not_on=("tflite", "edgetpu", "opencv-dnn"), on_cpu=None)
    assert models_page.backends(row) == [name for name in EVERY if name not in row.not_on]
    assert [*models_page.int8(row)["schemes"]] == ["ort"]
    line = models_page.table({"wren": row}).splitlines()[1]
    assert f"{len(EVERY) - 3} of {len(EVERY)}" in line
    assert line.endswith("  no")
    assert "Edge TPU            no, there is no TFLite file of it" in models_page.page("wren", row)


@pytest.mark.parametrize(
    ("on_cpu", "short", "long"),
    [
        (None, "-", "not tried; make an int8 TFLite file and type: lf check FILE"),
        ((), "maps", "no operator of its int8 file stays on the CPU, as lf check predicts"),
        (("DIV", "ADD"), "part", "these stay on the CPU, as lf check predicts, and others with them: DIV, ADD"),
    ],
)
def test_the_edge_tpu_has_a_word_and_a_line(on_cpu, short, long):
    row = replace(MODELS["swift"], on_cpu=on_cpu)
    assert models_page.table({"swift": row}).splitlines()[1].endswith(f"  {short}")
    assert f"Edge TPU            {long}" in models_page.page("swift", row)


# --- the README's table


def test_the_comparison_has_accuracy_time_size_and_licence():
    def run(model, scheme, **more):
        artifact = {"model": model, "scheme": scheme, "bytes": 630_000, "weights": {"licence": "MIT"}, **more}
        summary = {name: 0.25 for name in comparison_table.METRICS}
        ratio = {"to": "sift", "end_to_end": {"value": 0.5, "interval": [0.4, 0.6]}}
        latency = {"end_to_end": {"p50": 7, "n": 12}}
        made = {"artifact": artifact, "backend": "ort-cpu", "protocol": "kp2d-fixed", "summary": summary, "pairs": []}
        digests = {"protocol_digest": "a", "dataset_digest": "b"}
        return Run.from_dict(made | digests | {"latency_ms": latency, "ratio": ratio}, "test")

    restricted = {"licence": "Magic Leap: non-commercial"}
    text = comparison_table.table(
        [run("sift", "fp32"), run("edgepoint2-e64", "w8a8"), run("superpoint", "fp32", weights=restricted)]
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert lines[0] == [
        *("model", "scheme", "repeatability", "localization px", "C@1", "C@3", "matching score"),
        *("time / sift", "MB", "licence"),
    ]
    values, time = ["0.250"] * 5, "0.50 [0.40, 0.60]"
    assert lines[2:] == [
        ["sift", "", *values, time, "", "MIT"],
        ["edgepoint2-e64", "w8a8", *values, time, "0.63", "MIT"],
        ["superpoint", "fp32", *values, time, "0.63", "Magic Leap"],
    ]


# --- model cards

WEIGHTS = [name for name, path in resolve.shipped().items() if path.suffix == ".safetensors"]


def test_a_model_card_has_front_matter_and_all_sections(lf):
    code, text, _ = lf("models", "--card", "swift")
    assert code == 0
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    known = yaml.safe_load(front)
    assert (known["license"], known["library_name"]) == ("apache-2.0", "lf-keypoints")
    assert known["pipeline_tag"] == "keypoint-detection"
    sections = ["Intended use", "Limits", "How to use", "Details", "Training data", "Training", "Figures"]
    assert re.findall("^## (.*)", body, re.MULTILINE) == sections
    assert "- 120 squares: 17 frames of TUM RGB-D (Sturm et al., IROS 2012), CC BY 4.0" in body
    assert "--set steps=4800 --set pictures=1400" in body


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_model_card_knows_every_source_of_its_pictures(name):
    words = tomllib.loads(model_card.WORDS.read_text())
    assert {"use", "limits"} <= words[name].keys()
    data = model_card.page(name).partition("## Training data\n\n")[2].partition("\n\n")[0]
    assert "`" not in data, "name the source in lf/models/weights/cards.toml"


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_page_of_shipped_weights_says_what_the_cards_say(name):
    text = (ROOT / "docs" / "weights.md").read_text()
    for fact in (f"`{name}`", f"{MODELS[name].parameters:,}", f"{resolve.shipped()[name].stat().st_size / 1e6:.2f} MB"):
        assert fact in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--card",), "lf: name the network of the model card, for example lf models --card wren\n"),
        (
            ("--card", "superpoint"),
            f"lf: no weights of superpoint ship with lf; there are model cards of {', '.join(WEIGHTS)}\n",
        ),
    ],
)
def test_a_model_card_needs_shipped_weights(lf, words, line):
    assert lf("models", *words) == (2, "", line)


def test_the_tables_of_cameras_join_pairs_and_reconstructions():
    def run(scheme, sha256, protocol, pairs, **more):
        artifact = {
            "model": "wren",
            "scheme": scheme,
            "sha256": sha256,
            "file": f"wren.{scheme}.onnx",
            "bytes": 520_000,
        }
        digests = {"protocol_digest": "a", "dataset_digest": "b"}
        made = {"artifact": artifact, "backend": "ort-cpu", "protocol": protocol, "pairs": pairs, **digests, **more}
        return Run.from_dict(made | {"latency_ms": None}, "test")

    def posed(scheme, sha256, areas):
        pairs = [
            {"sequence": "wall", "pair": f"{n}", **dict.fromkeys(camera_table.AREAS, area)}
            for n, area in enumerate(areas)
        ]
        return run(scheme, sha256, "pose", pairs, summary={"n_matches": 80, "n_inliers": 40})

    model = {"registered_images": 1, "images": 2, "sparse_points": 7, "track_length": 2.5, "reprojection_error": 0.5}
    image = {"sequence": "wall", "pair": "a", "camera_centre_error": 3.0, "camera_rotation_error": None}
    built = run("w8a8", "2" * 64, "eth-lfb", [image], summary={}, reconstructions={"wall": model})
    text = camera_table.page([posed("fp32", "1" * 64, [0.5, 0.7]), posed("w8a8", "2" * 64, [0.4, 0.6]), built])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| w8a8" in line]
    few, area = "interval: n/a (2 pairs)", "0.500 interval: n/a (2 pairs)"
    assert rows[0] == ["wren", "w8a8", "2", "80", "40", area, area, area]
    centre = "3.000 interval: n/a (1 images)"
    assert rows[1] == ["wren", "w8a8", area, area, area, "1 of 2", "7", "2.500", "0.500", centre, "-"]
    assert rows[2] == ["wren", "w8a8", *[f"+0.100 {few}"] * 3, "-"]
    assert rows[3] == ["wren", "w8a8", "wren.w8a8.onnx", "2" * 12, "0.52"]


def test_a_model_card_has_every_training_of_its_weights_and_the_teacher():
    text = model_card.page("swift")
    first, second, third = (line for line in text.splitlines() if line.startswith("lf train"))
    assert "--out swift-1" in first
    assert "init=" not in first
    assert "--set init=swift-1/swift.safetensors" in second
    assert second.endswith("--set teacher=E64.pth")
    assert "--set init=swift-2/swift.safetensors" in third
    assert "--set labels=teacher" in third
    assert third.endswith("--set teacher=E64.pth --set teacher_weight=0.0")
    assert "taught by edgepoint2-e64 (E64.pth, MIT, sha256 968d0bfa" in text
    assert text.count("squares: 16 of Kodak") == 1, "all trainings saw the same images"
