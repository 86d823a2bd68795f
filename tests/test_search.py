"""Bits within a budget: the cheapest that keep it are found, few are asked for, and nothing is written in vain."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from lf import cli
from lf.core import BadInput, ConversionFailed, GateFailed, UsageError
from lf.formats import model_file
from lf.models import MODELS
from lf.quantize import quantize
from lf.quantize.search import budget as mixed
from lf.quantize.search.bits import FLOAT, Cost, Layer, Spent, cheapest, cost, excess, strain
from lf.quantize.search.journal import Journal
from lf.quantize.search.sensitivity import Drop
from lf.quantize.write import checks
from lf.runtimes.ort import OrtSession
from lf.studies.accuracy_drop import Judge, choose, halves, open_pairs, parse_budget, yielded

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

torch.set_num_threads(1)
LAYERS = {
    "first": Layer((4, 8, 16), 100, 10),
    "middle": Layer((4, 8, 16), 1000, 1000),
    "small": Layer((4, 8, 16), 10, 20),
    "last": Layer((4, 8, 32), 50, 500),
}


def drop(value):
    return Drop(value, None, None, 0.5, 4)


def test_cost():
    bits = {"first": 4, "middle": 8, "small": 16, "last": 32}
    assert cost(LAYERS, bits) == (100 + 1000 + FLOAT * 60, (10 * 4 + 1000 * 8 + 20 * 16 + 500 * 32) / 8)
    assert cost(LAYERS, {**bits, "middle": 4}) < cost(LAYERS, bits) < cost(LAYERS, {**bits, "first": 16})
    assert cost({"a": Layer((3, 4), 1, 8)}, {"a": 3}) == Cost(1, 4), "3 bits are stored as 4"


def test_drops_against_a_budget():
    drops, budget = {"repeatability": drop(0.004), "mma@3": drop(0.03)}, {"repeatability": 0.005, "mma@3": 0.01}
    assert excess(drops, budget) == pytest.approx(0.02)
    assert strain(drops, budget) == pytest.approx(3)
    assert strain({"mma@3": drop(-0.5)}, {"mma@3": 0.01}) == 0
    assert excess({"mma@3": drop(None)}, {"mma@3": 0.01}) == strain({"mma@3": drop(None)}, {"mma@3": 0.01}) == np.inf
    assert excess({"mma@3": drop(0.01)}, {"mma@3": 0.01}) <= 0
    assert strain({"mma@3": drop(0.01)}, {"mma@3": 0.0}) > 1e6


def searched(harm, most, allowed=100, ranking=None):
    """Search with drops that add up: harm[layer] with 4 bits, a tenth of it with 8, none in float."""
    asked = []

    def total(bits):
        return sum(h * {4: 1, 8: 0.1}.get(bits[name], 0) for name, h in harm.items())

    def keeps(bits):
        if len(asked) == allowed:
            raise Spent("enough")
        asked.append(dict(bits))
        return total(bits) <= most

    def rank(low, high):
        assert low != high
        return ranking or sorted(LAYERS, key=lambda name: -harm[name])

    return cheapest(LAYERS, keeps, rank), asked, total


@pytest.mark.parametrize(
    ("harm", "most", "raised"),
    [
        ((1, 1, 1, 1), 9, {}),
        ((9, 1, 1, 1), 5, {"first": 8}),
        ((9, 1, 8, 1), 4, {"first": 8, "small": 8}),
        ((1, 9, 1, 1), 5, {"middle": 8}),
        ((9, 9, 9, 9), 4, dict.fromkeys(LAYERS, 8)),
        ((5, 9, 5, 1), 0.0, {"first": 16, "middle": 16, "small": 16, "last": 32}),
        ((0.9, 9, 0, 8), 2.7, {"middle": 8, "last": 8}),
    ],
)
def test_the_cheapest_assignment_is_found(harm, most, raised):
    found, asked, total = searched(dict(zip(LAYERS, harm, strict=True)), most)
    assert found == {**dict.fromkeys(LAYERS, 4), **raised}
    assert total(found) <= most
    assert len(asked) <= 12
    every = (dict(zip(LAYERS, bits, strict=True)) for bits in product(*(row.ladder for row in LAYERS.values())))
    assert cost(LAYERS, found) == min(cost(LAYERS, bits) for bits in every if total(bits) <= most)


def test_what_a_wrong_ranking_raised_is_lowered_again():
    ranking = ["first", "last", "small", "middle"]
    found, asked, _ = searched(dict.fromkeys(LAYERS, 0) | {"middle": 9}, 5, ranking=ranking)
    assert found == {"first": 4, "middle": 8, "small": 4, "last": 4}
    assert asked[-4:-3] == [{"first": 8, "middle": 4, "small": 8, "last": 8}], "the dearest is tried first"


def test_what_few_evaluations_leave():
    harm = {"first": 9, "middle": 1, "small": 8, "last": 1}
    assert searched(harm, -1)[0] is None, "not even float keeps it"
    assert searched(harm, 4, 1)[0] is None
    assert searched(harm, 4, 2)[0] == dict.fromkeys(LAYERS, 8), "all raised, and no more asked"
    for allowed in range(2, 12):
        found, asked, total = searched(harm, 4, allowed)
        assert total(found) <= 4
        assert len(asked) <= allowed


def test_a_step_that_is_not_enough_for_all_is_followed_by_another():
    harm = {"first": 30, "middle": 1, "small": 1, "last": 1}
    found, _, _ = searched(harm, 3.0)
    assert found == {"first": 16, "middle": 4, "small": 4, "last": 4}


@pytest.fixture(scope="module", autouse=True)
def little_time(few_pictures):
    """Shorten timing, which is not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def wren(network):
    return network("wren")


