"""The training loop of all methods: seeds, schedule, clipping, EMA, checkpoint, exact resume, progress."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lf.core import Artifact, BadModel, LfError, UsageError
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve
from lf.train import Recipe, fake_quantize, state
from lf.train.labelled import label_set
from lf.train.pictures import CALIBRATION, Pictures, Progress, collect
from lf.train.state import CHECKPOINT, LOG, SETTINGS, Run
from lf.train.throughput import Pace
from lf.train.views.random_views import Dice
from lf.train.workers import Workers, find_device

EVERY = 250  # steps between checkpoints
LOOK = {"cpu": 1, "cuda": 25}  # steps between checks of the loss: on a GPU a check waits for the GPU

MOMENTUM = {"sgd": 0.9, "sgd-plain": 0.0}

Watch = Callable[[Run, int], None]  # called in the first process after each step, before its checkpoint


def train(
    recipe: Recipe,
    data: Sequence[str],
    out: Path,
    *,
    device: str,
    threads: int,
    progress: Progress,
    every: int = EVERY,
    watch: Watch | None = None,
) -> Artifact:
    """Run `recipe` on `data` and write `out/<model>.safetensors`; continue where an earlier run in `out` stopped.

    Under torchrun every process does this for its share of the batch; the first one writes, and calls `watch` and
    `progress`. Checkpoints, written every `EVERY` steps, do not change the result.

    Raises:
        UsageError: `out` holds a run of another recipe, or cannot be written.
        BadInput: `data` holds no images, the checkpoint in `out` is damaged, or `init` gives a non-finite loss.
        Unavailable: the device is not there.
        LfError: the loss is not finite; the last good checkpoint stays.
    """
    recipe = fitted(recipe)
    with Workers(find_device(device), recipe.batch) as workers:
        run, first = _prepare(recipe, data, out, workers, threads, progress)
        parameters = _parameters(run.network, run.method)
        finite = torch.tensor(True, device=workers.device)
        pace = Pace(first, recipe.batch * run.method.images, workers.device)
        for step in range(first, recipe.steps):
            done, last = step + 1, step + 1 == recipe.steps
            look, keep = last or done % LOOK[workers.device.type] == 0, last or done % every == 0
            run.method.begin_step(step, run.network)
            for group in run.optimiser.param_groups:
                group["lr"] = _rate(recipe, step)
            pace.begin()
            sound, parts, ready = _gradients(run, workers, parameters, step)
            finite &= sound
            if (look or keep) and not workers.agree(bool(finite)):
                raise LfError(f"the loss or its gradient is not finite at step {step}; {_last(out)}; lower lr")
            _update(run, workers)
            if look:
                run.pace = pace.look(ready, done)
                run.parts = {name: float(value) for name, value in parts.items()}
                if workers.first:
                    progress(done, recipe.steps, " ".join(f"{name} {value:.3f}" for name, value in run.parts.items()))
            if workers.first:
                with pace.paused():
                    if watch:
                        watch(run, done)
                    if keep:  # the log first: a resumed run replaces later lines, so no line is lost
                        state.record(out / LOG, done, run.numbers())
                        state.save(run, done)
        if workers.first:
            state.publish(run, out / f"{recipe.model}.safetensors")
        workers.wait()
    return model_file.load(out / f"{recipe.model}.safetensors")


def _gradients(
    run: Run, workers: Workers, parameters: Sequence[nn.Parameter], step: int
) -> tuple[torch.Tensor, Mapping[str, Any], Any]:
    """Compute the gradients of the loss, averaged over all processes and clipped; they are stored in the parameters.

    Returns:
        True if loss and gradients are finite; the parts of the loss; the time when the views were ready.

    Raises:
        BadModel: the loss of the initial weights is not finite.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed * 1_000_003 + step + (workers.rank << 42))  # so that dropout, too, resumes exactly
    dice = Dice(recipe.seed, step, recipe.batch, workers.device, workers.own)
    loss, parts = run.method.loss(run.network, dice)
    if step == 0 and recipe.init and not workers.agree(bool(loss.detach().isfinite())):
        raise BadModel("the loss of its weights is not finite, expected a number", resolve(recipe.init).path)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    workers.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip or math.inf)
    return (loss.detach() + norm).isfinite(), parts, dice.ready


def _update(run: Run, workers: Workers) -> None:
    """Take an optimiser step, and update averaged statistics and the running mean of the weights."""
    run.optimiser.step()
    workers.average_statistics(run.network)
    if run.averaged is not None:
        run.averaged.update_parameters(run.network)


def fitted(recipe: Recipe) -> Recipe:
    """Return the recipe, with `model` replaced by the network of `init` if the method trains any network."""
    if not recipe.init or not getattr(method_of(recipe), "any_network", False):
        return recipe
    return dataclasses.replace(recipe, model=checkpoint.load(resolve(recipe.init).path)[0])


def method_of(recipe: Recipe) -> Any:
    """Return the class `Method` of a recipe: from `lf.train.methods`, or from another package if the name has a dot."""
    name = recipe.method if "." in recipe.method else f"lf.train.methods.{recipe.method}"
    return importlib.import_module(name).Method


