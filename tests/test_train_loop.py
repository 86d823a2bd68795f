"""The loop around a method: several processes equal one, a kill costs nothing, and watching changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from torch import distributed, nn

from lf.core import Unavailable, UsageError, files
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.train import RECIPES, boards, loop, state
from lf.train.workers import Workers

CPU = torch.device("cpu")
FEW = ["steps=6", "batch=2", "size=64", "pictures=4", "picture_size=96", "warmup=2", "points=16", "relabel="]
BY_HAND = ["optimiser=sgd", "schedule=constant", "warmup=0", "weight_decay=0", "clip=0", "bf16=False", "lr=0.5"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def words(out, *changes, options=()):
    """Return the command of a short training of Wren."""
    return ["train", "wren", "--device=cpu", "--out", out, *(f"--set={c}" for c in (*FEW, *changes)), *options]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def silent(done, total, text):
    pass


class Fake:
    """A method without images: random images, a loss of some of the heads, and a module of its own.

    Settings: heads, how many of the network's take part; extra, whether the module does, in the first two pairs; nan,
    the step at which the last pair of the batch has no finite loss.
    """

    images = 2

    def __init__(self, recipe, pictures, device):
        self.set, self.size, self.model = recipe.settings, recipe.size, recipe.model
        self.extra = nn.Linear(1, 1) if self.set["extra"] else None
        self.step = 0

    def state(self):
        return {}

    def restore(self, state):
        pass

    def begin_step(self, step, network):
        self.step = step

    def loss(self, network, dice):
        with_extra = torch.arange(dice.batch)[dice.own] < 2  # of two processes with four pairs, all in the first
        images = dice.rand(MODELS[self.model].channels, *self.size)
        dice.data_ready()
        heads = network(images)[: self.set["heads"]]
        each = sum(head.float().square().mean((1, 2, 3)) for head in heads)
        if self.extra is not None and with_extra.any():
            each = each + torch.where(with_extra, self.extra(each[:, None])[:, 0].square(), 0.0)
        if self.step == self.set["nan"] and dice.own.stop == dice.batch:
            each = each * torch.tensor([1.0] * (len(each) - 1) + [float("nan")])
        return each.mean(), {"all": each.detach().mean()}


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    install_fake(monkeypatch.setitem)


def install_fake(put=dict.__setitem__):
    module = types.ModuleType("lf.train.methods.fake")
    module.Method = Fake
    put(sys.modules, "lf.train.methods.fake", module)


def fake(*changes, heads=2, extra=False, nan=1000, model="superpoint"):
    """A recipe of the method above."""
    settings = {"heads": heads, "extra": extra, "nan": nan}
    recipe = dataclasses.replace(RECIPES["wren"], model=model, method="fake", settings=settings)
    small = [c for c in FEW if c.split("=")[0] in recipe.flat()]
    return recipe.override([*small, *BY_HAND, "batch=4", "steps=2", *changes])


def joint():
    """The joint method on a network without batch norms, plain gradient descent."""
    recipe = dataclasses.replace(RECIPES["wren"], model="superpoint")
    return recipe.override([*FEW, *BY_HAND, "batch=4", "steps=1"])


def run(recipe, out, **options):
    return loop.train(recipe, ["procedural"], out, **{"device": "cpu", "threads": 1, "progress": silent, **options})


# --- several processes

RUNS = {
    "joint": joint,
    "one-head": lambda: fake("lr=0.01", heads=1),
    "extra": lambda: fake("lr=0.01", extra=True),
    "batch-norm": lambda: fake("steps=1", model="superpoint-small"),
    "uneven": lambda: fake("batch=3"),
    "nan": lambda: fake("steps=6", "lr=0.01", nan=3),
}


def in_both(folder):
    """Run the steps of one of two processes, one run after the other; called by the script below."""
    torch.set_num_threads(1)
    install_fake()
    rank, said = os.environ["RANK"], {}
    if rank != "0":
        files.atomic = None  # a process that is not the first must not write
    leave, distributed.destroy_process_group = distributed.destroy_process_group, lambda: None
    distributed.init_process_group = functools.cache(distributed.init_process_group)  # one group serves all runs
    for name, recipe in RUNS.items():
        told = []

        def tell(*report, told=told):
            told.append(report)

        try:
            run(recipe(), folder / name, progress=tell, watch=tell, every=2)
            said[name] = [len(told), ""]
        except Exception as error:
            said[name] = [len(told), f"{type(error).__name__}: {error}"]
    leave()
    (folder / f"{rank}.json").write_text(json.dumps(said))
    os._exit(0)  # all is said; on a busy machine torch's threads may abort a process that ends as usual


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of RUNS, done by two processes."""
    folder = tmp_path_factory.mktemp("two")
    code = f"from pathlib import Path\nfrom tests.test_train_loop import in_both\nin_both(Path({str(folder)!r}))\n"
    (folder / "script.py").write_text(code)
    root = files.__file__.rpartition("/lf/")[0]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(folder / "script.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def of(two, rank, name):
    return json.loads((two / f"{rank}.json").read_text())[name]


@pytest.mark.parametrize("name", ["joint", "one-head", "extra"])
def test_two_processes_step_as_one_with_the_whole_batch(two, tmp_path, name):
    recipe = RUNS[name]()
    run(recipe, tmp_path)
    alone, together = (torch.load(folder / state.CHECKPOINT, weights_only=True) for folder in (tmp_path, two / name))
    torch.manual_seed(recipe.seed)
    fresh = checkpoint.build(recipe.model).state_dict()
    moved = 0
    for key, value in alone["network"].items():
        step = value - fresh[key]  # what the gradients made of it
        other = together["network"][key] - fresh[key]
        assert (step - other).norm() <= 2e-3 * step.norm() + 1e-6
        moved += bool(step.any())
    assert moved == len(fresh) - (4 if name == "one-head" else 0)  # two layers of the other head, weights and biases
    for key, value in alone["extra"].items():
        torch.testing.assert_close(together["extra"][key], value, rtol=1e-3, atol=1e-6)
        assert name == "extra"


def test_only_the_first_process_writes_and_tells(two):
    for name in ("joint", "one-head", "extra", "batch-norm"):
        recipe = RUNS[name]()
        assert of(two, 0, name) == [recipe.pictures + 2 * recipe.steps, ""]
        assert of(two, 1, name) == [0, ""]
        assert {path.name for path in (two / name).iterdir()} == {
            *("pictures.npy", "pictures.json", "recipe.json", "log.jsonl", "checkpoint.pt"),
            f"{recipe.model}.safetensors",
        }


def test_what_batch_norms_remember_is_of_all_processes(two, tmp_path):
    recipe = RUNS["batch-norm"]()
    run(recipe, tmp_path)
    alone, together = (checkpoint.load(f / "superpoint-small.safetensors")[1] for f in (tmp_path, two / "batch-norm"))
    mean = "stage1.a.norm.running_mean"  # of the first layer, whose input is the same
    assert alone[mean].any()
    torch.testing.assert_close(together[mean], alone[mean])


def test_a_batch_that_cannot_be_shared_is_refused(two, monkeypatch):
    for rank in (0, 1):
        error = "UsageError: recipe: batch=3 cannot be shared by 2 processes; use a multiple of it"
        assert of(two, rank, "uneven") == [0, error]
    assert not (two / "uneven").exists()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="batch=6 cannot be shared by 4 processes"):
        Workers(CPU, 6)


