"""The two stages of PoSFeat: pairs with cameras, what is trained and what is frozen, and that both learn."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch

from lf.benchmarks.report import heat_maps
from lf.core import BadInput, Card, UsageError
from lf.data import cameras, posed
from lf.data.posed import correspond, drawn
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve
from lf.train import RECIPES, loop, parts, pictures, posed_pairs
from lf.train.losses import epipolar_losses
from lf.train.methods.posfeat_detection import score_map
from lf.train.views.random_views import Dice

CPU = torch.device("cpu")
SMALL = ["steps=4", "batch=2", "size=64x96", "pictures=6", "warmup=0", "bf16=False"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(name, *changes):
    return RECIPES[name].override([*SMALL, *changes])


def silent(done, total, text):
    pass


def train(recipe, out, data=("scenes:1",)):
    return loop.train(recipe, list(data), out, device="cpu", threads=1, progress=silent)


def saved(path, name):
    row = MODELS[name]
    card = Card(
        name, {"origin": "test", "sha256": "0", "licence": "x"}, (row.channels, None, None), outputs=dict(row.heads)
    )
    return checkpoint.save(path / f"{name}.safetensors", checkpoint.build(name), card)


# --- pairs


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return posed_pairs.collect(small("posfeat-description-small"), ["scenes:1"], out, silent), out


def test_the_matrices_are_those_of_the_views(collected):
    pairs, _ = collected
    assert 2 <= len(pairs) <= 6
    assert pairs.index.max() < len(pairs)
    scene = drawn.training(1000, (64, 96))
    views = {view.image.key: view for view in scene.views}
    y, x = np.mgrid[2:64:8, 2:96:8]
    grid = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    for (i, j), ways in zip(pairs.index.tolist(), pairs.fundamental, strict=True):
        first, second = (views[pairs.pictures.crops[n].name] for n in (i, j))
        found, seen = correspond.correspond(grid, first, second, (64, 96))
        assert seen.sum() > 10
        there, here = (torch.from_numpy(p[seen]).float()[None] for p in (found, grid))
        for points, others, way in ((here, there, ways[0]), (there, here, ways[1])):
            assert epipolar_losses.distances(others, epipolar_losses.lines(points, way[None])).max() < 0.01


def test_either_view_comes_first(collected):
    pairs, _ = collected
    views, there, back = pairs.on(CPU).draw(Dice(1, 0, 40, CPU))
    assert views.shape == (80, 1, 64, 96)
    assert there.shape == back.shape == (40, 3, 3)
    torch.testing.assert_close(there.mT.abs(), back.abs(), atol=1e-5, rtol=1e-3)
    first = {tuple(view.flatten()[:50].tolist()) for view in views[:40]}
    assert len(first) > 1


def test_pairs_are_collected_once_and_again_where_damaged(collected, tmp_path):
    first, out = collected
    recipe = small("posfeat-description-small")
    stamp = (out / pictures.FILE).stat().st_mtime_ns
    again = posed_pairs.collect(recipe, ["scenes:1"], out, silent)
    assert (out / pictures.FILE).stat().st_mtime_ns == stamp
    torch.testing.assert_close(again.fundamental, first.fundamental)
    for name in (pictures.FILE, pictures.INDEX):
        (tmp_path / name).write_bytes((out / name).read_bytes()[:100])
    damaged = posed_pairs.collect(recipe, ["scenes:1"], tmp_path, silent)
    np.testing.assert_array_equal(damaged.pictures.squares, first.pictures.squares)


def test_an_image_is_cut_to_its_middle_and_its_camera_moves_along():
    image = np.zeros((90, 200, 3), np.uint8)
    cv2.circle(image, (100, 44), 3, (255, 255, 255), -1)
    made, move = posed_pairs.fitted(image, (60, 80))
    assert made.shape == (60, 80, 3)
    y, x = (made[..., 0] > 128).nonzero()
    np.testing.assert_allclose((move @ [100, 44, 1])[:2], [x.mean(), y.mean()], atol=0.6)
    same, move = posed_pairs.fitted(image, (90, 200))
    assert same is not None
    np.testing.assert_array_equal(move, np.eye(3))


def write_scene(folder, poses, size=(64, 96)):
    """Grey images with cameras.txt: name, K, world to camera."""
    folder.mkdir(parents=True)
    lines = []
    for n, (rotation, translation) in enumerate(poses):
        picture = np.random.default_rng(n).integers(0, 255, (*size, 3), np.uint8)
        cv2.imwrite(str(folder / f"{n}.png"), picture)
        numbers = [80, 0, 47.5, 0, 80, 31.5, 0, 0, 1, *np.column_stack([rotation, translation]).ravel()]
        lines.append(" ".join([f"{n}.png", *map(str, numbers)]))
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def test_photos_with_poses_and_what_cannot_be_learned_from(tmp_path):
    recipe = small("posfeat-description-small", "pictures=0")
    still = np.zeros(3)
    poses = [
        (np.eye(3), still),
        (turned(50), np.array([1.0, 0, 0])),
        (turned(100), np.array([0, 0, 1.0])),
        (np.eye(3), still),
    ]
    write_scene(tmp_path / "set" / "a", poses)
    pairs = posed_pairs.collect(recipe, [f"posed:{tmp_path / 'set'}"], tmp_path / "out", silent)
    names = [{pairs.pictures.crops[n].name for n in pair} for pair in pairs.index.tolist()]
    told = [sorted(name.rpartition("/")[2].partition(".")[0] for name in pair) for pair in names]
    assert sorted(told) == [["0", "1"], ["1", "2"], ["1", "3"]]  # 0 and 3 share a centre, 2 is turned by 100 degrees
    one = posed_pairs.collect(recipe.override(["most_pairs=1"]), [str(tmp_path / "set")], tmp_path / "one", silent)
    assert len(one.index) == 1
    write_scene(tmp_path / "none", [poses[0], poses[2]])
    with pytest.raises(
        BadInput, match=r"none: none of its 1 pairs can be learned from; expected two camera centres th"
    ):
        posed_pairs.collect(recipe, [str(tmp_path / "none")], tmp_path / "no", silent)


def test_megadepth_as_caps_has_it(tmp_path):
    folder = tmp_path / "0001" / "dense0" / "aligned"
    (folder / "images").mkdir(parents=True)
    rows = ["# name w h fx fy cx cy R t"]
    for n in range(3):
        cv2.imwrite(str(folder / "images" / f"{n}.jpg"), np.full((64, 96, 3), 90 * n, np.uint8))
        rows.append(f"{n}.jpg 96 64 80 80 47.5 31.5 1 0 0 0 1 0 0 0 1 {n} 0 0")
    (folder / "img_cam.txt").write_text("\n".join(rows))
    (folder / "pairs.txt").write_text("0.jpg 1.jpg\n2.jpg 1.jpg\n")
    pairs = posed_pairs.collect(
        small("posfeat-description-small", "pictures=0"), [f"posed:{tmp_path}"], tmp_path / "out", silent
    )
    assert len(pairs.index) == 2
    lines = epipolar_losses.lines(torch.tensor([[[10.0, 20.0]]]), pairs.fundamental[0, :1])
    assert epipolar_losses.distances(torch.tensor([[[70.0, 20.0]]]), lines).item() < 1e-3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("scenes:0", "'scenes:0' needs a number of scenes, such as scenes:100"),
        ("warps:x", "'warps:x' has no camera poses"),
        ("posed:/no/such", "/no/such: no such folder"),
    ],
)
def test_other_sources_are_refused(source, said, tmp_path):
    with pytest.raises((UsageError, BadInput), match=said):
        posed_pairs.collect(small("posfeat-description-small"), [source], tmp_path, silent)


# --- what is trained


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("posfeat-small", "head."),
        ("wren", "detector."),
        ("superpoint-bn", "detector"),
        ("swift-tiny", "context detail score"),
    ],
)
def test_parts_for_scores_alone_are_found(name, alone):
    network = checkpoint.build(name)
    network.train()
    used, rest = parts.split(network, MODELS[name])
    assert network.training
    names = {id(p): n for n, p in network.named_parameters()}
    assert len(used) + len(rest) == len(names)
    begins = tuple(alone.split())
    assert all(names[id(p)].startswith(begins) or "etect" in names[id(p)] or "convP" in names[id(p)] for p in rest)
    assert rest


def changed(before, after):
    one, two = before.state_dict(), after.state_dict()
    return {name.partition(".")[0] for name in one if not torch.equal(one[name], two[name])}


def test_descriptors_learn_while_the_head_is_frozen(tmp_path):
    recipe = small("posfeat-description-small", "weight_decay=0.1")
    made = train(recipe, tmp_path)
    torch.manual_seed(recipe.seed)
    assert changed(checkpoint.build("posfeat-small"), checkpoint.network(made)) == {"backbone"}


def test_scores_learn_while_everything_else_is_frozen(tmp_path):
    first = saved(tmp_path, "posfeat-small")
    made = train(small("posfeat-detection-small", f"init={first.path}", "weight_decay=0.1"), tmp_path / "run")
    assert changed(checkpoint.network(first), checkpoint.network(made)) == {"head"}


@pytest.mark.parametrize(("name", "learns"), [("wren", {"detector"}), ("swift", {"context", "detail", "score"})])
def test_stage_2_serves_other_networks(name, learns, tmp_path):
    made = train(small("swift-detection", f"init={name}"), tmp_path)
    assert made.card.model == name
    assert changed(checkpoint.network(resolve(name)), checkpoint.network(made)) == learns


def test_stage_2_needs_descriptors_and_layers_of_its_own(tmp_path):
    with pytest.raises(UsageError, match="init= names no descriptors to match with; type: `init=CHECKPOINT`"):
        train(small("posfeat-detection-small"), tmp_path / "a")
    first = saved(tmp_path, "kp2dtiny-s")
    with pytest.raises(
        UsageError, match="method posfeat_detection trains networks with the heads descriptor and score or"
    ):
        train(small("posfeat-detection-small", f"init={first.path}"), tmp_path / "b")


@pytest.mark.parametrize("name", ["posfeat-small", "wren", "swift"])
def test_a_score_map_has_a_logit_for_every_pixel(name):
    row = MODELS[name]
    heads = {head: (2, channels, 64 // stride, 96 // stride) for head, (channels, stride) in row.heads.items()}
    maps = {head: torch.randn(shape) for head, shape in heads.items()}
    score = score_map(row, maps)
    assert score.shape == (2, 64, 96)
    if name == "wren":
        torch.testing.assert_close(
            score[1, 8 + 3, 16 + 5], maps["detector"][1, 3 * 8 + 5, 1, 2] - maps["detector"][1, 64, 1, 2]
        )
    if name == "swift":
        assert score[1, 9, 6] == maps["score"][1, 2, 4, 3]
    if name == "posfeat-small":
        assert score.min() > 0


def test_the_published_sum_is_the_mean_times_the_batch(tmp_path):
    first = saved(tmp_path, "posfeat-small")
    losses = []
    for how in ("per_pair", "published"):
        recipe = small("posfeat-detection-small", f"init={first.path}", f"batch_loss={how}", "steps=1")
        kind = loop.method_of(recipe)
        method = kind(recipe, kind.collect(recipe, ["scenes:1"], tmp_path / how, silent).on(CPU), CPU)
        loss, _ = method.loss(checkpoint.network(first), Dice(1, 0, 2, CPU))
        losses.append(loss.item())
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)


# --- that they learn


def judged(recipe, network, out):
    kind = loop.method_of(recipe)
    method = kind(recipe, kind.collect(recipe, ["scenes:1"], out, silent).on(CPU), CPU)
    told = [method.loss(network, Dice(9, step, 2, CPU))[1] for step in range(4)]
    return {name: float(sum(each[name] for each in told)) / len(told) for name in told[0]}


def test_descriptors_come_nearer_to_their_lines(tmp_path):
    recipe = small("posfeat-description-small", "steps=40", "lr=3e-3", "light=0")
    made = train(recipe, tmp_path / "run")
    torch.manual_seed(recipe.seed)
    before, after = (
        judged(recipe, network.train(), tmp_path)
        for network in (checkpoint.build("posfeat-small"), checkpoint.network(made))
    )
    assert after["loss"] < 0.75 * before["loss"]


def test_scores_turn_to_where_matches_are_right(tmp_path):
    first = checkpoint.network(resolve("swift"))
    for module in (first.context, first.detail, *first.score):
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    card = dataclasses.replace(resolve("swift").card, made=())
    blank = checkpoint.save(tmp_path / "blank.safetensors", first, card)
    recipe = small("swift-detection", f"init={blank.path}", "steps=40", "lr=3e-3", "light=0")
    made = train(recipe, tmp_path / "run")
    before, after = (judged(recipe, checkpoint.network(each), tmp_path) for each in (blank, made))
    reward = [each["correct"] / each["accepted"] for each in (before, after)]
    assert reward[1] > 1.2 * reward[0]


# --- what is shown


def test_a_validation_shows_matches_by_their_lines_and_the_score_map(lf, tmp_path):
    words = [f"--set={change}" for change in SMALL if not change.startswith("pictures")]
    code, _, err = lf(
        *(
            "train",
            "posfeat-description-small",
            "--out",
            tmp_path / "run",
            "--photos",
            "scenes:1",
            "--set",
            "pictures=6",
        ),
        *(*words, "--validate", "scenes:1", "--protocol", "pose", "--validate-pairs", "1", "--validate-every", "4"),
    )
    assert code == 0, err
    made = {path.name for path in (tmp_path / "run" / "validation").glob("*.png")}
    assert made == {"0000004-matches.png", "0000004-scores.png"}
    line = json.loads((tmp_path / "run" / "validation.jsonl").read_text())
    assert {"pose_auc@5", "pose_auc@10", "pose_auc@20"} <= line.keys()


@pytest.mark.parametrize("name", ["wren", "swift", "superpoint-small"])
def test_a_score_map_is_drawn_beside_its_image(name):
    picture = next(agreement.drawn((64, 96), 1))
    shown = heat_maps.draw(Extractor(resolve(name), "torch"), picture)
    assert shown.shape == (64, 192, 3)
    assert shown.dtype == np.uint8
    assert shown[:, 96:].std() > 10
    assert (shown[:, :96, 0] == shown[:, :96, 1]).all()


def test_a_network_without_a_score_map_is_not_drawn():
    assert heat_maps.draw(Extractor(resolve("sift"), "opencv"), np.zeros((64, 96), np.uint8)) is None


def test_pairs_agree_with_cameras_of_the_data(collected):
    """The same matrices as the benchmark has of the drawn scene."""
    pairs, _ = collected
    scene = drawn.training(1000, (64, 96))
    views = {view.image.key: view for view in scene.views}
    first, second = (views[pairs.pictures.crops[n].name] for n in pairs.index[0].tolist())
    wanted = posed.PosedPair(first, second).fundamental
    points = np.array([[3.0, 5], [60, 40]])
    ours = cameras.epipolar_lines(points, pairs.fundamental[0, 0].double().numpy())
    np.testing.assert_allclose(np.abs(ours), np.abs(cameras.epipolar_lines(points, wanted)), rtol=1e-3, atol=1e-3)