def _prepare(
    recipe: Recipe, data: Sequence[str], out: Path, workers: Workers, threads: int, progress: Progress
) -> tuple[Run, int]:
    """Return the run, restored to the state where it continues, and the first step to compute."""
    left = state.read(recipe, data, out, workers.device)
    if recipe.weight_bits and not recipe.init:
        raise UsageError(
            f"recipe: weight_bits={recipe.weight_bits} starts from a float network; type: `init=CHECKPOINT`"
        )
    if left and workers.first:
        state.warn_of_change(left, recipe, out)
    if workers.first:
        state.begin(recipe, data, out)  # fails now if `out` cannot be written
    try:
        return _begin(recipe, data, out, workers, threads, progress, left)
    except LfError:
        if workers.first and left is None:
            (out / SETTINGS).unlink(missing_ok=True)  # training has not begun: other settings may use the folder
        raise


def _begin(
    recipe: Recipe,
    data: Sequence[str],
    out: Path,
    workers: Workers,
    threads: int,
    progress: Progress,
    left: dict[str, Any] | None,
) -> tuple[Run, int]:
    """Build the run and restore the state of an earlier start, if there is one; return as `_prepare` does."""
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    classes = label_set(recipe, data)
    network, parent = _initial(recipe, len(classes) if classes else None)
    begun = left is not None
    gather = getattr(method_of(recipe), "collect", collect)
    if workers.first:
        gather(recipe, data, out, progress, begun)
    workers.wait()
    pictures = gather(recipe, data, out, progress, begun).on(workers.device)
    if recipe.weight_bits:
        network = _quantized(recipe, network.to(workers.device), pictures)
    built: Any = workers.prepare(network)  # the stubs of Module.to know no memory_format
    network = built.to(workers.device, memory_format=torch.channels_last).train()
    average: Any = get_ema_multi_avg_fn  # it has no stubs
    averaged = AveragedModel(network, multi_avg_fn=average(recipe.ema), use_buffers=True) if recipe.ema else None
    method = method_of(recipe)(recipe, pictures, workers.device)
    if prepare := getattr(method, "prepare", None):
        prepare(network)
    optimiser = _optimiser(recipe, _parameters(network, method))
    began = left.get("versions", {}) if left else state.made_by()
    table = tuple((row.name, row.colour) for row in classes.classes) if classes else ()
    run = Run(recipe, data, out, network, averaged, optimiser, method, parent, began, table)
    return run, state.restore(left, run) if left else 0


def _initial(recipe: Recipe, classes: int | None) -> tuple[nn.Module, dict[str, str]]:
    """Return a network with fresh weights or with those of `init`, and the origin, sha256 and licence of `init`.

    A network with a segmentation may start from the row that has all its other heads.
    """
    network = checkpoint.build(recipe.model, classes)
    if not recipe.init:
        return network, {}
    row, weights, parent = checkpoint.load(resolve(recipe.init).path)
    if row not in (recipe.model, MODELS[recipe.model].parent):
        raise UsageError(f"recipe: init={recipe.init} is a {row}; this recipe trains {recipe.model}")
    found = checkpoint.classes_of(weights)
    if found and found != classes:
        raise UsageError(
            f"recipe: init={recipe.init} has {found} classes, the masks have {classes}; "
            f"expected as many, or a {MODELS[recipe.model].parent}"
        )
    network.load_state_dict(weights, strict=row == recipe.model)
    return network, parent


def _quantized(recipe: Recipe, network: nn.Module, pictures: Pictures) -> nn.Module:
    """Prepare a network for quantization-aware training. All processes find the initial ranges on the same images."""
    squares = (pictures.take(torch.tensor([index])) for index in range(min(CALIBRATION, len(pictures))))
    sized = (nn.functional.interpolate(square, recipe.size, mode="bilinear", antialias=True) for square in squares)
    return fake_quantize.prepare(network, MODELS[recipe.model], recipe.weight_bits, recipe.activation_bits, sized)


def _parameters(network: nn.Module, method: Any) -> list[nn.Parameter]:
    """Return the parameters to train: those of the network, or those that the method chooses, and those it adds."""
    extra = [] if method.extra is None else list(method.extra.parameters())
    own = method.trained(network) if hasattr(method, "trained") else network.parameters()
    return [*(parameter for parameter in own if parameter.requires_grad), *extra]


def _optimiser(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimiser in MOMENTUM:
        momentum = MOMENTUM[recipe.optimiser]
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=momentum, weight_decay=recipe.weight_decay)
    kind: Any = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimiser]
    optimiser: torch.optim.Optimizer = kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return optimiser


def _rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "step":
        return recipe.lr * recipe.decay ** sum(step >= at for at in recipe.decay_steps)
    if recipe.schedule == "constant":
        return recipe.lr
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def _last(out: Path) -> str:
    return f"the last good state is {out / CHECKPOINT}" if (out / CHECKPOINT).exists() else "there is no state to keep"