def test_a_bad_loss_in_one_process_stops_both(two):
    for rank in (0, 1):
        assert "LfError: the loss or its gradient is not finite at step 3; the last good" in of(two, rank, "nan")[1]
    left = torch.load(two / "nan" / state.CHECKPOINT, weights_only=True)
    assert left["step"] == 2
    assert all(value.isfinite().all() for value in left["network"].values())


# --- kill and resume


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_file(lf, tmp_path):
    """Killed without warning between two checkpoints, with a running mean."""
    changes, often = ("ema=0.9", "steps=11"), ("--save-every=3",)
    assert lf(*words(tmp_path / "whole", *changes, options=often))[0] == 0
    out = tmp_path / "cut"
    with subprocess.Popen([sys.executable, "-m", "lf.cli", *map(str, words(out, *changes, options=often))]) as process:
        while not (out / state.LOG).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "wren.safetensors").exists()
    assert lf(*words(out, *changes, options=often)) == (0, f"{out / 'wren.safetensors'}\n", "")
    for name in ("wren.safetensors", "recipe.json", "pictures.npy"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    steps = [[line["step"] for line in lines(folder / state.LOG)] for folder in (out, tmp_path / "whole")]
    assert steps[0] == steps[1] == [3, 6, 9, 11]


def test_a_log_is_cut_where_a_run_goes_on(tmp_path):
    for step in (2, 4, 6, 4):
        state.record(tmp_path / "log.jsonl", step, {"loss": step / 2})
    assert lines(tmp_path / "log.jsonl") == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0}]