@pytest.fixture(scope="module")
def photos(drawn_photos):
    return drawn_photos


class Stub:
    """Counts what it is shown; the drop is what `harm` makes of the bits in the card."""

    def __init__(self, harm):
        self.harm, self.seen = harm, []

    def __call__(self, artifact, progress):
        step = artifact.card.made[-1]
        self.seen.append(step.command)
        progress(1, 1, "a pair")
        return {"repeatability": drop(0.0 if step.command == "sensitivity" else self.harm(step))}


def task(wren, photos, search, confirm=None, **changes):
    options = {"calibration": None, "limit": 2, "seed": 0, "exclude": None, "rounding": "nearest"}
    most = {"repeatability": 0.005}
    # Few are searched, and files are quickly made.
    asked = {f"trunk.{n}.0": 8 for n in (1, 4, 5, 6)} | {"detector.0.0": 8, "descriptor.0.0": 8, "descriptor.1": 8}
    made = mixed.Task(wren, "w4a8", photos, most, search, confirm or search, 20, asked, options, {"data": "drawn"})
    return replace(made, **changes)


def needs_eight(*layers):
    """0.01 is lost for each of these layers with fewer than 8 bits."""
    return lambda step: sum(0.01 for name in layers if step.bits.get(name, 4) == 4 and name not in step.kept_float)


