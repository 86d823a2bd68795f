"""Sub-pixel refinement as an option of the decode: its rules restated, in graphs, in cards, and where there is none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_cut_features import SIZE, assert_same, decoded, random_maps

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.report import tables
from lf.benchmarks.run import gate
from lf.benchmarks.run.evaluate import bench
from lf.core import BadInput, Card, LfError, UsageError
from lf.data import open_dataset
from lf.export import export, parity, to_features
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.extraction.variant import Variant
from lf.formats import model_file
from lf.models import MODELS, NETWORKS, REFINEMENTS, decode, row_of
from lf.models.features import features
from lf.models.resolve import resolve
from lf.studies import card_page

REFINED = [name for name, row in NETWORKS.items() if "refine" in row.settings]
ONE_OF_EACH = {NETWORKS[name].decode: name for name in REFINED}.values()
REFUSED = [name for name, row in MODELS.items() if "refine" not in row.settings]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(parity, "FREE_SIZES", (SIZE, (96, 72)))
    monkeypatch.setattr(agreement, "PICTURES", 2)


def hill(x, y, size=(9, 11), steep=(1.0, 0.5)):
    v, u = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return (5 - steep[0] * (u - x) ** 2 - steep[1] * (v - y) ** 2).astype(np.float32)


# --- the rules


@given(x=st.floats(1, 9), y=st.floats(1, 7))
def test_the_top_of_a_parabola_is_found_exactly(x, y):
    score = hill(x, y)
    top = np.array(np.unravel_index(score.argmax(), score.shape))[::-1][None].astype(np.float32)
    np.testing.assert_allclose(decode.parabola(score, top), [[x, y]], atol=1e-4)


@settings(deadline=None)
@given(
    heat=arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.floats(0, 99, width=32)),
    reach=st.integers(1, 3),
)
def test_the_mean_position_is_that_of_the_plain_sums_bit_for_bit(heat, reach):
    height, width = heat.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    points, span = np.stack([x, y], 1).astype(np.float32), np.arange(-reach, reach + 1, dtype=np.float32)
    padded, side = np.pad(heat, reach), 2 * reach + 1
    patch = np.stack([padded[v : v + side, u : u + side] for u, v in zip(x, y, strict=True)])
    shift = np.stack([patch.sum(1) @ span, patch.sum(2) @ span], 1)
    expected = points + shift / np.maximum(patch.sum((1, 2)), np.float32(1e-12))[:, None]
    np.testing.assert_array_equal(decode.refine(heat, points, reach), expected)


def test_a_parabola_moves_half_a_pixel_at_most_and_needs_a_top():
    score = np.zeros((5, 5), np.float32)
    score[2] = [0, 1, 2, 2.9, 0]  # no maximum at x = 2, whose parabola has its top far away
    score[:, 2] = 2  # flat along y
    assert decode.parabola(score, np.float32([[2, 2]])).tolist() == [[2.5, 2]]
    assert decode.parabola(np.ones((1, 1), np.float32), np.zeros((1, 2), np.float32)).tolist() == [[0, 0]]


@pytest.mark.parametrize("corner", [(0, 0), (10, 0), (0, 8), (10, 8)])
def test_points_at_an_edge_stay_there(corner):
    assert decode.parabola(hill(*corner), np.float32([corner])).tolist() == [[*corner]]
    along = np.float32([[0, 4]])
    assert decode.parabola(hill(0, 4.25), along).tolist() == [[0, 4.25]]


def test_an_unknown_word_is_named():
    with pytest.raises(LfError, match="`refine=cubic`: expected one of none, quadratic, soft"):
        decode.refined(np.ones((3, 3)), np.ones((3, 3)), np.ones((1, 2)), "cubic")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_points_move_and_scores_and_choice_do_not(name):
    row, maps = MODELS[name], random_maps(name, (64, 96))
    found = {how: row.decode(maps, **{**row.settings, "refine": how}) for how in REFINEMENTS}
    plain = found["none"][0]
    assert len(plain) > 5
    assert (plain == plain.round()).all()
    for how, reach in (("quadratic", 0.5), ("soft", 2)):
        shift, _ = agreement.nearest(found[how][0], plain)
        assert 0 < shift.max() <= reach * 2**0.5
        if "temperature" not in row.settings:  # those read scores where points have moved to, and sort by them
            np.testing.assert_array_equal(found[how][1], found["none"][1])
        np.testing.assert_allclose(found[how][2], row.describe(maps, found[how][0]), atol=1e-6)


@pytest.mark.parametrize("how", REFINEMENTS)
@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if NETWORKS[name].decode_onnx])
def test_a_graph_refines_as_numpy_does(name, how, monkeypatch):
    row = replace(MODELS[name], settings={**MODELS[name].settings, "refine": how})
    for table in (MODELS, NETWORKS):
        monkeypatch.setitem(table, name, row)
    run = decoded(name, 60)
    for seed, size in enumerate(((1, 1), (2, 3), (4, 6))):
        maps = random_maps(name, (size[0] * max(16, row.multiple), size[1] * max(16, row.multiple)), seed)
        assert_same(features(run(maps)), row.decode(maps, **row.settings, top_k=60))


# --- in cards


def test_an_export_keeps_the_word_in_its_card_and_what_follows_uses_it(tiny, tmp_path, network):
    parent = network("wren", None)
    made = export(resolve(parent.path.with_suffix(".safetensors")), "onnx", tmp_path / "a.onnx", refine="quadratic")
    assert model_file.load(made.path).card.refine == made.card.refine == "quadratic"
    assert parent.card.refine == ""
    assert "refine           quadratic" in card_page.page(made)
    assert "refine" not in card_page.page(parent).split("|")[0]
    picture = next(agreement.drawn((64, 96), 1))
    found, asked = Extractor(made, "ort-cpu")(picture), Extractor(parent, "ort-cpu", refine="quadratic")(picture)
    np.testing.assert_array_equal(found.keypoints, asked.keypoints)
    assert np.abs(found.keypoints - Extractor(parent, "ort-cpu")(picture).keypoints).max() > 0.01
    graph = export(made, "onnx", tmp_path / "b.onnx", cut="features", top_k=50)
    assert graph.card.made[-1].options["settings"]["refine"] == "quadratic"
    np.testing.assert_allclose(Extractor(graph, "ort-cpu")(picture).keypoints, found.top(50).keypoints, atol=1e-3)


def test_the_command(lf, tiny, tmp_path):
    parent = tiny("a.onnx", "superpoint")
    done = lf("export", parent.path, "--cut", "features", "--refine", "soft", "-o", tmp_path / "b.onnx")
    assert done[0] == 0, done[2]
    assert model_file.load(tmp_path / "b.onnx").card.made[-1].options["settings"]["refine"] == "soft"
    code, _, said = lf("export", tmp_path / "b.onnx", "--refine", "none", "-o", tmp_path / "c.onnx")
    assert code == 2
    assert f"--refine none: {tmp_path / 'b.onnx'} contains its decoder; start from the file that it was made" in said
    code, _, said = lf("export", parent.path, "--refine", "cubic", "-o", tmp_path / "c.onnx")
    assert (code, "unknown refinement 'cubic'; known: none, quadratic, soft" in said) == (2, True)


@pytest.mark.parametrize(("row", "word"), [("wren", "cubic"), ("kp2d", "soft")])
def test_a_card_that_asks_for_what_its_network_lacks_is_refused(row, word):
    card = Card(row, {}, (1, None, None), refine=word)
    with pytest.raises(BadInput, match=f"its card says refine '{word}', which {row} does not have; make the file ag"):
        row_of(card)
    damaged = card.to_json().replace(f'"{word}"', "7")
    with pytest.raises(BadInput, match="its embedded card is damaged"):
        Card.from_json(damaged, "a.onnx")


def test_cards_of_older_files_have_none():
    text = Card("wren", {}, (1, None, None)).to_json().replace('"refine": "", ', "")
    assert "refine" not in text
    assert Card.from_json(text, "a.onnx").refine == ""


# --- in runs


def test_refinement_is_part_of_a_run_and_of_its_name(network, tmp_path):
    artifact, pairs = network("edgepoint2-t32", None), open_dataset("procedural:2")[:2]
    plain, moved = (
        bench(Variant(artifact, "ort-cpu", refine=how), pairs, "p", PROTOCOLS["kp2d"], cache=tmp_path / "cache")
        for how in (None, "quadratic")
    )
    assert (plain.refine, moved.refine) == (None, "quadratic")
    assert gate.label(moved) == "edgepoint2-t32 fp32 ort-cpu kp2d refine quadratic"
    assert "| edgepoint2-t32 fp32 ort-cpu refine quadratic |" in tables.page([plain, moved])
    assert plain.measured != moved.measured
    assert plain.pairs != moved.pairs, "no features of the other were kept"


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_without_a_score_map_is_refused(name):
    artifact = SimpleNamespace(card=Card(name, {}, (1, None, None)), path="it.onnx")
    with pytest.raises(UsageError, match=f"`refine=soft`: {name} gives its points, no score map; leave `refine` out"):
        Extractor(artifact, "ort-cpu", refine="soft")


def test_another_session_refines_alike(network):
    first = Extractor(network("wren", None), "ort-cpu", refine="quadratic")
    assert first.again().settings == first.settings == {**MODELS["wren"].settings, "refine": "quadratic"}


def test_settings_that_a_file_decodes_with_are_in_its_graph(tiny, tmp_path):
    made = export(tiny(), "onnx", tmp_path / "b.onnx", cut="features", refine="none", top_k=20)
    picture = next(agreement.drawn((64, 96), 1))
    points = Extractor(made, "ort-cpu")(picture).keypoints
    assert len(points)
    assert (points == points.round()).all()
    with pytest.raises(UsageError, match=r"`refine=soft`: .*b.onnx contains its decoder"):
        Extractor(made, "ort-cpu", refine="soft")
    assert to_features.TOP_K == 1000