def test_dropout_resumes_exactly(tmp_path):
    recipe = fake("steps=3", "size=32", "lr=0.01", model="kp2d", heads=3)
    whole = run(recipe, tmp_path / "whole")

    def cut(done, total, text):
        if (done, total) == (3, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", progress=cut, every=2)
    assert run(recipe, tmp_path / "cut").path.read_bytes() == whole.path.read_bytes()


# --- watching

VALIDATE = ["--validate=procedural:2", "--validate-pairs=2", "--validate-every=4"]
BENCH = ["--backend=torch", "--data=procedural:2", "--protocol=kp2d-fixed", "--repeats=0", "--json"]


class Board:
    """A board that remembers."""

    def __init__(self):
        self.numbers, self.pictures, self.closed = {}, [], False

    def scalars(self, run, step, values):
        self.numbers.setdefault(step, {}).update(values)

    def picture(self, run, step, name, picture):
        assert picture.dtype == "uint8"
        assert picture.ndim == 3
        self.pictures.append((step, name))

    def close(self):
        self.closed = True


def test_watching_changes_nothing_and_says_what_the_benchmark_says(lf, tmp_path, monkeypatch):
    board = Board()
    monkeypatch.setitem(boards.BOARDS, "tensorboard", lambda: board)
    lf(*words(tmp_path / "blind"))
    options = [*VALIDATE, "--tensorboard", "--keep-best=repeatability"]
    code, out, err = lf(*words(tmp_path / "watched", options=options))
    assert (code, out, err) == (0, f"{tmp_path / 'watched' / 'wren.safetensors'}\n", "")
    made = (tmp_path / "watched" / "wren.safetensors").read_bytes()
    assert made == (tmp_path / "blind" / "wren.safetensors").read_bytes()

    said = lines(tmp_path / "watched" / "validation.jsonl")
    assert [line["step"] for line in said] == [4, 6]
    numbers = {name.removeprefix("validation/"): v for name, v in board.numbers[4].items() if "validation" in name}
    assert said[0] == {"step": 4, "protocol": "kp2d-fixed", "data": "procedural:2", **numbers}
    assert 0 <= numbers["repeatability"] <= 1
    assert board.numbers[6].keys() >= {"train/lr", "train/detector", "train/images_per_s", "train/data_share"}
    assert board.pictures == [(s, f"validation/{name}") for s in (4, 6) for name in ("matches", "points", "scores")]
    assert board.closed
    drawn = {path.name for path in (tmp_path / "watched" / "validation").glob("*.png")}
    assert drawn == {f"{step:07d}-{name}.png" for step in (4, 6) for name in ("matches", "points", "scores")}

    again = lf("bench", tmp_path / "blind" / "wren.safetensors", *BENCH)
    assert json.loads(again[1])["runs"][0]["summary"].items() <= said[1].items()


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.3, 0.2], 2), ([0.3, None, 0.3], 1), ([0.1, 0.2, 0.3], 3)])
@pytest.mark.parametrize("metric", ["repeatability", "localization_error"])
def test_the_best_weights_are_kept(tmp_path, monkeypatch, values, best, metric):
    from lf.studies import validation

    sign = {"repeatability": 1, "localization_error": -1}[metric]
    told = iter(value and sign * value for value in values)
    monkeypatch.setattr(
        validation, "bench", lambda *words, **options: types.SimpleNamespace(summary={metric: next(told)})
    )
    monkeypatch.setattr(validation.Validation, "_draw", lambda *arguments: {})
    recipe = fake("steps=3", "lr=0.01")
    judge = validation.Validation("procedural:1", "kp2d", 1, 1, metric)
    run(recipe, tmp_path, watch=judge)
    made = model_file.load(tmp_path / "superpoint.best.safetensors")
    (step,) = made.card.made
    assert step.extra.get("step", 3) == best