@pytest.mark.parametrize("images", [None, Path("photos")])
def test_a_seed_splits_the_pairs_where_there_are_no_photos(wren, images, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(mixed, "quantize", lambda *words, **options: said.append(options))
    run = mixed.Search(
        task(wren, images, None, options={"seed": 3, "limit": 2}), Journal(tmp_path / "a.json", {}), None
    )
    run.made({}, tmp_path / "a.onnx")
    assert (said[0].get("seed"), said[0]["limit"]) == (3 if images else None, 2)


@pytest.fixture(scope="module")
def whole(wren, photos, tmp_path_factory):
    """A complete search: the file, the journal, the evaluations and the remarks."""
    folder, stub, told = tmp_path_factory.mktemp("whole"), Stub(needs_eight("trunk.0.0", "trunk.3.0")), []
    journal = Journal(folder / "search.json", {})
    made = mixed.search(task(wren, photos, stub), folder / "out.onnx", journal, lambda *state: told.append(state))
    return made, journal, stub, told


def test_search_confirms_and_writes(whole, wren, photos, tmp_path):
    made, journal, stub, told = whole
    assert model_file.load(made.path) == made
    step = made.card.made[-1]
    found = step.search
    assert found["raised"] == {"trunk.0.0": 8, "trunk.3.0": 8}
    assert step.bits == found["raised"] | task(wren, photos, stub).asked
    assert step.kept_float == ["detector.1"]
    assert found["drops"]["search"]["repeatability"]["drop"] == found["drops"]["confirm"]["repeatability"]["drop"] == 0
    assert (found["budget"], found["data"]) == ({"repeatability": 0.005}, "drawn")
    assert len(stub.seen) == found["evaluations"] + 1, "and one to confirm"
    assert found["evaluations"] <= 20
    assert max(done / total for done, total, _ in told) <= 1
    assert 1 < found["cost"]["weights"] < 1.2
    assert found["cost"]["predicted_time"] == 1
    assert 0.3 < found["cost"]["measured_time"] < 3
    # Bits by hand make the same file.
    same = quantize(wren, "w4a8", photos, tmp_path / "same.onnx", limit=2, bits=step.bits, rounding="nearest")
    graphs = [onnx.load(artifact.path).graph for artifact in (made, same)]
    assert graphs[0] == graphs[1]
    # Once more: nothing is evaluated again.
    idle = Stub(None)
    again = mixed.search(task(wren, photos, idle), tmp_path / "again.onnx", Journal(journal.path, {}))
    assert not idle.seen
    assert again.card.made[-1].search["drops"] == found["drops"]


def test_an_interrupted_search_goes_on(whole, wren, photos, tmp_path):
    wanted, _, stub, _ = whole

    class Interrupted(Stub):
        def __call__(self, artifact, progress):
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            return super().__call__(artifact, progress)

    out, path = tmp_path / "b.onnx", tmp_path / "b.json"
    with pytest.raises(KeyboardInterrupt):
        mixed.search(task(wren, photos, Interrupted(stub.harm)), out, Journal(path, {}))
    assert not out.exists()
    rest = Stub(stub.harm)
    made = mixed.search(task(wren, photos, rest), out, Journal(path, {}))
    assert len(rest.seen) == len(stub.seen) - 3
    ours, theirs = (artifact.card.made[-1].search for artifact in (made, wanted))
    assert {**ours, "cost": None} == {**theirs, "cost": None}


def test_what_the_others_do_not_confirm_is_not_written(wren, photos, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(GateFailed, match=r"do not on the others \(repeatability \+0.0200 of 0.005\); nothing was") as e:
        mixed.search(
            task(wren, photos, Stub(lambda step: 0.0), Stub(lambda step: 0.02)), out, Journal(tmp_path / "s.json", {})
        )
    assert e.value.exit_code == 3
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


def test_a_budget_that_nothing_keeps(wren, photos, tmp_path):
    out = tmp_path / "out.onnx"
    # Without ranges to lose there is no search for long: the scheme, all with 8 bits, all in float.
    stub = Stub(lambda step: 0.03 if step.bits.get("trunk.0.0") else 0.05)
    with pytest.raises(
        GateFailed, match=r"none of 3 evaluations is within the budget, the nearest is repeatability \+0.0300"
    ):
        mixed.search(task(wren, photos, stub), out, Journal(tmp_path / "s.json", {}))
    with pytest.raises(GateFailed, match="none of 1 evaluations is within the budget, the nearest is repeatability"):
        mixed.search(task(wren, photos, stub, evaluations=1), out, Journal(tmp_path / "t.json", {}))
    assert not out.exists()


def test_a_file_that_cannot_be_made_keeps_no_budget(wren, photos, tmp_path, monkeypatch):
    real = mixed.quantize

    def broken(artifact, scheme, images, out, bits, **options):
        if bits["trunk.0.0"] == 4:
            raise ConversionFailed("its layer gives a non-finite value")
        return real(artifact, scheme, images, out, bits=bits, **options)

    monkeypatch.setattr(mixed, "quantize", broken)
    journal = Journal(tmp_path / "s.json", {})
    made = mixed.search(task(wren, photos, Stub(lambda step: 0.0), evaluations=3), tmp_path / "out.onnx", journal)
    assert journal.rows["search alone"]["failed"] == "its layer gives a non-finite value"
    assert made.card.made[-1].search["raised"]["trunk.0.0"] == 8
    assert made.card.made[-1].search["cost"]["measured_time"] is None
    monkeypatch.setattr(mixed, "quantize", lambda *args, **options: (_ for _ in ()).throw(BadInput("no photo")))
    with pytest.raises(BadInput, match="no photo"):
        mixed.search(task(wren, photos, Stub(lambda step: 0.0)), tmp_path / "b.onnx", Journal(tmp_path / "t.json", {}))


def test_layers_that_are_asked_for_are_not_searched(wren, photos, tmp_path):
    asked = {"trunk.1.0": 8, "descriptor": 32}
    run = mixed.Search(task(wren, photos, Stub(None), asked=asked), Journal(tmp_path / "s.json", {}), lambda *s: None)
    names = {node.name for node in onnx.load(wren.path).graph.node if node.op_type == "Conv"}
    fixed = {"trunk.1.0": (8,), "descriptor.1": (32,), "detector.1": (32,)}
    ladders = {name: row.ladder for name, row in run.layers.items()}
    assert ladders == dict.fromkeys(names, (4, 8, 16)) | fixed
    usual = task(wren, photos, Stub(None), scheme="w8a8", asked={})
    run = mixed.Search(usual, Journal(tmp_path / "u.json", {}), lambda *s: None)
    assert (run.layers["trunk.0.0"].ladder, run.layers["descriptor.1"].ladder) == ((8, 16), (8, 32))
    naive = task(wren, photos, Stub(None), scheme="w8a8-naive", asked={})
    run = mixed.Search(naive, Journal(tmp_path / "t.json", {}), lambda *s: None)
    assert {row.ladder for row in run.layers.values()} == {(8, 16)}
    first = run.layers["trunk.0.0"]
    assert first.operations == first.weights * 32 * 48, "of a picture of 64 x 96, halved by its stride"


@pytest.mark.parametrize(
    "text", ["", "repeatability", "repeatability=", "repeatability=x", "mma@3=-1", "mma@3=nan", "mma@3=1,mma@3=2", "=1"]
)
def test_budgets_that_are_none(text):
    with pytest.raises(UsageError, match=r"expected METRIC=NUMBER with commas.*for example `max_drop"):
        parse_budget(text)


def test_budget():
    assert parse_budget("correctness@1=0.01, mma@3=0") == {"correctness@1": 0.01, "mma@3": 0.0}
    chosen = choose(["repeatability", "mma@3"], None)
    assert {metric: rule.name for metric, rule in chosen.items()} == {"repeatability": "kp2d-fixed", "mma@3": "mma"}
    assert {rule.name for rule in choose(["h_auc@5"], "auc").values()} == {"auc"}
    with pytest.raises(UsageError, match=r"mma@3 is no metric of protocol kp2d, but of mma; type: `protocol=kp2d,mma`"):
        choose(["mma@3"], "kp2d")
    with pytest.raises(UsageError, match="unknown metric by which files are judged 'n_matches'"):
        choose(["n_matches"], None)
    with pytest.raises(UsageError, match=r"judged 'mma'; did you mean one of 'mma@1' ... 'mma@15'\? known: repeatab"):
        choose(parse_budget("mma=0.01"), None)
    with pytest.raises(UsageError, match="unknown protocol 'kp3d'; did you mean 'kp2d'"):
        choose(["repeatability"], "kp3d")
    assert [*yielded(["repeatability", "mma@3"], "mma")] == ["mma@3"]
    with pytest.raises(UsageError, match="repeatability is no metric of protocol auc"):
        yielded(["repeatability", "mma@3"], "auc")


def test_halves_share_no_sequence():
    pairs = open_pairs("procedural:9", choose(["mma@3"], None), None)
    first, second = halves(pairs, 0)
    assert sorted(p.sequence for p in first + second) == sorted(p.sequence for p in pairs)
    assert not {p.sequence for p in first} & {p.sequence for p in second}
    kinds = [[p.sequence[0] for p in half] for half in (first, second)]
    assert abs(kinds[0].count("v") - kinds[1].count("v")) <= 1
    assert abs(len(first) - len(second)) <= 1
    assert [p.sequence for p in halves(pairs, 0)[0]] == [p.sequence for p in first]
    assert [p.sequence for p in halves(pairs, 1)[0]] != [p.sequence for p in first]
    with pytest.raises(UsageError, match="1 sequence cannot be split"):
        halves(pairs[:1], 0)


@pytest.fixture
def heads(tiny):
    """A convolution per head, of any size, each with its name."""
    bare = tiny()
    model = onnx.load(bare.path)
    for node in model.graph.node:
        node.name = node.output[0]
    return model_file.save(bare.path, model.SerializeToString(), bare.card)


def test_a_judge_compares_with_float(heads, tmp_path, monkeypatch):
    wren, metrics = heads, choose(["repeatability", "localization_error", "mma@3"], "kp2d,mma")
    pairs = open_pairs("procedural:2", metrics, None)
    judge, told = Judge(wren, pairs, "procedural:2", metrics, tmp_path / "cache"), []
    drops = judge(wren, lambda *state: told.append(state))
    nothing = dict.fromkeys(metrics, (0, None, None, 2))  # two pairs have no interval
    assert {metric: (row.drop, row.low, row.high, row.pairs) for metric, row in drops.items()} == nothing
    assert told[-1][:2] == (4, 4)
    kept = sorted((tmp_path / "cache").rglob("*.npz"))
    assert len(kept) == 4, "two images of two pairs, which both protocols prepare alike"
    small, runs = quantize(wren, "w4", None, tmp_path / "a.onnx"), []
    run = OrtSession.run
    with monkeypatch.context() as patch:
        patch.setattr(OrtSession, "run", lambda session, image: runs.append(image) or run(session, image))
        found = judge(small, lambda *state: None)
    assert len(runs) == 4, "two images of two pairs, which both protocols prepare alike"
    again = Judge(wren, pairs, "procedural:2", metrics, tmp_path / "cache")
    monkeypatch.setattr("lf.benchmarks.run.predict.MOST", 0)  # nothing is kept
    assert again(small, lambda *state: None) == found
    assert sorted((tmp_path / "cache").rglob("*.npz")) == kept, "those of a variant are not kept"
    assert any(row.drop for row in found.values())
    assert judge.identity["protocols"].keys() == {"kp2d", "mma"}


@pytest.fixture
def lf(monkeypatch, capfd):
    def call(*words):
        monkeypatch.setattr("sys.argv", ["lf", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, *capfd.readouterr()

    return call


def test_the_commands(lf, heads, photos, tmp_path):
    pytest.importorskip("matplotlib")
    common = (heads.path, "--images", photos, "--limit", 2, "--data", "procedural:2")
    out = tmp_path / "found.onnx"
    budget = ("--max-drop", "mma@1=1,mma@3=1", "-o", out, "--scheme", "w4a8")
    code, said, err = lf("search", *common, *budget)
    assert (code, said) == (0, f"{out}\n"), err
    assert "| mma@1   | 1       |" in err
    assert "interval: n/a (1 pairs)" in err
    assert "kept in the mean of 1 pairs only, at least 10 are needed for an interval; take more data" in err
    assert "raised after 1 evaluations: none" in err
    assert "against w4a8 alone: 1.00 times as long here, 1.00 as predicted, 1.00 times the weights" in err
    split = model_file.load(out).card.made[-1].search["split"]
    assert [split[name]["pairs"] for name in ("search", "confirm")] == [1, 1]
    assert split["search"]["data"] != split["confirm"]["data"]
    code, said, err = lf("search", *common, *budget, "--seed", 1)
    assert (code, said) == (2, "")
    assert "found.search/search.json: was made with other settings (calibration.seed: was 0, now 1" in err
    code, said, err = lf("search", *common, "-o", tmp_path / "no.onnx", "--max-drop", "mma@3=1", "--protocol", "kp2d")
    assert code == 2
    assert "type: --protocol kp2d,mma" in err
    assert not (tmp_path / "no.onnx").exists()
    code, said, err = lf("quantize", *common, "-o", tmp_path / "no.onnx")  # --data is among them
    assert (code, said) == (2, "")
    assert "--data of lf quantize has moved; type: lf search FILE --data ROOT (docs/reference/migration.md)" in err

    folder = tmp_path / "deep" / "study"
    study = ("sensitivity", *common, "--scheme", "w4", "--protocol", "mma", "--out", folder)
    code, said, err = lf(*study)
    assert (code, err) == (0, "")
    assert said.endswith(f"{folder / 'sensitivity.json'}\n{folder / 'sensitivity.png'}\n")
    assert "Spearman rank correlation of noise (-SQNR) with" in said
    assert "| n/a (2 pairs)" in said
    assert "2 of 2 scores are not shown to differ from noise" in said
    code, said, err = lf(*study, "--json")
    assert code == 0
    found = json.loads(said)
    assert len(found["ranking"]) == len(MODELS["wren"].heads)
    assert found["identity"]["metrics"] == ["mma@1", "mma@3"]
    code, said, err = lf(*study, "--seed", 3)
    assert (code, said) == (2, "")
    assert (
        "was made with other settings (calibration.seed: was 0, now 3); "
        f"choose another folder, or begin anew: rm {folder}" in err
    )
