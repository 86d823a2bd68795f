"""Scripts that measure lf: costs of the commands, peers, the check of a GPU with the CPU in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lf.benchmarks.run import results
from lf.core import Features, GateFailed, Unavailable
from scripts import gpu_check, tool_costs
from scripts.peers import __main__ as peers
from scripts.peers.peer import Peer, shared, verify
from scripts.peers.superpoint import key

ROOT = Path(__file__).resolve().parents[1]

# --- costs of the commands


MEASURED = """
import sys
from pathlib import Path
from scripts.tool_costs import measure
found = measure([sys.executable, "-c", "data = bytearray(64 << 20); sum(range(3_000_000))"], Path())
print(found.wall, found.cpu, found.peak)
measure([sys.executable, "-c", "import sys; print('no'); sys.exit(3)"], Path())
"""


def test_a_process_is_measured():
    """It is started from a small process, as the script does, because the peak of the parent would count, too."""
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True)
    wall, cpu, peak = map(float, done.stdout.split())
    assert 0 < cpu <= wall * 1.1 + 0.1
    assert 64 < peak < 128
    assert done.returncode == 1
    assert "exit code 3: " in done.stderr
    assert done.stderr.endswith("\nno\n\n")


def test_costs_of_two_checkouts_in_a_table():
    old, new = tool_costs.Cost(4, 2, 300, (b"a",)), tool_costs.Cost(2.5, 1, 150, (b"a",))
    table = tool_costs.table({"lf export": [[new, old], [new, old]], "lf": [[new]]}, "")
    assert table.splitlines()[0] == "| command | wall s | processor s | peak MiB |"
    lines = tool_costs.table({"lf export": [[new, old]] * 2}, "abc").splitlines()
    assert lines[2] == "| lf export | 2.50 | 1.00 | 150 | 4.00 | 2.00 | 300 | 0.50 | 0.50 | same |"
    other = tool_costs.Cost(4, 2, 300, (b"b",))
    assert tool_costs.table({"lf export": [[new, other]]}, "abc").endswith("| differ |")


def test_rows_need_what_they_name():
    everything = {"superpoint": "file.pth"}
    assert [row.name for row in tool_costs.chosen("import", {})] == ["import lf"]
    assert any("superpoint" in row.name for row in tool_costs.chosen("", everything))
    assert not any("superpoint" in row.name for row in tool_costs.chosen("", {}))


# --- peers


def features(points, seed=0):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(len(points), 8)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Features(np.asarray(points, np.float32), np.ones(len(points), np.float32), descriptors, (64, 48))


def test_a_peer_with_the_same_points_passes_and_another_is_refused():
    points = np.random.default_rng(1).uniform(0, 48, (50, 2))
    ours, picture = features(points), np.zeros((48, 64, 3), np.uint8)
    near = features(points + 0.05)
    found = verify(Peer("near", "", "", lambda _: near, "torch", lambda _: ours), [picture])
    assert (found.ours, found.of_ours, found.of_theirs, round(found.cosine, 3)) == (50, 1, 1, 1)
    far = features(points + 30)
    with pytest.raises(GateFailed, match=r"far: shares .+ expected 90%"):
        verify(Peer("far", "", "", lambda _: far, "torch", lambda _: ours), [picture])
    other = features(points, seed=5)
    with pytest.raises(GateFailed, match=r"a mean cosine of .+ its weights"):
        verify(Peer("other", "", "", lambda _: other, "torch", lambda _: ours), [picture])
    assert shared([ours], [features(np.zeros((0, 2)))]).of_ours == 0


def test_names_of_the_public_superpoint_in_transformers():
    assert key("conv1a.weight") == "encoder.conv_blocks.0.conv_a.weight"
    assert key("conv4b.bias") == "encoder.conv_blocks.3.conv_b.bias"
    assert key("convPa.weight") == "keypoint_decoder.conv_score_a.weight"
    assert key("convDb.bias") == "descriptor_decoder.conv_descriptor_b.bias"


def test_peers_take_turns():
    told = []

    def program(name, count):
        return Peer(name, "1.0", "engine", lambda _: told.append(name) or features(np.zeros((count, 2))), "torch")

    both = [program("first", 3), program("second", 5)]
    times, points = peers.measure(both, [np.zeros((8, 8, 3), np.uint8)], 4)
    assert times.shape == (4, 2)
    assert points.tolist() == [[3, 5]] * 4
    assert len(told) == 2 * (4 + peers.WARM_UP)
    page = peers.costs(both, times, points, {"first": None, "second": None})
    assert "| second" in page
    assert "time / first" in page


# --- the GPU


def test_without_a_gpu_the_check_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "gpus", list)
    with pytest.raises(Unavailable, match="type: --stand-in cpu"):
        gpu_check.check(tmp_path, None, gpu_check.PARTS)


def test_figures_of_batches_and_a_results_file(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "SIZE", (64, 96))
    rows, runs = gpu_check.figures(["ort-cpu", "ort-tensorrt"], ["swift"], (1, 2), 1)
    assert [row["name"] for row in rows] == [
        f"swift, {engine}, batch {batch}" for batch in (1, 2) for engine in ("ort-cpu", "ort-tensorrt")
    ]
    assert [row["outcome"] for row in rows] == ["ok", "not measured"] * 2
    assert "TensorrtExecutionProvider" in rows[1]["detail"]
    assert all(row["ms"] > 0 for row in rows[::2])
    place = tmp_path / "results.json"
    place.write_text(json.dumps({**results.document(runs), "gpu_check": {"rows": rows}}))
    assert [run.artifact.model for run in results.load(place)] == ["swift"]
    assert "| figures" in gpu_check.page(rows, "a machine")


def test_training_that_went_wrong_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ran", lambda words: "no such device")
    rows = gpu_check.training(tmp_path, "cuda", 1, 2)
    assert [row["outcome"] for row in rows] == ["failed", "failed", "not measured"]
    assert rows[0]["detail"] == "no such device"


@pytest.mark.slow
def test_the_whole_check_with_the_cpu_in_the_place_of_a_gpu(tmp_path):
    words = ["-m", "scripts.gpu_check", "--stand-in", "cpu", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["part"] for row in found["gpu_check"]["rows"]} == {*gpu_check.PARTS}
    assert {row["outcome"] for row in found["gpu_check"]["rows"]} == {"ok"}, done.stdout
    assert results.load(tmp_path / "out" / "results.json")