def test_tensorboard_shows_every_step_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    one = types.SimpleNamespace(out=tmp_path)
    for steps in ((1, 2, 3), (3, 4)):  # killed after the third, resumed from the second
        board = boards.BOARDS["tensorboard"]()
        for step in steps:
            board.scalars(one, step, {"train/loss": step / 2, "train/none": None})
            board.picture(one, step, "points", np.full((4, 5, 3), 50 * step, np.uint8))
        board.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(s, s / 2) for s in (1, 2, 3, 4)]
    shown = events.Images("points")
    assert [(event.step, event.width, event.height) for event in shown] == [(s, 5, 4) for s in (1, 2, 3, 4)]


def test_weights_and_biases_goes_on_in_one_run(tmp_path, monkeypatch):
    logged, started = [], []

    class Service:
        log = staticmethod(lambda values, step: logged.append((step, values)))
        finish = staticmethod(lambda: logged.append("finished"))

    module = types.ModuleType("wandb")
    module.Image = lambda picture: picture.shape
    module.init = lambda **options: started.append(options) or Service
    monkeypatch.setitem(sys.modules, "wandb", module)
    one = types.SimpleNamespace(recipe=fake(), data=["procedural"], out=tmp_path / "run")
    for _ in range(2):
        board = boards.BOARDS["wandb"]()
        board.scalars(one, 3, {"a": 1.0, "b": None})
        board.picture(one, 3, "c", torch.zeros(4, 5, 3).numpy())
        board.close()
    assert logged == [(3, {"a": 1.0}), (3, {"c": (4, 5, 3)}), "finished"] * 2
    assert started[0] == started[1]
    assert started[0].items() >= {"project": "lf", "name": "run", "resume": "allow", "dir": str(one.out)}.items()
    json.dumps(started[0]["config"])


def test_weights_and_biases_without_an_account(tmp_path, monkeypatch):
    module = types.ModuleType("wandb")
    module.init = lambda **options: ["nobody"].remove("you")
    monkeypatch.setitem(sys.modules, "wandb", module)
    one = types.SimpleNamespace(recipe=fake(), data=["procedural"], out=tmp_path / "run")
    with pytest.raises(Unavailable, match=r"`wandb`: .+ not in list; type: wandb login, or set WANDB_MODE=offline"):
        boards.BOARDS["wandb"]().scalars(one, 1, {"a": 1.0})


@pytest.mark.parametrize(
    ("option", "missing", "message"),
    [
        (
            "--tensorboard",
            "torch.utils.tensorboard",
            'the package tensorboard; type: pip install "lf-keypoints[train]"',
        ),
        ("--wandb", "wandb", "the package wandb; type: pip install wandb"),
    ],
)
def test_a_missing_board_is_named_before_the_work(lf, tmp_path, monkeypatch, option, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    assert lf(*words(tmp_path / "out", options=[option])) == (4, "", f"lf: {option} needs {message}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--validate=procedurale:2"], 2, "unknown dataset 'procedurale'; did you mean 'procedural'?"),
        (["--validate=nowhere"], 5, "nowhere: "),
        (["--validate=procedural:1", "--protocol=kp3d"], 2, "unknown protocol 'kp3d'; did you mean 'kp2d'"),
        (
            ["--validate=procedural:1", "--keep-best=n_matches"],
            2,
            "unknown judge of weights under kp2d-fixed 'n_matches'; known: repeatability, localization_error",
        ),
        (["--keep-best=repeatability"], 2, "--keep-best needs --validate ROOT"),
    ],
)
def test_a_wrong_validation_is_found_before_the_work(lf, tmp_path, options, code, message):
    left, out, err = lf(*words(tmp_path / "out", options=options))
    assert (left, out) == (code, "")
    assert err.startswith(f"lf: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
